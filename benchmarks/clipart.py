"""A data set that anyone can make, to try the separation on: clip art and photographs from Debian's packages.

    python -m benchmarks.clipart FOLDER         # wants apt-get and dpkg-deb; takes 350 MB from Debian
    make bench-separation DATA=FOLDER

Ten classes of Open Clip Art by subject, five of them with crops of wallpapers' photographs at 5% to 50%, and a class of
wallpapers that were drawn or rendered: no photographs, but soft and full of tones like them.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

PACKAGES = (
    *("openclipart-png", "gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers"),
    *("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "ukui-wallpapers"),
)
#: Classes of clip art, and the share of photographs that is put into each.
CLASSES = {
    "animals": 0.15, "buildings": 0.5, "food": 0.05, "geography": 0, "office": 0, "people": 0, "plants": 0.4,
    "recreation": 0, "tools": 0, "transportation": 0.25,
}  # fmt: skip
#: Beginnings of the photographs' paths below usr/share; the other wallpapers are drawn, but for those of UNCLEAR.
PHOTOGRAPHS = (
    *("backgrounds/Bridge", "backgrounds/Dragonfly", "backgrounds/Picture_0B", "backgrounds/Picture_1A"),
    *("backgrounds/Wine", "backgrounds/aitzgorri", "backgrounds/free_", "backgrounds/friends", "backgrounds/life"),
    *("backgrounds/picosdeeuropa", "backgrounds/seeding", "backgrounds/sunset", "backgrounds/Kleiber"),
    *("backgrounds/mate/nature/", "wallpapers/BytheWater", "wallpapers/ColdRipple", "wallpapers/DarkestHour"),
    *("wallpapers/EveningGlow", "wallpapers/FallenLeaf", "wallpapers/Grey", "wallpapers/Kite"),
    *("wallpapers/OneStandsOut", "wallpapers/Path", "wallpapers/summer_1am"),
)
UNCLEAR = ("backgrounds/greentock", "backgrounds/mate/desktop", "wallpapers/ColorfulCups", "backgrounds/gnome/symbolic")
MOST, SIDE, CROPS = 400, 420, 10
Picture = npt.NDArray[np.uint8]


def unpacked(folder: Path) -> Path:
    """Fetch the packages and unpack them; their usr/share."""
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder / "usr" / "share"


def read(path: Path) -> Picture | None:
    """The picture in BGR or BGRA; None where it is grey, or OpenCV can't read it."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return np.asarray(picture) if picture is not None and picture.ndim == 3 and picture.dtype == np.uint8 else None


def crop(picture: Picture, random: np.random.Generator) -> Picture:
    """A part of the picture, .45 to .8 of either side, made small."""
    high, wide = (int(length * random.uniform(0.45, 0.8)) for length in picture.shape[:2])
    y, x = (
        int(random.integers(0, length - part + 1)) for length, part in zip(picture.shape, (high, wide), strict=False)
    )
    return small(picture[y : y + high, x : x + wide])


def small(picture: Picture) -> Picture:
    """The picture in BGR on white, its longest side at most SIDE."""
    scale = min(1, SIDE / max(picture.shape))
    shrunk = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if shrunk.shape[2] == 4:
        shrunk = 255 - (255.0 - shrunk[..., :3]) * (shrunk[..., 3:] / 255)
    return np.asarray(shrunk, np.uint8)


def wallpapers(share: Path) -> tuple[list[Path], list[Path]]:
    """Files of the photographs, and of the drawn wallpapers: one of each, of the many sizes that some come in."""
    photographs: dict[str, Path] = {}
    drawn: dict[str, Path] = {}
    for path in sorted(path for root in ("backgrounds", "wallpapers") for path in (share / root).rglob("*.*")):
        name = path.relative_to(share).as_posix()
        if path.suffix.lower() not in (".jpg", ".png", ".webp") or name.startswith(UNCLEAR) or "screenshot" in name:
            continue
        kind = photographs if name.startswith(PHOTOGRAPHS) else drawn
        kind.setdefault(name.split("/contents/")[0], path)
    return list(photographs.values()), list(drawn.values())


def make(share: Path, folder: Path) -> pd.DataFrame:
    """Write images/<class>/… and truth.csv; the truth: path, class, kind."""
    random, rows = np.random.default_rng(0), []

    def keep(picture: Picture, name: str, kind: str, number: int) -> None:
        path = f"images/{name}/{kind[0]}{number:04}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), small(picture), [cv2.IMWRITE_JPEG_QUALITY, 90])
        rows.append((path, name, kind))

    photographs, drawn = wallpapers(share)
    crops = []
    for path in photographs:
        if (picture := read(path)) is not None:
            crops += [crop(picture, random) for _ in range(CROPS)]
    crops = [crops[place] for place in random.permutation(len(crops))]
    for name, part in CLASSES.items():
        files = [
            path for path in sorted((share / "openclipart/png" / name).rglob("*.png")) if "cards" not in path.parts
        ]
        order = random.permutation(len(files))
        pictures = [small(picture) for at in order[:MOST] if (picture := read(files[at])) is not None]
        for number, picture in enumerate(pictures):
            keep(picture, name, "illustration", number)
        for number in range(round(part / (1 - part) * len(pictures))):
            keep(crops.pop(), name, "photo", number)
    for number, path in enumerate(drawn):
        if (picture := read(path)) is not None:
            keep(picture, "wallpapers", "illustration", 3 * number)
            keep(crop(picture, random), "wallpapers", "illustration", 3 * number + 1)
            keep(crop(picture, random), "wallpapers", "illustration", 3 * number + 2)
    truth = pd.DataFrame(rows, columns=["path", "class", "kind"])
    truth.to_csv(folder / "truth.csv", index=False)
    return truth


def main() -> None:
    """Make the data set, and say what is in it."""
    parser = argparse.ArgumentParser("python -m benchmarks.clipart", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as packages:
        truth = make(unpacked(Path(packages)), given.folder)
    print(truth.groupby(["class", "kind"]).size().unstack(fill_value=0).to_string())


if __name__ == "__main__":
    main()
