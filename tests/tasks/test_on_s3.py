"""The whole chain with data set and artifacts in a bucket: moto's server, and a real one under the marker `s3`."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.champion import read_champion
from tasks.core.step import NAMES, execute, load
from tasks.core.store import open_store
from tests.drawings import KINDS, flat_drawings

PARAMS: Mapping[str, Mapping[str, Any]] = {
    "validate": {"near_duplicate_bits": 0},
    "resample": {"min_per_class": 20, "max_per_class": 100},
    "pack": {"image_size": 32},
    "train": {"architecture": "baseline", "image_size": 32, "epochs": 2},
    "promote": {"min_macro_f1": 0.0},
}
ODD_NAMES = ("a b/그림 {}.png", "a//{}.png", "a/../{}.png")


def chain(dataset: str, store: str) -> dict[str, tuple[Artifact, bool]]:
    made: dict[str, tuple[Artifact, bool]] = {}
    for name in NAMES:
        params = load(name).params.of({**PARAMS.get(name, {}), **({"dataset": dataset} if name == "snapshot" else {})})
        inputs: dict[str, str | Sequence[str]] = {
            given: made[given][0].uri for given in (each.rstrip("*?") for each in load(name).inputs)
        }
        result = execute(name, inputs, params, store)
        made[name] = result.artifact, result.reused
    return made


@pytest.mark.parametrize("server", ["moto", pytest.param("real", marks=pytest.mark.s3)])
def test_the_chain_runs_in_a_bucket_and_is_reused(server: str, s3: str) -> None:
    rng, data = np.random.default_rng(0), open_store(f"{s3}/pictures")
    for label, colour in enumerate(KINDS):
        for number, drawing in enumerate(flat_drawings(rng, colour, 30)):
            data.put(f"class {label}/{ODD_NAMES[number % len(ODD_NAMES)].format(number)}", drawing)

    store = f"{s3}/{uuid.uuid4().hex}"
    first = chain(f"{s3}/pictures", store)
    assert first["snapshot"][0].metrics["images"] == 60
    assert not any(reused for _, reused in first.values())
    champion, _ = read_champion(open_store(store), f"{s3}/pictures")
    assert champion is not None
    assert champion.model == first["train"][0].uri

    again = chain(f"{s3}/pictures", store)
    assert all(reused for _, reused in again.values())
    assert {name: made.key for name, (made, _) in again.items()} == {
        name: made.key for name, (made, _) in first.items()
    }
