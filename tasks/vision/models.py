"""The three networks of the original in Keras 3, and those of `keras.applications`.

All take pixels of 0..255 (uint8 or float) as [n, size, size, 3] RGB and give class probabilities [n, classes]:
what scales the pixels is inside, so a saved model needs no preprocessing beside it. They end in a dense layer `logits`
and its softmax, both in float32 whatever the rest is computed in.
"""

import json
import math
import re
import shutil
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]  # Keras needs it, too
import keras
from keras import layers

from tasks.core.errors import DataError, ParamsError
from tasks.vision import devices

SIZES = (32, 512)
"""The smallest and largest side in pixels: `vgg` halves the picture five times, so 32 leaves one pixel."""

OWN = ("baseline", "vgg", "residual")
"""The original's networks; beside them `keras:<Name>` is the network <Name> of `keras.applications`."""

BODY = "body"
"""Name of the layer that is a whole network of `keras.applications`, without its head."""

_STDDEV = (0.229, 0.224, 0.225)  # of ImageNet's RGB, as Keras rounds it


def build(
    architecture: str,
    image_size: int,
    classes: int,
    seed: int,
    *,
    bottleneck: Literal["output", "inner"] = "output",
    precision: str = "float32",
    synchronised: bool = False,
) -> keras.Model:
    """An untrained network; the same seed gives the same weights.

    Args:
        architecture: one of `OWN`, or `keras:<Name>`.
        image_size: side of the images in pixels.
        classes: how many classes.
        seed: of the weights, and of the dropout of a training.
        bottleneck: what the widths of `residual` are, see there.
        precision: what activations are computed in: float32, bfloat16 or float16. Weights are float32.
        synchronised: whether the batch norm of `residual` goes by the batches of all devices (TensorFlow has to be
            told so).

    Raises:
        ParamsError: unknown architecture, or a size that the network can't take.
    """
    name = architecture.removeprefix("keras:")
    if architecture not in OWN and (name == architecture or name not in applications()):
        raise ParamsError(
            f"There is no architecture {architecture!r}. There are: {', '.join(OWN)}, and keras:<Name> with a name of "
            f"{', '.join(applications())}."
        )
    smallest, largest = SIZES
    if not smallest <= image_size <= largest:
        raise ParamsError(
            f"{architecture} can't take images of {image_size} px: image_size must be from {smallest} to {largest}."
        )
    keras.utils.set_random_seed(seed % 2**32)  # NumPy takes no larger one
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(devices.dtype_policy(precision))
    try:
        pixels = keras.Input((image_size, image_size, 3), name="pixels", dtype="float32")
        if architecture in OWN:
            x = layers.Rescaling(1 / 255, name="rescale")(pixels)
            if architecture == "residual":
                features = residual(x, bottleneck, synchronised)
            else:
                features = baseline(x) if architecture == "baseline" else vgg(x)
        else:
            features = application(name, pixels)
        logits = layers.Dense(classes, dtype="float32", name="logits")(features)
        probabilities = layers.Softmax(dtype="float32", name="probabilities")(logits)
        model = keras.Model(pixels, probabilities, name=name)
    finally:
        keras.config.set_dtype_policy(before)
    model.jit_compile = devices.compiles()
    return model


