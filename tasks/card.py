"""The model card: what a model is, was trained on, can do and can't (Mitchell et al., Model Cards for Model Reporting,
2019). As Markdown it goes with the model, as sections into the report."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.core.figures import label

FEW_TEST_IMAGES = 10
"""With fewer, a class's scores say little."""

F1_BELOW_MACRO = 0.05
"""A class that lies further below the macro average is named among the limits."""

Section = dict[str, Any]
"""title, lines [text], and head and rows of a table, or neither."""

USE = """\
import tensorflow as tf

ask = tf.saved_model.load("export").signatures["serving_default"]
answer = ask(images=tf.constant([open("picture.jpg", "rb").read()]))
print(answer["classes"][0][0].numpy().decode(), float(answer["probabilities"][0][0]))
"""


def sections(
    snapshot: dict[str, Any],
    resample: Artifact,
    model: Artifact,
    evaluation: dict[str, Any],
    classwise: pd.DataFrame,
    operating: pd.DataFrame,
    slices: pd.DataFrame,
    licence: str,
    dissolved: int,
) -> list[Section]:
    """The card's sections.

    Args:
        snapshot: snapshot.json of the data.
        resample: what was trained, validated and tested on.
        model: the `train` artifact.
        evaluation: evaluation.json.
        classwise: scores by class, with f1_low and f1_high.
        operating: coverage and accuracy.
        slices: accuracy by slice.
        licence: of the model; empty where it isn't stated.
        dissolved: images whose group of near duplicates was too large to be kept together.
    """
    counts = resample.table("counts.parquet")
    parts = {name: int(counts[name].sum()) for name in ("train_drawn", "validation", "test")}
    verdicts = resample.table("ledger.parquet", ["verdict"])["verdict"].value_counts()
    left_out = [f"{number:,} {verdict}" for verdict, number in verdicts.items() if verdict != "kept"]
    macro, names = evaluation["macro"], classwise["class"].tolist()
    size = model.json("model.json")["image_size"]
    when = f"up to its newest image, of {snapshot['newest']}"
    ninety = operating.iloc[int((operating["coverage"] - 0.9).abs().argmin())]
    together = (
        f"Exact duplicates of an image are all in the same part, near duplicates too, but for {dissolved:,} images in "
        f"groups that were too large."
        if dissolved
        else "Duplicates and near duplicates of an image are all in the same part."
    )
    return [
        _section(
            "Model",
            f"A network of the architecture {evaluation['architecture']}, {int(model.metrics['parameters'] or 0):,} "
            f"parameters, trained for {model.metrics['epochs']} epochs; the weights are those of epoch "
            f"{model.metrics['best_epoch']}. It takes pictures of {size} x {size} pixels; the export resizes them "
            f"itself.",
            f"It tells {len(names)} classes apart: {', '.join(label(name, 60) for name in names)}.",
            f"Training artifact: {model.folder}",
        ),
        _section(
            "Use",
            "For images like those that it was trained on. It always answers with one of its classes, for an image of "
            "none of them too; how sure it is was calibrated on images of these classes alone.",
        ),
        _section(
            "Data",
            f"{snapshot['dataset']}, {when}: {sum(verdicts):,} images. Not used: {', '.join(left_out) or 'none'}.",
            f"{_trained(counts).sum():,} images trained it ({parts['train_drawn']:,} draws an epoch, small classes "
            f"more often), {parts['validation']:,} chose the best epoch and model and calibrated it, {parts['test']:,} "
            f"tested it. {together} Mirrored copies are not recognised.",
        ),
        _section(
            "Results",
            f"On {evaluation['images']:,} test images: macro F1 {macro['f1']:.3f} (95% interval {macro['f1_low']:.3f} "
            f"to {macro['f1_high']:.3f}), macro precision {macro['precision']:.3f}, macro recall "
            f"{macro['recall']:.3f}, accuracy {evaluation['accuracy']:.3f}, expected calibration error "
            f"{evaluation['ece']:.3f}.",
            f"Where it answers only from a confidence of {ninety['confidence']:.2f} on, it answers "
            f"{100 * ninety['coverage']:.0f}% of the images, and {100 * ninety['accuracy']:.1f}% of those rightly.",
            head=["Class", "Training images", "Test images", "Precision", "Recall", "F1", "95% interval"],
            rows=_classes(classwise, counts),
        ),
        _section("Limits", *limits(snapshot, evaluation, classwise, slices)),
        _section("Licence", licence or "Not stated (param `licence`)."),
    ]


