"""What a person sees and does in the Airflow UI, in a real browser."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.core.artifacts import Artifact
from tasks.core.ledger import load_review
from tasks.core.step import NAMES
from tests.browser.conftest import HOSTILE, People
from tests.faults.conftest import PARAMS, Airflow, Run, wait_for

expect: Any = pytest.importorskip("playwright.sync_api", reason="wants playwright").expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def ends(run: Run) -> str:
    """The run's state at its end."""
    return str(wait_for(lambda: run.state in ("success", "failed") and run.state, f"the end of {run.run_id}", pause=1))


def test_the_form_starts_a_run_with_what_is_filled_in(filled_in: tuple[Run, dict[str, Any]]) -> None:
    run, sent = filled_in
    assert sent["preset"] == "demo"
    assert (sent["epochs"], sent["architectures"], sent["min_macro_f1"]) == (3, ["baseline"], 0)
    assert sent["batch_size"] == 4096, "the form takes the nearest number that is allowed"
    assert (sent["momentum"], sent["test_share"]) == (None, None), "what the preset says is left to it"
    assert (sent["photo_threshold"], sent["separate"]) == (0.8, True)
    assert Artifact.open(run.record()["train"][0]["artifact"]).params["momentum"] == 0.9


def test_the_form_explains_itself(person: People) -> None:
    form = person("kim").open_form().show("Training")
    expect(form.dialog.get_by_text("Empty: by the preset (demo 45; quick 80; original 200).")).to_be_visible()
    link = form.dialog.get_by_role("link", name="EarlyStopping in Keras")
    expect(link).to_have_attribute("href", "https://keras.io/api/callbacks/early_stopping/")
    form.choose("architectures", "Baseline")
    form.choose("architectures", "Residual")
    expect(form.dialog.get_by_text("Residual: bottleneck blocks with shortcuts", exact=True)).to_be_visible()
    form.show("Promotion")
    expect(form.dialog.get_by_text("Hold: the champion stays")).to_be_visible()


def test_a_viewer_starts_nothing(person: People, airflow: Airflow) -> None:
    runs = airflow.ask("GET", "/api/v2/dags/retrain/dagRuns")["total_entries"]
    assert person("vic").open_form().send()[0] == 403
    assert airflow.ask("GET", "/api/v2/dags/retrain/dagRuns")["total_entries"] == runs


def test_the_instant_that_the_form_sends_is_understood(person: People, airflow: Airflow) -> None:
    form = person("kim").open_form().show("Data")
    form.dialog.get_by_text("Select date and time").click()
    form.page.get_by_placeholder("YYYY/MM/DD").last.fill("2020/03/01")
    form.page.get_by_placeholder("HH:mm").last.fill("12:30")
    form.page.keyboard.press("Escape")
    status, answer = form.send()
    assert status == 200, answer
    run = Run(airflow, str(answer["dag_run_id"]))
    assert ends(run) == "failed"
    tab = person("vic").open_tab("Report", run.run_id)
    expect(tab.get_by_text("2020-03-01").first).to_be_visible()


def test_bad_input_is_named_within_seconds(person: People, airflow: Airflow) -> None:
    kim = person("kim")
    form = kim.open_form().show("Balancing")
    form.write("min_per_class", "50")
    form.write("max_per_class", "10")
    status, answer = form.send()
    assert status == 200, answer
    bad = Run(airflow, str(answer["dag_run_id"])), "min_per_class = 50 is more than max_per_class = 10."
    unknown = airflow.trigger(epoch=3, gpu_type="a b"), "There is no param 'epoch'."
    for run, message in (bad, unknown):
        assert ends(run) == "failed"
        assert run.task("snapshot")["try_number"] == 1, "another try can't help"
        tab = kim.open_tab("Report", run.run_id)
        expect(tab.get_by_role("heading", level=1)).to_have_text("The run failed")
        expect(tab.get_by_text(message)).to_be_visible()
    expect(tab.get_by_text("gpu_type = 'a b'")).to_be_visible()


