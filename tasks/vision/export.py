"""The export: a TensorFlow SavedModel that takes the bytes of image files and gives class names and probabilities.

It needs nothing of Gesso and no Keras: decoding, resizing, network, calibration and the names of the classes are in its
graph, the weights as constants, which TensorFlow fuses with the operations around them; those of a large network
(`LARGE`) are variables beside the graph. TensorFlow Serving wants the folder as version `1/` of a model (untried).

    answer = tf.saved_model.load(folder).signatures["serving_default"](images=tf.constant([file_bytes]))
    answer["classes"][0], answer["probabilities"][0]        # best first

`serving_default` takes JPEG and PNG files. It repeats what `images.open_image` and `images.resize` do with them: the
scaled decode, the EXIF orientation, white behind transparent pixels, the area average rounded as OpenCV rounds it.
The signature `pixels` takes what these two made of any other file. An orientation that a PNG file keeps as text
(ImageMagick's `Raw profile type exif`) or behind its first 64 KiB is not seen.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from tasks.core.errors import DataError, ParamsError
from tasks.vision.calibration import TINY

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]

Answers = tuple[list[list[str]], Probabilities]
"""Names of the classes and their probabilities, both [n, classes]."""

TOLERANCE = 1e-4
"""How far a probability of the export may be from that of the training code."""

LARGE = 50_000_000
"""From this many parameters on the weights stay variables: as constants they would be copied some twenty times on the
way into a graph and out of it, and a graph file can't be larger than 2 GiB."""

EXIF_BYTES = 1 << 16
"""Where an EXIF block is looked for: at most so far from the file's beginning."""


