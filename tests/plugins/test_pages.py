"""Pages in the Airflow UI: who may see and save what, that nothing runs or leads elsewhere, that no edit is lost."""

import base64
import html
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from airflow import plugins_manager
from fastapi.testclient import TestClient

from include.pages.history import HEIGHT, Line, chart
from tasks.core.champion import Champion, move_champion
from tasks.core.ledger import Overruling, load_review, read_review, save_review
from tasks.core.runs import record_failure
from tasks.core.step import NAMES
from tasks.core.store import LocalStore
from tests.plugins.conftest import BASE, PEOPLE, RUN

Browser = Callable[[str], TestClient]
Make = Callable[..., dict[str, Any]]

HOSTILE = '"><img src=x onerror=alert(1)>'
PATHS = (f"{RUN}/report", f"{RUN}/ledger", f"{RUN}/ledger.csv", "history", f"compare?run={quote(RUN)}&run=other")


def address(path: str) -> str:
    return f"/gesso/retrain/{quote(path, safe='/?&=%')}"


def text(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


class Form:
    """The review form on a page of the ledger, as a browser would send it."""

    def __init__(self, client: TestClient, path: str = f"{RUN}/ledger") -> None:
        self.client, self.page = client, client.get(address(path)).text
        self.fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', self.page))
        keys = re.findall(r'name="row" value="(\d+)"> <bdi>([^<]*)</bdi>', self.page)
        self.rows = {html.unescape(key): row for row, key in keys}

    def send(self, keys: list[str], verdict: str, to: str = "review", headers: Any = None, **fields: str) -> Any:
        data = {**self.fields, "verdict": verdict, **fields, "row": [self.rows[key] for key in keys]}
        sent = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"} if headers is None else headers
        return self.client.post(address(f"{RUN}/{to}"), data=data, headers=sent)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (folder := tmp_path / "data").mkdir()
    return folder


def test_who_may_see(browser: Browser, make_run: Make) -> None:
    make_run()
    make_run("other")
    for person, allowed in (("", 401), ("stranger", 403), ("viewer", 200), ("kim", 200)):
        for path in (*map(address, PATHS), "/gesso/style.css"):
            # The style sheet says nothing about any run.
            status = 200 if person and path.endswith("style.css") else allowed
            answer = browser(person).get(path)
            assert answer.status_code == status, (person, path)
            assert answer.headers["X-Content-Type-Options"] == "nosniff", (person, path)
            assert status == 200 or "L2_3" not in answer.text, (person, path)


@pytest.mark.parametrize("path", ["", "docs", "redoc", "openapi.json", "retrain", "retrain/x/y/z"])
def test_nothing_else_is_served(browser: Browser, path: str) -> None:
    for person in ("", *PEOPLE):
        assert browser(person).get(f"/gesso/{path}").status_code in (404, 405)


def test_a_token_in_a_header_does_too(browser: Browser, make_run: Make) -> None:
    make_run()
    with_cookie, plain = browser("viewer"), browser("")
    token = with_cookie.cookies["_token"]
    assert plain.get(address(f"{RUN}/report"), headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_the_policy_lets_nothing_run_and_nothing_in(browser: Browser, make_run: Make, path: str) -> None:
    make_run()
    if path.startswith("compare"):
        make_run("other")
    policy = browser("kim").get(address(path)).headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) if " " in rule else (rule, "") for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "script-src" not in rules
    assert "connect-src" not in rules
    assert rules["base-uri"] == "'none'"
    assert rules["frame-ancestors"] == "'self'"
    assert rules["form-action"] in ("'self'", "'none'")
    if path.endswith("report"):
        assert "allow-scripts" not in rules["sandbox"]
        assert "allow-forms" not in rules["sandbox"]
    else:
        assert rules["style-src"] == "'self'"


def test_the_report_is_the_artifact_with_its_pictures_apart(browser: Browser, make_run: Make) -> None:
    report = make_run()["report"]
    made = report.path("report.html").read_bytes().decode()
    client = browser("viewer")
    answer = client.get(address(f"{RUN}/report"))
    embedded = re.findall(r'src="data:(image/[^;]+);base64,([^"]+)"', made)
    assert len(embedded) > 10
    page = answer.text
    for number, (kind, data) in enumerate(embedded):
        where = f"report/{report.key}/{number}"
        picture = client.get(address(f"{RUN}/{where}"))
        assert (picture.content, picture.headers["Content-Type"]) == (base64.b64decode(data), kind)
        assert browser("").get(address(f"{RUN}/{where}")).status_code == 401
        page = page.replace(f'src="{where}"', f'src="data:{kind};base64,{data}"')
    page = page.replace("img-src 'self' data:", "img-src data:").replace('<a href="report.html">Download</a>', "")
    assert page == made, "nothing else is changed"
    assert client.get(address(f"{RUN}/report"), headers={"Accept-Encoding": "identity"}).text == answer.text
    again = client.get(address(f"{RUN}/report"), headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    download = client.get(address(f"{RUN}/report.html"))
    assert download.content == made.encode()
    assert download.headers["Content-Disposition"].startswith("attachment")
    for path in (f"{report.key}/{len(embedded)}", f"{report.key}/-1", f"{'0' * 32}/0"):
        assert client.get(address(f"{RUN}/report/{path}")).status_code == 404


def test_without_a_report_the_steps_so_far_are_shown(
    browser: Browser, make_run: Make, airflow_run: Callable[..., None], store: LocalStore
) -> None:
    make_run(without=("train", "evaluate", "promote", "report"))
    airflow_run("running")
    answer = browser("viewer").get(address(f"{RUN}/report"))
    assert answer.headers["Refresh"] == "10"
    shown = text(answer.text)
    assert "The run goes on" in shown
    assert "8 of 12 steps are done" in shown
    assert "snapshot done 1.5 s 64 images" in shown
    assert re.search(r"scan done 3\.0 s .*31 images.*30 images", shown)
    assert "train not begun –" in shown
    assert "Refresh" not in browser("viewer").get(address(f"{RUN}/report?wait=false")).headers

    record_failure(store, "retrain", RUN, "train", f"{HOSTILE} is no picture.", {"architecture": "vgg"})
    page = browser("viewer").get(address(f"{RUN}/report")).text
    assert f"train failed – Failed vgg: {HOSTILE} is no picture." in text(page)
    assert "<img src=x" not in page


def test_a_run_that_is_run_again_and_fails_says_why(
    browser: Browser, make_run: Make, airflow_run: Callable[..., None], store: LocalStore
) -> None:
    make_run()
    airflow_run("failed")
    record_failure(store, "retrain", RUN, "validate", "The store is away.")
    shown = text(browser("viewer").get(address(f"{RUN}/report")).text)
    assert "validate failed" in shown
    assert "The store is away." in shown


def test_pictures_and_tables_of_the_steps_so_far(
    browser: Browser, make_run: Make, airflow_run: Callable[..., None]
) -> None:
    made = make_run(without=("evaluate", "promote", "report"))
    other = make_run("other", classes={"secret": 12, "L2_3": 12})
    airflow_run("running")
    client = browser("viewer")
    page = client.get(address(f"{RUN}/report")).text
    pictures = [html.unescape(each) for each in re.findall(r'<img src="([^"]*)"', page)]
    tables = [html.unescape(each) for each in re.findall(r'<a href="([^"]*/files/[^"]*)"', page)]
    eda = made["eda"]
    drawn = [name for name in eda.names() if name.endswith(".svg")]
    assert drawn
    for name in drawn:
        (found,) = [each for each in pictures if each.endswith(f"/files/eda/{eda.key}/{name}")]
        answer = client.get(found)
        assert answer.content == eda.path(name).read_bytes()
        assert answer.headers["Content-Type"] == "image/svg+xml"
        assert "sandbox" in answer.headers["Content-Security-Policy"], "a drawing may hold a script"
        assert browser("").get(found).status_code == 401
        assert browser("stranger").get(found).status_code == 403
    assert any(each.endswith("/ledger.csv") for each in tables)
    for each in tables:
        assert client.get(each).headers["Content-Disposition"].startswith("attachment")
    for path in (
        f"eda/{other['eda'].key}/{drawn[0]}",
        f"eda/{eda.key}/nothing.svg",
        f"eda/{eda.key}/formats.parquet",
        f"eda/{eda.key}/..%2f..%2fartifact.json",
        f"eda/{eda.key}/%2e%2e/%2e%2e/secret.svg",
        f"another/{eda.key}/{drawn[0]}",
        f"%2e%2e/{eda.key}/{drawn[0]}",
    ):
        assert client.get(f"{address(f'{RUN}/files')}/{path}").status_code == 404, path


def test_a_run_that_has_ended_no_step_yet(browser: Browser, airflow_run: Callable[..., None]) -> None:
    airflow_run("queued")
    assert "snapshot not begun" in text(browser("viewer").get(address(f"{RUN}/report")).text)
    answer = browser("viewer").get(address("another/report"))
    assert answer.status_code == 404
    assert "There is no run another of retrain" in answer.text


def test_the_ledger_is_filtered_and_paged(browser: Browser, make_run: Make) -> None:
    made = make_run(classes={"L2_3": 14, "L2_10": 150, HOSTILE: 20})
    ledger = made["resample"].table("ledger.parquet")
    client = browser("viewer")

    def shown(**query: Any) -> tuple[str, list[str]]:
        page = client.get(address(f"{RUN}/ledger"), params=query).text
        assert "<img src=x" not in page
        keys = [html.unescape(key) for key in re.findall(r'name="row" value="\d+"[^>]*> <bdi>([^<]*)</bdi>', page)]
        return text(page), keys

    assert len(shown()[1]) == 60
    assert shown()[0].count("184 of 184 images") == 1
    pages = [shown(page=page)[1] for page in (1, 2, 3, 4)]
    assert [key for keys in pages for key in keys] == ledger["key"].tolist()
    assert shown(page=99)[1] == shown(page=-1, **{"class": ""})[1] or shown(page=99)[1] == pages[-1]
    left_out = client.get(address(f"{RUN}/ledger"), params={"decided_by": "validation"}).text
    assert (
        left_out.count('type="checkbox"')
        == left_out.count(" disabled title=")
        == min(60, (ledger["decided_by"] == "validation").sum())
        > 0
    )
    assert " disabled title=" not in client.get(address(f"{RUN}/ledger"), params={"decided_by": "clustering"}).text
    for query, wanted in [
        ({"class": HOSTILE}, ledger["class"] == HOSTILE),
        ({"verdict": "photo"}, ledger["verdict"] == "photo"),
        ({"decided_by": "person"}, ledger["decided_by"] == "person"),
        ({"reason": "SAME BYTES"}, ledger["reason"].str.contains("same bytes")),
        ({"reason": "0005.jpg", "class": "L2_3"}, (ledger["key"] == "L2_3/0005.jpg")),
        ({"reason": "(.*"}, ledger["key"] == ""),
    ]:
        assert shown(**query)[1] == ledger.loc[wanted, "key"].tolist()[:60], query
    assert client.get(address(f"{RUN}/ledger?page=x")).status_code == 422
    csv = client.get(address(f"{RUN}/ledger.csv"))
    assert csv.content == made["resample"].path("ledger.csv").read_bytes()
    assert csv.headers["Content-Disposition"].startswith("attachment")


def test_every_readable_image_has_its_own_thumbnail(browser: Browser, make_run: Make) -> None:
    made = make_run()
    thumbnails: dict[str, bytes] = {}
    for scan in made["scan"]:
        table = scan.table("thumbnails.parquet")
        thumbnails |= dict(zip(table["key"], table["jpeg"], strict=True))
    key = made["resample"].key
    for row, image in enumerate(made["resample"].table("ledger.parquet")["key"]):
        answer = browser("viewer").get(address(f"{RUN}/thumbnails/{key}/{row}"))
        assert (answer.content if answer.status_code == 200 else None) == thumbnails.get(image)


def test_nothing_outside_the_runs_artifacts_can_be_asked_for(
    browser: Browser, make_run: Make, store: LocalStore
) -> None:
    made = make_run()
    other = make_run("other", classes={"secret": 12, "L2_3": 12})
    store.put("runs/secret.json", b'{"steps": {}}')
    store.put("secret.json", b'{"steps": {"report": [{"artifact": "secret"}]}}')
    client, key = browser("kim"), made["resample"].key
    for path in (
        f"{RUN}/thumbnails/{other['resample'].key}/0",
        f"{RUN}/thumbnails/{key}/-1",
        f"{RUN}/thumbnails/{key}/100000",
        f"{RUN}/thumbnails/{key}/..%2f..%2fsecret",
        f"{RUN}/thumbnails/..%2f{key}/0",
        "..%2f..%2fsecret/report",
        "%2e%2e/report",
        "..%5c..%5csecret/report",
        "x%00/report",
        "./report",
    ):
        answer = client.get(f"/gesso/retrain/{path}")
        assert answer.status_code in (404, 422), path
    for dag in ("%2e%2e", "..%2f..", "%2e%2e%2fruns"):
        assert client.get(f"/gesso/{dag}/secret/report").status_code == 404
        assert client.get(f"/gesso/{dag}/history").status_code in (200, 404)


@pytest.mark.parametrize(
    "artifact",
    ["/etc/artifacts/report/passwd", "artifacts/report/../../secret", "s3://elsewhere/artifacts/report/" + "0" * 32],
)
def test_a_record_leads_to_artifacts_of_its_store_alone(browser: Browser, make_run: Make, artifact: str) -> None:
    """Only step and key count; nobody is asked for what stands before them."""
    made = make_run()
    entry = {"metrics": {}, "seconds": 1.0, "reused": False, "artifact": artifact}
    steps = {"snapshot": [entry | {"artifact": made["snapshot"].uri}], "report": [entry]}
    make_run("bad", record={"steps": steps})
    assert "There is no report" in browser("kim").get(address("bad/report")).text


def test_overruling_names_who_when_and_why(browser: Browser, make_run: Make, data: Path) -> None:
    make_run()
    (data / "review.csv").write_text("key,verdict\nL2_10/0020.jpg,photo\n")
    form = Form(browser("kim"))
    answer = form.send(["L2_10/0006.jpg", "L2_10/0007.jpg"], "illustration", note="  =a\n<b>drawing</b> ")
    assert answer.status_code == 200
    assert "2 images are overruled to illustration" in text(answer.text)
    assert "<b>drawing" not in answer.text
    lines, _ = load_review(f"{data}/review.csv")
    assert lines["L2_10/0020.jpg"] == Overruling("L2_10/0020.jpg", "photo"), "what was there stays"
    line = lines["L2_10/0006.jpg"]
    assert (line.verdict, line.who, line.note) == ("illustration", "kim", "=a <b>drawing</b>")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line.when)
    written = (data / "review.csv").read_bytes()
    assert read_review(written, "it").keys() == lines.keys()
    assert b",'=a <b>" in written, "no spreadsheet runs the note"
    assert "Review: illustration by kim" in text(browser("viewer").get(address(f"{RUN}/ledger")).text)


def test_a_verdict_replaces_those_on_exact_copies(browser: Browser, make_run: Make, data: Path) -> None:
    make_run()
    (data / "review.csv").write_text("key,verdict\nL2_10/0001.jpg,photo\nL2_10/0020.jpg,photo\n")
    form = Form(browser("kim"))
    downloaded = form.send(["L2_10/0000.jpg"], "illustration", to="review.csv").content
    assert form.send(["L2_10/0000.jpg"], "illustration").status_code == 200
    written = (data / "review.csv").read_bytes()
    for file in (downloaded, written):
        assert read_review(file, "it") == {"L2_10/0000.jpg": "illustration", "L2_10/0020.jpg": "photo"}


@pytest.mark.parametrize(("both", "kept"), [("theirs", "L2_10/0001.jpg"), ("mine", "L2_10/0000.jpg")])
def test_a_colleagues_verdict_on_an_exact_copy_is_shown_first(
    browser: Browser, make_run: Make, data: Path, both: str, kept: str
) -> None:
    make_run()
    form, where = Form(browser("kim")), f"{data}/review.csv"
    assert save_review(where, {"L2_10/0001.jpg": Overruling("L2_10/0001.jpg", "photo", "lee")}, None)
    answer = form.send(["L2_10/0000.jpg", "L2_10/0006.jpg"], "illustration")
    assert answer.status_code == 409
    assert "L2_10/0000.jpg illustration photo lee" in text(answer.text)
    assert "add my other 1" in text(answer.text)
    seen = re.search(r'name="seen" value="([^"]*)"', answer.text)
    assert seen
    form.send(["L2_10/0000.jpg", "L2_10/0006.jpg"], "illustration", seen=html.unescape(seen[1]), both=both)
    assert sorted(load_review(where)[0]) == [kept, "L2_10/0006.jpg"]


def test_the_runs_review_param_says_where(browser: Browser, make_run: Make, tmp_path: Path, data: Path) -> None:
    make_run(record={"params": {"review": f"{tmp_path}/mine.csv"}})
    assert Form(browser("kim")).send(["L2_10/0006.jpg"], "photo").status_code == 200
    assert list(load_review(f"{tmp_path}/mine.csv")[0]) == ["L2_10/0006.jpg"]
    assert not (data / "review.csv").exists()


def test_downloading_changes_nothing(browser: Browser, make_run: Make, data: Path) -> None:
    make_run()
    (data / "review.csv").write_text("key,verdict\nL2_10/0020.jpg,photo\n")
    answer = Form(browser("viewer")).send(["L2_10/0006.jpg"], "illustration", to="review.csv")
    assert read_review(answer.content, "it") == {"L2_10/0006.jpg": "illustration", "L2_10/0020.jpg": "photo"}
    assert (data / "review.csv").read_text() == "key,verdict\nL2_10/0020.jpg,photo\n"


@pytest.mark.parametrize("choice", ["theirs", "mine"])
def test_a_colleagues_edits_are_never_lost(browser: Browser, make_run: Make, data: Path, choice: str) -> None:
    make_run()
    kim, lee = Form(browser("kim")), Form(browser("lee"))
    assert kim.send(["L2_10/0006.jpg", "L2_10/0008.jpg"], "photo", note="<i>mine</i>").status_code == 200
    before = (data / "review.csv").read_bytes()
    answer = lee.send(["L2_10/0006.jpg", "L2_10/0009.jpg"], "illustration")
    assert answer.status_code == 409
    assert (data / "review.csv").read_bytes() == before
    shown = text(answer.text)
    assert "Nothing is saved yet" in shown
    assert "Its newest line is by kim" in shown
    assert "L2_10/0006.jpg illustration photo kim" in shown
    assert "<i>mine" not in answer.text

    lee.fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.text))
    lee.fields.pop("row"), lee.fields.pop("verdict")
    assert lee.send(["L2_10/0006.jpg", "L2_10/0009.jpg"], "illustration", both=choice).status_code == 200
    lines, _ = load_review(f"{data}/review.csv")
    assert {key: (line.verdict, line.who) for key, line in lines.items()} == {
        "L2_10/0006.jpg": ("photo", "kim") if choice == "theirs" else ("illustration", "lee"),
        "L2_10/0008.jpg": ("photo", "kim"),
        "L2_10/0009.jpg": ("illustration", "lee"),
    }


