"""An Airflow of the tests' own: a throwaway home with SQLite, set up before airflow is imported."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

os.environ |= {
    "AIRFLOW_HOME": tempfile.mkdtemp(prefix="airflow-"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),  # `dag.test()` looks for the DAG in the bundle that owns it
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(scope="session")
def retrain() -> Any:
    """The DAG, in an Airflow whose database is there."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags["retrain"]
