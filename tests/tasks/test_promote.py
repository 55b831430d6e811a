from dataclasses import replace
from types import SimpleNamespace

import pytest

from tasks import evaluate, promote
from tasks.__main__ import main
from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, champion_key, move_champion, read_champion
from tasks.core.errors import TRY_AGAIN, Archived, ParamsError, StoreError
from tasks.core.runs import change_record
from tasks.core.step import execute
from tasks.core.store import LocalStore
from tests.tasks.judging import CLASSES, World


@pytest.fixture
def world(store, tmp_path):
    return World(store, tmp_path)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """`promote` reads neither figures nor export of `evaluate`, and they take most of its time."""
    monkeypatch.setattr(evaluate, "write_export", lambda *_: 0.0)
    for name in ("draw_confusion", "draw_reliability", "draw_f1"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)


@pytest.fixture
def decide(run_step):
    """Evaluates a model and runs `promote` on it."""

    def run(world: World, model: Artifact, **params) -> Artifact:
        return run_step("promote", inputs_of(run_step, world, model), **params)

    return run


def inputs_of(run_step, world: World, model: Artifact) -> dict[str, Artifact | list[Artifact]]:
    judged = world.judged(model)
    given = {name: judged[name] for name in ("snapshot", "resample", "pack", "train")}
    return {**given, "evaluate": run_step("evaluate", judged)}


def champion_of(world: World) -> Champion | None:
    return read_champion(world.store, str(world.dataset))[0]


def crown(world: World, model: Artifact, evaluation: str = "") -> None:
    _, etag = read_champion(world.store, str(world.dataset))
    champion = Champion(model.uri, None, "2026-01-01", evaluation)
    assert move_champion(world.store, str(world.dataset), champion, etag)


def failed(decision: Artifact) -> list[str]:
    reasons = decision.json("decision.json")["reasons"]
    assert all(set(reason) == {"check", "passed", "observed", "required", "message"} for reason in reasons)
    return [reason["check"] for reason in reasons if not reason["passed"]]


def message(decision: Artifact, check: str) -> str:
    (found,) = [reason for reason in decision.json("decision.json")["reasons"] if reason["check"] == check]
    return found["message"]


def test_the_first_model_above_the_floor_is_promoted(world, decide):
    model = world.model("red")
    result = decide(world, model)
    decision = result.json("decision.json")
    assert decision["verdict"] == result.metrics["verdict"] == "PROMOTE"
    assert decision["candidate"]["artifact"] == model.folder
    assert decision["champion"] is None
    assert decision["comparison"] is None
    assert "no other champion" in message(result, "champion")
    champion = champion_of(world)
    assert (champion.model, champion.previous) == (model.uri, None)


def test_a_model_below_the_floor_is_held(world, decide):
    result = decide(world, world.model("red"), min_macro_f1=0.95)
    assert result.metrics["verdict"] == "HOLD"
    assert failed(result) == ["floor"]
    assert "below the floor of 0.95" in message(result, "floor")
    assert champion_of(world) is None


def test_promotion_can_be_off(world, decide):
    result = decide(world, world.model("blue"), promote=False)
    assert failed(result) == ["allowed"]
    assert "off for this run" in message(result, "allowed")
    assert champion_of(world) is None


def test_a_better_challenger_is_promoted(world, decide):
    old, new = world.model("red"), world.model("blue")
    crown(world, old)
    result = decide(world, new)
    decision = result.json("decision.json")
    assert decision["verdict"] == "PROMOTE"
    assert decision["champion"]["model"] == old.key
    assert decision["notes"] == []
    comparison = decision["comparison"]
    assert comparison["images"] == 80
    assert comparison["candidate_macro_f1"] == 1
    assert comparison["delta_macro_f1"] == pytest.approx(1 - comparison["champion_macro_f1"])
    assert (comparison["mcnemar"]["champion_only"], comparison["mcnemar"]["candidate_only"]) == (0, 15)
    assert comparison["mcnemar"]["p"] == pytest.approx(2 / 2**15)
    assert 0 < comparison["interval"][0] < comparison["delta_macro_f1"] < comparison["interval"][1]
    assert [row["class"] for row in comparison["per_class"]] == CLASSES
    assert result.metrics["delta"] == comparison["delta_macro_f1"]
    champion = champion_of(world)
    assert (champion.model, champion.previous) == (new.uri, old.uri)


