"""A clock that is an hour wrong: no artifact depends on it, and S3, which refuses such requests, is quoted.

Wants libfaketime (Debian: apt-get install libfaketime), or GESSO_TEST_FAKETIME with the path of its library.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.artifacts import Artifact
from tasks.core.step import NAMES
from tasks.demo import make_demo
from tests.conftest import ROOT

FAKETIME = next(
    (
        str(path)
        for path in (Path(os.environ.get("GESSO_TEST_FAKETIME", "-")), *Path("/usr/lib").glob("*/faketime/*.so.1"))
        if path.is_file()
    ),
    "",
)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not FAKETIME, reason="wants libfaketime, or GESSO_TEST_FAKETIME with its path"),
]

CHAIN = """
import json, sys
from tests.tasks.test_on_s3 import chain
made = chain(*sys.argv[1:])
print(json.dumps({name: [artifact.uri, reused] for name, (artifact, reused) in made.items()}))
"""


def at(hours: int, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a clock that is wrong by some hours."""
    clock = {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{hours * 3600:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | clock | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def chain_at(hours: int, dataset: Path, store: Path) -> dict[str, tuple[Artifact, bool]]:
    done = at(hours, "-c", CHAIN, str(dataset), str(store))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    return {name: (Artifact.open(uri), reused) for name, (uri, reused) in made.items()}


def test_machines_whose_clocks_differ_share_artifacts(tmp_path: Path) -> None:
    """One is an hour behind, the other an hour ahead; what one makes, the other finds."""
    make_demo(tmp_path / "demo", images=300)
    made = chain_at(-1, tmp_path / "demo", tmp_path / "store")
    off = datetime.fromisoformat(str(made["snapshot"][0].manifest["made_at"])) - datetime.now(UTC)
    assert abs(off + timedelta(hours=1)) < timedelta(minutes=30), "the clock was not wrong"
    assert not any(reused for _, reused in made.values())
    assert all(artifact.is_whole() for artifact, _ in made.values())
    found = chain_at(1, tmp_path / "demo", tmp_path / "store")
    assert all(reused for _, reused in found.values())
    assert {name: found[name][0].key for name in NAMES} == {name: made[name][0].key for name in NAMES}


@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_garbage_collection_takes_nothing_young(hours: int, tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", images=300)
    command = ["-m", "tasks", "snapshot", f"--dataset={tmp_path / 'demo'}"]
    done = at(0, *command, GESSO_STORE=str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    done = at(hours, "-m", "tasks", "gc", "--days=1", "--delete", GESSO_STORE=str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    assert Artifact.open(at(0, *command, GESSO_STORE=str(tmp_path / "store")).stdout.strip()).is_whole()


@pytest.mark.s3
@pytest.mark.parametrize("hours", [-1, 1], ids=["behind", "ahead"])
def test_s3_refuses_and_the_message_says_why(hours: int, s3: str, tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", images=300)
    done = at(hours, "-m", "tasks", "snapshot", f"--dataset={tmp_path / 'demo'}", GESSO_STORE=f"{s3}/store")
    assert done.returncode == 1, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("gesso: ")]
    assert "Set the clock" in said
    assert "Traceback" not in done.stderr
