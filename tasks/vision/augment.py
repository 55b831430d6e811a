"""Augmentation: one random affine warp per image.

The original trained with Keras' `ImageDataGenerator(horizontal_flip=True, width_shift_range=0.3,
height_shift_range=0.3, rotation_range=30, zoom_range=0.2, fill_mode="nearest")`. All of these are affine, so
they are multiplied into one 2x3 matrix and each image is resampled once.

Parameters and matrices are drawn in one place, whatever follows them: `warp` (OpenCV) on a CPU, and on a GPU
`warp_in_step` (keras.ops), which is compiled into the training step. Both give the same picture.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

ROTATION = 30.0
SHIFT = 0.3
ZOOM = 0.2


class Draw(NamedTuple):
    """Random parameters of a batch, each an array [n]."""

    angle: npt.NDArray[np.float64]
    """Rotation in degrees, uniform in [-30, 30]."""
    shift_x: npt.NDArray[np.float64]
    """Shift along the columns as a share of the side, uniform in [-0.3, 0.3]."""
    shift_y: npt.NDArray[np.float64]
    """Shift along the rows as a share of the side, uniform in [-0.3, 0.3]."""
    zoom_x: npt.NDArray[np.float64]
    """Step between neighbouring columns, uniform in [0.8, 1.2]; below 1 magnifies."""
    zoom_y: npt.NDArray[np.float64]
    """Step between neighbouring rows, drawn independently of `zoom_x`: the aspect changes too."""
    flip: npt.NDArray[np.bool_]
    """Mirrored left to right, for half of the images."""


def draw(rng: np.random.Generator, images: int) -> Draw:
    """Draw the parameters of `images` warps."""
    return Draw(
        angle=rng.uniform(-ROTATION, ROTATION, images),
        shift_x=rng.uniform(-SHIFT, SHIFT, images),
        shift_y=rng.uniform(-SHIFT, SHIFT, images),
        zoom_x=rng.uniform(1 - ZOOM, 1 + ZOOM, images),
        zoom_y=rng.uniform(1 - ZOOM, 1 + ZOOM, images),
        flip=rng.random(images) < 0.5,
    )


def matrices(drawn: Draw, size: int) -> npt.NDArray[np.float64]:
    """The matrices [n, 2, 3] that map a pixel (x, y) of the warped image to its place in the source.

    Around the image's centre: mirror, then zoom, then shift, then rotate. The shift therefore runs along the
    rotated axes, as in Keras.
    """
    angle = np.deg2rad(drawn.angle)
    cos, sin = np.cos(angle), np.sin(angle)
    zoom_x = np.where(drawn.flip, -drawn.zoom_x, drawn.zoom_x)
    shift_x, shift_y = drawn.shift_x * size, drawn.shift_y * size
    centre = (size - 1) / 2

    result = np.empty((len(angle), 2, 3))
    result[:, 0, 0], result[:, 0, 1] = cos * zoom_x, -sin * drawn.zoom_y
    result[:, 1, 0], result[:, 1, 1] = sin * zoom_x, cos * drawn.zoom_y
    result[:, 0, 2] = cos * shift_x - sin * shift_y
    result[:, 1, 2] = sin * shift_x + cos * shift_y
    result[:, :, 2] += centre - result[:, :, :2].sum(axis=2) * centre
    return result


def warp(images: npt.NDArray[np.uint8], matrices: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Warp each image [n, size, size, 3] by its matrix, bilinear, the border repeated outwards: of the same shape."""
    size = images.shape[1]
    warped = np.empty_like(images)
    # Pixels of four bytes are warped twice as fast as those of three, and these stay in the processor's cache.
    source, target = (np.empty((size, size, 4), np.uint8) for _ in range(2))
    for image, matrix, result in zip(images, matrices, warped, strict=True):
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=source)
        cv2.warpAffine(
            source,
            matrix,
            (size, size),
            dst=target,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.cvtColor(target, cv2.COLOR_RGBA2RGB, dst=result)
    return warped


def warp_in_step(images: Any, matrices: Any) -> Any:
    """As `warp`, on tensors of the backend: uint8 [n, size, size, 3] by float32 [n, 2, 3].

    What differs is the rounding of coordinates, to 24 bits here: now and then a pixel is one level off.
    """
    from keras import ops  # the rest of this module does without the seconds that this takes

    size = images.shape[1]
    across = ops.reshape(ops.arange(size, dtype="float32"), (1, 1, size))
    down = ops.reshape(across, (1, size, 1))

    def source(row: int) -> tuple[Any, Any, Any]:
        """Of x (row 0) or y (row 1): the pixel before, the one after, and how far between them."""
        a, b, c = (ops.reshape(matrices[:, row, column], (-1, 1, 1)) for column in range(3))
        place = ops.clip(a * across + b * down + c, 0, size - 1)
        before = ops.floor(place)
        first = ops.cast(before, "int32")
        return first, ops.minimum(first + 1, size - 1), ops.expand_dims(place - before, -1)

    left, right, rightwards = source(0)
    top, bottom, downwards = source(1)
    pixels = ops.reshape(images, (-1, size * size, 3))

    def at(row: Any, column: Any) -> Any:
        places = ops.reshape(row * size + column, (-1, size * size, 1))
        found = ops.take_along_axis(pixels, ops.broadcast_to(places, ops.shape(pixels)), axis=1)
        return ops.cast(ops.reshape(found, ops.shape(images)), "float32")

    upper = at(top, left) * (1 - rightwards) + at(top, right) * rightwards
    lower = at(bottom, left) * (1 - rightwards) + at(bottom, right) * rightwards
    return ops.cast(ops.round(upper * (1 - downwards) + lower * downwards), "uint8")
