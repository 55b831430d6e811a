"""The demo data set: the same each time, like the original in its proportions, with every kind of trouble in it."""

import csv
import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.core.errors import DataError, ParamsError
from tasks.demo import CLASSES, LAST_ARRIVAL, MARKER, WEEKS, class_counts, make_demo, plan
from tasks.vision.oddities import BROKEN, ODD, ORIENTATION

IMAGES = 300
MOSTLY_PHOTOS = ("L2_3", "L2_12", "L2_24")
FEWER_PHOTOS = ("L2_41", "L2_50")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    make_demo(folder, images=IMAGES, size=64)
    return folder


def truth(folder: Path) -> list[dict[str, str]]:
    with folder.with_name(f"{folder.name}.truth.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def loaded(path: Path) -> Image.Image:
    image = Image.open(BytesIO(path.read_bytes()))
    image.load()
    return image


def of_kind(folder: Path, note: str) -> list[Path]:
    return [folder / row["path"] for row in truth(folder) if row["note"].split(" of ")[0] == note]


def contents(folder: Path) -> dict[str, tuple[str, float]]:
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime)
        for path in folder.rglob("*.*")
        if path.parent != folder and path.name not in (".DS_Store", "Thumbs.db")
    }


def test_one_seed_gives_the_same_bytes_and_times(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "again", images=IMAGES, size=64)
    assert contents(tmp_path / "again") == contents(demo)


def test_another_seed_gives_other_pictures(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "other", images=IMAGES, size=64, seed=1)
    hashes = [{digest for digest, _ in contents(folder).values()} for folder in (demo, tmp_path / "other")]
    empty_or_text = 2
    assert len(hashes[0] & hashes[1]) <= empty_or_text


def test_the_truth_names_every_file(demo: Path) -> None:
    rows = truth(demo)
    assert len(rows) == IMAGES
    assert {row["path"] for row in rows} == set(contents(demo))
    assert all(row["path"].split("/")[0] == row["class"] for row in rows)


@pytest.mark.parametrize("images", [300, 1600, 4001])
def test_classes_keep_the_originals_order_of_size(images: int) -> None:
    counts = class_counts(images)
    assert sum(counts.values()) == images
    by_original = sorted(CLASSES, key=lambda name: CLASSES[name].original)
    assert [counts[name] for name in by_original] == sorted(counts.values())
    assert counts["L2_33"] > 10 * counts["L2_40"]


def test_photographs_are_the_majority_in_three_of_the_five_classes_that_have_them() -> None:
    files = plan(1600, seed=0)
    shares = {name: np.mean([file.kind == "photo" for file in files if file.class_name == name]) for name in CLASSES}
    assert all(0.65 <= shares[name] <= 0.77 for name in MOSTLY_PHOTOS)
    assert all(0.2 <= shares[name] <= 0.4 for name in FEWER_PHOTOS)
    assert all(share == 0 for name, share in shares.items() if name not in MOSTLY_PHOTOS + FEWER_PHOTOS)


def test_every_kind_of_trouble_is_planned_twice_at_least() -> None:
    notes = [file.note for file in plan(IMAGES, seed=0)]
    kinds = [*ODD, *BROKEN, "exact duplicate", "near duplicate", "exact duplicate in another class"]
    assert all(notes.count(kind) >= 2 for kind in kinds)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("alpha", {"format": "PNG", "mode": "RGBA"}),
        ("palette with transparency", {"format": "PNG", "mode": "P"}),
        ("grey JPEG", {"format": "JPEG", "mode": "L"}),
        ("grey PNG", {"format": "PNG", "mode": "L"}),
        ("CMYK", {"format": "JPEG", "mode": "CMYK"}),
        ("PNG named .jpg", {"format": "PNG", "mode": "RGB"}),
        ("WebP", {"format": "WEBP", "n_frames": 1}),
        ("animated GIF", {"format": "GIF", "n_frames": 4}),
        ("animated WebP", {"format": "WEBP", "n_frames": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_odd_formats_are_what_they_say(demo: Path, note: str, expected: dict[str, Any]) -> None:
    for path in of_kind(demo, note):
        image = loaded(path)
        assert {name: getattr(image, name) for name in expected} == expected


@pytest.mark.parametrize("note", ["alpha", "palette with transparency"])
def test_paper_of_a_cutout_is_transparent_black(demo: Path, note: str) -> None:
    for path in of_kind(demo, note):
        pixels = np.asarray(loaded(path).convert("RGBA"))
        clear = pixels[..., 3] == 0
        assert 0.05 < clear.mean() < 0.99
        assert pixels[clear].max() == 0


def test_sixteen_bit_png_has_sixteen_bits(demo: Path) -> None:
    for path in of_kind(demo, "16 bits a channel"):
        pixels = np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED))
        assert pixels.dtype == np.uint16
        assert pixels.max() > 255


