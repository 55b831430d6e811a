"""What a second pass over the data costs, where one image in a hundred is new, and where none is.

    make bench-incremental

Draws --images (20,000) small JPEGs in the classes and the shares of the original's data set, and runs the steps of the
data preparation, snapshot to pack, three times, each time in a process that has imported its libraries on a small
data set before: cold; with 1% more images; and with nothing new. Prints the seconds of each step, and what the listing
alone takes. Ends with one line of JSON:

    second_pass_share   (second pass - listing) / first pass (bar: 0.05)
    third_pass_share    (third pass - listing) / first pass: nothing new, so keys are checked and no more
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

STEPS = ("snapshot", "scan", "validate", "eda", "cluster", "drift", "resample", "pack")
SIDE = 256  # pixels; with what is drawn, about 20 KB


def draw(folder: Path, numbers: range) -> None:
    """Write images of these numbers: flat shapes on white, as the number decides."""
    from tasks.demo import CLASSES

    names = list(CLASSES)
    shares = np.array([CLASSES[name].original for name in names], np.float64)
    bounds = np.cumsum(shares / shares.sum())
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        # Weyl's sequence: each stretch of it has the classes in their shares.
        name = names[int(np.searchsorted(bounds, number * 0.6180339887 % 1))]
        random = np.random.default_rng(number)
        picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
        for _ in range(8):
            centre, colour = random.integers(0, SIDE, 2).tolist(), random.integers(0, 256, 3).tolist()
            cv2.circle(picture, centre, int(random.integers(8, SIDE // 3)), colour, -1, cv2.LINE_AA)
        grain = random.integers(-6, 7, (SIDE, SIDE, 1), dtype=np.int16)
        picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / name / f"{number:06}.jpg"), picture)


def prepare(dataset: Path, store: str) -> dict[str, float]:
    """Run snapshot to pack; seconds of each step, and of the listing alone."""
    from tasks.core.artifacts import Output
    from tasks.core.checkpoint import Checkpoint
    from tasks.core.step import execute, load
    from tasks.core.store import open_store
    from tasks.snapshot import take

    started = time.perf_counter()
    take(str(dataset), None, Output(Path(store), open_store(store), Checkpoint(open_store(store), "snapshot")))
    seconds = {"listing": time.perf_counter() - started}
    made: dict[str, str] = {}
    for name in STEPS:
        step = load(name)
        inputs = {given.rstrip("*?"): made[given.rstrip("*?")] for given in step.inputs if given.rstrip("*?") in made}
        params = step.params.of({"dataset": str(dataset)} if name == "snapshot" else {})
        started = time.perf_counter()
        made[name] = execute(name, inputs, params, store).artifact.uri
        seconds[name] = time.perf_counter() - started
    return seconds


def warmed(small: Path, dataset: Path, store: str) -> dict[str, float]:
    """`prepare` in a process that has imported all libraries: how long that takes is no matter of the images."""
    with tempfile.TemporaryDirectory() as other:
        prepare(small, other)
    return prepare(dataset, store)


def in_a_process(*given: object) -> dict[str, float]:
    """`warmed`, so that no pass finds anything in memory that another left."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(warmed, given)


def main() -> None:
    """Run the three passes, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.incremental", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ |= {"GESSO_HOME": str(folder / "home")}
        data, small, store = folder / "data", folder / "small", str(folder / "store")
        new = max(1, options.images // 100)
        with multiprocessing.get_context("spawn").Pool() as pool:
            ranges = np.array_split(np.arange(options.images), 64)
            pool.starmap(draw, [(data, range(part[0], part[-1] + 1)) for part in ranges])
        draw(small, range(300))
        passes = {"cold": in_a_process(small, data, store)}
        draw(data, range(options.images, options.images + new))
        passes[f"{new:,} new"] = in_a_process(small, data, store)
        passes["nothing new"] = in_a_process(small, data, store)
    print(f"seconds      {''.join(f'{name:>14}' for name in passes)}")
    for step in ("listing", *STEPS):
        print(f"{step:<12} {''.join(f'{seconds[step]:14.2f}' for seconds in passes.values())}")
    first, second, third = (sum(seconds[step] for step in STEPS) for seconds in passes.values())
    listings = [seconds["listing"] for seconds in passes.values()]
    shares = {"second_pass_share": (second - listings[1]) / first, "third_pass_share": (third - listings[2]) / first}
    print(json.dumps({"images": options.images} | {name: round(share, 4) for name, share in shares.items()}))


if __name__ == "__main__":
    main()
