"""Remove what no run needs any more: the artifact store's garbage collection.

Says what it would remove; with --delete it removes it. Nothing younger than --days is touched.

    gesso gc                                  # what, how many, bytes
    gesso gc --verbose                        # and each of them by name
    gesso gc --days 90 --delete

It removes artifacts that neither a run's record, nor a champion (nor the one before it), nor a young artifact was made
of, however indirectly; files that no artifact lists; the evidence of failed steps; checkpoints of trainings that did
not go on; rows that the scan of another Gesso remembers; and what killed writers left. Records and champions stay:
delete `runs/<dag>/<run>.json` to give up a run's artifacts. It may run beside runs, and beside itself: the
artifact.json of a removed artifact stays, as a line that says when it was removed. In a bucket that keeps versions, the
bytes go when its lifecycle rule drops old versions.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from typing import Any

from tasks.core.artifacts import MANIFEST, is_removed
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.objects import in_threads
from tasks.core.remembered import outlived
from tasks.core.settings import settings
from tasks.core.store import Object, Store, open_store
from tasks.core.use import last_used, mark_removed

#: Step and key of an artifact.
Address = tuple[str, str]

#: An artifact's URI inside a record; whatever store it names, that artifact of this store is kept.
MENTIONED = re.compile(r"artifacts/([\w-]+)/([\w-]+)")


@dataclass
class Committed:
    """An artifact of the store."""

    manifest: dict[str, Any]
    etag: str  # of artifact.json when it was looked at
    files: list[Object]  # those of its files that are there
    used: datetime

    @property
    def inputs(self) -> set[Address]:
        """What it was made of."""
        given = self.manifest["inputs"].items()
        return {(step, key) for step, keys in given for key in ([keys] if isinstance(keys, str) else keys)}


@dataclass
class Garbage:
    """What may go."""

    artifacts: dict[Address, Committed] = field(default_factory=dict)
    orphans: list[Object] = field(default_factory=list)
    failed: list[Object] = field(default_factory=list)
    checkpoints: list[Object] = field(default_factory=list)
    remembered: list[Object] = field(default_factory=list)
    leftovers: list[Object] = field(default_factory=list)

    def kinds(self) -> dict[str, tuple[int, list[Object]]]:
        """How many and which objects, by what they are called."""
        artifacts = [found for artifact in self.artifacts.values() for found in artifact.files]
        return {
            "artifacts": (len(self.artifacts), artifacts),
            "files of no artifact": (len(self.orphans), self.orphans),
            "files of failed steps": (len(self.failed), self.failed),
            "checkpoints": (len(self.checkpoints), self.checkpoints),
            "rows of other code": (len(self.remembered), self.remembered),
            "unfinished writes": (len(self.leftovers), self.leftovers),
        }


def main(words: list[str]) -> int:
    """Run the tool with these command-line words; 0.

    Raises:
        ParamsError: an option that can't be used.
        NotFound: there is no store.
        DataError: a record, a champion or an artifact.json can't be read, so that nothing is known to be garbage.
        StoreError: the store can't be reached, or is not fit for it.
    """
    parser = argparse.ArgumentParser(
        "gesso gc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delete", action="store_true", help="remove it, instead of saying what would be removed")
    parser.add_argument("--days", type=int, default=30, metavar="N", help="keep what is younger (default: %(default)s)")
    parser.add_argument("--store", default=settings().store_uri, help="where artifacts are (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="list the objects")
    options = parser.parse_args(words)
    if options.days < 1:
        raise ParamsError(
            f"--days {options.days}: expected 1 or more, so that no run that goes on loses its artifacts."
        )
    try:
        before = datetime.now(UTC) - timedelta(days=options.days)
    except OverflowError:
        raise ParamsError(f"--days {options.days}: expected fewer: that is before the year 1.") from None
    store = open_store(options.store)
    root = store.local_path("")
    if root is not None and not root.is_dir():
        raise NotFound(f"There is no store at {store.uri}: expected a folder. Name it with --store, or GESSO_STORE.")

    garbage = find(store, before)
    if options.delete:
        garbage = remove(store, garbage)
    for line in _lines(garbage, options.verbose):
        print(line)
    age = f"older than {options.days} days"
    if options.delete:
        print(f"Removed from {store.uri}: what no run needs and is {age}.", file=sys.stderr)
    else:
        print(
            f"Nothing was removed. --delete would remove what is listed here from {store.uri}; all of it is {age}.",
            file=sys.stderr,
        )
    return 0


def find(store: Store, before: datetime) -> Garbage:
    """What no run needs and was neither written nor used since `before`.

    Raises:
        DataError: a record, a champion or an artifact.json can't be read.
    """
    artifacts, orphans = _artifacts(store)
    # Records are read after the artifacts: what a run takes up from now on, `remove` finds changed.
    needed = _mentioned(store) | {address for address, found in artifacts.items() if found.used >= before}
    needed = _with_inputs(needed, artifacts)
    return Garbage(
        {address: found for address, found in artifacts.items() if address not in needed},
        _old(orphans, before),
        _old(store.list("failed/"), before),
        _old(store.list("checkpoints/"), before),
        outlived(store, before),
        _old(store.leftovers(), before),
    )


def remove(store: Store, garbage: Garbage) -> Garbage:
    """Remove it, and return what this call removed: what a run took up meanwhile stays, and what it was made of too."""
    removed: dict[Address, Committed] = {}
    kept: set[Address] = set()
    artifacts = garbage.artifacts
    makers = {address: found.inputs & set(artifacts) for address, found in artifacts.items()}
    for address in reversed([*TopologicalSorter(makers).static_order()]):  # what was made first, then of what
        if address not in kept and mark_removed(store, *address, artifacts[address].etag):
            removed[address] = artifacts[address]
        else:
            kept |= {address} | makers[address]
    files = [found for artifact in removed.values() for found in artifact.files]
    others = [*garbage.orphans, *garbage.failed, *garbage.checkpoints, *garbage.remembered]
    store.delete_many(found.key for found in [*files, *others])
    for leftover in garbage.leftovers:
        store.remove_leftover(leftover)
    return replace(garbage, artifacts=removed)


def _artifacts(store: Store) -> tuple[dict[Address, Committed], list[Object]]:
    """The store's artifacts, and the files below `artifacts/` that belong to none."""
    folders: dict[Address, dict[str, Object]] = {}
    for found in store.list("artifacts/"):
        match found.key.split("/", 3):
            case _, step, key, path:
                folders.setdefault((step, key), {})[path] = found
    committed = {address: objects for address, objects in folders.items() if MANIFEST in objects}
    artifacts: dict[Address, Committed] = {}
    orphans = [found for address in set(folders) - set(committed) for found in folders[address].values()]
    for address, manifest in zip(committed, _manifests(store, committed), strict=True):
        objects = committed[address]
        if manifest is None:  # removed since it was listed
            continue
        content, etag = manifest
        if is_removed(content):
            objects.pop(MANIFEST)
            orphans += objects.values()
            continue
        listed, mine = objects.pop(MANIFEST), {facts["path"] for facts in content["files"].values()}
        used = max(last_used(content), listed.modified)
        files = [found for path, found in objects.items() if path in mine]
        artifacts[address] = Committed(content, etag, files, used)
        orphans += [found for path, found in objects.items() if path not in mine]
    return artifacts, orphans


