"""The exploration: its numbers against the table, names that are no names, and the same bytes again."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.store import LocalStore
from tests.tasks.artifacts_by_hand import CLASSES, images_table, scanned, validated

RunStep = Callable[..., Artifact]
HOSTILE = {
    "cost $x_2$ and $y": 9,
    '"><img src=x onerror=alert(1)>': 9,
    "two\nlines\x01 and \u202e": 9,
    "n" * 200: 9,
    "한국어 😀": 9,
}


def explored(store: LocalStore, folder: Path, run_step: RunStep, images: pd.DataFrame) -> Artifact:
    by_hand = folder / "by-hand"
    by_hand.mkdir(exist_ok=True)
    scans = scanned(store, by_hand, images)
    return run_step("eda", {"validate": validated(store, by_hand, images, scans), "scan": scans})


def test_counts_and_medians_are_the_tables(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    images = images_table(CLASSES)
    eda = explored(store, tmp_path, run_step, images)

    per_class = pd.DataFrame(eda.json("eda.json")["per_class"]).set_index("class")
    assert per_class["images"].to_dict() == CLASSES
    assert list(per_class.index) == ["L2_10", "L2_12", "L2_3"], "largest first"
    for name, rows in images.groupby("class"):
        readable = rows.loc[rows["status"] == "ok"]
        shown = per_class.loc[name]
        assert shown[["kept", "unreadable", "duplicates", "conflicts"]].tolist() == [len(rows) - 3, 1, 1, 1]
        assert shown["brightness_median"] == pytest.approx(readable["brightness"].median(), abs=1e-3)
        assert shown["width_median"] == 300

    boxes = eda.table("figures/brightness.parquet").set_index("class")
    readable = images.loc[(images["class"] == "L2_3") & (images["status"] == "ok"), "brightness"]
    assert boxes.loc["L2_3", "p25"] == pytest.approx(np.percentile(readable, 25), rel=1e-5)
    assert boxes["median"].is_monotonic_decreasing
    assert eda.table("figures/counts.parquet")["images"].sum() == len(images)
    assert eda.table("figures/sizes.parquet")["images"].sum() == (images["status"] == "ok").sum()
    assert eda.metrics["images"] == len(images)


def test_every_figure_is_there_with_its_table(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    eda = explored(store, tmp_path, run_step, images_table(CLASSES))
    figures = eda.json("eda.json")["figures"]
    assert len(figures) >= 5
    for shown in figures:
        assert ET.parse(eda.path(f"figures/{shown['name']}.svg")).getroot().tag.endswith("svg")
        assert len(eda.table(f"figures/{shown['name']}.parquet")) > 0
        assert shown["title"]
        assert shown["caption"]


def test_duplicates_quarantine_and_formats(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    eda = explored(store, tmp_path, run_step, images_table(CLASSES))
    groups = eda.table("duplicate_groups.parquet")
    exact, near = (groups.loc[groups["kind"] == kind] for kind in ("exact", "near"))
    # The bytes that all three classes share, then the pair in each class.
    assert exact[["images", "classes"]].to_numpy().tolist() == [[3, 3], [2, 1], [2, 1], [2, 1]]
    assert near["first"].tolist() == ["L2_10/0002.jpg", "L2_12/0002.jpg", "L2_3/0002.jpg"]
    assert eda.metrics["exact_groups"] == 4
    assert eda.table("quarantined.parquet")["error"].tolist() == ["truncated JPEG"] * 3
    assert eda.table("formats.parquet")["images"].sum() == sum(CLASSES.values()) - 3

    sheets = {(sheet["class"], sheet["kind"]): sheet for sheet in eda.json("sheets.json")}
    assert set(sheets) == {("L2_3", "class"), ("L2_10", "class"), ("L2_12", "class"), ("", "exact"), ("", "near")}
    assert sheets["", "near"]["groups"][0] == ["L2_10/0002.jpg", "L2_10/0003.jpg"]
    rows_of_tiles = cv2.imread(str(eda.path(sheets["", "exact"]["file"]))).shape[0] // 112
    assert rows_of_tiles == 4, "one group a row"


def test_a_sheet_shows_pictures_once_and_keeps_them_when_data_are_added(
    store: LocalStore, tmp_path: Path, run_step: RunStep
) -> None:
    first = explored(store, tmp_path, run_step, images_table({"a": 60, "b": 9}))
    later = explored(store, tmp_path, run_step, images_table({"a": 66, "b": 9}))
    before, after = (set(eda.json("sheets.json")[0]["groups"][0]) for eda in (first, later))
    assert len(before) == len(after) == 40
    assert len(before & after) >= 34, "each new picture takes the place of at most one"
    assert not {"a/0000.jpg", "a/0001.jpg"} <= before, "the same bytes twice"


def test_names_of_any_kind_give_valid_figures(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    eda = explored(store, tmp_path, run_step, images_table(HOSTILE))
    root = ET.parse(eda.path("figures/counts.svg")).getroot()
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert "cost $x_2$ and $y" in texts, "no mathematics"
    assert '"><img src=x onerror=alert(…' in texts
    assert "n" * 27 + "…" in texts
    assert "한국어 😀" in texts
    assert set(pd.DataFrame(eda.json("eda.json")["per_class"])["class"]) == set(HOSTILE)
    assert not any(name in file for file in eda.names() for name in HOSTILE)


def test_a_hundred_classes(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    eda = explored(store, tmp_path, run_step, images_table({f"class {number}": 4 for number in range(100)}))
    assert len(eda.json("eda.json")["per_class"]) == 100
    assert len([sheet for sheet in eda.json("sheets.json") if sheet["kind"] == "class"]) == 100


def test_where_no_image_can_be_read_the_figures_are_empty(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    images = images_table({"a": 3, "b": 3})
    images[["status", "verdict", "error"]] = ["unreadable", "quarantined", "empty file"]
    images[["exact_group", "duplicate_group"]] = -1
    eda = explored(store, tmp_path, run_step, images)
    assert eda.table("figures/brightness.parquet").empty


def test_a_class_without_a_readable_image_has_no_medians(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    images = images_table({"a": 8, "b": 8})
    lost = images["class"] == "b"
    images.loc[lost, ["status", "verdict", "error"]] = ["unreadable", "quarantined", "empty file"]
    images.loc[lost, ["exact_group", "duplicate_group"]] = -1
    per_class = {row["class"]: row for row in explored(store, tmp_path, run_step, images).json("eda.json")["per_class"]}
    assert per_class["b"]["unreadable"] == 8
    assert per_class["b"]["brightness_median"] is None
    assert per_class["a"]["brightness_median"] > 0


def test_the_same_data_give_the_same_bytes(store: LocalStore, tmp_path: Path, run_step: RunStep) -> None:
    images = images_table(CLASSES)
    first = explored(store, tmp_path, run_step, images)
    store.delete(f"{first.folder}/artifact.json")
    again = explored(store, tmp_path, run_step, images)
    assert first.manifest["files"].keys() == again.manifest["files"].keys()
    for name in first.names():
        assert first.manifest["files"][name]["sha256"] == again.manifest["files"][name]["sha256"], name
