"""The motifs that the demo data set is drawn from: a fish, a house, a snowflake, ...

Each is a function of a random generator that returns the parts of one drawing, back to front, in a square
from -1 to 1. Tones 0 and 1 are a motif's main colours, 2 its accent, 3 its light one.
"""

from math import pi

import numpy as np
from numpy.random import Generator

from tasks.vision.drawing import (
    INK,
    Part,
    Points,
    arc,
    blob,
    dot,
    ellipse,
    line,
    mirrored,
    polygon,
    star,
    turned,
    wave,
)


def fish(rng: Generator) -> list[Part]:
    plump = rng.uniform(0.42, 0.62)
    tail = Part(polygon((0.5, 0), (1.0, -0.5), (0.85, 0), (1.0, 0.5)), 1)
    fin = Part(polygon((-0.25, -plump * 0.8), (0.1, -plump - 0.25), (0.35, -plump * 0.6)), 1)
    body = Part(blob((-1, 0.05), (-0.4, -plump), (0.2, -plump), (0.75, 0), (0.2, plump), (-0.4, plump)), 0)
    stripes = [line(2, arc(x, 0, 0.12, plump * 0.62, -1.2, 1.2)) for x in (-0.3, -0.05, 0.2)]
    return [tail, fin, body, *stripes, dot(-0.55, -0.1, 0.11, 3), dot(-0.56, -0.1, 0.05)]


def flower(rng: Generator) -> list[Part]:
    petals = int(rng.integers(5, 9))
    width = 1.15 / petals + 0.03
    stem = [line(2, polygon((0, -0.2), (0.06, 0.4), (0, 1.0))), Part(ellipse(0.25, 0.7, 0.28, 0.11, -0.6), 2)]
    ring = [
        Part(turned(ellipse(0.36, 0, 0.3, width), 2 * pi * k / petals) + np.array((0, -0.35)), 0) for k in range(petals)
    ]
    return [*stem, *ring, dot(0, -0.35, 0.2, 1)]


def house(rng: Generator) -> list[Part]:
    top = rng.uniform(-1.0, -0.75)
    chimney = Part(polygon((0.35, top), (0.55, top), (0.55, 0), (0.35, 0)), 2)
    wall = Part(polygon((-0.75, -0.15), (0.75, -0.15), (0.75, 0.9), (-0.75, 0.9)), 3)
    roof = Part(polygon((-0.98, -0.1), (0, top), (0.98, -0.1)), 0)
    door = Part(polygon((-0.15, 0.9), (-0.15, 0.35), (0.2, 0.35), (0.2, 0.9)), 1)
    windows = [
        Part(polygon((x, 0.1), (x + 0.3, 0.1), (x + 0.3, 0.42), (x, 0.42)), 2)
        for x in (-0.6, 0.35)[: int(rng.integers(1, 3))]
    ]
    return [chimney, wall, roof, door, *windows]


def pine(rng: Generator) -> list[Part]:
    tiers = int(rng.integers(3, 5))
    trunk = Part(polygon((-0.1, 0.5), (0.1, 0.5), (0.12, 1.0), (-0.12, 1.0)), 2)
    steps = [(1 - k / tiers) for k in range(tiers)]
    boughs = [
        Part(
            polygon((-0.68 * s - 0.08, 1.5 * s - 0.8), (0, 1.5 * s - 1.55), (0.68 * s + 0.08, 1.5 * s - 0.8)),
            k % 2,
        )
        for k, s in enumerate(steps)
    ]
    return [trunk, *boughs]


def boat(rng: Generator) -> list[Part]:
    hull = Part(polygon((-0.9, 0.35), (0.9, 0.35), (0.55, 0.78), (-0.6, 0.78)), 0)
    mast = line(INK, polygon((0, 0.35), (0, -1.0)))
    sails = [
        Part(polygon((0.07, -0.95), (0.07, 0.22), (rng.uniform(0.5, 0.8), 0.22)), 1),
        Part(polygon((-0.07, -0.8), (-0.07, 0.22), (rng.uniform(-0.7, -0.45), 0.22)), 3),
    ]
    return [mast, *sails, hull, line(2, wave(-1, 0.82, 2, 0.06, 3)), line(2, wave(-0.8, 0.97, 1.6, 0.05, 3))]


