"""What `tasks.vision.features` computes, said plainly: one measure after the other, by NumPy and OpenCV."""

import cv2
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

FEATURE_SIZE = 128
"""Longest side in pixels to which an image is scaled down (area averaging) before it is described."""

_TINY = 1e-9


def describe(rgb: Bytes) -> npt.NDArray[np.float32]:
    """Describe an RGB picture, uint8 [height, width, 3], by float32 [len(FEATURE_NAMES)], all finite.

    Pictures with a side above FEATURE_SIZE are scaled down first; smaller ones are taken as they are.
    """
    return np.fromiter(_measures(_fit(rgb)).values(), np.float32, len(FEATURE_NAMES))


def _fit(rgb: Bytes) -> Bytes:
    height, width = rgb.shape[:2]
    scale = FEATURE_SIZE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(rgb)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _measures(rgb: Bytes) -> dict[str, float]:
    hue, lightness, saturation = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HLS_FULL))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    toned = np.asarray(cv2.inRange(grey, 16, 239), np.uint8)
    measures: dict[str, float] = {}
    measures |= _tones("lightness", lightness)
    measures |= _tones("saturation", saturation)
    measures |= _hues(hue, lightness, saturation)
    measures |= _together(hue, lightness, saturation)
    measures |= _palette(rgb)
    measures |= _flatness(rgb, grey, toned)
    measures |= _gradients(rgb, grey, toned)
    measures |= _lines(grey, toned)
    measures |= _bands(grey)
    _, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    for name, plane, step in (("red_chroma", red, 1), ("blue_chroma", blue, 1), ("saturation", saturation, 3)):
        measures |= _transitions(name, plane, step)
    measures |= _patterns(grey)
    measures |= _correlations(rgb, [grey, red, blue, saturation])
    return measures


def _histogram(values: Bytes, mask: Bytes | None = None) -> Floats:
    """Shares of the 256 levels; all zero where the mask (0 or 255) leaves nothing."""
    counts = cv2.calcHist([values], [0], mask, [256], [0, 256]).ravel().astype(np.float64)
    return np.asarray(counts / max(float(counts.sum()), 1.0))


def _percentiles(name: str, histogram: Floats, at: tuple[int, ...]) -> dict[str, float]:
    """Percentiles in 0..1 of a 256-level histogram, straight inside a level so that they do not jump."""
    sums = np.cumsum(histogram)
    if sums[-1] <= 0:
        return {f"{name}_p{p}": 0.0 for p in at}
    levels = np.interp(np.array(at) / 100, sums + np.arange(256) * 1e-12, np.arange(1, 257))
    return {f"{name}_p{p}": float(level / 256) for p, level in zip(at, levels, strict=True)}


def _entropy(shares: Floats) -> float:
    """Shannon entropy in bits of shares that sum to one (or to zero)."""
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum()) + 0.0


def _moments(histogram: Floats) -> tuple[float, float]:
    levels = np.arange(256) / 255
    mean = float(histogram @ levels)
    return mean, float(np.sqrt(histogram @ (levels - mean) ** 2))


_BOX = np.full(9, 1 / 9)


def _roughness(histogram: Floats) -> float:
    """How far a histogram departs from its own smoothing, 0..2: few separate tones are rough, a sensor's smooth."""
    smooth = np.convolve(np.concatenate([histogram[:1].repeat(4), histogram, histogram[-1:].repeat(4)]), _BOX, "valid")
    return float(np.abs(histogram - smooth).sum())


def _tones(name: str, values: Bytes) -> dict[str, float]:
    histogram = _histogram(values)
    inner = histogram.copy()
    inner[:8] = inner[248:] = 0
    inner /= max(float(inner.sum()), _TINY)
    mean, spread = _moments(histogram)
    inner_mean, inner_spread = _moments(inner)
    common = np.sort(histogram)[::-1]
    measures = {
        f"{name}_mean": mean,
        f"{name}_spread": spread,
        f"{name}_entropy": _entropy(histogram),
        f"{name}_inner_mean": inner_mean,
        f"{name}_inner_spread": inner_spread,
        f"{name}_inner_entropy": _entropy(inner),
        f"{name}_roughness": _roughness(histogram),
        f"{name}_inner_roughness": _roughness(inner),
        f"{name}_commonest": float(common[0]),
        f"{name}_eight_commonest": float(common[:8].sum()),
        f"{name}_32_commonest": float(common[:32].sum()),
    }
    measures |= _percentiles(name, histogram, (5, 25, 50, 75, 95))
    measures |= {f"{name}_bin_{i}": float(s) for i, s in enumerate(histogram.reshape(16, 16).sum(1))}
    return measures


