"""Copying objects in a bucket: Gesso's store against a bare pool of threads with boto3, and the memory it takes.

    AWS_ENDPOINT_URL=http://… AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… python -m benchmarks.store

Copies small objects from one prefix to another, both ways by turns; then takes one large object up and down in a
process of its own and notes the most memory it held. Makes a bucket and removes it. Prints a table, and ends with one
line of JSON: `copy_vs_boto3` (median time by median time; the bar is 1.3) and `peak_mb` (the bar is 300).
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.core.objects import in_threads
from tasks.core.store import open_store

THREADS = 32


@contextmanager
def bucket() -> Iterator[str]:
    """A bucket of the benchmark's own, emptied and removed afterwards."""
    import boto3

    name = f"gesso-benchmark-{uuid.uuid4().hex[:8]}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    try:
        yield name
    finally:
        store = open_store(f"s3://{name}")
        store.delete_many([found.key for found in store.list()])
        boto3.Session().client("s3").delete_bucket(Bucket=name)


def by_boto3(client: Any, name: str, keys: list[str], target: str) -> None:
    """What one would write without Gesso: as fast as it gets, no error explained, no broken answer read again."""

    def copy(key: str) -> None:
        data = client.get_object(Bucket=name, Key=key)["Body"].read()
        client.put_object(Bucket=name, Key=f"{target}/{key}", Body=data)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(copy, keys))


def by_store(name: str, keys: list[str], target: str) -> None:
    """The same through the store."""
    store = open_store(f"s3://{name}")
    for _ in in_threads(lambda key: store.put(f"{target}/{key}", store.get(key)), keys, store.threads):
        pass


def by_streams(name: str, keys: list[str], target: str) -> None:
    """The same as two streams, one into the other."""
    store = open_store(f"s3://{name}")
    store.put_many((f"{target}/{key}", data) for key, data in store.get_many(keys))


def copies(name: str, objects: int, size: int, rounds: int) -> pd.DataFrame:
    """Seconds of each way in each round."""
    import boto3
    from botocore.config import Config

    client = boto3.Session().client("s3", config=Config(max_pool_connections=2 * THREADS))
    keys = [f"from/{number:05}" for number in range(objects)]
    open_store(f"s3://{name}").put_many((key, os.urandom(size)) for key in keys)
    rows = []
    for number in range(rounds):
        ways = {
            "boto3": lambda target: by_boto3(client, name, keys, target),
            "store": lambda target: by_store(name, keys, target),
            "streams": lambda target: by_streams(name, keys, target),
        }
        turn = number % len(ways)  # each way is first in some rounds: servers and caches warm up
        for way in [*list(ways)[turn:], *list(ways)[:turn]]:
            started = time.perf_counter()
            ways[way](f"to/{way}-{number}")
            rows.append({"round": number, "way": way, "seconds": time.perf_counter() - started})
    return pd.DataFrame(rows)


def peak_of_a_large_object(uri: str, megabytes: int) -> float:
    """The most memory that a process held which took a file of this size up and down, in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_up_and_down, (uri, megabytes))


def _up_and_down(uri: str, megabytes: int) -> float:
    store = open_store(uri)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large"
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
        store.upload(path, "large")
        store.download("large", Path(folder) / "copy")
        if (Path(folder) / "copy").stat().st_size != megabytes * 1_000_000:
            raise RuntimeError("The copy is not whole.")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measure, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.store", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=2000, help="objects to copy (default: %(default)s)")
    parser.add_argument("--size", type=int, default=20_000, help="bytes of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--large", type=int, default=1000, help="MB of the large object (default: %(default)s)")
    options = parser.parse_args()
    if "AWS_ENDPOINT_URL" not in os.environ:
        parser.error("set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to those of an S3 server.")
    with bucket() as name:
        table = copies(name, options.objects, options.size, options.rounds)
        peak = peak_of_a_large_object(f"s3://{name}/large", options.large)
    wide = table.pivot_table(index="round", columns="way", values="seconds")
    print(wide.to_string(float_format="{:.2f}".format))
    medians = {way: statistics.median(wide[way]) for way in wide}
    print(json.dumps({
        "copy_vs_boto3": round(medians["store"] / medians["boto3"], 3),
        "streams_vs_boto3": round(medians["streams"] / medians["boto3"], 3),
        "peak_mb": round(peak),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