def baseline(x: keras.KerasTensor) -> keras.KerasTensor:
    """The original's first network: 1,246,740 parameters at 224 px and 20 classes.

    | layer | at 224 px | parameters |
    |---|---|---|
    | Conv 32 3x3 stride 3, ReLU | 75x75x32 | 896 |
    | max pool 2, dropout .25 | 37x37x32 | |
    | Conv 64 3x3 stride 3, ReLU | 13x13x64 | 18,496 |
    | Conv 64 3x3, ReLU | 13x13x64 | 36,928 |
    | max pool 2, dropout .25 | 6x6x64 | |
    | dense 512, ReLU, dropout .5 | 512 | 1,180,160 |
    | dense, softmax | 20 | 10,260 |

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
    """The VGG-16 body (Simonyan and Zisserman 2014) under the original's head: 144,769,876 parameters at 224 px and
    20 classes.

    | layer | at 224 px | parameters |
    |---|---|---|
    | two Conv 64 3x3, ReLU; max pool 2 | 112x112x64 | 38,720 |
    | two Conv 128 3x3, ReLU; max pool 2 | 56x56x128 | 221,440 |
    | three Conv 256 3x3, ReLU; max pool 2 | 28x28x256 | 1,475,328 |
    | three Conv 512 3x3, ReLU; max pool 2 | 14x14x512 | 5,899,776 |
    | three Conv 512 3x3, ReLU; max pool 2 | 7x7x512 | 7,079,424 |
    | dense 4096, ReLU, dropout .5 | 4096 | 102,764,544 |
    | dense 4096, ReLU, dropout .5 | 4096 | 16,781,312 |
    | dense 2048, ReLU, dropout .5 | 2048 | 8,390,656 |
    | dense 1024, ReLU, dropout .5 | 1024 | 2,098,176 |
    | dense, softmax | 20 | 20,500 |

    Weights start as He et al. (2015) draw them: with sixteen layers and no batch norm the gradients vanish otherwise.
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


def residual(
    x: keras.KerasTensor, bottleneck: Literal["output", "inner"] = "output", synchronised: bool = False
) -> keras.KerasTensor:
    """Bottleneck blocks with shortcuts (He et al. 2015).

    The original gives the widths 64, 128, 256, 512 and leaves open what of: a block's output (its inner convolutions
    are a quarter as wide), or its inner convolutions (its output is four times as wide). At 20 classes:

    | layer | at 224 px | parameters, `output` | parameters, `inner` |
    |---|---|---|---|
    | Conv 64 7x7 stride 2, batch norm, ReLU | 112x112x64 | 9,664 | 9,664 |
    | max pool 3 stride 2 | 56x56x64 | | |
    | three blocks of 64 | 56x56 | 14,208 | 218,624 |
    | three blocks of 128, the first at stride 2 | 28x28 | 61,184 | 945,152 |
    | three blocks of 256, the first at stride 2 | 14x14 | 239,104 | 3,758,080 |
    | three blocks of 512, the first at stride 2 | 7x7 | 945,152 | 14,987,264 |
    | global average pool | 512 or 2048 | | |
    | dense, softmax | 20 | 10,260 | 40,980 |
    | all | | 1,279,572 | 19,959,764 |

    A block: Conv 1x1, batch norm, ReLU; Conv 3x3, batch norm, ReLU; Conv 1x1, batch norm; plus the shortcut (a Conv
    1x1 with batch norm where the shape changes); ReLU. No dropout beside batch norm inside a block.
    """
    x = _normalised(x, 64, 7, "stem", synchronised, strides=2)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, width in enumerate([64, 128, 256, 512], start=1):
        inner, output = (width // 4, width) if bottleneck == "output" else (width, 4 * width)
        for block in range(1, 4):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _bottleneck(x, inner, output, f"stage{stage}_{block}", synchronised, strides=strides)
    return layers.GlobalAveragePooling2D(name="average")(x)


def applications() -> tuple[str, ...]:
    """Names of the networks of `keras.applications`."""
    return tuple(sorted(name for name in dir(keras.applications) if name[0].isupper()))


def application(name: str, pixels: keras.KerasTensor) -> keras.KerasTensor:
    """A network of `keras.applications` without weights, its own preprocessing before it and its head taken off.

    Raises:
        ParamsError: it can't take images of this size.
    """
    modules = [module for module in vars(keras.applications).values() if isinstance(module, types.ModuleType)]
    # MobileNetV3 is in none of them: it scales pixels inside.
    own = next((module.preprocess_input for module in modules if hasattr(module, name)), lambda x: x)
    size = pixels.shape[1]
    try:
        body = getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
        )
    except ValueError as error:
        raise ParamsError(f"keras:{name} can't take images of {size} px: {error}") from None
    body.name = BODY
    return body(own(pixels))


