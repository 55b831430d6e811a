"""Two promotions at once: one history of champions, and whoever comes second is measured against the first."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks import evaluate, promote
from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion, read_champion
from tasks.core.errors import TRY_AGAIN, StoreError
from tasks.core.step import execute, load
from tasks.core.store import open_store
from tests.tasks.judging import World


@pytest.fixture(params=["folder", "moto", pytest.param("real", marks=pytest.mark.s3)])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where artifacts go: a folder, a bucket of moto's, a bucket of a real server."""
    return str(tmp_path / "store") if request.param == "folder" else str(request.getfixturevalue("s3"))


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of two promotions moves the pointer before both have read it.

    Their networks are run one after the other: Keras is not made for two threads, and two runs have a process each.
    """
    barrier, first, compare, keras = threading.Barrier(2), threading.local(), promote.compare, threading.Lock()

    def compare_together(*given: Any) -> dict[str, Any]:
        if not hasattr(first, "done"):
            first.done = True
            barrier.wait(60)
        return compare(*given)

    def alone(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with keras:
                return function(*given)

        return call

    monkeypatch.setattr(promote, "compare", compare_together)
    monkeypatch.setattr(promote, "open_rival", alone(promote.open_rival))
    monkeypatch.setattr(promote, "fight", alone(promote.fight))
    monkeypatch.setattr(evaluate, "write_export", lambda *_: 0.0)  # `promote` reads neither that nor the figures
    for name in ("draw_confusion", "draw_reliability", "draw_f1"):
        monkeypatch.setattr(evaluate, name, lambda *_: None)


def run(name: str, inputs: dict[str, str], store: str, **params: Any) -> Artifact:
    return execute(name, inputs, load(name).params.of(params), store).artifact


def inputs_of(world: World, model: Artifact) -> dict[str, str]:
    judged = {"snapshot": world.snapshot.uri, "validate": world.validate.uri, "cluster": world.cluster.uri}
    given = {"resample": world.resample.uri, "pack": world.pack.uri, "train": model.uri}
    evaluation = run("evaluate", judged | given, world.store.uri)
    return {"snapshot": world.snapshot.uri, **given, "evaluate": evaluation.uri}


def until_done(work: Callable[[], Artifact]) -> tuple[Artifact, list[str]]:
    """What Airflow does: a failure that may pass is tried again. The artifact, and what was said before."""
    said: list[str] = []
    while True:
        try:
            return work(), said
        except StoreError as error:
            if error.exit_status != TRY_AGAIN or len(said) == 3:
                raise
            said.append(str(error))


def test_the_second_is_measured_against_the_first(store_uri: str, tmp_path: Path, together: None) -> None:
    world = World(open_store(store_uri), tmp_path)
    before, *candidates = (world.model(channel) for channel in ("red", "green", "blue"))
    name = str(world.dataset)
    assert move_champion(world.store, name, Champion(before.uri, None, "2026-01-01"), None)
    inputs = [inputs_of(world, model) for model in candidates]

    with ThreadPoolExecutor(2) as threads:
        ends = list(
            threads.map(lambda given: until_done(lambda: run("promote", given, store_uri, max_class_drop=0.5)), inputs)
        )

    decisions = [artifact.json("decision.json") for artifact, _ in ends]
    assert sorted(len(said) for _, said in ends) == [0, 1], "one was first, the other tried again"
    first, second = sorted(range(2), key=lambda number: len(ends[number][1]))
    assert "Another run changed the champion meanwhile" in ends[second][1][0]
    assert decisions[first]["verdict"] == "PROMOTE"
    assert decisions[first]["champion"]["model"] == before.key
    assert decisions[second]["champion"]["model"] == candidates[first].key

    history = [before, candidates[first]]
    if candidates[second].metrics["architecture"] == "blue":  # it beats green; green doesn't beat it
        assert decisions[second]["verdict"] == "PROMOTE"
        history.append(candidates[second])
    else:
        assert decisions[second]["verdict"] == "HOLD"
    champion, _ = read_champion(world.store, name)
    assert champion is not None
    assert (champion.previous, champion.model) == tuple(model.uri for model in history[-2:])


def test_the_same_promotion_twice_at_once_moves_the_pointer_once(
    store_uri: str, tmp_path: Path, together: None
) -> None:
    """Two runs of one snapshot: the second finds its own candidate in use, and is measured against what was before."""
    world = World(open_store(store_uri), tmp_path)
    before, candidate = world.model("red"), world.model("blue")
    name = str(world.dataset)
    assert move_champion(world.store, name, Champion(before.uri, None, "2026-01-01"), None)
    inputs = inputs_of(world, candidate)
    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(lambda _: until_done(lambda: run("promote", inputs, store_uri)), range(2)))
    assert [said for _, said in ends] == [[], []]
    assert ends[0][0].key == ends[1][0].key
    assert ends[0][0].json("decision.json")["champion"]["model"] == before.key
    champion, _ = read_champion(world.store, name)
    assert champion is not None
    assert (champion.previous, champion.model) == (before.uri, candidate.uri)
