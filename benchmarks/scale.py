"""A run over a million images without their pixels: time, memory and files of each step.

    make bench-scale

A bucket of --rows (1,000,000) keys in 20 classes is made up, as are the scan's rows of them: hashes, of which a
hundredth is there twice, sizes, colours, and features that are resampled from drawn pictures with noise. `snapshot`,
`validate`, `eda`, `cluster` and `resample` then run as they are, each in a process of its own; only the pack is left
out. Besides, what the steps are made of: comparing two snapshots, grouping near duplicates, and reading back the rows
of one shard (100,000 images) that an earlier scan remembered. Prints a table and ends with one line of JSON: seconds
and the most memory [GB] of each. docs/scale.md is reckoned with these numbers.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.artifacts import Artifact, Output
from tasks.core.checkpoint import Checkpoint
from tasks.core.objects import Object
from tasks.core.step import commit, execute, load
from tasks.core.store import open_store

CLASSES, SHARD = 20, 100_000


class MadeUp:
    """A bucket that holds nothing but a listing; a later one has a hundredth more."""

    uri = "s3://made-up"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def local_path(self, key: str) -> None:
        """It is no folder."""

    def list_as_of(self, prefix: str, when: datetime) -> None:
        """It keeps no versions."""

    def list(self, prefix: str = "", broken_links: bool = False) -> Iterator[Object]:
        """Keys in the order of a bucket's listing."""
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for number in range(self.rows):
            etag = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
            key = f"class_{number % CLASSES:02}/pictures/{etag[:12]}-{number:07}.jpg"
            yield Object(key, 150_000 + number % 9973, etag, start + timedelta(seconds=number))


def by_hand(store: str, step: str, key: str, write: Callable[[Output], None], **inputs: Any) -> str:
    """Commit what `write` writes as an artifact of a step; its URI."""
    with tempfile.TemporaryDirectory() as folder:
        out = Output(Path(folder), open_store(store), Checkpoint(open_store(store), step))
        write(out)
        manifest = {
            "step": step, "key": key * 32, "params": {}, "inputs": inputs, "observed": None, "code": "", "seconds": 0,
            "metrics": out.metrics, "made_at": datetime.now(UTC).isoformat(), "made_by": {},
        }  # fmt: skip
        return commit(out.store, manifest, out).uri


def snapshot(store: str, rows: int) -> str:
    """The step on the bucket that was made up."""
    from tasks import snapshot as module

    module._open = lambda _: MadeUp(rows)  # type: ignore[assignment, return-value]
    return execute("snapshot", {}, load("snapshot").params.of({"dataset": MadeUp.uri}), store).artifact.uri


def scan_by_hand(store: str, snapshot: str) -> str:
    """What a scan of the images might have found; not timed."""
    from benchmarks.separation_scale import drawn, resampled

    images = Artifact.open(snapshot).table("images.parquet")
    rows, random = len(images), np.random.default_rng(0)
    content = np.where(random.random(rows) < 0.01, random.integers(0, rows, rows), np.arange(rows))
    hashes = random.integers(0, 2**63, rows, np.uint64)[content]
    values, names, _ = resampled(drawn(), rows, CLASSES)
    sides = random.integers(300, 2000, (2, rows))
    seen = {
        "status": "ok", "error": "", "note": "", "width": sides[0], "height": sides[1], "format": "jpeg", "mode": "RGB",
        "frames": 1, "orientation": 1, "has_alpha": False,
        "sha256": [hashlib.sha256(b"%d" % each).hexdigest() for each in content],
        "phash": [f"{each:016x}" for each in hashes], "brightness": random.normal(200, 30, rows),
        "sharpness": random.lognormal(5, 1, rows), "hue": random.uniform(0, 360, rows),
        "lightness": random.uniform(0, 1, rows), "saturation": random.uniform(0, 1, rows),
    }  # fmt: skip

    def write(out: Output) -> None:
        from tasks.scan import BATCH, COLUMNS
        from tasks.vision.images import thumbnail_jpeg

        out.table("scan.parquet", images.assign(**seen).astype(COLUMNS))
        features = pd.DataFrame(values, columns=names)
        features.insert(0, "key", images["key"])
        # In groups of as many rows as the scan writes: how much a reader holds depends on them.
        features.to_parquet(out.path("features.parquet"), index=False, compression="zstd", row_group_size=BATCH)
        jpeg = thumbnail_jpeg(np.full((112, 112, 3), 200, np.uint8), 112)
        table = pa.table({"key": pa.array(images["key"], pa.string()), "jpeg": pa.array([jpeg] * rows)})
        pq.write_table(table, out.path("thumbnails.parquet"), row_group_size=BATCH)

    return by_hand(store, "scan", "a", write, snapshot=snapshot.rpartition("/")[2])