def test_an_edit_between_reading_and_writing_is_a_conflict_too(
    browser: Browser, make_run: Make, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.pages import app

    make_run()
    form, where = Form(browser("kim")), f"{data}/review.csv"

    def slow(uri: str, lines: Any, etag: str | None) -> bool:
        monkeypatch.setattr(app, "save_review", save_review)
        assert save_review(uri, {"L2_10/0001.jpg": Overruling("L2_10/0001.jpg", "photo", "lee")}, etag)
        return save_review(uri, lines, etag)

    monkeypatch.setattr(app, "save_review", slow)
    assert form.send(["L2_10/0006.jpg"], "photo").status_code == 409
    assert list(load_review(where)[0]) == ["L2_10/0001.jpg"]


def test_who_may_save(browser: Browser, make_run: Make, data: Path) -> None:
    make_run()
    form = Form(browser("viewer"))
    assert "You may not edit this run" in form.page
    assert form.send(["L2_10/0006.jpg"], "photo").status_code == 403
    form.client = browser("")
    assert form.send(["L2_10/0006.jpg"], "photo").status_code == 401
    assert not (data / "review.csv").exists()


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"Origin": "https://evil.test"}, {}),
        ({"Origin": "null"}, {}),
        ({"Origin": BASE, "Sec-Fetch-Site": "cross-site"}, {}),
        ({"Origin": BASE, "Sec-Fetch-Site": "same-site"}, {}),
        ({"Sec-Fetch-Site": "none"}, {}),
        ({}, {}),
        (None, {"token": "-"}),
        (None, {"token": "x.y.z"}),
        (None, {"token": "of another person"}),
        (None, {"token": "of another run"}),
    ],
)
def test_another_site_cannot_save(
    browser: Browser, make_run: Make, data: Path, headers: Any, fields: dict[str, str]
) -> None:
    make_run()
    make_run("other")
    form = Form(browser("kim"))
    if fields.get("token") == "of another person":
        fields["token"] = Form(browser("lee")).fields["token"]
    if fields.get("token") == "of another run":
        fields["token"] = Form(browser("kim"), "other/ledger").fields["token"]
    assert form.send(["L2_10/0006.jpg"], "photo", headers=headers, **fields).status_code == 403
    assert not (data / "review.csv").exists()


