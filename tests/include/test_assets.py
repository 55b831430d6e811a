"""What Airflow is told of artifacts, for its own asset graph and for a lineage backend."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.lineage import HookLineageCollector

import include.assets
from tasks.core.artifacts import Artifact


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
        return [each.asset.uri for each in told.inputs], [each.asset.uri for each in told.outputs]

    assert heard(snapshot) == ([f"file://{dataset}"], [f"file://{snapshot.uri}"])
    assert heard(validated) == ([f"file://{shard.uri}" for shard in shards], [f"file://{validated.uri}"])
