"""What feeding a training on a CPU costs, next to Keras' `ImageDataGenerator` and next to no feeding at all, and how
fast its model then predicts.

    make bench-training

Draws JPEGs of half a megapixel, packs them as `pack` does, and measures, both ways by turns in one process:

    pipeline_vs_imagedatagenerator      augmented images of 224 px a second of CPU time, by `ImageDataGenerator` with
                                        `flow_from_directory` and from the pack (bar: 15). The pack is made once, by
                                        another step: its making is not counted.
    baseline_fit_vs_imagedatagenerator  images a second of `fit`, `baseline` at 224 px, fed by either (bar: 2.5)
    step_vs_constant_batch              images a second of `fit`, `residual` at 96 px, fed from the pack, and on one
                                        batch that lies ready in memory (bar: 0.95)
    export_vs_predict                   images a second of batch prediction, `residual` at 224 px, by the export and by
                                        `model.predict` of Keras (bar: 1.3); as `python -m benchmarks.export`

Prints a table, and ends with one line of JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import export
from tasks.core.memory import keep_freed
from tasks.vision import devices, feed, models
from tasks.vision.pack import Pack

CLASSES, BATCH = 8, 64


def draw(folder: Path, images: int) -> None:
    """JPEGs of 714 x 714 pixels and about 150 KB, one folder per class."""
    rng = np.random.default_rng(0)
    for number in range(images):
        coarse = cv2.resize(
            rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), (714, 714), interpolation=cv2.INTER_CUBIC
        )
        noisy = np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)
        path = folder / f"class_{number % CLASSES}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])


def pack_of(folder: Path, size: int) -> tuple[Pack, npt.NDArray[np.int32]]:
    """The images as a pack of one shard, and their labels."""
    paths = sorted(folder.glob("*/*.jpg"))
    pictures = [np.asarray(cv2.imread(str(path)))[:, :, ::-1] for path in paths]
    shard = folder.parent / f"{size}.npy"
    np.save(shard, np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures]))
    rows = pd.DataFrame({"row": range(len(paths)), "shard": 0, "offset": range(len(paths))})
    return Pack([shard], rows), np.array([int(path.parent.name.split("_")[1]) for path in paths], np.int32)


def batches_of(folder: Path, size: int) -> feed.Batches:
    """What `train` feeds."""
    pack, labels = pack_of(folder, size)
    weights = np.ones(CLASSES, np.float32)
    return feed.Batches(pack, np.arange(len(labels)), labels, weights, batch_size=BATCH, augmented=True, seed=0)


def generator_of(folder: Path, size: int) -> Any:
    """What the original fed: the same augmentation, by Keras, from the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        horizontal_flip=True,
        width_shift_range=0.3,
        height_shift_range=0.3,
        rotation_range=30,
        zoom_range=0.2,
        fill_mode="nearest",
    )
    return generator.flow_from_directory(str(folder), (size, size), class_mode="categorical", batch_size=BATCH, seed=0)


def pipeline(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    """CPU seconds an image."""
    batches, generator = batches_of(folder, 224), generator_of(folder, 224)
    for number in range(rounds):
        yield "ImageDataGenerator", _cpu_seconds(lambda: [next(generator) for _ in range(2)]) / (2 * BATCH)
        steps = range(number * batches.steps, (number + 1) * batches.steps)
        made = sum(len(batches.make(step)[1]) for step in steps[:1])  # the files are in the page cache by now
        seconds = _cpu_seconds(partial(_make, batches, steps))
        yield "pack", seconds / (made * batches.steps)


def _make(batches: "feed.Batches", steps: range) -> None:
    for step in steps:
        batches.make(step)


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


class Speed:
    """A compiled training, and how many seconds an image of its `fit` takes once it runs."""

    def __init__(self, architecture: str, size: int, rate: float = 0.01) -> None:
        import keras

        self._trainee = feed.Trainee(models.build(architecture, size, CLASSES, seed=0))
        self._trainee.compile(
            keras.optimizers.SGD(rate),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=devices.compiles(),
        )

    def __call__(self, data: Any, steps: int) -> float:
        """Wall seconds an image, over `steps` steps after three of warming up."""
        import keras

        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: ends.append(time.perf_counter()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trainee.fit(data, steps_per_epoch=steps + 3, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
        return (ends[-1] - ends[2]) / (steps * BATCH)


def _fitted(speed: Speed, batches: feed.Batches, steps: int) -> float:
    with batches:
        return speed(batches, steps)


def baseline_fit(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    """Wall seconds an image of `fit`, `baseline` at 224 px."""
    import tensorflow

    batches, generator, speed = batches_of(folder, 224), generator_of(folder, 224), Speed("baseline", 224)
    # Its batches are what `Trainee` takes under a name; the same iterator, the same prefetch as in Keras' own adapter.
    named = tensorflow.data.Dataset.from_generator(
        lambda: (({"images": images}, targets) for images, targets in generator),
        output_signature=(
            {"images": tensorflow.TensorSpec((None, 224, 224, 3), "float32")},
            tensorflow.TensorSpec((None, CLASSES), "float32"),
        ),
    ).prefetch(tensorflow.data.AUTOTUNE)
    for _ in range(rounds):
        yield "ImageDataGenerator", speed(named, 6)
        yield "pack", _fitted(speed, batches, 20)


def step(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    """Wall seconds an image of `fit`, `residual` at 96 px."""
    import tensorflow

    batches, speed = batches_of(folder, 96), Speed("residual", 96)
    constant = tensorflow.data.Dataset.from_tensors(batches.make(0)).repeat()
    for _ in range(3 * rounds):  # short turns and many: the two are closer to each other than a machine is to itself
        yield "constant batch", speed(constant, 10)
        yield "pack", _fitted(speed, batches, 10)


def prediction(_folder: Path, _rounds: int) -> Iterator[tuple[str, float]]:
    """Wall seconds an image of batch prediction, `residual` at 224 px."""
    rates = export.measure("residual", 224, 16)
    for way in export.WAYS:
        yield way, 1 / rates[f"{way}, images/s"]


ROWS = {
    "pipeline_vs_imagedatagenerator": (pipeline, "CPU ms an image"),
    "baseline_fit_vs_imagedatagenerator": (baseline_fit, "wall ms an image"),
    "step_vs_constant_batch": (step, "wall ms an image"),
    "export_vs_predict": (prediction, "wall ms an image"),
}


def main() -> None:
    """Measure, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="JPEGs to draw (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this one; may be given several times")
    options = parser.parse_args()
    keep_freed()  # as `train` does
    devices.make_deterministic(devices.compiles())
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "images", options.images)
        for name in options.row or ROWS:
            measure, unit = ROWS[name]
            seconds: dict[str, list[float]] = {}
            for way, taken in measure(Path(folder) / "images", options.rounds):
                seconds.setdefault(way, []).append(taken)
            medians = {way: statistics.median(taken) for way, taken in seconds.items()}
            reference, own = medians.values()
            figures[name] = reference / own
            told = ", ".join(f"{way} {1000 * median:.3f}" for way, median in medians.items())
            print(f"{name:<36} {figures[name]:6.2f}   {unit}: {told}", flush=True)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
