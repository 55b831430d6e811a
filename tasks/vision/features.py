"""What an image looks like, in numbers: the statistics by which photographs and illustrations differ.

The core is hue, lightness and saturation (HLS). Around it stand the measures that the literature found to tell
the two apart: few and prevalent colours, saturation, sharp transitions (Athitsos, Swain and Frankel,
"Distinguishing photographs and graphics on the World Wide Web", 1997); colour edges without lightness edges,
unique colours, spatial variation of colour (Cutzu, Hammoud and Leykin, "Estimating the photorealism of images:
distinguishing paintings from photographs", CVPR 2003); and what a sensor leaves behind: a noise floor in every
tone that is not clipped, and no perfectly flat areas.

Nothing here depends on the file's name, its size or the image's dimensions. Every measure is a share, a mean, a
percentile or an entropy over pixels, so it hardly moves with the number of them.

OpenCV makes planes of the picture, and what counts their pixels is compiled by Numba, seven times as fast as NumPy.
"""

# What is compiled is typed by Numba, whose whole numbers and floats are not NumPy's.
# mypy: disable-error-code="operator,assignment,arg-type,no-any-return,call-overload,index,misc"

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numba
import numpy as np
import numpy.typing as npt

from tasks.vision.images import shrink

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

FEATURE_SIZE = 128
"""Longest side in pixels to which an image is scaled down (area averaging) before it is described."""

_TINY = 1e-9
_LEVELS = 256
_BYTE, _BIT, _TWO, _ONE = np.uint64(255), np.uint64(1), np.uint64(2), np.uint32(1)
_SQUARE = np.ones((3, 3), np.uint8)
_BROAD = np.ones((5, 5), np.uint8)


def _compiled(function: Function) -> Function:
    """To machine code at its first call, and kept beside this file: nobody waits for it twice."""
    # Sums may be made of several at a time, in an order that depends on nothing but the machine.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz"}}
    compiled: Function
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder that can be written to
        compiled = numba.njit(function, **options)
    return compiled


def describe(rgb: Bytes) -> Singles:
    """Describe an RGB picture, uint8 [height, width, 3], by float32 [len(FEATURE_NAMES)], all finite.

    Pictures with a side above FEATURE_SIZE are scaled down first; smaller ones are taken as they are.
    """
    rgb = fit(rgb)
    red, green, blue = cv2.split(rgb)
    hue, lightness, saturation = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HLS_FULL))
    _, reddish, bluish = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    toned = cv2.inRange(grey, 16, 239)
    span = cv2.subtract(cv2.dilate(grey, _SQUARE), cv2.erode(grey, _SQUARE))
    dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, _BROAD)
    bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, _BROAD)
    residual = cv2.absdiff(grey, cv2.medianBlur(grey, 3))
    blurred, smooth = cv2.blur(grey, (5, 5)), cv2.blur(rgb, (3, 3))
    out = np.empty(len(FEATURE_NAMES))
    _measure(
        (red, green, blue),
        cv2.split(smooth),
        (hue, lightness, saturation),
        (reddish, bluish),
        (grey, cv2.blur(grey, (2, 2)), cv2.blur(grey, (4, 4))),
        (toned, span, dark, bright, residual),
        (_padded(grey), _padded(reddish), _padded(bluish), _padded(saturation), _padded(blurred)),
        _bands(grey),
        _N_LOG_N,
        out,
    )
    return out.astype(np.float32)


@_compiled
def _tally(plane: Bytes) -> Counts:
    """How many pixels have each of the 256 values."""
    values = plane.ravel()
    # Four tables by turns: an increment doesn't wait for the one before, which in a flat area is of the same value.
    tables = np.zeros((4, _LEVELS), np.uint32)
    first, second, third, fourth = tables
    whole = values.size // 8
    for eight in values[: 8 * whole].view(np.uint64):
        first[eight & _BYTE] += _ONE
        second[eight >> np.uint64(8) & _BYTE] += _ONE
        third[eight >> np.uint64(16) & _BYTE] += _ONE
        fourth[eight >> np.uint64(24) & _BYTE] += _ONE
        first[eight >> np.uint64(32) & _BYTE] += _ONE
        second[eight >> np.uint64(40) & _BYTE] += _ONE
        third[eight >> np.uint64(48) & _BYTE] += _ONE
        fourth[eight >> np.uint64(56)] += _ONE
    for value in values[8 * whole :]:
        first[value] += _ONE
    for level in range(_LEVELS):
        first[level] += second[level] + third[level] + fourth[level]
    return first


