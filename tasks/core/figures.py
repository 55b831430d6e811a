"""Figures and contact sheets in the house style, the same bytes for the same data."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

INK, MUTED, PAPER = "#3b3f46", "#8a8f98", "#ffffff"
#: Illustration, photograph, unsure; then further series. Told apart by colour-blind readers too (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
SHEET_COLUMNS = 10
"""Pictures in a row of a contact sheet, unless it is told otherwise."""


def label(name: str, longest: int = 32) -> str:
    """A class or file name as it can stand in a figure: on one line, shortened, no character that breaks an SVG."""
    shown = "".join(sign if sign.isprintable() else " " for sign in name).strip()
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def each_sheet(sheets: int, most: int, of_all: int) -> int:
    """Images that each of so many contact sheets shows: `most`, or fewer in whole rows, about `of_all` together."""
    return min(most, max(SHEET_COLUMNS, of_all // max(1, sheets) // SHEET_COLUMNS * SHEET_COLUMNS))


@contextmanager
def figure(path: Path, width: float = 8, height: float = 4, **subplots: Any) -> Iterator[Any]:
    """A matplotlib figure (inches), written to `path` as SVG or PNG when the block ends.

        with figure(out.path("figures/counts.svg")) as axes:
            axes.bar(classes, counts)

    `subplots` goes to `matplotlib.figure.Figure.subplots`; with it the block gets an array of axes.
    Class names are data: a dollar sign in one is a dollar sign, not mathematics. Pass them through `label`.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": "gesso",  # else ids in the file are random
        "svg.fonttype": "none",  # text stays text: small, searchable, readable aloud
        "text.parse_math": False,
        "font.family": ["sans-serif"],
        "font.size": 9,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Only the widths are guessed: the text itself is drawn by the reader's browser, in a font that has the sign.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        drawing = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
        yield drawing.subplots(**subplots)
        drawing.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def contact_sheet(
    tiles: Sequence[np.ndarray | bytes], path: Path, columns: int = SHEET_COLUMNS, side: int = 112
) -> None:
    """Write a JPEG of small pictures in rows, each fitted into a white square of `side` pixels.

    Args:
        tiles: uint8 RGB arrays [h, w, 3], or JPEG files.
        path: where to write it.
    """
    import cv2

    rows = max(1, -(-len(tiles) // columns))
    gap = 4
    sheet = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        if isinstance(tile, bytes):
            decoded = cv2.imdecode(np.frombuffer(tile, np.uint8), cv2.IMREAD_COLOR)
            picture = np.asarray(decoded)[:, :, ::-1]
        else:
            picture = tile
        height, width = picture.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        row, column = divmod(place, columns)
        top = gap + row * (side + gap) + (side - size[1]) // 2
        left = gap + column * (side + gap) + (side - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = picture
    cv2.imwrite(str(path), sheet[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