def _manifests(store: Store, addresses: Iterable[Address]) -> Iterator[tuple[dict[str, Any], str] | None]:
    def read(address: Address) -> tuple[dict[str, Any], str] | None:
        key = f"artifacts/{'/'.join(address)}/{MANIFEST}"
        try:
            data, etag = store.get_with_etag(key)
        except NotFound:
            return None
        try:
            manifest = json.loads(data)
            if is_removed(manifest):
                return manifest, etag
            last_used(manifest), manifest["inputs"].items(), manifest["files"].values()
            return manifest, etag
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            folder = key.removesuffix(f"/{MANIFEST}")
            raise DataError(
                f"{store.uri}/{key} can't be read ({type(error).__name__}: {error}), so nothing was removed: what it "
                f"was made of is not known. Delete the folder {folder}, whose step then makes it anew, and run again."
            ) from None

    return in_threads(read, addresses, store.threads)


def _mentioned(store: Store) -> set[Address]:
    """The artifacts that records of runs and champions name."""
    found: set[Address] = set()
    keys = sorted(found.key for found in store.list_many(["runs/", "champions/"]) if found.key.endswith(".json"))
    for key, data in store.get_many(keys):
        try:
            text = data.decode()
            json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{store.uri}/{key} can't be read ({error}), so nothing was removed: which artifacts it needs is not "
                f"known. Mend it, or delete it to give them up, and run again."
            ) from None
        found |= {(step, name) for step, name in MENTIONED.findall(text)}
    return found


def _with_inputs(needed: set[Address], artifacts: dict[Address, Committed]) -> set[Address]:
    """These artifacts and all that they were made of."""
    reached: set[Address] = set()
    waiting = list(needed)
    while waiting:
        address = waiting.pop()
        if address not in reached:
            reached.add(address)
            waiting += artifacts[address].inputs if address in artifacts else ()
    return reached


def _old(objects: Iterable[Object], before: datetime) -> list[Object]:
    return [found for found in objects if found.modified < before]


def _lines(garbage: Garbage, verbose: bool) -> Iterator[str]:
    kinds = garbage.kinds()
    rows = [(what, f"{count:,}", _bytes(objects)) for what, (count, objects) in kinds.items()]
    everything = [found for _, objects in kinds.values() for found in objects]
    rows.append(("all", f"{sum(count for count, _ in kinds.values()):,}", _bytes(everything)))
    for what, count, size in [("what", "how many", "bytes"), *rows]:
        yield f"{what:<22} {count:>10} {size:>18}"
    if verbose:
        for what, (_, objects) in kinds.items():
            for found in sorted(objects, key=lambda found: found.key):
                key = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in found.key)
                yield f"{what}: {key}  {found.modified:%F}  {found.size:,}"


def _bytes(objects: Sequence[Object]) -> str:
    return f"{sum(found.size for found in objects):,}"