def load_weights(model: keras.Model, path: Path, uri: str) -> None:
    """Give the body of a `keras:<Name>` network the weights in a file.

    Args:
        model: from `build`.
        path: a `.weights.h5` file of that network without its head, or an older `…_notop.h5`.
        uri: where it came from, for the error.

    Raises:
        DataError: the file doesn't fit.
    """
    body = model.get_layer(BODY)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping nested container", UserWarning)  # its layers would stay random
            body.load_weights(path)
    except (OSError, ValueError, TypeError, KeyError, UserWarning) as error:
        raise DataError(
            f"The weights in {uri} are not those of keras:{model.name} without its head (a .weights.h5 or a …_notop.h5 "
            f"file): {str(error).splitlines()[0]}"
        ) from error
    if re.fullmatch(r"EfficientNetB\d", model.name) and _is_rescaled(path):
        (normalisation,) = (layer for layer in body.layers if isinstance(layer, layers.Normalization))
        normalisation.adapt_variance.assign(normalisation.adapt_variance * keras.ops.array(_STDDEV))
        normalisation.finalize_state()


def _is_rescaled(path: Path) -> bool:
    """Whether an EfficientNet with these weights divides its normalised pixels by the root of `_STDDEV`, too.

    Keras gives it a layer for that only where it fetches its weights of ImageNet itself. The layer has no weights, so
    a file without it fits one with it. Of a …_notop.h5 it is known that it holds Keras' weights of ImageNet; a
    .weights.h5 has a group for every layer.
    """
    with h5py.File(path) as file:
        return "layers" not in file or "rescaling_1" in file["layers"]


def has_body(model: keras.Model) -> bool:
    """Whether it is a `keras:<Name>` network."""
    return any(layer.name == BODY for layer in model.layers)


def freeze(model: keras.Model, frozen: bool) -> None:
    """Let training leave the body of a `keras:<Name>` network as it is, or not; takes effect when compiled."""
    model.get_layer(BODY).trainable = not frozen


def flops(model: keras.Model) -> int:
    """Floating-point operations for one image, forwards: two for each product of a convolution or dense layer.

    A training step takes about three times as many. Batch norm, activations and pooling are not counted.
    """
    total = 0
    for layer in _leaves(model):
        kernels = [weight for weight in layer.trainable_weights + layer.non_trainable_weights if len(weight.shape) > 1]
        if kernels:
            _, *places, _ = layer.output.shape
            total += 2 * math.prod(places) * sum(math.prod(kernel.shape) for kernel in kernels)
    return total


def _leaves(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


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


def _normalised(
    x: keras.KerasTensor, filters: int, kernel: int, name: str, synchronised: bool, strides: int = 1
) -> keras.KerasTensor:
    x = layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    synchronised = synchronised and devices.backend() == "tensorflow"  # JAX's step sees the whole batch
    # Keras' momentum of .99 averages over hundreds of steps: on a small data set that is many epochs, and
    # validation would judge statistics of weights long gone.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=synchronised, name=f"{name}_norm")(x)


def _bottleneck(
    x: keras.KerasTensor, inner: int, output: int, name: str, synchronised: bool, strides: int
) -> keras.KerasTensor:
    shortcut = x
    if strides != 1 or x.shape[-1] != output:
        shortcut = _normalised(x, output, 1, f"{name}_shortcut", synchronised, strides=strides)
    x = _normalised(x, inner, 1, f"{name}_reduce", synchronised, strides=strides)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _normalised(x, inner, 3, f"{name}_conv", synchronised)
    x = layers.ReLU(name=f"{name}_relu2")(x)
    x = _normalised(x, output, 1, f"{name}_expand", synchronised)
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
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a model that Keras can read: {error}") from error
    model.jit_compile = devices.compiles()
    return model