@_compiled
def _tally_toned(plane: Bytes, toned: Bytes) -> tuple[Counts, Counts]:
    """How many pixels have each of the 256 values: of all, and of those whose tone is not clipped."""
    values, masks = plane.ravel(), toned.ravel()
    tables = np.zeros((4, _LEVELS), np.uint32)
    whole = values.size // 8
    for eight, mask in zip(values[: 8 * whole].view(np.uint64), masks[: 8 * whole].view(np.uint64)):  # noqa: B905
        tables[mask & _BIT, eight & _BYTE] += _ONE
        tables[_TWO | mask >> np.uint64(8) & _BIT, eight >> np.uint64(8) & _BYTE] += _ONE
        tables[mask >> np.uint64(16) & _BIT, eight >> np.uint64(16) & _BYTE] += _ONE
        tables[_TWO | mask >> np.uint64(24) & _BIT, eight >> np.uint64(24) & _BYTE] += _ONE
        tables[mask >> np.uint64(32) & _BIT, eight >> np.uint64(32) & _BYTE] += _ONE
        tables[_TWO | mask >> np.uint64(40) & _BIT, eight >> np.uint64(40) & _BYTE] += _ONE
        tables[mask >> np.uint64(48) & _BIT, eight >> np.uint64(48) & _BYTE] += _ONE
        tables[_TWO | mask >> np.uint64(56) & _BIT, eight >> np.uint64(56)] += _ONE
    for i in range(8 * whole, values.size):
        tables[np.uint8(masks[i] & 1), values[i]] += _ONE
    clipped, inside, more_clipped, more_inside = tables
    for level in range(_LEVELS):
        inside[level] += more_inside[level]
        clipped[level] += more_clipped[level] + inside[level]
    return clipped, inside


@_compiled
def _shares(counts: Counts) -> Floats:
    """Shares that sum to one, or to zero where there is nothing."""
    total = 0
    for count in counts:
        total += count
    shares = np.empty(counts.size)
    for level in range(counts.size):
        shares[level] = counts[level] / max(total, 1)
    return shares


@_compiled
def _sum(shares: Floats, start: int, end: int) -> float:
    total = 0.0
    for level in range(start, end):
        total += shares[level]
    return total


@_compiled
def _entropy(counts: Counts, n_log_n: Floats) -> float:
    """Shannon entropy in bits."""
    total, sum_of_logs = 0, 0.0
    for count in counts:
        total += count
        sum_of_logs += n_log_n[count]
    return max(n_log_n[total] - sum_of_logs, 0.0) / max(total, 1)


@_compiled
def _percentiles(shares: Floats, wanted: Bytes, out: Floats, at: int) -> int:
    """Percentiles in 0..1 of a 256-level histogram, straight inside a level so that they do not jump."""
    some = _sum(shares, 0, _LEVELS) > 0
    level, below, here = 0, 0.0, shares[0]
    for percent in wanted:  # in ascending order
        while level < _LEVELS and here + level * 1e-12 <= percent / 100:
            below = here + level * 1e-12
            level += 1
            here += shares[min(level, _LEVELS - 1)]
        inside = 0.0
        if 0 < level < _LEVELS:
            inside = (percent / 100 - below) / (here + level * 1e-12 - below)
        out[at] = (max(level, 1) + inside) / _LEVELS if some else 0.0
        at += 1
    return at


@_compiled
def _moments(shares: Floats) -> tuple[float, float]:
    """Mean and standard deviation in 0..1."""
    mean = square = 0.0
    for level in range(_LEVELS):
        mean += shares[level] * level / 255
    for level in range(_LEVELS):
        square += shares[level] * (level / 255 - mean) ** 2
    return mean, np.sqrt(square)


@_compiled
def _roughness(shares: Floats) -> float:
    """How far a histogram departs from its own smoothing, 0..2: few separate tones are rough, a sensor's smooth."""
    rough = 0.0
    for level in range(_LEVELS):
        near = 0.0
        for other in range(level - 4, level + 5):
            near += shares[min(max(other, 0), _LEVELS - 1)]
        rough += abs(shares[level] - near / 9)
    return rough


@_compiled
def _sixteenths(shares: Floats, out: Floats, at: int) -> int:
    for i in range(16):
        out[at + i] = _sum(shares, 16 * i, 16 * i + 16)
    return at + 16


@_compiled
def _tones(plane: Bytes, n_log_n: Floats, out: Floats, at: int) -> int:
    counts = _tally(plane)
    inner = np.zeros_like(counts)
    for level in range(8, 248):
        inner[level] = counts[level]
    shares, inner_shares = _shares(counts), _shares(inner)
    ordered = np.sort(shares)
    out[at], out[at + 1] = _moments(shares)
    out[at + 2] = _entropy(counts, n_log_n)
    out[at + 3], out[at + 4] = _moments(inner_shares)
    out[at + 5] = _entropy(inner, n_log_n)
    out[at + 6] = _roughness(shares)
    out[at + 7] = _roughness(inner_shares)
    out[at + 8] = ordered[255]
    out[at + 9] = _sum(ordered, 248, 256)
    out[at + 10] = _sum(ordered, 224, 256)
    at = _percentiles(shares, _TONE_PERCENTILES, out, at + 11)
    return _sixteenths(shares, out, at)