def check_backend() -> None:
    """Check that Keras runs on TensorFlow, without which there is no export.

    Raises:
        ParamsError: it doesn't.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ParamsError(
            f"The export is made by TensorFlow, but KERAS_BACKEND is {backend}. Run `evaluate` with "
            f"KERAS_BACKEND=tensorflow; the model may come from another backend."
        )


def write(model: keras.Model, labels: list[str], temperature: float, folder: Path) -> None:
    """Write the SavedModel of a network; the same network gives the same bytes.

    Args:
        model: takes pixels of 0..255 [n, size, size, 3], gives probabilities [n, classes].
        labels: name of each class.
        temperature: by which its probabilities are calibrated.
        folder: is made.

    Raises:
        ParamsError: Keras runs on another backend.
    """
    check_backend()
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    size = int(model.input_shape[1])
    picture = _reader(size)  # first, so that its functions' numbers come first whether it was traced before or not
    batch = tf.TensorSpec((None, size, size, 3), tf.uint8, name="pixels")
    module = tf.Module()
    network = tf.function(lambda pixels: [model(pixels, training=False)]).get_concrete_function(batch)
    if model.count_params() < LARGE:
        network = convert_variables_to_constants_v2(network)
    else:
        module.kept = [weight.value for weight in model.weights]

    def answer(pixels: Any) -> dict[str, Any]:
        (probabilities,) = network(pixels)
        logs = tf.math.log(tf.maximum(tf.cast(probabilities, tf.float32), TINY))
        best, places = tf.math.top_k(tf.nn.softmax(logs / tf.constant(temperature, tf.float32)), len(labels))
        return {"classes": tf.gather(tf.constant(labels), places), "probabilities": best}

    def from_files(images: Any) -> dict[str, Any]:
        squares = tf.map_fn(picture, images, fn_output_signature=tf.TensorSpec((size, size, 3), tf.uint8))
        return answer(squares)

    signatures = {
        "serving_default": tf.function(from_files).get_concrete_function(tf.TensorSpec((None,), tf.string, "images")),
        "pixels": tf.function(answer).get_concrete_function(batch),
    }
    tf.saved_model.save(module, str(folder), signatures)
    make_repeatable(folder)


@cache
def _reader(size: int) -> Any:
    """The function of a file's bytes that gives its picture [size, size, 3].

    To trace it takes most of an export's time, and it is the same for all models of this size.
    """
    import tensorflow as tf

    def picture(contents: Any) -> Any:
        return square(open_file(contents, size), size)

    return tf.function(picture).get_concrete_function(tf.TensorSpec((), tf.string))


class Export:
    """An export, opened.

    `size` is the side of the pixels that it takes.
    """

    def __init__(self, folder: Path) -> None:
        """Open the export in a folder.

        Raises:
            DataError: there is none that TensorFlow can read.
        """
        import tensorflow as tf

        try:
            self._signatures = tf.saved_model.load(str(folder)).signatures
            takes = self._signatures["pixels"].structured_input_signature[1]["pixels"]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{folder} is not an export that TensorFlow can read: {error}") from error
        self.size = int(takes.shape[1])

    def of_pixels(self, pixels: Pixels) -> Answers:
        """What it makes of uint8 [n, size, size, 3]: names and probabilities [n, classes], best first."""
        return self._ask("pixels", pixels=pixels)

    def of_files(self, files: list[bytes]) -> Answers:
        """What it makes of JPEG and PNG files: names and probabilities [n, classes], best first."""
        return self._ask("serving_default", images=files)

    def _ask(self, signature: str, **given: Any) -> Answers:
        import tensorflow as tf

        answer = self._signatures[signature](**{name: tf.constant(value) for name, value in given.items()})
        names = [[name.decode() for name in row] for row in answer["classes"].numpy()]
        return names, answer["probabilities"].numpy()


def difference(export: Export, pixels: Pixels, labels: list[str], probabilities: Probabilities) -> float:
    """The largest difference of the export's probabilities, given pictures as PNG files and as pixels, from these.

    Args:
        export: what is checked.
        pixels: some pictures at its size, uint8 [n, size, size, 3].
        labels: the class of each column of `probabilities`.
        probabilities: the training code's [n, classes], calibrated.
    """
    import cv2

    files = [cv2.imencode(".png", picture[..., ::-1])[1].tobytes() for picture in pixels]
    largest = 0.0
    for names, given in (export.of_files(files), export.of_pixels(pixels)):
        place = {label: at for at, label in enumerate(labels)}
        ordered = np.take_along_axis(probabilities, np.array([[place[name] for name in row] for row in names]), axis=1)
        largest = max(largest, float(np.abs(ordered - given).max()))
    return largest


def open_file(contents: Any, min_side: int) -> Any:
    """The picture in a JPEG or PNG file [h, w, 3] uint8, as `images.open_image` gives it."""
    import tensorflow as tf

    is_jpeg = tf.equal(tf.strings.substr(contents, 0, 3), b"\xff\xd8\xff")
    is_png = tf.equal(tf.strings.substr(contents, 0, 4), b"\x89PNG")
    known = tf.debugging.Assert(is_jpeg | is_png, ["Neither a JPEG nor a PNG file: it starts with", contents], 4)
    with tf.control_dependencies([known]):
        pixels = tf.cond(is_jpeg, lambda: _jpeg(contents, min_side), lambda: _png(contents, min_side))
    return _upright(tf.ensure_shape(pixels, (None, None, 3)), _orientation(contents))


def square(pixels: Any, size: int) -> Any:
    """The picture [h, w, 3] uint8 as a square [size, size, 3], as `images.resize` makes it."""
    import tensorflow as tf

    height, width = tf.minimum(tf.shape(pixels)[0], size), tf.minimum(tf.shape(pixels)[1], size)
    return tf.ensure_shape(_enlarged(_averaged(pixels, height, width), size), (size, size, 3))


def _scales(shorter: Any, min_side: int) -> Any:
    """By how often a picture is halved with its shorter side still at `min_side`: 0 to 3."""
    import tensorflow as tf

    return tf.reduce_sum(tf.cast(shorter // tf.constant([2, 4, 8]) >= min_side, tf.int32))


def _jpeg(contents: Any, min_side: int) -> Any:
    import tensorflow as tf

    shape = tf.io.extract_jpeg_shape(contents)

    def at(ratio: int) -> Callable[[], Any]:
        return lambda: tf.io.decode_jpeg(contents, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    halvings = _scales(tf.minimum(shape[0], shape[1]), min_side)
    return tf.switch_case(halvings, [at(1), at(2), at(4), at(8)])


def _png(contents: Any, min_side: int) -> Any:
    import tensorflow as tf

    coloured = tf.cast(tf.io.decode_png(contents, channels=4), tf.int32)
    # Where a file of less than 8 bits has no alpha, TensorFlow fills it up with the largest number of so many bits.
    bits = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, 24, 1), tf.uint8)[0], tf.int32)
    filled = tf.reduce_all(coloured[..., 3:] == tf.bitwise.left_shift(1, tf.minimum(bits, 8)) - 1)
    alpha = tf.where(filled, 255, coloured[..., 3:])
    blended = coloured[..., :3] * alpha + 255 * (255 - alpha) + 128  # divided by 255 and rounded, as Pillow does it
    pixels = tf.cast((blended // 256 + blended) // 256, tf.uint8)
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    divisor = tf.bitwise.left_shift(1, _scales(tf.minimum(height, width), min_side))
    return _averaged(pixels, -(-height // divisor), -(-width // divisor))


def _orientation(contents: Any) -> Any:
    """The EXIF orientation, 1..8; 1 where there is none."""
    import tensorflow as tf

    head = tf.strings.substr(contents, 0, EXIF_BYTES)
    read = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    read = tf.concat([read, tf.zeros(16, tf.int32)], 0)

    def places(wanted: bytes) -> Any:
        found = [read[at : tf.size(read) - 12 + at] == value for at, value in enumerate(wanted)]
        return tf.where(tf.reduce_all(tf.stack(found), 0))[:, 0]

    starts = [places(lead + order) + len(lead) for lead in (b"Exif\0\0", b"eXIf") for order in (b"II*\0", b"MM\0*")]
    start = tf.cast(tf.concat([*starts, [-1]], 0)[0], tf.int32)  # of the TIFF header

    def number(at: Any, count: int) -> Any:
        """The unsigned numbers of `count` bytes at these places; 0 beyond the end."""
        there = tf.gather(read, tf.minimum(tf.expand_dims(at, -1) + tf.range(count), tf.size(read) - 1), axis=0)
        little = tf.equal(read[start], ord("I"))
        weights = 256 ** tf.range(count)
        return tf.reduce_sum(there * tf.where(little, weights, tf.reverse(weights, [0])), -1)

    def look() -> Any:
        # An offset beyond what was read, or so large that it wraps around, is none.
        directory = start + tf.clip_by_value(number(start + 4, 4), 0, EXIF_BYTES)
        entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory, 2), EXIF_BYTES // 12))
        values = tf.boolean_mask(number(entries + 8, 2), number(entries, 2) == 0x0112)
        value = tf.concat([values, [1]], 0)[0]
        return tf.where((value >= 1) & (value <= 8), value, 1)

    return tf.cond(start < 0, lambda: 1, look)


def _upright(pixels: Any, orientation: Any) -> Any:
    import tensorflow as tf

    def turned() -> Any:
        swapped = tf.cond(orientation > 4, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        rows = tf.reduce_any(orientation == [3, 4, 7, 8])
        columns = tf.reduce_any(orientation == [2, 3, 6, 7])
        swapped = tf.cond(rows, lambda: tf.reverse(swapped, [0]), lambda: swapped)
        return tf.cond(columns, lambda: tf.reverse(swapped, [1]), lambda: swapped)

    return tf.cond(orientation == 1, lambda: pixels, turned)


def _averaged(pixels: Any, height: Any, width: Any) -> Any:
    """The picture shrunk to [height, width, 3], each pixel the mean of what it covers: OpenCV's INTER_AREA."""
    import tensorflow as tf

    def scale(before: Any, after: Any) -> Any:
        return tf.cast(before, tf.float64) / tf.cast(after, tf.float64)

    def shrunk() -> Any:
        down, across = scale(tf.shape(pixels)[0], height), scale(tf.shape(pixels)[1], width)
        # Where a cell covers whole pixels, OpenCV sums integers and divides once, and of 2 x 2 rounds halves up.
        whole = (down == tf.round(down)) & (across == tf.round(across))

        def weights(step: Any, before: Any, after: Any) -> Any:
            low, pixel = tf.range(after, dtype=tf.float64)[:, None] * step, tf.range(before, dtype=tf.float64)
            covered = tf.minimum(low + step, pixel + 1) - tf.maximum(low, pixel)
            covered = tf.where(covered > 1e-3, covered, 0)
            return tf.cast(covered / tf.where(whole, tf.constant(1, tf.float64), step), tf.float32)

        rows = weights(down, tf.shape(pixels)[0], height)
        columns = weights(across, tf.shape(pixels)[1], width)
        sums = tf.einsum("jw,hwc->hjc", columns, tf.cast(pixels, tf.float32))
        sums = tf.einsum("ih,hjc->ijc", rows, sums)
        means = tf.where(whole, sums * tf.cast(1 / (down * across), tf.float32), sums)
        rounded = tf.where((down == 2) & (across == 2), tf.floor(means + 0.5), tf.round(means))
        return tf.cast(tf.clip_by_value(rounded, 0, 255), tf.uint8)

    same = (tf.shape(pixels)[0] == height) & (tf.shape(pixels)[1] == width)
    return tf.cond(same, lambda: pixels, shrunk)


