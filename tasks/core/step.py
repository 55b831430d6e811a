"""Running a step: find its artifact, or make and commit it.

A step is a module `tasks.<name>` with

    INPUTS = ("snapshot", "scan*", "promote?")         # input artifacts; "*": a list of them, "?": may be missing
    Params = params.ClusterParams                      # the params it reads
    RESOURCES = ("templates/report.html",)             # optional: files beside the code that shape its output
    def run(inputs, params, out): ...                  # writes files to `out`
    def observe(inputs, params, out): ...              # optional: what it sees of the outside world, see below
    def reuse(inputs, params, out, found): ...         # optional: what it does besides, where its artifact is there

`observe` is for the few steps that depend on more than artifacts and params: the bucket's listing, the champion, a
file a person edits. It returns (facts for the key, anything for `run` as `out.observed`).
"""

import ast
import contextlib
import errno
import fcntl
import hashlib
import importlib
import inspect
import itertools
import json
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.core.artifacts import MANIFEST, Artifact, Inputs, Output, artifact_key, file_sha256, forget_copies
from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import GessoError, NotFound, ParamsError, StoreError
from tasks.core.params import Section
from tasks.core.settings import settings
from tasks.core.store import Store, open_store
from tasks.core.use import hold

#: The steps, in the order of the workflow.
NAMES = (
    "snapshot", "scan", "validate", "eda", "cluster", "drift", "resample", "pack", "train", "evaluate", "promote",
    "report",
)  # fmt: skip

#: Libraries whose versions are noted in each artifact: the ones that can change a number.
LIBRARIES = (
    "fastcluster",
    "jax",
    "keras",
    "numba",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "scikit-learn",
    "simplejpeg",
    "tensorflow",
)

ROOT = Path(__file__).parents[1]

#: CPython 3.11's parser now and then fails in threads that enter it at once ("recursion depth mismatch").
PARSING = threading.Lock()


@dataclass(frozen=True)
class Step:
    """A step's module, as the framework sees it."""

    name: str
    doc: str
    inputs: tuple[str, ...]
    params: type[Section]
    run: Callable[[Inputs, Any, Output], None]
    observe: Callable[[Inputs, Any, Output], tuple[Any, Any]]
    reuse: Callable[[Inputs, Any, Output, Artifact], None]


@dataclass(frozen=True)
class Result:
    """A step's artifact, and whether it was there already."""

    artifact: Artifact
    reused: bool


def _nothing(inputs: Inputs, params: Any, out: Output) -> tuple[None, None]:
    return None, None


def _as_it_is(inputs: Inputs, params: Any, out: Output, found: Artifact) -> None:
    """Most steps do nothing beside writing their artifact."""


def load(name: str) -> Step:
    """The step of this name.

    Raises:
        ParamsError: there is no such step.
    """
    if name not in NAMES:
        raise ParamsError(f"There is no step {name!r}. There are: {', '.join(NAMES)}.")
    module = importlib.import_module(f"tasks.{name}")
    return Step(
        name,
        inspect.cleandoc(module.__doc__ or ""),
        tuple(module.INPUTS),
        module.Params,
        module.run,
        getattr(module, "observe", _nothing),
        getattr(module, "reuse", _as_it_is),
    )


def _source(module: str) -> Path | None:
    """The file of a module of Gesso's work, other than the plumbing in `core`, which never changes a result."""
    parts = module.split(".")
    if parts[0] != "tasks" or parts[1:2] == ["core"] or len(parts) == 1:
        return None
    path = ROOT.joinpath(*parts[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                line
                for line in body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and line.value.value)
            ]
    return ast.dump(tree)