def _section(title: str, *lines: str, head: Sequence[str] = (), rows: Sequence[Sequence[str]] = ()) -> Section:
    return {"title": title, "lines": list(lines), "head": list(head), "rows": [list(row) for row in rows]}


def _trained(counts: pd.DataFrame) -> pd.Series:
    """Images of each class that were trained on: all of a small class, of a large one those that were drawn."""
    return counts.set_index("class")[["train", "train_drawn"]].min(axis=1)


def _classes(classwise: pd.DataFrame, counts: pd.DataFrame) -> list[list[str]]:
    trained = _trained(counts)
    rows = []
    for row in classwise.to_dict("records"):
        scores = [_number(row[name]) for name in ("precision", "recall", "f1")]
        interval = "–" if row["f1_low"] != row["f1_low"] else f"{row['f1_low']:.3f} to {row['f1_high']:.3f}"
        rows.append([row["class"], f"{trained[row['class']]:,}", f"{row['support']:,}", *scores, interval])
    return rows


def _number(score: float) -> str:
    return "–" if score != score else f"{score:.3f}"


def limits(
    snapshot: dict[str, Any], evaluation: dict[str, Any], classwise: pd.DataFrame, slices: pd.DataFrame
) -> list[str]:
    """What whoever uses the model should know of where it fails, and of what is not known."""
    found = [
        "It was tested on images from the same source as those that it was trained on: of others nothing is known."
    ]
    tested = classwise[classwise["support"] > 0]
    weak = tested[tested["f1"] < evaluation["macro"]["f1"] - F1_BELOW_MACRO].sort_values("f1")
    if len(weak):
        told = ", ".join(f"{label(row['class'])} ({row['f1']:.2f})" for row in weak.to_dict("records"))
        found.append(f"Weaker classes, by F1: {told}.")
    if absent := evaluation["classes_without_test"]:
        found.append(f"Not tested at all, for want of images: {', '.join(map(label, absent))}.")
    if len(few := tested.loc[tested["support"] < FEW_TEST_IMAGES, "class"]):
        found.append(f"Tested on fewer than {FEW_TEST_IMAGES} images, which says little: {', '.join(map(label, few))}.")
    found.extend(
        f"Weaker where {row['by']} is {label(row['slice'], 48)}: accuracy {row['accuracy']:.2f} on {row['images']} "
        f"images, where their classes have {row['expected']:.2f} elsewhere."
        for row in slices[slices["weak"]].to_dict("records")
    )
    if suspects := evaluation["suspects"]["found"]:
        judged, tested_on = evaluation["suspects"]["judged"], evaluation["suspects"]["in_test"]
        found.append(
            f"{suspects} of {judged:,} labels that were looked at are probably wrong, {tested_on} of them in the test "
            f"part."
        )
    if snapshot["note"]:
        found.append(snapshot["note"])
    return found


def markdown(card: list[Section], title: str, licence: str) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    lines = ["---", f"license: {json.dumps(licence or 'unknown')}", "pipeline_tag: image-classification", "---"]
    lines += ["", f"# {_plain(title)}"]
    for section in card:
        lines += ["", f"## {section['title']}", ""]
        bullets = "- " if section["title"] == "Limits" else ""
        lines += [text for line in section["lines"] for text in (f"{bullets}{_plain(line)}", *([""] * (not bullets)))]
        if section["rows"]:
            lines += [_row(section["head"]), _row(["---"] * len(section["head"]))]
            lines += [_row(map(_plain, row)) for row in section["rows"]]
    lines += ["", "## How to use it", "", "```python", USE.rstrip(), "```", ""]
    return "\n".join(lines)


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """A text whose parts from the data set can't act as Markdown or HTML."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|~" else sign for sign in line)
