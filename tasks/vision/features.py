"""What an image looks like, in numbers: the statistics by which photographs and illustrations differ.

The core is hue, lightness and saturation (HLS). Around it stand the measures that the literature found to tell
the two apart: few and prevalent colours, saturation, sharp transitions (Athitsos, Swain and Frankel,
"Distinguishing photographs and graphics on the World Wide Web", 1997); colour edges without lightness edges,
unique colours, spatial variation of colour (Cutzu, Hammoud and Leykin, "Estimating the photorealism of images:
distinguishing paintings from photographs", CVPR 2003); and what a sensor leaves behind: a noise floor in every
tone that is not clipped, and no perfectly flat areas.

Nothing here depends on the file's name, its size or the image's dimensions. Every measure is a share, a mean, a
percentile or an entropy over pixels, so it hardly moves with the number of them.

OpenCV makes planes of the picture, and what counts their pixels is compiled by Numba: a picture of 128 pixels takes a
third of a millisecond, which is a sixth of what it takes to decode half a megapixel. None of it holds the GIL.
"""

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
_SQUARE = np.ones((3, 3), np.uint8)
_BROAD = np.ones((5, 5), np.uint8)


def _compiled(function: Function) -> Function:
    """To machine code at its first call, and kept beside this file: nobody waits for it twice."""
    compiled: Function = numba.njit(function, nogil=True, cache=True, error_model="numpy")
    return compiled


def describe(rgb: Bytes) -> Singles:
    """Describe an RGB picture, uint8 [height, width, 3], by float32 [len(FEATURE_NAMES)], all finite.

    Pictures with a side above FEATURE_SIZE are scaled down first; smaller ones are taken as they are.
    """
    rgb = np.ascontiguousarray(shrink(rgb, FEATURE_SIZE))
    channels = cv2.split(rgb)
    hue, lightness, saturation = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HLS_FULL))
    _, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    toned = cv2.inRange(grey, 16, 239)
    measures = np.empty(len(FEATURE_NAMES))
    _measure(
        channels,
        (hue, lightness, saturation),
        (red, blue),
        grey,
        toned,
        cv2.subtract(cv2.dilate(grey, _SQUARE), cv2.erode(grey, _SQUARE)),
        # Sums of whole numbers are exact, so the deviation is the same on every machine.
        cv2.boxFilter(grey, cv2.CV_16U, (3, 3), normalize=False),
        cv2.sqrBoxFilter(grey, cv2.CV_32F, (3, 3), normalize=False),
        tuple(cv2.spatialGradient(plane) for plane in (grey, red, blue, saturation, cv2.blur(grey, (5, 5)))),
        cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, _BROAD),
        cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, _BROAD),
        cv2.absdiff(grey, cv2.medianBlur(grey, 3)),
        _detail(grey),
        (grey, cv2.blur(grey, (2, 2)), cv2.blur(grey, (4, 4))),
        tuple(cv2.blur(channel, (3, 3)) for channel in channels),
        _N_LOG_N,
        measures,
    )
    return measures.astype(np.float32)


