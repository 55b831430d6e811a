"""docker-compose.yaml as it stands, and as `docker compose config` reads it: no engine is needed, only the client."""

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.make_env import make_env
from include.pods import PodSettings
from tasks.core.settings import Settings
from tests.conftest import ROOT
from tests.deploy.stack import compose


def has_compose() -> bool:
    return (
        bool(shutil.which("docker"))
        and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    )


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """A folder with a .env of the test's own, for docker compose to read."""
    if not has_compose():
        pytest.skip("wants docker compose: not on PATH")
    make_env(tmp_path / ".env")
    return tmp_path


def services(env: Path, **settings: str) -> dict[str, Any]:
    done = compose(env, "config", "--format=json", **settings)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_without_secrets_it_refuses_and_says_what_to_do(env: Path) -> None:
    (env / ".env").write_text("")
    done = compose(env, "config")
    assert done.returncode != 0
    assert re.search(r"required variable \w+ is missing a value: run make env", done.stderr)


@pytest.mark.parametrize(
    "name",
    [
        "GESSO_ADMIN_PASSWORD",
        "GESSO_DATABASE_PASSWORD",
        "GESSO_REDIS_PASSWORD",
        "GESSO_S3_ACCESS_KEY",
        "GESSO_S3_SECRET_KEY",
        "GESSO_FERNET_KEY",
        "GESSO_JWT_SECRET",
        "GESSO_API_SECRET",
    ],
)
def test_each_secret_is_needed(env: Path, name: str) -> None:
    text = (env / ".env").read_text()
    (env / ".env").write_text(re.sub(rf"^{name}=.*\n", "", text, flags=re.MULTILINE))
    done = compose(env, "config", COMPOSE_PROFILES="celery")
    assert done.returncode != 0
    assert f"{name} is missing a value: run make env" in done.stderr


def test_one_switch_chooses_the_executor(env: Path) -> None:
    local, celery = services(env), services(env, COMPOSE_PROFILES="celery")
    assert set(celery) - set(local) == {"redis", "worker"}
    assert local["scheduler"]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    for name in ("scheduler", "worker", "api-server"):
        assert celery[name]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert celery["worker"]["deploy"]["replicas"] == 2


def test_nothing_is_published_beyond_this_machine_and_everything_is_limited(env: Path) -> None:
    for name, service in services(env, COMPOSE_PROFILES="celery").items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in service or name == "prepare"


def test_what_runs_tasks_waits_for_the_api_server(env: Path) -> None:
    found = services(env, COMPOSE_PROFILES="celery")
    for name in ("scheduler", "worker", "triggerer"):
        waits = {other: how["condition"] for other, how in found[name]["depends_on"].items()}
        assert waits["api-server"] == "service_healthy"
        assert waits["prepare"] == "service_completed_successfully"
    assert found["prepare"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert found["prepare"]["depends_on"]["s3"]["condition"] == "service_healthy"
    assert found["worker"]["depends_on"]["redis"]["condition"] == "service_healthy"


def test_a_kubeconfig_sends_training_to_its_cluster(env: Path) -> None:
    here = services(env)["scheduler"]
    assert here["environment"]["GESSO_TRAIN_ON"] == ""
    named = {f"GESSO_POD_{name.upper()}": "7" for name in PodSettings.model_fields if name != "kubeconfig"}
    for name, service in services(env, GESSO_KUBECONFIG="/some/kubeconfig", COMPOSE_PROFILES="celery", **named).items():
        if name not in ("scheduler", "worker", "triggerer"):
            continue
        environment = service["environment"]
        assert environment["GESSO_TRAIN_ON"] == "kubernetes"
        mounted = next(volume for volume in service["volumes"] if volume["source"] == "/some/kubeconfig")
        assert environment["GESSO_POD_KUBECONFIG"] == mounted["target"]
        assert mounted["read_only"] is True
        assert named.items() <= environment.items()


#: Settings that .env can't give: two are folders on the volume `work`, one is a port of this machine.
NOT_PASSED = {"GESSO_HOME", "GESSO_SCRATCH", "GESSO_PORT"}


def test_every_setting_is_passed_and_means_what_it_means_elsewhere() -> None:
    text = (ROOT / "docker-compose.yaml").read_text()
    passed = {name for name in yaml.safe_load(text)["x-airflow"]["environment"] if name.startswith("GESSO_")}
    known = {f"GESSO_{name.upper()}" for name in Settings.model_fields}
    assert passed == known - NOT_PASSED | {f"GESSO_POD_{name.upper()}" for name in PodSettings.model_fields}
    for name, read in re.findall(r"([\w-]+): .*?\$\{(GESSO_\w+)", text):
        assert read == name or read not in passed, f"{name} reads {read}"


def test_settings_in_env_reach_the_containers_and_what_is_not_set_stays_so(env: Path) -> None:
    given = {"GESSO_WORKERS": "3", "GESSO_RETRY_SECONDS": "5", "GESSO_ATTENDED": "no"}
    here = services(env)["scheduler"]["environment"]
    assert not any(here[name] for name in given)
    with (env / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in given.items())
    found = services(env, COMPOSE_PROFILES="celery", GESSO_CELERY_WORKERS="5")
    assert given.items() <= found["worker"]["environment"].items()
    assert found["worker"]["deploy"]["replicas"] == 5


def test_make_env_makes_strong_secrets_once(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert make_env(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    values = [line.split("=", 1)[1] for line in text.splitlines() if line.startswith("GESSO_")]
    assert len(set(values)) == len(values) == 8
    assert min(map(len, values)) >= 22  # 128 bits
    assert not make_env(file)
    assert file.read_text() == text