def _enlarged(pixels: Any, size: int) -> Any:
    """The picture enlarged to [size, size, 3] in OpenCV's fixed-point arithmetic: its INTER_LINEAR of 8 bits."""
    import tensorflow as tf

    def between(length: Any) -> tuple[Any, Any, Any]:
        """The two neighbours of each new place, and where it lies between them."""
        step = tf.cast(length, tf.float64) / size
        place = tf.cast((tf.range(size, dtype=tf.float64) + 0.5) * step - 0.5, tf.float32)
        first = tf.cast(tf.floor(place), tf.int32)
        return first, tf.minimum(first + 1, length - 1), place - tf.floor(place)

    def parts(share: Any) -> tuple[Any, Any]:
        return tf.cast(tf.round((1 - share) * 2048), tf.int32), tf.cast(tf.round(share * 2048), tf.int32)

    def enlarged() -> Any:
        height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
        top, bottom, down = between(height)
        left, right, across = between(width)
        across = tf.where((left < 0) | (left >= width - 1), 0.0, across)
        before, after = (weight[:, None] for weight in parts(across))
        values = tf.cast(pixels, tf.int32)
        rows = tf.gather(values, tf.maximum(left, 0), axis=1) * before + tf.gather(values, right, axis=1) * after
        rows //= 16
        above, below = (weight[:, None, None] for weight in parts(down))
        upper = above * tf.gather(rows, tf.maximum(top, 0)) // 65536
        lower = below * tf.gather(rows, bottom) // 65536
        return tf.cast((upper + lower + 2) // 4, tf.uint8)

    same = (tf.shape(pixels)[0] == size) & (tf.shape(pixels)[1] == size)
    return tf.cond(same, lambda: pixels, enlarged)


def make_repeatable(folder: Path) -> None:
    """Take out of a SavedModel what differs between two of the same network.

    That is the fingerprint, the order of its maps, the numbers in the names of its functions, which count all functions
    that the process has traced, and the numbers by which a function calls the variables that it reads. The functions
    are counted from one here, and the variables go by their places.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    (folder / "fingerprint.pb").unlink(missing_ok=True)
    (folder / "assets").rmdir()
    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    library = saved.meta_graphs[0].graph_def.library
    numbered = [found for each in library.function if (found := re.fullmatch(r"(.*)_(\d+)", each.signature.name))]
    numbered.sort(key=lambda found: int(found[2]))
    names = {found[0]: f"{found[1]}_{number}" for number, found in enumerate(numbered, start=1)}
    anywhere = re.compile(f"({'|'.join(sorted(names, key=len, reverse=True))})(?!\\d)")
    _rename(saved, lambda text: anywhere.sub(lambda found: names[found[1]], text))
    for each in library.function:
        for argument in each.arg_attr.values():
            if (called := argument.attr.get("_user_specified_name")) is not None and called.s.isdigit():
                del argument.attr["_user_specified_name"]
    functions = sorted(library.function, key=lambda each: str(each.signature.name))
    del library.function[:]
    library.function.extend(functions)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _rename(message: Any, renamed: Callable[[str], str]) -> None:
    """Rename in all texts of a protobuf message; the numbers of gradients' operations, which are bytes, become 0."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return renamed(value)
        return re.sub(rb"^(PartitionedCall)-\d+$", rb"\1-0", value) if isinstance(value, bytes) else value

    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key in list(value):
                if field.message_type.fields_by_name["value"].message_type:
                    _rename(value[key], renamed)
                    if (name := changed(key)) != key:
                        value[name].CopyFrom(value.pop(key))
                else:
                    value[changed(key)] = changed(value.pop(key))
        elif field.message_type:
            for item in value if isinstance(value, Sequence) else [value]:
                _rename(item, renamed)
        elif isinstance(value, str | bytes):
            if (new := changed(value)) != value:  # weights are bytes, too: hundreds of megabytes to copy
                setattr(message, field.name, new)
        elif field.cpp_type == field.CPPTYPE_STRING:
            value[:] = [changed(item) for item in value]
