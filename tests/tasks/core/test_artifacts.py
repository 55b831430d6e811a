import os

import pytest

from tasks.core.artifacts import Artifact, Output
from tasks.core.errors import DataError
from tasks.core.step import scratch
from tasks.core.store import open_store
from tests.tasks.judging import make


def write(out: Output) -> None:
    out.text("export/saved_model.pb", "graph")
    out.text("export/variables/index", "none")
    out.text("export.json", "{}")


@pytest.fixture
def artifact(any_store, tmp_path) -> Artifact:
    return make(any_store, "evaluate", write, tmp_path)


def test_a_directory_is_there_as_a_folder(artifact):
    for _ in range(2):
        folder = artifact.directory("export")
        found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
        assert found == {"saved_model.pb": "graph", "variables/index": "none"}
    assert [path.name for path in artifact.directory("export/variables").iterdir()] == ["index"]


def test_a_directory_that_is_not_there(artifact):
    with pytest.raises(DataError, match=r"has no files below exp/\. It has: export\.json, export/saved_model\.pb"):
        artifact.directory("exp")


def test_a_file_of_a_directory_that_was_changed(artifact):
    artifact.store.put(artifact.key_of("export/variables/index"), b"some")
    with pytest.raises(DataError, match=r"export/variables/index in .* is missing or was changed"):
        artifact.directory("export")


def test_a_local_copy_that_was_damaged_is_fetched_again(s3, tmp_path):
    """As a power cut leaves one; a folder as a store has no copies."""
    artifact = make(open_store(s3), "evaluate", write, tmp_path)
    artifact.path("export.json").write_bytes(b"{")
    (artifact.directory("export") / "saved_model.pb").write_bytes(b"")
    opened = Artifact.open(artifact.uri)
    assert opened.path("export.json").read_bytes() == b"{}"
    assert (opened.directory("export") / "saved_model.pb").read_text() == "graph"


def test_copies_are_kept_while_they_are_used(s3, tmp_path):
    artifact = make(open_store(s3), "evaluate", write, tmp_path)
    used, unused, folder = (
        artifact.path("export.json"),
        artifact.path("export/saved_model.pb"),
        artifact.directory("export"),
    )
    for each in (used, unused, folder):
        os.utime(each, (0, 0))
    assert artifact.json("export.json") == {}
    with scratch("scan"):
        assert (used.exists(), unused.exists(), folder.exists()) == (True, False, False)
    assert (artifact.directory("export") / "saved_model.pb").read_text() == "graph"
