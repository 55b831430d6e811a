"""What it costs to watch a data set: one look at a prefix of 100,000 keys, against a bare listing of the same by boto3.

    AWS_ENDPOINT_URL=http://… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… python -m benchmarks.watch

Makes a bucket of empty objects and removes it. A look is what `watch_new_images` does every GESSO_WATCH_SECONDS: list,
hash, compare with what was last told of. Prints a table, and ends with one line of JSON: `look_vs_listing` (median time
by median time), `look_seconds`, `cpu_seconds`, `requests` (each for 1,000 keys), `mark_bytes` (what the store keeps).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import boto3
import pandas as pd

from benchmarks.store import bucket
from tasks.core.store import open_store
from tasks.watch import Look, look


def listed(name: str) -> int:
    """The keys of a bucket, by boto3 alone; how many requests that took."""
    pages = boto3.Session().client("s3").get_paginator("list_objects_v2").paginate(Bucket=name)
    return sum(1 for page in pages if [found["Key"] for found in page["Contents"]])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and seconds of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure, print, and end with the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with bucket() as name:
        keys = (f"class {number % 20}/{number:07}.png" for number in range(options.keys))
        open_store(f"s3://{name}").put_many((key, b"") for key in keys)
        requests = listed(name)
        before = look(f"s3://{name}")
        assert len(before.hashes) == options.keys
        rows: list[dict[str, float]] = []

        def watch() -> None:
            assert look(f"s3://{name}").landed_since(Look(before.hashes)) == 0

        for _ in range(options.rounds):
            for way, work in (("boto3's listing", lambda: listed(name)), ("a look", watch)):
                wall, cpu = timed(work)
                rows.append({"way": way, "seconds": wall, "cpu_seconds": cpu})  # type: ignore[dict-item]
    table = pd.DataFrame(rows)
    print(table.groupby("way")[["seconds", "cpu_seconds"]].agg(["min", "median", "max"]).round(3).to_string())
    looks, bare = table[table["way"] == "a look"], table[table["way"] != "a look"]
    answer = {
        "look_vs_listing": round(statistics.median(looks["seconds"]) / statistics.median(bare["seconds"]), 3),
        "look_seconds": round(statistics.median(looks["seconds"]), 3),
        "cpu_seconds": round(statistics.median(looks["cpu_seconds"]), 3),
        "requests": requests,
        "mark_bytes": before.hashes.nbytes,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
