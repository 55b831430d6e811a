import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from tasks.core.errors import DataError, GessoError, ParamsError
from tasks.core.store import LocalStore
from tasks.evaluate import fold_scores
from tests.conftest import run_in
from tests.tasks.judging import CLASSES, World, make


@pytest.fixture
def world(store, tmp_path):
    return World(store, tmp_path)


@pytest.fixture
def evaluate(run_step):
    def run(world, *models, **params):
        return run_step("evaluate", world.judged(*models), **params)

    return run


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A world, and what `evaluate` says of the network that goes by its red channel."""
    folder = tmp_path_factory.mktemp("judged")
    world = World(LocalStore(folder / "store"), folder)
    return world, run_in(world.store, "evaluate", world.judged(world.model("red")))


def contents(artifact) -> dict[str, bytes]:
    return {name: artifact.path(name).read_bytes() for name in artifact.names()}


def test_scores_are_those_of_the_test_part(judged):
    world, result = judged
    predictions = result.table("predictions.parquet")
    test = world.images[world.images["part"] == "test"].sort_values("key")
    assert predictions["key"].tolist() == test["key"].tolist()
    assert predictions["class"].tolist() == test["class"].tolist()
    assert np.allclose(predictions.filter(regex="^p_").sum(axis=1), 1)

    wrong = (test["label"] > 0) & (test["number"] % 4 == 0)
    assert (predictions["class"] != predictions["predicted"]).tolist() == wrong.tolist()
    evaluation = result.json("evaluation.json")
    assert evaluation["accuracy"] == pytest.approx(1 - wrong.mean())
    assert evaluation["macro"]["f1"] == pytest.approx(
        f1_score(predictions["class"], predictions["predicted"], average="macro")
    )
    assert evaluation["classes_without_test"] == []
    assert result.metrics["images"] == len(test)
    assert result.metrics["macro_f1"] == evaluation["macro"]["f1"]


def test_tables_agree_with_each_other(judged):
    _, result = judged
    predictions, classwise = result.table("predictions.parquet"), result.table("classwise.parquet")
    confusion = result.table("confusion.parquet")
    assert classwise["class"].tolist() == CLASSES
    assert classwise.columns.tolist() == [
        *("class", "precision", "recall", "f1", "f1_low", "f1_high", "support", "accuracy")
    ]
    assert confusion["class"].tolist() == CLASSES
    assert confusion.columns.tolist() == ["class", "L2_3", "b", "class′", "꽃 $x$"]
    matrix = confusion.iloc[:, 1:].to_numpy()
    assert matrix.sum(axis=1).tolist() == classwise["support"].tolist()
    assert (np.diag(matrix) / matrix.sum(axis=1)).tolist() == classwise["recall"].tolist()
    pairs = result.table("confused_pairs.parquet")
    assert pairs["images"].sum() == (predictions["class"] != predictions["predicted"]).sum()
    assert pairs[["class", "predicted", "images", "share"]].iloc[0].tolist() == ["b", "class", 5, 0.25]
    reliability = result.table("reliability.parquet")
    assert len(reliability) == 15
    assert reliability["images"].sum() == len(predictions)


def test_classwise_csv_ends_with_the_averages(judged):
    _, result = judged
    lines = pd.read_csv(result.path("classwise.csv"), dtype=str, encoding="utf-8-sig")
    assert lines["class"].tolist() == [*CLASSES, "macro average", "all images"]
    macro, overall = lines.iloc[-2], lines.iloc[-1]
    assert float(macro["f1"]) == pytest.approx(result.metrics["macro_f1"], abs=1e-4)
    assert float(overall["accuracy"]) == pytest.approx(result.metrics["accuracy"], abs=1e-4)
    assert overall["f1"] == "–"


def test_the_model_is_chosen_by_validation_not_by_test(world, evaluate):
    worse_on_test = world.model("red", val_macro_f1=0.9, val_loss=0.4)
    better_on_test = world.model("blue", val_macro_f1=0.8, val_loss=0.1)
    result = evaluate(world, better_on_test, worse_on_test)
    board = result.table("leaderboard.parquet")
    assert result.metrics["model"] == worse_on_test.key
    assert result.json("evaluation.json")["model"] == worse_on_test.key
    assert board["architecture"].tolist() == ["red", "blue"]
    assert board["chosen"].tolist() == [True, False]
    assert board["test_macro_f1"][1] == 1 > board["test_macro_f1"][0] == pytest.approx(result.metrics["macro_f1"])


def test_equal_models_are_told_apart_by_validation_loss(world, evaluate):
    models = [world.model("red", str(loss), val_macro_f1=0.9, val_loss=loss) for loss in (0.5, 0.3, 0.4)]
    assert evaluate(world, *models).metrics["model"] == models[1].key


def test_worst_errors(world, evaluate):
    result = evaluate(world, world.model("red"), worst_errors=5)
    errors = result.table("errors.parquet")
    assert len(errors) == 5
    assert (errors["class"] != errors["predicted"]).all()
    assert errors["confidence"].is_monotonic_decreasing
    assert (errors["p_true"] < errors["confidence"]).all()
    sheet = cv2.imread(str(result.path("errors.jpg")))[:, :, ::-1]
    row = world.images.set_index("key").index.get_loc(errors["key"][0])
    middle = sheet[52:68, 52:68].reshape(-1, 3)  # a tile of 112 pixels, 4 from the edge, shows the 16 as they are
    assert np.abs(np.median(middle, axis=0) - world.colours[row]).max() < 12


@pytest.mark.parametrize(("channel", "count"), [("blue", 24), ("red", 0)], ids=["no errors", "none wanted"])
def test_without_errors_to_show_there_is_no_sheet(world, evaluate, channel, count):
    result = evaluate(world, world.model(channel), worst_errors=count)
    assert result.table("errors.parquet").empty
    assert not result.has("errors.jpg")


def test_a_class_without_test_images_is_left_out_of_the_averages(store, tmp_path, evaluate):
    world = World(store, tmp_path)
    lost = (world.images["class"] == "b") & (world.images["part"] == "test")
    world.images.loc[lost, "part"] = "train"
    world.split()
    result = evaluate(world, world.model("blue"))
    classwise = result.table("classwise.parquet").set_index("class")
    assert np.isnan(classwise.loc["b", "f1"])
    assert result.metrics["macro_f1"] == 1
    assert result.json("evaluation.json")["classes_without_test"] == ["b"]
    assert "–" in result.path("classwise.csv").read_text("utf-8-sig").splitlines()[2]
    assert "no test image" in result.path("figures/f1.svg").read_text()


def test_an_empty_test_part_is_an_error(store, tmp_path, evaluate):
    world = World(store, tmp_path, test=1)
    world.images["part"] = "train"
    world.split()
    with pytest.raises(DataError, match=r"The test part is empty\. Add images, or raise test_share"):
        evaluate(world, world.model("blue"))


def test_a_pack_that_lost_a_file_is_said(world, evaluate):
    world.store.delete(world.pack.key_of("001.npy"))
    with pytest.raises(DataError, match=r"001\.npy in .* is missing or was changed after its commit"):
        evaluate(world, world.model("blue"))


def test_a_model_of_another_pack_is_refused(store, tmp_path, evaluate):
    world, other = World(store, tmp_path, test=2), World(store, tmp_path, test=2, split=1)
    with pytest.raises(ParamsError, match="may have learnt this test part"):
        evaluate(world, other.model("blue"))


HOSTILE = [
    "$\\frac{1}{0}$",
    "a\nb\x00\x1b[31m",
    "x" * 200,
    '"><img src=x onerror=alert(1)>',
    "=1+1",
    "꽃",
    "🌷",
    "_",
    " ",
]


@pytest.mark.parametrize(
    "classes",
    [["a", "b"], HOSTILE, [f"class number {number:03}" for number in range(100)]],
    ids=["2 classes", "hostile names", "100 classes"],
)
def test_figures_hold_any_classes(store, tmp_path, evaluate, classes, monkeypatch):
    monkeypatch.setattr(World, "_snapshot", lambda _: store)  # such names are no file names
    monkeypatch.setattr(World, "split", lambda _: None)
    world = World(store, tmp_path, classes, size=4, test=3)
    monkeypatch.undo()
    world.images["sha256"] = ""
    described = {"dataset": "elsewhere", "note": "", "newest": "2026-01-05T00:00:00+00:00"}
    world.snapshot = make(store, "snapshot", lambda out: out.json("snapshot.json", described), world.tmp)
    world.split()
    result = evaluate(world, world.model("red"))
    for name in ("confusion", "reliability", "f1"):
        drawn = ElementTree.parse(result.path(f"figures/{name}.svg"))
        texts = ["".join(text.itertext()) for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert max(map(len, texts)) < 60
        if name == "f1":
            assert len(texts) > len(classes)
    assert result.table("classwise.parquet")["class"].tolist() == classes
    card = result.path("model_card.md").read_text()
    assert sum(line.startswith("| ") for line in card.splitlines()) == 2 + len(classes)
    assert not re.search(r"(?<!\\)<", card), "no tag"


def test_the_same_inputs_give_the_same_bytes(world, evaluate, store, tmp_path):
    models = [world.model("red", val_macro_f1=0.9), world.model("blue")]
    first = evaluate(world, *models)
    before = contents(first)
    store.delete(f"{first.folder}/artifact.json")
    again = evaluate(world, *reversed(models))
    assert again.key == first.key
    assert contents(again) == before
    named = {name for name, data in before.items() if str(tmp_path).encode() in data}
    assert named <= {"evaluation.json", "model_card.json", "model_card.md"}, "they say where the model is"
    assert json.loads(before["evaluation.json"])["models"] == 2


def test_folds_are_no_candidates_and_tell_how_sure_a_score_is(world, evaluate):
    channels = ("blue", "red", "green")
    folds = [world.model(channel, fold=at, architecture="net") for at, channel in enumerate(channels, start=1)]
    tables = [fold.table("validation.parquet") for fold in folds]
    scores = [f1_score(table["class"], table["predicted"], average="macro") for table in tables]
    assert len({*scores}) == 3
    result = evaluate(world, *folds, world.model("red", val_macro_f1=0.4))
    assert result.json("evaluation.json")["architecture"] == "red"
    assert result.table("leaderboard.parquet")["architecture"].tolist() == ["red"]
    assert result.table("folds.parquet")["val_macro_f1"].tolist() == pytest.approx(scores)
    (summary,) = result.json("evaluation.json")["cross_validation"]
    assert (summary["architecture"], summary["folds"]) == ("net", 3)
    mean, deviation = np.mean(scores), np.std(scores, ddof=1)
    half = 4.302653 * deviation * (1 / 3 + 1 / 2) ** 0.5  # Student's t with 2 degrees of freedom
    told = {"mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}
    assert {name: summary[name] for name in told} == pytest.approx(told)


def test_a_fold_s_scores_are_those_of_the_natural_counts():
    """A tenth of each class is taken for another, and one class is 20 times as large as what is drawn of it."""
    counts = pd.DataFrame({"class": ["a", "b", "c"], "train": [4000, 200, 80]})
    counts["train_drawn"], counts["validation"] = [200, 200, 100], [0, 20, 0]

    def told(images: list[int]) -> pd.DataFrame:
        kinds = [
            (name, predicted, number * 18 if name == predicted else number)
            for name, number in zip("abc", images, strict=True)
            for predicted in "abc"
        ]
        frame = pd.DataFrame(kinds, columns=["class", "predicted", "images"])
        return frame.loc[frame.index.repeat(frame["images"]), ["class", "predicted"]]

    natural, in_fold = told([200, 11, 4]), told([10, 11, 4])
    found = fold_scores(in_fold, counts)
    assert found["val_macro_f1"] == pytest.approx(f1_score(natural["class"], natural["predicted"], average="macro"))
    assert found["val_accuracy"] == pytest.approx(0.9)
    assert found["val_macro_f1"] < f1_score(in_fold["class"], in_fold["predicted"], average="macro") - 0.2
    absent = fold_scores(in_fold[in_fold["class"] != "b"], counts)
    without_b = natural[natural["class"] != "b"]
    assert absent["val_macro_f1"] == pytest.approx(
        f1_score(without_b["class"], without_b["predicted"], labels=["a", "c"], average="macro")
    ), "a class that the fold doesn't hold is left out of the mean"


def test_one_fold_has_no_spread(world, evaluate):
    result = evaluate(world, world.model("blue", fold=1), world.model("red"))
    assert result.json("evaluation.json")["cross_validation"] == []


def test_folds_alone_are_nothing_to_choose_from(world, evaluate):
    with pytest.raises(ParamsError, match="none of them is a candidate"):
        evaluate(world, world.model("blue", fold=1))


def test_images_with_a_probably_wrong_label_are_shown(world, evaluate):
    """By its green channel every fourth image of the first class is another class: the network is sure of it."""
    result = evaluate(world, world.model("green"), label_suspects=3)
    suspects = result.table("suspects.parquet")
    assert suspects.columns.tolist() == ["key", "class", "part", "suggested", "p_class", "p_suggested"]
    held_out = world.images[world.images["part"] != "train"]
    wrong = held_out[(held_out["label"] == 0) & (held_out["number"] % 4 == 0)]
    assert set(suspects["key"]) == set(wrong["key"])
    assert set(suspects["part"]) == {"validation", "test"}
    assert (suspects["p_suggested"] > suspects["p_class"]).all()
    assert suspects["p_class"].is_monotonic_increasing
    tested = int((wrong["part"] == "test").sum())
    counts = {"judged": len(held_out), "found": len(wrong), "in_test": tested}
    assert result.json("evaluation.json")["suspects"] == counts
    assert f"are probably wrong, {tested} of them in the test part" in result.path("model_card.md").read_text()
    assert cv2.imread(str(result.path("suspects.jpg"))).shape[0] < 130, "one row"
    assert f"{len(wrong)} of {len(held_out)} labels" in result.path("model_card.md").read_text()
    assert not evaluate(world, world.model("blue")).has("suspects.jpg")


def test_folds_judge_the_labels_of_the_training_part_too(world, evaluate):
    folds = [world.model("green", fold=1, held_out=("train",)), world.model("green", fold=2)]
    result = evaluate(world, world.model("green", val_macro_f1=0.9), *folds)
    suspects = result.table("suspects.parquet")
    assert result.json("evaluation.json")["suspects"]["judged"] == len(world.images)
    assert set(suspects["part"]) == {"train", "validation", "test"}


def test_scores_have_intervals_and_confidence_is_calibrated(judged, evaluate):
    world, result = judged
    evaluation, classwise = result.json("evaluation.json"), result.table("classwise.parquet")
    macro = evaluation["macro"]
    assert macro["f1_low"] < macro["f1"] < macro["f1_high"]
    assert ((classwise["f1_low"] <= classwise["f1"]) & (classwise["f1"] <= classwise["f1_high"])).all()
    assert evaluation["temperature"] > 1, "it is as sure where it is wrong"
    assert evaluation["export_difference"] < 1e-4
    operating = result.table("operating.parquet")
    assert operating["coverage"].iloc[0] == 1
    assert operating["accuracy"].iloc[0] == pytest.approx(evaluation["accuracy"])
    assert np.allclose(operating["errors"], operating["images"] * (1 - operating["accuracy"]))
    assert operating["confidence"].is_monotonic_increasing
    more = evaluate(world, world.model("red"), bootstrap=2000, seed=1).json("evaluation.json")["macro"]
    assert more["f1_low"] == pytest.approx(macro["f1_low"], abs=0.02)


def test_slices_are_those_of_the_test_part(judged):
    found = judged[1].table("slices.parquet")
    assert set(found["by"]) == {"cluster", "shorter side", "brightness", "date added", "duplicates"}
    assert found.loc[found["by"] == "duplicates", "slice"].tolist() == ["one of a kind"], "the 8 others are too few"
    assert found.loc[found["by"] == "date added", "images"].sum() == 80
    weak = found[found["weak"]]
    assert weak.empty or (weak["accuracy"] < weak["expected"]).all()


def test_an_export_that_gives_other_probabilities_is_refused(world, evaluate, monkeypatch):
    monkeypatch.setattr("tasks.vision.export.difference", lambda *_: 0.003)
    with pytest.raises(GessoError, match=r"they differ by 0\.003, at most 0\.0001 is allowed"):
        evaluate(world, world.model("red"))


def test_another_backend_is_refused_before_any_work(world, evaluate, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    monkeypatch.setattr("tasks.evaluate.predict", lambda *_: pytest.fail("It predicted first."))
    with pytest.raises(ParamsError, match=r"KERAS_BACKEND is jax\. Run `evaluate` with KERAS_BACKEND=tensorflow"):
        evaluate(world, world.model("red"))


def test_a_model_of_other_classes_is_refused(world, evaluate):
    with pytest.raises(DataError, match=r"tells L2_3, b, class apart, but .* holds L2_3, b, class, 꽃"):
        evaluate(world, world.model("red", classes=CLASSES[:3]))


def test_the_model_card_says_what_it_is_and_where_it_fails(judged, evaluate):
    world, unlicensed = judged
    result = evaluate(world, world.model("red"), licence="CC-BY-4.0")
    text = result.path("model_card.md").read_text()
    assert text.startswith('---\nlicense: "CC-BY-4.0"\npipeline_tag: image-classification\n---\n')
    macro = result.json("evaluation.json")["macro"]
    assert f"macro F1 {macro['f1']:.3f} (95% interval {macro['f1_low']:.3f} to {macro['f1_high']:.3f})" in text
    assert "16 parameters, trained for 3 epochs; the weights are those of epoch 2. It takes" in text
    assert "80 images trained it (80 draws an epoch" in text
    assert "20 chose the best epoch and model and calibrated it, 80 tested it" in text
    assert "Duplicates and near duplicates of an image are all in the same part. Mirrored copies are not" in text
    assert "| L2\\_3 | 20 | 20 | 1.000 | 1.000 | 1.000 | 1.000 to 1.000 |" in text
    limits = text[text.index("## Limits") :]
    assert "- Weaker classes, by F1:" in limits
    assert "- This data set keeps no versions" in limits
    assert "## Licence\n\nCC-BY-4.0\n" in text
    assert "Not stated" in unlicensed.path("model_card.md").read_text()


def test_the_model_card_counts_only_images_that_were_drawn(store, tmp_path, evaluate):
    world = World(store, tmp_path, drawn=8)
    text = evaluate(world, world.model("red")).path("model_card.md").read_text()
    assert "32 images trained it (32 draws an epoch" in text
    assert "| L2\\_3 | 8 | 20 |" in text


def test_the_card_s_example_runs(world, evaluate, tmp_path):
    result = evaluate(world, world.model("blue"))
    text = result.path("model_card.md").read_text()
    code = text[text.index("```python\n") + 10 : text.rindex("```")]
    shutil.copytree(result.directory("export"), tmp_path / "run" / "export")
    picture = cv2.imread(str(world.dataset / "b/001.png"))
    cv2.imwrite(str(tmp_path / "run" / "picture.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "run", capture_output=True, text=True, check=True
    )
    name, probability = done.stdout.split()
    assert name == "b"
    assert 0.3 < float(probability) <= 1
