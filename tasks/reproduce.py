"""Is a past run what it says it is? Two answers, for a run of this store.

    gesso verify RUN                      # hashes again each file that the run wrote and each image that it used
    gesso reproduce RUN --into FOLDER     # makes each artifact anew from the run's record, and compares byte for byte

RUN is the run's id, as Airflow shows it. Both print a line for each artifact and end with status 1 where one is not as
it was. `reproduce` works in an empty store, and changes nothing in the other. A data set in a bucket that keeps
versions is seen as it was then; in another it must not have changed since. The same bytes are promised for the same
code and libraries on the same kind of machine; where these differ, the line says so.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tasks.core.artifacts import MANIFEST, Artifact, file_sha256, is_removed, manifests
from tasks.core.champion import Champion, champion_key, move_champion, read_champion
from tasks.core.errors import Archived, DataError, GessoError, Interrupted, NotFound, ParamsError
from tasks.core.ledger import NO_REVIEW
from tasks.core.params import Section
from tasks.core.runs import Record, artifacts_of, find_record, instance_name
from tasks.core.settings import settings
from tasks.core.step import NAMES, code_digest, execute, load
from tasks.core.store import Store, in_threads, open_store

#: So many names stand in a line; the others are counted.
NAMED = 5


@dataclass(frozen=True)
class Line:
    """What is to be said of one artifact, or of the images: `problem` is empty where it is as it was."""

    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name:<28} {'DIFFERENT' if self.problem else 'equal'}  {self.problem}".rstrip()


def main(words: Sequence[str]) -> int:
    """The commands `reproduce` and `verify`; the exit status is 0 where all is as it was."""
    command, *rest = words
    parser = argparse.ArgumentParser(f"gesso {command}", description="See `gesso --help` and docs/backfill.md.")
    parser.add_argument("run", metavar="RUN", help="the run's id")
    parser.add_argument("--dag", default="retrain", help="the DAG that it is a run of (default: %(default)s)")
    parser.add_argument("--store", default=settings().store_uri, help="where its artifacts are (default: %(default)s)")
    if command == "reproduce":
        parser.add_argument("--into", help="empty store for what is made anew (default: below GESSO_HOME)")
    options = parser.parse_args(rest)
    store = open_store(options.store)
    record = find_record(store, options.dag, options.run)
    if not any(record["steps"].get(step) for step in NAMES):
        raise DataError(f"No step of the run {options.run!r} has ended: there is nothing to {command}.")
    if command == "verify":
        lines = verify(store, record)
    else:
        into = open_store(options.into or settings().home.absolute() / "reproduced" / options.run)
        if into.uri == store.uri:
            raise ParamsError("--into names the run's own store: there the artifacts would be found, not made anew.")
        if any(True for _ in into.list()):
            raise ParamsError(
                f"{into.uri} is not empty: what is there would be found, not made anew. Name an empty folder or prefix "
                f"with --into, or remove what an earlier attempt left there."
            )
        print(f"Into {into.uri}", flush=True)
        lines = reproduce(store, record, into)
    different = 0
    for line in lines:
        print(line, flush=True)
        different += bool(line.problem)
    print(f"{different} different." if different else "All as it was.")
    return 1 if different else 0


def verify(store: Store, record: Record) -> Iterator[Line]:
    """Hash again what a run wrote, then the images that it used."""
    for name, artifact in _artifacts(store, record):
        yield Line(name, "it was removed" if artifact is None else _changed_files(artifact))
    snapshot, scans = artifacts_of(store, record, "snapshot"), artifacts_of(store, record, "scan")
    if snapshot and scans:
        yield Line("images of the data set", _changed_images(snapshot[0], scans))


def reproduce(store: Store, record: Record, into: Store) -> Iterator[Line]:
    """Make each artifact of a run anew in another store, in the order of the workflow."""
    anew: dict[str, Artifact] = {}
    for name, artifact in _artifacts(store, record):
        if artifact is None:
            yield Line(name, "it was removed, and so is what it was made from")
            continue
        try:
            with redirect_stdout(_Quiet()):
                made = _make_anew(artifact, record, anew, into)
        except KeyboardInterrupt:
            raise Interrupted(f"It was told to stop. Run again into an empty store: {into.uri} is none now.") from None
        except GessoError as error:
            yield Line(name, f"it can't be made anew: {error}")
            continue
        anew[artifact.key] = with_times_of(artifact, made)
        yield Line(name, compare(artifact, made))


def with_times_of(before: Artifact, after: Artifact) -> Artifact:
    """Give an artifact that was made anew the times of the one before, which the run's report tells."""
    told = {name: before.manifest[name] for name in ("seconds", "made_at", "metrics")}
    after.manifest |= told
    after.store.put(f"{after.folder}/{MANIFEST}", json.dumps(after.manifest, indent=2, ensure_ascii=False).encode())
    return after


def compare(before: Artifact, after: Artifact) -> str:
    """How two artifacts of one step differ, file by file; "" where they don't."""
    then, now = before.manifest["files"], after.manifest["files"]
    names = sorted(
        name for name in {*then, *now} if then.get(name, {}).get("sha256") != now.get(name, {}).get("sha256")
    )
    if not names:
        return ""
    causes = ["by other code"] if before.manifest["code"] != code_digest(before.step) else []
    libraries = {**before.manifest["made_by"]}
    other = sorted(each for each, version in after.manifest["made_by"].items() if libraries.get(each) != version)
    causes += [f"with another {', '.join(other)}"] if other else []
    return f"{_named(names)}{'; made ' + ' and '.join(causes) if causes else ''}"