def test_the_report_is_a_tab_of_the_run(person: People, finished: Run) -> None:
    vic = person("vic")
    tab = vic.open_tab("Report", finished.run_id)
    expect(tab.get_by_role("heading", level=1)).to_contain_text("PROMOTE")
    expect(tab.get_by_role("heading", name="Classes that need data")).to_be_attached()
    tab.get_by_role("link", name="Balancing", exact=True).first.click()
    expect(tab.get_by_role("heading", name="Balancing", exact=True)).to_be_in_viewport()
    expect(vic.page.get_by_role("link", name="Report", exact=True)).to_be_visible()


def test_a_tasks_link_leads_to_the_report(person: People, airflow: Airflow, finished: Run) -> None:
    links = airflow.ask("GET", f"{finished.path}/taskInstances/train/links?map_index=0")
    kim = person("kim")
    kim.open(links["extra_links"]["Report"].removeprefix(kim.site))
    expect(kim.page.frame_locator("iframe[title=Report]").get_by_role("heading", level=1)).to_contain_text("PROMOTE")


def test_an_image_is_overruled_in_the_ledger(person: People, finished: Run, airflow: Airflow) -> None:
    kim = person("kim")
    tab = kim.open_tab("Ledger", finished.run_id)
    tab.get_by_role("link", name=re.compile("^kept")).click()
    expect(tab.get_by_label("Verdict")).to_have_value("kept")
    expect(tab.get_by_role("heading", level=2)).to_have_text(re.compile(r"^[1-9]\d* of \d+ images$"))
    expect(tab.locator(".images img").first).not_to_have_js_property("naturalWidth", 0)
    first = tab.locator(".images li").first
    key = first.locator("bdi").first.inner_text()
    first.get_by_role("checkbox").check()
    tab.get_by_label("The ticked images are").select_option("photo")
    tab.get_by_label("Note on the ticked images").fill(f"it is taken {HOSTILE}")
    tab.get_by_role("button", name="Save").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Saved")
    line = load_review(f"{airflow.environment['GESSO_DATASET']}/review.csv")[0][key]
    assert (line.verdict, line.who, line.note) == ("photo", "kim", f"it is taken {HOSTILE}")
    tab.get_by_role("link", name="Back to the ledger").click()
    expect(tab.locator(".images li", has_text=key).get_by_text("Review: photo")).to_be_visible()
    with kim.page.expect_download() as download:
        tab.get_by_role("link", name="Download it all").click()
    assert download.value.suggested_filename == "ledger.csv"


def test_the_history_compares_two_runs(person: People, finished: Run, airflow: Airflow) -> None:
    other = airflow.trigger(**PARAMS, worst_errors=3, promote=False)  # else it may come into use, and the first go
    other.succeeds()
    tab = person("vic").open_tab("History")
    expect(tab.locator("tr", has_text=finished.run_id).get_by_text("in use")).to_be_visible()
    for run in (finished, other):
        tab.get_by_label(f"Compare {run.run_id}").check()
    tab.get_by_role("button", name="Compare two ticked runs").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Two runs side by side")
    expect(tab.locator("tr", has_text="worst_errors").first).to_contain_text("24")
    tab.get_by_role("link", name="History").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("History")


def test_an_approval_is_asked_for_shown_and_given(person: People, airflow: Airflow, tmp_path: Path) -> None:
    """On a data set that has no champion yet: what a challenger is asked for depends on who it meets."""
    data = tmp_path / "data"
    shutil.copytree(airflow.environment["GESSO_DATASET"], data)
    run = airflow.trigger(**PARAMS, dataset=str(data), require_approval=True)
    wait_for(lambda: run.task("approve")["state"] == "awaiting_input", "the question", pause=1)
    kim = person("kim")
    tab = kim.open_tab("Report", run.run_id)
    expect(tab.get_by_role("heading", level=1)).to_have_text("The run goes on")
    expect(tab.get_by_text("The new model waits for an answer")).to_be_visible()
    expect(tab.get_by_text(f"{len(NAMES) - 2} of {len(NAMES)} steps are done")).to_be_visible()
    expect(tab.locator("tr", has_text="snapshot").first).to_contain_text("300 images")
    tab.get_by_role("link", name="Stop that").click()
    expect(tab.get_by_role("link", name="Follow the run")).to_be_visible()
    curves = tab.get_by_role("img", name="curves, by train")
    curves.scroll_into_view_if_needed()
    expect(curves).not_to_have_js_property("naturalWidth", 0)

    kim.open(f"/dags/retrain/runs/{run.run_id}/tasks/approve/required_actions")
    expect(kim.page.get_by_text("Promote the new model?").first).to_be_visible()
    expect(kim.page.get_by_role("link", name="The run so far")).to_be_visible()
    airflow.settles()
    kim.page.get_by_role("button", name="Approve", exact=True).click()
    run.succeeds()
    decision = Artifact.open(run.record()["promote"][0]["artifact"]).json("decision.json")
    assert decision["approval"] == {"answer": "approve", "by": "kim", "note": ""}
    expect(kim.open_tab("Report", run.run_id).get_by_text("kim").first).to_be_attached()


