from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.errors import DataError, ParamsError
from tasks.core.store import LocalStore
from tasks.vision.features import FEATURE_NAMES, describe

from .artifacts_by_hand import committed, output
from .vision.pictures import drawing, photograph

Made = dict[str, Artifact | list[Artifact]]
RunStep = Callable[..., Artifact]
MIXED = {"L2_10": (40, 0), "L2_12": (14, 30), "L2_24": (36, 12), "작은 <b>": (1, 0)}


@cache
def picture(photo: bool, seed: int) -> tuple[np.ndarray, bytes]:
    rgb = photograph(seed) if photo else drawing(seed)
    return describe(rgb), cv2.imencode(".jpg", rgb[:, :, ::-1])[1].tobytes()


@pytest.fixture
def make(store: LocalStore, tmp_path: Path) -> Callable[[dict[str, tuple[int, int]]], Made]:
    """Artifacts of `scan` (two shards) and `validate` with so many drawings and photographs in each class.

    A photograph's key ends in "p.jpg". One image more of each class is quarantined. `copies`: keys of images that are
    duplicates, with the kept image that each is a copy of.
    """
    folder = tmp_path / "by-hand"
    folder.mkdir()

    def made(classes: dict[str, tuple[int, int]], copies: dict[str, str] | None = None) -> Made:
        rows = [
            (
                f"{name}/{number:03}{'p' if number >= drawings else 'd'}.jpg",
                name,
                number >= drawings,
                1000 * place + number,
            )
            for place, (name, (drawings, photographs)) in enumerate(classes.items())
            for number in range(drawings + photographs)
        ]
        rows.sort()
        out = output(folder, store, "snapshot")
        out.json("snapshot.json", {"dataset": str(tmp_path / "pictures")})
        snapshot = committed(out, "snapshot")
        shards = []
        for shard in (0, 1):
            out = output(folder, store, "scan")
            some = [(key, *picture(photo, seed)) for key, _, photo, seed in rows[shard::2]]
            keys = [key for key, *_ in some]
            features = pd.DataFrame([found for _, found, _ in some], columns=list(FEATURE_NAMES))
            features.insert(0, "key", keys)
            out.table("features.parquet", features)
            out.table("thumbnails.parquet", pd.DataFrame({"key": keys, "jpeg": [jpeg for *_, jpeg in some]}))
            shards.append(committed(out, "scan", {"snapshot": snapshot.key}, shard=shard, shards=2))
        images = pd.DataFrame({"key": [row[0] for row in rows], "class": [row[1] for row in rows], "verdict": "kept"})
        broken = [{"key": f"{name}/broken.jpg", "class": name, "verdict": "quarantined"} for name in classes]
        table = pd.concat([images, pd.DataFrame(broken)]).sort_values("key", ignore_index=True)
        table["exact_group"] = np.where(table["verdict"] == "kept", np.arange(len(table)), -1)
        # A copy of a kept image: another key of its exact group, which validate left out.
        same = pd.DataFrame(
            [{"key": key, "verdict": "duplicate", "copy_of": original} for key, original in (copies or {}).items()],
            columns=["key", "verdict", "copy_of"],
        )
        same = same.merge(table[["key", "class", "exact_group"]].rename(columns={"key": "copy_of"}), on="copy_of")
        table = pd.concat([table, same.drop(columns="copy_of")]).sort_values("key", ignore_index=True)
        out = output(folder, store, "validate")
        out.table("images.parquet", table)
        return {"validate": committed(out, "validate"), "scan": list(shards)}

    return made


def verdicts(artifact: Artifact) -> pd.DataFrame:
    return artifact.table("verdicts.parquet").set_index("key")


