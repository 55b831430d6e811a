import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion
from tasks.drift import HUES, measures, seen
from tests.tasks.judging import make

DATASET = "/data/pictures"


class Week:
    """The artifacts about a week's images, as far as `drift` reads them, and a model trained on them."""

    def __init__(self, store, folder, name: str, images: pd.DataFrame, **params) -> None:
        folder.mkdir(exist_ok=True)
        self.store = store

        def made(step: str, files, **inputs: str) -> Artifact:
            return make(store, step, files, folder, inputs=inputs, made_of=[name, images.to_json()])

        readable = images.loc[images["status"] == "ok", "key"].tolist()
        jpegs = [cv2.imencode(".jpg", np.full((30, 40, 3), 9, np.uint8))[1].tobytes()] * len(readable)
        described = {"dataset": DATASET, "newest": f"2026-01-05T00:00:00+00:00 {name}"}
        self.snapshot = made("snapshot", lambda out: out.json("snapshot.json", described))
        self.scan = made(
            "scan", lambda out: out.table("thumbnails.parquet", pd.DataFrame({"key": readable, "jpeg": jpegs}))
        )
        self.validate = made("validate", lambda out: out.table("images.parquet", images.drop(columns="photo")))
        verdicts = pd.DataFrame({"key": images["key"], "verdict": np.where(images["photo"], "photo", "illustration")})
        self.cluster = make(
            store, "cluster", lambda out: out.table("verdicts.parquet", verdicts), folder, made_of=name, params=params
        )
        of = {"snapshot": self.snapshot.key, "validate": self.validate.key, "cluster": self.cluster.key}
        self.resample = made("resample", lambda out: out.json("classes.json", []), **of)
        self.model = made("train", lambda out: out.json("labels.json", []), resample=self.resample.key)

    @property
    def inputs(self) -> dict[str, Artifact | list[Artifact]]:
        return {"snapshot": self.snapshot, "validate": self.validate, "cluster": self.cluster, "scan": [self.scan]}