_TONE_PERCENTILES = np.array([5, 25, 50, 75, 95], np.uint8)
_TONES = (
    *("mean", "spread", "entropy", "inner_mean", "inner_spread", "inner_entropy", "roughness", "inner_roughness"),
    *("commonest", "eight_commonest", "32_commonest", *(f"p{p}" for p in _TONE_PERCENTILES)),
    *(f"bin_{i}" for i in range(16)),
)


_WHOLE = 255 * 255
_COSINES, _SINES = np.cos(2 * np.pi * np.arange(_LEVELS) / _LEVELS), np.sin(2 * np.pi * np.arange(_LEVELS) / _LEVELS)


@_compiled
def _hues(hue: Bytes, lightness: Bytes, saturation: Bytes, out: Floats, at: int) -> int:
    """Hue weighted by chroma, since the hue of a grey pixel says nothing."""
    hues, lights, saturations = hue.ravel(), lightness.ravel(), saturation.ravel()
    size = hues.size
    # Chroma in whole numbers, of 255 * 255: sums of them are exact.
    chroma = np.empty(size, np.uint16)
    for i in range(size):
        far = max(lights[i], np.uint8(255 - lights[i])) - min(lights[i], np.uint8(255 - lights[i]))
        chroma[i] = np.uint16(saturations[i]) * np.uint16(255 - far)
    weights = np.zeros((4, _LEVELS), np.int64)
    total = square = grey = 0
    for i in range(size):
        total += chroma[i]
        square += np.int64(chroma[i]) * chroma[i]
        grey += chroma[i] < 0.04 * _WHOLE
    for i in range(size):
        weights[i & 3, hues[i]] += chroma[i]
    mean = total / size / _WHOLE
    spread = np.sqrt(max(square / size - (total / size) ** 2, 0.0)) / _WHOLE
    shares = np.empty(_LEVELS)
    cosine = sine = entropy = 0.0
    for level in range(_LEVELS):
        weight = weights[0, level] + weights[1, level] + weights[2, level] + weights[3, level]
        shares[level] = weight / max(total, 1)
        if weight > 0:
            cosine += shares[level] * _COSINES[level]
            sine += shares[level] * _SINES[level]
            entropy -= shares[level] * np.log2(shares[level])
    out[at] = mean
    out[at + 1] = spread
    out[at + 2] = grey / size
    out[at + 3] = cosine
    out[at + 4] = sine
    out[at + 5] = np.hypot(cosine, sine)
    out[at + 6] = entropy
    out[at + 7] = _roughness(shares)
    out[at + 8] = _sum(np.sort(shares), 248, 256)
    return _sixteenths(shares, out, at + 9)


_HUES = (
    *("chroma_mean", "chroma_spread", "grey_share", "hue_mean_cosine", "hue_mean_sine", "hue_concentration"),
    *("hue_entropy", "hue_roughness", "hue_eight_commonest"),
    *(f"hue_bin_{i}" for i in range(16)),
)


@_compiled
def _together(a: Bytes, b: Bytes, n_log_n: Floats, out: Floats, at: int) -> int:
    """Entropy in bits of a pair of planes, at 16 levels each, and what the one tells about the other."""
    codes = np.empty(a.shape, np.uint8)
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            codes[y, x] = (a[y, x] & np.uint8(0xF0)) | (b[y, x] >> np.uint8(4))
    table = _tally(codes)
    of_a, of_b = np.zeros(16, np.uint32), np.zeros(16, np.uint32)
    for pair in range(_LEVELS):
        of_a[pair >> 4] += table[pair]
        of_b[pair & 15] += table[pair]
    both = _entropy(table, n_log_n)
    apart = _entropy(of_a, n_log_n) + _entropy(of_b, n_log_n)
    out[at] = both
    out[at + 1] = apart - both
    return at + 2


_TOGETHER = (
    "saturation_lightness_entropy",
    "saturation_lightness_information",
    "hue_lightness_entropy",
    "hue_lightness_information",
)


@_compiled
def _palette(red: Bytes, green: Bytes, blue: Bytes, n_log_n: Floats, out: Floats, at: int) -> int:
    """Number and prevalence of colours at 3, 4 and 5 bits a channel (Athitsos and Swain 1997)."""
    reds, greens, blues = red.ravel(), green.ravel(), blue.ravel()
    number = size = reds.size
    colours, pixels = np.empty(size, np.uint16), np.ones(size, np.uint16)
    for i in range(size):
        colours[i] = (reds[i] >> 3) << 10 | (greens[i] >> 3) << 5 | (blues[i] >> 3)
    counts = np.zeros(1 << 15, np.uint16)
    for bits in (5, 4, 3):
        different = 0
        for i in range(number):
            colour = colours[i]
            colours[different] = colour
            different += counts[colour] == 0
            counts[colour] += pixels[i]
        number = different
        for i in range(number):
            pixels[i] = counts[colours[i]]
            counts[colours[i]] = 0
        _prevalence(pixels[:number], size, n_log_n, out, at + 6 * (bits - 3))
        lower = bits - 1
        channel = (1 << lower) - 1
        for i in range(number):
            colour = np.uint32(colours[i]) >> 1
            colours[i] = (
                (colour >> (2 * bits) & channel) << (2 * lower)
                | (colour >> bits & channel) << lower
                | (colour & channel)
            )
    return at + 18


