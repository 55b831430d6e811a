"""SIGKILL in the middle of each step: no half artifact is ever read, and the next run completes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core.artifacts import Artifact
from tasks.core.step import NAMES, load
from tasks.demo import make_demo

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

PARAMS = {
    "resample": {"min_per_class": 10, "max_per_class": 40},
    "pack": {"image_size": 32},
    "train": {"architecture": "baseline", "image_size": 32, "epochs": 2},
}  # fmt: skip


def test_each_step_survives_its_death(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_demo(tmp_path / "demo", images=300)
    environment = {**os.environ, "GESSO_HOME": str(home)}
    uris: dict[str, str] = {}
    for name in NAMES:
        command = [sys.executable, "-m", "tasks", name, f"--params={json.dumps(PARAMS.get(name, {}))}"]
        if name == "snapshot":
            command.append(f"--dataset={tmp_path / 'demo'}")
        command += [f"--input={given}={uris[given]}" for given in (each.rstrip("*?") for each in load(name).inputs)]

        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        work = home / "scratch" / "work"
        while not list(work.glob(f"{name}-*/")):
            assert process.poll() is None, f"{name} ended before it began"
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not list((home / "store" / "artifacts").glob(f"{name}/*/artifact.json"))

        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        uris[name] = done.stdout.strip()
        assert Artifact.open(uris[name]).is_whole()
    assert list((home / "scratch" / "work").iterdir()) == []