@pytest.mark.parametrize("path", ["{run}/report", "{run}/ledger", "{run}/ledger.csv", "history"])
def test_who_may_not_see_gets_nothing(person: People, finished: Run, path: str) -> None:
    path = f"/gesso/retrain/{path.format(run=finished.run_id)}"
    for name, status in (("", 401), ("eve", 403)):
        someone = person(name)
        answer = someone.context.request.get(path)
        assert answer.status == status
        assert "L2_" not in answer.text()
        assert someone.open(path).status == status
        expect(someone.page.get_by_role("heading", level=1)).to_be_visible()


def test_a_viewer_may_read_and_not_save(person: People, finished: Run) -> None:
    tab = person("vic").open_tab("Ledger", finished.run_id)
    expect(tab.get_by_text("You may not edit this run")).to_be_visible()
    expect(tab.get_by_role("button", name="Save")).to_have_count(0)
    expect(tab.get_by_role("button", name="Download")).to_be_visible()


def test_hostile_names_notes_and_messages_are_text(person: People, finished: Run, airflow: Airflow) -> None:
    """A script of theirs would open a dialog, which fails the test when the people leave."""
    kim = person("kim")
    failing = airflow.trigger(dataset=f"/nowhere/{HOSTILE}")
    assert ends(failing) == "failed"
    for name, run in (("Report", finished), ("Ledger", finished), ("Report", failing)):
        tab = kim.open_tab(name, run.run_id)
        expect(tab.get_by_text(HOSTILE).first).to_be_attached()
        expect(tab.locator("img[src=x]")).to_have_count(0)
    ledger = kim.open_tab("Ledger", finished.run_id)
    ledger.get_by_label("Class").select_option(HOSTILE)
    ledger.get_by_label("Reason or file").fill(HOSTILE)
    ledger.get_by_role("button", name="Show").click()
    expect(ledger.get_by_role("heading", level=2)).to_have_text(re.compile("^[1-9]"))
    expect(ledger.locator(".reviewed").first).to_contain_text(HOSTILE)
    expect(ledger.locator("img[src=x]")).to_have_count(0)


def without_policy(route: Any) -> None:
    answer = route.fetch()
    unwanted = ("content-security-policy", "content-encoding", "content-length")
    kept = {name: value for name, value in answer.headers.items() if name not in unwanted}
    route.fulfill(status=answer.status, headers=kept, body=answer.body())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(person: People, finished: Run, airflow: Airflow, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    other = airflow.trigger(**PARAMS, worst_errors=3, promote=False)  # else it may come into use, and the first go
    failing = airflow.trigger(epoch=3)
    other.succeeds()
    ends(failing)
    kim = person("kim", color_scheme=scheme)
    # axe is a script, which waits for timers of its own: they don't run in a sandbox.
    kim.context.route(re.compile("/gesso/.*/report$"), without_policy)
    found = []
    for path in (
        f"{finished.run_id}/report",
        f"{failing.run_id}/report",
        f"{finished.run_id}/ledger",
        f"{finished.run_id}/ledger?verdict=quarantined",
        "history",
        f"compare?run={other.run_id}&run={finished.run_id}".replace("+", "%2B"),
        "nothing/report",
    ):
        kim.open(f"/gesso/retrain/{path}")
        expect(kim.page.get_by_role("heading", level=1)).to_be_visible()
        found += [
            (path, violation["id"], [node["html"][:200] for node in violation["nodes"]][:5])
            for violation in Axe().run(kim.page).response["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
    assert found == []
