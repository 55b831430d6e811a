"""What one pass over the images costs: the steps `scan` and the pack against what else goes through a folder of images.

    make bench-scan [DATA=folder with images/]        # or python -m benchmarks.scan [--data folder] [--row …]

Draws pictures of half a megapixel (two of three like photographs, one like a drawing) as JPEGs of about 150 KB and as
PNGs. `scan` is the whole step, with its tables, what it remembers, and the commit of its artifact; each reference uses
as many threads or processes as it. All of a row take turns, and the fastest round of each counts. What Numba compiles
once on a machine is compiled before.

    vs_cleanvision       images/s, JPEG, against CleanVision's default checks (bar: 10). It computes other things:
                         scores of light, blur, information and odd sizes, and hashes for duplicates
    vs_three_passes      images/s, JPEG, against cv2.imread for counts and brightness, again for HLS, and again for
                         resizing, as `benchmarks/original.py` does it (bar: 3)
    vs_decode_limit      images/s, JPEG, against simplejpeg decoding all pixels, and nothing else (bar: 0.8)
    png_vs_decode        images/s, PNG, against cv2.imdecode, and nothing else (bar: 0.9)
    real_vs_cleanvision  images/s, the images of --data, against CleanVision (bar: 4.5)
    memory_growth        most memory at 20,000 images against that at 2,000, workers included (bar: 1.1, under 1 GB)
    s3_vs_files          images/s, JPEG, from a bucket against from a folder (bar: 0.5); wants AWS_ENDPOINT_URL and keys
    pack_vs_cv2          images/s, JPEG, of the pack at 224 px against cv2.imread and cv2.resize by area (bar: 1)

Prints a table, and ends with one line of JSON. A row that can't be measured is null, and says why.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
import simplejpeg

from benchmarks.original import brightness, mean_hls
from benchmarks.store import bucket
from tasks.core.artifacts import Output
from tasks.core.checkpoint import Checkpoint
from tasks.core.settings import settings
from tasks.core.step import execute, load
from tasks.core.store import open_store
from tasks.pack import FILE_BYTES, divided, write_pixels
from tasks.vision.features import describe

HEIGHT, WIDTH = 577, 866
JPEGS, PNGS, OBJECTS = 12_000, 3_000, 4_000
DIFFERENT = {"jpg": 2_000, "png": 240}  # few would all lie in the processor's cache, and their rows would be smaller
Ways = dict[str, Callable[[], float]]
Figure = tuple[float | None, str]


def photograph(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Clouds of colour at all scales under a sensor's noise: uint8 [HEIGHT, WIDTH, 3]."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(2, 9):
        coarse = rng.normal(0, 1, (2 + (HEIGHT >> (9 - octave)), 2 + (WIDTH >> (9 - octave)), 3)).astype(np.float32)
        picture += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) * 90 / 1.75**octave
    return np.clip(picture + rng.normal(110, 2.5, picture.shape), 0, 255).astype(np.uint8)


def drawing(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Flat shapes with black outlines, hatching, and a paper's grain: uint8 [HEIGHT, WIDTH, 3]."""
    picture = np.full((HEIGHT, WIDTH, 3), rng.integers(200, 256, 3), np.uint8)
    for _ in range(60):
        centre, radius = rng.integers(0, (WIDTH, HEIGHT)), rng.uniform(15, 120)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        points = (centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.int32)[:, None]
        cv2.fillPoly(picture, [points], rng.integers(0, 256, 3).tolist(), cv2.LINE_AA)
        cv2.polylines(picture, [points], True, (20, 20, 20), int(rng.integers(1, 4)), cv2.LINE_AA)
    for _ in range(400):
        start = rng.integers(0, (WIDTH, HEIGHT))
        cv2.line(picture, start.tolist(), (start + rng.integers(-40, 41, 2)).tolist(), (40, 40, 40), 1, cv2.LINE_AA)
    return np.clip(picture + rng.normal(0, 2.5, picture.shape), 0, 255).astype(np.uint8)


