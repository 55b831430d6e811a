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
    """The folder with a namespace of the test's own, applied; the namespace is the folder's name."""
    had_class = "gesso-training" in kubectl("get", "priorityclasses", "-o", "name")
    folder = tmp_path_factory.mktemp("applied") / f"gesso-{uuid.uuid4().hex[:8]}"
    shutil.copytree(MANIFESTS, folder)
    for file, line in (("kustomization.yaml", "namespace: "), ("namespace.yaml", "  name: ")):
        text = (folder / file).read_text()
        assert text.count(f"{line}gesso\n") == 1
        (folder / file).write_text(text.replace(f"{line}gesso\n", f"{line}{folder.name}\n"))
    try:
        kubectl("apply", "-k", str(folder))
        yield folder
    finally:
        kubectl("delete", "namespace", folder.name, "--wait=false", "--ignore-not-found")
        if not had_class:
            kubectl("delete", "priorityclass", "gesso-training", "--ignore-not-found")
