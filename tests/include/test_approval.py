"""Whether a person is asked before a promotion, and what."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.api_fastapi.execution_api.datamodels.hitl import HITLDetailRequest
from airflow.api_fastapi.execution_api.routes.hitl import upsert_hitl_detail
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import HITLDetailRequestResult

from include import approval, steps
from include.approval import Approval

MODEL = {"architecture": "baseline", "macro_f1": 0.8}


def check(name: str, passed: bool) -> dict[str, Any]:
    return {"check": name, "passed": passed, "message": f"{name}: {passed}"}


class Asked:
    """A run that wants an approval, whose task `approve` finds this decision."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decision: dict[str, Any] = {
            "candidate": MODEL, "champion": None, "comparison": None, "in_use": False,
            "reasons": [check("floor", True), check("allowed", False)],
        }  # fmt: skip
        self.operator = Approval(task_id="approve", inputs={})
        task = SimpleNamespace(try_number=1, id=uuid4())
        self.context = {
            "task": self.operator,
            "params": {"require_approval": True},
            "dag_run": SimpleNamespace(run_type="manual", dag_id="retrain", run_id="r1"),
            "ti": task,
            "task_instance": task,
        }
        monkeypatch.setattr(steps, "get_current_context", lambda: self.context)
        preview = SimpleNamespace(artifact=SimpleNamespace(json=lambda _: self.decision))
        monkeypatch.setattr(approval, "execute", lambda *_: preview)

    def execute(self) -> Any:
        return self.operator.execute(self.context)


class Database:
    """The one question that Airflow keeps of a task, behind Airflow's own route."""

    kept: Any = None

    def scalar(self, _: Any) -> Any:
        return self.kept

    def add(self, detail: Any) -> None:
        self.kept = detail

    def send(self, msg: Any) -> HITLDetailRequestResult:
        request = HITLDetailRequest(**msg.model_dump(exclude={"type"}))
        return HITLDetailRequestResult(**upsert_hitl_detail(msg.ti_id, request, self).model_dump())  # type: ignore[arg-type]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", database, raising=False)
    return database


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"reasons": [check("floor", False)]}, "the model failed a check"),
        ({"in_use": True}, "this very model is in use already"),
    ],
    ids=["fails", "in use"],
)
def test_a_model_that_nobody_was_asked_for_is_held(asked: Asked, found: dict[str, Any], why: str) -> None:
    """Else `promote`, cleared after the champion changed, would promote it unasked."""
    asked.decision |= found
    assert asked.execute() == {"approval": {"answer": "hold", "by": f"nobody was asked, since {why}", "note": ""}}


def test_a_run_that_wants_no_approval_has_none(asked: Asked) -> None:
    asked.context["params"] = {"promote": False, "require_approval": True}
    assert asked.execute() == {}


def test_a_question_is_asked_again_and_is_in_the_log(
    asked: Asked, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(TaskAwaitingInput):
            asked.execute()
        assert "| new | baseline | 0.800 |" in capsys.readouterr().out
    assert "| new | baseline | 0.800 |" in database.kept.body


@pytest.mark.parametrize("changed", ["scores", "default"])
def test_a_question_that_airflow_does_not_show_fails_for_good(
    asked: Asked, database: Database, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a person would approve a model by another one's scores."""
    with pytest.raises(TaskAwaitingInput):
        asked.execute()
    if changed == "scores":
        asked.decision["candidate"] = {"architecture": "vgg", "macro_f1": 0.41}
    else:
        asked.context["params"] = {"require_approval": True, "approval_default": "approve"}
    with pytest.raises(AirflowFailException, match=r"still shows the question of the first time.* Trigger a new run"):
        asked.execute()
    assert ("| new | vgg | 0.410 |" in capsys.readouterr().out) == (changed == "scores")
