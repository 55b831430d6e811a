"""Asking a person before a model is promoted: a question in Airflow's UI (Required Actions) or by its API.

    approval = Approval(task_id="approve", inputs={…}).output
    promote = step("promote", given=approval, …)

The task returns params for the step `promote`, none where the run wants no approval.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param

from include.links import report_url
from include.steps import failing_well, input_uris, run_params, section_of
from tasks.core.errors import GessoError
from tasks.core.settings import settings
from tasks.core.step import execute

APPROVE, HOLD = "Approve", "Hold"

ANSWERS = {"approve": APPROVE, "hold": HOLD}


class Approval(HITLOperator):
    """Asks whether to promote, where the run's params want that and the model passes every other check.

    Returns `{"approval": {answer, by, note}}`, a param of the step `promote`; {} where the run's params don't want
    that. A model that fails a check, or is in use already, is held without a question. In a backfill and where nobody
    is there (`GESSO_ATTENDED=no`) the default answer counts at once.

    Args:
        inputs: the URI, or URIs, of each input artifact of `promote`.
        options: the operator's.
    """

    template_fields: Sequence[str] = ("subject", "body", "inputs")

    def __init__(self, *, inputs: Mapping[str, Any], **options: Any) -> None:
        # A note that may be null is one that may be left out: else the form wants it before it takes an answer.
        text = "May stay empty. Goes into the decision and the report."
        note = Param(None, type=["null", "string"], title="Note", description=text)
        work = (options.get("default_args") or {}).get("execution_timeout")
        # The operator would take that timeout for how long to wait for the answer, and the DAG's params for the form.
        options |= {"execution_timeout": None, "params": {"note": note}}
        super().__init__(subject="Promote the new model?", options=[APPROVE, HOLD], **options)
        self.execution_timeout = work
        self.own_params = ("note",)
        self.inputs = inputs

    def execute(self, context: Any) -> Any:
        """Ask, or say why nobody is asked.

        Raises:
            AirflowFailException: no decision can be made, or Airflow shows the question of an earlier try.
            GessoError: as before, and another try may help.
        """
        with failing_well("approve"):
            params = run_params()
            if not (params.require_approval and section_of("promote", context, {}).model_dump()["promote"]):
                return {}
            # To ask, the decision must be known: with promote=false it is made, and nothing is moved.
            section = section_of("promote", context, {"promote": False})
            preview = execute("promote", input_uris(self.inputs), section, settings().store_uri).artifact
            decision = preview.json("decision.json")
        # A hold, not {}: `promote`, run again, may meet another champion, and would promote what nobody was asked for.
        if decision["in_use"]:
            return _answered("hold", "nobody was asked, since this very model is in use already")
        checks = [check for check in decision["reasons"] if check["check"] != "allowed"]
        if failed := [check["message"] for check in checks if not check["passed"]]:
            print("The model fails a check. " + " ".join(failed), flush=True)
            return _answered("hold", "nobody was asked, since the model failed a check")
        if not settings().attended or context["dag_run"].run_type == "backfill":
            return _answered(params.approval_default, "nobody could be asked")
        self.defaults = [ANSWERS[params.approval_default]]
        self.response_timeout = timedelta(hours=params.approval_hours)
        run = context["dag_run"]
        self.body = question(decision, report_url(run.dag_id, run.run_id))
        print(self.body, flush=True)
        with failing_well("approve"):
            self._check_what_is_shown(context["ti"].id)
        return super().execute(context)

    def _check_what_is_shown(self, ti_id: Any) -> None:
        """Send the question, and look at what Airflow keeps: the task's first one, which no call can change.

        The operator sends it once more, which changes nothing, and doesn't look at the reply.

        Raises:
            GessoError: Airflow shows another question.
        """
        # In a task they are there; where the DAG is parsed they would be too much.
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

        sent = CreateHITLDetailPayload(
            ti_id=ti_id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            multiple=self.multiple,
            params=self.serialized_params,
            assigned_users=[],
        )
        shown: Any = task_runner.SUPERVISOR_COMMS.send(sent)
        if any(getattr(shown, each) != getattr(sent, each) for each in ("subject", "body", "options", "defaults")):
            raise GessoError(
                "Airflow still shows the question of the first time, and can't change it: its scores, checks or "
                "default are no longer those of this model, which are in this task's log. Trigger a new run: it reuses "
                "what is made, and asks anew."
            )

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Take the answer, or the default after the timeout."""
        super().execute_complete(context, event)
        who = event["responded_by_user"]
        by = str(who["name"]) if who else "nobody answered in time"
        answer = next(answer for answer, option in ANSWERS.items() if option in event["chosen_options"])
        return _answered(answer, by, str((event["params_input"] or {}).get("note") or ""))


def _answered(answer: str, by: str, note: str = "") -> dict[str, Any]:
    print(f"{by}: {answer}. {note}".rstrip(), flush=True)
    return {"approval": {"answer": answer, "by": by, "note": note}}


def question(decision: Mapping[str, Any], report: str) -> str:
    """What a person needs to decide, as Markdown: the scores, the checks, and the address of the run's report."""
    candidate, champion, comparison = decision["candidate"], decision["champion"], decision["comparison"]
    rows = [("new", candidate["architecture"], candidate["macro_f1"])]
    if champion:
        rows.append(("champion", champion["architecture"], champion["macro_f1"]))
    lines = ["| model | network | macro F1 |", "|---|---|---|"]
    lines += [
        f"| {name} | {network} | {'–' if macro_f1 is None else format(macro_f1, '.3f')} |"
        for name, network, macro_f1 in rows
    ]
    if comparison:
        low, high = comparison["interval"]
        lines += ["", f"Difference {comparison['delta_macro_f1']:+.3f}, 90% interval {low:+.3f} to {high:+.3f}."]
    lines += ["", *(f"- {_plain(check['message'])}" for check in decision["reasons"] if check["check"] != "allowed")]
    lines += ["", f"[The run so far]({report})"]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text whose parts from the data set can't act as Markdown or HTML."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]()<>#+!|~" else sign for sign in text)
