"""The pages' routes, and who may ask for what.

    {dag_id}/{run_id}/report                         the run's report; while there is none, its steps so far
    {dag_id}/{run_id}/report/{artifact}/{number}     a picture of the report; report.html: the report as one file
    {dag_id}/{run_id}/files/{step}/{artifact}/{name} a picture or a table that a step wrote
    {dag_id}/{run_id}/ledger                         the ledger; ledger.csv, thumbnails/…
    {dag_id}/{run_id}/review                         POST: overrule images in the review file; review.csv: download it
    {dag_id}/history, {dag_id}/compare?run=&run=     the DAG's runs, and two of them side by side

Airflow mounts the app below /gesso (`include/links.py`) and protects nothing of it by itself: every route here asks
for a right.
"""

import gzip
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.configuration import conf
from fastapi import Depends, FastAPI, Form, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.exceptions import HTTPException

from include.links import base_url, prefix
from include.links import page as link
from include.pages import history as runs_history
from include.pages import ledger as runs_ledger
from include.pages import report as runs_report
from include.pages.runs import (
    Records,
    Run,
    begun_run,
    find_run,
    newest_records,
    open_file,
    progress,
    runs_of,
    steps_so_far,
)
from tasks.core.artifacts import Artifact
from tasks.core.errors import GessoError, NotFound
from tasks.core.ledger import REVIEW_VERDICTS, VERDICTS, Overruling, load_review, review_csv, review_uri, save_review
from tasks.page import environment, render

TEMPLATES = Path(__file__).parent / "templates"

#: Nothing runs, nothing is loaded from elsewhere, and no other site may frame it or be sent its forms.
POLICY = "default-src 'none'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'self'"
PAGE_POLICY = f"{POLICY}; style-src 'self'; form-action 'self'"
#: The report brings its own style. It is sandboxed: no script runs and no form is sent, whatever is in it. It is of
#: this site all the same, else the browser would not say who asks for its pictures.
REPORT_POLICY = f"{POLICY}; style-src 'unsafe-inline'; form-action 'none'; sandbox allow-same-origin allow-downloads"
#: A drawing by itself is of no site.
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"

#: For what stays as it is as long as its address does.
FOREVER = {"Cache-Control": "private, max-age=86400, immutable"}

#: How long a form may stay open before it is sent, in seconds.
FORM_SECONDS = 12 * 3600

#: How often the page of a run that goes on is loaded anew, in seconds.
RELOAD_SECONDS = 10

app = FastAPI(title="Gesso", docs_url=None, redoc_url=None, openapi_url=None)

may_see = Depends(requires_access_dag("GET", DagAccessEntity.RUN))
may_edit = Depends(requires_access_dag("PUT", DagAccessEntity.RUN))


@app.middleware("http")
async def _guarded(request: Request, call_next: Any) -> Response:
    """Add the headers that every answer has."""
    answer: Response = await call_next(request)
    answer.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    answer.headers.setdefault("Cache-Control", "private, no-cache")
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return answer


@app.exception_handler(GessoError)
def _explained(request: Request, error: GessoError) -> HTMLResponse:
    found = isinstance(error, NotFound)
    title = "Not there" if found else "This can't be shown"
    return _page("message.html.j2", {"title": title, "message": str(error)}, 404 if found else 500)


@app.exception_handler(HTTPException)
def _refused(request: Request, error: HTTPException) -> HTMLResponse:
    titles = {401: "Log in to Airflow first", 403: "Not allowed", 404: "Not there", 405: "Not there"}
    page = {"title": titles.get(error.status_code, "This can't be shown"), "message": str(error.detail)}
    return _page("message.html.j2", page, error.status_code)


@app.exception_handler(RequestValidationError)
def _misread(request: Request, error: RequestValidationError) -> HTMLResponse:
    wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return _page("message.html.j2", {"title": "This can't be understood", "message": wrong}, 422)


