"""A served Airflow whose data set is a bucket that keeps versions: weeks gone by, new images, word of what happens.

The weeks are of fifteen seconds: GESSO_SCHEDULE has a field for seconds. What was in the bucket in each of them is
written while Airflow starts.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.champion import read_champion
from tasks.core.store import open_store
from tests.conftest import REAL_S3, ROOT
from tests.faults.conftest import PARAMS, Airflow, Run, kill, wait_for
from tests.received import Received

pytestmark = [
    pytest.mark.skipif("GESSO_TEST_WEEKS" not in os.environ, reason="takes ten minutes: GESSO_TEST_WEEKS is not set"),
    pytest.mark.faults,
    pytest.mark.s3,
    pytest.mark.timeout(1500),
]

WEEK = timedelta(seconds=15)
WEEKS = 5  # in the last of them nothing happens
MIN_NEW = 5
COLOURS = {"circles": (200, 60, 40), "사각형": (40, 60, 200)}

Contents = dict[str, bytes]


def picture(label: str, number: int) -> bytes:
    rng = np.random.default_rng([list(COLOURS).index(label), number])
    drawn = np.full((48, 48, 3), 255, np.uint8)
    left, top = (int(value) for value in rng.integers(2, 20, 2))
    if label == "circles":
        cv2.circle(drawn, (left + 12, top + 12), 11, COLOURS[label], -1)
    else:
        cv2.rectangle(drawn, (left, top), (left + 24, top + 22), COLOURS[label], -1)
    drawn[rng.integers(0, 48, 12), rng.integers(0, 48, 12)] = rng.integers(0, 255, (12, 3))
    return cv2.imencode(".png", drawn)[1].tobytes()


def added(numbers: range) -> Contents:
    return {f"{label}/{number}.png": picture(label, number) for label in COLOURS for number in numbers}


#: What happened in each week: images that were written, and keys that were deleted.
HISTORY: list[tuple[Contents, list[str]]] = [
    (added(range(30)), []),
    (added(range(30, 36)), ["circles/0.png"]),
    ({"사각형/1.png": picture("사각형", 101), "circles/2.png": picture("circles", 102)}, []),
    ({"circles/0.png": picture("circles", 100)}, ["사각형/3.png", "circles/31.png"]),
    ({}, []),
]


class Bucket:
    """The data set: it is written as its history goes, and knows what was there at the end of each week."""

    def __init__(self, uri: str, first: datetime) -> None:
        self.uri, self.dataset, self.first = uri, f"{uri}/data", first
        self._at_end: list[Contents] = []
        self._writer = threading.Thread(target=self._write)
        self._writer.start()

    def at_end(self, week: int) -> Contents:
        """What was there at the end of a week, once it is over."""
        self._writer.join()
        return self._at_end[week]

    def week(self, number: int) -> datetime:
        """When a week begins."""
        return self.first + number * WEEK

    def _write(self) -> None:
        store, now = open_store(self.dataset), Contents()
        for number, (written, deleted) in enumerate(HISTORY):
            time.sleep(max(0, (self.week(number) + WEEK / 3 - datetime.now(UTC)).total_seconds()))
            store.put_many(written.items())
            store.delete_many(deleted)
            assert datetime.now(UTC) < self.week(number + 1) - timedelta(seconds=1), "the server was too slow"
            now = {key: data for key, data in (now | written).items() if key not in deleted}
            self._at_end.append(now)


@pytest.fixture(scope="module")
def received() -> Iterator[Received]:
    servers = Received()
    yield servers
    servers.close()


@pytest.fixture(scope="module", autouse=True)
def real_s3() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in REAL_S3.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def first_week() -> datetime:
    """A whole minute that comes soon; the weeks end in the minute after it, in the same hour."""
    minute = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    return minute + timedelta(minutes=1) if minute.minute == 59 else minute


@pytest.fixture(scope="module")
def data(real_s3: None, first_week: datetime) -> Bucket:
    """A bucket that keeps versions; its history begins at once. Beside it is one without, for the store."""
    import boto3

    client, name = boto3.Session().client("s3"), f"gesso-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.create_bucket(Bucket=f"{name}-store")
    return Bucket(f"s3://{name}", first_week)


def next_scheduled(airflow: Airflow) -> datetime:
    """The week that Airflow would run next by the schedule, as the DAG's last parse found it."""
    return datetime.fromisoformat(airflow.ask("GET", "/api/v2/dags/retrain")["next_dagrun_logical_date"])