def _artifacts(store: Store, record: Record) -> Iterator[tuple[str, Artifact | None]]:
    """Each artifact that a run's steps ended with, and its name; None for one that is gone."""
    for step in NAMES:
        for entry in record["steps"].get(step, []):
            alone = {**record, "steps": {step: [entry]}}
            name = f"{step} {instance_name(entry.get('instance', {}))}".rstrip()
            yield name, next(iter(artifacts_of(store, alone, step)), None)


def _make_anew(artifact: Artifact, record: Record, anew: Mapping[str, Artifact], into: Store) -> Artifact:
    """Run an artifact's step again, on inputs that were made anew."""
    uris: dict[str, str | list[str]] = {}
    for name, given in artifact.inputs.items():
        keys = [given] if isinstance(given, str) else given
        if lost := [key for key in keys if key not in anew]:
            raise NotFound(f"its input {name}/{lost[0]} was not made anew.")
        uris[name] = anew[given].uri if isinstance(given, str) else [anew[key].uri for key in keys]
    if "champion" in _observed(artifact):
        _set_champion(artifact, anew, into)
    if artifact.step == "report" and "train" not in artifact.inputs:  # a dry run's tells times by earlier trainings
        _tell_of_trainings(artifact, into)
    return execute(artifact.step, uris, _params(artifact, record), into.uri).artifact


def _params(artifact: Artifact, record: Record) -> Section:
    """The params that an artifact was made with, and what its step saw of the outside world then."""
    kind, params, observed = load(artifact.step).params, artifact.params, _observed(artifact)
    if artifact.step == "snapshot":
        params |= {
            "dataset": observed["dataset"],
            "as_of": _listed_as_of(artifact, record),
        }
    elif artifact.step == "validate":
        params |= {"expectations": str(artifact.path("expectations.yaml"))}
    elif artifact.step == "cluster":
        params |= {"review": str(artifact.path("review.csv")) if artifact.has("review.csv") else NO_REVIEW}
    return kind.of(params)


def _listed_as_of(snapshot: Artifact, record: Record) -> str:
    """The instant that the run listed the data set at: the one it named, or when it looked."""
    named = record["run_type"] in ("scheduled", "backfill") or record["params"].get("as_of")
    looked = datetime.fromisoformat(snapshot.manifest["made_at"]) + timedelta(seconds=1)  # it is noted in whole seconds
    return str(record["as_of"]) if named else looked.isoformat()


def _observed(artifact: Artifact) -> dict[str, Any]:
    """What the artifact's step saw of the outside world."""
    return dict(artifact.manifest["observed"] or {})


def _set_champion(artifact: Artifact, anew: Mapping[str, Artifact], into: Store) -> None:
    """Put the champion that the step saw then into the other store."""
    snapshot = anew[str(artifact.inputs["snapshot"])]
    dataset = str(snapshot.json("snapshot.json")["dataset"])
    seen = _observed(artifact)
    models = [seen["champion"]]  # the one in use, and the one before it
    if seen.get("in_use"):
        models = [artifact.json("decision.json")["candidate"]["model"], *models]
    model, previous, *_ = [f"{artifact.store.uri}/artifacts/train/{key}" if key else None for key in models] + [None]
    if model is None:
        into.delete(champion_key(dataset))
        return
    _, etag = read_champion(into, dataset)
    move_champion(into, dataset, Champion(model, previous, "", withdrawn=seen.get("withdrawn", [])), etag)


def _tell_of_trainings(report: Artifact, into: Store) -> None:
    """Put the manifests of the trainings that the report knew then into the other store."""
    for name, manifest in manifests(report.store, "train"):
        if not is_removed(manifest) and manifest["made_at"] <= report.manifest["made_at"]:
            into.put(name, json.dumps(manifest).encode())


def _changed_files(artifact: Artifact) -> str:
    """Which files of an artifact are gone or not what was committed."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, facts in sorted(artifact.manifest["files"].items()):
            key, copy = artifact.key_of(name), Path(folder) / "file"
            try:
                local = artifact.store.local_path(key)
                if local is None:
                    artifact.store.download(key, copy)
                if file_sha256(local or copy) != facts["sha256"]:
                    wrong.append(f"{name} was changed")
            except (NotFound, FileNotFoundError):
                wrong.append(f"{name} is gone")
    return _named(wrong)


def _changed_images(snapshot: Artifact, scans: Sequence[Artifact]) -> str:
    """Which images of the data set are gone, archived or not what was scanned."""
    import pandas as pd

    data = open_store(str(snapshot.json("snapshot.json")["dataset"]))
    hashes = pd.concat([scan.table("scan.parquet", ["key", "sha256"]) for scan in scans]).set_index("key")["sha256"]
    images = snapshot.table("images.parquet", ["key", "version"]).set_index("key")["version"]
    known = [(str(key), images[str(key)], sha256) for key, sha256 in hashes[hashes != ""].items()]
    found = in_threads(partial(_what_became, data), known, max(data.threads, settings().threads))
    return _named([problem for problem in found if problem])


def _what_became(data: Store, image: tuple[str, Any, str]) -> str:
    key, version, sha256 = image
    try:
        content = data.get(key, version if isinstance(version, str) else None)
    except NotFound:
        return f"{key} is gone"
    except Archived:
        return f"{key} is archived"
    return "" if hashlib.sha256(content).hexdigest() == sha256 else f"{key} was changed"


def _named(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


class _Quiet:
    """Where the steps' progress goes: the lines of the comparison are what counts."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