def test_turned_jpeg_says_so_in_exif(demo: Path) -> None:
    assert [loaded(path).getexif()[ORIENTATION] for path in of_kind(demo, "EXIF orientation 6")] == [6, 6]


@pytest.mark.parametrize("note", BROKEN)
def test_broken_files_cannot_be_read(demo: Path, note: str) -> None:
    for path in of_kind(demo, note):
        with pytest.raises((OSError, SyntaxError)):
            loaded(path)


def test_all_other_files_can_be_read(demo: Path) -> None:
    for row in truth(demo):
        if row["kind"] != "broken":
            assert min(loaded(demo / row["path"]).size) > 20


def test_duplicates_are_duplicates(demo: Path) -> None:
    rows = [row for row in truth(demo) if " of " in row["note"]]
    for row in rows:
        kind, source = row["note"].split(" of ")
        same = (demo / row["path"]).read_bytes() == (demo / source).read_bytes()
        assert same == (kind != "near duplicate")
        assert (source.split("/")[0] == row["class"]) == (kind != "exact duplicate in another class")
        copy, original = (
            np.asarray(loaded(demo / name).convert("L").resize((32, 32)), dtype=float) for name in (row["path"], source)
        )
        assert np.abs(copy - original).mean() < 8
    assert len(rows) >= 6


def test_names_are_korean_and_have_spaces(demo: Path) -> None:
    names = [path.rsplit("/", 1)[1] for path in contents(demo)]
    assert sum(any("가" <= letter <= "힣" for letter in name) for name in names) > IMAGES * 0.05
    assert sum(" " in name and name.isascii() for name in names) >= 3


def test_stray_files_lie_among_the_images(demo: Path) -> None:
    strays = [".DS_Store", "L2_33/.DS_Store", "L2_25/Thumbs.db", "README.txt", MARKER]
    assert all((demo / name).is_file() for name in strays)


def test_images_arrive_over_twelve_weeks(demo: Path) -> None:
    ages = np.array([LAST_ARRIVAL.timestamp() - modified for _, modified in contents(demo).values()])
    weeks = np.floor(ages / (7 * 24 * 3600))
    assert ages.min() >= 0
    assert set(weeks) >= set(range(WEEKS))
    assert 0.4 < (weeks >= WEEKS - 1).mean() < 0.6


def test_a_second_call_does_nothing(demo: Path) -> None:
    added = demo / "L2_3" / "mine.jpg"
    added.write_bytes(b"mine")
    before = demo.stat().st_ino, (demo / MARKER).stat().st_mtime_ns
    try:
        summary = make_demo(demo, images=IMAGES, size=64)
        assert added.read_bytes() == b"mine"
        assert (demo.stat().st_ino, (demo / MARKER).stat().st_mtime_ns) == before
        assert summary["images"] == IMAGES
        assert summary["photographs"] == sum(row["kind"] == "photo" for row in truth(demo))
    finally:
        added.unlink()


def test_a_killed_half_is_not_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    written = []
    write_bytes = Path.write_bytes

    def killed(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 50:
            raise KeyboardInterrupt
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        make_demo(folder, images=IMAGES, size=32)
    monkeypatch.undo()
    assert not folder.exists()
    make_demo(folder, images=IMAGES, size=32)
    assert len(contents(folder)) == IMAGES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.truth.csv"]


@pytest.mark.parametrize("there", ["an image", "another demo", "a file"])
def test_what_is_there_is_not_overwritten(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "set"
    if there == "a file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        (folder / {"an image": "mine.jpg", "another demo": MARKER}[there]).write_text('{"made": {"seed": 7}}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="is there already"):
        make_demo(folder, images=IMAGES, size=32)
    assert sorted(tmp_path.rglob("*")) == before


def test_too_small_a_set_and_a_seed_below_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="at least 300 images"):
        make_demo(tmp_path / "set", images=20)
    with pytest.raises(ParamsError, match="seed is -1"):
        make_demo(tmp_path / "set", seed=-1)