@pytest.mark.parametrize("channel", ["red", "blue"], ids=["worse", "equal"])
def test_a_challenger_that_is_not_better_is_held(world, decide, channel):
    old = world.model("blue")
    crown(world, old)
    result = decide(world, world.model(channel, "challenger"))
    assert result.metrics["verdict"] == "HOLD"
    assert "better" in failed(result)
    assert "does not show that the candidate is better" in message(result, "better")
    assert champion_of(world).model == old.uri


def test_a_class_that_loses_blocks_a_better_challenger(world, decide):
    crown(world, world.model("red"))
    result = decide(world, world.model("green"))
    assert failed(result) == ["class drop"]
    assert "L2_3" in message(result, "class drop")
    allowed = decide(world, world.model("green"), max_class_drop=0.5)
    assert allowed.metrics["verdict"] == "PROMOTE"


def test_a_class_with_few_test_images_does_not_block(store, tmp_path, decide):
    world = World(store, tmp_path)
    few = (world.images["label"] == 0) & (world.images["part"] == "test") & (world.images["number"] >= 4)
    world.images.loc[few, "part"] = "train"
    world.split()
    crown(world, world.model("red"))
    result = decide(world, world.model("green"))
    assert result.json("decision.json")["comparison"]["per_class"][0]["delta"] < -0.05
    assert "class drop" not in failed(result)


@pytest.mark.parametrize(
    ("loss", "passes"), [(0.05, True), (0.051, False), (0.85 - 0.8, True)], ids=["as allowed", "more", "as in binary"]
)
def test_the_allowed_drop_is_inclusive(loss, passes):
    row = {"class": "a", "images": 50, "champion_f1": 0.85, "candidate_f1": 0.85 - loss, "delta": -loss}
    assert promote.check_drop([row], 0.05).passed is passes


@pytest.mark.parametrize(("loss", "passes"), [(1 / 9, True), (0.25, False)], ids=["one image", "two images"])
def test_one_image_of_a_class_blocks_nothing(loss, passes):
    row = {"class": "a", "images": 5, "champion_f1": 1.0, "candidate_f1": 1 - loss, "delta": -loss}
    assert promote.check_drop([row], 0.05).passed is passes


def test_one_image_makes_no_model_the_better_one(store, tmp_path, decide):
    """They differ in one image of a class that has one: resampled, it is right each time."""
    world = World(store, tmp_path)
    test, first = world.images["part"] == "test", world.images["label"] == 0
    world.images.loc[test & first & (world.images["number"] > 0), "part"] = "train"
    world.colours[(test & first).to_numpy()] = [0, 255, 0]  # of its own class by red and by blue, of another by green
    world.colours[(test & ~first).to_numpy()] = world.colours[(test & ~first).to_numpy()][:, [2, 2, 2]]
    world.split()
    crown(world, world.model("green"))
    result = decide(world, world.model("red"), min_macro_f1=0)
    comparison = result.json("decision.json")["comparison"]
    assert comparison["interval"][0] > 0
    assert comparison["few"] == {"classes": 1, "delta_macro_f1": 0, "interval": [0, 0]}
    assert failed(result) == ["better"]
    assert "Without the classes (1) of fewer than 5 test images: +0.0000" in message(result, "better")


def test_without_a_class_of_five_test_images_none_is_the_better_one(store, tmp_path, decide):
    world = World(store, tmp_path, test=4)
    crown(world, world.model("red"))
    result = decide(world, world.model("blue"))
    comparison = result.json("decision.json")["comparison"]
    assert comparison["interval"][0] > 0
    assert comparison["few"] == {"classes": 4, "delta_macro_f1": None, "interval": None}
    assert failed(result) == ["better"]
    assert "No class has 5 test images, and it takes one that has: raise test_share, or add images." in message(
        result, "better"
    )


def test_a_rerun_finds_its_own_decision(world, run_step):
    crown(world, world.model("red"))
    inputs = inputs_of(run_step, world, world.model("blue"))
    first = run_step("promote", inputs)
    moved = champion_of(world)
    again = execute(
        "promote",
        {name: [each.uri for each in one] if isinstance(one, list) else one.uri for name, one in inputs.items()},
        promote.Params(),
        world.store.uri,
    )
    assert again.reused
    assert again.artifact.key == first.key
    assert champion_of(world) == moved