@cache
def code_digest(name: str) -> str:
    """A digest of all code that shapes a step's output: its module, what it imports of Gesso, its resources.

    Comments, docstrings and layout don't count, and neither does `tasks.core`. So a changed helper makes the step's
    artifacts anew, and a better comment doesn't.
    """
    digests: dict[str, str] = {}
    waiting = [f"tasks.{name}"]
    while waiting:
        module = waiting.pop()
        file = _source(module)
        if file is None or module in digests:
            continue
        with PARSING:
            tree = ast.parse(file.read_bytes())
        waiting.extend(_imports(tree))
        digests[module] = hashlib.sha256(_without_docstrings(tree).encode()).hexdigest()
    for resource in getattr(importlib.import_module(f"tasks.{name}"), "RESOURCES", ()):
        digests[resource] = file_sha256(ROOT / resource)
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]


def open_inputs(step: Step, uris: Mapping[str, str | Sequence[str]]) -> Inputs:
    """The step's input artifacts, opened.

    Raises:
        ParamsError: an input is missing, unknown, made by another step, or one too many.
        NotFound: an artifact is not there.
    """
    wanted = {name.rstrip("*?"): "*" in name for name in step.inputs}
    optional = {name.rstrip("*?") for name in step.inputs if name.endswith("?")}
    for name in sorted((set(uris) ^ set(wanted)) - (optional - set(uris))):
        problem = "is missing" if name in wanted else "is not one of its inputs"
        raise ParamsError(f"{step.name}: {name!r} {problem}. Its inputs: {', '.join(wanted) or 'none'}.")
    opened: dict[str, list[Artifact]] = {}
    for name, many in wanted.items():
        if name not in uris:
            continue
        given = uris[name]
        artifacts = [Artifact.open(uri) for uri in ([given] if isinstance(given, str) else given)]
        if not artifacts or (len(artifacts) > 1 and not many):
            raise ParamsError(f"{step.name}: {name!r} needs {'at least one' if many else 'one'} artifact.")
        for artifact in artifacts:
            if artifact.step != name:
                raise ParamsError(f"{step.name}: {artifact.uri} was made by {artifact.step!r}, not by {name!r}.")
        # The order in which mapped tasks finished must not change the key.
        opened[name] = sorted(artifacts, key=lambda artifact: artifact.key)
    return Inputs(opened)


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A private folder for unfinished work, removed afterwards; what killed processes left, and copies that nobody
    used for days, are swept first."""
    root = settings().scratch_folder / "work"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob("*.lock"):
            with left.open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its process is alive
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
        forget_copies()
        folder = root / f"{name}-{uuid.uuid4().hex[:8]}"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(
                f"The disk that holds {root} is full. Nothing was lost; make room, or set GESSO_SCRATCH to a larger "
                f"disk, and run again."
            ) from error
        raise


def _made_of(step: Step, inputs: Inputs, params: Section, observed: Any) -> dict[str, Any]:
    """What addresses the artifact that a step makes of this."""
    return {
        "params": params.for_key(),
        "inputs": {
            given: [artifact.key for artifact in inputs.many(given)]
            if {f"{given}*", f"{given}*?"} & set(step.inputs)
            else inputs.one(given).key
            for given in inputs.artifacts
        },
        "observed": observed,
        "code": code_digest(step.name),
    }


def expected_key(name: str, inputs: Mapping[str, str | Sequence[str]], params: Section) -> str:
    """The key that the step's artifact will have, for a step that observes nothing of the outside world.

    Raises:
        ParamsError: the step does observe something; an input is missing, unknown or made by another step.
        NotFound: an input artifact is not there.
    """
    step = load(name)
    if step.observe is not _nothing:
        raise ParamsError(f"The key of {name}'s artifact is known only when it runs: it looks at the outside world.")
    return artifact_key(name, **_made_of(step, open_inputs(step, inputs), params, None))


def find_whole(store: Store, name: str, key: str) -> Artifact | None:
    """The artifact of this key, if it was committed and none of its files was lost since."""
    found = Artifact.find(store, name, key)
    return found if found is not None and found.is_whole() else None


def execute(
    name: str,
    inputs: Mapping[str, str | Sequence[str]],
    params: Section,
    store_uri: str,
    expect_key: str | None = None,
) -> Result:
    """Run a step unless its artifact is there already.

    Args:
        name: the step.
        inputs: URI, or URIs, of each input artifact.
        params: the step's section.
        store_uri: where its artifact goes.
        expect_key: the key that whoever asked for the step waits for.

    Raises:
        GessoError: what was wrong and what to do. What the step had written by then is kept below `failed/`.
    """
    step, store, started = load(name), open_store(store_uri), time.monotonic()
    opened = open_inputs(step, inputs)
    for artifact in itertools.chain.from_iterable(opened.artifacts.values()):
        if not hold(artifact):
            raise NotFound(f"{artifact.uri} was removed meanwhile. Run again: the step {artifact.step} makes it anew.")
    with scratch(name) as folder:
        out = Output(folder, store, Checkpoint(store, name))
        observed, out.observed = step.observe(opened, params, out)
        made_of = _made_of(step, opened, params, observed)
        key = artifact_key(name, **made_of)
        if expect_key not in (None, key):
            raise ParamsError(
                f"{name} is asked for the artifact {expect_key}, but this code makes {key}: it is another version of "
                f"Gesso than the one that asked. Build the images anew from one commit (`make images`)."
            )
        found = find_whole(store, name, key)
        if found is not None and hold(found):
            step.reuse(opened, params, out, found)
            return Result(found, reused=True)
        store.check()
        out.checkpoint.key = key
        try:
            step.run(opened, params, out)
        except GessoError as error:
            raise type(error)(_with_evidence(str(error), store, f"failed/{name}/{key}", out)) from error
        if out.passing:
            made_of["observed"] = {**(observed or {}), **out.passing}
        manifest = {
            "step": name,
            "key": artifact_key(name, **made_of),
            **made_of,
            "metrics": out.metrics,
            "seconds": round(time.monotonic() - started, 3),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": {"python": platform.python_version()} | _versions(),
        }
        made = commit(store, manifest, out)
        out.checkpoint.remove()
        return Result(made, reused=False)


def _versions() -> dict[str, str]:
    """Versions of the libraries that are installed here: an image holds only what its steps need."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit(store: Store, manifest: dict[str, Any], out: Output) -> Artifact:
    """Move a step's files into the store, then write artifact.json, which makes them an artifact.

    Where another process committed the same key meanwhile, its artifact is returned. Where one is there but lost
    files, it is replaced.
    """
    folder, attempt = f"artifacts/{manifest['step']}/{manifest['key']}", uuid.uuid4().hex[:8]
    files = {name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for name, path in out.files()}
    files |= {name: artifact.manifest["files"][its] for name, (artifact, its) in out.shared.items()}
    manifest["files"] = {name: facts | {"path": f"{attempt}/{name}"} for name, facts in sorted(files.items())}
    store.upload_many((path, f"{folder}/{attempt}/{name}") for name, path in list(out.files()))
    shared = out.shared.items()
    store.copy_many((artifact.key_of(its), f"{folder}/{attempt}/{name}") for name, (artifact, its) in shared)
    data = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
    while not store.create(f"{folder}/{MANIFEST}", data):
        written, etag = store.get_with_etag(f"{folder}/{MANIFEST}")
        winner = Artifact(store, json.loads(written))
        if winner.is_whole():
            store.delete_many(f"{folder}/{attempt}/{name}" for name in manifest["files"])
            return winner
        if store.replace(f"{folder}/{MANIFEST}", data, etag):
            break
    return Artifact(store, manifest)


def _with_evidence(message: str, store: Store, folder: str, out: Output) -> str:
    """Keep what a failed step wrote, for a person to look at, and say where."""
    files = list(out.files())
    store.upload_many((path, f"{folder}/{name}") for name, path in files)
    names = [name for name, _ in files]
    return f"{message} What it found is kept in {store.uri}/{folder}: {', '.join(names)}." if names else message
