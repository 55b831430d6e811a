"""Whether a person is asked before a promotion, and what."""

from types import SimpleNamespace
from typing import Any

import pytest

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
        self.context = {
            "task": self.operator,
            "params": {"require_approval": True},
            "dag_run": SimpleNamespace(run_type="manual", dag_id="retrain", run_id="r1"),
            "ti": SimpleNamespace(try_number=1),
        }
        monkeypatch.setattr(steps, "get_current_context", lambda: self.context)
        preview = SimpleNamespace(artifact=SimpleNamespace(json=lambda _: self.decision))
        monkeypatch.setattr(approval, "execute", lambda *_: preview)

    def execute(self) -> Any:
        return self.operator.execute(self.context)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


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