def draw(folder: Path, extension: str, different: int, images: int) -> list[Path]:
    """Write so many images, of which so many are different, into two classes."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 94] if extension == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    paths: list[Path] = []
    for number in range(images):
        path = folder / "ab"[number % 2] / f"{number:06}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < different:
            rng = np.random.default_rng(number)
            cv2.imwrite(str(path), (drawing if number % 3 == 2 else photograph)(rng), options)
        else:
            os.link(paths[number % different], path)
        paths.append(path)
    return paths


def of_scan(data: str) -> float:
    """Seconds of a scan of the data set, in a store of its own; the snapshot is not counted."""
    with tempfile.TemporaryDirectory() as home:
        snapshot = execute("snapshot", {}, load("snapshot").params.of({"dataset": data}), home).artifact
        return seconds(lambda: execute("scan", {"snapshot": snapshot.uri}, load("scan").params.of({}), home))


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_threads(work: Callable[[Path], object], paths: list[Path]) -> None:
    """Do it for each file, on all cores: OpenCV and simplejpeg release the GIL."""
    with ThreadPoolExecutor(settings().threads) as pool:
        for _ in pool.map(work, paths, chunksize=1):
            pass


def three_passes(paths: list[Path], means: tuple[Callable[..., object], Callable[..., object]]) -> None:
    """What was computed in 2022, each in a loop of its own: mean brightness, mean HLS, and the resized picture."""
    light, hls = means
    in_threads(lambda path: light(cv2.imread(str(path))), paths)
    in_threads(lambda path: hls(cv2.imread(str(path))), paths)
    in_threads(lambda path: cv2.resize(cv2.imread(str(path)), (224, 224)), paths)


def by_cleanvision(folder: Path) -> None:
    """CleanVision's default checks."""
    from cleanvision import Imagelab

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        Imagelab(data_path=str(folder)).find_issues(n_jobs=settings().threads, verbose=False)


