"""The separation at scale: time, memory, and whether the verdicts still are those of the exact way.

    make bench-separation_scale [DATA=folder]       # with images/<class>/…; without it, pictures are drawn

The rows are the features of real images, resampled with noise: 25,000 in the classes they have, and --rows (1,000,000)
in 20 classes. Each size runs in a process of its own with two threads, and its highest memory is noted. Agreement is
that of the verdicts with those of float64 features, at 6,200 and at 25,000 rows: clustering and axes are exact at every
size, so what is left is rounding. Ends with one line of JSON.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.8
Table = tuple[npt.NDArray[np.float32], list[str], list[str]]  # features [n, d], their names, classes [n]


def described(data: Path | None) -> Table:
    """Features and classes of a data set's images, or of pictures drawn here."""
    from benchmarks.separation import scan

    with tempfile.TemporaryDirectory() as store:
        if data is None:
            return drawn()
        kept, features = scan(data / "images", store)
    features = features.set_index("key").loc[kept["key"]]
    return features.to_numpy(np.float32), list(features.columns), kept["class"].tolist()


def drawn(pictures: int = 300) -> Table:
    """Flat drawings and noisy gradients, in six classes, two of them with both."""
    import cv2

    from tasks.vision.features import FEATURE_NAMES, describe

    random, rows, classes = np.random.default_rng(0), [], []
    for number in range(pictures * 6):
        photo = number % 6 < 2 and number % 18 < 6
        rgb = np.full((96, 96, 3), 255, np.uint8)
        if photo:
            soft = cv2.resize(random.normal(0, 40, (5, 5, 3)), (96, 96), interpolation=cv2.INTER_CUBIC)
            rgb = np.clip(120 + soft + random.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
        else:
            for _ in range(5):
                centre, colour = random.integers(0, 96, 2).tolist(), random.integers(0, 256, 3).tolist()
                cv2.circle(rgb, centre, int(random.integers(5, 30)), colour, -1, cv2.LINE_AA)
        rows.append(describe(rgb))
        classes.append(f"class {number % 6}")
    return np.array(rows), list(FEATURE_NAMES), classes


def resampled(table: Table, rows: int, classes: int | None) -> Table:
    """So many rows of the table with noise (a twentieth of each feature's deviation).

    In the table's classes, by their sizes, or in so many of one size, each made from one of the table's.
    """
    values, names, labels = table
    random, owner = np.random.default_rng(1), np.asarray(labels)
    known = sorted(set(labels))
    if classes is None:
        chosen = random.integers(0, len(values), rows)
        new = owner[chosen].tolist()
    else:
        pools = [np.flatnonzero(owner == known[number % len(known)]) for number in range(classes)]
        sizes = [len(part) for part in np.array_split(np.arange(rows), classes)]
        chosen = np.concatenate([random.choice(pool, size) for pool, size in zip(pools, sizes, strict=True)])
        new = [f"class {number:02}" for number, size in enumerate(sizes) for _ in range(size)]
    result, deviation = values[chosen], values.std(0) / 20
    for start in range(0, rows, 10_000):  # in place: the table itself is most of the memory
        part = result[start : start + 10_000]
        part += random.standard_normal(part.shape, np.float32) * deviation
    return result, names, new


def measured(table: Table, rows: int, classes: int | None, compare: bool) -> dict[str, float]:
    """Seconds and the most memory [GB] of one separation; share of verdicts that float64 gives, too."""
    from tasks.vision.separation import separate

    values, names, labels = resampled(table, rows, classes)
    started = time.perf_counter()
    found = separate(values, names, labels)
    figures = {
        "seconds": time.perf_counter() - started,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "photos": float((found.probability >= THRESHOLD).mean()),
    }
    if compare:
        from tasks.vision import grouping

        grouping.RANKS = np.float64
        exact = separate(values, names, labels)
        same = (exact.probability >= THRESHOLD) == (found.probability >= THRESHOLD)
        figures["agreement"] = float(same.mean())
    return figures


def main() -> None:
    """Measure each size, end with one line of JSON."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.separation_scale", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, help="folder with images/<class>/…; without it, pictures are drawn")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the largest table (default 1,000,000)")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        table = pool.apply(described, (given.data,))
    figures: dict[str, float] = {}
    for name, rows, classes, compare in (
        ("6200", 6_200, None, True),
        ("25000", 25_000, None, False),
        ("25000_compared", 25_000, None, True),
        ("largest", given.rows, 20, False),
    ):
        with context.Pool(1, maxtasksperchild=1) as pool:
            some = pool.apply(measured, (table, rows, classes, compare))
        print(f"{rows:,} rows:", {key: round(value, 4) for key, value in some.items()}, flush=True)
        figures |= {f"{key}_{name}": value for key, value in some.items()}
    wanted = (
        "seconds_25000", "gb_25000", "seconds_largest", "gb_largest", "agreement_6200", "agreement_25000_compared",
    )  # fmt: skip
    print(json.dumps({"rows": given.rows} | {name: round(figures[name], 4) for name in wanted}))


if __name__ == "__main__":
    main()
