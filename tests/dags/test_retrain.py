import copy
import json
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from include import steps
from include.assets import IMAGES
from include.form import SECTIONS
from include.pods import pod_settings
from tasks.core.artifacts import Artifact
from tasks.core.champion import read_champion
from tasks.core.params import PRESETS, Params
from tasks.core.runs import instance_name, read_record
from tasks.core.settings import settings
from tasks.core.step import NAMES, load
from tasks.core.store import LocalStore
from tests.drawings import KINDS, flat_drawings

from .conftest import read_dag

ROOT = Path(__file__).parents[2]

HEAVY = ("tensorflow", "keras", "great_expectations", "sklearn", "cv2", "pandas", "numpy", "boto3", "matplotlib")


def test_parsing_the_dag_loads_nothing_heavy() -> None:
    code = (
        "import sys, airflow.sdk; before = set(sys.modules); import dags.retrain; import json;"
        f"print(json.dumps([name for name in {HEAVY!r} if name in set(sys.modules) - before]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_tasks_are_the_steps_in_their_order(retrain: Any) -> None:
    assert set(retrain.task_dict) == {*NAMES, "scan_shards", "trainings", "approve", "enough_new", "nothing_new"}
    for name in NAMES:
        upstream = {task.rstrip("*?") for task in load(name).inputs}
        assert upstream <= retrain.task_dict[name].upstream_task_ids


def test_each_task_has_an_owner_retries_and_an_end(retrain: Any) -> None:
    for task in retrain.task_dict.values():
        assert task.owner == "ml-platform"
        assert task.retries == 2
        assert task.retry_exponential_backoff
        assert task.execution_timeout == timedelta(hours=12)
    assert retrain.task_dict["train"].pool == "gpu"


def test_a_training_pod_has_an_end_that_leaves_it_its_hours(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TRAIN_ON": "kubernetes", "STORE": "s3://bucket/store", "POD_HOURS": "30"}.items():
        monkeypatch.setenv(f"GESSO_{name}", value)
    settings.cache_clear()
    pod_settings.cache_clear()
    train = read_dag().task_dict["train"].unmap({"instance": {"architecture": "vgg"}})
    pod_settings.cache_clear()
    assert train.active_deadline_seconds == 30 * 3600
    assert train.execution_timeout > timedelta(hours=30)


def test_a_watch_that_fails_is_tried_again(database: None) -> None:
    watch = read_dag("watch_new_images")
    assert {task.retries for task in watch.task_dict.values()} == {2}
    assert watch.is_paused_upon_creation


def test_an_event_that_a_person_made_is_no_listing(database: None) -> None:
    look = read_dag("watch_new_images").get_task("what_landed").python_callable
    made = SimpleNamespace(timestamp=2, extra={"from_rest_api": True})
    landed = {"landed": 3, "images": 9, "dataset": "/data", "listing": "abc"}
    seen = SimpleNamespace(timestamp=1, extra={"payload": landed})
    assert look({IMAGES: [seen, made]}) == landed
    with pytest.raises(AirflowSkipException, match=r"started by hand. Trigger `retrain` instead"):
        look({IMAGES: [made]})


def test_the_dag_says_what_it_is(retrain: Any) -> None:
    assert "Retrain the illustration classifier" in retrain.doc_md
    assert retrain.tags == {"training"}
    assert not retrain.catchup
    assert retrain.max_active_runs == 2


def test_the_form_has_every_param_and_its_limits(retrain: Any) -> None:
    form = retrain.params
    assert set(form) == set(Params.model_fields)
    epochs = form.get_param("epochs").schema
    assert (epochs["type"], epochs["minimum"], epochs["maximum"]) == (["null", "integer"], 1, 1000)
    assert epochs["title"] == "Epochs"
    assert "1 to 1,000. Empty: by the preset (demo 45; quick 80; original 200)." in epochs["description_md"]


def test_no_task_but_the_one_that_asks_has_params_of_its_own(retrain: Any) -> None:
    assert {name: list(task.params) for name, task in retrain.task_dict.items() if task.params} == {"approve": ["note"]}


def test_the_form_names_choices_and_says_where_to_read_on(retrain: Any) -> None:
    form = {name: retrain.params.get_param(name).schema for name in retrain.params}
    assert set(form["preset"]["values_display"]) == set(form["preset"]["enum"]) == set(PRESETS)
    assert set(form["architectures"]["values_display"]) == set(form["architectures"]["examples"])
    assert "(https://keras.io/api/optimizers/sgd/)" in form["momentum"]["description_md"]
    assert [name for name in form if form[name]["section"] == "Data"][:3] == ["preset", "dataset", "as_of"]
    assert list(dict.fromkeys(schema["section"] for schema in form.values())) == list(SECTIONS)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_untouched_form_means_what_the_preset_says(retrain: Any, preset: str) -> None:
    """Airflow sends every field of the form, and takes its defaults for a run that nobody filled one in for."""
    sent = {name: retrain.params.get_param(name).value for name in retrain.params} | {"preset": preset}
    given = {name: value for name, value in sent.items() if value is not None}
    assert Params.of(given) == Params.of({"preset": preset})
    choices = {name: value for name, value in sent.items() if "enum" in retrain.params.get_param(name).schema}
    for value in (sent, dict.fromkeys(sent) | choices):
        filled = copy.deepcopy(retrain.params)
        filled.update(value)
        filled.validate()


@pytest.mark.parametrize(
    ("run_type", "given", "promotes"),
    [
        ("manual", {}, True),
        ("manual", {"promote": False, "promote_in_backfill": True}, False),
        ("backfill", {}, False),
        ("backfill", {"promote": True}, False),
        ("backfill", {"promote_in_backfill": True}, True),
        ("backfill", {"promote": False, "promote_in_backfill": True}, False),
    ],
)
def test_a_backfill_promotes_only_when_asked_to(
    run_type: str, given: dict[str, Any], promotes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "run_params", lambda: Params.of(given))
    context = {"dag_run": SimpleNamespace(run_type=run_type)}
    assert steps.section_of("promote", context, {}).model_dump()["promote"] is promotes


CONF = {
    "preset": "demo", "image_size": 32, "epochs": 3, "min_per_class": 20, "max_per_class": 100,
    "near_duplicate_bits": 0,
}  # fmt: skip


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 flat drawings that a small network tells apart, a text file and a stray file."""
    dataset, rng = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(1)
    for name, colour in zip(("squares", '"><img src=x onerror=alert(1)>'), KINDS, strict=True):
        folder = dataset / name
        folder.mkdir(parents=True)
        for number, drawing in enumerate(flat_drawings(rng, colour, 30)):
            (folder / f"그림 {number}.png").write_bytes(drawing)
        (folder / "broken.jpg").write_bytes(b"not a picture")
    (dataset / "Thumbs.db").write_bytes(b"")
    return dataset


@pytest.fixture(scope="session")
def first_run(database: None, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Any]:
    """A whole run on them with CONF, in a store of its own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GESSO_HOME", str(home))
        patch.setenv("GESSO_WORKERS", "2")
        settings.cache_clear()
        run = read_dag().test(run_conf={**CONF, "dataset": str(pictures)}, logical_date=None)
    settings.cache_clear()
    return LocalStore(home / "store"), run


@pytest.fixture
def trained(first_run: tuple[LocalStore, Any], home: Path) -> None:
    """What that run made, but for its champion, in the test's own store: a like run repeats nothing up to the gate."""
    first, _ = first_run
    shutil.copytree(first.root, home / "store", ignore=shutil.ignore_patterns("champions"))


def test_the_whole_workflow(first_run: tuple[LocalStore, Any]) -> None:
    store, run = first_run
    assert run.state == "success"
    record = read_record(store, "retrain", run.run_id)
    assert record["run_type"] == "manual"
    assert set(record["steps"]) == set(NAMES)
    assert not any(entry["reused"] for entries in record["steps"].values() for entry in entries)
    for entries in record["steps"].values():
        for entry in entries:
            assert Artifact.open(entry["artifact"]).is_whole()
    report = Artifact.open(record["steps"]["report"][0]["artifact"]).path("report.html").read_text()
    assert "<img src=x" not in report
    assert "&lt;img src=x onerror=alert(1)&gt;" in report


@pytest.mark.usefixtures("trained")
def test_what_is_there_is_reused(retrain: Any, pictures: Path, store: LocalStore) -> None:
    conf = {**CONF, "dataset": str(pictures)}
    again = retrain.test(run_conf=conf, logical_date=None)
    assert again.state == "success"
    steps = read_record(store, "retrain", again.run_id)["steps"]
    assert all(entry["reused"] for entries in steps.values() for entry in entries)

    changed = retrain.test(run_conf={**conf, "folds": 2}, logical_date=None)
    steps = read_record(store, "retrain", changed.run_id)["steps"]
    made = {name for name, entries in steps.items() if not all(entry["reused"] for entry in entries)}
    assert made == {"train", "evaluate", "promote", "report"}
    trained = {instance_name(entry["instance"]): entry["reused"] for entry in steps["train"]}
    assert trained == {"baseline": True, "baseline, fold 1 of 2": False, "baseline, fold 2 of 2": False}
    (evaluate,) = steps["evaluate"]
    assert Artifact.open(evaluate["artifact"]).json("evaluation.json")["cross_validation"][0]["folds"] == 2


@pytest.mark.usefixtures("trained")
def test_a_search_takes_the_best_trial_and_leaves_out_one_that_diverges(
    retrain: Any, pictures: Path, store: LocalStore, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {"learning_rate": [0.0001, 10], "optimizer": ["sgd"]}
    conf = {**CONF, "dataset": str(pictures), "search": space, "trials": 3}
    run = retrain.test(run_conf=conf, logical_date=None)
    assert run.state == "success"
    steps = read_record(store, "retrain", run.run_id)["steps"]
    assert {instance_name(entry["instance"]) for entry in steps["train"]} == {
        "baseline",
        "baseline, learning_rate 0.0001, optimizer sgd",
    }
    said = capfd.readouterr().out
    assert re.search(r"learning_rate 10, optimizer sgd is left out of the search: The loss is no longer a number", said)
    board = Artifact.open(steps["evaluate"][0]["artifact"]).table("leaderboard.parquet")
    assert sorted(board["trial"]) == ["learning_rate 0.0001", "learning_rate 0.01"]
    best = max(steps["train"], key=lambda entry: (entry["metrics"]["val_macro_f1"], -entry["metrics"]["val_loss"]))
    (chosen,) = board[board["chosen"]].to_dict("records")
    assert best["artifact"].endswith(chosen["model"])
    report = Artifact.open(steps["report"][0]["artifact"])
    html = report.path("report.html").read_text()
    assert f'<th scope="row">baseline, {chosen["trial"]} (chosen)</th>' in html
    assert "2 trainings took" in html
    assert report.metrics["training_runs"] == 2


def test_a_dry_run_reports_what_would_be_trained(retrain: Any, pictures: Path, store: LocalStore) -> None:
    run = retrain.test(run_conf={**CONF, "dataset": str(pictures), "dry_run": True, "folds": 3}, logical_date=None)
    assert run.state == "success"
    skipped = {each.task_id for each in run.get_task_instances() if each.state == "skipped"}
    assert skipped == {"nothing_new", "trainings", "pack", "train", "evaluate", "approve", "promote"}
    steps = read_record(store, "retrain", run.run_id)["steps"]
    assert set(steps) == {*NAMES} - skipped
    (report,) = (Artifact.open(entry["artifact"]) for entry in steps["report"])
    html = report.path("report.html").read_text()
    assert report.metrics["verdict"] == "DRY RUN"
    assert "Nothing was trained." in html
    drawn = Artifact.open(steps["resample"][0]["artifact"]).metrics["train_drawn"]
    assert f'<td class="n">4</td><td class="n">{drawn * 3 * 4}</td><td class="n">not known</td>' in html


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("default", "verdict"), [("hold", "HOLD"), ("approve", "PROMOTE")])
def test_where_nobody_can_be_asked_the_default_counts(
    default: str, verdict: str, retrain: Any, pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GESSO_ATTENDED", "no")
    settings.cache_clear()
    asked = {"require_approval": True, "approval_default": default, "min_macro_f1": 0}
    run = retrain.test(run_conf={**CONF, "dataset": str(pictures), **asked}, logical_date=None)
    assert run.state == "success"
    (promote,) = read_record(store, "retrain", run.run_id)["steps"]["promote"]
    decision = Artifact.open(promote["artifact"]).json("decision.json")
    assert decision["verdict"] == verdict
    assert decision["approval"] == {"answer": default, "by": "nobody could be asked", "note": ""}
    assert (read_champion(store, str(pictures))[0] is not None) == (verdict == "PROMOTE")


@pytest.mark.usefixtures("trained")
def test_a_model_that_fails_a_check_needs_no_approval(
    retrain: Any, pictures: Path, store: LocalStore, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = {"require_approval": True, "min_macro_f1": 1}
    run = retrain.test(run_conf={**CONF, "dataset": str(pictures), **asked}, logical_date=None)
    assert run.state == "success"
    assert "The model fails a check. Macro F1 on the test part is" in capfd.readouterr().out
    steps = read_record(store, "retrain", run.run_id)["steps"]
    decision = Artifact.open(steps["promote"][0]["artifact"]).json("decision.json")
    unasked = "nobody was asked, since the model failed a check"
    assert decision["approval"] == {"answer": "hold", "by": unasked, "note": ""}
    assert [reason["check"] for reason in decision["reasons"] if not reason["passed"]] == ["floor", "approval"]
    assert (
        f"<b>approval</b> {unasked}: hold."
        in Artifact.open(steps["report"][0]["artifact"]).path("report.html").read_text()
    )


@pytest.mark.usefixtures("trained")
def test_a_scheduled_run_with_too_little_new_ends_as_success(
    retrain: Any, pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("include.steps.WEIGHED", ("manual",))  # `dag.test()` makes no scheduled run
    conf = {**CONF, "dataset": str(pictures), "min_macro_f1": 0}
    first = retrain.test(run_conf=conf, logical_date=None)
    assert first.get_task_instance("nothing_new").state == "skipped"
    assert read_champion(store, str(pictures))[0] is not None

    second = retrain.test(run_conf=conf, logical_date=None)
    assert second.state == "success"
    done = {each.task_id for each in second.get_task_instances() if each.state == "success"}
    assert done == {"snapshot", "enough_new", "nothing_new"}
    assert "gesso > nothing new: 0 new images, 0 changed, 0 gone; min_new_images is 100" in capfd.readouterr().out

    forced = retrain.test(run_conf={**conf, "force": True}, logical_date=None)
    assert forced.get_task_instance("report").state == "success"


def test_bad_data_fails_at_once_and_says_why(
    retrain: Any, store: LocalStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = retrain.test(run_conf={"preset": "demo", "dataset": str(tmp_path / "nowhere")}, logical_date=None)
    assert run.state == "failed"
    assert run.get_task_instance("snapshot").try_number == 1
    said = re.search("gesso ! snapshot: (.*)", capfd.readouterr().out)
    assert said is not None
    (failed,) = read_record(store, "retrain", run.run_id)["failed"]["snapshot"]
    assert failed["message"] == said[1]


def test_a_param_that_does_not_exist_fails_the_first_task(retrain: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run = retrain.test(run_conf={"preset": "demo", "epoch": 3}, logical_date=None)
    assert run.state == "failed"
    assert "There is no param 'epoch'" in capfd.readouterr().out