@pytest.mark.parametrize("before", [None, "red"], ids=["deleted", "moved back"])
def test_a_decision_that_is_found_again_is_carried_out(world, run_step, before):
    old = world.model(before) if before else None
    if old:
        crown(world, old)
    inputs = inputs_of(run_step, world, world.model("blue"))
    first = run_step("promote", inputs)
    promoted = champion_of(world)
    world.store.delete(champion_key(str(world.dataset)))
    if old:
        crown(world, old)
    assert run_step("promote", inputs).key == first.key
    assert champion_of(world) == promoted


@pytest.mark.parametrize(
    "held", [{"promote": False}, {"approval": {"answer": "hold", "by": "Ann"}}], ids=["off", "Ann"]
)
def test_a_champion_that_a_run_may_not_promote_is_said_to_stay_in_use(world, run_step, held):
    old, new = world.model("red"), world.model("blue")
    crown(world, old)
    inputs = inputs_of(run_step, world, new)
    before = run_step("promote", inputs, **held)
    assert not before.json("decision.json")["in_use"]
    run_step("promote", inputs)
    champion = champion_of(world)
    after = run_step("promote", inputs, **held)
    assert after.key != before.key
    decision = after.json("decision.json")
    assert (decision["verdict"], decision["in_use"]) == ("HOLD", True)
    assert "This very model is in use already, and stays so" in decision["notes"][0]
    assert f"Measured against the champion before it, {old.folder}" in message(after, "champion")
    assert champion_of(world) == champion


@pytest.mark.parametrize("evaluation", ["", "s3://elsewhere/artifacts/evaluate/before"], ids=["none", "another"])
def test_a_champion_that_is_evaluated_anew_gets_its_new_evaluation(world, run_step, evaluation):
    model = world.model("blue")
    crown(world, model, evaluation)
    inputs = inputs_of(run_step, world, model)
    assert run_step("promote", inputs).metrics["verdict"] == "PROMOTE"
    assert champion_of(world) == Champion(model.uri, None, "2026-01-01", inputs["evaluate"].uri)


def test_a_crash_after_the_pointer_moved_repeats_safely(world, run_step):
    old, new = world.model("red"), world.model("blue")
    crown(world, old)
    inputs = inputs_of(run_step, world, new)
    first = run_step("promote", inputs)
    decision, moved = first.path("decision.json").read_bytes(), champion_of(world)
    world.store.delete(f"{first.folder}/artifact.json")  # as if the process had died before its commit
    again = run_step("promote", inputs)
    assert again.key == first.key
    assert again.path("decision.json").read_bytes() == decision
    evaluation = inputs["evaluate"]
    assert champion_of(world) == moved
    assert moved == Champion(new.uri, old.uri, str(evaluation.manifest["made_at"]), evaluation.uri)


def test_a_champion_named_meanwhile_is_not_overwritten(world, run_step, monkeypatch):
    """Another run promotes between this run's look at the champion and its own move."""
    crown(world, world.model("red"))
    inputs, other = inputs_of(run_step, world, world.model("blue")), world.model("green")
    compare = promote.compare

    def meanwhile(*arguments):
        crown(world, other)
        return compare(*arguments)

    monkeypatch.setattr(promote, "compare", meanwhile)
    with pytest.raises(StoreError, match=f"Another run changed the champion meanwhile, to {other.uri}"):
        run_step("promote", inputs)
    assert champion_of(world).model == other.uri
    monkeypatch.setattr(promote, "compare", compare)
    retried = run_step("promote", inputs)
    assert retried.json("decision.json")["champion"]["model"] == other.key
    assert champion_of(world).previous == other.uri


def test_two_attempts_at_the_same_promotion_agree(world):
    model = world.model("blue")
    for made_at in ("now", "later"):
        evaluation = SimpleNamespace(uri="evaluation", manifest={"made_at": made_at})
        promote.put_in_use(world.store, "pictures", model, evaluation, None, None)
    assert read_champion(world.store, "pictures")[0].since == "now"


def test_a_champion_of_another_image_size_reads_the_images_again(store, tmp_path, decide):
    old_world, world = World(store, tmp_path, size=24), World(store, tmp_path, size=16)
    crown(world, old_world.model("red"))
    result = decide(world, world.model("blue"))
    decision = result.json("decision.json")
    assert decision["verdict"] == "PROMOTE"
    assert any("24 px" in note for note in decision["notes"])
    assert decision["comparison"]["images"] == 80
    same_size = decide(world, world.model("blue", "b"), promote=False)
    assert same_size.json("decision.json")["comparison"]["delta_macro_f1"] == 0
    crown(world, world.model("red"))
    here = decide(world, world.model("blue"), seed=1).json("decision.json")["comparison"]
    assert here["champion_macro_f1"] == decision["comparison"]["champion_macro_f1"]


