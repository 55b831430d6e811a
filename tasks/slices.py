"""Where a model is better or worse than its classes alone explain: the test part cut into slices."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.vision import metrics

Counts = npt.NDArray[np.int64]

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
    """Accuracy by slice. Images of a class that is nowhere else in the cut are left out: nothing compares with them.

    Args:
        images: as `described` gives them.
        right: whether each got its class.

    Returns:
        A row a slice: by, slice, images, accuracy, low, high (95% interval, Wilson 1927), expected (the accuracy that
        its mix of classes has elsewhere), weak (accuracy lies below expected, and so low by chance in one of forty
        data sets at most, as many slices as there are allowed for by Bonferroni).
    """
    label = pd.factorize(images["label"])[0]
    total = np.bincount(label)
    hits = np.bincount(label[right], minlength=len(total))
    rows: list[dict[str, Any]] = []
    for by, cut in _cuts(images).items():
        for name in pd.unique(cut.dropna().sort_values()):
            inside = (cut == name).fillna(False).to_numpy(bool)
            here = inside & (np.bincount(label[inside], minlength=len(total)) < total)[label]
            if here.sum() < FEW:
                continue
            drawn = np.bincount(label[here], minlength=len(total))
            found = np.bincount(label[here & right], minlength=len(total))
            low, high = metrics.wilson(int(found.sum()), int(drawn.sum()))
            rows.append(
                {
                    "by": by,
                    "slice": str(name),
                    "images": int(drawn.sum()),
                    "accuracy": float(right[here].mean()),
                    "low": low,
                    "high": high,
                    "expected": float(((hits - found) / (total - drawn))[label[here]].mean()),
                    "chance": _chance(total, hits, drawn, int(found.sum())),
                }
            )
    table = pd.DataFrame(rows, columns=["by", "slice", "images", "accuracy", "low", "high", "expected", "chance"])
    weak = (table["chance"] * len(table) < 0.025) & (table["accuracy"] < table["expected"])
    return table.drop(columns="chance").assign(weak=weak)


def _chance(total: Counts, hits: Counts, drawn: Counts, found: int) -> float:
    """How probable it is that a slice has no more hits than it has if its images are any of their classes'.

    That is the exact form of the test of Cochran (1954), Mantel and Haenszel (1959), on one side: a slice's hits are a
    sum of hypergeometric numbers, one a class.

    Args:
        total: images of each class.
        hits: how many of them got their class.
        drawn: how many of them are in the slice.
        found: images of the slice that got their class.
    """
    from scipy import stats

    by_class = [
        stats.hypergeom.pmf(np.arange(drawn[at] + 1), total[at], hits[at], drawn[at]) for at in np.flatnonzero(drawn)
    ]
    return float(reduce(np.convolve, by_class)[: found + 1].sum())


def _cuts(images: pd.DataFrame) -> dict[str, "pd.Series[Any]"]:
    """By each measure, the slice of each image; none for an image that belongs to none."""
    several = images.groupby("class")["cluster"].transform("nunique") > 1
    group = images["class"] + ", group " + images["cluster"].astype("str")
    days = (images["modified"] - pd.Timestamp(0, tz="UTC")).dt.days
    return {
        "cluster": group.where(several),
        "shorter side": _quarters(images[["width", "height"]].min(axis=1), "{0:.0f} to {1:.0f} px".format),
        "brightness": _quarters(images["brightness"].round(), "{0:.0f} to {1:.0f} of 255".format),
        "duplicates": images["duplicates"].gt(1).map({True: "has duplicates", False: "one of a kind"}),
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