@pytest.fixture(scope="module")
def airflow(served_home: Path, data: Bucket, first_week: datetime, received: Received) -> Iterator[Airflow]:
    """An Airflow whose weeks are those of the bucket; of the DAGs only `retrain` runs."""
    minutes = f"{first_week.minute}-{first_week.minute + 1}"
    served = Airflow(
        served_home,
        f"{data.uri}-store",
        **REAL_S3,
        **received.connections(),
        GESSO_SCHEDULE=f"{minutes} {first_week.hour} {first_week.day} {first_week.month} * 0,15,30,45",
        GESSO_PARAMS=json.dumps(PARAMS | {"min_new_images": MIN_NEW, "near_duplicate_bits": 0}),
        GESSO_MAIL_TO="team@example.org",
        GESSO_DEADLINE_HOURS="0.002",
        GESSO_WATCH_SECONDS="2",
    )
    try:
        served.start(data.dataset)
        # Unpaused earlier, Airflow would run one of the weeks by the schedule, and leave the backfill without it.
        wait_for(lambda: next_scheduled(served) >= data.week(WEEKS), "the weeks to be over", pause=2)
        served.unpause()
        yield served
    finally:
        served.stop()


def command(airflow: Airflow, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of this project's, in the environment of the served Airflow."""
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=airflow.environment, text=True, capture_output=True, check=False
    )


def backfill(airflow: Airflow, data: Bucket, first: int, last: int, *words: str) -> list[Run]:
    """Run weeks `first` to `last` again, as a person does; their runs, once all of them have ended."""
    data.at_end(last)

    def there_is_none() -> bool:
        known = airflow.ask("GET", "/api/v2/backfills?dag_id=retrain")["backfills"]
        return all(each["completed_at"] for each in known)

    wait_for(there_is_none, "the end of the backfill before", pause=2)
    dates = [f"--{name}-date={data.week(week).isoformat()}" for name, week in (("from", first), ("to", last))]
    made = command(airflow, "include.serve", "airflow", "backfill", "create", "--dag-id=retrain", *dates, *words)
    assert made.returncode == 0, made.stdout + made.stderr

    def ended() -> list[Run] | None:
        found = airflow.ask("GET", "/api/v2/dags/retrain/dagRuns?run_type=backfill&order_by=logical_date")["dag_runs"]
        weeks = [data.week(week) for week in range(first, last + 1)]
        runs = [run for run in found if datetime.fromisoformat(run["logical_date"]) in weeks]
        over = [run["dag_run_id"] for run in runs if run["state"] in ("success", "failed")]
        return [Run(airflow, name) for name in over] if len(over) == len(weeks) else None

    runs: list[Run] = wait_for(ended, "the backfill's runs", patience=900, pause=2)
    return runs


def contents(snapshot: Artifact) -> Contents:
    """The images of a snapshot, in the version that it names."""
    store = open_store(str(snapshot.json("snapshot.json")["dataset"]))
    return {image.key: store.get(image.key, image.version) for image in snapshot.table("images.parquet").itertuples()}