def test_images_that_changed_since_are_left_out_of_the_comparison(store, tmp_path, decide, monkeypatch):
    old_world, world = World(store, tmp_path, size=24), World(store, tmp_path, size=16)
    crown(world, old_world.model("red"))
    (world.dataset / "b/000.png").unlink()
    (world.dataset / "b/001.png").write_bytes((world.dataset / "b/002.png").read_bytes())
    get = LocalStore.get

    def archived(store, key, version=None):
        if key == "b/003.png":
            raise Archived("the object is archived")
        return get(store, key, version)

    monkeypatch.setattr(LocalStore, "get", archived)
    decision = decide(world, world.model("blue")).json("decision.json")
    assert decision["comparison"]["images"] == 77
    assert any("3 test images left out: they are gone" in note for note in decision["notes"])


def test_a_champion_of_other_classes_is_matched_by_name(world, decide):
    known = ["gone", *reversed(CLASSES[1:])]  # another order, one class unknown, one that is no more
    crown(world, world.model("blue", classes=known))
    decision = decide(world, world.model("blue")).json("decision.json")
    by_class = {row["class"]: row for row in decision["comparison"]["per_class"]}
    assert by_class["L2_3"]["champion_f1"] == 0
    assert by_class["꽃 $x$"]["champion_f1"] == 1
    assert decision["verdict"] == "PROMOTE"
    assert any("doesn't know, wrong for it: L2_3." in note for note in decision["notes"])
    assert any("has no more: gone." in note for note in decision["notes"])


def test_images_that_the_champion_learnt_are_left_out(store, tmp_path, decide):
    before, world = World(store, tmp_path, split=8), World(store, tmp_path)
    crown(world, before.model("red"))
    decision = decide(world, world.model("blue")).json("decision.json")
    assert decision["comparison"]["images"] == 4 * 12
    assert any("32 of 80 test images left out: the champion was trained on them" in note for note in decision["notes"])


def test_images_that_were_never_drawn_were_not_learnt(store, tmp_path, decide):
    before, world = World(store, tmp_path, split=8), World(store, tmp_path)
    learnt = (before.images["part"] == "train") & (world.images["part"] == "test")
    before.images.loc[learnt & (before.images["class"] == "b"), "verdict"] = "undersampled"
    before.split()
    crown(world, before.model("red"))
    decision = decide(world, world.model("blue")).json("decision.json")
    assert decision["comparison"]["images"] == 3 * 12 + 15, "5 of the 8 are of the champion's validation part"


def test_duplicates_of_images_that_the_champion_learnt_are_left_out(store, tmp_path, decide):
    before, world = World(store, tmp_path, split=8), World(store, tmp_path)
    of_b = world.images["class"] == "b"
    learnt = before.images["part"].isin(["train", "validation"])
    pair = of_b & world.images["number"].isin([0, 19])
    assert sorted(learnt[pair]) == [False, True]
    world.images.loc[pair, "duplicate_group"] = 7
    unlearnt = of_b & world.images["number"].isin([17, 18])
    assert not learnt[unlearnt].any()
    world.images.loc[unlearnt, "duplicate_group"] = 8
    world.split()
    crown(world, before.model("red"))
    decision = decide(world, world.model("blue")).json("decision.json")
    assert decision["comparison"]["images"] == 4 * 12 - 1
    assert any("33 of 80 test images left out" in note for note in decision["notes"])


def test_with_no_image_left_to_compare_by_the_model_is_held(store, tmp_path, decide):
    before, world = World(store, tmp_path, split=20), World(store, tmp_path)
    crown(world, before.model("red"))
    result = decide(world, world.model("blue"))
    assert failed(result) == ["same images"]
    assert result.json("decision.json")["comparison"] is None


