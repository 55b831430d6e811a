"""Illustrations drawn by code, for the demo data set and for tests.

A motif is a function that returns parts: outlines in a square from -1 to 1 (x right, y down), each with the
tone that fills it. `illustration` strews a motif over paper in one of five styles; the random generator
decides place, size, turn, colours and line widths: no two pictures are alike, and one seed gives one picture.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Points = NDArray[np.float64]
Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]

STYLES = ("flat", "outlined", "line", "painted", "crayon")
INK = -1
OVERSAMPLING = 2
SUBPIXEL_BITS = 4
INKS = np.array([(34.0, 34.0, 40.0), (62.0, 48.0, 44.0), (28.0, 44.0, 84.0)])
CIRCLE = np.array([(cos(k * pi / 20), sin(k * pi / 20)) for k in range(40)])


@dataclass(frozen=True)
class Part:
    """One shape of a motif: `outline` [n, 2]; `tone` indexes the palette or is INK; open parts are lines."""

    outline: Points
    tone: int
    closed: bool = True


Motif = Callable[[Generator], list[Part]]
Place = tuple[Points, float, float]  # centre in pixels, radius in pixels, angle in radians


# Outlines


def polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    return np.asarray(turned(CIRCLE * (rx, ry), turn) + np.array((x, y)))


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
    """Angles in radians, clockwise from the right (y points down)."""
    angle = np.linspace(start, end, 24)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def blob(*corners: tuple[float, float]) -> Points:
    """A smooth closed curve near the corners (Chaikin's corner cutting)."""
    points = polygon(*corners)
    for _ in range(3):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
    return points


def wave(x: float, y: float, width: float, height: float, periods: float) -> Points:
    along = np.linspace(0, 1, 40)
    return np.stack([x + width * along, y + height * np.sin(2 * pi * periods * along)], axis=1)


def star(x: float, y: float, radius: float, rays: int = 5, inner: float = 0.45) -> Points:
    angle = np.arange(2 * rays) * pi / rays - pi / 2
    reach = np.where(np.arange(2 * rays) % 2, inner, 1.0) * radius
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)


def turned(points: Points, angle: float) -> Points:
    return np.asarray(points @ np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]]))


def mirrored(parts: Iterable[Part]) -> list[Part]:
    """The parts and their mirror images left and right."""
    return [Part(part.outline * (side, 1), part.tone, part.closed) for part in parts for side in (1, -1)]


def line(tone: int, outline: Points) -> Part:
    return Part(outline, tone, closed=False)


def dot(x: float, y: float, radius: float, tone: int = INK) -> Part:
    return Part(ellipse(x, y, radius, radius), tone)


# Pictures


def illustration(
    motif: Motif,
    palette: Sequence[str],
    style: str,
    width: int,
    height: int,
    rng: Generator,
    cutout: bool = False,
) -> Picture:
    """One picture of a motif: RGB [height, width, 3] on paper, or RGBA without paper where `cutout`.

    `palette` is four colours ("#rrggbb"), `style` one of STYLES. A cutout's transparent pixels are black, as
    many programs leave them, so that whoever drops the alpha channel sees it.
    """
    colours = _jittered(palette, rng)
    paper = _paper(width, height, colours, rng)
    ink = rng.choice(INKS) if rng.random() < 0.4 else colours[0].astype(float) * 0.6
    if style == "line":
        colours[:] = paper.reshape(-1, 3).mean(axis=0)
    layout = rng.choice(("one", "few", "pattern"), p=(0.7, 0.2, 0.1))
    # A pattern is one small drawing, repeated.
    repeats = int(rng.integers(2, 4)) if layout == "pattern" else 1
    cell_width, cell_height = -(-width * OVERSAMPLING // repeats), -(-height * OVERSAMPLING // repeats)
    # Colours are drawn with alpha 255 on transparent black, so anti-aliasing leaves premultiplied RGBA.
    layer = np.zeros((cell_height, cell_width, 4), dtype=np.uint8)
    places = _scattered(cell_width, cell_height, rng) if layout == "few" else [_centred(cell_width, cell_height, rng)]
    for place in places:
        _draw(layer, motif(rng), place, colours, ink, style, rng)
    if repeats > 1:
        layer = _wallpaper(layer, width * OVERSAMPLING, height * OVERSAMPLING, rng)
    layer = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)
    if style == "painted":
        layer = _painted(layer, rng)
    elif style == "crayon":
        layer = _crayoned(layer, rng)
    if cutout:
        alpha = layer[..., 3:].astype(np.float32)
        straight = layer[..., :3] * (255 / np.maximum(alpha, 1))
        return np.dstack([straight.clip(0, 255), alpha]).round().astype(np.uint8)
    blank = 1 - layer[..., 3:] * np.float32(1 / 255)
    return np.asarray((layer[..., :3] + paper * blank).clip(0, 255), dtype=np.uint8)