def packed(folder: Path, paths: list[Path]) -> float:
    """Seconds of the pack of these images at 224 px."""
    used = pd.DataFrame({
        "key": [path.relative_to(folder).as_posix() for path in paths],
        "version": None,
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
        "width": WIDTH,
        "height": HEIGHT,
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        store = open_store(home)
        out = Output(Path(home) / "out", store, Checkpoint(store, "pack"))
        files = divided(used["sha256"].tolist(), FILE_BYTES // (224 * 224 * 3))
        return seconds(lambda: write_pixels(open_store(str(folder)), used, 224, files, out))


def peak(images: int) -> float:
    """The most memory in MB that a scan of so many JPEGs held, its workers and all that they import included."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), "jpg", DIFFERENT["jpg"], images)
        # Not of a `Pool`, whose processes may have no children.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_peak, folder).result()


def _peak(folder: str) -> float:
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        me = psutil.Process()
        while not done.wait(0.1):
            held = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    held += process.memory_full_info().pss  # what processes share counts once
            most = max(most, held)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        of_scan(folder)
    finally:
        done.set()
        watcher.join()
    return most / 1e6


class Folder:
    """The pictures that are scanned, drawn when a row first asks for them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[str, list[Path]] = {}

    def paths(self, extension: str, images: int) -> list[Path]:
        """The images' files."""
        if extension not in self._paths:
            self._paths[extension] = draw(self._root / extension, extension, DIFFERENT[extension], images)
            size = sum(path.stat().st_size for path in self._paths[extension]) / images
            print(f"{images} {extension}s of {WIDTH} x {HEIGHT} pixels, {size / 1000:.0f} KB each", flush=True)
        return self._paths[extension]

    def __getitem__(self, extension: str) -> Path:
        return self._root / extension


def compare(images: int, ways: Ways, rounds: int = 2) -> Figure:
    """Speed of the last way by that of the first, and what all were. They take turns; the fastest round counts."""
    taken = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, work in ways.items():
            taken[way] = min(taken[way], work())
    reference, *_, own = taken.values()
    return reference / own, "images/s: " + ", ".join(f"{way} {images / least:,.0f}" for way, least in taken.items())


def scan_against(way: str, work: Callable[[], object], folder: Path, images: int, rounds: int = 2) -> Figure:
    """Speed of a scan of the folder by that of another way through it."""
    ways: Ways = {way: lambda: seconds(work), "scan": lambda: of_scan(str(folder))}
    return compare(images, ways, rounds)


def vs_cleanvision(made: Folder, data: Path | None) -> Figure:
    paths = made.paths("jpg", JPEGS)
    return scan_against("CleanVision", lambda: by_cleanvision(made["jpg"]), made["jpg"], len(paths), rounds=1)


def _opencvs_mean(code: int, picture: npt.NDArray[np.uint8]) -> object:
    return cv2.mean(cv2.cvtColor(picture, code))


def vs_three_passes(made: Folder, data: Path | None) -> Figure:
    paths = made.paths("jpg", JPEGS)
    by_numpy = brightness, mean_hls
    by_opencv = partial(_opencvs_mean, cv2.COLOR_BGR2GRAY), partial(_opencvs_mean, cv2.COLOR_BGR2HLS)
    return compare(
        len(paths),
        {
            "three passes": lambda: seconds(lambda: three_passes(paths, by_numpy)),
            "the same with OpenCV's means": lambda: seconds(lambda: three_passes(paths, by_opencv)),
            "scan": lambda: of_scan(str(made["jpg"])),
        },
    )


def vs_decode_limit(made: Folder, data: Path | None) -> Figure:
    paths = made.paths("jpg", JPEGS)

    def decode(path: Path) -> object:
        return simplejpeg.decode_jpeg(path.read_bytes())

    return scan_against("decode", lambda: in_threads(decode, paths), made["jpg"], len(paths))


def png_vs_decode(made: Folder, data: Path | None) -> Figure:
    paths = made.paths("png", PNGS)

    def decode(path: Path) -> object:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)

    return scan_against("decode", lambda: in_threads(decode, paths), made["png"], len(paths))


def real_vs_cleanvision(made: Folder, data: Path | None) -> Figure:
    if data is None:
        return None, "no --data"
    folder = data / "images" if (data / "images").is_dir() else data
    images = sum(path.is_file() for path in folder.rglob("*"))
    return scan_against("CleanVision", lambda: by_cleanvision(folder), folder, images)


def s3_vs_files(made: Folder, data: Path | None) -> Figure:
    if "AWS_ENDPOINT_URL" not in os.environ:
        return None, "AWS_ENDPOINT_URL is not set"
    paths = draw(made["s3"], "jpg", DIFFERENT["jpg"], OBJECTS)

    def of_bucket() -> float:
        with bucket() as name:
            store = open_store(f"s3://{name}")
            store.put_many((path.relative_to(made["s3"]).as_posix(), path.read_bytes()) for path in paths)
            return of_scan(store.uri)

    return compare(len(paths), {"files": lambda: of_scan(str(made["s3"])), "bucket": of_bucket})


def pack_vs_cv2(made: Folder, data: Path | None) -> Figure:
    paths = made.paths("jpg", JPEGS)

    def resized(path: Path) -> object:
        return cv2.resize(cv2.imread(str(path)), (224, 224), interpolation=cv2.INTER_AREA)

    return compare(
        len(paths),
        {
            "cv2": lambda: seconds(lambda: in_threads(resized, paths)),
            "pack": lambda: packed(made["jpg"], paths),
        },
    )


def memory_growth(made: Folder, data: Path | None) -> Figure:
    less, more = peak(2_000), peak(20_000)
    return more / less, f"{less:.0f} MB at 2,000 images, {more:.0f} MB at 20,000"


ROWS: dict[str, Callable[[Folder, Path | None], Figure]] = {
    function.__name__: function
    for function in (
        *(vs_cleanvision, vs_three_passes, vs_decode_limit, png_vs_decode, real_vs_cleanvision),
        *(memory_growth, s3_vs_files, pack_vs_cv2),
    )
}


def main() -> None:
    """Measure, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.scan", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with images/, for real_vs_cleanvision")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this one; may be given several times")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # all cores are busy with an image each
    describe(np.zeros((8, 8, 3), np.uint8))
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = Folder(Path(folder))
        for name in options.row or ROWS:
            figures[name], told = ROWS[name](made, options.data)
            print(f"{name:<20} {figures[name] or math.nan:8.3f}   {told}", flush=True)
    print(json.dumps({name: None if figure is None else round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
