"""The demo data set: a small, dirty, unbalanced set of illustrations with photographs among them, drawn here.

It has the class names of the data set that Gesso was made for, the same order of sizes, photographs in the
same five classes, and a sample of everything that goes wrong in a real one: broken files, odd formats,
duplicates, names that are not ASCII. `make_demo` writes `folder/<class>/<name>`, and next to the folder
`<folder>.truth.csv`, which says what each file is.
"""

import csv
import json
import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image

from tasks.core.errors import DataError, ParamsError
from tasks.vision import motifs
from tasks.vision.drawing import Motif, illustration
from tasks.vision.oddities import BROKEN, NEEDS_ALPHA, ODD, jpeg, png

Picture = NDArray[np.uint8]

MARKER = ".gesso-demo.json"
VERSION = 1
MIN_IMAGES = 300
# Raising the original's sizes to this power takes its imbalance from 34:1 to 12:1: its smallest class would
# have 11 images of 1,600 otherwise, and the test part one of them.
SOFTENING = 0.7
# How often a picture has its class's own palette, and not any class's.
PALETTE_SHARE = 0.92
SHAPES = ((1, 1), (1, 1), (1, 0.75), (0.75, 1), (0.71, 1))  # width and height; the last is A4
# Half of the set is there at the start of the twelve weeks, the rest arrives evenly until LAST_ARRIVAL.
LAST_ARRIVAL = datetime(2026, 1, 3, 23, tzinfo=UTC)
WEEKS = 12


@dataclass(frozen=True)
class Kind:
    """A class: its images in the original, what it shows, how it is drawn."""

    original: int
    motif: Motif
    korean: str  # the motif's name, for file names
    palette: str
    styles: str  # one is drawn from these; twice there, twice as likely
    photo_share: float = 0.0


SEA = "#2374ab #ff8552 #f2c14e #e8f4f8"
MEADOW = "#e4468c #f7c331 #3f8f4f #fff1f5"
VILLAGE = "#c8553d #5b7f95 #f4d35e #f6e7cb"
FOREST = "#2d6a4f #52a675 #7f5539 #e9f2e4"
HARBOUR = "#b23a48 #f5f0e6 #2f6690 #f2d0a4"
AUTUMN = "#c1272d #fff4e0 #8a5a44 #f3dfc1"
PARROT = "#f08a24 #1b8a8f #ffd23f #ffffff"
GINGER = "#e08e45 #f3b7a8 #6b4f4f #d8e86b"
FAIR = "#d7263d #fcd581 #7b4b2a #fff6e0"
ALPS = "#5c6b8a #8597b5 #f6ae2d #eaf2fb"
POSTER = "#d62828 #1d4e89 #f2b807 #1f1f1f"
MIDNIGHT = "#22306b #f6e27a #f9f5d7 #4a5bb0"
CAFE = "#8c5e4a #d9b08c #4a2c20 #fbf3e7"
GARDEN = "#b08968 #9bb26b #e6ccb2 #f3eadb"
WINGS = "#8e44ad #f39c12 #f7dc6f #fdebd0"
HERB = "#4f772d #90a955 #6b705c #ecf39e"
RAIN = "#6a4c93 #ffca3a #444b5a #e5e0f0"
ORCHARD = "#d1123f #a4133c #5f8d3b #ffe5ec"
DESERT = "#3c8d5a #56a974 #c96f4a #f1f7d5"
FROST = "#4ea8de #5e60ce #b8e0f7 #eef8ff"

