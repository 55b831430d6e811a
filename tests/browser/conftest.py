"""A served Airflow with people who may do more and less, on a data set whose names are hostile."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Airflow, Run, home_of_its_own

try:
    from tests.browser.person import CHROMIUM, Person, chromium
except ModuleNotFoundError as error:
    if error.name != "playwright":
        raise
    CHROMIUM = None

#: Markup that runs where it isn't escaped; it can be the name of a folder, too.
HOSTILE = '"><img src=x onerror=alert(1)>'

#: Each with their role: one with none may log in, and see nothing.
PEOPLE = "admin:admin,kim:user,vic:viewer,eve:"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not CHROMIUM and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason="wants chromium (apt-get install chromium) and playwright"))


@pytest.fixture(scope="session")
def hostile_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo data set with a class, files and a review's note that are markup."""
    from tasks.demo import make_demo

    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo(folder, images=300)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    hostile = classes[0].rename(folder / HOSTILE)
    pictures = sorted(path for path in hostile.rglob("*") if path.is_file())
    named = pictures[0].rename(pictures[0].with_name(f"{HOSTILE}{pictures[0].suffix}"))
    with (folder / "review.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "verdict", "who", "when", "note"])
        key = named.relative_to(folder).as_posix()
        writer.writerow([key, "illustration", HOSTILE, "2026-01-04T00:00:00+00:00", HOSTILE])
    return folder


@pytest.fixture(scope="session")
def airflow(hostile_dataset: Path) -> Iterator[Airflow]:
    """An Airflow with PEOPLE."""
    with home_of_its_own() as home:
        served = Airflow(home, str(home / "store"), AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS=PEOPLE)
        try:
            served.start(hostile_dataset)
            served.unpause()
            yield served
        finally:
            served.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One chromium for all tests."""
    with chromium() as started:
        yield started


class People:
    """The people of a test, each at a browser of their own."""

    def __init__(self, airflow: Airflow, browser: Any) -> None:
        self.airflow, self.browser, self.all = airflow, browser, list["Person"]()

    def __call__(self, name: str = "admin", **options: Any) -> "Person":
        """Somebody who has logged in; "" has not. `options` are the browser context's."""
        someone = Person(self.browser, f"http://localhost:{self.airflow.port}", **options)
        self.all.append(someone)
        if name:
            passwords = json.loads((self.airflow.home / "airflow" / "passwords.json").read_text())
            someone.log_in(name, passwords[name])
        return someone

    def leave(self) -> None:
        """Close all browsers. None may have asked for anything elsewhere, or run a script of the data's."""
        for someone in self.all:
            someone.context.close()
        assert [someone.elsewhere for someone in self.all if someone.elsewhere] == []
        assert [someone.ran for someone in self.all if someone.ran] == []


@pytest.fixture
def person(airflow: Airflow, browser: Any) -> Iterator[People]:
    """Makes people: person("kim") has logged in."""
    people = People(airflow, browser)
    yield people
    people.leave()


@pytest.fixture(scope="session")
def filled_in(airflow: Airflow, browser: Any) -> tuple[Run, dict[str, Any]]:
    """A run that kim started by the form and that ended well, and what the form sent."""
    people = People(airflow, browser)
    form = people("kim").open_form().show("Data")
    form.choose("preset", "Demo")
    form.show("Balancing")
    form.write("min_per_class", "10")
    form.write("max_per_class", "40")
    form.show("Training")
    form.write("image_size", "32")
    form.write("epochs", "3")
    form.write("batch_size", "99999")
    form.choose("architectures", "Baseline")
    form.show("Promotion")
    form.write("min_macro_f1", "0")
    status, answer = form.send()
    assert status == 200, answer
    run = Run(airflow, str(answer["dag_run_id"]))
    people.leave()
    run.succeeds()
    return run, dict(answer["conf"])


@pytest.fixture
def finished(filled_in: tuple[Run, dict[str, Any]]) -> Run:
    """A run that ended well."""
    return filled_in[0]
