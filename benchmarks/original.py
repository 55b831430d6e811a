"""The data preparation, training and evaluation as they were done in 2022, for `benchmarks/retrain.py` to compare with.

A pass over the images with cv2 for counts, sizes and brightness; another for the means of hue, lightness and
saturation; scikit-learn's AgglomerativeClustering, class by class, of the classes that hold photographs, of whose two
clusters a person says which one to leave out; random under- and oversampling to 250..1000 by copying files; then
`ImageDataGenerator` with `flow_from_directory` and `fit`, and a classification report on the test folder.

Two things are not as they were: the split comes first and is the same for both ways, so that they meet on the same test
images (in 2022 it came after the oversampling, and copies leaked into validation); and the person is the truth, which
makes no mistake.

    python -m benchmarks.original --images folder --told told.csv --work folder --answer answer.json
"""

import argparse
import json
import random
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

SIZE, BATCH = 224, 64


def brightness(picture: npt.NDArray[np.uint8]) -> float:
    """The mean of the grey picture."""
    return float(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).mean())


def mean_hls(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The means of hue, lightness and saturation."""
    means: npt.NDArray[np.float64] = cv2.cvtColor(picture, cv2.COLOR_BGR2HLS).reshape(-1, 3).mean(axis=0)
    return means


def explore(images: pd.DataFrame) -> pd.DataFrame:
    """First pass: counts, sizes and brightness of each class."""
    rows = []
    for path, name in zip(images["path"], images["class"], strict=True):
        picture = np.asarray(cv2.imread(path))
        rows.append((name, *picture.shape[:2], brightness(picture)))
    table = pd.DataFrame(rows, columns=["class", "height", "width", "brightness"])
    summary = table.groupby("class").agg(
        images=("height", "size"), height=("height", "median"), width=("width", "median"),
        brightness=("brightness", "mean"), spread=("brightness", "std"),
    )  # fmt: skip
    print(summary.to_string())
    return summary


def without_photographs(images: pd.DataFrame) -> pd.DataFrame:
    """Second pass: HLS means, two clusters in each class that holds photographs; the person drops one or none."""
    from sklearn.cluster import AgglomerativeClustering

    keep = np.ones(len(images), bool)
    for name, members in images.groupby("class"):
        if not members["photo"].any():
            continue
        means = np.array([mean_hls(np.asarray(cv2.imread(path))) for path in members["path"]])
        cluster = AgglomerativeClustering(n_clusters=2).fit_predict(means)
        photos = [members["photo"].to_numpy()[cluster == number].mean() for number in (0, 1)]
        print(f"{name}: {photos[0]:.0%} and {photos[1]:.0%} photographs in the two clusters")
        dropped = int(np.argmax(photos))
        keep[images.index.get_indexer(members.index[cluster == dropped])] = False
    return images[keep | (images["part"] == "test")]  # the test images are the same for both ways


def balanced(images: pd.DataFrame, work: Path) -> None:
    """Copy files into work/<part>/<class>, the training part under- and oversampled."""
    draw = random.Random(0)
    for (part, name), members in images.groupby(["part", "class"]):
        folder = work / str(part) / str(name)
        folder.mkdir(parents=True, exist_ok=True)
        paths = members["path"].tolist()
        if part == "train" and len(paths) > 1000:
            paths = draw.sample(paths, 1000)
        elif part == "train" and len(paths) < 250:
            paths += draw.choices(paths, k=250 - len(paths))
        for number, path in enumerate(paths):
            shutil.copy(path, folder / f"{number:04}_{Path(path).name}")


def trained(work: Path, epochs: int) -> pd.DataFrame:
    """Train on the folders; predictions on the test folder: file, class, predicted."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from keras.src.legacy.preprocessing.image import ImageDataGenerator
    import keras

    from tasks.vision import models

    augmented = ImageDataGenerator(
        horizontal_flip=True, width_shift_range=0.3, height_shift_range=0.3, rotation_range=30, zoom_range=0.2,
        fill_mode="nearest",
    )  # fmt: skip
    plain = ImageDataGenerator()  # the network itself divides by 255
    given = {"target_size": (SIZE, SIZE), "class_mode": "categorical", "batch_size": BATCH}
    train = augmented.flow_from_directory(str(work / "train"), seed=0, **given)
    validation, test = (
        plain.flow_from_directory(str(work / part), shuffle=False, classes=list(train.class_indices), **given)
        for part in ("validation", "test")
    )
    counts = np.bincount(train.classes)
    weights = {label: len(train.classes) / (len(counts) * count) for label, count in enumerate(counts)}
    model = models.build("baseline", SIZE, len(counts), seed=0)
    model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        class_weight=weights,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=5),
            keras.callbacks.EarlyStopping(patience=10),
            keras.callbacks.ModelCheckpoint(str(work / "best.keras"), save_best_only=True),
        ],
        verbose=2,
    )
    model = keras.models.load_model(work / "best.keras")
    names = list(train.class_indices)
    found = model.predict(test, verbose=0).argmax(axis=1)
    return pd.DataFrame(
        {
            "file": [Path(name).name.partition("_")[2] for name in test.filenames],
            "class": [names[label] for label in test.classes],
            "predicted": [names[label] for label in found],
        }
    )


def main() -> None:
    """Do it all; write seconds and predictions."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser("python -m benchmarks.original")
    parser.add_argument("--images", type=Path, required=True, help="folder with <class>/…")
    parser.add_argument("--told", type=Path, required=True, help="CSV: key, class, part, photo")
    parser.add_argument("--work", type=Path, required=True, help="folder for copies")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--answer", type=Path, required=True, help="where the answer goes")
    options = parser.parse_args()
    images = pd.read_csv(options.told)
    images["path"] = [str(options.images / key) for key in images["key"]]
    explore(images)
    balanced(without_photographs(images), options.work)
    preparation = time.perf_counter() - started
    predictions = trained(options.work, options.epochs)
    from sklearn.metrics import classification_report

    print(classification_report(predictions["class"], predictions["predicted"], zero_division=0))
    seconds = time.perf_counter() - started
    answer = {"seconds": seconds, "preparation": preparation, "predictions": predictions.to_dict("records")}
    options.answer.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