def _page(
    template: str, context: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    shared = {"style": f"{prefix()}/style.css?{_style()[1]}", "link": link}
    return HTMLResponse(render(template, {**shared, **context}, TEMPLATES), status, headers=headers)


@lru_cache
def _style() -> tuple[str, str]:
    """The style sheet, and a digest of it."""
    text = environment(TEMPLATES).get_template("pages.css").render()
    return text, hashlib.sha256(text.encode()).hexdigest()[:8]


@app.get("/style.css", dependencies=[Depends(get_user)])
def style() -> Response:
    return Response(_style()[0], media_type="text/css", headers={"Cache-Control": "private, max-age=86400"})


@app.get("/{dag_id}/{run_id}/report", dependencies=[may_see])
def report(dag_id: str, run_id: str, request: Request, wait: bool = True) -> Response:
    try:
        run = find_run(dag_id, run_id)
    except NotFound:
        run = None
    made = run.artifacts("report") if run and not run.record.get("failed") else []
    if made:
        return _report(made[-1], request)
    airflow = progress(dag_id, run_id)
    if run is None and not airflow.state:
        raise NotFound(f"There is no run {run_id} of {dag_id}, or none that Gesso's steps belong to.")
    run = run or begun_run(dag_id, run_id)
    steps = steps_so_far(run, airflow)
    context = {
        "run": run,
        "airflow": airflow,
        "waits": airflow.goes_on and wait,
        "seconds": RELOAD_SECONDS,
        "steps": steps,
        "done": sum(step["state"] == "success" for step in steps),
    }
    return _page("steps.html.j2", context, headers={"Refresh": str(RELOAD_SECONDS)} if context["waits"] else None)


@app.get("/{dag_id}/{run_id}/files/{step}/{artifact}/{name:path}", dependencies=[may_see])
def file(dag_id: str, run_id: str, step: str, artifact: str, name: str) -> Response:
    data, kind = open_file(find_run(dag_id, run_id), step, artifact, name)
    if kind == "text/csv":
        return _download(data, Path(name).name)
    return Response(data, media_type=kind, headers={**FOREVER, "Content-Security-Policy": FILE_POLICY})


def _report(artifact: Artifact, request: Request) -> Response:
    headers = {"Content-Security-Policy": REPORT_POLICY, "ETag": f'"{artifact.key}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return _packed(runs_report.packed(artifact), request, headers)


def _packed(html: bytes, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """A page that is compressed with gzip already; unpacked for the rare client that can't."""
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        return HTMLResponse(gzip.decompress(html), headers=headers)
    return HTMLResponse(html, headers={**(headers or {}), "Content-Encoding": "gzip"})


@app.get("/{dag_id}/{run_id}/report/{artifact}/{number}", dependencies=[may_see])
def report_picture(dag_id: str, run_id: str, artifact: str, number: int) -> Response:
    made = find_run(dag_id, run_id).artifact("report")
    if made.key != artifact:
        raise NotFound("The run was repeated meanwhile and has another report now. Open it anew.")
    data, kind = runs_report.picture(made, number)
    return Response(data, media_type=kind, headers={**FOREVER, "Content-Security-Policy": FILE_POLICY})


@app.get("/{dag_id}/{run_id}/report.html", dependencies=[may_see])
def report_file(dag_id: str, run_id: str) -> Response:
    """The report as it was written, with all that is in it."""
    data = find_run(dag_id, run_id).artifact("report").path("report.html").read_bytes()
    return _download(data, "report.html", "text/html")


@app.get("/{dag_id}/{run_id}/ledger", dependencies=[may_see])
def ledger(
    dag_id: str,
    run_id: str,
    user: GetUserDep,
    class_name: Annotated[str, Query(alias="class")] = "",
    verdict: str = "",
    decided_by: str = "",
    reason: str = "",
    page: int = 1,
) -> Response:
    asked = runs_ledger.Filter(class_name, verdict, decided_by, reason.strip(), page)
    return _ledger(find_run(dag_id, run_id), asked, user)


def _ledger(run: Run, asked: runs_ledger.Filter, user: Any) -> Response:
    found = runs_ledger.look_up(run, asked)
    where = _review_uri(run)
    try:
        (reviewed, etag), broken = load_review(where), ""
    except GessoError as error:  # the ledger can be read all the same
        reviewed, etag, broken = {}, None, str(error)
    context = {
        "run": run,
        "asked": asked,
        "page": found,
        "ledger": run.artifact("resample").key,
        "counts": runs_ledger.verdict_counts(run),
        "verdicts": VERDICTS,
        "decided_by": runs_ledger.DECIDED_BY,
        "choices": REVIEW_VERDICTS,
        "reviewed": reviewed,
        "where": where,
        "broken": broken,
        "etag": etag or "",
        "token": _token(run, user),
        "may_edit": _may_edit(run, user),
    }
    return _page("ledger.html.j2", context)


@app.get("/{dag_id}/{run_id}/ledger.csv", dependencies=[may_see])
def ledger_csv(dag_id: str, run_id: str) -> Response:
    return _download(find_run(dag_id, run_id).artifact("resample").path("ledger.csv").read_bytes(), "ledger.csv")


def _download(data: bytes, name: str, kind: str = "text/csv") -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


@app.get("/{dag_id}/{run_id}/thumbnails/{ledger}/{row}", dependencies=[may_see])
def thumbnail(dag_id: str, run_id: str, ledger: str, row: int) -> Response:
    data = runs_ledger.thumbnail(find_run(dag_id, run_id), ledger, row)
    return Response(data, media_type="image/jpeg", headers=FOREVER)


def _review_uri(run: Run) -> str:
    return review_uri(str(run.record["params"].get("review") or ""), run.dataset)


class Ticked:
    """What a review form says: the images that are ticked, the verdict on them, and what its writer had seen."""

    def __init__(
        self,
        request: Request,
        dag_id: str,
        run_id: str,
        user: GetUserDep,
        token: Annotated[str, Form()],
        ledger: Annotated[str, Form()],
        verdict: Annotated[str, Form()] = "",
        rows: Annotated[list[int] | None, Form(alias="row")] = None,
        note: Annotated[str, Form(max_length=500)] = "",
        seen: Annotated[str, Form()] = "",
        both: Annotated[str, Form()] = "",
    ) -> None:
        self.run, self.user = find_run(dag_id, run_id), user
        _check_origin(request)
        _check_token(token, self.run, user)
        if verdict not in REVIEW_VERDICTS:
            raise HTTPException(422, f"Choose a verdict: {' or '.join(REVIEW_VERDICTS)}.")
        self.rows, self.verdict, self.note = rows or [], verdict, " ".join(note.split())
        self.ledger, self.seen, self.both = ledger, seen or None, both
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.given = {
            key: Overruling(key, verdict, str(user.get_name()), when, self.note)
            for key in runs_ledger.keys_of(self.run, ledger, self.rows)
        }
        # A verdict is about a picture, so its line takes the place of those on the picture's exact copies.
        self.copies = runs_ledger.copies_of(self.run, self.given)

    def theirs(self, there: Mapping[str, Overruling]) -> dict[str, Overruling]:
        """What the file says of the ticked images, at their own keys or those of their exact copies."""
        lines = sorted(there.items(), key=lambda line: line[0] in self.given)  # its own key's line counts
        return {self.copies[key]: line for key, line in lines if key in self.copies}

    def with_given(self, there: Mapping[str, Overruling], given: Mapping[str, Overruling]) -> dict[str, Overruling]:
        """The file's lines and these of the ticked images', which replace what it says of the same pictures."""
        return {key: line for key, line in there.items() if self.copies.get(key) not in given} | dict(given)


@app.post("/{dag_id}/{run_id}/review", dependencies=[may_edit])
def review(ticked: Annotated[Ticked, Depends()]) -> Response:
    """Write the ticked images' verdicts into the review file, unless somebody changed it since the form was opened."""
    if not ticked.given:
        raise HTTPException(422, "No image is ticked. Go back, tick the images that you want to overrule, and save.")
    where = _review_uri(ticked.run)
    while True:
        there, etag = load_review(where)
        if etag != ticked.seen:
            return _conflict(ticked, where, there, etag)
        given = ticked.given
        if ticked.both == "theirs":
            theirs = ticked.theirs(there)
            given = {key: line for key, line in given.items() if key not in theirs}
        if save_review(where, ticked.with_given(there, given), etag):
            images = "1 image is" if len(given) == 1 else f"{len(given)} images are"
            said = f"{images} overruled to {ticked.verdict} in {where}. The next run goes by it."
            return _page("saved.html.j2", {"run": ticked.run, "said": said, "lines": list(given.values())})


def _conflict(ticked: Ticked, where: str, there: dict[str, Overruling], etag: str | None) -> Response:
    """Show what the file says by now, and let the person choose: every line of the others stays in either case."""
    latest = max(there.values(), key=lambda line: line.when, default=None)
    theirs = ticked.theirs(there)
    context = {
        "run": ticked.run,
        "ticked": ticked,
        "where": where,
        "latest": latest,
        "both": [(line, theirs[key]) for key, line in ticked.given.items() if key in theirs],
        "others": sum(key not in theirs for key in ticked.given),
        "etag": etag or "",
        "token": _token(ticked.run, ticked.user),
    }
    return _page("conflict.html.j2", context, 409)


@app.post("/{dag_id}/{run_id}/review.csv", dependencies=[may_see])
def review_file(ticked: Annotated[Ticked, Depends()]) -> Response:
    """The review file with the ticked images' verdicts, to download; what is saved stays as it is."""
    there, _ = load_review(_review_uri(ticked.run))
    return _download(review_csv(ticked.with_given(there, ticked.given)), "review.csv")


@app.get("/{dag_id}/history", dependencies=[may_see])
def history(dag_id: str, request: Request) -> Response:
    records = newest_records(dag_id, runs_history.MOST)
    return _packed(_history(records, runs_history.models_in_use(runs_of(records))), request)


@lru_cache(8)
def _history(records: Records, models: frozenset[str]) -> bytes:
    """The history, compressed: it changes when a record does, or the model in use."""
    shown = runs_history.lines(runs_of(records), models)
    context = {"dag_id": records.dag_id, "lines": shown, "chart": runs_history.chart(shown), "most": runs_history.MOST}
    return gzip.compress(bytes(_page("history.html.j2", context).body), 6, mtime=0)


@app.get("/{dag_id}/compare", dependencies=[may_see])
def compare(dag_id: str, run: Annotated[list[str] | None, Query()] = None) -> Response:
    if len(set(run or [])) != 2:
        raise HTTPException(422, "Two runs are compared. Go back and tick two.")
    left, right = (find_run(dag_id, each) for each in run or [])
    return _page("compare.html.j2", {"dag_id": dag_id, **runs_history.compare(left, right)})


# A form is taken from this site's own pages alone.


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(conf.get_mandatory_value("api", "secret_key"), salt="gesso review")


def _token(run: Run, user: Any) -> str:
    """What a form must bring along: made for this person and this run."""
    return str(_signer().dumps([user.get_id(), run.dag_id, run.run_id]))


def _check_token(token: str, run: Run, user: Any) -> None:
    try:
        made_for = _signer().loads(token, max_age=FORM_SECONDS)
    except BadData:
        made_for = None
    if made_for != [user.get_id(), run.dag_id, run.run_id]:
        raise HTTPException(403, "The form is too old, or not from this page. Open the ledger anew and tick again.")


def _check_origin(request: Request) -> None:
    """Refuse what another site had the browser send."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = {request.headers.get("Host"), urlsplit(base_url()).netloc} - {None, ""}
    if site not in (None, "same-origin") or (origin is not None and urlsplit(origin).netloc not in own):
        raise HTTPException(403, "Another site sent this form.")
    if site is None and origin is None:
        raise HTTPException(403, "The browser doesn't say which site sent this form.")


def _may_edit(run: Run, user: Any) -> bool:
    from airflow.models.dag import DagModel

    details = DagDetails(id=run.dag_id, team_name=DagModel.get_team_name(run.dag_id))
    allowed: bool = get_auth_manager().is_authorized_dag(
        method="PUT", access_entity=DagAccessEntity.RUN, details=details, user=user
    )
    return allowed