def test_every_kept_image_gets_its_verdict(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("cluster", make(MIXED))
    table = made.table("verdicts.parquet")
    assert list(table) == ["key", "class", "photo_probability", "verdict", "cluster", "reasons", "decided_by"]
    assert table["key"].is_monotonic_increasing
    assert not table["key"].str.contains("broken").any()
    assert (table["verdict"] == "photo").tolist() == table["key"].str.endswith("p.jpg").tolist()
    assert set(table["decided_by"]) == {"clustering"}
    assert (table["reasons"] != "").all()

    classes = made.table("classes.parquet").set_index("class")
    assert classes["photos"].to_dict() == {"L2_10": 0, "L2_12": 30, "L2_24": 12, "작은 <b>": 0}
    assert classes["contaminated"].tolist() == [False, True, True, False]
    assert classes.loc["L2_12", "photo_share"] == pytest.approx(30 / 44)
    assert "too few" in classes.loc["작은 <b>", "note"]
    assert made.metrics == {"images": 133, "photos": 42, "unsure": 0, "contaminated_classes": 2}


def test_sheets_show_what_goes_and_what_is_near_the_threshold(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("cluster", make(MIXED))
    sheets = made.json("sheets.json")
    assert [(sheet["class"], sheet["kind"], sheet["images"]) for sheet in sheets] == [
        ("L2_10", "borderline", 30), ("L2_12", "photo", 30), ("L2_12", "borderline", 44),
        ("L2_24", "photo", 12), ("L2_24", "borderline", 42), ("작은 <b>", "borderline", 1),
    ]  # fmt: skip
    assert all(key.endswith("p.jpg") for key in sheets[1]["keys"])
    for sheet in sheets:
        assert len(sheet["keys"]) == sheet["images"]
        assert cv2.imread(str(made.path(sheet["file"]))).shape[1] > 1000
    assert made.path("figures/scatter.svg").read_text().count("<svg") == 1
    assert len(made.table("figures/scatter.parquet")) == 133


def test_of_a_class_without_photographs_what_looks_like_one_is_shown(
    make: Callable[..., Made], run_step: RunStep
) -> None:
    given = make({"L2_10": (40, 2), "L2_12": (14, 30), "L2_25": (20, 0)})
    made, strict = run_step("cluster", given), run_step("cluster", given, unsure_threshold=0.8)
    assert strict.table("classes.parquet").set_index("class").loc["L2_10", "unsure"] == 2
    classes = made.table("classes.parquet").set_index("class")
    assert classes.loc["L2_10", ["contaminated", "photos", "unsure"]].tolist() == [False, 0, 2]
    sheets = {(sheet["class"], sheet["kind"]): sheet["keys"] for sheet in made.json("sheets.json")}
    assert sorted(sheets["L2_10", "unsure"]) == ["L2_10/040p.jpg", "L2_10/041p.jpg"]
    assert not set(sheets["L2_10", "borderline"]) & set(sheets["L2_10", "unsure"])
    assert {kind for name, kind in sheets if name == "L2_25"} == {"borderline"}


def test_a_person_overrules(make: Callable[..., Made], run_step: RunStep, tmp_path: Path) -> None:
    given = make(MIXED)
    before = run_step("cluster", given)
    review = tmp_path / "review.csv"
    review.write_text(
        "key,verdict\nL2_12/020p.jpg,illustration\nL2_10/003d.jpg,photo\nL2_24/000d.jpg,illustration\n"
        "gone.jpg,photo\nL2_10/broken.jpg,photo\n"
    )
    after = run_step("cluster", given, review=str(review))
    table = verdicts(after)
    assert table.loc["L2_12/020p.jpg", ["verdict", "decided_by"]].tolist() == ["illustration", "person"]
    assert table.loc["L2_10/003d.jpg", ["verdict", "decided_by"]].tolist() == ["photo", "person"]
    assert table.loc["L2_12/020p.jpg", "photo_probability"] > 0.8
    assert "clustering said photo" in table.loc["L2_12/020p.jpg", "reasons"]
    assert (table["decided_by"] == "person").sum() == 3
    changed = table["verdict"] != verdicts(before)["verdict"]
    assert changed[changed].index.tolist() == ["L2_10/003d.jpg", "L2_12/020p.jpg"]
    assert (after.metrics["reviewed"], after.metrics["reviewed_without_image"]) == (3, 2)
    review.write_text("key,verdict\ngone.jpg,photo\n")
    left = run_step("cluster", given, review=str(review))
    assert verdicts(left).equals(verdicts(before))
    assert (left.metrics["reviewed"], left.metrics["reviewed_without_image"]) == (0, 1)
    # A class in which only a person saw a photograph shows it too.
    assert after.table("classes.parquet").set_index("class")["contaminated"].to_dict()["L2_10"]
    assert ["L2_10/003d.jpg"] in [sheet["keys"] for sheet in after.json("sheets.json")]


COPIES = {"L2_12/new.jpg": "L2_12/020p.jpg", "L2_12/old.jpg": "L2_12/020p.jpg", "L2_10/old.jpg": "L2_10/003d.jpg"}


def test_a_verdict_on_a_copy_counts_for_the_picture(
    make: Callable[..., Made], run_step: RunStep, tmp_path: Path
) -> None:
    given, review = make(MIXED, COPIES), tmp_path / "review.csv"
    review.write_text(
        "key,verdict\nL2_12/old.jpg,illustration\nL2_10/003d.jpg,photo\nL2_10/old.jpg,photo\ngone.jpg,photo\n"
    )
    made = run_step("cluster", given, review=str(review))
    table = verdicts(made)
    assert table.loc["L2_12/020p.jpg", ["verdict", "decided_by"]].tolist() == ["illustration", "person"]
    assert table.loc["L2_12/020p.jpg", "reasons"].startswith(
        "the review file says so of its copy L2_12/old.jpg; clustering said photo: "
    )
    assert table.loc["L2_10/003d.jpg", "reasons"].startswith("the review file says so; clustering said illustration: ")
    assert (table["decided_by"] == "person").sum() == 2
    assert (made.metrics["reviewed"], made.metrics["reviewed_without_image"]) == (2, 1)


def test_copies_of_one_picture_have_one_verdict(make: Callable[..., Made], run_step: RunStep, tmp_path: Path) -> None:
    review = tmp_path / "review.csv"
    review.write_text("key,verdict\nL2_12/old.jpg,illustration\nL2_12/new.jpg,photo\n")
    said = (
        r"review\.csv gives one picture two verdicts: 'L2_12/old.jpg' is illustration, and 'L2_12/new.jpg', the same "
        r"bytes, is photo; leave one"
    )
    with pytest.raises(DataError, match=said):
        run_step("cluster", make(MIXED, COPIES), review=str(review))


def test_a_review_file_beside_the_data_set_is_found(
    make: Callable[..., Made], run_step: RunStep, tmp_path: Path
) -> None:
    given = make(MIXED)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "review.csv").write_text("key,verdict\nL2_10/003d.jpg,photo\n")
    table = verdicts(run_step("cluster", given))
    assert table.loc["L2_10/003d.jpg", ["verdict", "decided_by"]].tolist() == ["photo", "person"]


def test_what_the_review_file_says_is_part_of_the_key(
    make: Callable[..., Made], run_step: RunStep, tmp_path: Path
) -> None:
    given, review = make(MIXED), tmp_path / "review.csv"
    review.write_text("key,verdict\nL2_12/020p.jpg,illustration\n")
    first = run_step("cluster", given, review=str(review))
    review.write_text("key,verdict\nL2_12/021p.jpg,illustration\n")
    assert run_step("cluster", given, review=str(review)).key != first.key


@pytest.mark.parametrize(
    ("content", "error"), [(None, ParamsError), ("key,verdict\na,maybe\n", DataError)], ids=["no file", "no verdict"]
)
def test_a_bad_review_file_is_refused(
    content: str | None, error: type[Exception], make: Callable[..., Made], run_step: RunStep, tmp_path: Path
) -> None:
    review = tmp_path / "review.csv"
    if content is not None:
        review.write_text(content)
    with pytest.raises(error, match=r"review\.csv"):
        run_step("cluster", make({"L2_3": (3, 0)}), review=str(review))


def test_thresholds_come_last(make: Callable[..., Made], run_step: RunStep) -> None:
    given = make(MIXED)
    usual, strict = run_step("cluster", given), run_step("cluster", given, photo_threshold=1.0, unsure_threshold=1.0)
    all_unsure = run_step("cluster", given, photo_threshold=1.0, unsure_threshold=0.0)
    for other in (strict, all_unsure):
        pd.testing.assert_series_equal(verdicts(usual)["photo_probability"], verdicts(other)["photo_probability"])
    certain = verdicts(usual)["photo_probability"] >= 1
    assert ((verdicts(strict)["verdict"] == "photo") == certain).all()
    assert not (verdicts(strict)["verdict"] == "unsure").any()
    assert ((verdicts(all_unsure)["verdict"] == "unsure") == ~certain).all()


def test_a_list_of_contaminated_classes_spares_the_others(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("cluster", make(MIXED), contaminated=["L2_24", "gone"])
    classes = made.table("classes.parquet").set_index("class")
    assert classes["photos"].to_dict() == {"L2_10": 0, "L2_12": 0, "L2_24": 12, "작은 <b>": 0}
    assert "not among those listed" in classes.loc["L2_12", "note"]


def test_switched_off_every_image_is_an_illustration(make: Callable[..., Made], run_step: RunStep) -> None:
    made = run_step("cluster", make(MIXED), separate=False)
    table = verdicts(made)
    assert set(table["verdict"]) == {"illustration"}
    assert not table["photo_probability"].any()
    assert made.table("classes.parquet")["note"].str.contains("switched off").all()
    assert made.json("sheets.json") == []


def test_features_that_are_missing_are_an_error(make: Callable[..., Made], run_step: RunStep) -> None:
    given = make(MIXED)
    assert isinstance(given["scan"], list)
    with pytest.raises(DataError, match="no features of 66 kept images, such as"):
        run_step("cluster", given | {"scan": given["scan"][:1]})


def test_the_same_bytes_again(make: Callable[..., Made], run_step: RunStep) -> None:
    given = make(MIXED)
    first = run_step("cluster", given)
    files = {name: first.manifest["files"][name]["sha256"] for name in first.names()}
    first.store.delete(f"{first.folder}/artifact.json")
    again = run_step("cluster", given)
    assert {name: again.manifest["files"][name]["sha256"] for name in again.names()} == files