@_compiled
def _prevalence(pixels: npt.NDArray[np.uint16], size: int, n_log_n: Floats, out: Floats, at: int) -> None:
    """Measures of the numbers of pixels that each colour has."""
    highest, sum_of_logs, few = 0, 0.0, 0
    colours = np.zeros(size + 1, np.uint16)  # how many colours have so many pixels
    for count in pixels:
        highest = max(highest, count)
        colours[count] += np.uint16(1)
        sum_of_logs += n_log_n[count]
        few += count if count < 0.002 * size else 0
    seen = covered = four = sixteen = 0
    for_90 = -1
    for count in range(highest, 0, -1):
        alike = np.int64(colours[count])
        if not alike:
            continue
        four += count * min(max(4 - seen, 0), alike)
        sixteen += count * min(max(16 - seen, 0), alike)
        seen += alike
        covered += alike * count
        if for_90 < 0 and 10 * covered >= 9 * size:
            # The first colour with which nine tenths are covered, counted from 0.
            for_90 = seen - 1 - (10 * covered - 9 * size) // (10 * count)
        if for_90 >= 0 and seen >= 16:
            break
    out[at] = max(n_log_n[size] - sum_of_logs, 0.0) / size
    out[at + 1] = highest / size
    out[at + 2] = four / size
    out[at + 3] = sixteen / size
    out[at + 4] = np.log2(1 + for_90)
    out[at + 5] = few / size


_PALETTE = ("entropy", "commonest", "four_commonest", "16_commonest", "colours_for_90", "rare")


@_compiled
def _flatness(
    red: Bytes,
    green: Bytes,
    blue: Bytes,
    grey: Bytes,
    toned: Bytes,
    span: Bytes,
    padded: Bytes,
    out: Floats,
    at: int,
) -> int:
    """Flat areas, equal neighbours, and the noise floor outside clipped tones."""
    span_counts, toned_span_counts = _tally_toned(span, toned)
    tones = _shares(_tally(grey))
    white, black = _sum(tones, 240, _LEVELS), _sum(tones, 0, 16)
    beside = _shares(_largest_steps(red, green, blue))
    spans, toned_spans = _shares(span_counts), _shares(toned_span_counts)
    out[at] = _sum(tones, 16, 240)
    out[at + 1] = white
    out[at + 2] = black
    out[at + 3] = _sum(spans, 0, 2)
    out[at + 4] = _sum(spans, 0, 5)
    out[at + 5] = _sum(toned_spans, 0, 2)
    out[at + 6] = _sum(toned_spans, 0, 5)
    out[at + 7] = _sum(toned_spans, 0, 11)
    out[at + 8] = beside[0]
    out[at + 9] = _sum(beside, 0, 4)
    out[at + 10] = _sum(beside, 0, 9)
    return _percentiles(_shares(_tally_toned(_deviations(padded), toned)[1]), _NOISE_PERCENTILES, out, at + 11)


_NOISE_PERCENTILES = np.array([5, 10, 25, 50, 75], np.uint8)
_FLATNESS = (
    *("toned_share", "white_share", "black_share", "flat_share", "nearly_flat_share", "toned_flat_share"),
    *("toned_nearly_flat_share", "toned_calm_share", "equal_neighbours", "near_neighbours", "alike_neighbours"),
    *(f"noise_floor_p{p}" for p in _NOISE_PERCENTILES),
)