def test_what_a_form_cannot_say(browser: Browser, make_run: Make, data: Path) -> None:
    make_run()
    form = Form(browser("kim"))
    assert form.send(["L2_10/0006.jpg"], "delete").status_code == 422
    assert form.send([], "photo").status_code == 422
    assert form.send(["L2_10/0006.jpg"], "photo", note="n" * 501).status_code == 422
    form.rows["far"] = "100000"
    assert form.send(["far"], "photo").status_code == 404
    form.fields["ledger"] = "0" * 32
    assert form.send(["L2_10/0006.jpg"], "photo").status_code == 404
    assert not (data / "review.csv").exists()


def test_a_review_file_that_is_none_stays(browser: Browser, make_run: Make, data: Path) -> None:
    make_run()
    (data / "review.csv").write_text("<b>not one</b>\n")
    form = Form(browser("kim"))
    assert "has no column key, verdict" in text(form.page)
    answer = form.send(["L2_10/0006.jpg"], "photo")
    assert answer.status_code == 500
    assert "has no column key, verdict" in text(answer.text)
    assert (data / "review.csv").read_text() == "<b>not one</b>\n"


def test_the_history_marks_what_is_in_use(browser: Browser, make_run: Make, store: LocalStore, tmp_path: Path) -> None:
    made = make_run("first", verdict="PROMOTE", record={"as_of": "2026-01-04T00:00:00+00:00"})
    make_run("second", architectures=("vgg",), record={"as_of": "2026-01-11T00:00:00+00:00"})
    make_run("third", without=("evaluate", "promote", "report"), record={"as_of": "2026-01-18T00:00:00+00:00"})
    store.put("runs/retrain/broken.json", b"{")
    move_champion(store, str(tmp_path / "data"), Champion(made["train"][0].uri, None, "now"), None)
    page = browser("viewer").get(address("history")).text
    shown = text(page)
    assert "3 runs" in shown
    assert "2026-01-18 00:00 UTC – – 64 6" in shown
    assert shown.index("third") < shown.index("second") < shown.index("first"), "newest data first"
    assert "2026-01-11 00:00 UTC HOLD 0.789 64 6" in shown
    assert "2026-01-04 00:00 UTC PROMOTE in use 0.789 64 6" in shown
    assert page.count('class="in-use"') == 1
    assert (page.count('class="promoted"'), page.count('class="held"')) == (1, 1)
    assert page.count('class="bar-images"') == 3


