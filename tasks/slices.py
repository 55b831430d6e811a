"""Where a model is better or worse than its classes alone explain: the test part cut into slices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.vision import metrics

QUARTERS = 4
"""Into how many parts of equal size a measure cuts the test part."""

FEW = 10
"""A slice with fewer images is not shown: its accuracy would say nothing."""


def described(test: pd.DataFrame, validate: Artifact, cluster: Artifact) -> pd.DataFrame:
    """The test images (key, class, label, …) with what they are sliced by, in the same order.

    Args:
        test: rows of the pack.
        validate: its images.parquet knows sizes, brightness, dates and duplicates.
        cluster: its verdicts.parquet knows each image's group.
    """
    columns = ["key", "width", "height", "brightness", "modified", "duplicates"]
    images = test[["row", "key", "class", "label"]]
    images = images.merge(validate.table("images.parquet", columns), on="key", how="left", validate="one_to_one")
    groups = cluster.table("verdicts.parquet", ["key", "cluster", "verdict"])
    return images.merge(groups, on="key", how="left", validate="one_to_one")


def slices(images: pd.DataFrame, right: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Accuracy by slice; a cut that leaves one slice only is left out.

    Args:
        images: as `described` gives them.
        right: whether each got its class.

    Returns:
        A row a slice: by, slice, images, accuracy, low, high (95% interval, Wilson 1927), expected (the accuracy that
        its mix of classes would have if each class were as easy there as elsewhere), weak (even the interval that
        allows for as many slices as there are, by Bonferroni, lies below expected).
    """
    of_class = pd.Series(right).groupby(images["label"].to_numpy()).transform("mean").to_numpy()
    rows: list[dict[str, Any]] = []
    for by, cut in _cuts(images).items():
        names = cut.dropna()
        counts = names.value_counts()
        shown = [name for name in pd.unique(names.sort_values()) if counts[name] >= FEW]
        if len(counts) < 2:
            continue
        for name in shown:
            here = (cut == name).fillna(False).to_numpy(bool)
            low, high = metrics.wilson(int(right[here].sum()), int(here.sum()))
            expected = float(of_class[here].mean())
            rows.append(
                {
                    "by": by,
                    "slice": str(name),
                    "images": int(here.sum()),
                    "accuracy": float(right[here].mean()),
                    "low": low,
                    "high": high,
                    "expected": expected,
                }
            )
    found = pd.DataFrame(rows, columns=["by", "slice", "images", "accuracy", "low", "high", "expected"])
    hits = (found["accuracy"] * found["images"]).round().astype(int)
    # Of forty slices one lies outside its interval by chance.
    allowed = [metrics.wilson(*each, 1 - 0.05 / len(found))[1] for each in zip(hits, found["images"], strict=True)]
    return found.assign(weak=np.array(allowed, float) < found["expected"])


def _cuts(images: pd.DataFrame) -> dict[str, "pd.Series[Any]"]:
    """By each measure, the slice of each image; none for an image that belongs to none."""
    several = images.groupby("class")["cluster"].transform("nunique") > 1
    group = images["class"] + ", group " + images["cluster"].astype("str")
    days = (images["modified"] - pd.Timestamp(0, tz="UTC")).dt.days
    return {
        "cluster": group.where(several),
        "shorter side": _quarters(images[["width", "height"]].min(axis=1), "{0:.0f} to {1:.0f} px".format),
        "brightness": _quarters(images["brightness"].round(), "{0:.0f} to {1:.0f} of 255".format),
        "near duplicates": images["duplicates"].gt(1).map({True: "has near duplicates", False: "one of a kind"}),
        "date added": _quarters(days, lambda low, high: f"{_day(low)} to {_day(high)}"),
    }


def _day(number: float) -> str:
    return str(pd.Timestamp(int(number), unit="D").date())


def _quarters(values: "pd.Series[Any]", text: Callable[[float, float], str]) -> "pd.Series[Any]":
    """Up to four parts of about the same size, lowest first, named by their ends; `values` are whole numbers."""
    codes = pd.qcut(values, QUARTERS, labels=False, duplicates="drop").fillna(-1).astype(int)
    ends = values.groupby(codes).agg(["min", "max"])
    ends = ends[ends.index >= 0]
    place = codes.map({code: at for at, code in enumerate(ends.index)}).fillna(-1).astype(int)
    names = [text(low, high) for low, high in ends.itertuples(index=False)]
    return pd.Series(pd.Categorical.from_codes(place, pd.Index(names), ordered=True), values.index)
