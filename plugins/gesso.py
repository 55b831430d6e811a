"""Gesso in the Airflow UI: report and ledger as tabs of a run, history as a tab of the DAG, and links on the tasks."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

from include.links import MOUNT, prefix, report_url
from tasks.core.step import NAMES


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """The pages (ASGI), imported when the first is asked for: every process of Airflow's loads its plugins."""
    from include.pages.app import app

    await app(scope, receive, send)


class ReportLink(BaseOperatorLink):
    """The run's report, on each task that runs a step."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address of the report's tab; none for other tasks."""
        return report_url(ti_key.dag_id, ti_key.run_id) if operator.task_id in NAMES else ""


class GessoPlugin(AirflowPlugin):
    name = "gesso"
    fastapi_apps = [{"name": "gesso", "app": pages, "url_prefix": MOUNT}]  # noqa: RUF012 - as Airflow wants it
    external_views = [  # noqa: RUF012
        {"name": name, "href": f"{prefix()}/{path}", "destination": destination, "url_route": name.lower()}
        for name, path, destination in (
            ("Report", "{DAG_ID}/{RUN_ID}/report", "dag_run"),
            ("Ledger", "{DAG_ID}/{RUN_ID}/ledger", "dag_run"),
            ("History", "{DAG_ID}/history", "dag"),
        )
    ]
    global_operator_extra_links = [ReportLink()]  # noqa: RUF012
