"""The images, built for real."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.artifacts import Artifact
from tasks.core.step import code_digest
from tasks.demo import make_demo
from tests.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

DIGEST = "from tasks.core.step import code_digest; print(code_digest('train'))"


def build(target: str) -> str:
    """The id of a target's image."""
    done = subprocess.run(
        ["docker", "build", "--quiet", "--target", target, str(ROOT)], text=True, capture_output=True, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", "run", "--rm", *words], text=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def trainer() -> str:
    return build("trainer-cpu")


def test_both_images_hold_the_same_tasks(trainer: str) -> None:
    airflow = build("airflow")
    here = code_digest("train")
    for image in (trainer, airflow):
        found = run("--entrypoint", "python", image, "-c", DIGEST)
        assert found.stdout.strip() == here, found.stderr


def test_no_image_runs_as_root_or_holds_secrets(trainer: str) -> None:
    for image in (trainer, build("airflow")):
        who = run("--entrypoint", "id", image, "--user")
        assert int(who.stdout) > 0
        found = run(
            "--entrypoint", "sh", image, "-c", "find / -xdev -name '.env' -o -xdev -name 'test_*.py' -path '*/deploy/*'"
        )
        assert found.stdout == ""


def test_the_trainer_says_what_is_wrong(trainer: str) -> None:
    done = run(trainer, "train", "--params={}", "--store=/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("gesso: "), done.stderr


@pytest.mark.parametrize(("user", "fold"), [("1000:1000", {}), ("12345:0", {"fold": 1, "of_folds": 2})])
def test_it_trains_as_a_pod_does(
    trainer: str, user: str, fold: dict[str, int], run_step: Callable[..., Artifact], home: Path, tmp_path: Path
) -> None:
    """Read-only root, no capability, no home, any user; it writes to /tmp and the store alone."""
    make_demo(tmp_path / "demo", images=300)
    snapshot = run_step("snapshot", dataset=str(tmp_path / "demo"))
    scan = run_step("scan", {"snapshot": snapshot})
    validate = run_step("validate", {"scan": scan})
    cluster = run_step("cluster", {"validate": validate, "scan": scan})
    resample = run_step(
        "resample",
        {"snapshot": snapshot, "validate": validate, "cluster": cluster},
        min_per_class=5, max_per_class=20, validation_share=0.2, test_share=0.2,
    )  # fmt: skip
    pack = run_step("pack", {"snapshot": snapshot, "resample": resample}, image_size=32)
    store = home / "store"
    for folder in (tmp_path, *store.rglob("*"), home, store):
        folder.chmod(0o777)
    params = {"architecture": "baseline", "image_size": 32, "epochs": 1, "batch_size": 16} | fold

    done = run(
        "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none",
        "--env=HOME", f"--user={user}", f"--volume={store}:{store}", trainer,
        "train", f"--input=resample={resample.uri}", f"--input=pack={pack.uri}", f"--params={json.dumps(params)}",
        f"--store={store}",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    made = Artifact.open(done.stdout.strip())
    assert made.metrics["epochs"] == 1
    assert made.has("model.keras")
