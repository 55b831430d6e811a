"""Word of a run's end, by a real mail server and a real web hook."""

import asyncio
import html
import json
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from include.notifications import tell_failure, tell_late, tell_success
from tasks.core.runs import change_record, record_failure
from tasks.core.settings import settings
from tasks.core.store import LocalStore
from tests.received import Received

#: A name from the data set that is a template, HTML and Slack's markup at once.
HOSTILE = "{{ 7 * 7 }} <img src=x> & <!channel>"


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    servers = Received()
    for name, value in servers.connections().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GESSO_MAIL_TO", "team@example.org")
    monkeypatch.setenv("GESSO_DEADLINE_HOURS", "6")
    settings.cache_clear()
    yield servers
    servers.close()


def context(run_id: str, reason: str = "task_failure") -> dict[str, Any]:
    return {"dag_run": SimpleNamespace(dag_id="retrain", run_id=run_id), "reason": reason}


def report(store: LocalStore, run_id: str, **metrics: Any) -> None:
    entry = {"artifact": "", "metrics": metrics}
    change_record(store, "retrain", run_id, lambda record: record["steps"].update(report=[entry]))


def test_the_verdict_is_told(store: LocalStore, received: Received) -> None:
    report(store, "run 1", verdict="PROMOTE", images=1234, macro_f1=0.8123)
    tell_success(context("run 1"))
    mail, slack = sorted(received)
    assert mail.startswith("mail: retrain run 1: PROMOTE, macro F1 0.812\n<p>1,234 images.</p>")
    assert slack.startswith("slack: retrain run 1: PROMOTE, macro F1 0.812\n1,234 images.")
    assert "/dags/retrain/runs/run%201/plugin/report" in mail
    assert "/dags/retrain/runs/run%201/plugin/report" in slack


def test_a_dry_run_has_no_score(store: LocalStore, received: Received) -> None:
    report(store, "dry", verdict="DRY RUN", images=10)
    tell_success(context("dry"))
    assert {each.splitlines()[0] for each in received} == {"mail: retrain dry: DRY RUN", "slack: retrain dry: DRY RUN"}


def test_why_a_run_failed_is_told_as_text(store: LocalStore, received: Received) -> None:
    record_failure(store, "retrain", "bad", "snapshot", HOSTILE)
    tell_failure(context("bad"))
    mail, slack = sorted(received)
    assert "snapshot: {{ 7 * 7 }} &lt;img src=x&gt; &amp; &lt;!channel&gt;" in mail
    assert "snapshot: {{ 7 * 7 }} &lt;img src=x&gt; &amp; &lt;!channel&gt;" in slack


def test_a_run_that_ended_outside_the_steps_has_airflows_reason(store: LocalStore, received: Received) -> None:
    tell_failure(context("gone", "timed_out"))
    assert all("Airflow says: timed_out." in each for each in received)
    assert len(received) == 2


def test_a_run_whose_record_can_not_be_read_is_told_of(store: LocalStore, received: Received) -> None:
    record_failure(store, "retrain", "torn", "snapshot", "The store is away.")
    (record,) = (
        path for path in store.root.rglob("*") if path.is_file() and b"The store is away." in path.read_bytes()
    )
    record.write_bytes(b"torn")
    tell_failure(context("torn"))
    assert all(
        "Airflow says: task_failure. The run's record can't be read: " in html.unescape(each) for each in received
    )
    assert len(received) == 2


def test_a_late_run_is_told_of(store: LocalStore, received: Received) -> None:
    asyncio.run(tell_late({"dag_run": {"dag_id": "retrain", "dag_run_id": "slow"}}))
    assert all("retrain slow: late\n" in each and "within 6 hours" in each for each in received)
    assert len(received) == 2


def test_a_run_that_failed_in_time_is_not_late(store: LocalStore, received: Received) -> None:
    ended = {"state": "failed", "end_date": "2026-01-05T00:00:00Z"}
    asyncio.run(tell_late({"dag_run": {"dag_id": "retrain", "dag_run_id": "broken", **ended}}))
    assert not received


@pytest.mark.parametrize(("broken", "other"), [("SMTP_DEFAULT", "slack"), ("SLACKWEBHOOK_DEFAULT", "mail")])
def test_one_way_that_fails_keeps_no_other_from_being_tried(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch, broken: str, other: str
) -> None:
    with socket.socket() as nobody:  # bound, and listening to no one
        nobody.bind(("127.0.0.1", 0))
        host, port = nobody.getsockname()
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "gesso@example.org", "retry_limit": 0}
        connection = {"conn_type": "smtp", "host": host, "port": port, "extra": extra}
        if other == "mail":
            connection = {"conn_type": "slackwebhook", "password": f"http://{host}:{port}/services/hook"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{broken}", json.dumps(connection))
        report(store, "run 1", verdict="HOLD", images=10)
        with pytest.raises(OSError, match="refused"):  # Airflow writes it into its log
            tell_success(context("run 1"))
    assert [each.split(":")[0] for each in received] == [other]


def test_without_connections_and_where_nothing_was_new_nothing_is_told(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_record(store, "retrain", "quiet", lambda record: record["steps"].update(snapshot=[]))
    tell_success(context("quiet"))
    for name in received.connections():
        monkeypatch.delenv(name)
    report(store, "run 1", verdict="PROMOTE", images=1, macro_f1=0.5)
    tell_success(context("run 1"))
    assert received == []
