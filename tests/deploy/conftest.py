"""What the tests of deployments share: the manifests, applied to a real cluster."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

MANIFESTS = ROOT / "include" / "kubernetes"


def kubectl(*words: str) -> str:
    done = subprocess.run(["kubectl", *words], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with a namespace and a priority class of the test's own, applied.

    The namespace is the folder's name, and the priority class `<namespace>-training`.
    """
    folder = tmp_path_factory.mktemp("applied") / f"gesso-{uuid.uuid4().hex[:8]}"
    shutil.copytree(MANIFESTS, folder)
    for file, line in (
        ("kustomization.yaml", "namespace: gesso\n"),
        ("namespace.yaml", "  name: gesso\n"),
        ("priority.yaml", "  name: gesso-training\n"),
    ):
        text = (folder / file).read_text()
        assert text.count(line) == 1
        (folder / file).write_text(text.replace(line, line.replace("gesso", folder.name)))
    try:
        kubectl("apply", "-k", str(folder))
        yield folder
    finally:
        kubectl("delete", "namespace", folder.name, "--wait=false", "--ignore-not-found")
        kubectl("delete", "priorityclass", f"{folder.name}-training", "--ignore-not-found")
