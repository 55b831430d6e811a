"""The DAG, in an Airflow of the tests' own."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def database() -> None:
    """The database of the tests' Airflow."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def retrain(database: None) -> Any:
    """The DAG."""
    return read_dag()


def read_dag(name: str = "retrain") -> Any:
    """A DAG, read anew: a run by `dag.test()` leaves its params in it."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags[name]