def _draw(
    layer: Picture, parts: list[Part], place: Place, colours: Floats, ink: Points, style: str, rng: Generator
) -> None:
    """Draw the parts, bent, mirrored perhaps, turned and scaled, on the RGBA layer."""
    centre, radius, angle = place
    bend = _bend(rng)
    flip = (rng.choice((-1, 1)), 1)
    thickness = max(2, round(radius * rng.uniform(0.03, 0.08)))
    outlined = style in ("outlined", "line")
    tones = [(*tone, 255.0) for tone in (*colours.tolist(), ink.tolist())]  # INK, -1, is the last one
    options: dict[str, Any] = {"lineType": cv2.LINE_AA, "shift": SUBPIXEL_BITS}
    for part in parts:
        outline = turned(bend(_dense(part.outline, part.closed)) * flip, angle) * radius + centre
        fixed = np.round(outline * (1 << SUBPIXEL_BITS)).astype(np.int32)
        if part.closed:
            cv2.fillPoly(layer, [fixed], tones[part.tone], **options)
        if outlined or not part.closed:
            colour = tones[INK if outlined else part.tone]
            cv2.polylines(layer, [fixed], part.closed, colour, thickness=thickness, **options)


def _jittered(palette: Sequence[str], rng: Generator) -> Floats:
    """The palette as RGB [4, 3], 0..255, each picture a little warmer, darker or paler than the next."""
    colours = np.array([[int(tone[k : k + 2], 16) for k in (1, 3, 5)] for tone in palette], dtype=np.float32)
    grey = colours.mean(axis=1, keepdims=True)
    colours = grey + (colours - grey) * rng.uniform(0.7, 1.2)
    shifts = rng.normal(0, 9, colours.shape) + rng.normal(0, 6, 3)
    return np.asarray((colours * rng.uniform(0.85, 1.12) + shifts).clip(0, 255), dtype=np.float32)


def _paper(width: int, height: int, colours: Floats, rng: Generator) -> Floats:
    """White, tinted or coloured paper, sometimes with a backdrop or grain: RGB, broadcasts to the picture."""
    white = np.float32(rng.choice((255, 255, 250)))
    strength = np.float32(rng.choice((0.0, 0.2, 0.5), p=(0.45, 0.35, 0.2)))
    base = white + (colours[rng.integers(0, 4)] - white) * strength
    other = white + (colours[rng.integers(0, 4)] - white) * np.float32(rng.uniform(0.15, 0.45))
    x = np.arange(width, dtype=np.float32)[None] / max(width, height)
    y = np.arange(height, dtype=np.float32)[:, None] / max(width, height)
    angle, cells = rng.uniform(0, pi), rng.uniform(5, 9)
    backdrop = rng.choice(("plain", "fade", "ground", "dots", "stripes"), p=(0.6, 0.13, 0.17, 0.05, 0.05))
    share: NDArray[Any] = np.zeros((1, 1))
    if backdrop == "fade":
        share = y
    elif backdrop == "ground":
        share = y > rng.uniform(0.62, 0.8) * y.max() + 0.03 * np.sin(x * rng.uniform(2, 9))
    elif backdrop == "dots":
        share = np.hypot(x * cells % 1 - 0.5, y * cells % 1 - 0.5) < 0.2
    elif backdrop == "stripes":
        share = (x * cos(angle) + y * sin(angle)) * cells % 1 < 0.5
    paper = base + (other - base) * share[..., None].astype(np.float32)
    if rng.random() < 0.3:
        paper = paper + 3 * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.asarray(paper, dtype=np.float32)


