from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import ParamsError
from tasks.core.params import TrainParams
from tasks.core.store import LocalStore
from tasks.vision import devices, feed, models, training
from tasks.vision.pack import Pack

LABELS = np.array([0] * 7 + [1] * 3, np.int32)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Ten random images of 8 px."""
    np.save(tmp_path / "000.npy", np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8))
    return Pack([tmp_path / "000.npy"], pd.DataFrame({"row": range(10), "shard": 0, "offset": range(10)}))


def stream(pack: Pack, batch_size: int = 4, augmented: bool = False, seed: int = 0) -> feed.Batches:
    return feed.Batches(
        pack,
        np.arange(10),
        LABELS,
        feed.class_weights(LABELS, 2),
        batch_size=batch_size,
        augmented=augmented,
        seed=seed,
    )


def test_an_epoch_draws_each_image_once(pack):
    batches = stream(pack)
    for epoch in (0, 1):
        drawn = [batches[step] for step in range(epoch * batches.steps, (epoch + 1) * batches.steps)]
        images = np.concatenate([inputs["images"] for inputs, _, _ in drawn])
        assert sorted(map(bytes, images)) == sorted(map(bytes, pack.gather(np.arange(10))))
        assert np.concatenate([targets for _, targets, _ in drawn]).sum(axis=0).tolist() == [7, 3]


def test_batches_are_of_nearly_equal_size(pack):
    batches = stream(pack, batch_size=9)
    assert [len(batches[step][1]) for step in range(batches.steps)] == [5, 5]


def test_a_batch_depends_on_seed_and_step_alone(pack):
    forwards, backwards, other = (stream(pack, augmented=True, seed=seed) for seed in (5, 5, 6))
    first = [forwards[step] for step in range(9)]
    second = [backwards[step] for step in reversed(range(9))][::-1]
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one[0]["images"], two[0]["images"])
        assert all(np.array_equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))
    assert not np.array_equal(first[0][0]["images"], other[0][0]["images"])


def test_an_image_is_augmented_anew_each_epoch(pack):
    batches = stream(pack, batch_size=10, augmented=True)
    assert not set(map(bytes, batches[0][0]["images"])) & set(map(bytes, batches[1][0]["images"]))


def test_class_weights_make_all_classes_count_the_same(pack):
    _, targets, weights = stream(pack, batch_size=10)[0]
    assert weights @ targets == pytest.approx([5, 5])


def test_cross_entropy_is_keras_own():
    import keras

    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.0, 0.3, 0.7]], np.float32)
    labels = np.array([0, 1, 0], np.int32)
    expected = keras.losses.SparseCategoricalCrossentropy()(labels, probabilities)
    assert training.cross_entropy(probabilities, labels) == pytest.approx(float(expected), rel=1e-5)


HOST = devices.Execution("float32", devices.compiles(), 1, "warped", 1)


@pytest.fixture
def pack32(tmp_path: Path) -> Pack:
    """Ten random images of 32 px."""
    np.save(tmp_path / "000.npy", np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    return Pack([tmp_path / "000.npy"], pd.DataFrame({"row": range(10), "shard": 0, "offset": range(10)}))


def fit(tmp_path: Path, pack: Pack, architecture: str = "baseline", execution=HOST, **params):
    """A network trained on the pack, and how it went."""
    given = TrainParams.of({"image_size": 32, "epochs": 3, "batch_size": 4, "momentum": 0.9, **params})
    network = models.build(architecture, 32, 2, seed=0, precision=execution.precision)
    batches = feed.Batches(
        pack,
        np.arange(10),
        LABELS,
        feed.class_weights(LABELS, 2),
        batch_size=given.batch_size,
        augmented=True,
        seed=given.seed,
        smoothing=given.label_smoothing,
        mixup=given.mixup,
        feed=execution.feed,
        steps_per_execution=execution.steps_per_execution,
        devices=execution.devices,
    )
    fitted = training.fit(
        network,
        batches,
        training.Validation(network, pack, np.arange(10), LABELS, batch_size=4),
        given,
        execution,
        identity={"architecture": architecture},
        checkpoint=Checkpoint(LocalStore(tmp_path / "store"), "train"),
        file=tmp_path / "state.npz",
        log=print,
    )
    return network, fitted


def test_a_training_that_diverges_says_where_and_what_to_do(tmp_path: Path, pack32):
    with pytest.raises(ParamsError, match=r"no longer a number in epoch \d+, at the learning rate 10: .* example 1\."):
        fit(tmp_path, pack32, learning_rate=10.0, momentum=0.99, epochs=12)
