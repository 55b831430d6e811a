"""Pictures of the UI for docs/: `make screenshots`.

    python -m tests.browser.screenshots docs/ui

Serves an Airflow of its own with the demo data set, trains some models, and takes each picture of the real thing.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tasks.demo import make_demo
from tests.browser.person import Person, chromium
from tests.faults.conftest import Airflow, Run, wait_for

#: Enough for a model that learns something, and little enough for a laptop.
PARAMS = {"preset": "demo", "gpus": 0, "min_macro_f1": 0.1}

#: A picture has at most so many colours, so that it stays small.
COLOURS = 256


def main(folder: Path) -> None:
    """Take all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        data = Path(home) / "demo"
        make_demo(data)
        airflow = Airflow(
            Path(home), f"{home}/store", GESSO_SCHEDULE="@weekly", GESSO_PARAMS=json.dumps(PARAMS | {"epochs": 3})
        )
        try:
            airflow.start(data)
            airflow.unpause()
            with chromium() as browser:
                person = Person(browser, f"http://localhost:{airflow.port}", viewport={"width": 1280, "height": 860})
                passwords = json.loads((Path(home) / "airflow" / "passwords.json").read_text())
                take(airflow, person.log_in("admin", passwords["admin"]), folder)
                take_backfill(airflow, person, folder)
        finally:
            airflow.stop()


def take(airflow: Airflow, person: Person, folder: Path) -> None:
    """Start the runs, and take each picture when there is something to see."""
    page = person.page
    form = person.open_form()
    form.show("Data").choose("preset", "Demo")
    keep(page, folder / "form.png")
    page.keyboard.press("Escape")

    asked = started(airflow, epochs=20, require_approval=True)  # the first: no champion may refuse it
    wait_for(lambda: asked.task("eda")["state"] == "success", "the exploration")
    person.open_tab("Report", asked.run_id, "progress")
    keep(page, folder / "progress.png")
    wait_for(lambda: asked.task("approve")["state"] == "awaiting_input", "the question")
    person.open(f"/dags/retrain/runs/{asked.run_id}/tasks/approve/required_actions")
    expect(page.get_by_role("button", name="Approve", exact=True)).to_be_enabled()
    keep(page, folder / "approval.png")
    page.get_by_role("button", name="Approve", exact=True).click()
    asked.succeeds()

    for epochs in (10, 30, 45):
        latest = started(airflow, epochs=epochs)
        latest.succeeds()
    person.open_tab("Report", latest.run_id)
    keep(page, folder / "report.png")
    person.open_tab("Ledger", latest.run_id).get_by_role("link", name="photo").click()
    keep(page, folder / "ledger.png")
    person.open_tab("History", ready=".chart")
    keep(page, folder / "history.png")


def take_backfill(airflow: Airflow, person: Person, folder: Path) -> None:
    """Run the demo's last weeks again, and take a picture of them in the grid and in the history."""
    asked = {
        "dag_id": "retrain",
        "from_date": "2025-11-30T00:00:00Z",
        "to_date": "2025-12-28T00:00:00Z",
        "dag_run_conf": PARAMS | {"epochs": 30},
    }
    backfill = airflow.ask("POST", "/api/v2/backfills", asked)["id"]
    wait_for(
        lambda: airflow.ask("GET", f"/api/v2/backfills/{backfill}")["completed_at"],
        "the backfill",
        patience=3600,
        pause=5,
    )
    person.open("/dags/retrain/runs?run_type=backfill")
    keep(person.page, folder / "backfill.png")
    person.open_tab("History", ready=".chart")
    keep(person.page, folder / "backfill_history.png")
    (asset,) = airflow.ask("GET", "/api/v2/assets?name_pattern=champion")["assets"]
    person.open(f"/assets/{asset['id']}")
    keep(person.page, folder / "assets.png")


def started(airflow: Airflow, **params: Any) -> Run:
    body = {"logical_date": None, "conf": PARAMS | params}
    return Run(airflow, airflow.ask("POST", "/api/v2/dags/retrain/dagRuns", body)["dag_run_id"])


def keep(page: Any, path: Path) -> None:
    """Take a picture of what is in the window, when it has come to rest, with few colours."""
    from PIL import Image

    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3000)
    page.screenshot(path=path)
    with Image.open(path) as taken:
        few = taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