@pytest.mark.parametrize("scores", [[1.0, 1.0], [0.0, 0.0], [0.95, 1.0], [0.0, 1.0], [0.789]])
def test_the_history_draws_any_score(scores: list[float]) -> None:
    shown = [Line(f"run {score}", "", "manual", score, 64, 6, 1.0, "HOLD", False) for score in scores]
    drawn = chart(shown)
    assert drawn is not None
    assert all(10 <= mark["y"] <= HEIGHT - 10 for mark in drawn["marks"])
    low, middle, high = (tick["value"] for tick in drawn["scores"])
    assert 0 <= low < middle < high <= 1


def test_a_dag_without_runs_has_an_empty_history(browser: Browser) -> None:
    assert "has ended a step yet" in browser("viewer").get(address("history")).text


def test_two_runs_side_by_side(browser: Browser, make_run: Make) -> None:
    make_run("one", record={"params": {"epochs": 3, "seed": 0, "note": HOSTILE}})
    make_run("two", record={"params": {"epochs": 4, "seed": 0, "note": ""}}, classes={"L2_3": 14, "L2_10": 31, "n": 9})
    page = browser("viewer").get(address("compare?run=one&run=two")).text
    shown = text(page)
    assert "epochs 3 4" in shown
    assert f"note {HOSTILE}" in shown
    assert "<img src=x" not in page
    assert "1 that are equal" in shown
    assert "are only in the left run's snapshot" in shown
    assert re.search(r"L2_10 30 31 0\.\d+ 0\.\d+", shown)
    for query in ("", "run=one", "run=one&run=one", "run=one&run=two&run=three"):
        assert browser("viewer").get(address(f"compare?{query}")).status_code == 422
    assert browser("viewer").get(address("compare?run=one&run=..%2ftwo")).status_code == 404


