"""Judge the trained models on the test part, and look closely at the best.

Every model predicts the test part of the pack. The best is the one with the highest macro F1 on the validation
part, of equals the one with the lower validation loss: the test part only judges, it never chooses. Models of a
cross-validation's folds are no candidates: their validation scores say how much a score owes to the split.

Accuracy of a class is one-vs-rest: the share of all test images for which "of this class or not" is answered rightly,
(TP + TN) / N. Macro averages are means over the classes that have a test image; the scores of the others are NaN in
the tables, "–" in the CSV, and the classes are named in evaluation.json.

Intervals of F1 are 95% intervals of the bootstrap over test images, drawn within each class. Probabilities are
calibrated: a temperature is fitted on the validation part (`vision/calibration.py`), and the test part judges it.

Writes, of the best model unless said otherwise,
  evaluation.json          model (key of its `train` artifact), architecture, models, images, classes, accuracy,
                           macro {precision, recall, f1, f1_low, f1_high}, temperature, ece (expected calibration
                           error), ece_uncalibrated, export_difference (the largest of the export's probabilities from
                           the training code's), suspects {judged, found, in_test}, classes_without_test,
                           cross_validation [{architecture, folds, mean, deviation, low, high}]: macro F1 over the
                           folds, and its 95% interval
  folds.parquet            of each fold: architecture, fold, val_macro_f1 and val_accuracy with each class weighing as
                           much as in the validation part, epochs
  leaderboard.parquet      of all models, best first: architecture, trial (the values that a search gave it), model,
                           val_macro_f1, val_accuracy, val_loss, test_macro_f1, test_accuracy, parameters, epochs,
                           chosen
  classwise.parquet, .csv  class, precision, recall, f1, f1_low, f1_high, support, accuracy; the CSV ends with the
                           averages
  operating.parquet        coverage, confidence, images, accuracy, low, high, errors: how often the model is right where
                           it answers only from that confidence on; 95% interval
  slices.parquet           by, slice, images, accuracy, low, high, expected, weak: see `slices.py`
  confusion.parquet        class, then a column for each class: how many of its images were called that
  confused_pairs.parquet   class, predicted, images, share (of the class's test images); most frequent first
  reliability.parquet      bin_low, bin_high, confidence, accuracy, images: 15 bins, Guo et al. 2017
  predictions.parquet      key, class, predicted, confidence, and the probabilities p_0, p_1, … in order of classes
  errors.parquet           key, class, predicted, confidence, p_true: the most confident errors, worst first
  errors.jpg               their images in that order, 8 a row; left out where there are none
  suspects.parquet         key, class, part, suggested, p_class, p_suggested: images whose label is probably wrong, the
                           likeliest first (`vision/suspects.py`), among those of validation and test, and with folds
                           among all that are used
  suspects.jpg             the first of them, 8 a row; left out where there are none
  model_card.md, .json     what the model is, was trained on, can do and can't (`card.py`)
  export/                  the model as a SavedModel: bytes of images in, names and calibrated probabilities out
                           (`vision/export.py`); checked on test images
  figures/                 confusion.svg, reliability.svg, f1.svg
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks import card
from tasks.core import params
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.errors import DataError, GessoError, ParamsError
from tasks.core.figures import COLOURS, MUTED, contact_sheet, figure, label
from tasks.core.ledger import write_csv
from tasks.core.memory import keep_freed
from tasks.slices import described, slices
from tasks.vision import calibration, metrics
from tasks.vision.pack import Pack, open_pack
from tasks.vision.suspects import label_suspects

INPUTS = ("snapshot", "validate", "cluster", "resample", "pack*", "train*")
Params = params.EvaluateParams

BATCH = 64
"""Images predicted at a time."""

CHECKED = 32
"""Test images by which the export is checked."""

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the test images in the operating table."""

INTERVAL = (0.025, 0.975)
"""Quantiles of the bootstrap that a score's interval lies between."""

CELLS_WITH_COUNTS = 30
"""Up to this many classes the confusion matrix shows its counts; beyond, only colours are legible."""