@_compiled
def _deviations(padded: Bytes) -> Bytes:
    """Sixteen times the standard deviation in the 3x3 pixels around each, at most 255, of a plane with its margin."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    deviations = np.empty((height, width), np.uint8)
    for y in range(height):
        above, middle, below, row = padded[y], padded[y + 1], padded[y + 2], deviations[y]
        for x in range(width):
            total = square = np.float32(0)
            for column in range(3):
                a, b, c = np.float32(above[x + column]), np.float32(middle[x + column]), np.float32(below[x + column])
                total += a + b + c  # whole numbers: exact
                square += a * a + b * b + c * c
            variance = (np.float32(9) * square - total * total) / np.float32(81)
            row[x] = np.uint8(min(np.sqrt(variance) * np.float32(16), np.float32(255)))
    return deviations


@_compiled
def _largest_steps(red: Bytes, green: Bytes, blue: Bytes) -> Counts:
    """Tally of the largest difference over the channels to the right or the lower neighbour."""
    height, width = red.shape
    steps = np.zeros((max(height - 1, 1), width if height > 1 else 1), np.uint8)
    size = steps.size - 1
    largest = steps.ravel()[:size]
    for channel in (red, green, blue):
        # Over the ends of the rows, too: short rows can't be vectorised.
        flat = channel.ravel()
        here, right, below = flat[:size], flat[1 : size + 1], flat[width : width + size]
        for i in range(size):
            across = np.uint8(max(here[i], right[i]) - min(here[i], right[i]))
            down = np.uint8(max(here[i], below[i]) - min(here[i], below[i]))
            largest[i] = max(largest[i], max(across, down))
    steps[:, steps.shape[1] - 1] = 0
    counts = _tally(steps)
    if steps.size > len(steps):
        counts[0] -= len(steps)
    return counts


@_compiled
def _magnitude(padded: Bytes, magnitude: Singles) -> None:
    """Gradient in grey levels a pixel, by Sobel's filters, of a plane [h+2, w+2] that has its margin."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    for y in range(height):
        above, middle, below = padded[y], padded[y + 1], padded[y + 2]
        row = magnitude[y * width : y * width + width]
        for x in range(width):
            # Whole numbers up to the root, so that nothing is rounded before it.
            a, b, c = np.float32(above[x]), np.float32(above[x + 1]), np.float32(above[x + 2])
            d, e = np.float32(middle[x]), np.float32(middle[x + 2])
            f, g, h = np.float32(below[x]), np.float32(below[x + 1]), np.float32(below[x + 2])
            across, down = c + e + e + h - a - d - d - f, f + g + g + h - a - b - b - c
            row[x] = np.sqrt(across * across + down * down) / np.float32(8)


@_compiled
def _levels(values: Singles, scale: float) -> Bytes:
    levels = np.empty((1, values.size), np.uint8)
    for i in range(values.size):
        levels[0, i] = np.uint8(min(values[i] * np.float32(scale), np.float32(255)))
    return levels


@_compiled
def _gradients(
    edges: Singles,
    toned: Bytes,
    n_log_n: Floats,
    out: Floats,
    at: int,
) -> int:
    """Gradients of lightness and of colour, edges in colour alone, and how many pixels wide an edge is."""
    light, red, blue, coarse = edges[0], edges[1], edges[2], edges[4]
    size = light.size
    colour = np.empty(size, np.float32)
    for i in range(size):
        colour[i] = max(red[i], blue[i])
    strong = broad = light_sum = colour_sum = 0.0
    sharp = faint = only = 0
    for i in range(size):
        light_sum += light[i]
        colour_sum += colour[i]
        faint += (light[i] > 1) & (light[i] <= 6)
        only += (colour[i] > 4) & (light[i] < 4)
        edge = light[i] > 12
        sharp += edge
        strong += light[i] if edge else np.float32(0)
        broad += coarse[i] if edge else np.float32(0)
    counts, toned_counts = _tally_toned(_levels(light, 4.0), toned)
    at = _percentiles(_shares(counts), _GRADIENT_PERCENTILES, out, at)
    at = _percentiles(_shares(toned_counts), _GRADIENT_PERCENTILES[:5], out, at)
    at = _percentiles(_shares(_tally(_levels(colour, 16.0))), _GRADIENT_PERCENTILES, out, at)
    out[at] = _entropy(counts, n_log_n)
    out[at + 1] = sharp / size
    out[at + 2] = faint / size
    out[at + 3] = broad / strong if sharp else 0.0
    out[at + 4] = only / size
    out[at + 5] = colour_sum / size / (light_sum / size + 0.25)
    return at + 6


_GRADIENT_PERCENTILES = np.array([10, 25, 50, 75, 90, 97], np.uint8)
_GRADIENTS = (
    *(f"lightness_gradient_p{p}" for p in _GRADIENT_PERCENTILES),
    *(f"toned_gradient_p{p}" for p in _GRADIENT_PERCENTILES[:5]),
    *(f"colour_gradient_p{p}" for p in _GRADIENT_PERCENTILES),
    *("gradient_entropy", "edge_share", "faint_gradient_share", "edge_width", "colour_only_edges"),
    "colour_to_lightness_gradient",
)


@_compiled
def _lines(dark: Bytes, bright: Bytes, residual: Bytes, toned: Bytes, out: Floats, at: int) -> int:
    """Thin dark lines against thin light ones, and what a 3x3 median takes away (noise and hairlines)."""
    dark_shares, bright_shares = _shares(_tally(dark)), _shares(_tally(bright))
    dark_mean, bright_mean = _moments(dark_shares)[0], _moments(bright_shares)[0]
    counts, toned_counts = _tally_toned(residual, toned)
    shares = _shares(counts)
    out[at] = dark_mean
    out[at + 1] = bright_mean
    out[at + 2] = (dark_mean - bright_mean) / (dark_mean + bright_mean + 0.004)
    out[at + 3] = _sum(dark_shares, 64, _LEVELS)
    out[at + 4] = _sum(bright_shares, 64, _LEVELS)
    out[at + 5] = _moments(shares)[0]
    out[at + 6] = shares[0]
    out[at + 7] = _sum(shares, 1, 5)
    out[at + 8] = _sum(shares, 17, _LEVELS)
    out[at + 9] = _shares(toned_counts)[0]
    return at + 10