def test_the_pages_read_a_private_bucket(
    browser: Browser, make_run: Make, store: LocalStore, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server's own credentials do; nothing in a page refers to the bucket as a place to load from."""
    from tasks.core.settings import settings
    from tasks.core.store import open_store

    made = make_run()
    bucket = open_store(s3)
    bucket.put_many(store.get_many([found.key for found in store.list()]))
    monkeypatch.setenv("GESSO_STORE", s3)
    settings.cache_clear()
    monkeypatch.setattr(store, "root", Path("/nowhere"))
    client = browser("viewer")
    assert client.get(address(f"{RUN}/report.html")).content == made["report"].path("report.html").read_bytes()
    assert client.get(address(f"{RUN}/report/{made['report'].key}/0")).status_code == 200
    assert "64 of 64 images" in text(client.get(address(f"{RUN}/ledger")).text)
    assert client.get(address(f"{RUN}/thumbnails/{made['resample'].key}/0")).status_code == 200
    assert "1 run" in text(client.get(address("history")).text)


def test_the_link_on_each_task_that_runs_a_step(airflow_app: Any) -> None:
    (link,) = [link for link in plugins_manager.get_global_operator_extra_links() if link.name == "Report"]
    key = SimpleNamespace(dag_id="retrain", run_id=RUN)
    for task in NAMES:
        found = link.get_link(SimpleNamespace(task_id=task), ti_key=key)
        assert found.endswith(f"/dags/retrain/runs/{RUN}/plugin/report")
    assert link.get_link(SimpleNamespace(task_id="another"), ti_key=key) == ""
