"""Pictures made by numpy: flat drawings, and what stands in for photographs (soft shapes under a sensor's noise)."""

import cv2
import numpy as np


def drawing(seed: int, side: int = 96) -> np.ndarray:
    """Flat shapes with dark outlines on white, uint8 [side, side, 3]."""
    random = np.random.default_rng([1, seed])
    rgb = np.full((side, side, 3), 255, np.uint8)
    for _ in range(int(random.integers(3, 9))):
        centre = [int(place) for place in random.integers(10, side - 10, 2)]
        radius = int(random.integers(5, side // 3))
        colour = [int(part) for part in random.integers(0, 256, 3)]
        cv2.circle(rgb, centre, radius, colour, -1, cv2.LINE_AA)
        cv2.circle(rgb, centre, radius, (20, 20, 20), 2, cv2.LINE_AA)
    return rgb


def photograph(seed: int, side: int = 96) -> np.ndarray:
    """Soft light and shade in muted colours under noise, uint8 [side, side, 3]."""
    random = np.random.default_rng([2, seed])
    light = sum(
        cv2.resize(
            random.normal(0, 32 / (1 + level), (4 << level, 4 << level)), (side, side), interpolation=cv2.INTER_CUBIC
        )
        for level in range(3)
    )
    colour = cv2.resize(random.normal(0, 14, (3, 3, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    noise = random.normal(0, random.uniform(2, 5), (side, side, 3))
    return np.clip(random.uniform(80, 150) + np.asarray(light)[..., None] + colour + noise, 0, 255).astype(np.uint8)