def run(inputs: Inputs, params: params.EvaluateParams, out: Output) -> None:
    """Judge the models on the test part, choose one by its validation score, and export it.

    Raises:
        DataError: the test part is empty, or a model tells other classes apart.
        GessoError: the export gives other probabilities than the model.
        ParamsError: only folds were given, a model was trained on another split, or Keras doesn't run on TensorFlow.
    """
    keep_freed()
    from tasks.vision import export  # it imports TensorFlow, which takes seconds

    export.check_backend()
    resample, trained = inputs.one("resample"), inputs.many("train")
    check_lineage(resample, trained)
    models = rank([model for model in trained if not model.params.get("fold")])
    if not models:
        raise ParamsError("Only models of a cross-validation's folds were given: none of them is a candidate.")
    of_folds = [model for model in trained if model.params.get("fold")]
    folds = folds_table(of_folds, resample.table("counts.parquet"))
    classes: list[str] = resample.json("classes.json")
    table = resample.table("used.parquet")
    test = table[table["part"] == "test"]
    if test.empty:
        raise DataError("The test part is empty. Add images, or raise test_share.")
    pack = open_pack(resample, inputs.many("pack"))
    truth = test["label"].to_numpy()

    trials = trial_names(models)
    best, board = None, []
    for model in models:
        probabilities = predict(model, pack, test["row"].to_numpy())
        if best is None:
            best = probabilities
        board.append(standing(model, trials[model.key], truth, probabilities, chosen=best is probabilities))
        name = ", ".join(filter(None, (board[-1]["architecture"], board[-1]["trial"])))
        out.log(f"{name}: macro F1 {board[-1]['test_macro_f1']:.4f} on {len(test):,} test images")
    assert best is not None

    temperature = fitted_temperature(models[0], classes)
    raw, best = best, calibration.calibrated(best, temperature)
    predicted = best.argmax(axis=1)
    scores = metrics.classwise(truth, predicted, len(classes))
    matrix = metrics.confusion(truth, predicted, len(classes))
    right = predicted == truth
    diagram = metrics.reliability(best.max(axis=1), right)
    resampled = metrics.bootstrap_f1(truth, predicted, len(classes), params.bootstrap, params.seed)
    macro = {name: metrics.macro(getattr(scores, name)) for name in ("precision", "recall", "f1")}
    macro["f1_low"], macro["f1_high"] = map(float, np.quantile(np.nanmean(resampled, axis=1), INTERVAL))
    facts: dict[str, Any] = {
        "model": models[0].key,
        "architecture": board[0]["architecture"],
        "images": len(test),
        "accuracy": float(right.mean()),
        "ece": metrics.calibration_error(diagram),
        "temperature": temperature,
    }
    said = unseen(models[0], of_folds, test, best, temperature)
    suspects = suspects_table(said, table, classes)
    difference = write_export(models[0], classes, temperature, pack.gather(test["row"].to_numpy()[:CHECKED]), best, out)
    evaluation = facts | {
        "models": len(models),
        "classes": len(classes),
        "macro": macro,
        "ece_uncalibrated": metrics.calibration_error(metrics.reliability(raw.max(axis=1), right)),
        "export_difference": difference,
        "suspects": {
            "judged": len(said),
            "found": len(suspects),
            "in_test": int((suspects["part"] == "test").sum()),
        },
        "classes_without_test": [classes[empty] for empty in np.flatnonzero(scores.support == 0)],
        "cross_validation": cross_validation(folds),
    }
    out.json("evaluation.json", evaluation)
    out.metrics |= facts | {"macro_f1": macro["f1"]}

    table_of_classes = classwise_table(classes, scores, resampled)
    predictions = predictions_table(test, classes, best)
    errors = worst_errors(test, predictions, params.worst_errors)
    out.table("leaderboard.parquet", pd.DataFrame(board))
    out.table("folds.parquet", folds)
    out.table("classwise.parquet", table_of_classes)
    write_csv(with_averages(table_of_classes, macro, facts["accuracy"]), out.path("classwise.csv"))
    out.table("confusion.parquet", confusion_table(matrix, classes))
    out.table("confused_pairs.parquet", confused_pairs(matrix, classes))
    out.table("reliability.parquet", pd.DataFrame(diagram._asdict()))
    table_of_coverage = operating(best.max(axis=1), right)
    out.table("operating.parquet", table_of_coverage)
    table_of_slices = slices(described(test, inputs.one("validate"), inputs.one("cluster")), right)
    out.table("slices.parquet", table_of_slices)
    snapshot = inputs.one("snapshot").json("snapshot.json")
    sections = card.sections(
        snapshot,
        resample,
        models[0],
        evaluation,
        table_of_classes,
        table_of_coverage,
        table_of_slices,
        params.licence,
        dissolved=int(inputs.one("validate").metrics.get("dissolved") or 0),
    )
    out.json("model_card.json", sections)
    out.text("model_card.md", card.markdown(sections, f"Classifier of {snapshot['dataset']}", params.licence))
    out.table("predictions.parquet", predictions)
    out.table("errors.parquet", errors.drop(columns="row"))
    if len(errors):
        contact_sheet(list(pack.gather(errors["row"].to_numpy())), out.path("errors.jpg"), columns=8)
    out.table("suspects.parquet", suspects.drop(columns="row"))
    if shown := suspects["row"].to_list()[: params.label_suspects]:
        contact_sheet(list(pack.gather(np.array(shown))), out.path("suspects.jpg"), columns=8)
    draw_confusion(matrix, classes, out)
    draw_reliability(diagram, facts["ece"], out)
    draw_f1(table_of_classes, macro["f1"], out)


