"""Artifacts: immutable folders that steps write, addressed by what made them.

    artifacts/<step>/<key>/artifact.json             written last and create-only: the artifact exists whole or not
                                                     (later only `use.py` writes it: used_at, removed_at)
    artifacts/<step>/<key>/<attempt>/<file>          what artifact.json lists, with size and SHA-256

The key is a SHA-256 over the step's name, its code, its params, its inputs' keys and what it observed of the outside
world. The same key means the same content, so a rerun, a retry and a backfill find the work done.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.settings import settings
from tasks.core.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "artifact.json"
ROW_GROUP = 131_072  # rows of a table that a reader holds in memory at once, at least

#: How long a copy of a remote artifact's file is kept after it was last used.
KEPT_DAYS = 7

#: What a line of a step's progress begins with, so that it can be told from what libraries print.
PROGRESS = "gesso | "

#: A metric is what fits a log line and a table cell.
Metric = int | float | str | bool | None


def canonical(value: Any) -> bytes:
    """The value as JSON with one spelling: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def artifact_key(step: str, code: str, params: Mapping[str, Any], inputs: Mapping[str, Any], observed: Any) -> str:
    """The key of what `step` makes of this: the first 32 hex digits of a SHA-256."""
    made_of = {"step": step, "code": code, "params": params, "inputs": inputs, "observed": observed}
    return hashlib.sha256(canonical(made_of)).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifests(store: Store, step: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key in the store, and content, of the manifest of each artifact of a step; damaged ones are left out."""
    names = [found.key for found in store.list(f"artifacts/{step}/") if found.key.endswith(f"/{MANIFEST}")]
    for name, data in store.get_many(names):
        with suppress(ValueError):
            if isinstance(manifest := json.loads(data), dict):
                yield name, manifest


def is_removed(manifest: Mapping[str, Any]) -> bool:
    """Whether what is in artifact.json is the note of a removal."""
    return "removed_at" in manifest


class Artifact:
    """A committed artifact, to read from.

    `manifest` is artifact.json: step, key, code, params, inputs, observed, metrics, seconds, made_at, files.
    """

    def __init__(self, store: Store, manifest: dict[str, Any]) -> None:
        self.store = store
        self.manifest = manifest
        self._verified: set[str] = set()

    @classmethod
    def find(cls, store: Store, step: str, key: str) -> Self | None:
        """The artifact with this key, or None where no commit of it exists.

        Raises:
            DataError: its artifact.json was damaged.
        """
        try:
            manifest = json.loads(store.get(f"artifacts/{step}/{key}/{MANIFEST}"))
        except NotFound:
            return None
        except ValueError as error:
            raise DataError(
                f"{store.uri}/artifacts/{step}/{key}/{MANIFEST} can't be read ({error}). Delete it and run again: the "
                f"step makes its artifact anew."
            ) from None
        return None if is_removed(manifest) else cls(store, manifest)

    @classmethod
    def open(cls, uri: str) -> Self:
        """The artifact at `<store>/artifacts/<step>/<key>`.

        Raises:
            ParamsError: the URI is not an artifact's.
            NotFound: nothing was committed there.
        """
        root, _, rest = uri.rstrip("/").removesuffix("/" + MANIFEST).rpartition("/artifacts/")
        step, _, key = rest.partition("/")
        if not root or not key or "/" in key:
            raise ParamsError(f"{uri!r} is not an artifact's URI: expected <store>/artifacts/<step>/<key>.")
        found = cls.find(open_store(root), step, key)
        if found is None:
            raise NotFound(f"There is no artifact at {uri}: its step has not finished, or it was removed.")
        return found

    @classmethod
    def reopen(cls, store: Store, uri: str) -> Self:
        """The artifact at a URI; in `store` where it is there, which may have been moved since the URI was written.

        Raises:
            ParamsError, NotFound: as `open`.
        """
        step, _, key = uri.rstrip("/").rpartition("/artifacts/")[2].partition("/")
        return (cls.find(store, step, key) if step and key and "/" not in key else None) or cls.open(uri)

    def __repr__(self) -> str:
        return f"Artifact({self.uri!r})"

    @property
    def step(self) -> str:
        """Name of the step that made it."""
        return str(self.manifest["step"])

    @property
    def key(self) -> str:
        """What addresses it."""
        return str(self.manifest["key"])

    @property
    def folder(self) -> str:
        """Where it is in its store."""
        return f"artifacts/{self.step}/{self.key}"

    @property
    def uri(self) -> str:
        """Where it is; `Artifact.open` reads it again from this."""
        return f"{self.store.uri}/{self.folder}"

    @property
    def params(self) -> dict[str, Any]:
        """The params that shaped it."""
        return dict(self.manifest["params"])

    @property
    def inputs(self) -> dict[str, Any]:
        """Key, or list of keys, of each input artifact."""
        return dict(self.manifest["inputs"])

    def made_of(self, name: str) -> "Artifact":
        """The input artifact of this name.

        Raises:
            NotFound: it is gone.
        """
        key = str(self.inputs[name])
        found = Artifact.find(self.store, name, key)
        if found is None:
            raise NotFound(f"{self.uri} was made of {name}/{key}, which is gone.")
        return found

    @property
    def metrics(self) -> dict[str, Metric]:
        """The step's summary of its work."""
        return dict(self.manifest["metrics"])

    @property
    def seconds(self) -> float:
        """How long the step worked on it."""
        return float(self.manifest["seconds"])

    def names(self) -> list[str]:
        """Names of its files, sorted."""
        return sorted(self.manifest["files"])

    def has(self, name: str) -> bool:
        """Whether it holds this file."""
        return name in self.manifest["files"]

    def key_of(self, name: str) -> str:
        """Where a file is in the store.

        Raises:
            DataError: the artifact has no such file.
        """
        if not self.has(name):
            raise DataError(f"The artifact {self.uri} has no file {name!r}. It has: {', '.join(self.names())}.")
        return f"{self.folder}/{self.manifest['files'][name]['path']}"

    def path(self, name: str) -> Path:
        """A local copy of a file, its content checked against the SHA-256 it was committed with.

        Raises:
            DataError: no such file, or its content is not what was committed.
        """
        key, facts = self.key_of(name), self.manifest["files"][name]
        in_store = self.store.local_path(key)
        local = in_store or copies_folder() / f"{facts['sha256']}{Path(name).suffix}"
        if name not in self._verified or not local.exists():
            whole = _is_as_committed(local, facts)
            if not whole and in_store is None:  # not here yet, or damaged here
                local.unlink(missing_ok=True)
                with suppress(NotFound):
                    self.store.download(key, local)
                whole = _is_as_committed(local, facts)
            if not whole:
                if in_store is None:
                    local.unlink(missing_ok=True)
                raise DataError(
                    f"{name} in {self.uri} is missing or was changed after its commit. "
                    f"Delete that artifact's folder, if it is there, and run again: the step makes it anew."
                )
            self._verified.add(name)
        if in_store is None:
            _note_use(local)
        return local

    def directory(self, name: str) -> Path:
        """A local copy of the files below a name, in one folder, each checked as `path` checks it.

        Raises:
            DataError: there is no file below it, or one is not what was committed.
        """
        names = [each for each in self.names() if each.startswith(f"{name}/")]
        if not names:
            raise DataError(f"The artifact {self.uri} has no files below {name}/. It has: {', '.join(self.names())}.")
        paths = [self.path(each) for each in names]
        if self.store.local_path(self.key_of(names[0])) is not None:
            return paths[0].parents[names[0].count("/") - name.count("/") - 1]
        folder = copies_folder() / f"{self.key}-{name.replace('/', '-')}"
        for each, path in zip(names, paths, strict=True):
            target = folder / each.removeprefix(f"{name}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not _is_as_committed(target, self.manifest["files"][each]):
                partial = target.with_name(f"{target.name}.{os.getpid()}")
                shutil.copyfile(path, partial)
                partial.replace(target)
        _note_use(folder)
        return folder

    def table(self, name: str, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """A Parquet file as a frame; only some columns where they are named."""
        import pandas as pd

        return pd.read_parquet(self.path(name), columns=None if columns is None else list(columns))

    def json(self, name: str) -> Any:
        """A JSON file's value."""
        return json.loads(self.path(name).read_bytes())

    def is_whole(self) -> bool:
        """Whether every file is still there with its size (contents are checked when they are read)."""
        if is_removed(self.manifest):
            return False
        there = {found.key: found.size for found in self.store.list(self.folder + "/")}
        return all(there.get(f"{self.folder}/{facts['path']}") == facts["size"] for facts in self._files())

    def _files(self) -> Iterator[dict[str, Any]]:
        yield from self.manifest["files"].values()


def copies_folder() -> Path:
    """Where copies of remote artifacts' files are kept, for whoever reads them next."""
    return settings().scratch_folder / "copies"


def forget_copies() -> None:
    """Delete the copies that nobody has used for `KEPT_DAYS`."""
    before = time.time() - KEPT_DAYS * 24 * 3600
    for copy in copies_folder().glob("*"):
        with suppress(OSError):  # another process was quicker
            if copy.stat().st_mtime < before:
                shutil.rmtree(copy) if copy.is_dir() else copy.unlink()


def _note_use(copy: Path) -> None:
    with suppress(OSError):  # another user's
        os.utime(copy)


def _is_as_committed(file: Path, facts: Mapping[str, Any]) -> bool:
    return file.exists() and file.stat().st_size == facts["size"] and file_sha256(file) == facts["sha256"]


@dataclass(frozen=True)
class Inputs:
    """The artifacts that a step reads, by the names in its INPUTS."""

    artifacts: Mapping[str, Sequence[Artifact]]

    def has(self, name: str) -> bool:
        """Whether this input was given: some may be missing."""
        return name in self.artifacts

    def one(self, name: str) -> Artifact:
        """The artifact of this name."""
        (artifact,) = self.artifacts[name]
        return artifact

    def many(self, name: str) -> list[Artifact]:
        """The artifacts of this name: one for each mapped task."""
        return list(self.artifacts[name])


@dataclass
class Output:
    """What a step writes to: a local folder that becomes the artifact when the step is done.

    `checkpoint` is where a long step keeps its state meanwhile. `shared` are the files that another artifact of the
    store holds already, and which of its files each is. `passing` is what the step met that may be otherwise in a
    minute: it becomes part of the artifact's key, so that the next run looks again.
    """

    folder: Path
    store: Store
    checkpoint: Checkpoint
    observed: Any = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    shared: dict[str, tuple[Artifact, str]] = field(default_factory=dict)
    passing: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The local path at which to write a file of the artifact; its folder is made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Write a frame as Parquet."""
        frame.to_parquet(self.path(name), index=False, compression="zstd", row_group_size=ROW_GROUP)

    def json(self, name: str, value: Any) -> None:
        """Write a value as readable JSON."""
        self.text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def text(self, name: str, text: str) -> None:
        """Write a text as UTF-8."""
        self.path(name).write_text(text, encoding="utf-8", errors="surrogateescape")

    def log(self, message: str) -> None:
        """Print one line of progress."""
        print(PROGRESS + message, flush=True)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name and path of each file written so far, in order of name."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.folder).as_posix(), path
