"""
### Retrain the illustration classifier

Takes the data set as it was at an instant, checks it, shows it, tells photographs from illustrations, balances the
classes, trains, evaluates class by class, and promotes the new model only where it beats the one in use.

**Run it** by hand with *Trigger* (an empty field means what the preset says), on its weekly schedule, or as a
backfill: a scheduled run and a backfill see the data as it was at the end of their interval. `dry_run` stops before the
training and reports what would be done; `require_approval` asks a person before the model is promoted.

**Read** the report: its URI is what the task `report` returns. A model that fails the gate leaves a successful run
with the verdict HOLD.

**Rerun** anything at any time: a step whose code, params and inputs are unchanged is reused, not repeated. Bad data
fails at once with a message that says what to do; a store that can't be reached is tried again.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import CronDataIntervalTimetable, dag

from include.approval import Approval
from include.assets import CHAMPION, IMAGES
from include.form import drop_copies, trigger_form
from include.notifications import deadline, tell_failure, tell_success
from include.steps import enough_new, nothing_new, scan_shards, step, trainings
from tasks.core.settings import settings


@dag(
    schedule=CronDataIntervalTimetable(settings().schedule, timezone="UTC"),
    start_date=datetime(2026, 1, 4, tzinfo=UTC),
    catchup=False,  # the weeks before the deployment are a backfill's business, when somebody asks for it
    max_active_runs=2,  # a backfill may run beside the schedule; more would wait for the one GPU anyway
    default_args={
        "owner": "ml-platform",
        "retries": settings().retries,  # against a network or a server; bad data is never tried again
        "retry_delay": timedelta(seconds=settings().retry_seconds),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=12),
    },
    on_success_callback=tell_success,
    on_failure_callback=tell_failure,
    deadline=deadline(),
    params=trigger_form(),
    tags=["training"],
    doc_md=__doc__,
)
def retrain() -> None:
    snapshot = step("snapshot", inlets=[IMAGES])
    shards, planned = scan_shards(snapshot), trainings()
    enough_new(snapshot) >> [shards, planned, nothing_new()]  # a branch: goes on, or ends at nothing_new
    scan = step("scan", snapshot=snapshot, each=shards)
    validate = step("validate", scan=scan)
    eda = step("eda", validate=validate, scan=scan)
    cluster = step("cluster", validate=validate, scan=scan)
    drift = step("drift", snapshot=snapshot, validate=validate, cluster=cluster, scan=scan)
    resample = step("resample", snapshot=snapshot, validate=validate, cluster=cluster)
    pack = step("pack", snapshot=snapshot, resample=resample, each=shards)
    planned >> pack  # a dry run skips both, and all that follows but the report
    train = step("train", resample=resample, pack=pack, each=planned, pool="gpu")
    images = {"snapshot": snapshot, "resample": resample, "pack": pack}
    evaluate = step("evaluate", validate=validate, cluster=cluster, train=train, **images)
    judged = {"train": train, "evaluate": evaluate, **images}
    approval = Approval(task_id="approve", inputs=judged).output
    promote = step("promote", given=approval, outlets=[CHAMPION], **judged)
    step(
        "report",
        snapshot=snapshot,
        validate=validate,
        eda=eda,
        cluster=cluster,
        drift=drift,
        resample=resample,
        train=train,
        evaluate=evaluate,
        promote=promote,
        trigger_rule="none_failed",  # a dry run skips the training and all that judges it, and is reported
    )


drop_copies(retrain())