def images(count: int = 400, seed: int = 0, **changes) -> pd.DataFrame:
    """Images of two classes; `changes` are columns."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "key": [f"{'ab'[at % 2]}/{at:04}.jpg" for at in range(count)],
            "class": [*"ab"] * (count // 2),
            "sha256": [f"{at:064}" for at in range(count)],
            "status": "ok",
            "width": rng.integers(300, 600, count),
            "height": 800,
            "brightness": rng.normal(150, 20, count),
            "hue": rng.uniform(0, 360, count),
            "lightness": rng.uniform(0.3, 0.9, count),
            "saturation": rng.uniform(0, 1, count),
            "sharpness": rng.uniform(10, 400, count),
            "photo": False,
        }
    )
    return table.assign(**changes)


@pytest.fixture
def week(store, tmp_path):
    return lambda name, table, **params: Week(store, tmp_path / "weeks", name, table, **params)


@pytest.fixture
def crown(store):
    def move(week: Week, previous: Week | None = None) -> None:
        champion = Champion(week.model.uri, previous.model.uri if previous else None, "2026-01-05")
        assert move_champion(store, DATASET, champion, None)

    return move


@pytest.fixture
def compared(tmp_path, week):
    """The measures of two tables, by name."""

    def compare(before: pd.DataFrame, now: pd.DataFrame, threshold: float = 0.2) -> dict[str, dict]:
        frames = []
        for name, table in (("before", before), ("now", now)):
            made = week(name, table)
            frames.append(seen(made.validate, made.cluster))
        return {row["measure"]: row for row in measures(*frames, threshold)}

    return compare


def test_the_same_images_have_not_moved(compared):
    rows = compared(images(), images())
    assert set(rows) == {"class", "hue", "photographs", "brightness", "lightness", "saturation", "sharpness", "size"}
    assert all(row["distance"] == 0 and not row["drifted"] and row["keys"] == [] for row in rows.values())
    assert rows["class"]["before"] == "the same"


def test_others_of_the_same_kind_have_hardly_moved(compared):
    rows = compared(images(2000), images(2000, seed=1))
    assert max(row["distance"] for row in rows.values()) < 0.1


@pytest.mark.parametrize("spreads", [0.5, 2.0])
def test_a_move_is_told_in_units_of_the_spread(compared, spreads):
    before = images(2000)
    rows = compared(before, before.assign(brightness=before["brightness"] + 20 * spreads))
    together = (20**2 + (20 * spreads / 2) ** 2) ** 0.5  # the standard deviation of both
    assert rows["brightness"]["distance"] == pytest.approx(20 * spreads / together, rel=0.03)
    assert rows["brightness"]["drifted"]
    assert [name for name, row in rows.items() if row["drifted"]] == ["brightness"]
    assert int(rows["brightness"]["now"].split()[0]) == pytest.approx(150 + 20 * spreads, abs=2)


def test_shares_are_told_in_images_that_would_have_to_change(compared):
    before = images(400)
    now = before.assign(photo=np.arange(400) < 100, **{"class": ["a"] * 300 + ["c"] * 100})
    rows = compared(before, now)
    assert rows["photographs"]["distance"] == pytest.approx(0.25)
    assert rows["photographs"]["before"] == "illustration 100.0 %, photograph 0.0 %"
    assert rows["class"]["distance"] == pytest.approx(0.5)
    assert rows["class"]["now"] == "b 0.0 %, a 75.0 %, c 25.0 %"


def test_hues_are_sixths_of_the_circle(compared):
    rows = compared(images(hue=350.0, saturation=0.5), images(hue=10.0, saturation=0.5))
    assert rows["hue"]["distance"] == 0, "both are red"
    rows = compared(images(hue=350.0, saturation=0.5), images(hue=120.0, saturation=0.5))
    assert rows["hue"]["distance"] == 1
    assert rows["hue"]["now"] == "green 100.0 %, red 0.0 %"
    assert HUES[2] == "green"


def test_a_grey_picture_has_no_hue(compared):
    rows = compared(images(hue=350.0, saturation=0.5), images(hue=0.0, saturation=0.0))
    assert rows["hue"]["now"] == "grey 100.0 %, red 0.0 %"


def test_what_can_not_be_read_is_not_compared(compared):
    broken = images().assign(status=["unreadable"] * 200 + ["ok"] * 200, brightness=[0.0] * 200 + [150.0] * 200)
    assert compared(images(brightness=150.0), broken)["brightness"]["distance"] == 0


def dark(count: int = 400) -> pd.DataFrame:
    """A fourth of the images is new, and dark."""
    table = images(count)
    new = np.arange(count) % 4 == 0
    table.loc[new, "sha256"] = [f"new {at}" for at in range(new.sum())]
    return table.assign(brightness=np.where(new, 20.0, table["brightness"]))


def test_a_drift_is_shown_with_the_images_that_moved_it(week, crown, run_step):
    before, now = week("before", images()), week("now", dark())
    crown(before)
    made = run_step("drift", now.inputs)
    facts = made.json("drift.json")
    assert facts["reference"] == {
        "model": before.model.key,
        "newest": "2026-01-05T00:00:00+00:00 before",
        "images": 400,
    }
    first = facts["measures"][0]
    assert (first["measure"], first["drifted"]) == ("brightness", True)
    assert made.metrics | {"distance": 0} == {"images": 400, "drifted": 1, "furthest": "brightness", "distance": 0}
    assert len(first["keys"]) == 24
    assert all(int(key[2:6]) % 4 == 0 for key in first["keys"]), "new ones alone"
    assert cv2.imread(str(made.path("sheets/brightness.jpg"))) is not None
    assert [name for name in made.names() if name.endswith(".jpg")] == ["sheets/brightness.jpg"]
    calm = run_step("drift", now.inputs, drift_threshold=3.0)
    assert calm.metrics["drifted"] == 0
    assert calm.has("sheets/brightness.jpg"), "what moved most is shown all the same"


def test_photographs_told_apart_with_other_params_are_not_compared(week, crown, run_step):
    def facts(name: str, **params) -> dict:
        photographed = week(name, images(photo=True), **params)
        return run_step("drift", photographed.inputs).json("drift.json")

    crown(week("before", images(), photo_threshold=0.8))
    same, other = facts("same", photo_threshold=0.8), facts("other", photo_threshold=0.9)
    assert (same["measures"][0]["measure"], same["other_params"]) == ("photographs", [])
    assert other["other_params"] == ["photo_threshold"]
    assert [row["measure"] for row in other["measures"]] == [row["measure"] for row in same["measures"][1:]]


def test_a_rerun_after_the_promotion_finds_its_own_comparison(week, crown, run_step, store):
    before, now = week("before", images()), week("now", dark())
    crown(before)
    first = run_step("drift", now.inputs)
    store.delete("champions/" + next(iter(store.list("champions/"))).key.removeprefix("champions/"))
    crown(now, previous=before)
    assert run_step("drift", now.inputs).key == first.key


def test_without_a_champion_there_is_nothing_to_compare_with(week, crown, run_step):
    now = week("now", images())
    made = run_step("drift", now.inputs)
    assert made.json("drift.json")["reference"] is None
    assert "no champion yet" in made.json("drift.json")["reason"]
    crown(now)
    assert run_step("drift", now.inputs).key == made.key, "the first champion, trained on these very images"


def test_a_champion_whose_data_are_gone_is_said(week, crown, run_step, store):
    before, now = week("before", images()), week("now", dark())
    crown(before)
    store.delete(f"{before.validate.folder}/artifact.json")
    reason = run_step("drift", now.inputs).json("drift.json")["reason"]
    assert f"was made of validate/{before.validate.key}, which is gone" in reason
