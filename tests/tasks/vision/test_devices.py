import os
import stat
import subprocess
import sys

import pytest

from tasks.vision import devices
from tests.conftest import ROOT


@pytest.fixture
def on_gpu(tmp_path, monkeypatch):
    """As on a machine with a GPU, up to what is written here: the folder that programs are looked for in."""
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_how_busy_the_gpus_are_is_what_nvidia_smi_samples(on_gpu):
    program, ready = on_gpu / "nvidia-smi", on_gpu / "ready"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {ready}.new\nprintf "40\\n[N/A]\\n80\\n"\nmv {ready}.new {ready}\nexec sleep 60\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with devices.watched() as shares:
        while not ready.exists():
            pass
    assert shares == [0.4, 0.8]
    assert "--query-gpu=utilization.gpu" in ready.read_text()


def test_a_gpu_without_nvidia_smi_is_not_watched(on_gpu, monkeypatch):
    monkeypatch.setenv("PATH", str(on_gpu))
    with devices.watched() as shares:
        pass
    assert shares == []


def test_jax_is_told_to_be_deterministic_before_it_looks_for_devices():
    """An unknown flag beside it ends the process where JAX reads the flags: so they are read after the import."""
    code = "import os; from tasks.vision import devices; print(os.environ['XLA_FLAGS'], flush=True); devices.names()"
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_there_is_no_such_flag=1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"--xla_there_is_no_such_flag=1 {devices.DETERMINISTIC}\n"
    assert "Unknown flag in XLA_FLAGS" in done.stderr