def test_each_week_is_seen_as_it_was(airflow: Airflow, data: Bucket, received: Received) -> None:
    runs = backfill(airflow, data, 0, WEEKS - 1, "--max-active-runs=2")
    for run in runs:
        run.succeeds()
    made = [run.artifacts() for run in runs]
    for week, artifacts in enumerate(made):
        assert contents(artifacts["snapshot"]) == data.at_end(week), f"week {week}"
        assert artifacts["promote"].json("decision.json")["verdict"] == "HOLD"
        assert "allowed" in {
            check["check"] for check in artifacts["promote"].json("decision.json")["reasons"] if not check["passed"]
        }
    keys = [{name: artifact.key for name, artifact in artifacts.items()} for artifacts in made]
    assert len({key["snapshot"] for key in keys}) == WEEKS - 1
    assert keys[-1] == keys[-2], "a week in which nothing happened is not trained anew"

    # The same again gives the same, by the same runs; but what compares with the champion goes by that of now, and the
    # schedule's run has made one.
    (again,) = backfill(airflow, data, 1, 1, "--reprocess-behavior=completed")
    assert again.run_id == runs[1].run_id
    assert {task["try_number"] for name, task in again.succeeds().items() if name == "snapshot"} == {2}
    same = {name: artifact.key for name, artifact in again.artifacts().items() if keys[1][name] == artifact.key}
    assert set(keys[1]) - set(same) <= {"drift", "promote", "report"}

    # So it does in a store of its own, from the record alone.
    for words in (["verify", again.run_id], ["reproduce", again.run_id, "--into", str(airflow.home / "anew")]):
        done = command(airflow, "tasks", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "DIFFERENT" not in done.stdout
        assert "All as it was." in done.stdout

    for way in ("mail", "slack"):
        told = [each for each in received if each.startswith(f"{way}: retrain {runs[0].run_id}: HOLD, macro F1 ")]
        assert told, received
        assert f"/dags/retrain/runs/{runs[0].run_id}/plugin/report" in told[0]


def test_a_failed_run_and_a_late_one_are_told_of(airflow: Airflow, data: Bucket, received: Received) -> None:
    run = airflow.trigger(dataset=f"{data.dataset}/<nothing> {{{{ 7 * 7 }}}}")
    wait_for(lambda: run.state == "failed", "the end of the run")
    for way, written in (("mail", "&lt;nothing&gt; {{ 7 * 7 }}"), ("slack", "&lt;nothing&gt; {{ 7 * 7 }}")):
        told = wait_for(
            lambda way=way: [each for each in received if each.startswith(f"{way}: retrain {run.run_id}: failed")],
            f"word by {way}",
            patience=120,
        )
        assert f"snapshot: There are no images below {data.dataset}/{written}" in told[0]
        assert [each for each in received if each.startswith(f"{way}: ") and ": late\n" in each]


def test_new_images_start_one_run_whatever_dies(airflow: Airflow, data: Bucket) -> None:
    def started() -> list[str]:
        found = airflow.ask("GET", "/api/v2/dags/retrain/dagRuns?limit=100")["dag_runs"]
        return [run["dag_run_id"] for run in found if run["dag_run_id"].startswith("new_images__")]

    airflow.unpause("retrain", paused=True)  # its runs are counted, and wait
    airflow.unpause("watch_new_images")
    (first,) = wait_for(started, "the run for what is there", patience=180)

    triggerer = airflow.part("triggerer")
    store = open_store(data.dataset)
    store.put_many(added(range(200, 200 + MIN_NEW // 2)).items())  # too few
    time.sleep(8)
    assert started() == [first]
    kill(triggerer, *triggerer.children(recursive=True))
    store.put_many(added(range(300, 300 + MIN_NEW)).items())
    wait_for(lambda: len(started()) == 2, "the run for the new images", patience=180)
    triggerer = airflow.part("triggerer")
    kill(triggerer, *triggerer.children(recursive=True))
    wait_for(airflow.is_healthy, "the triggerer's return", patience=180)
    time.sleep(10)
    assert len(started()) == 2, "a listing that was told of starts nothing"
    events = airflow.ask("GET", "/api/v2/assets/events?limit=100&order_by=timestamp")["asset_events"]
    payloads = [event["extra"]["payload"] for event in events if "payload" in event["extra"]]
    assert payloads[-1]["landed"] >= 2 * MIN_NEW
    assert f"new_images__{payloads[-1]['listing']}" in started()


def test_the_champion_is_an_asset(airflow: Airflow, data: Bucket) -> None:
    airflow.unpause()
    run = airflow.trigger()
    run.succeeds()
    champion, _ = read_champion(airflow.store, data.dataset)
    assert champion is not None
    events = airflow.ask("GET", "/api/v2/assets/events?limit=100")["asset_events"]
    told = [event["extra"] for event in events if event["extra"].get("model") == champion.model]
    assert told, events
    assert told[0]["dataset"] == data.dataset
    assert told[0]["images"] == Artifact.open(told[0]["snapshot"]).metrics["images"]
    assert open_store(told[0]["export"]).exists("saved_model.pb")
