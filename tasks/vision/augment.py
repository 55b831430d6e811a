"""Augmentation: one random affine warp per image.

The original trained with Keras' `ImageDataGenerator(horizontal_flip=True, width_shift_range=0.3,
height_shift_range=0.3, rotation_range=30, zoom_range=0.2, fill_mode="nearest")`. All of these are affine, so
they are multiplied into one 2x3 matrix and each image is resampled once.

Drawing, matrix and warp are apart so that another warp (on a GPU) can follow the same matrices.
"""

from typing import NamedTuple

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


def warp(images: npt.NDArray[np.uint8], matrices: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Warp each image [n, size, size, 3] by its matrix, bilinear, the border repeated outwards."""
    size = images.shape[1]
    warped = np.empty_like(images)
    for source, matrix, target in zip(images, matrices, warped, strict=True):
        target[...] = cv2.warpAffine(
            source,
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return warped