def mushroom(rng: Generator) -> list[Part]:
    stem = Part(blob((-0.28, -0.1), (0.28, -0.1), (0.25, 0.5), (0.4, 1.0), (-0.4, 1.0), (-0.25, 0.5)), 3)
    cap = Part(
        np.concatenate([arc(0, 0.05, 0.95, rng.uniform(0.8, 1.05), -pi, 0), arc(0, 0.05, 0.95, 0.18, 0, pi)]),
        0,
    )
    spots = [dot(x, y, rng.uniform(0.08, 0.15), 1) for x, y in ((-0.5, -0.2), (0, -0.5), (0.45, -0.15), (-0.02, -0.08))]
    return [stem, cap, *spots]


def bird(rng: Generator) -> list[Part]:
    legs = [line(INK, polygon((x, 0.45), (x + 0.03, 0.9), (x - 0.15, 0.95))) for x in (-0.1, 0.15)]
    tail = Part(polygon((0.45, 0.1), (1.0, -0.15), (0.98, 0.2)), 1)
    body = Part(blob((-0.75, -0.6), (-0.2, -0.95), (0.1, -0.3), (0.8, 0.1), (0.3, 0.75), (-0.55, 0.55)), 0)
    wing = Part(turned(blob((-0.35, -0.15), (0.15, -0.3), (0.6, 0.1), (0, 0.3)), rng.uniform(-0.4, 0.3)), 1)
    beak = Part(polygon((-0.55, -0.55), (-0.98, -0.38), (-0.56, -0.33)), 2)
    return [*legs, tail, body, wing, beak, dot(-0.35, -0.5, 0.07)]


def cat(rng: Generator) -> list[Part]:
    ears = mirrored(
        [
            Part(polygon((0.2, -0.5), (0.68, -1.0), (0.78, -0.1)), 0),
            Part(polygon((0.38, -0.55), (0.62, -0.8), (0.66, -0.4)), 1),
        ]
    )
    head = Part(ellipse(0, 0.1, 0.88, rng.uniform(0.68, 0.8)), 0)
    eyes = mirrored([Part(ellipse(0.34, 0, 0.15, 0.17), 3), Part(ellipse(0.34, 0, 0.06, 0.15), INK)])
    whiskers = mirrored([line(INK, polygon((0.3, y), (1.0, y * 2 - 0.35))) for y in (0.3, 0.38, 0.46)])
    mouth = mirrored([line(INK, arc(0.13, 0.4, 0.13, 0.12, 0, pi))])
    return [*ears, head, *eyes, Part(polygon((-0.1, 0.24), (0.1, 0.24), (0, 0.38)), 1), *mouth, *whiskers]


def balloon(rng: Generator) -> list[Part]:
    wide = rng.uniform(0.66, 0.8)

    def gore(share: float, tone: int) -> Part:
        w = wide * share
        return Part(
            np.concatenate([arc(0, -0.3, w, 0.7, -pi, 0), polygon((0.2 * share, 0.55), (-0.2 * share, 0.55))]),
            tone,
        )

    ropes = mirrored([line(INK, polygon((0.18, 0.55), (0.14, 0.8)))])
    basket = Part(polygon((-0.18, 0.76), (0.18, 0.76), (0.14, 1.0), (-0.14, 1.0)), 2)
    return [*ropes, gore(1, 0), gore(0.68, 1), gore(0.34, 3), basket]


def mountains(rng: Generator) -> list[Part]:
    sky = Part(polygon((-1, -0.8), (1, -0.8), (1, 0.8), (-1, 0.8)), 3)
    parts = [sky, dot(rng.uniform(-0.7, 0.7), -0.45, 0.18, 2)]
    for k, x in enumerate(rng.permutation([-0.5, 0.05, 0.5])):
        top, low = rng.uniform(-0.55, -0.1), 0.8
        left, right = max(-1.0, x - 0.6), min(1.0, x + 0.6)
        snow = 0.3 * (low - top)
        parts.append(Part(polygon((left, low), (x, top), (right, low)), k % 2))
        slope = [(x + (side - x) * 0.3, top + snow) for side in (left, right)]
        parts.append(Part(polygon(slope[0], (x, top), slope[1], (x, top + snow * 0.65)), 3))
    return parts


