"""The three networks of the original, in Keras 3.

All take pixels of 0..255 (uint8 or float) as [n, size, size, 3] RGB and give class probabilities [n, classes]:
the scaling to 0..1 is the first layer, so a saved model needs no preprocessing beside it.
"""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from tasks.core.errors import DataError, ParamsError

SIZES = (32, 512)
"""The smallest and largest side in pixels: `vgg` halves the picture five times, so 32 leaves one pixel."""


def build(architecture: str, image_size: int, classes: int, seed: int) -> keras.Model:
    """An untrained network; the same seed gives the same weights.

    Raises:
        ParamsError: unknown architecture, or a size that the networks can't take.
    """
    if architecture not in ARCHITECTURES:
        raise ParamsError(f"There is no architecture {architecture!r}. There are: {', '.join(ARCHITECTURES)}.")
    smallest, largest = SIZES
    if not smallest <= image_size <= largest:
        raise ParamsError(
            f"{architecture} can't take images of {image_size} px: image_size must be from {smallest} to {largest}."
        )
    keras.utils.set_random_seed(seed % 2**32)  # NumPy takes no larger one
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    features = ARCHITECTURES[architecture](layers.Rescaling(1 / 255, name="rescale")(pixels))
    probabilities = layers.Dense(classes, activation="softmax", name="probabilities")(features)
    return keras.Model(pixels, probabilities, name=architecture)


def baseline(x: keras.KerasTensor) -> keras.KerasTensor:
    """The original's first network: 1.25 M parameters at 224 px and 20 classes.

    Conv 32 3x3 stride 3, pool, dropout .25; Conv 64 stride 3, Conv 64, pool, dropout .25; dense 512, dropout .5.
    Convolutions pad ("same"), so that small pictures pass too.
    """
    x = _convolution(x, 32, "conv1", strides=3)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Dropout(0.25, name="drop1")(x)
    x = _convolution(x, 64, "conv2", strides=3)
    x = _convolution(x, 64, "conv3")
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Dropout(0.25, name="drop2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(512, activation="relu", kernel_initializer="he_normal", name="dense1")(x)
    return layers.Dropout(0.5, name="drop3")(x)


def vgg(x: keras.KerasTensor) -> keras.KerasTensor:
    """The VGG-16 body (Simonyan and Zisserman 2014) under the original's head: 144.8 M parameters at 224 px and
    20 classes.

    3x3 convolutions, two of 64 and of 128, three of 256, of 512 and of 512, each group followed by a pool; dense
    4096, 4096, 2048, 1024, each followed by dropout .5. Weights start as He et al. (2015) draw them: with sixteen
    layers and no batch norm the gradients vanish otherwise.
    """
    for stage, (filters, convolutions) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for n in range(1, convolutions + 1):
            x = _convolution(x, filters, f"conv{stage}_{n}")
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    for n, units in enumerate([4096, 4096, 2048, 1024], start=1):
        x = layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=f"dense{n}")(x)
        x = layers.Dropout(0.5, name=f"drop{n}")(x)
    return x


def residual(x: keras.KerasTensor) -> keras.KerasTensor:
    """Bottleneck blocks with shortcuts (He et al. 2015): 1.28 M parameters at 20 classes.

    Stem: Conv 64 7x7 stride 2, pool 3x3 stride 2. Then three blocks each at width 64, 128, 256 and 512, the first
    of each later stage at stride 2; batch norm after each convolution, no dropout inside a block, global average
    pooling. The widths are those of a block's output (its inner width is a quarter): the original leaves open
    which it meant, and as inner widths they make a network of 20 M parameters, ten times as slow on a CPU.
    """
    x = _normalised(x, 64, 7, "stem", strides=2)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, width in enumerate([64, 128, 256, 512], start=1):
        for block in range(1, 4):
            x = _bottleneck(x, width, f"stage{stage}_{block}", strides=2 if stage > 1 and block == 1 else 1)
    return layers.GlobalAveragePooling2D(name="average")(x)


ARCHITECTURES: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "baseline": baseline,
    "vgg": vgg,
    "residual": residual,
}


def _convolution(x: keras.KerasTensor, filters: int, name: str, strides: int = 1) -> keras.KerasTensor:
    return layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _normalised(x: keras.KerasTensor, filters: int, kernel: int, name: str, strides: int = 1) -> keras.KerasTensor:
    x = layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    # Keras' momentum of .99 averages over hundreds of steps: on a small data set that is many epochs, and
    # validation would judge statistics of weights long gone.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def _bottleneck(x: keras.KerasTensor, width: int, name: str, strides: int) -> keras.KerasTensor:
    shortcut = x
    if strides != 1 or x.shape[-1] != width:
        shortcut = _normalised(x, width, 1, f"{name}_shortcut", strides=strides)
    x = _normalised(x, width // 4, 1, f"{name}_reduce", strides=strides)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _normalised(x, width // 4, 3, f"{name}_conv")
    x = layers.ReLU(name=f"{name}_relu2")(x)
    x = _normalised(x, width, 1, f"{name}_expand")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu3")(x)


def save(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file; the same weights give the same bytes.

    What Keras writes holds the time of saving, in the metadata and in the zip's entries, and memory addresses as
    ids of objects that layers share. The times are left out here, and the ids counted from one.
    """
    written = path.with_suffix(".unsorted.keras")
    model.save(written)
    try:
        with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                with source.open(name) as old, target.open(entry, "w", force_zip64=True) as new:
                    if name.endswith(".json"):
                        new.write(json.dumps(_timeless(json.load(old), {})).encode())
                    else:
                        shutil.copyfileobj(old, new)
    finally:
        written.unlink()


def _timeless(value: Any, ids: dict[int, int]) -> Any:
    if isinstance(value, dict):
        return {
            name: ids.setdefault(item, len(ids) + 1) if name == "shared_object_id" else _timeless(item, ids)
            for name, item in value.items()
            if name != "date_saved"
        }
    if isinstance(value, list):
        return [_timeless(item, ids) for item in value]
    return value


def load(path: Path) -> keras.Model:
    """The network in a `.keras` file, for prediction. Nothing in the file is run or unpickled.

    Raises:
        DataError: the file is not a model that Keras can read.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a model that Keras can read: {error}") from error
