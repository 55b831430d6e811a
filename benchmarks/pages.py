"""The pages in Airflow's UI, of much, against an empty one of the same app: the bar is 5 times as long, and a second.

    python -m benchmarks.pages

Makes a run of 25,000 images by hand, its report as full of pictures as a report gets, and a history of 200 runs; serves
Airflow's API server with the plugin in a process of its own; then asks for each page by turns, as a browser does that
holds nothing in its cache. A page's first request is told apart from the others: it reads what the next ones find in
memory. Prints a table, and ends with one line of JSON: of each page its median in ms, and `…_vs_empty`, that by the
empty page's; of all pages `first_ms`, the slowest first request.
"""

import argparse
import contextlib
import gzip
import http.client
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from include.environment import airflow_environment, airflow_home
from tasks.core.artifacts import Artifact, Output
from tasks.core.checkpoint import Checkpoint
from tasks.core.runs import record_key
from tasks.core.settings import settings
from tasks.core.step import commit, execute, load
from tasks.core.store import LocalStore

RUN, RUNS = "manual__2026-01-04T00:00:00+00:00", 200


def main() -> None:
    """Measure, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.pages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=25_000, help="images of the run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GESSO_HOME": folder, "GESSO_STORE": f"{folder}/store"}
        settings.cache_clear()
        print(f"Making a run of {options.images:,} images and {RUNS} records…", flush=True)
        ledger = make_runs(Path(folder), options.images)
        run = quote(RUN, safe="")
        pages = {
            "empty": "/gesso/without_runs/history",
            "report": f"/gesso/retrain/{run}/report",
            "ledger": f"/gesso/retrain/{run}/ledger?verdict=kept&page=200",
            "thumbnail": f"/gesso/retrain/{run}/thumbnails/{ledger}/{options.images // 2}",
            "history": "/gesso/retrain/history",
        }
        with served() as (port, token):
            table = timed(port, token, pages, options.rounds)
    shown = table.groupby("page", sort=False).agg(
        first=("ms", "first"), median=("ms", "median"), kilobytes=("kilobytes", "max")
    )
    print(shown.to_string(float_format="{:.1f}".format))
    first = table[table["round"] == 0].set_index("page")["ms"]
    medians = table[table["round"] > 0].groupby("page")["ms"].median()
    print(json.dumps({
        **{f"{page}_ms": round(medians[page], 1) for page in pages},
        **{f"{page}_vs_empty": round(medians[page] / medians["empty"], 2) for page in pages if page != "empty"},
        "first_ms": round(first.drop("empty").max()),
    }))  # fmt: skip


def make_runs(folder: Path, images: int) -> str:
    """A run of so many images in 20 classes, and the records of others; the key of its ledger."""
    from tests.tasks.artifacts_by_hand import a_run

    store = LocalStore(folder / "store")
    made = dict(a_run(store, folder, {f"L2_{number}": images // 20 for number in range(20)}, dataset=str(folder)))
    made["eda"] = _run("eda", {name: made[name] for name in ("validate", "scan")})
    made["cluster"] = _with_full_sheets(store, folder, made["cluster"])
    made["report"] = _run("report", {name: value for name, value in made.items() if name != "scan"})
    steps = {
        step: [
            {"artifact": each.uri, "reused": False, "seconds": 60.0, "metrics": each.metrics} for each in _all(value)
        ]
        for step, value in made.items()
    }
    weeks = pd.date_range("2022-01-02", periods=RUNS, freq="7D", tz="UTC")
    for run_id, week in zip([RUN, *(f"scheduled__{week.isoformat()}" for week in weeks[1:])], weeks, strict=True):
        record = {"run_type": "scheduled", "as_of": week.isoformat(), "params": {"preset": "original"}, "steps": steps}
        store.put(record_key("retrain", run_id), json.dumps(record).encode())
    ledger: Artifact = _all(made["resample"])[0]
    return ledger.key


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _run(step: str, inputs: dict[str, Any]) -> Artifact:
    uris = {name: [each.uri for each in _all(value)] for name, value in inputs.items()}
    given = {name: found if isinstance(inputs[name], list) else found[0] for name, found in uris.items()}
    return execute(step, given, load(step).params.of({}), settings().store_uri).artifact


def _with_full_sheets(store: LocalStore, folder: Path, cluster: Artifact) -> Artifact:
    """The clustering with contact sheets of photographs, which take all the room that a report has for pictures."""
    import cv2

    (sheets := folder / "sheets").mkdir()
    out = Output(sheets, store, Checkpoint(store, "cluster"))
    for name in cluster.names():
        out.path(name).write_bytes(cluster.path(name).read_bytes())
    noise = np.random.default_rng(0).integers(0, 255, (300, 1200, 3), dtype=np.uint8)
    for sheet in cluster.json("sheets.json"):
        cv2.imwrite(str(out.path(sheet["file"])), cv2.resize(noise, (1200, 900)), [cv2.IMWRITE_JPEG_QUALITY, 60])
    out.metrics |= cluster.metrics
    made_of = {name: cluster.manifest[name] for name in ("step", "params", "inputs", "observed", "code", "made_at")}
    return commit(store, made_of | {"key": "0" * 32, "metrics": out.metrics, "seconds": 1.0, "made_by": {}}, out)


@contextlib.contextmanager
def served() -> Iterator[tuple[int, str]]:
    """Airflow's API server in a process of its own: its port, and what a browser sends that has logged in."""
    os.environ |= airflow_environment(
        airflow_home("airflow-bench"), api_auth__jwt_secret="for the benchmark " * 4, logging__logging_level="WARNING"
    )
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def _serve(pipe: Any) -> None:
    """Airflow's API server on a free port of this machine, which `pipe` is told of."""
    import socket

    import uvicorn
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.utils.db import initdb

    initdb()
    app = create_app(apps="core")
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="reader", role="viewer"))
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send((listener.getsockname()[1], token))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def timed(port: int, token: str, pages: dict[str, str], rounds: int) -> pd.DataFrame:
    """How long each page takes in each round, from request to last byte unpacked, in ms. Round 0 is the first."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Cookie": f"_token={token}", "Accept-Encoding": "gzip"}

    def ask(page: str) -> dict[str, Any]:
        started = time.perf_counter()
        connection.request("GET", pages[page], headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        seconds = time.perf_counter() - started
        if answer.status != 200:
            raise RuntimeError(f"{pages[page]}: {answer.status} {content[:500]!r}")
        return {"page": page, "ms": 1000 * seconds, "kilobytes": len(content) / 1000}

    for _ in range(3):
        ask("empty")  # what every page needs is imported and connected by then
    rows = []
    for number in range(rounds + 1):
        turn = number % len(pages)  # each page is first in some rounds
        rows += [{"round": number, **ask(page)} for page in [*list(pages)[turn:], *list(pages)[:turn]]]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
