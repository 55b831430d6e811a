"""Airflow's API server in this process, with the plugin, three people and a run whose artifacts are made by hand."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tasks.core.artifacts import Artifact
from tasks.core.runs import record_key
from tasks.core.store import LocalStore
from tests.tasks.artifacts_by_hand import a_run, committed, output

RUN = "manual__2026-01-04T00:00:00+00:00"
BASE = "http://airflow.test"

#: Each with the role that Airflow's simple login gives them: none for a stranger.
PEOPLE = {"kim": "user", "lee": "user", "viewer": "viewer", "stranger": None}


@pytest.fixture(scope="session")
def airflow_app() -> Any:
    """Airflow's API server, its database and plugins in place."""
    from airflow.api_fastapi.app import create_app
    from airflow.utils.db import initdb

    os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = "for tests " * 8
    initdb()
    return create_app(apps="core")


@pytest.fixture
def browser(airflow_app: Any) -> Callable[[str], TestClient]:
    """What a person's browser sends: browser("kim").get("/gesso/…"); "" has not logged in."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def of(name: str) -> TestClient:
        client = TestClient(airflow_app, base_url=BASE, follow_redirects=False)
        if name:
            user = SimpleAuthManagerUser(username=name, role=PEOPLE[name])
            client.cookies.set("_token", get_auth_manager().generate_jwt(user))
        return client

    return of


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `eda` drew for any of these tests: most of what a run by hand takes."""
    return tmp_path_factory.mktemp("eda")


@pytest.fixture
def make_run(
    store: LocalStore, tmp_path: Path, run_step: Callable[..., Artifact], drawn: Path
) -> Callable[..., dict[str, Any]]:
    """Makes a run's artifacts by hand, and its record; what is made is returned, by step."""

    def make(
        run_id: str = RUN, without: tuple[str, ...] = (), dataset: str = "", record: dict[str, Any] | None = None,
        dag_id: str = "retrain", **facts: Any,
    ) -> dict[str, Any]:  # fmt: skip
        (folder := tmp_path / f"made-{len(list(tmp_path.iterdir()))}").mkdir()
        made: dict[str, Any] = dict(a_run(store, folder, dataset=dataset or str(tmp_path / "data"), **facts))
        shutil.copytree(drawn, store.root / "artifacts" / "eda", dirs_exist_ok=True)
        made["eda"] = run_step("eda", {"validate": made["validate"], "scan": made["scan"]})
        shutil.copytree(store.root / "artifacts" / "eda", drawn, dirs_exist_ok=True)
        if "report" not in without:
            made["report"] = run_step("report", {name: value for name, value in made.items() if name != "scan"})
        out = output(folder, store, "pack")
        out.metrics = {"images": 60, "copied": 0}
        made["pack"] = committed(out, "pack", {"resample": made["resample"].key}, image_size=64)
        for step in without:
            made.pop(step, None)
        steps = {
            step: [
                {"artifact": each.uri, "reused": False, "seconds": 1.5, "metrics": each.metrics}
                for each in (value if isinstance(value, list) else [value])
            ]
            for step, value in made.items()
        }
        written = {
            "dag_id": dag_id, "run_id": run_id, "run_type": "manual", "as_of": "2026-01-04T00:00:00+00:00",
            "params": {"preset": "demo", "review": "", "dataset": dataset}, "steps": steps,
        } | (record or {})  # fmt: skip
        store.put(record_key(dag_id, run_id), json.dumps(written).encode())
        return made

    return make


@pytest.fixture
def airflow_run(airflow_app: Any) -> Iterator[Callable[..., None]]:
    """Tells Airflow's database of a run: airflow_run("running", train="failed")."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType

    made: list[str] = []

    def add(state: str, run_id: str = RUN) -> None:
        with create_session() as session:
            run = DagRun(dag_id="retrain", run_id=run_id, run_type=DagRunType.MANUAL, run_after=datetime.now(UTC))
            run.set_state(state)
            session.add(run)
        made.append(run_id)

    yield add
    with create_session() as session:
        for run_id in made:
            session.query(DagRun).filter(DagRun.run_id == run_id).delete()
