"""How a step in a process of its own fails."""

import json
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from include import steps
from tasks.core.errors import TRY_AGAIN, GessoError
from tasks.core.step import load

PROGRESS = "echo 'gesso | epoch 3/45  loss'"


@pytest.mark.parametrize(
    ("ending", "said", "again"),
    [
        (
            "kill -9 $$",
            "The process of train was killed by SIGKILL, perhaps for want of memory: a smaller batch_size or "
            "image_size needs less. The next try goes on from its checkpoint. Its last line: gesso | epoch 3/45  loss",
            True,
        ),
        ("kill -6 $$", "The process of train was killed by SIGABRT. The next try", True),
        ("echo 'gesso: The image size is 3.'; exit 2", "The image size is 3.", False),
        ("echo 'gesso: The image size is 3.'; echo 'a leaked semaphore'; exit 2", "The image size is 3.", False),
        ("echo 'gesso: The store is away.'; exit 75", "The store is away.", True),
        ("echo 'ValueError: 7'; exit 1", "The process of train ended with status 1. The next try", True),
    ],
)
def test_it_says_why_and_whether_another_try_may_help(
    ending: str, said: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{PROGRESS}\n{ending}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    params = load("train").params.of({"architecture": "baseline"})
    inputs = {name: _artifact(tmp_path, name) for name in ("resample", "pack")}
    with pytest.raises(GessoError) as failed:
        steps._execute_apart("train", inputs, params, str(tmp_path / "store"))
    assert str(failed.value).startswith(said)
    assert (failed.value.exit_status == TRY_AGAIN) == again


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_process_whose_time_is_up_is_ended(stubborn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints nothing more, as one does that waits for a device that hangs."""
    monkeypatch.setattr(steps, "STOP_SECONDS", 1)
    program, kept, number = tmp_path / "python", tmp_path / "kept", tmp_path / "number"
    told = "trap '' TERM" if stubborn else f"trap 'touch {kept}; exit 75' TERM"
    program.write_text(f"#!/bin/sh\necho $$ > {number}\n{told}\n{PROGRESS}\nwhile :; do sleep 0.1; done\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    params = load("train").params.of({"architecture": "baseline"})
    inputs = {name: _artifact(tmp_path, name) for name in ("resample", "pack")}
    with pytest.raises(AirflowTaskTimeout), timeout(2):
        steps._execute_apart("train", inputs, params, str(tmp_path / "store"))
    assert kept.exists() != stubborn
    assert not Path(f"/proc/{number.read_text().strip()}").exists()


def _artifact(folder: Path, step: str) -> str:
    """URI of an artifact that has nothing but a key."""
    home = folder / "store" / "artifacts" / step / "1"
    home.mkdir(parents=True)
    (home / "artifact.json").write_text(json.dumps({"step": step, "key": "1", "files": {}}))
    return str(home)