def rank(models: list[Artifact]) -> list[Artifact]:
    """The models, best first: by validation macro F1, then validation loss, then the order given."""
    return sorted(models, key=lambda model: (-number(model, "val_macro_f1"), number(model, "val_loss")))


def folds_table(models: list[Artifact], counts: pd.DataFrame) -> pd.DataFrame:
    """One row a fold, by architecture and fold; `counts` are those of `resample`."""
    rows = [
        {
            "architecture": str(model.metrics["architecture"]),
            "fold": int(number(model, "fold")),
            **fold_scores(model.table("validation.parquet", ["class", "predicted"]), counts),
            "epochs": int(number(model, "epochs")),
        }
        for model in models
    ]
    table = pd.DataFrame(rows, columns=["architecture", "fold", "val_macro_f1", "val_accuracy", "epochs"])
    return table.sort_values(["architecture", "fold"], ignore_index=True)


def fold_scores(held_out: pd.DataFrame, counts: pd.DataFrame) -> dict[str, float]:
    """Macro F1 and accuracy on a fold's held-out images, each class weighing as much as in the validation part.

    Only images that are drawn are in the folds. Where a large class is undersampled, too few of its images are there to
    be taken for a small one's, whose precision would be higher than on the natural counts.

    Args:
        held_out: columns class, predicted.
        counts: columns class, train, train_drawn, validation: images of each class.
    """
    from sklearn.metrics import accuracy_score, f1_score  # half a second, which a run without folds saves

    table = counts.set_index("class")
    in_folds = table[["train", "train_drawn"]].min(axis=1) + table["validation"]
    truth, predicted = held_out["class"], held_out["predicted"]
    weight = truth.map((table["train"] + table["validation"]) / in_folds)
    return {
        "val_macro_f1": float(f1_score(truth, predicted, labels=truth.unique(), average="macro", sample_weight=weight)),
        "val_accuracy": float(accuracy_score(truth, predicted, sample_weight=weight)),
    }