def _hues(hue: Bytes, lightness: Bytes, saturation: Bytes) -> dict[str, float]:
    """Hue weighted by chroma, since the hue of a grey pixel says nothing."""
    chroma = saturation / 255 * (1 - np.abs(lightness / 127.5 - 1))
    weights = np.bincount(hue.ravel(), chroma.ravel(), 256)
    shares = weights / max(float(weights.sum()), _TINY)
    around = np.exp(2j * np.pi * np.arange(256) / 256)
    centre = complex(shares @ around)
    histogram = shares.reshape(16, 16).sum(1)
    measures = {
        "chroma_mean": float(chroma.mean()),
        "chroma_spread": float(chroma.std()),
        "grey_share": float((chroma < 0.04).mean()),
        "hue_mean_cosine": centre.real,
        "hue_mean_sine": centre.imag,
        "hue_concentration": abs(centre),
        "hue_entropy": _entropy(shares),
        "hue_roughness": _roughness(shares),
        "hue_eight_commonest": float(np.sort(shares)[-8:].sum()),
    }
    return measures | {f"hue_bin_{i}": float(s) for i, s in enumerate(histogram)}


def _together(hue: Bytes, lightness: Bytes, saturation: Bytes) -> dict[str, float]:
    """Entropies in bits of pairs of HLS, at 16 levels each, and what the one tells about the other."""

    def joint(a: Bytes, b: Bytes) -> tuple[float, float]:
        table = np.bincount(((a & 0xF0) | (b >> 4)).ravel(), minlength=256).reshape(16, 16) / a.size
        both = _entropy(table.ravel())
        return both, _entropy(table.sum(0)) + _entropy(table.sum(1)) - both

    saturation_lightness, shared_saturation = joint(saturation, lightness)
    hue_lightness, shared_hue = joint(hue, lightness)
    return {
        "saturation_lightness_entropy": saturation_lightness,
        "saturation_lightness_information": shared_saturation,
        "hue_lightness_entropy": hue_lightness,
        "hue_lightness_information": shared_hue,
    }


def _palette(rgb: Bytes) -> dict[str, float]:
    """Number and prevalence of colours at 3, 4 and 5 bits a channel (Athitsos and Swain 1997)."""
    measures: dict[str, float] = {}
    red, green, blue = (plane.astype(np.int32) for plane in cv2.split(rgb))
    for bits in (3, 4, 5):
        gone = 8 - bits
        code = ((red >> gone) << (2 * bits)) | ((green >> gone) << bits) | (blue >> gone)
        counts = np.bincount(code.ravel())
        shares = np.sort(counts[counts > 0])[::-1] / code.size
        measures |= {
            f"palette{bits}_entropy": _entropy(shares),
            f"palette{bits}_commonest": float(shares[0]),
            f"palette{bits}_four_commonest": float(shares[:4].sum()),
            f"palette{bits}_16_commonest": float(shares[:16].sum()),
            f"palette{bits}_colours_for_90": float(np.log2(1 + np.searchsorted(np.cumsum(shares), 0.9))),
            f"palette{bits}_rare": float(shares[shares < 0.002].sum()),
        }
    return measures


_SQUARE = np.ones((3, 3), np.uint8)
_BROAD = np.ones((5, 5), np.uint8)


def _flatness(rgb: Bytes, grey: Bytes, toned: Bytes) -> dict[str, float]:
    """Flat areas, equal neighbours, and the noise floor outside clipped tones."""
    span = cv2.dilate(grey, _SQUARE) - cv2.erode(grey, _SQUARE)
    all_spans, toned_spans = np.cumsum(_histogram(span)), np.cumsum(_histogram(span, toned))
    real = grey.astype(np.float32)
    # Sums of whole numbers are exact, so the deviation is the same on every machine.
    sums, squares = (cv2.boxFilter(plane, -1, (3, 3), normalize=False) for plane in (real, real * real))
    variance = (9 * squares - sums * sums) / 81
    deviation = np.minimum(np.sqrt(variance) * 16, 255).astype(np.uint8)
    beside = cv2.max(*_steps(rgb)) if min(rgb.shape[:2]) > 1 else np.zeros((1, 1), np.uint8)
    equal = np.cumsum(_histogram(beside))
    measures = {
        "toned_share": float(toned.mean()) / 255,
        "white_share": float((grey >= 240).mean()),
        "black_share": float((grey <= 15).mean()),
        "flat_share": float(all_spans[1]),
        "nearly_flat_share": float(all_spans[4]),
        "toned_flat_share": float(toned_spans[1]),
        "toned_nearly_flat_share": float(toned_spans[4]),
        "toned_calm_share": float(toned_spans[10]),
        "equal_neighbours": float(equal[0]),
        "near_neighbours": float(equal[3]),
        "alike_neighbours": float(equal[8]),
    }
    return measures | _percentiles("noise_floor", _histogram(deviation, toned), (5, 10, 25, 50, 75))


