import csv
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.errors import DataError, ParamsError
from tasks.core.ledger import COLUMNS, VERDICTS
from tasks.core.store import LocalStore, open_store
from tasks.resample import PARTS, Params, count, sample, split

from .artifacts_by_hand import committed, output

RunStep = Callable[..., Artifact]
Made = dict[str, Artifact]
HOSTILE = '=HYPERLINK("http://x")'


def sha(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def table(sizes: dict[str, int], first: int = 0, alike: int = 1) -> pd.DataFrame:
    """Rows of validate's images.parquet: `alike` images in each duplicate group, a day for each number."""
    keys = [(name, number) for name, size in sizes.items() for number in range(first, first + size)]
    frame = pd.DataFrame(
        {
            "key": [f"{name}/{number:05}.png" for name, number in keys],
            "class": [name for name, _ in keys],
            "modified": [pd.Timestamp("2022-01-01", tz="UTC") + pd.Timedelta(number, "h") for _, number in keys],
            "sha256": [sha(key) for key in keys],
            "duplicate_group": pd.factorize(pd.Series([f"{name}/{number // alike}" for name, number in keys]))[0],
            "verdict": "kept",
        }
    )
    return frame.sort_values("key", ignore_index=True)


def shares(images: pd.DataFrame, part: "pd.Series[str]") -> pd.DataFrame:
    return pd.crosstab(images["class"], part, normalize="index")


def test_shares_are_about_right_in_each_of_20_classes() -> None:
    images = table({f"L2_{number}": 180 + 60 * number for number in range(20)})
    found = shares(images, split(images, 0.1, 0.15))
    size = images["class"].value_counts()
    for part, share in {"validation": 0.1, "test": 0.15, "train": 0.75}.items():
        assert (found[part] - share).abs().le(3.5 * np.sqrt(share * (1 - share) / size)).all()
        assert found[part].mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("alike", [2, 5])
def test_no_duplicate_group_is_in_two_parts(alike: int) -> None:
    images = table({"L2_3": 400, "L2_10": 300}, alike=alike)
    across = images["key"].isin(["L2_3/00000.png", "L2_10/00007.png", "L2_10/00107.png"])
    images.loc[across, "duplicate_group"] = 999
    part = split(images, 0.1, 0.1)
    assert set(part) == set(PARTS)
    assert part.groupby(images["duplicate_group"]).nunique().max() == 1


def test_added_images_move_none_that_were_there() -> None:
    before = table({"L2_3": 300, "L2_10": 40, "L2_40": 9}, alike=3)
    more = table({"L2_3": 200, "L2_10": 500, "L2_40": 90, "L2_1": 50}, first=1000)
    more["duplicate_group"] += 5000
    # Look-alikes of old images join their groups.
    more.loc[:50, "duplicate_group"] = before["duplicate_group"].to_numpy()[:51]
    after = pd.concat([more, before]).sort_values("key", ignore_index=True)
    assert before.groupby("class")["duplicate_group"].nunique().min() == 3

    old = split(before, 0.2, 0.2).set_axis(before["key"])
    new = split(after, 0.2, 0.2).set_axis(after["key"])
    small = before.set_index("key")["class"] == "L2_40"  # three groups only: parts were filled by hand there
    assert (new[old.index] == old)[~small].all()


def test_a_wider_test_share_keeps_what_was_in_test() -> None:
    images = table({"L2_3": 500, "L2_10": 500})
    narrow, wide = split(images, 0.1, 0.1), split(images, 0.1, 0.2)
    assert (wide[narrow == "test"] == "test").all()
    assert (wide == "test").sum() > (narrow == "test").sum()


def test_verdicts_do_not_move_images() -> None:
    images = table({"L2_3": 300, "L2_10": 300}, alike=2)
    part = split(images, 0.1, 0.1)
    fewer = images.assign(verdict=np.where(np.arange(len(images)) % 2, "kept", "photo"))
    assert split(fewer, 0.1, 0.1).tolist() == part.where(fewer["verdict"] == "kept", "").tolist()


@pytest.mark.parametrize("seed", range(8))
def test_a_class_of_three_groups_has_one_in_each_part(seed: int) -> None:
    images = table({f"L2_{number}": 3 for number in range(30)}, first=seed * 1000)
    assert (pd.crosstab(images["class"], split(images, 0.1, 0.1)) == 1).all(axis=None)


@pytest.mark.parametrize("size", [4, 5, 12])
def test_no_part_of_a_small_class_is_empty(size: int) -> None:
    images = table({f"L2_{number}": size for number in range(40)})
    assert (pd.crosstab(images["class"], split(images, 0.1, 0.1)) > 0).all(axis=None)


def test_only_groups_that_no_other_class_has_are_moved() -> None:
    images = table({"L2_3": 3, "L2_10": 3})
    images["duplicate_group"] = [0, 1, 2, 0, 1, 2]
    part = split(images, 0.01, 0.01)
    assert part.groupby(images["duplicate_group"]).nunique().max() == 1


@pytest.mark.parametrize("size", [1, 2])
def test_a_class_of_one_or_two_groups_trains_on_all_of_them(size: int) -> None:
    images = table({f"L2_{number}": size for number in range(40)} | {"L2_99": 50})
    part = split(images, 0.3, 0.3)
    assert set(part[images["class"] != "L2_99"]) == {"train"}
    assert set(part[images["class"] == "L2_99"]) == set(PARTS)


def drawn(images: pd.DataFrame, **params: Any) -> pd.DataFrame:
    images = images.assign(reason="", decided_by="clustering", part=split(images, 0.1, 0.1))
    return sample(images, Params(**params)).set_index("key")


def test_training_images_are_sampled_to_the_limits_and_the_others_are_not() -> None:
    images = table({"large": 900, "right": 500, "small": 100, "tiny": 7})
    found = drawn(images, min_per_class=250, max_per_class=600).reset_index()
    counts = count(found).set_index("class")

    assert counts["train_drawn"].to_dict() == {
        "large": 600, "right": counts.loc["right", "train"], "small": 250, "tiny": 250
    }  # fmt: skip
    assert 250 < counts.loc["right", "train"] < 600
    assert counts["kept"].to_dict() == {"large": 900, "right": 500, "small": 100, "tiny": 7}
    assert (counts[list(PARTS)].sum(axis=1) == counts["kept"]).all()
    assert set(found.loc[found["part"].isin(["validation", "test"]), "copies"]) == {1}
    for name in ("small", "tiny"):  # no image is drawn twice more than another
        copies = found.loc[(found["class"] == name) & (found["part"] == "train"), "copies"]
        assert copies.max() - copies.min() <= 1
    left = found[found["verdict"] == "undersampled"]
    assert len(left) == counts.loc["large", "train"] - 600
    assert set(left["copies"]) == {0}
    assert set(left["part"]) == {"train"}
    assert (
        left["reason"].iloc[0] == f"not drawn: 600 of the class's {counts.loc['large', 'train']:,} training images are"
    )


def test_the_seed_decides_which_images_are_drawn() -> None:
    images = table({"large": 900, "small": 100})
    first, again, other = (drawn(images, min_per_class=250, max_per_class=600, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert (first["part"] == other["part"]).all()
    for name in ("large", "small"):
        assert (first["copies"] != other["copies"])[first["class"] == name].any()


def test_a_class_is_sampled_independently_of_the_others() -> None:
    both = drawn(table({"large": 900, "small": 100}), min_per_class=250, max_per_class=600)
    alone = drawn(table({"large": 900}), min_per_class=250, max_per_class=600)
    assert both.loc[alone.index, "copies"].equals(alone["copies"])


def test_added_images_change_few_of_those_drawn() -> None:
    before = drawn(table({"large": 900}), max_per_class=600)
    after = drawn(table({"large": 950}), max_per_class=600)
    kept = (before["copies"] > 0) & (before["part"] == "train")
    assert (after.loc[before.index, "copies"] > 0)[kept].mean() > 0.9


@pytest.fixture
def make(store: LocalStore, tmp_path: Path) -> Callable[..., Made]:
    """Artifacts of snapshot, validate and cluster about real files. Of each class the last image is unreadable, and
    `photos` of them are photographs."""
    folder = tmp_path / "by-hand"
    folder.mkdir()

    def made(sizes: dict[str, int], photos: dict[str, int] | None = None, dataset: str = "") -> Made:
        dataset = dataset or str(tmp_path / "data")
        files, random, rows = open_store(dataset), np.random.default_rng(0), []
        for name, size in sizes.items():
            for number in range(size + 1):
                key = f"{name}/{number:03} 한.png"
                picture = cv2.resize(random.integers(0, 255, (5, 5, 3), np.uint8), (48 + number % 3, 40))
                data = cv2.imencode(".png", picture)[1].tobytes() if number < size else b"not an image"
                files.put(key, data)
                rows.append(
                    {
                        "key": key, "class": name, "width": 48 + number % 3, "height": 40,
                        "modified": pd.Timestamp("2022-01-01", tz="UTC"), "sha256": hashlib.sha256(data).hexdigest(),
                        "verdict": "kept" if number < size else "quarantined",
                        "reason": "" if number < size else "not an image",
                    }
                )  # fmt: skip
        images = pd.DataFrame(rows).sort_values("key", ignore_index=True)
        listed = files.list_as_of("", datetime.max.replace(tzinfo=UTC)) or files.list()
        images["version"] = images["key"].map({found.key: found.version for found in listed})
        kept = images["verdict"] == "kept"
        images["duplicate_group"] = np.where(kept, np.arange(len(images)), -1).astype(np.int32)
        artifacts = {}
        out = output(folder, store, "snapshot")
        out.json("snapshot.json", {"dataset": files.uri})
        artifacts["snapshot"] = committed(out, "snapshot")
        out = output(folder, store, "validate")
        out.table("images.parquet", images)
        artifacts["validate"] = committed(out, "validate")
        judged = images.loc[kept, ["key", "class"]]
        photo = judged.groupby("class").cumcount() < judged["class"].map(photos or {}).fillna(0)
        judged = judged.assign(
            photo_probability=np.where(photo, 0.97, 0.02).astype(np.float32),
            verdict=np.where(photo, "photo", "illustration"),
            reasons=np.where(photo, "smooth", "flat colours"),
            decided_by="clustering",
            cluster=photo.astype(np.int32),
        )
        out = output(folder, store, "cluster")
        out.table("verdicts.parquet", judged)
        artifacts["cluster"] = committed(out, "cluster")
        return artifacts

    return made


SIZES = {"L2_3": 30, "L2_10": 60, HOSTILE: 5}
SMALL = {"min_per_class": 20, "max_per_class": 40}


def test_the_ledger_has_a_row_and_a_reason_for_every_image(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("resample", make(SIZES, {"L2_3": 10}), **SMALL)

    ledger = made.table("ledger.parquet")
    assert list(ledger.columns) == list(COLUMNS)
    assert len(ledger) == sum(SIZES.values()) + len(SIZES)
    assert ledger["key"].is_monotonic_increasing
    assert set(ledger["verdict"]) == {"kept", "photo", "quarantined", "undersampled"} <= set(VERDICTS)
    reasons = ledger.drop_duplicates("verdict").set_index("verdict")
    assert reasons.loc["photo", ["reason", "decided_by", "part", "copies"]].tolist() == [
        "photo 0.97: smooth", "clustering", "", 0
    ]  # fmt: skip
    assert reasons.loc["quarantined", ["reason", "decided_by"]].tolist() == ["not an image", "validation"]
    assert reasons.loc["undersampled", "decided_by"] == "sampling"
    assert np.isnan(reasons.loc["quarantined", "photo_probability"])
    with made.path("ledger.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ledger)
    assert not any(value.startswith(("=", "+", "@")) for line in lines for value in line.values())


def test_each_used_image_has_its_row(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("resample", make(SIZES), **SMALL)
    table, ledger, names = made.table("used.parquet"), made.table("ledger.parquet"), made.json("classes.json")
    assert names == sorted(SIZES)
    used = ledger[ledger["copies"] > 0].reset_index(drop=True)
    same = ["key", "class", "part", "copies", "sha256"]
    assert table[same].equals(used[same])
    assert table["row"].tolist() == list(range(len(used)))
    assert [names[label] for label in table["label"]] == table["class"].tolist()

    counts = made.table("counts.parquet").set_index("class")
    assert counts["snapshot"].to_dict() == {name: size + 1 for name, size in SIZES.items()}
    assert counts["train_drawn"].between(20, 40).all()
    assert made.metrics == {
        "images": len(table), "classes": 3, "untested_classes": 0,
        **{name: int(counts[name].sum()) for name in ("train", "train_drawn", "validation", "test")},
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes(make: Callable[..., Made], run_step: RunStep, store: LocalStore) -> None:
    inputs = make(SIZES, {"L2_3": 5})
    made = []
    for _ in range(2):
        artifact = run_step("resample", inputs, **SMALL)
        made.append({name: artifact.path(name).read_bytes() for name in artifact.names()})
        store.delete(f"{artifact.folder}/artifact.json")  # else the second run finds the first
    assert made[0] == made[1]


def test_photographs_stay_where_the_run_wants_them(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("resample", make(SIZES, {"L2_3": 30}), drop_photos=False, **SMALL)
    ledger = made.table("ledger.parquet").query("`class` == 'L2_3' and verdict == 'kept'")
    assert set(ledger["reason"]) == {"photo 0.97: smooth"}


def test_what_is_unsure_is_kept_and_says_so(make: Callable[..., Made], run_step: RunStep, tmp_path: Path) -> None:
    inputs = make(SIZES, {"L2_3": 4})
    judged = inputs["cluster"].table("verdicts.parquet")
    out = output(tmp_path, inputs["cluster"].store, "cluster")
    out.table("verdicts.parquet", judged.assign(verdict=judged["verdict"].replace("photo", "unsure")))
    made = run_step("resample", inputs | {"cluster": committed(out, "cluster", other=True)}, **SMALL)
    found = made.table("ledger.parquet").query("reason.str.startswith('unsure')")
    assert len(found) == 4
    assert set(found["verdict"]) == {"kept"}
    assert set(found["reason"]) == {"unsure, photo 0.97: smooth"}


def test_a_class_of_one_image_trains_and_is_named_in_the_log(
    make: Callable[..., Made], run_step: RunStep, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_step("resample", make({"L2_3": 30, "L2_10": 1}), **SMALL)
    counts = made.table("counts.parquet").set_index("class").loc["L2_10"]
    assert counts[["train", "train_drawn", "validation", "test"]].tolist() == [1, 20, 0, 0]
    assert made.metrics["untested_classes"] == 1
    assert "too few different images to validate or test: L2_10" in capsys.readouterr().out


def test_a_class_with_nothing_left_is_named_with_what_became_of_its_images(
    make: Callable[..., Made], run_step: RunStep, store: LocalStore
) -> None:
    with pytest.raises(DataError, match=r"left to train on in 'L2_10' \(60 photo, 1 quarantined\)\..*drop_photos"):
        run_step("resample", make(SIZES, {"L2_10": 60}), **SMALL)
    assert any(found.key.endswith("ledger.csv") for found in store.list("failed/resample/"))


def test_one_class_alone_is_refused(make: Callable[..., Made], run_step: RunStep) -> None:
    with pytest.raises(DataError, match="There is one class only, 'L2_3'"):
        run_step("resample", make({"L2_3": 10}), **SMALL)


def test_limits_that_contradict_each_other(make: Callable[..., Made], run_step: RunStep) -> None:
    with pytest.raises(ParamsError, match="min_per_class = 50 is more than max_per_class = 40"):
        run_step("resample", make({"L2_3": 3}), min_per_class=50, max_per_class=40)


def test_artifacts_of_different_data_are_refused(make: Callable[..., Made], run_step: RunStep) -> None:
    inputs = make(SIZES) | {"cluster": make({"L2_3": 30})["cluster"]}
    with pytest.raises(DataError, match="not about the same images"):
        run_step("resample", inputs, **SMALL)
