"""A report as a tab shows it: its pictures come by themselves, when they are scrolled to.

A report is one file, with its pictures in it, to be mailed and archived. Where a server is at hand, the page is there
at once without them.
"""

import base64
import gzip
import re
from functools import lru_cache

from tasks.core.artifacts import Artifact
from tasks.core.errors import NotFound

#: A picture in a report. Whatever else is in the file has its quotation marks escaped.
PICTURE = re.compile(r'src="data:(image/(?:svg\+xml|jpeg));base64,([A-Za-z0-9+/=]+)"')

#: Where a report says what it may load, and where its list of sections ends.
MAY_LOAD, NAV_END = "img-src data:", "</nav>"


def packed(report: Artifact) -> bytes:
    """The page, compressed with gzip: Airflow would do it anew for each reader."""
    return _split(report.uri)[0]


def picture(report: Artifact, number: int) -> tuple[bytes, str]:
    """A picture of the report, by its place in it, and its media type.

    Raises:
        NotFound: it has no such picture.
    """
    pictures = _split(report.uri)[1]
    if not 0 <= number < len(pictures):
        raise NotFound("The report has no such picture.")
    return pictures[number]


@lru_cache(8)
def _split(uri: str) -> tuple[bytes, list[tuple[bytes, str]]]:
    report = Artifact.open(uri)
    pictures: list[tuple[bytes, str]] = []

    def take(found: re.Match[str]) -> str:
        pictures.append((base64.b64decode(found[2]), found[1]))
        return f'src="report/{report.key}/{len(pictures) - 1}"'

    html = report.path("report.html").read_text(encoding="utf-8")
    page = PICTURE.sub(take, html)
    page = page.replace(MAY_LOAD, "img-src 'self' data:", 1)
    page = page.replace(NAV_END, f'<a href="report.html">Download</a>{NAV_END}', 1)
    return gzip.compress(page.encode(), 6, mtime=0), pictures