def _steps(rgb: Bytes) -> tuple[Bytes, Bytes]:
    """Largest difference over the channels to the right and to the lower neighbour, uint8 [h-1, w-1] each."""
    right = cv2.absdiff(rgb[:-1, 1:], rgb[:-1, :-1])
    below = cv2.absdiff(rgb[1:, :-1], rgb[:-1, :-1])
    (a, b, c), (d, e, f) = cv2.split(right), cv2.split(below)
    return cv2.max(cv2.max(a, b), c), cv2.max(cv2.max(d, e), f)


def _magnitude(plane: Bytes) -> npt.NDArray[np.float32]:
    """Gradient in grey levels a pixel, float32 of the plane's shape."""
    # Whole numbers up to the root: OpenCV's float arithmetic rounds by where in memory a row happens to lie.
    across = cv2.Sobel(plane, cv2.CV_16S, 1, 0).astype(np.float32)
    down = cv2.Sobel(plane, cv2.CV_16S, 0, 1).astype(np.float32)
    return np.asarray(np.sqrt(across * across + down * down) / 8, np.float32)


def _levels(values: npt.NDArray[np.float32], scale: float) -> Bytes:
    return np.asarray(np.minimum(values * scale, 255), np.uint8)


def _gradients(rgb: Bytes, grey: Bytes, toned: Bytes) -> dict[str, float]:
    """Gradients of lightness and of colour, edges in colour alone, and how many pixels wide an edge is."""
    _, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    light = _magnitude(grey)
    colour = np.maximum(_magnitude(red), _magnitude(blue))
    coarse = _magnitude(cv2.blur(grey, (5, 5)))
    light_shares = _histogram(_levels(light, 4))
    edges = light > 12
    strong = float(light[edges].sum(dtype=np.float64))
    measures = _percentiles("lightness_gradient", light_shares, (10, 25, 50, 75, 90, 97))
    measures |= _percentiles("toned_gradient", _histogram(_levels(light, 4), toned), (10, 25, 50, 75, 90))
    measures |= _percentiles("colour_gradient", _histogram(_levels(colour, 16)), (10, 25, 50, 75, 90, 97))
    measures |= {
        "gradient_entropy": _entropy(light_shares),
        "edge_share": float(edges.mean()),
        "faint_gradient_share": float(((light > 1) & (light <= 6)).mean()),
        "edge_width": float(coarse[edges].sum(dtype=np.float64) / strong) if strong else 0.0,
        "colour_only_edges": float(((colour > 4) & (light < 4)).mean()),
        "colour_to_lightness_gradient": float(colour.mean(dtype=np.float64) / (light.mean(dtype=np.float64) + 0.25)),
    }
    return measures


def _lines(grey: Bytes, toned: Bytes) -> dict[str, float]:
    """Thin dark lines against thin light ones, and what a 3x3 median takes away (noise and hairlines)."""
    dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, _BROAD)
    bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, _BROAD)
    residual = cv2.absdiff(grey, cv2.medianBlur(grey, 3))
    dark_shares, bright_shares = _histogram(dark), _histogram(bright)
    dark_mean, bright_mean = _moments(dark_shares)[0], _moments(bright_shares)[0]
    residual_shares = _histogram(residual)
    sums = np.cumsum(residual_shares)
    return {
        "dark_lines": dark_mean,
        "light_lines": bright_mean,
        "dark_line_asymmetry": (dark_mean - bright_mean) / (dark_mean + bright_mean + 0.004),
        "strong_dark_lines": float(dark_shares[64:].sum()),
        "strong_light_lines": float(bright_shares[64:].sum()),
        "residual_mean": _moments(residual_shares)[0],
        "residual_none": float(sums[0]),
        "residual_faint": float(sums[4] - sums[0]),
        "residual_strong": float(1 - sums[16]),
        "toned_residual_none": float(_histogram(residual, toned)[0]),
    }


