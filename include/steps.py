"""A step as an Airflow task: the URIs of its inputs come in, the URI of its artifact goes out.

    resample = step("resample", snapshot=snapshot, validate=validate, cluster=cluster)
    train = step("train", resample=resample, pack=pack, each=trainings(), pool="gpu")      # one task for each

Only URIs and small summaries pass through XCom; images, tables and models stay in the store.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from include.assets import champion_changed, tell_lineage
from tasks.core.artifacts import Artifact
from tasks.core.champion import read_champion
from tasks.core.errors import GO_ON, TRY_AGAIN, WORDS, GessoError, Interrupted
from tasks.core.params import Params, Section
from tasks.core.runs import Record, change_record, forget_failure, instance_name, is_drawn, mend_failure, record_failure
from tasks.core.settings import settings
from tasks.core.step import Result, execute, expected_key, find_whole, load
from tasks.core.store import open_store
from tasks.core.use import hold

#: Steps that run in a process of their own, behind the command line that a pod gets too: what TensorFlow takes of
#: memory and threads goes with the process.
APART = ("train",)

#: How long a process that is told to stop may take: enough to send a checkpoint of some 100 MB on its way.
STOP_SECONDS = 120

#: Status of a process that the kernel, or somebody, killed.
KILLED = -signal.SIGKILL

#: Runs that go on only where there is enough new. Whoever starts one by hand, as a backfill or for new data wants it.
WEIGHED = ("scheduled",)

#: What the line on a finished step, and the one on a failed step, begin with (progress: `tasks.core.artifacts`).
DONE, FAILED = "gesso > ", "gesso ! "


def step(
    name: str,
    *,
    each: Any = None,
    given: Any = None,
    pool: str | None = None,
    trigger_rule: str = "all_success",
    inlets: Sequence[Any] = (),
    outlets: Sequence[Any] = (),
    **inputs: Any,
) -> Any:
    """The task that runs a step; what it returns stands for the URI of the step's artifact.

    Args:
        name: the step, which is the task's id too.
        each: a list of params, one mapped task for each of them.
        given: a task that returns more params, or none: {}.
        pool: the Airflow pool that its tasks take a slot of.
        trigger_rule: Airflow's rule on the tasks before it; a skipped one gives no input.
        inlets, outlets: the assets that it reads and changes, for Airflow's asset graph.
        inputs: the tasks whose artifacts it reads.
    """
    options: dict[str, Any] = {"trigger_rule": trigger_rule, **({"pool": pool} if pool else {})}
    if each is not None:
        options["map_index_template"] = "{{ instance_name }}"
    if name in APART and settings().train_on == "kubernetes":
        from include.pods import StepPod  # Kubernetes' provider takes a second to import

        return StepPod.partial(task_id=name, step=name, inputs=inputs, **options).expand(instance=each).output
    operator = task(task_id=name, inlets=inlets, outlets=outlets, **options)(_run_step)
    if each is None:
        return operator(name, inputs, {}, given)
    return operator.partial(name=name, inputs=inputs).expand(instance=each)


def run_params() -> Params:
    """The params of the run that this task belongs to.

    Raises:
        ParamsError: a param that can't be used.
    """
    context: Any = get_current_context()
    own = getattr(context["task"], "own_params", ())  # Airflow puts a task's params among the run's
    given = {name: value for name, value in context["params"].items() if value is not None and name not in own}
    return Params.of(given)


@task.branch
def enough_new(snapshot: str) -> str | list[str]:
    """Go on, or on schedule where too little is new since the champion, end with `nothing_new`."""
    context: Any = get_current_context()
    with failing_well("enough_new"):
        params = run_params()
        if context["dag_run"].run_type not in WEIGHED or params.force:
            return ["scan_shards", "trainings"]
        from tasks.new_images import since_champion  # it imports pandas, too much for where the DAG is parsed

        store, instant = open_store(settings().store_uri), params.as_of or as_of(context)
        news = since_champion(store, Artifact.open(snapshot), params.review, instant)
        if news is None or news.is_enough(params.min_new_images):
            print(f"Since the champion's snapshot: {news or 'not known'}. Going on.", flush=True)
            return ["scan_shards", "trainings"]
        print(
            f"{DONE}nothing new: {news}; min_new_images is {params.min_new_images}. `force` trains all the same.",
            flush=True,
        )
        return "nothing_new"


@task
def nothing_new() -> None:
    """Where a scheduled run ends that has too little to train for: its name says so in the grid."""


@task
def scan_shards(snapshot: str) -> list[dict[str, int]]:
    """Shards of the scan with at most about `GESSO_SHARD_IMAGES` images each.

    Their number is a power of two: it changes seldom, and then each shard finds what it remembers in half of one.
    """
    with failing_well("scan_shards"):
        images = int(str(Artifact.open(snapshot).metrics["images"]))
    shards = 1 << (-(-images // settings().shard_images) - 1).bit_length()
    return [{"shard": shard, "shards": shards} for shard in range(shards)]


@task
def trainings() -> list[dict[str, Any]]:
    """One training for each architecture that the run asks for, and one more for each trial or fold."""
    with failing_well("trainings"):
        params = run_params()
    if params.dry_run:
        raise AirflowSkipException("This is a dry run: nothing is trained.")
    return params.trainings()


def _run_step(
    name: str, inputs: Mapping[str, Any], instance: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> str | None:
    context: Any = get_current_context()
    context["instance_name"] = instance_name(instance)
    started = time.monotonic()
    with failing_well(name, instance):
        uris = input_uris(inputs)
        if skipped := [each for each in load(name).inputs if not each.endswith("?") and each.rstrip("*") not in uris]:
            raise AirflowSkipException(f"{', '.join(skipped)} did not run.")
        section = section_of(name, context, {**instance, **(given or {})})
        run = _execute_apart if name in APART else execute
        before = _in_use(uris) if name == "promote" else ""
        try:
            result = run(name, uris, section, settings().store_uri)
        except GessoError as error:
            if error.exit_status == TRY_AGAIN or not is_drawn(instance):
                raise
            leave_out(instance, str(error))
            return None
        if name == "promote":
            # A first try may have changed the champion and died before Airflow wrote its event down.
            changed = _in_use(uris) != before or context["ti"].try_number > 1
            if changed and result.artifact.metrics["verdict"] == "PROMOTE":
                champion_changed(context, result.artifact, Artifact.open(str(uris["snapshot"])))
        return finish(context, name, instance, result.artifact, result.reused, time.monotonic() - started)


def _in_use(uris: Mapping[str, str | Sequence[str]]) -> str:
    """The champion of the data set of these inputs, and its evaluation; empty before the first."""
    dataset = str(Artifact.open(str(uris["snapshot"])).json("snapshot.json")["dataset"])
    champion, _ = read_champion(open_store(settings().store_uri), dataset)
    return f"{champion.model} {champion.evaluation}" if champion else ""


def leave_out(instance: Mapping[str, Any], message: str) -> None:
    """Go on without a trial of a search whose training failed: the values drawn for it don't do.

    It ends well and without an artifact. The first trial, with the run's own params, has to train.
    """
    print(f"{DONE}{instance_name(instance)} is left out of the search: {message}", flush=True)


def input_uris(inputs: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The URI, or URIs, of each input artifact; a skipped task gave none."""
    # One request for all that mapped tasks returned; a loop over them asks for one too many, and logs that as an error.
    # A trial that was left out returned nothing.
    uris = {name: uri if isinstance(uri, str) else list(filter(None, (uri or ())[:])) for name, uri in inputs.items()}
    return {name: uri for name, uri in uris.items() if uri}


