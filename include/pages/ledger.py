"""The ledger of a run, to look through: filtered, a page at a time, with the thumbnails of the scan."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.pages.runs import Run
from tasks.core.artifacts import Artifact
from tasks.core.errors import NotFound
from tasks.core.ledger import VERDICTS

#: Images on a page.
PAGE = 60

#: Who can have given a verdict, as the ledger has it.
DECIDED_BY = ("validation", "clustering", "person", "sampling")

SHOWN = ["key", "class", "verdict", "reason", "decided_by", "part", "photo_probability"]


@dataclass(frozen=True)
class Filter:
    """What of the ledger is asked for; an empty text asks for all.

    Attributes:
        class_name: the class.
        verdict: one of VERDICTS.
        decided_by: one of DECIDED_BY.
        reason: a part of the reason or of the key, in whatever case.
        page: which page, from 1.
    """

    class_name: str = ""
    verdict: str = ""
    decided_by: str = ""
    reason: str = ""
    page: int = 1

    def query(self, **changes: Any) -> dict[str, Any]:
        """The filter as a URL's query."""
        named = {"class": self.class_name, "verdict": self.verdict, "decided_by": self.decided_by}
        return {
            name: value
            for name, value in (named | {"reason": self.reason, "page": self.page} | changes).items()
            if value not in ("", 1)
        }


@dataclass(frozen=True)
class Page:
    """A page of the ledger.

    Attributes:
        rows: the images, each with its `row` in the whole ledger and the columns of SHOWN.
        images: how many the filter matches.
        of: how many there are in all.
        number: which page, from 1.
        pages: how many pages there are.
        classes: the names of all classes.
    """

    rows: list[dict[str, Any]]
    images: int
    of: int
    number: int
    pages: int
    classes: list[str]


def look_up(run: Run, asked: Filter) -> Page:
    """The page of the run's ledger that is asked for; the last one where there are fewer.

    Raises:
        NotFound: the run has no ledger yet.
    """
    table, classes = _ledger(run.artifact("resample"))
    wanted: Any = None
    exact = {"class": asked.class_name, "verdict": asked.verdict, "decided_by": asked.decided_by}
    for column, value in exact.items():
        if value:
            matches = pc.equal(table[column], value)
            wanted = matches if wanted is None else pc.and_(wanted, matches)
    if asked.reason:
        within = [pc.match_substring(table[column], asked.reason, ignore_case=True) for column in ("reason", "key")]
        matches = pc.or_(*within)
        wanted = matches if wanted is None else pc.and_(wanted, matches)
    places = pa.array(range(len(table))) if wanted is None else pc.indices_nonzero(wanted)
    pages = max(1, -(-len(places) // PAGE))
    number = min(max(1, asked.page), pages)
    shown = places[(number - 1) * PAGE : number * PAGE]
    rows = table.select(SHOWN).take(shown).to_pylist()
    numbered = [{"row": row, **facts} for row, facts in zip(shown.to_pylist(), rows, strict=True)]
    return Page(numbered, len(places), len(table), number, pages, classes)


def keys_of(run: Run, ledger: str, rows: list[int]) -> list[str]:
    """The keys of images, by their rows in the run's ledger.

    Raises:
        NotFound: there is no such row, or the run has another ledger by now.
    """
    artifact = run.artifact("resample")
    if artifact.key != ledger:
        raise NotFound("The run was repeated meanwhile and has another ledger now. Open the ledger anew.")
    keys = _ledger(artifact)[0]["key"]
    if any(not 0 <= row < len(keys) for row in rows):
        raise NotFound("The run's ledger has no such row.")
    return [keys[row].as_py() for row in rows]


def copies_of(run: Run, keys: Iterable[str]) -> dict[str, str]:
    """Each image of the run's ledger with the same bytes as one of these, and that one; these are among them."""
    table = run.artifact("resample").table("ledger.parquet", ["key", "sha256"])
    asked = table.loc[table["key"].isin(set(keys)) & (table["sha256"].fillna("") != "")]
    same = table.loc[table["sha256"].isin(asked["sha256"])]
    copies = same["sha256"].map(asked.drop_duplicates("sha256").set_index("sha256")["key"])
    return dict(zip(same["key"], copies, strict=True)) | {key: key for key in keys}


def thumbnail(run: Run, ledger: str, row: int) -> bytes:
    """The JPEG of the image in a row of the ledger.

    Raises:
        NotFound: there is no such row, or the image couldn't be read.
    """
    (key,) = keys_of(run, ledger, [row])
    scans = run.artifacts("scan")
    with _one_at_a_time:
        where = _thumbnail_places(tuple(scan.uri for scan in scans)).get(key)
    if where is None:
        raise NotFound("The image could not be read, so there is no picture of it.")
    scan, group, place = where
    with _one_at_a_time:
        pictures = _thumbnail_group(scan, group)
    picture: bytes = pictures[place].as_py()
    return picture


def verdict_counts(run: Run) -> dict[str, int]:
    """How many images have each verdict."""
    table, _ = _ledger(run.artifact("resample"))
    counted = {item["values"]: item["counts"] for item in pc.value_counts(table["verdict"]).to_pylist()}
    return {verdict: counted[verdict] for verdict in VERDICTS if verdict in counted}


def _ledger(artifact: Artifact) -> tuple[pa.Table, list[str]]:
    return _ledger_at(artifact.uri)


@lru_cache(4)
def _ledger_at(uri: str) -> tuple[pa.Table, list[str]]:
    """A ledger, and the names of its classes."""
    table = pq.read_table(Artifact.open(uri).path("ledger.parquet"), columns=SHOWN).combine_chunks()
    return table, sorted(pc.unique(table["class"]).to_pylist())


#: A browser asks for a page's pictures all at once; they are in the same few row groups, which one thread decompresses.
_one_at_a_time = Lock()


@lru_cache(4)
def _thumbnail_places(scans: tuple[str, ...]) -> Mapping[str, tuple[str, int, int]]:
    """Of each key: the scan that holds its thumbnail, the row group there, and the place in it."""
    places = {}
    for scan in scans:
        with pq.ParquetFile(_thumbnail_file(scan)) as file:
            for group in range(file.num_row_groups):
                keys = file.read_row_group(group, columns=["key"])["key"].to_pylist()
                places.update({key: (scan, group, place) for place, key in enumerate(keys)})
    return places


@lru_cache(16)
def _thumbnail_group(scan: str, group: int) -> pa.ChunkedArray:
    """The thumbnails of a row group, decompressed."""
    with pq.ParquetFile(_thumbnail_file(scan)) as file:
        return file.read_row_group(group, columns=["jpeg"])["jpeg"]


@lru_cache(16)
def _scan(uri: str) -> Artifact:
    return Artifact.open(uri)


def _thumbnail_file(scan: str) -> Path:
    return _scan(scan).path("thumbnails.parquet")
