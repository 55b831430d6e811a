"""Flat drawings of two kinds that a small network tells apart, for tests that run many steps."""

from collections.abc import Iterator

import cv2
import numpy as np

#: The colours of the kinds.
KINDS = ((200, 60, 40), (40, 60, 200))


def flat_drawings(rng: np.random.Generator, colour: tuple[int, int, int], count: int) -> Iterator[bytes]:
    """PNG files of 48 x 48 pixels: a square on white, and some speckles by which no two are alike."""
    for _ in range(count):
        picture = np.full((48, 48, 3), 255, np.uint8)
        left, top = (int(value) for value in rng.integers(2, 20, 2))
        cv2.rectangle(picture, (left, top), (left + 24, top + 22), colour, -1)
        picture[rng.integers(0, 48, 12), rng.integers(0, 48, 12)] = rng.integers(0, 255, (12, 3))
        yield cv2.imencode(".png", picture)[1].tobytes()