CLASSES: dict[str, Kind] = {
    "L2_3": Kind(595, motifs.fish, "물고기", SEA, "flat outlined outlined crayon", photo_share=0.70),
    "L2_10": Kind(1893, motifs.flower, "꽃", MEADOW, "flat outlined painted painted crayon"),
    "L2_12": Kind(518, motifs.house, "집", VILLAGE, "flat outlined line crayon", photo_share=0.66),
    "L2_15": Kind(1509, motifs.pine, "소나무", FOREST, "flat painted painted crayon"),
    "L2_20": Kind(410, motifs.boat, "돛단배", HARBOUR, "flat outlined line painted"),
    "L2_21": Kind(410, motifs.mushroom, "버섯", AUTUMN, "flat outlined painted crayon"),
    "L2_24": Kind(782, motifs.bird, "새", PARROT, "flat flat outlined line", photo_share=0.76),
    "L2_25": Kind(6189, motifs.cat, "고양이", GINGER, "flat outlined outlined line painted crayon"),
    "L2_27": Kind(426, motifs.balloon, "열기구", FAIR, "flat outlined painted"),
    "L2_30": Kind(364, motifs.mountains, "산", ALPS, "flat painted painted crayon"),
    "L2_33": Kind(6206, motifs.blocks, "도형", POSTER, "flat flat outlined painted crayon"),
    "L2_34": Kind(419, motifs.night, "밤하늘", MIDNIGHT, "flat outlined painted"),
    "L2_39": Kind(454, motifs.cup, "찻잔", CAFE, "flat outlined line painted"),
    "L2_40": Kind(180, motifs.snail, "달팽이", GARDEN, "line line outlined crayon"),
    "L2_41": Kind(593, motifs.butterfly, "나비", WINGS, "flat outlined crayon", photo_share=0.35),
    "L2_44": Kind(547, motifs.branch, "나뭇잎", HERB, "flat line painted crayon"),
    "L2_45": Kind(631, motifs.umbrella, "우산", RAIN, "flat outlined line painted"),
    "L2_46": Kind(2214, motifs.cherries, "체리", ORCHARD, "flat outlined painted crayon"),
    "L2_50": Kind(781, motifs.cactus, "선인장", DESERT, "flat outlined line", photo_share=0.28),
    "L2_52": Kind(382, motifs.snowflake, "눈송이", FROST, "flat outlined line crayon"),
}

EXACT, NEAR, ELSEWHERE = "exact duplicate", "near duplicate", "exact duplicate in another class"
# How many of each there are among 1,600 images; there are two at least, and two of what is not named here.
FREQUENT = {
    "alpha": 60,
    "palette with transparency": 12,
    "grey JPEG": 8,
    "grey PNG": 6,
    "CMYK": 5,
    "EXIF orientation 6": 5,
    "PNG named .jpg": 4,
    EXACT: 12,
    NEAR: 16,
    ELSEWHERE: 4,
}


@dataclass(frozen=True)
class File:
    """One file to write: `note` says what is odd about it, `source` is the file it is a duplicate of."""

    index: int
    class_name: str
    stem: str
    kind: str  # "illustration", "photo" or "broken"
    note: str = ""
    source: int = -1


# The plan


def class_counts(images: int) -> dict[str, int]:
    """Images of each class, `images` in all, in the original's order of size."""
    weights = np.array([kind.original for kind in CLASSES.values()]) ** SOFTENING
    exact = weights / weights.sum() * images
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: images - counts.sum()]] += 1
    return dict(zip(CLASSES, counts.tolist(), strict=True))


def plan(images: int, seed: int) -> list[File]:
    """Every file of the set, before any is drawn. Odd files and duplicates are in the clean classes only, so
    that the share of photographs in the others is what the table says.
    """
    rng = default_rng([seed, 0])
    files: list[File] = []
    for name, count in class_counts(images).items():
        kind = CLASSES[name]
        photos = set(rng.permutation(count)[: round(kind.photo_share * count)].tolist())
        for k in range(count):
            stem = f"{kind.motif.__name__}-{k + 1:04d}"
            look = rng.random()
            if look < 0.1:
                stem = f"{kind.korean} {k + 1}"
            elif look < 0.15:
                stem = f"{kind.motif.__name__} {k + 1} (copy)"
            files.append(File(len(files), name, stem, "photo" if k in photos else "illustration"))
    often = dict.fromkeys([*ODD, *BROKEN], 2) | FREQUENT
    notes = [note for note, times in often.items() for _ in range(max(2, round(times * images / 1600)))]
    clean = [file.index for file in files if CLASSES[file.class_name].photo_share == 0]
    shuffled = rng.permutation(clean).tolist()
    plain = [files[index] for index in shuffled[len(notes) :]]
    for index, note in zip(shuffled, notes, strict=False):
        file = replace(files[index], note=note, kind="broken" if note in BROKEN else "illustration")
        if note in (EXACT, NEAR, ELSEWHERE):
            sources = [other for other in plain if (other.class_name == file.class_name) == (note != ELSEWHERE)]
            file = replace(file, source=sources[int(rng.integers(len(sources)))].index)
        files[index] = file
    return files