def _centred(width: int, height: int, rng: Generator) -> Place:
    """One large drawing, more or less in the middle."""
    radius = min(width, height) * rng.uniform(0.34, 0.47)
    middle = np.array([width, height]) / 2
    return middle + (middle - radius) * rng.uniform(-0.8, 0.8, 2), radius, rng.normal(0, 0.15)


def _scattered(width: int, height: int, rng: Generator) -> list[Place]:
    """Two to four drawings that do not overlap much, each in a quarter of the picture."""
    quarter = np.array([width, height]) / 2
    corners = rng.permutation([(0, 0), (0, 1), (1, 0), (1, 1)])[: rng.integers(2, 5)]
    return [
        (
            (corner + 0.5 + rng.uniform(-0.12, 0.12, 2)) * quarter,
            float(quarter.min()) * rng.uniform(0.38, 0.52),
            rng.normal(0, 0.25),
        )
        for corner in corners
    ]


def _wallpaper(cell: Picture, width: int, height: int, rng: Generator) -> Picture:
    """The cell repeated in all directions, at a slant: upright patterns all have about the same perceptual hash."""
    slant = cv2.getRotationMatrix2D((0, 0), float(rng.choice((-1, 1)) * rng.uniform(8, 37)), 1.0)
    slant[:, 2] = rng.uniform(0, 1, 2) * (cell.shape[1], cell.shape[0])
    return np.asarray(cv2.warpAffine(cell, slant, (width, height), borderMode=cv2.BORDER_WRAP))


def _bend(rng: Generator) -> Callable[[Points], Points]:
    """A smooth distortion of the plane: parts stay joined, and no two drawings have the same outline."""
    strength, stretch = rng.uniform(0.01, 0.05), rng.uniform(0.88, 1.12)
    pace, phase = rng.uniform(2, 5, (2, 2)), rng.uniform(0, 2 * pi, (2, 2))

    def bend(points: Points) -> Points:
        sway = np.sin(points[:, None, ::-1] * pace + phase).sum(axis=1)
        return np.asarray(points * (stretch, 1 / stretch) + strength * sway, dtype=np.float64)

    return bend


def _dense(outline: Points, closed: bool) -> Points:
    """The outline with points added along its edges where it has few, so that straight ones bend too."""
    if len(outline) > 20:
        return outline
    share = np.linspace(0, 1, 8, endpoint=False)[:, None]
    edges = np.roll(outline, -1, axis=0) - outline
    points = (outline[:, None] + edges[:, None] * share).reshape(-1, 2)
    return points if closed else points[: 1 - len(share)]


def _clouds(height: int, width: int, cells: int, rng: Generator) -> Floats:
    """Smooth noise, about -1..1."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _painted(layer: Picture, rng: Generator) -> Picture:
    """Watercolour: edges that wander, pigment that pools, paint that thins out."""
    height, width = layer.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wander = width * 0.012
    x += wander * _clouds(height, width, 12, rng)
    y += wander * _clouds(height, width, 12, rng)
    soft = cv2.GaussianBlur(cv2.remap(layer, x, y, cv2.INTER_LINEAR), (0, 0), width * 0.004)
    thickness = (0.88 + 0.12 * _clouds(height, width, 9, rng)).clip(0.6, 1)[..., None]
    pigment = (0.95 + 0.16 * _clouds(height, width, 7, rng))[..., None]
    paint = soft.astype(np.float32) * thickness
    paint[..., :3] = np.minimum(paint[..., :3] * pigment, paint[..., 3:])
    return np.asarray(paint.clip(0, 255), dtype=np.uint8)


def _crayoned(layer: Picture, rng: Generator) -> Picture:
    """Strokes in one direction that let the paper show through."""
    height, width = layer.shape[:2]
    side = int(np.hypot(height, width)) + 2
    strokes = cv2.blur(rng.uniform(-1, 1, (side, side)).astype(np.float32), (19, 2))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(20, 70), 1.0)
    strokes = cv2.warpAffine(strokes, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    top, left = (side - height) // 2, (side - width) // 2
    cover = (0.75 + 4 * strokes[top : top + height, left : left + width]).clip(0.15, 1)
    return np.asarray(layer * cover[..., None], dtype=np.uint8)
