"""What Airflow is told of artifacts, for its own asset graph and for a lineage backend."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.lineage import HookLineageCollector

import include.assets
from tasks.core.artifacts import Artifact
from tasks.core.settings import settings


def test_a_lineage_backend_hears_what_an_artifact_was_made_of(
    dataset: Path, run_step: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = run_step("snapshot", dataset=str(dataset))
    shards = [run_step("scan", {"snapshot": snapshot}, shard=shard, shards=2) for shard in (0, 1)]
    validated = run_step("validate", {"scan": shards})

    def heard(artifact: Artifact) -> tuple[list[str], list[str]]:
        collector = HookLineageCollector()
        monkeypatch.setattr(include.assets, "get_hook_lineage_collector", lambda: collector)
        include.assets.tell_lineage({"ti": SimpleNamespace()}, artifact)
        told = collector.collected_assets
        return sorted(each.asset.uri for each in told.inputs), [each.asset.uri for each in told.outputs]

    assert heard(snapshot) == ([f"file://{dataset}"], [f"file://{snapshot.uri}"])
    assert heard(validated) == (sorted(f"file://{shard.uri}" for shard in shards), [f"file://{validated.uri}"])


@pytest.mark.parametrize(
    ("environment", "dataset"),
    [
        ({"GESSO_PARAMS": '{"dataset": "s3://pictures/all"}', "GESSO_DATASET": "/other"}, "s3://pictures/all"),
        ({"GESSO_DATASET": "s3://pictures/some"}, "s3://pictures/some"),
        ({"GESSO_HOME": "/gesso"}, "/gesso/demo"),
    ],
)
def test_the_watch_looks_at_what_its_runs_read(
    environment: dict[str, str], dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    images = runpy.run_path(str(include.assets.__file__))["IMAGES"]
    assert images.uri == (dataset if "://" in dataset else f"file://{dataset}")
    (watcher,) = images.watchers
    assert watcher.trigger.arguments["dataset"] == dataset