@pytest.mark.parametrize("damage", ["gone", "broken model", "no artifact's URI"])
def test_a_champion_that_can_not_be_opened_counts_as_none(world, decide, damage):
    old, new = world.model("red"), world.model("blue")
    if damage == "gone":
        world.store.delete(f"{old.folder}/artifact.json")
    elif damage == "broken model":
        world.store.put(old.key_of("model.keras"), b"no model")
    else:
        old = SimpleNamespace(uri="elsewhere")
    crown(world, old)
    result = decide(world, new)
    assert result.metrics["verdict"] == "PROMOTE"
    assert "can't be opened and counts as none" in message(result, "champion")
    assert (champion_of(world).model, champion_of(world).previous) == (new.uri, old.uri)


def test_a_store_that_was_moved_still_knows_its_champion(world, decide):
    old = world.model("red")
    crown(world, SimpleNamespace(uri=f"/before/the/move/{old.folder}"))
    assert decide(world, world.model("blue")).json("decision.json")["champion"]["model"] == old.key


def test_an_evaluation_of_other_models_is_refused(world, run_step):
    inputs = inputs_of(run_step, world, world.model("red"))
    with pytest.raises(ParamsError, match="not among the `train` artifacts given"):
        run_step("promote", inputs | {"train": [world.model("blue")]})


@pytest.fixture
def promoted(world, run_step):
    """Promotes a model, in a run of this id, and returns its decision."""

    def run(model: Artifact, run_id: str) -> Artifact:
        made = inputs_of(run_step, world, model)
        made["promote"] = run_step("promote", made)
        record = {
            step: [{"artifact": each.uri} for each in (found if isinstance(found, list) else [found])]
            for step, found in made.items()
        }
        change_record(world.store, "retrain", run_id, lambda kept: kept.update(steps=record))
        return made["promote"]

    return run


def test_a_rollback_puts_a_past_model_in_use_and_the_withdrawn_one_does_not_come_back(world, promoted, capsys):
    red, blue = world.model("red"), world.model("blue")
    first = promoted(red, "monday")
    promoted(blue, "tuesday")
    assert champion_of(world).model == blue.uri
    capsys.readouterr()
    assert main(["rollback", "monday"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == red.uri
    assert f"{blue.uri} is withdrawn" in said.err
    champion = champion_of(world)
    assert (champion.model, champion.withdrawn) == (red.uri, [blue.key])
    assert Artifact.open(champion.evaluation).metrics["model"] == red.key

    held = promoted(blue, "wednesday")
    assert failed(held) == ["withdrawn"]
    assert "gesso rollback" in message(held, "withdrawn")
    assert promoted(red, "monday again").key == first.key  # its run finds its own decision
    assert champion_of(world) == champion

    green = world.model("green")
    assert promoted(green, "thursday").metrics["verdict"] == "HOLD"  # it loses class 0
    assert main(["rollback", "thursday"]) == 0
    assert champion_of(world).withdrawn == sorted([red.key, blue.key])
    again = promoted(green, "thursday again")
    assert (again.metrics["verdict"], again.json("decision.json")["in_use"]) == ("HOLD", True)
    assert main(["rollback", "wednesday"]) == 0
    champion = champion_of(world)
    assert (champion.model, champion.withdrawn) == (blue.uri, sorted([red.key, green.key]))


def test_what_was_withdrawn_stays_so_when_another_model_is_promoted(world, promoted):
    red, blue = world.model("red"), world.model("blue")
    crown(world, blue)
    champion, etag = read_champion(world.store, str(world.dataset))
    assert move_champion(world.store, str(world.dataset), replace(champion, model=red.uri, withdrawn=["a"]), etag)
    assert promoted(blue, "monday").metrics["verdict"] == "PROMOTE"
    assert champion_of(world).withdrawn == ["a"]


def test_a_rollback_that_is_not_possible_says_why(world, promoted, monkeypatch, capsys):
    red, blue = world.model("red"), world.model("blue")
    promoted(red, "monday")
    before = champion_of(world)
    for run, status, words in (
        ("sunday", 2, "has no record of a run 'sunday' of retrain"),
        ("monday", 2, "The model of 'monday' is in use already"),
        ("dry", 1, "The run 'dry' has no model to go back to"),
    ):
        change_record(world.store, "retrain", "dry", lambda record: record.update(steps={}))
        assert main(["rollback", run]) == status
        assert words in capsys.readouterr().err
    assert champion_of(world) == before

    promoted(blue, "tuesday")
    monkeypatch.setattr("tasks.rollback.move_champion", lambda *_: False)
    assert main(["rollback", "monday"]) == TRY_AGAIN
    assert "A run changed the champion meanwhile" in capsys.readouterr().err
