"""How a page is drawn from templates: numbers as a person reads them, pictures as data: URIs."""

import base64
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.core.artifacts import Artifact
from tasks.core.figures import label

#: What a page must not hold: control characters, halves of characters, and signs that turn the text around.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, context: dict[str, Any], folder: Path = TEMPLATES) -> str:
    """A template as text, with everything escaped in it that isn't the template's.

    Args:
        template: its name in `folder`, or in `templates/` here.
        context: what it names.
        folder: where the caller keeps templates.
    """
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", environment(folder).get_template(template).render(context))


@cache
def environment(folder: Path = TEMPLATES) -> Environment:
    """What renders the templates in `folder` and those here: they are read and compiled once."""
    made = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "count": lambda value: "–" if is_missing(value) else f"{int(value):,}",
        "score": lambda value: "–" if is_missing(value) else f"{value:.3f}",
        "signed": lambda value: (
            "–" if is_missing(value) else f"{round(value, 3) + 0:+.3f}".replace("-", "\N{MINUS SIGN}")
        ),
        "percent": lambda value: (
            "–" if is_missing(value) else f"{100 * value:.0f} %" if value >= 0.01 or not value else "< 1 %"
        ),
        "megabytes": lambda value: f"{value / 1e6:,.1f} MB",
        "duration": duration,
        "short": label,
    }
    made.tests["missing"] = is_missing
    return made


def is_missing(value: Any) -> bool:
    """Whether it is no number: None, or NaN of whatever type."""
    return value is None or bool(value != value)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


@dataclass
class Pictures:
    """Turns files of artifacts into data: URIs, until `left` bytes are used up."""

    left: int

    def of(self, artifact: Artifact, name: str, title: str, caption: str = "") -> dict[str, Any] | None:
        """The picture for the template: source (empty when it is left out for its size), CSS pixels, words."""
        if not artifact.has(name):
            return None
        data = artifact.path(name).read_bytes()
        picture = {"title": title, "caption": caption, "where": f"{name} in {artifact.folder}"}
        if len(data) > self.left:
            return picture | {"source": "", "width": 0, "height": 0, "drawn": False}
        self.left -= len(data)
        drawn = name.endswith(".svg")
        width, height = _svg_size(data) if drawn else _photo_size(data)
        kind = "svg+xml" if drawn else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return picture | {"source": source, "width": width, "height": height, "drawn": drawn}


def _svg_size(data: bytes) -> tuple[int, int]:
    found = re.search(rb'<svg[^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', data)
    points = (float(found[1]), float(found[2])) if found else (480.0, 320.0)
    return round(points[0] * 4 / 3), round(points[1] * 4 / 3)


def _photo_size(data: bytes) -> tuple[int, int]:
    height, width = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)).shape
    return width, height