def _bands(grey: Bytes) -> dict[str, float]:
    """Energy of the picture's detail from the finest scale up, in log2 grey levels, and its decay."""
    energies = []
    plane = grey.astype(np.float32)
    for _ in range(4):
        smaller = (
            cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(plane.shape) > 1 else plane
        )
        back = cv2.resize(smaller, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
        energies.append(float(np.log2(np.abs(plane - back).mean(dtype=np.float64) + 0.1)))
        plane = smaller
    measures = {f"detail_{i}": energy for i, energy in enumerate(energies)}
    return measures | {f"detail_decay_{i}": energies[i + 1] - energies[i] for i in range(3)}


#: Number of the pair that a run of three steps (down, level or up) forms with the same run read backwards: 15 pairs.
_RUN = np.arange(27)
_RUN_PAIRS = np.unique(np.minimum(_RUN, 26 - (_RUN % 3 * 9 + _RUN // 3 % 3 * 3 + _RUN // 9)), return_inverse=True)[
    1
].ravel()


def _transitions(name: str, plane: Bytes, step: int) -> dict[str, float]:
    """Shares of runs of three steps between neighbours, each down, level or up by at least `step` (Pevný, Bas and
    Fridrich, "Steganalysis by subtractive pixel adjacency matrix", 2010): how colour changes at the finest scale. A
    camera's colour is smooth there, since it measures one colour per pixel and interpolates the others.
    """
    counts = np.zeros(27)
    for level in (plane, plane.T):
        change = np.diff(level.astype(np.int16), axis=1)
        way = (change >= step).astype(np.int8) - (change <= -step) + 1
        if way.shape[1] > 2:
            runs = 9 * way[:, :-2] + 3 * way[:, 1:-1] + way[:, 2:]
            counts += np.bincount(runs.ravel(), minlength=27)
    shares = np.bincount(_RUN_PAIRS, counts / max(float(counts.sum()), 1.0), 15)
    return {f"{name}_run_{i}": float(share) for i, share in enumerate(shares)}


def _patterns(grey: Bytes) -> dict[str, float]:
    """Local binary patterns, uniform and rotation-invariant (Ojala, Pietikäinen and Mäenpää 2002): shares of pixels by
    how many of their eight neighbours are lighter by more than a tolerance, 9 where those don't lie side by side.
    """
    measures: dict[str, float] = {}
    for radius in (1, 2, 4):
        plane = grey if radius == 1 else cv2.blur(grey, (radius, radius))
        height, width = plane.shape
        around = [
            cv2.subtract(
                np.ascontiguousarray(plane[r : height - 2 * radius + r, c : width - 2 * radius + c]),
                np.ascontiguousarray(plane[radius : height - radius, radius : width - radius]),
            )
            for r, c in (
                (0, 0), (0, radius), (0, 2 * radius), (radius, 2 * radius),
                (2 * radius, 2 * radius), (2 * radius, radius), (2 * radius, 0), (radius, 0),
            )
        ] if min(height, width) > 2 * radius else [np.zeros((1, 1), np.uint8)] * 8  # fmt: skip
        for tolerance in (0, 3, 10):
            lighter = np.array(around) > tolerance
            ends = (lighter != np.roll(lighter, 1, axis=0)).sum(0, dtype=np.uint8)
            pattern = np.where(ends <= 2, lighter.sum(0, dtype=np.uint8), 9)
            shares = np.bincount(pattern.ravel(), minlength=10) / pattern.size
            measures |= {f"pattern{radius}_{tolerance}_{i}": float(share) for i, share in enumerate(shares)}
    return measures


def _correlations(rgb: Bytes, planes: list[Bytes]) -> dict[str, float]:
    """How edges of lightness and colour go together (Cutzu and others 2003), and the channels' finest detail."""
    edges = _correlated([_magnitude(plane) for plane in planes])
    detail = _correlated([
        channel.astype(np.float32) - cv2.blur(channel, (3, 3)).astype(np.float32) for channel in cv2.split(rgb)
    ])  # fmt: skip
    return {f"edges_together_{i}": value for i, value in enumerate(edges)} | {
        f"detail_together_{i}": value for i, value in enumerate(detail)
    }


def _correlated(planes: list[npt.NDArray[np.float32]]) -> list[float]:
    """Pearson's correlation of each pair of planes; 0 where one is constant."""
    table = np.array([plane.ravel() for plane in planes], np.float64)
    table -= table.mean(1, keepdims=True)
    table /= np.maximum(np.sqrt((table * table).sum(1, keepdims=True)), _TINY)
    # Not by BLAS, whose threads would get in the way of the scan's own.
    return [float((table[a] * table[b]).sum()) for a in range(len(planes)) for b in range(a)]


FEATURE_NAMES: tuple[str, ...] = tuple(_measures(np.zeros((2, 2, 3), np.uint8)))
"""Names of the measures, in the order of `describe`."""
