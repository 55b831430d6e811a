"""Photographs apart from illustrations: Gesso's separation against the 2022 way, on a data set whose truth is known.

    make bench-separation DATA=folder       # with images/<class>/… and truth.csv: path, class, kind

The reference is the original's: in each class, Ward clustering into two on the standardised means of hue, lightness
and saturation, told which classes hold photographs and which of the two clusters they are. Gesso is told nothing.
Prints F1 of photographs by class, and ends with one line of JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.core.step import execute, load


def measure(data: Path, store: str) -> tuple[pd.DataFrame, dict[str, float]]:
    """F1 of photographs by class for both ways, and the summary."""
    images = separated(data / "images", store)
    truth = pd.read_csv(data / "truth.csv").assign(key=lambda table: table["path"].str.removeprefix("images/"))
    images = images.merge(truth[["key", "kind"]], on="key")
    images["truth"] = images["kind"] == "photo"
    images["gesso"] = images["verdict"] == "photo"
    images["ward"] = False
    for _, group in images.groupby("class"):
        if group["truth"].any():
            images.loc[group.index, "ward"] = ward_of_means(group)
    rows = []
    for name, group in images.groupby("class"):
        scores = {way: f1(group["truth"], group[way]) for way in ("gesso", "ward")}
        lost = float((group["gesso"] & ~group["truth"]).sum() / max(1, (~group["truth"]).sum()))
        rows.append({"class": name, "images": len(group), "photos": int(group["truth"].sum()), **scores, "lost": lost})
    table = pd.DataFrame(rows)
    contaminated = table["photos"] > 0
    summary = {
        "photo_f1": f1(images["truth"], images["gesso"]),
        "lowest_class_f1": float(table.loc[contaminated, "gesso"].min()),
        "clean_loss": float(table.loc[~contaminated, "lost"].max()),
        "ward_photo_f1": f1(images["truth"], images["ward"]),
    }
    return table, summary


def separated(dataset: Path, store: str) -> pd.DataFrame:
    """Gesso's verdicts, with the scan's means."""

    def step(name: str, inputs: dict[str, str], **params: object) -> Artifact:
        return execute(name, inputs, load(name).params.of(params), store).artifact

    snapshot = step("snapshot", {}, dataset=str(dataset))
    scan = step("scan", {"snapshot": snapshot.uri})
    validate = step("validate", {"scan": scan.uri})
    cluster = step("cluster", {"validate": validate.uri, "scan": scan.uri})
    means = scan.table("scan.parquet", ["key", "hue", "lightness", "saturation"])
    return cluster.table("verdicts.parquet").merge(means, on="key")


def ward_of_means(group: pd.DataFrame) -> np.ndarray:
    """The original's clusters of a class, with an oracle that says which of the two is the photographs: bool [n]."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.preprocessing import StandardScaler

    means = StandardScaler().fit_transform(group[["hue", "lightness", "saturation"]])
    second = AgglomerativeClustering(2, linkage="ward").fit_predict(means) == 1
    return max(second, ~second, key=lambda photos: f1(group["truth"], pd.Series(photos, group.index)))


def f1(truth: "pd.Series[Any]", found: "pd.Series[Any]") -> float:
    """F1 of photographs; NaN where there are none."""
    both = 2 * int((truth & found).sum())
    return both / (both + int((truth ^ found).sum())) if truth.any() else float("nan")


def main() -> None:
    """Measure, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.separation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images/<class>/… and truth.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        table, summary = measure(options.data, store)
    print(table.to_string(index=False, float_format="{:.3f}".format, na_rep="–"))
    print(json.dumps({name: round(value, 4) for name, value in summary.items()}))


if __name__ == "__main__":
    main()
