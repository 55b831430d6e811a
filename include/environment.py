"""The environment of an Airflow on this machine: one that runs once (`include.run`), or serves (`include.serve`)."""

import json
import os
import secrets
from pathlib import Path

from tasks.core.settings import settings

ROOT = Path(__file__).parents[1]


def airflow_home(name: str) -> Path:
    """The folder of one of this machine's Airflows, made at first use."""
    home = settings().home.absolute() / name
    home.mkdir(parents=True, exist_ok=True)
    return home


def airflow_environment(home: Path, **config: str) -> dict[str, str]:
    """This process's environment, with what Airflow needs to run the project's DAGs from `home`.

    Args:
        home: AIRFLOW_HOME.
        config: further settings, as section__key="value".
    """
    values = {
        "core__dags_folder": str(ROOT / "dags"),
        "core__plugins_folder": str(ROOT / "plugins"),
        "core__load_examples": "False",
        "database__load_default_connections": "False",
        **config,
    }
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "GESSO_HOME": str(settings().home.absolute()),
        **{f"AIRFLOW__{name.upper()}": value for name, value in values.items()},
    }


def kept_secrets(home: Path) -> dict[str, str]:
    """The secrets of the Airflow in `home`: made once, strong, readable by this user alone."""
    file = home / "secrets.json"
    if not file.exists():
        from cryptography.fernet import Fernet

        made = {
            "password": secrets.token_urlsafe(12),
            "jwt": secrets.token_urlsafe(64),
            "api": secrets.token_urlsafe(32),
            "fernet": Fernet.generate_key().decode(),
        }
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            json.dump(made, opened)
    kept: dict[str, str] = json.loads(file.read_text())
    return kept
