import stat

import pytest

from tasks.vision import devices


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