def one_step(store: str, name: str, inputs: dict[str, str], **given: object) -> str:
    """Run a step; its artifact's URI."""
    return execute(name, inputs, load(name).params.of(given), store).artifact.uri


def compare(before: str, after: str) -> str:
    """Two snapshots, compared."""
    from tasks.new_images import difference

    return str(difference(Artifact.open(before), Artifact.open(after)))


def group(scan: str) -> str:
    """Near duplicates among the scan's images."""
    from tasks.vision.duplicates import find_duplicates

    table = Artifact.open(scan).table("scan.parquet", ["sha256", "phash", "class"])
    found = find_duplicates(table["sha256"].tolist(), table["phash"].tolist(), 4, table["class"].tolist())
    return f"{len(table) - len(np.unique(found.group)):,} images more than groups"


def remember(store: str, recall: bool) -> str:
    """Write the rows of one shard, or read them back."""
    from tasks.core.remembered import Remembered, place_of
    from tasks.scan import COLUMNS, SCHEMA
    from tasks.vision.features import FEATURE_NAMES

    memory = Remembered(open_store(store), "scan/code/data", SCHEMA, 0, 1, print)
    names = [f"{number:032x}" for number in range(SHARD)]
    if recall:
        return f"{len(memory.recall(pa.array(names))):,} rows recalled"
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        name: np.full(SHARD, "0" * 64 if kind == "str" else 1, object if kind == "str" else kind)
        for name, kind in COLUMNS.items()
    }
    values |= {
        "features": [random.bytes(4 * len(FEATURE_NAMES)) for _ in names],
        "jpeg": [random.bytes(3000) for _ in names],
        "identity": names,
        "place": place_of(names),
    }
    rows = pa.table(values, schema=SCHEMA)
    for start in range(0, SHARD, SHARD // 10):
        memory.keep(rows.slice(start, SHARD // 10))
    return f"{sum(found.size for found in open_store(store).list('remembered/')) / SHARD:,.0f} bytes a row"


def timed(work: Callable[..., str], given: tuple[Any, ...], params: dict[str, Any]) -> dict[str, Any]:
    """What it returns, its seconds and the most memory [GB] of this process by then."""
    started = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        made = work(*given, **params)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"made": made, "seconds": time.perf_counter() - started, "gb": peak}


def main() -> None:
    """Measure each, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument(
        "--no-separate", dest="separate", action="store_false", help="cluster without looking for photographs"
    )
    options = parser.parse_args()
    rows = options.rows
    figures: dict[str, float] = {"rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GESSO_HOME"] = folder
        store, context = f"{folder}/store", multiprocessing.get_context("spawn")

        def measure(name: str, work: Callable[..., str], *given: Any, **params: Any) -> str:
            with context.Pool(1) as pool:
                found = pool.apply(timed, (work, given, params))
            if name:
                figures.update({f"{name}_seconds": round(found["seconds"], 1), f"{name}_gb": round(found["gb"], 2)})
                size = f"{found['seconds']:8.1f} s {found['gb']:6.2f} GB"
                told = found["made"]
                if "/artifacts/" in told:
                    artifact = Artifact.open(told)
                    told = ", ".join(f"{key} {facts['size'] / 1e6:,.1f} MB" for key, facts in files(artifact))
                print(f"{name:<12} {size}   {told}", flush=True)
            return str(found["made"])

        first = measure("snapshot", snapshot, store, rows)
        second = measure("", snapshot, store, rows + rows // 100)
        measure("difference", compare, first, second)
        scan = measure("", scan_by_hand, store, first)
        measure("duplicates", group, scan)
        made = {"snapshot": first, "scan": scan}
        for name in ("validate", "eda", "cluster", "resample"):
            inputs = {each.rstrip("*?"): made[each.rstrip("*?")] for each in load(name).inputs}
            params = {"review": "none", "separate": options.separate} if name == "cluster" else {}
            made[name] = measure(name, one_step, store, name, inputs, **params)
        measure("remember", remember, store, False)
        measure("recall", remember, store, True)
    print(json.dumps(figures))


def files(artifact: Artifact) -> list[tuple[str, dict[str, Any]]]:
    """The largest files of an artifact."""
    return sorted(artifact.manifest["files"].items(), key=lambda item: -int(item[1]["size"]))[:4]


if __name__ == "__main__":
    main()