# Pictures


class Painter:
    """Makes the bytes of a planned file. Each picture has its own random generator, by seed and index."""

    def __init__(self, files: list[File], size: int, seed: int) -> None:
        self.files, self.size, self.seed = files, size, seed
        self.photographs = sample_photographs()

    def write(self, file: File) -> tuple[str, bytes]:
        """The file's extension and bytes."""
        rng = default_rng([self.seed, 1, file.index])
        if file.note in ODD or file.note in BROKEN:
            ext, encode = (ODD | BROKEN)[file.note]
            return ext, encode(self.picture(file, rng, cutout=file.note in NEEDS_ALPHA))
        if file.source < 0:
            picture = self.picture(file, rng)
            return ("png", png(picture)) if rng.random() < 0.15 else ("jpg", jpeg(picture))
        ext, data = self.write(self.files[file.source])
        if file.note == NEAR:
            scale = rng.uniform(0.7, 1.1)
            picture = cv2.resize(np.asarray(Image.open(BytesIO(data))), None, fx=scale, fy=scale)
            ext, data = "jpg", jpeg(np.asarray(picture), quality=75)
        return ext, data

    def picture(self, file: File, rng: Generator, cutout: bool = False) -> Picture:
        longer = self.size * rng.uniform(0.9, 1.1)
        width, height = (round(longer * side) for side in SHAPES[int(rng.integers(len(SHAPES)))])
        if file.kind == "photo":
            return photograph(self.photographs[int(rng.integers(len(self.photographs)))], width, height, rng)
        kind = CLASSES[file.class_name]
        palettes = [other.palette for other in CLASSES.values()]
        palette = kind.palette if rng.random() < PALETTE_SHARE else palettes[int(rng.integers(len(palettes)))]
        style = str(rng.choice(kind.styles.split()))
        return illustration(kind.motif, palette.split(), style, width, height, rng, cutout)


def sample_photographs() -> list[Picture]:
    """The photographs that scikit-learn ships, found without importing it, which would take seconds."""
    sklearn = find_spec("sklearn")
    if sklearn is None or sklearn.origin is None:
        raise DataError("The demo's photographs come with scikit-learn, which is not installed here.")
    folder = Path(sklearn.origin).parent / "datasets" / "images"
    return [np.asarray(Image.open(BytesIO((folder / name).read_bytes()))) for name in ("china.jpg", "flower.jpg")]


def photograph(source: Picture, width: int, height: int, rng: Generator) -> Picture:
    """A crop of a photograph at a random place and scale, perhaps mirrored, in another light."""
    tall, wide = source.shape[:2]
    # A crop of nothing but sky shows no photograph: look elsewhere then.
    for _ in range(20):
        scale = min(tall / height, wide / width) * rng.uniform(0.3, 0.95)
        crop_width, crop_height = round(width * scale), round(height * scale)
        x, y = int(rng.integers(wide - crop_width + 1)), int(rng.integers(tall - crop_height + 1))
        crop = source[y : y + crop_height, x : x + crop_width]
        if crop.std() > 45:
            break
    resized = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)[:, :: int(rng.choice((-1, 1)))]
    grey = np.linspace(0, 1, 256)[:, None]
    light = 255 * grey ** rng.uniform(0.75, 1.35) * rng.uniform(0.92, 1.08, 3)
    return np.asarray(cv2.LUT(np.ascontiguousarray(resized), light[None].clip(0, 255).astype(np.uint8)))


