"""Rows that a step remembers for the next run: what it once found of an object, by the object's identity.

    remembered/<step>/<code>/<data set>/<shard>-of-<shards>-<sha256>.parquet

Immutable Parquet files of one schema, with the columns `identity` (by which a row is recalled) and `place` (uint64: a
row belongs to shard `place % shards`). Each scan adds files of its new rows, and merges them as a log-structured store
does: small ones into larger ones, so that each file is more than twice all smaller ones together, up to `MERGED_BYTES`.
So their number grows with that of the rows, and with that of the runs only by its logarithm. Files of another number of
shards are divided anew.

Writers need no lock. A file's name holds the SHA-256 of its content, and a file is removed only after its rows are in
another one: two who merge the same files make the same file, and two who merge different ones leave a few rows twice
until the next merge. The content names the files that it was made of, so no file is ever made of its own rows again:
else, of two who divide and unite the same rows at once, each would remove what the other relies on. A reader whose file
is gone lists again. Nothing breaks where files are missing or damaged: their rows are found anew. All of it may be
deleted at any time.
"""

import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.errors import NotFound
from tasks.core.step import NAMES, code_digest
from tasks.core.store import Object, Store

MERGED_BYTES = 4 << 20
"""A file of this size is merged no more: what is remembered of a large scan is written once, a thousand rows a file."""

LISTINGS = 200  # of a reader, while others merge: each is there because one of them got further

_NAME = re.compile(r"(?P<shard>\d+)-of-(?P<shards>\d+)-(?P<sha256>[0-9a-f]{32})\.parquet")


@dataclass(frozen=True)
class _File:
    """A file that may hold rows of our shard."""

    key: str
    bytes: int
    shard: int
    shards: int
    sha256: str


class Remembered:
    """The rows that one shard of a step remembers."""

    def __init__(
        self, store: Store, folder: str, schema: pa.Schema, shard: int, shards: int, log: Callable[[str], None]
    ) -> None:
        self.store, self.folder, self.schema, self.log = store, f"remembered/{folder}/", schema, log
        self.shard, self.shards = shard, shards

    def recall(self, identities: pa.Array) -> pa.Table:
        """The remembered rows of these objects, one for each that is known, in no promised order."""
        tables: dict[str, pa.Table] = {}
        for _ in range(LISTINGS):
            # Until one shows nothing more: a listing takes a while, and what is merged meanwhile it may show neither
            # where it was nor where it went.
            unread = [file for file in self._files() if file.key not in tables]
            if not unread:
                break
            for file in unread:
                if (table := self._read(file)) is not None:
                    tables[file.key] = table.filter(pc.is_in(table["identity"], identities))
        return _distinct(pa.concat_tables([self.schema.empty_table(), *tables.values()]))

    def keep(self, rows: pa.Table) -> None:
        """Remember these rows too, and merge files where there are many small ones."""
        if len(rows):
            self._write(rows, self.shard, self.shards)
        self.tidy()

    def tidy(self) -> None:
        """Merge and divide files as the module's docstring says; what another does meanwhile is left to it."""
        mine: list[_File] = []
        merged: list[_File] = []
        size = 0
        for file in self._files():
            if (file.shard, file.shards) == (self.shard, self.shards):
                mine.append(file)
            else:
                self._rewrite([file])
        for file in sorted(mine, key=lambda file: (file.bytes, file.key)):
            if size + file.bytes > MERGED_BYTES or (merged and file.bytes > 2 * size):
                break
            merged.append(file)
            size += file.bytes
        if len(merged) > 1:
            self._rewrite(merged)

    def _files(self) -> list[_File]:
        found = []
        for each in sorted(self.store.list(self.folder), key=lambda each: each.key):
            name = _NAME.fullmatch(each.key.removeprefix(self.folder))
            if name is not None:
                shard, shards = int(name["shard"]), int(name["shards"])
                # Only such files can have a row in common with this shard (Chinese remainder theorem).
                if shards and (shard - self.shard) % math.gcd(shards, self.shards) == 0:
                    found.append(_File(each.key, each.size, shard, shards, name["sha256"]))
        return found

    def _read(self, file: _File) -> pa.Table | None:
        """The file's rows; None where it was removed meanwhile. A damaged one is removed: it is in the way."""
        try:
            data = self.store.get(file.key)
        except NotFound:
            return None
        if hashlib.sha256(data).hexdigest()[:32] == file.sha256:
            table = pq.read_table(io.BytesIO(data))
            if table.schema.equals(self.schema):
                return table.replace_schema_metadata(None)
        self.log(f"{self.store.uri}/{file.key} is damaged; its images are looked at again")
        self.store.delete(file.key)
        return None

    def _rewrite(self, files: list[_File]) -> None:
        """Put the rows of these files into one for each shard, then remove the files."""
        tables = [self._read(file) for file in files]
        read = [table for table in tables if table is not None]
        if len(read) < len(files):
            return  # somebody else is at it; or one was damaged, and the others are left to the next merge
        rows = _distinct(pa.concat_tables(read))
        shards = rows["place"].to_numpy() % np.uint64(self.shards)
        for at in np.unique(shards):
            self._write(rows.filter(pa.array(shards == at)), int(at), self.shards, files)
        self.store.delete_many(file.key for file in files)

    def _write(self, rows: pa.Table, shard: int, shards: int, made_of: Sequence[_File] = ()) -> None:
        rows = rows.sort_by("identity")
        if made_of:
            rows = rows.replace_schema_metadata({"made_of": " ".join(sorted(file.sha256 for file in made_of))})
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        data = buffer.getvalue()
        self.store.create(f"{self.folder}{shard}-of-{shards}-{hashlib.sha256(data).hexdigest()[:32]}.parquet", data)


def _distinct(rows: pa.Table) -> pa.Table:
    """One row of each identity, in order of identity."""
    _, first = np.unique(rows["identity"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return rows.take(pa.array(first))


def outlived(store: Store, before: datetime) -> list[Object]:
    """Files of rows that no run of this code reads, and that other code has not added to since `before`."""
    folders: dict[str, list[Object]] = {}
    for found in store.list("remembered/"):
        folders.setdefault("/".join(found.key.split("/")[:3]), []).append(found)
    return [
        found
        for folder, files in folders.items()
        if max(found.modified for found in files) < before and not _is_current(folder)
        for found in files
    ]


def _is_current(folder: str) -> bool:
    _, step, code, *_ = [*folder.split("/"), "", ""]
    return step in NAMES and code == code_digest(step)


def place_of(keys: Iterable[str]) -> Any:
    """Where keys lie among all, as uint64 [n]: the first 8 bytes of each one's SHA-256."""
    digests = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(digests, ">u8").astype(np.uint64)