def cross_validation(folds: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean, standard deviation and 95% interval of each architecture's macro F1 over its folds, if it has several."""
    return [
        {"architecture": str(name), "folds": len(group), **metrics.over_folds(group["val_macro_f1"].to_numpy())}
        for name, group in folds.groupby("architecture")
        if len(group) > 1
    ]


def number(model: Artifact, metric: str) -> float:
    """A metric of a model as a number."""
    return float(model.metrics[metric] or 0)


def check_lineage(resample: Artifact, models: list[Artifact]) -> None:
    """Check that the models were trained on this pack: another pack's training part may hold these test images.

    Raises:
        ParamsError: a model was trained on another pack.
        DataError: a model tells other classes apart than the pack holds.
    """
    classes = resample.json("classes.json")
    for model in models:
        if model.inputs["resample"] != resample.key:
            raise ParamsError(
                f"{model.uri} was not trained on {resample.uri}, so it may have learnt this test part. "
                f"Give the `resample` artifact that it was trained on."
            )
        if (labels := model.json("labels.json")) != classes:
            raise DataError(
                f"{model.uri} tells {', '.join(labels)} apart, but {resample.uri} holds {', '.join(classes)}. "
                f"Train anew."
            )


def predict(model: Artifact, pack: Pack, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The model's class probabilities [rows, classes] of these rows of the pack."""
    from tasks.vision import models, training  # they import TensorFlow, which takes seconds

    return training.predict(models.load(model.path("model.keras")), pack, rows, BATCH)


def write_export(
    model: Artifact,
    classes: list[str],
    temperature: float,
    pixels: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.float32],
    out: Output,
) -> float:
    """Write the model's export, and by how much its probabilities differ at most from those of the training code.

    Args:
        model: a `train` artifact.
        classes: its labels.
        temperature: by which it is calibrated.
        pixels: some test images.
        probabilities: what the training code makes of these and perhaps more, calibrated.

    Raises:
        GessoError: they differ by more than `TOLERANCE`.
    """
    from tasks.vision import export, models  # they import TensorFlow, which takes seconds

    folder = out.path("export/saved_model.pb").parent
    export.write(models.load(model.path("model.keras")), classes, temperature, folder)
    found = export.difference(export.Export(folder), pixels, classes, probabilities[: len(pixels)])
    if found > export.TOLERANCE:
        raise GessoError(
            f"The export of {model.uri} gives other probabilities than the model itself: they differ by {found:.2g}, "
            f"at most {export.TOLERANCE:g} is allowed. It would mislead whoever uses it."
        )
    return found


def fitted_temperature(model: Artifact, classes: list[str]) -> float:
    """The temperature that calibrates a model, from what it made of its validation part."""
    table = model.table("validation.parquet")
    probabilities = table.filter(regex=r"^p_\d+$").to_numpy(np.float32)
    labels = table["class"].map({name: label for label, name in enumerate(classes)})
    return calibration.fit_temperature(probabilities, labels.to_numpy(np.int64))


def classwise_table(classes: list[str], scores: metrics.Classwise, resampled: metrics.Floats) -> pd.DataFrame:
    """One row a class, its F1 with the interval."""
    columns: dict[str, Any] = {"class": classes, **scores._asdict()}
    low, high = np.full((2, len(classes)), np.nan)
    there = scores.support > 0
    low[there], high[there] = np.quantile(resampled[:, there], INTERVAL, axis=0)
    table = pd.DataFrame(columns)
    table.insert(4, "f1_low", low)
    table.insert(5, "f1_high", high)
    return table


def operating(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """How often the model is right where it may pass: one row for each of `COVERAGES`."""
    rows = []
    for coverage in COVERAGES:
        threshold, images = metrics.selective(confidence, coverage)
        hits = int(right[confidence >= threshold].sum())
        low, high = metrics.wilson(hits, images)
        rows.append(
            {
                "coverage": images / len(right),
                "confidence": threshold,
                "images": images,
                "accuracy": hits / images,
                "low": low,
                "high": high,
                "errors": images - hits,
            }
        )
    return pd.DataFrame(rows).drop_duplicates("images", ignore_index=True)


def trial_names(models: list[Artifact]) -> dict[str, str]:
    """What sets each model apart from the others of its architecture, by key: "momentum 0.9"; "" where it is alone."""
    names = {}
    for model in models:
        alike = [other for other in models if other.metrics["architecture"] == model.metrics["architecture"]]
        names[model.key] = ", ".join(
            f"{name} {value}"
            for name, value in sorted(model.params.items())
            if any(other.params.get(name) != value for other in alike)
        )
    return names


def standing(
    model: Artifact,
    trial: str,
    truth: npt.NDArray[np.int32],
    probabilities: npt.NDArray[np.float32],
    *,
    chosen: bool,
) -> dict[str, Any]:
    """A model's row of the leaderboard."""
    predicted = probabilities.argmax(axis=1)
    return {
        "architecture": str(model.metrics["architecture"]),
        "trial": trial,
        "model": model.key,
        **{name: number(model, name) for name in ("val_macro_f1", "val_accuracy", "val_loss")},
        "test_macro_f1": metrics.macro(metrics.classwise(truth, predicted, probabilities.shape[1]).f1),
        "test_accuracy": float((predicted == truth).mean()),
        **{name: int(number(model, name)) for name in ("parameters", "epochs")},
        "chosen": chosen,
    }


def predictions_table(test: pd.DataFrame, classes: list[str], probabilities: npt.NDArray[np.float32]) -> pd.DataFrame:
    """One row a test image, sorted by key."""
    columns: dict[str, Any] = {
        "key": test["key"].to_numpy(),
        "class": test["class"].to_numpy(),
        "predicted": [classes[best] for best in probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
    }
    columns |= {f"p_{at}": probabilities[:, at] for at in range(len(classes))}
    return pd.DataFrame(columns).sort_values("key", ignore_index=True)


def worst_errors(test: pd.DataFrame, predictions: pd.DataFrame, count: int) -> pd.DataFrame:
    """The errors with the highest confidence, worst first, with their row in the pack."""
    images = predictions.merge(test[["key", "row", "label"]], on="key", validate="one_to_one")
    probabilities = images.filter(regex=r"^p_\d+$").to_numpy()
    images["p_true"] = probabilities[np.arange(len(images)), images["label"]]
    errors = images[images["class"] != images["predicted"]]
    errors = errors.sort_values(["confidence", "p_true", "key"], ascending=[False, True, True], ignore_index=True)
    return errors[["key", "class", "predicted", "confidence", "p_true", "row"]].head(count)


def unseen(
    model: Artifact, folds: list[Artifact], test: pd.DataFrame, tested: npt.NDArray[np.float32], temperature: float
) -> pd.DataFrame:
    """Calibrated probabilities [p_0, p_1, …] by key, by models that were not trained on the image.

    Those of the test part are `tested`; of the validation part the model's own; with a cross-validation of the same
    network its folds' instead, which judge the training part too.
    """
    same = [fold for fold in folds if fold.metrics["architecture"] == model.metrics["architecture"]]
    tables = [one.table("validation.parquet").set_index("key").filter(regex=r"^p_\d+$") for one in same or [model]]
    held_out = pd.concat(tables)
    held_out[:] = calibration.calibrated(held_out.to_numpy(np.float32), temperature)
    return pd.concat([held_out, pd.DataFrame(tested, test["key"].to_numpy(), held_out.columns)])


def suspects_table(said: pd.DataFrame, table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """The images whose label is probably wrong, the likeliest first, with their row in the pack."""
    images = table.set_index("key").loc[said.index]
    labels, probabilities = images["label"].to_numpy(), said.to_numpy()
    found = label_suspects(labels, probabilities)
    best = probabilities[found].argmax(axis=1)
    columns: dict[str, Any] = {
        "key": said.index[found],
        "class": images["class"].to_numpy()[found],
        "part": images["part"].to_numpy()[found],
        "suggested": pd.array([classes[label] for label in best], "str"),
        "p_class": probabilities[found, labels[found]],
        "p_suggested": probabilities[found, best],
        "row": images["row"].to_numpy()[found],
    }
    return pd.DataFrame(columns).sort_values(["p_class", "key"], ignore_index=True)


def confusion_table(matrix: metrics.Counts, classes: list[str]) -> pd.DataFrame:
    """The matrix as a table; a column whose class shares its name with another column gets a prime."""
    columns: dict[str, Any] = {"class": classes}
    for at, name in enumerate(classes):
        while name in columns:
            name += "′"
        columns[name] = matrix[:, at]
    return pd.DataFrame(columns)


def confused_pairs(matrix: metrics.Counts, classes: list[str]) -> pd.DataFrame:
    """Every pair of a class and what its images were wrongly called, most frequent first."""
    wrong = matrix - np.diag(np.diag(matrix))
    rows, columns = np.nonzero(wrong)
    pairs = pd.DataFrame(
        {
            "class": pd.array([classes[row] for row in rows], "str"),
            "predicted": pd.array([classes[column] for column in columns], "str"),
            "images": wrong[rows, columns],
            "share": wrong[rows, columns] / matrix.sum(axis=1)[rows],
        }
    )
    order = ["images", "share", "class", "predicted"]
    return pairs.sort_values(order, ascending=[False, False, True, True], ignore_index=True)


def with_averages(table: pd.DataFrame, macro: dict[str, float], accuracy: float) -> pd.DataFrame:
    """The table as text with four decimals, and below it the macro averages and the accuracy over all images."""
    scores = ["precision", "recall", "f1", "f1_low", "f1_high", "accuracy"]
    means: dict[str, Any] = {"class": "macro average", "support": table["support"].sum(), **table[scores].mean()}
    means |= {name: macro[name] for name in ("f1_low", "f1_high")}
    overall: dict[str, Any] = {"class": "all images", "support": table["support"].sum(), "accuracy": accuracy}
    table = pd.concat([table, pd.DataFrame([means, overall])], ignore_index=True)
    table[scores] = table[scores].map(lambda score: "–" if np.isnan(score) else f"{score:.4f}")
    return table


def draw_confusion(matrix: metrics.Counts, classes: list[str], out: Output) -> None:
    """Rows are true classes, columns predictions; the colour is the share of the row."""
    count = len(classes)
    size, font = (0.42, 8) if count <= CELLS_WITH_COUNTS else (0.16, 6)
    side = max(2.0, size * count)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with figure(out.path("figures/confusion.svg"), side + 2.6, side + 1.8) as axes:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        names = [label(name, 24) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, fontsize=font)
        axes.set_yticks(range(count), names, fontsize=font)
        axes.set(xlabel="predicted", ylabel="class")
        axes.tick_params(length=0)
        if count <= CELLS_WITH_COUNTS:
            for row, column in np.argwhere(matrix):
                colour = "white" if shares[row, column] > 0.6 else "black"
                axes.text(
                    column, row, str(matrix[row, column]), ha="center", va="center", fontsize=font - 1, color=colour
                )
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, aspect=30)
        bar.set_label("share of the class's test images")


def draw_reliability(diagram: metrics.Reliability, ece: float, out: Output) -> None:
    """Accuracy over confidence, and how many images are in each bin."""
    middle, width = (diagram.bin_low + diagram.bin_high) / 2, diagram.bin_high - diagram.bin_low
    with figure(out.path("figures/reliability.svg"), 5, 5, nrows=2, sharex=True, height_ratios=[3, 1]) as drawn:
        axes: Any = drawn
        axes[0].bar(middle, np.nan_to_num(diagram.accuracy), width * 0.92, color=COLOURS[0], label="accuracy")
        axes[0].plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="perfectly calibrated")
        axes[0].set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, title=f"calibration error {ece:.3f}")
        axes[1].bar(middle, diagram.images, width * 0.92, color=MUTED)
        axes[1].set(xlabel="confidence", ylabel="images")


def draw_f1(table: pd.DataFrame, macro_f1: float, out: Output) -> None:
    """F1 of each class, the lowest on top, and the macro average."""
    ordered = table.sort_values(["f1", "class"], na_position="first", ignore_index=True)
    with figure(out.path("figures/f1.svg"), 7, 1.0 + 0.2 * len(ordered)) as axes:
        axes.barh(range(len(ordered)), ordered["f1"].fillna(0), color=COLOURS[0], height=0.7)
        axes.axvline(macro_f1, color=COLOURS[1], linestyle="--", label=f"macro average {macro_f1:.3f}")
        for place, score in enumerate(ordered["f1"]):
            there = not np.isnan(score)
            text = f"{score:.3f}" if there else "– no test image"
            axes.text(1.01 if there else 0.01, place, text, va="center", fontsize=7)
        axes.set_yticks(range(len(ordered)), [label(name) for name in ordered["class"]], fontsize=8)
        axes.set(xlabel="F1", xlim=(0, 1.08), ylim=(len(ordered) - 0.4, -0.6))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
