"""A stack of docker-compose.yaml of a test's own: its project name, its ports, its secrets."""

import json
import os
import socket
import subprocess
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from include.make_env import make_env
from tests.conftest import ROOT

#: Seconds that a first start, or a run, may take on a busy machine.
PATIENCE = 600


def compose(
    folder: Path, *words: str, project: str = "gesso-test", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Runs docker compose with the secrets in the folder's .env and these settings, and no others of this machine."""
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG") if name in os.environ
    }
    command = ["docker", "compose", "--project-directory", str(ROOT), "--env-file", str(folder / ".env"), "-p", project]
    return subprocess.run(
        [*command, *words], cwd=ROOT, env=environment | settings, text=True, capture_output=True, timeout=1800
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """A stack that is up: its REST API and its S3."""

    def __init__(self, folder: Path, s3_port: int | None = None, **settings: str) -> None:
        make_env(folder / ".env")
        self.folder, self.project = folder, f"gesso-test-{uuid.uuid4().hex[:8]}"
        self.port, self.s3_port = free_port(), s3_port or free_port()
        self.settings = {"GESSO_PORT": str(self.port), "GESSO_S3_PORT": str(self.s3_port), **settings}
        self.secrets = dict(
            line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if line and line[0] != "#"
        )

    def compose(self, *words: str) -> str:
        """What docker compose prints; the test fails where it fails."""
        done = compose(self.folder, *words, project=self.project, **self.settings)
        assert done.returncode == 0, f"docker compose {' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def s3(self) -> Any:
        import boto3

        return boto3.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.s3_port}",
            aws_access_key_id=self.secrets["GESSO_S3_ACCESS_KEY"],
            aws_secret_access_key=self.secrets["GESSO_S3_SECRET_KEY"],
            region_name="us-east-1",
        )

    def call(self, path: str, body: Any = None, token: str = "") -> Any:
        """The JSON that the REST API answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def login(self, password: str) -> str:
        token: str = self.call("/auth/token", {"username": "admin", "password": password})["access_token"]
        return token

    def run(self, conf: dict[str, Any]) -> dict[str, Any]:
        """Trigger `retrain` and wait for its end: state, run id, and the tasks' states by name and hostname."""
        token = self.login(self.secrets["GESSO_ADMIN_PASSWORD"])
        deadline = time.monotonic() + PATIENCE
        run: dict[str, Any] = {}
        while not run:
            try:
                run = self.call("/api/v2/dags/retrain/dagRuns", {"logical_date": None, "conf": conf}, token)
            except urllib.error.HTTPError as error:  # not parsed yet
                if error.code != 404 or time.monotonic() > deadline:
                    raise
                time.sleep(2)
        address = f"/api/v2/dags/retrain/dagRuns/{run['dag_run_id']}"
        while run["state"] not in ("success", "failed") and time.monotonic() < deadline:
            time.sleep(2)
            run = self.call(address, token=token)
        tasks = self.call(f"{address}/taskInstances?limit=100", token=token)["task_instances"]
        return {"id": run["dag_run_id"], "state": run["state"], "tasks": tasks}

    def log(self, run: dict[str, Any], task: dict[str, Any]) -> str:
        """The log of a task's last try, as the UI shows it."""
        token = self.login(self.secrets["GESSO_ADMIN_PASSWORD"])
        address = f"/api/v2/dags/retrain/dagRuns/{run['id']}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        return json.dumps(self.call(f"{address}?map_index={task['map_index']}&full_content=true", token=token))