# The data set


def make_demo(folder: Path, images: int = 1600, size: int = 192, seed: int = 0) -> dict[str, Any]:
    """Write the demo data set, or do nothing where `folder` already holds the same one.

    The folder appears whole or not at all.

    Args:
        folder: where it goes.
        images: files in all class folders together, at least 300.
        size: about the longer side in pixels.
        seed: the same one gives the same bytes and modification times.

    Returns:
        The number of images, of each class, photographs, unreadable files and duplicates.

    Raises:
        ParamsError: too small a set, or a seed below zero.
        DataError: the folder holds anything else.
    """
    if images < MIN_IMAGES or size < 32:
        raise ParamsError(f"The demo data set needs at least {MIN_IMAGES} images of 32 pixels; got {images} of {size}.")
    if seed < 0:
        raise ParamsError(f"The demo data set's seed is {seed}; expected 0 or more.")
    folder = Path(os.path.abspath(folder))
    made = {"version": VERSION, "images": images, "size": size, "seed": seed}
    if folder.exists():
        summary = _summary_of(folder, made)
        if summary is not None:
            return summary
    files = plan(images, seed)
    painter = Painter(files, size, seed)
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    for name in CLASSES:
        (partial / name).mkdir(parents=True)
    paths = []
    for file in files:
        ext, data = painter.write(file)
        path = Path(file.class_name) / f"{file.stem}.{ext}"
        (partial / path).write_bytes(data)
        paths.append(path)
    summary = {
        "images": len(files),
        "classes": class_counts(images),
        "photographs": sum(file.kind == "photo" for file in files),
        "unreadable": sum(file.kind == "broken" for file in files),
        "duplicates": sum(file.source >= 0 for file in files),
        "odd": dict(sorted(Counter(file.note for file in files if file.note).items())),
    }
    _add_strays(partial)
    (partial / MARKER).write_text(json.dumps({"made": made, "summary": summary}, indent=1) + "\n")
    _date(partial, paths, seed)
    _write_truth(folder.with_name(f"{folder.name}.truth.csv"), files, paths)
    partial.replace(folder)
    return summary


def _summary_of(folder: Path, made: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of the same demo in `folder`; None where it is empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):  # no marker, or not ours
        marker = json.loads((folder / MARKER).read_text())
        if marker["made"] == made:
            return dict(marker["summary"])
    raise DataError(
        f"{folder} is there already and is not the demo data set asked for ({made}). Remove it or name another folder."
    )


def _add_strays(folder: Path) -> None:
    """What file managers and people leave in a data set, and a snapshot has to ignore."""
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "L2_33" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "L2_25" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    (folder / "README.txt").write_text("Drawn by gesso demo. Photographs: scikit-learn's china.jpg and flower.jpg.\n")


def _date(folder: Path, paths: list[Path], seed: int) -> None:
    order = default_rng([seed, 2]).permutation(len(paths))
    start = LAST_ARRIVAL - timedelta(weeks=WEEKS)
    stock = len(paths) // 2
    pause = timedelta(weeks=WEEKS) / (len(paths) - stock)
    for rank, index in enumerate(order.tolist()):
        moment = start + (timedelta(seconds=rank) if rank < stock else pause * (rank - stock + 1))
        os.utime(folder / paths[index], (moment.timestamp(),) * 2)


def _write_truth(path: Path, files: list[File], paths: list[Path]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "class", "kind", "note"))
        for file, name in zip(files, paths, strict=True):
            note = f"{file.note} of {paths[file.source].as_posix()}" if file.source >= 0 else file.note
            writer.writerow((name.as_posix(), file.class_name, file.kind, note))
