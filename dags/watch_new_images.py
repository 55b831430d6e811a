"""
### Retrain when new images have landed

Looks at the data set every `GESSO_WATCH_SECONDS` and starts a run of `retrain` once at least `min_new_images`
images are new or changed since it last did, and the data set has come to rest: two looks that show the same. The run's
params, `min_new_images` among them, are those of `GESSO_PARAMS`.

**Unpause it** to have the data set watched; paused, nothing is listed. The first look counts every image as new.

**One listing starts one run**, whatever is restarted meanwhile: the run's id is made of the listing.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from include.assets import IMAGES
from include.notifications import tell_failure
from tasks.core.settings import settings


@dag(
    schedule=[IMAGES],
    start_date=datetime(2026, 1, 4, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    default_args={
        "owner": "ml-platform",
        "retries": settings().retries,  # what was told once isn't told again
        "retry_delay": timedelta(seconds=settings().retry_seconds),
    },
    on_failure_callback=tell_failure,
    tags=["training"],
    doc_md=__doc__,
)
def watch_new_images() -> None:
    @task
    def what_landed(triggering_asset_events: Any = None) -> dict[str, Any]:
        listings = [event for event in triggering_asset_events[IMAGES] if "payload" in event.extra]
        if not listings:  # a person pressed Trigger, or *Create asset event*
            raise AirflowSkipException(
                "No images have landed: this run was started by hand. Trigger `retrain` instead."
            )
        newest: dict[str, Any] = max(listings, key=lambda event: event.timestamp).extra["payload"]
        print(
            f"gesso > {newest['landed']:,} of {newest['images']:,} images are new in {newest['dataset']}.", flush=True
        )
        return newest

    what_landed() >> TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="retrain",
        trigger_run_id="new_images__{{ ti.xcom_pull('what_landed')['listing'] }}",
        skip_when_already_exists=True,
        note="{{ ti.xcom_pull('what_landed')['landed'] }} images are new.",
    )


watch_new_images()
