"""Asking a person before a promotion, in a live Airflow: who answers, what counts where nobody does."""

from typing import Any

import pytest

from include.approval import question
from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, champion_key, move_champion, read_champion
from tasks.core.runs import read_record
from tests.faults.conftest import Airflow, Run, wait_for

ASKED: dict[str, Any] = {"require_approval": True, "min_macro_f1": 0}


def decision(run: Run) -> dict[str, Any]:
    made: dict[str, Any] = Artifact.open(run.record()["promote"][0]["artifact"]).json("decision.json")
    return made


def answer(run: Run, option: str, note: str) -> None:
    """As the form under Required Actions does."""
    wait_for(lambda: run.task("approve")["state"] == "awaiting_input", "the question", pause=1)
    path = f"{run.path}/taskInstances/approve/-1/hitlDetails"
    asked = run.airflow.ask("GET", path)
    assert asked["options"] == ["Approve", "Hold"]
    assert "macro F1" in asked["body"]
    assert "[The run so far](http" in asked["body"]
    assert "/plugin/report)" in asked["body"]
    assert run.task("promote")["state"] is None
    # Where the answer comes before the scheduler has seen the task's process end, Airflow 3.3.2 takes the pause for a
    # failure and asks again. No person is so quick.
    run.airflow.settles()
    run.airflow.ask("PATCH", path, {"chosen_options": [option], "params_input": {"note": note}})


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_hold_then_nobody_answers_then_approve(airflow: Airflow) -> None:
    held = airflow.trigger(**ASKED, approval_hours=1)
    answer(held, "Hold", "the <b>blue</b> ones look wrong")
    held.succeeds()
    assert decision(held)["verdict"] == "HOLD"
    assert decision(held)["approval"] == {"answer": "hold", "by": "admin", "note": "the <b>blue</b> ones look wrong"}
    name = Artifact.open(held.record()["snapshot"][0]["artifact"]).json("snapshot.json")["dataset"]
    assert read_champion(airflow.store, name)[0] is None

    late = airflow.trigger(**ASKED, approval_hours=0.001)
    late.succeeds()
    assert decision(late)["verdict"] == "HOLD"
    assert decision(late)["approval"] == {"answer": "hold", "by": "nobody answered in time", "note": ""}

    # Cleared, it would ask about another champion by now; Airflow still has the first question.
    assert move_champion(airflow.store, name, Champion(f"{airflow.store_uri}/gone", None, "2026-01-01"), None)
    clear = {"dag_run_id": late.run_id, "task_ids": ["approve"], "include_downstream": True, "only_failed": False}
    airflow.ask("POST", "/api/v2/dags/retrain/clearTaskInstances", {**clear, "dry_run": False})
    wait_for(lambda: late.state == "failed", "the end of the run", pause=1)
    assert late.task("approve")["try_number"] == 2
    (failure,) = read_record(airflow.store, "retrain", late.run_id)["failed"]["approve"]
    assert failure["message"].startswith("Airflow still shows the question of the first time")
    airflow.store.delete(champion_key(name))

    approved = airflow.trigger(**ASKED, approval_hours=1)
    answer(approved, "Approve", "")
    approved.succeeds()
    assert decision(approved)["verdict"] == "PROMOTE"
    champion, _ = read_champion(airflow.store, name)
    assert champion is not None
    assert champion.model.endswith(decision(approved)["candidate"]["artifact"])


def test_names_in_the_question_are_text() -> None:
    model = {"architecture": "baseline", "macro_f1": 0.5}
    check = {"check": "class drop", "passed": True, "message": "none of <img src=x onerror=alert(1)> [a](http://b) `c`"}
    asked = question({"candidate": model, "champion": None, "comparison": None, "reasons": [check]}, "/report")
    assert r"none of \<img src=x onerror=alert\(1\)\> \[a\]\(http://b\) \`c\`" in asked