def blocks(rng: Generator) -> list[Part]:
    """Bars, discs and quarter discs on a grid, as in a poster of the 1920s."""
    parts = []
    for column, row in np.ndindex(3, 3):
        x, y, tone = column * 0.66 - 1, row * 0.66 - 1, int(rng.integers(0, 4))
        corner = int(rng.integers(0, 4))
        cx, cy = x + 0.62 * (corner in (1, 2)), y + 0.62 * (corner > 1)
        quarter = np.concatenate([polygon((cx, cy)), arc(cx, cy, 0.62, 0.62, corner * pi / 2, (corner + 1) * pi / 2)])
        square = polygon((x, y), (x + 0.62, y), (x + 0.62, y + 0.62), (x, y + 0.62))
        outline = (quarter, square, ellipse(x + 0.31, y + 0.31, 0.3, 0.3))[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
        parts.append(Part(outline, tone))
    return parts


def night(rng: Generator) -> list[Part]:
    sky = Part(ellipse(0, 0, 1, 1), 0)
    bend = rng.uniform(0.16, 0.3)
    moon = [dot(-0.15, 0.05, 0.52, 1), dot(-0.15 + bend, -0.05, 0.45, 0)]
    spots = rng.permutation([(0.55, -0.4), (0.1, -0.72), (0.62, 0.25), (0.3, 0.65), (-0.6, -0.55), (0.4, -0.05)])
    return [sky, *moon, *[Part(star(x, y, rng.uniform(0.1, 0.2)), 2) for x, y in spots[: rng.integers(3, 7)]]]


def cup(rng: Generator) -> list[Part]:
    base = rng.uniform(0.3, 0.5)
    handle = [line(1, arc(0.55, 0.2, 0.36, 0.3, -1.6, 1.7)), line(1, arc(0.55, 0.2, 0.28, 0.22, -1.6, 1.7))]
    body = Part(polygon((-0.65, -0.2), (0.65, -0.2), (base + 0.1, 0.72), (-base - 0.1, 0.72)), 0)
    rim = [Part(ellipse(0, -0.2, 0.65, 0.14), 3), Part(ellipse(0, -0.17, 0.52, 0.09), 2)]
    steam = [line(INK, wave(0, 0, 0.55, 0.07, 1.2)[:, ::-1] * (1, -1) + (x, -0.4)) for x in (-0.3, 0, 0.3)]
    return [Part(ellipse(0, 0.78, 0.95, 0.14), 1), *handle, body, *rim, *steam]


def snail(rng: Generator) -> list[Part]:
    angle = np.linspace(0, 2 * pi * rng.uniform(2.2, 3.2), 90)
    reach = 0.52 * angle / angle[-1]
    spiral = np.stack([0.2 + reach * np.cos(angle), -0.02 + reach * np.sin(angle)], axis=1)
    body = Part(blob((-1.1, 0.1), (-0.6, 0.0), (-0.5, 0.5), (0.5, 0.5), (1.15, 0.75), (0.4, 0.85), (-0.75, 0.8)), 1)
    horns = [line(INK, polygon((-0.72, 0.15), (x, -0.35))) for x in (-0.95, -0.7)]
    return [
        *horns,
        dot(-0.95, -0.37, 0.05),
        dot(-0.7, -0.37, 0.05),
        body,
        dot(0.2, -0.02, 0.6, 0),
        line(INK, spiral),
    ]


def butterfly(rng: Generator) -> list[Part]:
    wide = rng.uniform(0.85, 1.0)
    upper = Part(blob((0.02, 0), (0.25, -0.8), (wide, -0.95), (wide, -0.15), (0.4, 0.1)), 0)
    lower = Part(blob((0.02, 0.05), (0.6, -0.05), (wide * 0.85, 0.4), (0.55, 0.95), (0.15, 0.55)), 1)
    marks = [dot(0.58, -0.48, rng.uniform(0.12, 0.2), 2), dot(0.48, 0.4, rng.uniform(0.08, 0.15), 3)]
    antennae = mirrored([line(INK, polygon((0, -0.45), (0.1, -0.75), (0.28, -0.95)))])
    return [*mirrored([lower, upper, *marks]), *antennae, Part(ellipse(0, 0.02, 0.08, 0.5), INK)]


def branch(rng: Generator) -> list[Part]:
    pairs = int(rng.integers(4, 6))
    heights = np.linspace(0.6, -0.7, pairs)
    length = rng.uniform(0.32, 0.42)
    leaves = mirrored([Part(ellipse(0.36, y - 0.14, length, 0.13, -0.45), k % 2) for k, y in enumerate(heights)])
    return [line(2, polygon((0, 1.0), (0, -0.75))), *leaves, Part(ellipse(0, -0.85, 0.12, 0.25), 0)]


def umbrella(rng: Generator) -> list[Part]:
    ribs = int(rng.integers(3, 6))
    edges = np.linspace(-0.95, 0.95, ribs + 1)
    half = 0.95 / ribs
    scallops = [arc(x + half, 0, half, 0.12, -pi, 0) for x in edges[:-1]]
    canopy = np.concatenate([*scallops, arc(0, 0, 0.95, 0.85, 0, -pi)])
    seams = [
        Part(np.concatenate([polygon((0, -0.85)), arc(edges[k] + half, 0, half, 0.12, -pi, 0)]), 1)
        for k in range(1, ribs, 2)
    ]
    pole = [line(2, polygon((0, -1.0), (0, 0.8))), line(2, arc(0.15, 0.8, 0.15, 0.17, pi, 0))]
    return [*pole, Part(canopy, 0), *seams]


def cherries(rng: Generator) -> list[Part]:
    drop = rng.uniform(0.3, 0.5)
    stalks = [
        line(2, polygon((-0.45, drop), (-0.2, -0.35), (0.1, -0.9))),
        line(2, polygon((0.5, 0.5), (0.35, -0.3), (0.1, -0.9))),
    ]
    leaf = Part(ellipse(0.45, -0.8, 0.4, 0.16, 0.35), 2)
    fruit = [dot(-0.45, drop, 0.42, 0), dot(0.5, 0.5, 0.4, 1)]
    gloss = [Part(ellipse(x - 0.14, y - 0.14, 0.1, 0.06, -0.7), 3) for x, y in ((-0.45, drop), (0.5, 0.5))]
    return [*stalks, leaf, *fruit, *gloss]


def cactus(rng: Generator) -> list[Part]:
    left, right = rng.uniform(-0.5, 0.1, 2)

    def column(x: float, top: float, bottom: float, half: float) -> Points:
        return np.concatenate([arc(x, top + half, half, half, -pi, 0), polygon((x + half, bottom), (x - half, bottom))])

    arms = [
        Part(column(-0.62, left - 0.2, left + 0.4, 0.14), 1),
        Part(column(0.62, right - 0.2, right + 0.4, 0.14), 1),
    ]
    elbows = [
        Part(polygon((side, y + 0.2), (0, y + 0.2), (0, y + 0.42), (side, y + 0.42)), 1)
        for side, y in ((-0.76, left), (0.76, right))
    ]
    spines = [line(3, polygon((x, y), (x, y + 0.12))) for x in (-0.12, 0.1) for y in (-0.65, -0.35, -0.05, 0.2)]
    pot = [
        Part(polygon((-0.42, 0.5), (0.42, 0.5), (0.32, 1.0), (-0.32, 1.0)), 2),
        Part(polygon((-0.5, 0.42), (0.5, 0.42), (0.5, 0.56), (-0.5, 0.56)), 2),
    ]
    return [*arms, *elbows, Part(column(0, -1, 0.6, 0.3), 0), *spines, *pot]


def snowflake(rng: Generator) -> list[Part]:
    reach = rng.uniform(0.3, 0.5)
    forks = np.sort(rng.uniform(0.35, 0.85, 2))
    arm = [polygon((0, 0), (1, 0))] + [
        polygon((f + reach * 0.6, s * reach * 0.6), (f, 0)) for f in forks for s in (1, -1)
    ]
    ring = Part(star(0, 0, rng.uniform(0.2, 0.3), 6, 0.6), 1)
    return [line(0, turned(stroke, k * pi / 3)) for k in range(6) for stroke in arm] + [ring]
