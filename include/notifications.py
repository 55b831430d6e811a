"""Word of how a run ended, or that it is late, by mail and Slack, where Airflow has the connection for it.

    mail    the connection smtp_default, and whom to write to in GESSO_MAIL_TO
    Slack   the connection slackwebhook_default

A run that found nothing new says nothing.
"""

import html
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowNotFoundException
from asgiref.sync import sync_to_async

from include.links import report_url
from tasks.core.errors import GessoError, NotFound
from tasks.core.runs import Record, read_record
from tasks.core.settings import settings
from tasks.core.store import open_store

MAIL, SLACK = "smtp_default", "slackwebhook_default"


def tell_success(context: Any) -> None:
    """Say what a run that ended well decided (the DAG's on_success_callback)."""
    run = context["dag_run"]
    metrics = [entry["metrics"] for entry in _record(run)["steps"].get("report", [])]
    for report in metrics:
        score = f", macro F1 {report['macro_f1']:.3f}" if "macro_f1" in report else ""
        tell(run.dag_id, run.run_id, f"{report['verdict']}{score}", f"{report['images']:,} images.")


def tell_failure(context: Any) -> None:
    """Say that a run failed, and why (the DAG's on_failure_callback)."""
    run = context["dag_run"]
    try:
        failed = _record(run).get("failed", {})
        reasons = [f"{step}: {each['message']}" for step, failures in failed.items() for each in failures]
    except GessoError as error:  # the store may be why the run failed
        reasons = [f"Airflow says: {context['reason']}. The run's record can't be read: {error}"]
    tell(run.dag_id, run.run_id, "failed", "\n".join(reasons) or f"Airflow says: {context['reason']}.")


async def tell_late(context: Any) -> None:
    """Say that a run has not ended in time. The triggerer calls it, with a context of plain values."""
    run = context["dag_run"]
    if run.get("end_date"):  # Airflow keeps the deadline of a run that failed
        return
    text = f"It has not ended within {settings().deadline_hours:g} hours. Look at what it waits for."
    await sync_to_async(tell)(run["dag_id"], run["dag_run_id"], "late", text)


def deadline() -> DeadlineAlert | None:
    """What the DAG says of a run that hangs. Nothing is stopped: each task has an end of its own (execution_timeout).

    It is for an Airflow that serves: in 3.3.2 `dag.test()` fails at the end of a DAG that has a deadline.
    """
    if not settings().deadline_hours:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=settings().deadline_hours),
        callback=AsyncCallback(tell_late),
    )


def tell(dag_id: str, run_id: str, what: str, text: str) -> None:
    """Send a message on a run by each way that there is; what went wrong with one is raised once all were tried."""
    title, address = f"{dag_id} {run_id}: {what}", report_url(dag_id, run_id)
    try:
        if settings().mail_to and _has(MAIL):
            _mail(title, text, address)
    finally:
        if _has(SLACK):
            _slack(title, text, address)


def _mail(title: str, text: str, address: str) -> None:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    lines = "<br>".join(html.escape(line) for line in text.splitlines())
    body = f'<p>{lines}</p><p><a href="{html.escape(address)}">The run\'s report</a></p>'
    # Not called as a callback, which would render the text as a template: it holds names from the data set.
    SmtpNotifier(to=settings().mail_to, subject=title, html_content=body, smtp_conn_id=MAIL).notify({})


def _slack(title: str, text: str, address: str) -> None:
    from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

    plain = f"{title}\n{text}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    SlackWebhookNotifier(slack_webhook_conn_id=SLACK, text=f"{plain}\n<{address}|The run's report>").notify({})  # type: ignore[no-untyped-call]


def _has(connection: str) -> bool:
    try:
        BaseHook.get_connection(connection)
    except AirflowNotFoundException:
        return False
    return True


def _record(run: Any) -> Record:
    try:
        return read_record(open_store(settings().store_uri), run.dag_id, run.run_id)
    except NotFound:  # no step had ended
        return {"steps": {}}