_LINES = (
    *("dark_lines", "light_lines", "dark_line_asymmetry", "strong_dark_lines", "strong_light_lines"),
    *("residual_mean", "residual_none", "residual_faint", "residual_strong", "toned_residual_none"),
)


def fit(rgb: Bytes) -> Bytes:
    """The picture scaled down to FEATURE_SIZE, pixel for pixel as `images.shrink` does it, three times as fast."""
    height, width = rgb.shape[:2]
    scale = FEATURE_SIZE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(rgb)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    if height % high == width % wide == 0:
        return shrink(rgb, FEATURE_SIZE)  # OpenCV is fast where each pixel is made of whole ones
    rows = _averaged(np.ascontiguousarray(rgb).reshape(height, 3 * width), high).reshape(high, width, 3)
    columns = _averaged(cv2.transpose(rows).reshape(width, 3 * high), wide).reshape(wide, high, 3)
    return np.asarray(cv2.transpose(cv2.convertScaleAbs(columns)))


@_compiled
def _averaged(lines: npt.NDArray[Any], parts: int) -> Singles:
    """So many lines, each the mean of those that it covers: float32 [parts, n]."""
    first, shares = _covered(len(lines), parts)
    averaged = np.zeros((parts, lines.shape[1]), np.float32)
    for part in range(parts):
        sums = averaged[part]
        for i in range(shares.shape[1]):
            share, line = shares[part, i], lines[first[part] + i]
            if share > 0:
                for at in range(len(line)):
                    sums[at] += share * np.float32(line[at])
    return averaged


@_compiled
def _covered(size: int, parts: int) -> tuple[npt.NDArray[np.int64], Singles]:
    """The first of the `size` pixels that each part covers, and the share of the part that it and the next ones are."""
    scale = size / parts
    first, shares = np.empty(parts, np.int64), np.zeros((parts, int(np.ceil(scale)) + 1), np.float32)
    most = min(shares.shape[1], size)
    for part in range(parts):
        start = part * scale
        end = min(start + scale, size)
        first[part] = min(int(start), size - most)
        for i in range(most):
            covered = min(end, first[part] + i + 1) - max(start, first[part] + i)
            if covered > 1e-3:  # as in OpenCV
                shares[part, i] = covered / scale
    return first, shares[:, :most]