@contextmanager
def failing_well(name: str, instance: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Say why a task failed in one line and in the run's record, and in Airflow's own way whether another try helps.

    Raises:
        AirflowFailException: it does not.
        GessoError: it may.
    """
    try:
        yield
        context = get_current_context()
        if context["ti"].try_number > 1:  # what failed before is not why the run fails, if it does
            run = context["dag_run"]
            with suppress(GessoError):
                mend_failure(open_store(settings().store_uri), run.dag_id, run.run_id, name, instance)
    except GessoError as error:
        tell_failure(get_current_context(), name, str(error), instance)
        if error.exit_status == TRY_AGAIN:
            raise
        raise AirflowFailException(str(error)) from None
    except (AirflowSkipException, AirflowFailException):
        raise
    except AirflowTaskTimeout:
        tell_failure(get_current_context(), name, "It took longer than a task may (execution_timeout).", instance)
        raise
    except Exception as error:  # a fault of the code: its traceback goes to the log, its gist to who watches
        tell_failure(get_current_context(), name, f"{type(error).__name__}: {error}", instance)
        raise


def tell_failure(context: Any, name: str, message: str, instance: Mapping[str, Any] | None = None) -> None:
    """Say why a task failed, in its log and in the run's record, where the report's tab finds it."""
    print(f"{FAILED}{name}: {message}", flush=True)
    run = context["dag_run"]
    with suppress(GessoError):  # a store that is away is told of already
        record_failure(open_store(settings().store_uri), run.dag_id, run.run_id, name, message, instance)


def finish(
    context: Any, name: str, instance: Mapping[str, Any], artifact: Artifact, reused: bool, seconds: float
) -> str:
    """Record what a task ended with, say so to lineage and in one line, and return the artifact's URI."""
    _record(context, name, instance, artifact, reused, seconds)
    tell_lineage(context, artifact)
    print(DONE + _line(name, instance, artifact, reused, seconds), flush=True)
    context["ti"].xcom_push("summary", artifact.metrics)
    return artifact.uri


def section_of(name: str, context: Any, instance: Mapping[str, Any]) -> Section:
    """The params of a step in this run; `instance` sets what differs between its mapped tasks."""
    params = run_params()
    if name == "promote" and context["dag_run"].run_type == "backfill" and not params.promote_in_backfill:
        instance = {"promote": False, **instance}  # a rerun of the past changes the model in use only when asked to
    if name == "snapshot":
        instance = {"dataset": params.dataset or settings().dataset_uri, "as_of": params.as_of or as_of(context)}
    return params.section(load(name).params, **instance)


def as_of(context: Any) -> Any:
    """The instant whose data a run sees.

    A scheduled run and a backfill see the data as it was at the end of their interval. A person who presses Trigger
    means the data of now (None), whatever interval Airflow infers.
    """
    run = context["dag_run"]
    if run.run_type in ("scheduled", "backfill") and run.data_interval_end:
        return run.data_interval_end
    return None


def command_line(name: str, inputs: Mapping[str, str | Sequence[str]], params: Section, store: str) -> list[str]:
    """The words after `gesso` that run a step: the same for a process beside the worker and for a pod."""
    given = [
        f"--input={given}={uri}"
        for given, uris in inputs.items()
        for uri in ([uris] if isinstance(uris, str) else uris)
    ]
    return [name, *given, f"--params={params.model_dump_json()}", f"--store={store}"]


def _execute_apart(name: str, inputs: Mapping[str, str | Sequence[str]], params: Section, store: str) -> Result:
    """As `execute`, through the command line in a process of its own, where there is something to do."""
    artifact = find_whole(open_store(store), name, expected_key(name, inputs, params))
    if artifact is not None and hold(artifact):
        return Result(artifact, reused=True)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "result.json"
        command = [sys.executable, "-m", "tasks", *command_line(name, inputs, params, store), f"--result={answer}"]
        last = words = ""
        root = Path(__file__).parents[1]
        with subprocess.Popen(
            command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
        ) as process:
            try:
                for line in process.stdout or ():
                    last = line.rstrip() or last
                    words = last.removeprefix(WORDS) if last.startswith(WORDS) else words
                    print(line.rstrip(), flush=True)
            except BaseException:  # the task's time is up, say: else the process would be waited for, however long
                stop(process)
                raise
        if process.returncode != 0:
            raise _failure(name, process.returncode, words, last)
        result = json.loads(answer.read_text())
    return Result(Artifact.open(result["uri"]), result["reused"])


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: it is asked to, and has some time to keep its checkpoint."""
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _failure(name: str, status: int, words: str, last: str) -> GessoError:
    """Why a process ended with this status: what it said of it, or else how it ended and its last line."""
    if status > 0 and words:
        return Interrupted(words) if status == TRY_AGAIN else GessoError(words)
    ended = f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
    memory = ", perhaps for want of memory: a smaller batch_size or image_size needs less" if status == KILLED else ""
    said = f" Its last line: {last}" if last else ""
    return Interrupted(f"The process of {name} {ended}{memory}. {GO_ON}{said}")


def _record(
    context: Any, name: str, instance: Mapping[str, Any], artifact: Artifact, reused: bool, seconds: float
) -> None:
    """Write into the run's record which artifact this task ended with."""
    run = context["dag_run"]
    entry = {
        "artifact": artifact.uri,
        "reused": reused,
        "seconds": round(seconds, 2),
        "metrics": artifact.metrics,
        **({"instance": dict(instance)} if instance else {}),
    }

    def change(record: Record) -> None:
        forget_failure(record, name, instance)
        if name == "snapshot" or "params" not in record:  # a run that is run again may be asked for something else
            record["run_type"] = str(getattr(run.run_type, "value", run.run_type))
            record["as_of"] = str(run_params().as_of or as_of(context) or datetime.now(UTC))
            record["params"] = run_params().model_dump(mode="json")
        if name == "snapshot":
            record |= {"steps": {}, "failed": {}}
        elif name == "report":  # the last step: the run has ended well
            record["failed"] = {}
        else:
            record["steps"].pop("report", None)  # it is of what was there before
        entries = record["steps"].setdefault(name, [])
        entries[:] = [other for other in entries if other.get("instance", {}) != dict(instance)] + [entry]

    change_record(open_store(settings().store_uri), run.dag_id, run.run_id, change)


def _line(name: str, instance: Mapping[str, Any], artifact: Artifact, reused: bool, seconds: float) -> str:
    """One line on what a task did: name, images, seconds, reused or done."""
    title = name if instance.get("shards") == 1 else f"{name} {instance_name(instance)}".strip()
    images = artifact.metrics.get("images")
    counted = "" if images is None else f"{images:,} images"
    return f"{title:<20} {counted:>16} {seconds:>8.1f} s  {'reused' if reused else 'done'}"