def _detail(grey: Bytes) -> Floats:
    """Energy of the picture's detail from the finest scale up, in log2 grey levels: float64 [4]."""
    energies = np.empty(4)
    plane = grey.astype(np.float32)
    for scale in range(4):
        smaller = (
            cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(plane.shape) > 1 else plane
        )
        back = cv2.resize(smaller, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        energies[scale] = cv2.norm(plane, back, cv2.NORM_L1) / plane.size
        plane = smaller
    return np.log2(energies + 0.1)


@_compiled
def _measure(
    channels: tuple[Bytes, Bytes, Bytes],
    hls: tuple[Bytes, Bytes, Bytes],
    chroma: tuple[Bytes, Bytes],
    grey: Bytes,
    toned: Bytes,
    span: Bytes,
    sums: npt.NDArray[np.uint16],
    squares: Singles,
    gradients: Any,
    dark: Bytes,
    bright: Bytes,
    residual: Bytes,
    detail: Floats,
    blurred: tuple[Bytes, Bytes, Bytes],
    smooth: tuple[Bytes, Bytes, Bytes],
    n_log_n: Floats,
    out: Floats,
) -> None:
    """Write all measures of the planes, in the order of FEATURE_NAMES."""
    light, red, blue, saturation, coarse = (
        _magnitude(gradients[0]),
        _magnitude(gradients[1]),
        _magnitude(gradients[2]),
        _magnitude(gradients[3]),
        _magnitude(gradients[4]),
    )
    at = _tones(hls[1], n_log_n, out, 0)
    at = _tones(hls[2], n_log_n, out, at)
    at = _hues(hls[0], hls[1], hls[2], out, at)
    at = _together(hls[2], hls[1], n_log_n, out, at)
    at = _together(hls[0], hls[1], n_log_n, out, at)
    for bits in (3, 4, 5):
        at = _palette(channels, bits, n_log_n, out, at)
    at = _flatness(channels, grey, toned, span, sums, squares, out, at)
    at = _gradients(light, red, blue, coarse, toned, n_log_n, out, at)
    at = _lines(dark, bright, residual, toned, out, at)
    out[at : at + 4] = detail
    out[at + 4 : at + 7] = detail[1:] - detail[:-1]
    at = _transitions(chroma[0], 1, out, at + 7)
    at = _transitions(chroma[1], 1, out, at)
    at = _transitions(hls[2], 3, out, at)
    for plane, radius in ((blurred[0], 1), (blurred[1], 2), (blurred[2], 4)):
        at = _patterns(plane, radius, out, at)
    at = _edges_together((light, red, blue, saturation), out, at)
    _detail_together(channels, smooth, out, at)


@_compiled
def _tally(plane: Bytes) -> Counts:
    """How many pixels have each of the 256 values."""
    values = plane.ravel()
    # Four tables by turns: an increment doesn't wait for the one before, which in a flat area is of the same value.
    tables = np.zeros((4, _LEVELS), np.uint32)
    whole = values.size - values.size % 4
    for i in range(0, whole, 4):
        tables[0, values[i]] += np.uint32(1)
        tables[1, values[i + 1]] += np.uint32(1)
        tables[2, values[i + 2]] += np.uint32(1)
        tables[3, values[i + 3]] += np.uint32(1)
    for i in range(whole, values.size):
        tables[0, values[i]] += np.uint32(1)
    return tables[0] + tables[1] + tables[2] + tables[3]


@_compiled
def _tally_toned(plane: Bytes, toned: Bytes) -> tuple[Counts, Counts]:
    """How many pixels have each of the 256 values: of all, and of those whose tone is not clipped."""
    values, masks = plane.ravel(), toned.ravel()
    tables = np.zeros((4, _LEVELS), np.uint32)
    for i in range(values.size):
        tables[np.uint8((masks[i] & 1) | (i & 1) << 1), values[i]] += np.uint32(1)
    inside = tables[1] + tables[3]
    return tables[0] + tables[2] + inside, inside


@_compiled
def _shares(counts: Counts) -> Floats:
    """Shares that sum to one, or to zero where there is nothing."""
    return counts / max(counts.sum(), 1)


@_compiled
def _entropy(counts: Counts, n_log_n: Floats) -> float:
    """Shannon entropy in bits."""
    total, sum_of_logs = 0, 0.0
    for count in counts:
        total += count
        sum_of_logs += n_log_n[count]
    return max(n_log_n[total] - sum_of_logs, 0.0) / max(total, 1)


@_compiled
def _percentiles(shares: Floats, at: tuple[int, ...], out: Floats, start: int) -> int:
    """Percentiles in 0..1 of a 256-level histogram, straight inside a level so that they do not jump."""
    end = start + len(at)
    if shares.sum() <= 0:
        out[start:end] = 0
        return end
    sums = np.cumsum(shares) + np.arange(_LEVELS) * 1e-12
    for i, wanted in enumerate(at):
        level = np.searchsorted(sums, wanted / 100, "right")  # the first that lies above
        inside = 0.0
        if 0 < level < _LEVELS:
            inside = (wanted / 100 - sums[level - 1]) / (sums[level] - sums[level - 1])
        out[start + i] = (max(level, 1) + inside) / _LEVELS
    return end


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
        out[at + i] = shares[16 * i : 16 * i + 16].sum()
    return at + 16


@_compiled
def _tones(plane: Bytes, n_log_n: Floats, out: Floats, at: int) -> int:
    counts = _tally(plane)
    inner = counts.copy()
    inner[:8] = 0
    inner[248:] = 0
    shares, inner_shares = _shares(counts), _shares(inner)
    common = np.sort(shares)[::-1]
    out[at], out[at + 1] = _moments(shares)
    out[at + 2] = _entropy(counts, n_log_n)
    out[at + 3], out[at + 4] = _moments(inner_shares)
    out[at + 5] = _entropy(inner, n_log_n)
    out[at + 6] = _roughness(shares)
    out[at + 7] = _roughness(inner_shares)
    out[at + 8] = common[0]
    out[at + 9] = common[:8].sum()
    out[at + 10] = common[:32].sum()
    at = _percentiles(shares, (5, 25, 50, 75, 95), out, at + 11)
    return _sixteenths(shares, out, at)


_TONES = (
    *("mean", "spread", "entropy", "inner_mean", "inner_spread", "inner_entropy", "roughness", "inner_roughness"),
    *("commonest", "eight_commonest", "32_commonest", "p5", "p25", "p50", "p75", "p95"),
    *(f"bin_{i}" for i in range(16)),
)


@_compiled
def _hues(hue: Bytes, lightness: Bytes, saturation: Bytes, out: Floats, at: int) -> int:
    """Hue weighted by chroma, since the hue of a grey pixel says nothing."""
    hues, lights, saturations = hue.ravel(), lightness.ravel(), saturation.ravel()
    levels = np.arange(_LEVELS)
    strengths, colourfulness = levels / 255, 1 - np.abs(levels / 127.5 - 1)
    chroma = np.empty(hues.size)
    weights = np.zeros(_LEVELS)
    total = square = 0.0
    grey = 0
    for i in range(hues.size):
        chroma[i] = strengths[saturations[i]] * colourfulness[lights[i]]
        weights[hues[i]] += chroma[i]
        total += chroma[i]
        grey += chroma[i] < 0.04
    mean = total / hues.size
    for value in chroma:
        square += (value - mean) ** 2
    shares = weights / max(weights.sum(), _TINY)
    cosine = sine = entropy = 0.0
    for level in range(_LEVELS):
        if shares[level] > 0:
            cosine += shares[level] * np.cos(2 * np.pi * level / _LEVELS)
            sine += shares[level] * np.sin(2 * np.pi * level / _LEVELS)
            entropy -= shares[level] * np.log2(shares[level])
    out[at] = mean
    out[at + 1] = np.sqrt(square / hues.size)
    out[at + 2] = grey / hues.size
    out[at + 3] = cosine
    out[at + 4] = sine
    out[at + 5] = np.hypot(cosine, sine)
    out[at + 6] = entropy
    out[at + 7] = _roughness(shares)
    out[at + 8] = np.sort(shares)[-8:].sum()
    return _sixteenths(shares, out, at + 9)


_HUES = (
    *("chroma_mean", "chroma_spread", "grey_share", "hue_mean_cosine", "hue_mean_sine", "hue_concentration"),
    *("hue_entropy", "hue_roughness", "hue_eight_commonest"),
    *(f"hue_bin_{i}" for i in range(16)),
)


@_compiled
def _together(a: Bytes, b: Bytes, n_log_n: Floats, out: Floats, at: int) -> int:
    """Entropy in bits of a pair of planes, at 16 levels each, and what the one tells about the other."""
    table = _tally((a & np.uint8(0xF0)) | (b >> np.uint8(4)))
    square = table.reshape(16, 16)
    both = _entropy(table, n_log_n)
    apart = _entropy(square.sum(0).astype(np.uint32), n_log_n) + _entropy(square.sum(1).astype(np.uint32), n_log_n)
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
def _palette(channels: tuple[Bytes, Bytes, Bytes], bits: int, n_log_n: Floats, out: Floats, at: int) -> int:
    """Number and prevalence of colours at so many bits a channel (Athitsos and Swain 1997)."""
    red, green, blue = channels[0].ravel(), channels[1].ravel(), channels[2].ravel()
    gone, size = np.uint16(8 - bits), red.size
    codes = np.empty(size, np.uint16)
    for i in range(size):
        codes[i] = (
            (red[i] >> gone) << np.uint16(2 * bits) | (green[i] >> gone) << np.uint16(bits) | (blue[i] >> gone)
        )
    counts = np.zeros(1 << (3 * bits), np.uint16)
    for code in codes:
        counts[code] += np.uint16(1)
    colours = np.zeros(size + 1, np.uint16)  # how many colours have so many pixels
    highest = 0
    for code in codes:
        count = counts[code]
        if count:
            colours[count] += np.uint16(1)
            highest = max(highest, count)
            counts[code] = 0
    sum_of_logs = 0.0
    seen = pixels = four = sixteen = for_90 = rare = 0
    for count in range(highest, 0, -1):
        alike = np.int64(colours[count])
        if not alike:
            continue
        sum_of_logs += alike * n_log_n[count]
        four += count * min(max(4 - seen, 0), alike)
        sixteen += count * min(max(16 - seen, 0), alike)
        if 10 * pixels < 9 * size:  # those before do not make up nine tenths
            for_90 = seen + min(alike, (9 * size - 10 * pixels + 10 * count - 1) // (10 * count)) - 1
        if count < 0.002 * size:
            rare += alike * count
        seen += alike
        pixels += alike * count
    out[at] = max(n_log_n[size] - sum_of_logs, 0.0) / size
    out[at + 1] = highest / size
    out[at + 2] = four / size
    out[at + 3] = sixteen / size
    out[at + 4] = np.log2(1 + for_90)
    out[at + 5] = rare / size
    return at + 6


_PALETTE = ("entropy", "commonest", "four_commonest", "16_commonest", "colours_for_90", "rare")


@_compiled
def _flatness(
    channels: tuple[Bytes, Bytes, Bytes],
    grey: Bytes,
    toned: Bytes,
    span: Bytes,
    sums: npt.NDArray[np.uint16],
    squares: Singles,
    out: Floats,
    at: int,
) -> int:
    """Flat areas, equal neighbours, and the noise floor outside clipped tones."""
    all_spans, toned_spans = _tally_toned(span, toned)
    size = grey.size
    white = black = inside = 0
    for value in grey.ravel():
        white += value >= 240
        black += value <= 15
    inside = size - white - black
    deviation = np.empty(grey.shape, np.uint8)
    flat, flat_sums, flat_squares = deviation.ravel(), sums.ravel(), squares.ravel()
    for i in range(size):
        total = np.float32(flat_sums[i])
        variance = (np.float32(9) * flat_squares[i] - total * total) / np.float32(81)
        flat[i] = np.uint8(min(np.sqrt(variance) * np.float32(16), np.float32(255)))
    beside = np.cumsum(_shares(_tally(_largest_steps(channels))))
    share, toned_share = np.cumsum(_shares(all_spans)), np.cumsum(_shares(toned_spans))
    out[at] = inside / size
    out[at + 1] = white / size
    out[at + 2] = black / size
    out[at + 3] = share[1]
    out[at + 4] = share[4]
    out[at + 5] = toned_share[1]
    out[at + 6] = toned_share[4]
    out[at + 7] = toned_share[10]
    out[at + 8] = beside[0]
    out[at + 9] = beside[3]
    out[at + 10] = beside[8]
    return _percentiles(_shares(_tally_toned(deviation, toned)[1]), (5, 10, 25, 50, 75), out, at + 11)


_FLATNESS = (
    *("toned_share", "white_share", "black_share", "flat_share", "nearly_flat_share", "toned_flat_share"),
    *("toned_nearly_flat_share", "toned_calm_share", "equal_neighbours", "near_neighbours", "alike_neighbours"),
    *(f"noise_floor_p{p}" for p in (5, 10, 25, 50, 75)),
)


@_compiled
def _largest_steps(channels: tuple[Bytes, Bytes, Bytes]) -> Bytes:
    """Largest difference over the channels to the right or the lower neighbour, uint8 [h-1, w-1]."""
    height, width = channels[0].shape
    if min(height, width) < 2:
        return np.zeros((1, 1), np.uint8)
    steps = np.zeros((height - 1, width - 1), np.uint8)
    for channel in channels:
        for y in range(height - 1):
            row, below, largest = channel[y], channel[y + 1], steps[y]
            for x in range(width - 1):
                here, right, lower = np.int16(row[x]), np.int16(row[x + 1]), np.int16(below[x])
                step = max(abs(right - here), abs(lower - here))
                largest[x] = np.uint8(max(np.int16(largest[x]), step))
    return steps


@_compiled
def _magnitude(gradient: tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]) -> Singles:
    """Gradient in grey levels a pixel, of the sums that a Sobel filter makes across and down."""
    across, down = gradient[0].ravel(), gradient[1].ravel()
    magnitude = np.empty(across.size, np.float32)
    for i in range(across.size):
        # Whole numbers up to the root: OpenCV's float arithmetic rounds by where in memory a row happens to lie.
        a, b = np.int32(across[i]), np.int32(down[i])
        magnitude[i] = np.sqrt(np.float32(a * a + b * b)) / np.float32(8)
    return magnitude


@_compiled
def _levels(values: Singles, scale: float) -> Bytes:
    levels = np.empty(values.size, np.uint8)
    for i in range(values.size):
        levels[i] = np.uint8(min(values[i] * np.float32(scale), np.float32(255)))
    return levels


@_compiled
def _gradients(
    light: Singles,
    red: Singles,
    blue: Singles,
    coarse: Singles,
    toned: Bytes,
    n_log_n: Floats,
    out: Floats,
    at: int,
) -> int:
    """Gradients of lightness and of colour, edges in colour alone, and how many pixels wide an edge is."""
    size = light.size
    colour = np.maximum(red, blue)
    strong = broad = light_sum = colour_sum = 0.0
    edges = faint = only = 0
    for i in range(size):
        light_sum += light[i]
        colour_sum += colour[i]
        faint += (light[i] > 1) & (light[i] <= 6)
        only += (colour[i] > 4) & (light[i] < 4)
        if light[i] > 12:
            edges += 1
            strong += light[i]
            broad += coarse[i]
    counts, toned_counts = _tally_toned(_levels(light, 4.0), toned)
    at = _percentiles(_shares(counts), (10, 25, 50, 75, 90, 97), out, at)
    at = _percentiles(_shares(toned_counts), (10, 25, 50, 75, 90), out, at)
    at = _percentiles(_shares(_tally(_levels(colour, 16.0))), (10, 25, 50, 75, 90, 97), out, at)
    out[at] = _entropy(counts, n_log_n)
    out[at + 1] = edges / size
    out[at + 2] = faint / size
    out[at + 3] = broad / strong if edges else 0.0
    out[at + 4] = only / size
    out[at + 5] = colour_sum / size / (light_sum / size + 0.25)
    return at + 6


_GRADIENTS = (
    *(f"lightness_gradient_p{p}" for p in (10, 25, 50, 75, 90, 97)),
    *(f"toned_gradient_p{p}" for p in (10, 25, 50, 75, 90)),
    *(f"colour_gradient_p{p}" for p in (10, 25, 50, 75, 90, 97)),
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
    out[at + 3] = dark_shares[64:].sum()
    out[at + 4] = bright_shares[64:].sum()
    out[at + 5] = _moments(shares)[0]
    out[at + 6] = shares[0]
    out[at + 7] = shares[1:5].sum()
    out[at + 8] = shares[17:].sum()
    out[at + 9] = _shares(toned_counts)[0]
    return at + 10


_LINES = (
    *("dark_lines", "light_lines", "dark_line_asymmetry", "strong_dark_lines", "strong_light_lines"),
    *("residual_mean", "residual_none", "residual_faint", "residual_strong", "toned_residual_none"),
)


#: Number of the pair that a run of three steps (down, level or up) forms with the same run read backwards: 15 pairs.
_RUN = np.arange(27)
_RUN_PAIRS = np.unique(np.minimum(_RUN, 26 - (_RUN % 3 * 9 + _RUN // 3 % 3 * 3 + _RUN // 9)), return_inverse=True)[
    1
].ravel()


@_compiled
def _transitions(plane: Bytes, step: int, out: Floats, at: int) -> int:
    """Shares of runs of three steps between neighbours, each down, level or up by at least `step` (Pevný, Bas and
    Fridrich, "Steganalysis by subtractive pixel adjacency matrix", 2010): how colour changes at the finest scale. A
    camera's colour is smooth there, since it measures one colour per pixel and interpolates the others.
    """
    height, width = plane.shape
    least = np.int16(step)
    counts = np.zeros(_LEVELS, np.uint32)
    if width > 3:
        ways = np.empty((height, width - 1), np.uint8)
        runs = np.empty((height, width - 3), np.uint8)
        for y in range(height):
            row, way, run = plane[y], ways[y], runs[y]
            for x in range(width - 1):
                change = np.int16(row[x + 1]) - np.int16(row[x])
                way[x] = np.uint8(1 + (change >= least) - (change <= -least))
            for x in range(width - 3):
                run[x] = np.uint8(9) * way[x] + np.uint8(3) * way[x + 1] + way[x + 2]
        counts += _tally(runs)
    if height > 3:
        ways = np.empty((height - 1, width), np.uint8)
        runs = np.empty((height - 3, width), np.uint8)
        for y in range(height - 1):
            row, below, way = plane[y], plane[y + 1], ways[y]
            for x in range(width):
                change = np.int16(below[x]) - np.int16(row[x])
                way[x] = np.uint8(1 + (change >= least) - (change <= -least))
        for y in range(height - 3):
            first, second, third, run = ways[y], ways[y + 1], ways[y + 2], runs[y]
            for x in range(width):
                run[x] = np.uint8(9) * first[x] + np.uint8(3) * second[x] + third[x]
        counts += _tally(runs)
    shares = _shares(counts)
    out[at : at + 15] = 0
    for run in range(27):
        out[at + _RUN_PAIRS[run]] += shares[run]
    return at + 15


#: How many of a pixel's eight neighbours are lighter, by the bits that say which; 9 where they don't lie side by side.
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
    codes = np.empty((3, high, wide), np.uint8)
    for y in range(high):
        above, middle, below = plane[y], plane[y + radius], plane[y + 2 * radius]
        for t, tolerance in enumerate((0, 3, 10)):
            code, least = codes[t, y], np.int16(tolerance)
            for x in range(wide):
                centre = np.int16(middle[x + radius]) + least
                code[x] = np.uint8(
                    (above[x] > centre)
                    | (above[x + radius] > centre) << 1
                    | (above[x + 2 * radius] > centre) << 2
                    | (middle[x + 2 * radius] > centre) << 3
                    | (below[x + 2 * radius] > centre) << 4
                    | (below[x + radius] > centre) << 5
                    | (below[x] > centre) << 6
                    | (middle[x] > centre) << 7
                )
    for t in range(3):
        shares = _shares(_tally(codes[t]))
        for code in range(_LEVELS):
            out[at + _PATTERNS[code]] += shares[code]
        at += 10
    return at


@_compiled
def _edges_together(planes: tuple[Singles, Singles, Singles, Singles], out: Floats, at: int) -> int:
    """How edges of lightness and colour go together (Cutzu and others 2003): Pearson's correlations of pairs."""
    count, size = len(planes), planes[0].size
    table = np.empty((count, size))
    for i in range(count):
        table[i] = planes[i] - planes[i].astype(np.float64).mean()
    for a in range(count):
        for b in range(a):
            out[at] = _correlation((table[a] * table[b]).sum(), (table[a] ** 2).sum(), (table[b] ** 2).sum())
            at += 1
    return at


@_compiled
def _detail_together(
    channels: tuple[Bytes, Bytes, Bytes], smooth: tuple[Bytes, Bytes, Bytes], out: Floats, at: int
) -> int:
    """How the channels' finest detail goes together: Pearson's correlations of pairs."""
    size = channels[0].size
    details = np.empty((3, size), np.int32)
    for i in range(3):
        details[i] = channels[i].ravel().astype(np.int32) - smooth[i].ravel().astype(np.int32)
    for a in range(3):
        for b in range(a):
            x = y = xx = yy = xy = np.int64(0)
            for i in range(size):
                left, right = details[a, i], details[b, i]
                x += left
                y += right
                xx += left * left
                yy += right * right
                xy += left * right
            out[at] = _correlation(size * xy - x * y, size * xx - x * x, size * yy - y * y)
            at += 1
    return at


@_compiled
def _correlation(together: float, left: float, right: float) -> float:
    """Pearson's, of sums of products of what is centred; 0 where one is constant."""
    return together / (max(np.sqrt(left), _TINY) * max(np.sqrt(right), _TINY))


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
    *(f"detail_{i}" for i in range(4)),
    *(f"detail_decay_{i}" for i in range(3)),
    *(f"{plane}_run_{i}" for plane in ("red_chroma", "blue_chroma", "saturation") for i in range(15)),
    *(f"pattern{radius}_{tolerance}_{i}" for radius in (1, 2, 4) for tolerance in (0, 3, 10) for i in range(10)),
    *(f"edges_together_{i}" for i in range(6)),
    *(f"detail_together_{i}" for i in range(3)),
)
"""Names of the measures, in the order of `describe`."""
