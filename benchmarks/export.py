"""Batch prediction with the export against `model.predict` of Keras: the same network, pictures and batches.

    python -m benchmarks.export [--architecture residual] [--size 224] [--batch 16]

Both predict by turns, and the fastest round of each counts, so that a busy machine disturbs neither alone. Prints a
table, and ends with one line of JSON: `export_vs_predict` (images a second by images a second; the bar is 1.3),
`largest_difference` of a probability.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.memory import keep_freed
from tasks.vision import models
from tasks.vision.export import Export, difference, write

ROUNDS = 7
WAYS = ("model.predict", "export")
CLASSES = 20


def measure(architecture: str, size: int, batch: int) -> dict[str, float]:
    """Images a second of both, their ratio, and the largest difference of a probability."""
    model = models.build(architecture, size, CLASSES, seed=0)
    labels = [f"class {label}" for label in range(CLASSES)]
    pixels = np.random.default_rng(0).integers(0, 256, (4 * batch, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write(model, labels, 1.0, Path(folder) / "export")
        export = Export(Path(folder) / "export")

    ways: dict[str, Callable[[], Any]] = {
        WAYS[0]: lambda: model.predict(pixels, batch_size=batch, verbose=0),
        WAYS[1]: lambda: [export.of_pixels(pixels[start : start + batch])[1] for start in range(0, len(pixels), batch)],
    }
    fastest = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    rates = {name: len(pixels) / seconds for name, seconds in fastest.items()}
    return {
        **{f"{name}, images/s": rate for name, rate in rates.items()},
        "export_vs_predict": rates["export"] / rates["model.predict"],
        "largest_difference": difference(export, pixels[:batch], labels, model.predict_on_batch(pixels[:batch])),
    }


def main() -> None:
    """Measure, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", default="residual")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    keep_freed()  # as `predict` does
    figures = measure(options.architecture, options.size, options.batch)
    for name, value in figures.items():
        print(f"{name:<28} {value:10.6g}")
    print(json.dumps({name: round(figures[name], 6) for name in ("export_vs_predict", "largest_difference")}))


if __name__ == "__main__":
    main()
