"""One run of the workflow in Airflow, without a scheduler: `make run`.

    python -m include.run --dataset pictures/ --preset quick --params '{"epochs": 5}'

Airflow's own log goes to a file; the terminal gets a line for each step, then the verdict and where to read on.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from include.defaults import default_params
from include.environment import ROOT, airflow_environment, airflow_home
from include.steps import DONE, FAILED, stop
from tasks.core.artifacts import PROGRESS, Artifact
from tasks.core.errors import STOPPED, WORDS, GessoError, ParamsError
from tasks.core.local_store import explained
from tasks.core.params import PRESETS, Params
from tasks.core.runs import read_record
from tasks.core.settings import settings
from tasks.core.store import open_store

RUN_ID = "gesso run "


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workflow once; the exit status is 0 when it succeeded, whatever the gate's verdict."""
    parser = argparse.ArgumentParser("python -m include.run", description="Run the workflow once, in Airflow.")
    parser.add_argument("--dataset", default="", help="folder or s3://bucket/prefix (default: a demo set is drawn)")
    parser.add_argument("--preset", default="", help=f"{', '.join(PRESETS)} (default: demo for the demo, else quick)")
    parser.add_argument("--params", default="", help="JSON object of params; they win over the preset's")
    options = parser.parse_args(arguments)
    try:
        with explained("make run"):
            return _run(_conf(options))
    except GessoError as error:
        print(f"{WORDS}{error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130


def _conf(options: argparse.Namespace) -> dict[str, Any]:
    """What the run is asked for, checked before Airflow starts."""
    try:
        given = json.loads(options.params or "{}")
    except ValueError as error:
        raise ParamsError(f"PARAMS is not JSON: {error}. Example: PARAMS='{{\"epochs\": 5}}'.") from None
    if not isinstance(given, dict):
        raise ParamsError(f"PARAMS is not a JSON object: {options.params!r}. Example: PARAMS='{{\"epochs\": 5}}'.")
    default_params()  # so that an error in them isn't taken for one in PARAMS
    given = {**settings().params, **given}
    dataset = options.dataset or given.get("dataset") or settings().dataset
    conf = {"preset": "quick" if dataset else "demo", **given} | ({"preset": options.preset} if options.preset else {})
    understood = Params.of(conf).model_dump(mode="json")
    conf = {name: understood[name] for name in conf}  # Airflow takes no "5" for a number, and no date without its time
    if dataset:
        conf["dataset"] = dataset if "://" in dataset else str(Path(dataset).absolute())
    return conf


def _lock(home: Path) -> TextIO:
    """What one run holds at a time, until the file is closed: the next would clear its tasks in Airflow's database.

    Raises:
        GessoError: another run holds it.
    """
    lock = (home / "run.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise GessoError(
            f"Another `make run` goes on in GESSO_HOME={settings().home.absolute()}. Wait for it, or set another "
            f"GESSO_HOME (GESSO_STORE may be shared)."
        ) from None
    return lock


def _draw_demo() -> None:
    from tasks.demo import make_demo

    demo = Path(settings().dataset_uri)
    if not demo.exists():
        print("Drawing the demo data set…", flush=True)
    make_demo(demo)


def _run(conf: dict[str, Any]) -> int:
    home = airflow_home("airflow-run")
    with _lock(home) as lock:
        if not conf.get("dataset"):
            _draw_demo()
        run_id = _run_airflow(conf, home, lock)
    _summary(run_id)
    return 0


def _run_airflow(conf: dict[str, Any], home: Path, lock: TextIO) -> str:
    """Run the workflow in a process of Airflow's, show how it goes on, and return the run's id."""
    log = home / "run.log"
    print(f"Starting Airflow; its log is {log}", flush=True)
    run_id, reason = "", ""
    environment = airflow_environment(home) | {
        "GESSO_RETRIES": "0",  # who watches wants the reason, not a retry
        "GESSO_ATTENDED": "no",  # there is no UI in which to answer
        "GESSO_DEADLINE_HOURS": "0",  # who watches sees it, and `dag.test()` can't end a DAG that has one
    }
    command = [sys.executable, "-m", "include.run", "inside", json.dumps(conf), str(lock.fileno())]
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
            pass_fds=[lock.fileno()],  # Airflow may outlive this process, where that is killed
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                file.write(line)
                if line.startswith(DONE):
                    print("\r\033[K" * sys.stdout.isatty() + line.removeprefix(DONE).rstrip(), flush=True)
                elif line.startswith(PROGRESS) and sys.stdout.isatty():
                    print("\r\033[K  " + line.removeprefix(PROGRESS).rstrip()[:100], end="", flush=True)
                elif line.startswith(FAILED):
                    reason = line.removeprefix(FAILED).rstrip()
                elif line.startswith(RUN_ID):
                    run_id = line.removeprefix(RUN_ID).rstrip()
        except KeyboardInterrupt:  # Airflow takes it for a failure of the task, and would go on with others
            stop(process)
            raise
    if process.returncode != 0:
        raise GessoError(reason or f"The run failed outside Gesso's steps; see the end of {log}.")
    return run_id


def inside(conf: dict[str, Any]) -> int:
    """The run itself, in a process whose environment is Airflow's."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(str(ROOT / "dags"))
    for file, error in bag.import_errors.items():
        print(f"{FAILED}{file} can't be imported: {error.strip().splitlines()[-1]}", flush=True)
        return 1
    retrain = bag.dags["retrain"]
    # Airflow keeps an asset's first address, and fails tasks with another one until a scheduler has retired the first.
    retrain.get_task("snapshot").inlets = []
    run = retrain.test(run_conf=conf, logical_date=None)
    print(f"{RUN_ID}{run.run_id}", flush=True)
    return 0 if run.state == "success" else 1


def _summary(run_id: str) -> None:
    """The verdict, the classwise table's averages and where report and ledger are."""
    steps = read_record(open_store(settings().store_uri), "retrain", run_id)["steps"]
    artifacts = {name: Artifact.open(entries[0]["artifact"]) for name, entries in steps.items()}
    if "promote" in artifacts:
        _results(artifacts)
    else:
        used, images = (artifacts[name].metrics["images"] for name in ("resample", "snapshot"))
        print(f"\nDry run: {used:,} of {images:,} images would be used; nothing was trained.")
    for title, step, file in (("Report", "report", "report.html"), ("Ledger", "resample", "ledger.csv")):
        artifact = artifacts[step]
        print(f"{title}: {artifact.store.uri}/{artifact.key_of(file)}")


def _results(artifacts: dict[str, Artifact]) -> None:
    """The verdict and the scores."""
    decision = artifacts["promote"].json("decision.json")
    evaluation = artifacts["evaluate"].json("evaluation.json")
    macro = evaluation["macro"]
    print(f"\nVerdict: {decision['verdict']}")
    for check in decision["reasons"]:
        print(f"  {'✓' if check['passed'] else '✗'} {check['message']}")
    print(
        f"Test, {evaluation['architecture']}, {evaluation['images']} images: macro precision {macro['precision']:.3f}, "
        f"recall {macro['recall']:.3f}, F1 {macro['f1']:.3f}; accuracy {evaluation['accuracy']:.3f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        # A training that outlives a killed run must not keep the next one waiting.
        os.set_inheritable(int(sys.argv[3]), False)
        sys.exit(inside(json.loads(sys.argv[2])))
    sys.exit(main())
