"""The DAG, in an Airflow of the tests' own."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def retrain() -> Any:
    """The DAG, in an Airflow whose database is there."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags["retrain"]