def _padded(plane: Bytes) -> Bytes:
    padded: Bytes = cv2.copyMakeBorder(plane, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
    return padded


def _bands(grey: Bytes) -> Floats:
    """Energy of the picture's detail from the finest scale up, in log2 grey levels, and its decay."""
    plane, energies = grey.astype(np.float32), []
    for _ in range(4):
        smaller = (
            cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(plane.shape) > 1 else plane
        )
        back = cv2.resize(smaller, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        energies.append(math.log2(cv2.norm(plane, back, cv2.NORM_L1) / plane.size + 0.1))
        plane = smaller
    return np.array([*energies, *(coarser - finer for finer, coarser in itertools.pairwise(energies))])


_BANDS = (*(f"detail_{i}" for i in range(4)), *(f"detail_decay_{i}" for i in range(3)))


#: Number of the pair that a run of three steps (down, level or up) forms with the same run read backwards: 15 pairs.
_RUN = np.arange(27)
_RUN_PAIRS = np.unique(np.minimum(_RUN, 26 - (_RUN % 3 * 9 + _RUN // 3 % 3 * 3 + _RUN // 9)), return_inverse=True)[
    1
].ravel()


@_compiled
def _runs(plane: Bytes, right: bool, step: int) -> Counts:
    """Tally of the runs of three steps to the right or down."""
    flat, (height, width) = plane.ravel(), plane.shape
    away, least = 1 if right else width, np.uint8(step)
    lower, level, higher = np.uint8(0), np.uint8(1), np.uint8(2)
    # Over the ends of the rows, too: short rows can't be vectorised.
    here, there = flat[: flat.size - away], flat[away:]
    ways = np.empty(here.size, np.uint8)
    for i in range(here.size):
        changed = np.uint8(max(here[i], there[i]) - min(here[i], there[i])) >= least
        ways[i] = (higher if there[i] > here[i] else lower) if changed else level
    runs = np.zeros((height, width), np.uint8)
    size = max(flat.size - 3 * away, 0)
    written, second, third = runs.ravel()[:size], ways[away:], ways[2 * away :]
    for i in range(size):
        written[i] = np.uint8(9) * ways[i] + np.uint8(3) * second[i] + third[i]
    if right:
        runs[:, max(width - 3, 0) :] = 0
    counts = _tally(runs)
    whole = height * max(width - 3, 0) if right else max(height - 3, 0) * width
    counts[0] -= flat.size - whole
    return counts


@_compiled
def _transitions(plane: Bytes, step: int, out: Floats, at: int) -> int:
    """Shares of runs of three steps between neighbours, each down, level or up by at least `step` (Pevný, Bas and
    Fridrich, "Steganalysis by subtractive pixel adjacency matrix", 2010): how colour changes at the finest scale. A
    camera's colour is smooth there, since it measures one colour per pixel and interpolates the others.
    """
    counts, down = _runs(plane, True, step), _runs(plane, False, step)
    total = 0
    for run in range(27):
        counts[run] += down[run]
        total += counts[run]
    out[at : at + 15] = 0
    for run in range(27):
        out[at + _RUN_PAIRS[run]] += counts[run] / max(total, 1)
    return at + 15


#: How many of a pixel's eight neighbours are lighter, by the bits that say which, one after
#: the other around it; 9 where they don't lie side by side.
_PATTERNS = np.array([
    bits.bit_count() if (bits ^ (bits << 1 | bits >> 7) & 255).bit_count() <= 2 else 9 for bits in range(256)
])  # fmt: skip


@_compiled
def _patterns(plane: Bytes, radius: int, out: Floats, at: int) -> int:
    """Local binary patterns, uniform and rotation-invariant (Ojala, Pietikäinen and Mäenpää 2002): shares of pixels by
    how many of their eight neighbours are lighter by more than a tolerance, 9 where those don't lie side by side.
    """
    height, width = plane.shape
    high, wide = height - 2 * radius, width - 2 * radius
    out[at : at + 30] = 0
    if min(high, wide) < 1:
        out[at] = out[at + 10] = out[at + 20] = 1
        return at + 30
    flat = plane.ravel()
    start = radius * width + radius
    size = plane.size - 2 * start
    centres = flat[start : start + size]
    upper_left, upper, upper_right = flat[:size], flat[radius : radius + size], flat[2 * radius : 2 * radius + size]
    left, right = flat[start - radius : start - radius + size], flat[start + radius : start + radius + size]
    lower_left, lower = flat[2 * start - 2 * radius :], flat[2 * start - radius :]
    lower_right = flat[2 * start :]
    codes = np.zeros((height, width), np.uint8)
    # All of the plane in one go, though what is made of the margin means nothing: short rows can't be vectorised.
    inner, none = codes.ravel()[start : start + size], np.uint8(0)
    brightest = np.empty(size, np.uint8)
    for tolerance in (0, 3, 10):
        more = np.uint8(tolerance)
        for i in range(size):
            brightest[i] = np.uint8(min(centres[i], np.uint8(255 - more)) + more)
        for i in range(size):
            centre = brightest[i]
            inner[i] = (
                (np.uint8(1) if upper_left[i] > centre else none)
                | (np.uint8(2) if upper[i] > centre else none)
                | (np.uint8(4) if upper_right[i] > centre else none)
                | (np.uint8(8) if right[i] > centre else none)
                | (np.uint8(16) if lower_right[i] > centre else none)
                | (np.uint8(32) if lower[i] > centre else none)
                | (np.uint8(64) if lower_left[i] > centre else none)
                | (np.uint8(128) if left[i] > centre else none)
            )
        codes[:, :radius] = 0
        codes[:, width - radius :] = 0
        counts = _tally(codes)
        counts[0] -= plane.size - high * wide
        for code in range(_LEVELS):
            out[at + _PATTERNS[code]] += counts[code] / (high * wide)
        at += 10
    return at


@_compiled
def _edges_together(edges: Singles, out: Floats, at: int) -> int:
    """How edges of lightness and colour go together (Cutzu and others 2003): Pearson's correlations of pairs."""
    size = edges.shape[1]
    means = np.zeros(4)
    for plane in range(4):
        for i in range(size):
            means[plane] += edges[plane, i]
        means[plane] /= size
    a, b, c, d = edges[0], edges[1], edges[2], edges[3]
    aa = bb = cc = dd = ab = ac = ad = bc = bd = cd = 0.0
    for i in range(size):
        p, q, r, s = a[i] - means[0], b[i] - means[1], c[i] - means[2], d[i] - means[3]
        aa, bb, cc, dd = aa + p * p, bb + q * q, cc + r * r, dd + s * s
        ab, ac, ad = ab + p * q, ac + p * r, ad + p * s
        bc, bd, cd = bc + q * r, bd + q * s, cd + r * s
    out[at] = _correlation(ab, aa, bb)
    out[at + 1] = _correlation(ac, aa, cc)
    out[at + 2] = _correlation(bc, bb, cc)
    out[at + 3] = _correlation(ad, aa, dd)
    out[at + 4] = _correlation(bd, bb, dd)
    out[at + 5] = _correlation(cd, cc, dd)
    return at + 6


@_compiled
def _detail_together(
    red: Bytes, green: Bytes, blue: Bytes, red_blur: Bytes, green_blur: Bytes, blue_blur: Bytes, out: Floats, at: int
) -> None:
    """How the channels' finest detail goes together: Pearson's correlations of pairs."""
    a, b, c = red.ravel(), green.ravel(), blue.ravel()
    d, e, f = red_blur.ravel(), green_blur.ravel(), blue_blur.ravel()
    # Of FEATURE_SIZE**2 pixels at most, so that the sums fit.
    x = y = z = xx = yy = zz = xy = xz = yz = np.int32(0)
    for i in range(a.size):
        p, q, r = np.int32(a[i]) - np.int32(d[i]), np.int32(b[i]) - np.int32(e[i]), np.int32(c[i]) - np.int32(f[i])
        x, y, z = np.int32(x + p), np.int32(y + q), np.int32(z + r)
        xx, yy, zz = np.int32(xx + p * p), np.int32(yy + q * q), np.int32(zz + r * r)
        xy, xz, yz = np.int32(xy + p * q), np.int32(xz + p * r), np.int32(yz + q * r)
    size, x, y, z = np.int64(a.size), np.int64(x), np.int64(y), np.int64(z)
    left, middle, right = size * xx - x * x, size * yy - y * y, size * zz - z * z
    out[at] = _correlation(size * xy - x * y, left, middle)
    out[at + 1] = _correlation(size * xz - x * z, left, right)
    out[at + 2] = _correlation(size * yz - y * z, middle, right)


@_compiled
def _correlation(together: float, left: float, right: float) -> float:
    """Pearson's, of sums of products of what is centred; 0 where one is constant."""
    return together / (max(np.sqrt(left), _TINY) * max(np.sqrt(right), _TINY))


@_compiled
def _measure(
    colours: tuple[Bytes, Bytes, Bytes],
    smooth: tuple[Bytes, Bytes, Bytes],
    hls: tuple[Bytes, Bytes, Bytes],
    chroma: tuple[Bytes, Bytes],
    greys: tuple[Bytes, Bytes, Bytes],
    marks: tuple[Bytes, Bytes, Bytes, Bytes, Bytes],
    padded: tuple[Bytes, Bytes, Bytes, Bytes, Bytes],
    bands: Floats,
    n_log_n: Floats,
    out: Floats,
) -> None:
    """All measures of a picture, in the order of FEATURE_NAMES: in a single call from Python, since each costs."""
    red, green, blue = colours
    hue, lightness, saturation = hls
    reddish, bluish = chroma
    grey = greys[0]
    toned, span, dark, bright, residual = marks
    edges = np.empty((len(padded), grey.size), np.float32)
    for i in range(len(padded)):
        _magnitude(padded[i], edges[i])
    at = _tones(lightness, n_log_n, out, 0)
    at = _tones(saturation, n_log_n, out, at)
    at = _hues(hue, lightness, saturation, out, at)
    at = _together(saturation, lightness, n_log_n, out, at)
    at = _together(hue, lightness, n_log_n, out, at)
    at = _palette(red, green, blue, n_log_n, out, at)
    at = _flatness(red, green, blue, grey, toned, span, padded[0], out, at)
    at = _gradients(edges, toned, n_log_n, out, at)
    at = _lines(dark, bright, residual, toned, out, at)
    for band in bands:
        out[at] = band
        at += 1
    at = _transitions(reddish, 1, out, at)
    at = _transitions(bluish, 1, out, at)
    at = _transitions(saturation, 3, out, at)
    at = _patterns(greys[0], 1, out, at)
    at = _patterns(greys[1], 2, out, at)
    at = _patterns(greys[2], 4, out, at)
    at = _edges_together(edges, out, at)
    _detail_together(red, green, blue, smooth[0], smooth[1], smooth[2], out, at)


_N_LOG_N = np.array([n * np.log2(max(n, 1)) for n in range(FEATURE_SIZE**2 + 1)])

FEATURE_NAMES: tuple[str, ...] = (
    *(f"lightness_{name}" for name in _TONES),
    *(f"saturation_{name}" for name in _TONES),
    *_HUES,
    *_TOGETHER,
    *(f"palette{bits}_{name}" for bits in (3, 4, 5) for name in _PALETTE),
    *_FLATNESS,
    *_GRADIENTS,
    *_LINES,
    *_BANDS,
    *(f"{plane}_run_{i}" for plane in ("red_chroma", "blue_chroma", "saturation") for i in range(15)),
    *(f"pattern{radius}_{tolerance}_{i}" for radius in (1, 2, 4) for tolerance in (0, 3, 10) for i in range(10)),
    *(f"edges_together_{i}" for i in range(6)),
    *(f"detail_together_{i}" for i in range(3)),
)
"""Names of the measures, in the order of `describe`."""
