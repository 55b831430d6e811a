import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import DataError, ParamsError
from tasks.core.params import TrainParams
from tasks.core.settings import settings
from tasks.core.store import LocalStore
from tasks.vision import devices, feed, models, training
from tasks.vision.pack import Pack

LABELS = np.array([0] * 7 + [1] * 3, np.int32)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Ten random images of 8 px."""
    np.save(tmp_path / "000.npy", np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8))
    return Pack([tmp_path / "000.npy"], pd.DataFrame({"row": range(10), "shard": 0, "offset": range(10)}))


def stream(pack: Pack, batch_size: int = 4, augmented: bool = False, seed: int = 0, **options) -> feed.Batches:
    return feed.Batches(
        pack,
        np.arange(10),
        LABELS,
        feed.class_weights(LABELS, 2),
        batch_size=batch_size,
        augmented=augmented,
        seed=seed,
        **options,
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


def test_batches_made_ahead_are_the_same(pack):
    alone, ahead = stream(pack, augmented=True), stream(pack, augmented=True)
    with ahead:
        for step in range(9):
            one, two = alone[step], ahead[step]
            assert np.array_equal(one[0]["images"], two[0]["images"])
            assert all(np.array_equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))
    assert np.array_equal(alone[9][1], ahead[9][1])  # and after the end, for who asks then


@pytest.mark.parametrize(("asked", "steps"), [(1, 5), (3, 6), (4, 6), (8, 5), (100, 5)])
def test_an_epoch_is_made_of_whole_executions(pack, asked, steps):
    batches = stream(pack, batch_size=2, steps_per_execution=asked)
    assert batches.steps == steps
    assert batches.steps % batches.steps_per_execution == 0
    images = np.concatenate([batches[step][0]["images"] for step in range(batches.steps)])
    assert sorted(map(bytes, images)) == sorted(map(bytes, pack.gather(np.arange(10))))


def test_devices_get_equal_parts(pack):
    batches = stream(pack, batch_size=6, devices=3)
    sizes = [len(batches[step][1]) for step in range(batches.steps)]
    assert all(size % 3 == 0 for size in sizes)
    assert sum(sizes) == 12  # two images are drawn twice


def test_smoothed_targets(pack):
    _, targets, _ = stream(pack, batch_size=10, smoothing=0.2)[0]
    assert sorted(set(targets.ravel())) == pytest.approx([0.1, 0.9])


def test_each_image_of_a_mixture_counts_as_its_class_does(pack):
    plain, mixed = stream(pack, batch_size=10), stream(pack, batch_size=10, mixup=0.4)
    (inputs, labels, weights), (mixture, targets, mixed_weights) = plain[0], mixed[0]
    assert np.array_equal(inputs["images"], mixture["images"])
    share = mixture["share"][:, None]
    assert ((share > 0) & (share < 1)).any()
    counts = labels * weights[:, None]
    assert targets * mixed_weights[:, None] == pytest.approx(share * counts + (1 - share) * counts[::-1], rel=1e-5)
    assert targets.sum(axis=1) == pytest.approx(1)


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
        fit(tmp_path, pack32, optimizer="adamw", learning_rate=10.0, weight_decay=1.0, epochs=20)


def test_the_numbers_are_the_same_whichever_way_a_batch_is_fed(tmp_path: Path, pack32):
    devices.make_deterministic(devices.compiles())
    trained = {
        way: fit(tmp_path / way, pack32, execution=HOST._replace(feed=way), mixup=0.3, class_weights=True)
        for way in ("warped", "raw", "resident")
    }
    histories = {way: fitted.history.to_numpy() for way, (_, fitted) in trained.items()}
    assert np.array_equal(histories["raw"], histories["resident"])
    for one, two in zip(trained["raw"][0].get_weights(), trained["resident"][0].get_weights(), strict=True):
        assert np.array_equal(one, two)
    assert histories["warped"] == pytest.approx(histories["raw"], rel=1e-3)  # a pixel may be one level off


@pytest.mark.skipif(devices.backend() == "jax", reason="it is TensorFlow that traces anew where variables were made")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_step_is_traced_once(tmp_path: Path, pack32, monkeypatch: pytest.MonkeyPatch, optimizer: str, precision: str):
    traced, call = [], feed.Trainee.call
    monkeypatch.setattr(feed.Trainee, "call", lambda self, inputs: traced.append(self) or call(self, inputs))
    fit(tmp_path, pack32, execution=HOST._replace(precision=precision), optimizer=optimizer, batch_size=5, epochs=2)
    assert len(traced) == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_what_float32_does(tmp_path: Path, pack32, precision):
    exact, mixed = (
        fit(tmp_path / name, pack32, execution=HOST._replace(precision=name), learning_rate=0.001)
        for name in ("float32", precision)
    )
    assert mixed[1].history["loss"].to_numpy() == pytest.approx(exact[1].history["loss"].to_numpy(), rel=0.05)
    assert {variable.dtype for variable in mixed[0].trainable_variables} == {"float32"}
    assert mixed[0].get_layer("conv1").compute_dtype == precision
    assert mixed[0].get_layer("probabilities").compute_dtype == "float32"


def test_the_cosine_rises_and_falls(tmp_path: Path, pack32):
    _, fitted = fit(tmp_path, pack32, schedule="cosine", warmup_epochs=2, epochs=6, learning_rate=0.01)
    rates = fitted.history["learning_rate"].to_numpy()  # at the end of each epoch
    assert rates == pytest.approx(0.01 * np.array([0.5, 1, 0.854, 0.5, 0.146, 0]), abs=1e-5)


def test_a_frozen_body_stays_as_it_is_until_it_is_unfrozen(tmp_path: Path, pack32):
    frozen, first = fit(tmp_path / "a", pack32, "keras:VGG16", epochs=2, freeze_epochs=2, momentum=0.0)
    start = models.build("keras:VGG16", 32, 2, seed=0)
    head, body = (network.get_layer("logits").get_weights() for network in (frozen, start))
    assert not np.array_equal(head[0], body[0])
    for one, two in zip(frozen.get_layer("body").weights, start.get_layer("body").weights, strict=True):
        assert np.array_equal(one, two)

    whole, second = fit(
        tmp_path / "b", pack32, "keras:VGG16", epochs=4, freeze_epochs=2, momentum=0.0, learning_rate=0.1
    )
    assert second.history["learning_rate"].to_numpy() == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert first.history["epoch"].tolist() == [1, 2]
    if second.best_epoch > 2:
        assert not np.array_equal(whole.get_layer("body").weights[0], start.get_layer("body").weights[0])


def test_the_state_of_another_network_is_refused(tmp_path: Path, pack32, monkeypatch):
    monkeypatch.setenv("GESSO_CHECKPOINT_SECONDS", "0")
    settings.cache_clear()
    fit(tmp_path, pack32, epochs=1)
    with pytest.raises(
        DataError, match=r"checkpoints/train/ is that of another network: architecture baseline, not vgg"
    ):
        fit(tmp_path, pack32, "vgg", epochs=1)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"precision": "float16"},
            "is of precision float16, steps an epoch 3, not precision float32, steps an epoch 3",
        ),
        ({"steps_per_execution": 2}, "is of precision float32, steps an epoch 4, not "),
    ],
    ids=["precision", "steps"],
)
def test_a_state_of_another_device_begins_anew(tmp_path: Path, pack32, monkeypatch, capsys, other, said):
    """What `auto` means on one isn't what it means on the next: float16 has variables of its own, steps are counted."""
    monkeypatch.setenv("GESSO_CHECKPOINT_SECONDS", "0")
    settings.cache_clear()
    fit(tmp_path, pack32, epochs=1, execution=HOST._replace(**other))
    _, fitted = fit(tmp_path, pack32, epochs=2)
    assert len(fitted.history) == 2
    assert said in capsys.readouterr().out
    _, resumed = fit(tmp_path, pack32, epochs=3)
    assert "Going on after epoch 2" in capsys.readouterr().out
    assert np.array_equal(resumed.history["loss"][:2], fitted.history["loss"])


def test_which_batch_fits_into_memory(tmp_path: Path, pack32, monkeypatch):
    """Memory that is used up for every batch of more than two images."""
    import keras

    train_on_batch, sizes = keras.Model.train_on_batch, []

    def tight(self, x, y, sample_weight):
        sizes.append(len(y))
        if len(y) > 2:
            raise MemoryError
        return train_on_batch(self, x, y, sample_weight)

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(keras.Model, "train_on_batch", tight)
    monkeypatch.setattr(keras.Model, "fit", full)
    with pytest.raises(
        ParamsError, match=r"A batch of 10 images doesn't fit into memory. One of 2 does: set batch_size = 2"
    ):
        fit(tmp_path, pack32, batch_size=10)
    assert sizes == [5, 2]


def learnt_by(folder: Path, count: int) -> np.ndarray:
    """The history of a training on so many devices, which are all that there are: [epochs, columns]."""
    from keras import Input, Model, layers, utils

    def network() -> Model:  # as `residual`, but compiled in seconds
        utils.set_random_seed(0)
        pixels = Input((32, 32, 3))
        x = models._normalised(layers.Rescaling(1 / 255)(pixels), 8, 3, "first", count > 1, strides=2)
        x = models._bottleneck(layers.ReLU()(x), 4, 16, "block", count > 1, strides=2)
        logits = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x))
        return Model(pixels, layers.Softmax()(logits))

    params = TrainParams.of({"image_size": 32, "epochs": 3, "learning_rate": 0.1, "momentum": 0.9})
    execution = devices.choose(params, 0)
    assert execution.devices == count == len(devices.names())
    np.save(folder / "000.npy", np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8))
    pack = Pack([folder / "000.npy"], pd.DataFrame({"row": range(12), "shard": 0, "offset": range(12)}))
    labels = np.array([0, 1, 1] * 4, np.int32)
    with devices.shared():
        built = network()
        options = {"batch_size": 4, "augmented": True, "seed": 0, "feed": "raw", "devices": count}
        batches = feed.Batches(pack, np.arange(12), labels, np.ones(2, np.float32), **options)
        judged = training.Validation(built, pack, np.arange(11), labels[:11], batch_size=5)
        kept = {"checkpoint": Checkpoint(LocalStore(folder / str(count)), "train"), "file": folder / "state"}
        fitted = training.fit(built, batches, judged, params, execution, identity={}, **kept, log=print)
    return fitted.history.to_numpy()


BY_TWO = """
import os, sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":  # before anything asks for a device
    import tensorflow
    cpu = tensorflow.config.list_physical_devices("CPU")[0]
    tensorflow.config.set_logical_device_configuration(cpu, [tensorflow.config.LogicalDeviceConfiguration()] * 2)
from tests.tasks.vision.test_training import *

np.savetxt(sys.argv[2], learnt_by(Path(sys.argv[1]), 2))
"""


def test_two_devices_learn_what_one_does(tmp_path: Path):
    run_script(tmp_path, BY_TWO, tmp_path, tmp_path / "history.txt")
    assert np.loadtxt(tmp_path / "history.txt") == pytest.approx(learnt_by(tmp_path, 1), rel=1e-3)


def run_script(folder: Path, script: str, *words: object) -> str:
    """What a script prints in a process of its own."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, str(folder / "script.py"), *map(str, words)]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


MUCH = """
import resource, sys
from pathlib import Path
from tests.tasks.vision.test_training import *

folder, images = Path(sys.argv[1]), 192
np.save(folder / "000.npy", np.zeros((images, 512, 512, 3), np.uint8))
pack = Pack([folder / "000.npy"], pd.DataFrame({"row": range(images), "shard": 0, "offset": range(images)}))
labels = (np.arange(images) % 2).astype(np.int32)

def train(count):
    params = TrainParams.of({"image_size": 512, "epochs": 1, "batch_size": count})
    network = models.build("baseline", 512, 2, seed=0)
    batches = feed.Batches(pack, np.arange(count), labels, np.ones(2), batch_size=count, augmented=False, seed=0)
    judged = training.Validation(network, pack, np.arange(4), labels[:4], batch_size=4)
    checkpoint = Checkpoint(LocalStore(folder / str(count)), "train")
    kept = {"identity": {}, "checkpoint": checkpoint, "file": folder / "state"}
    training.fit(network, batches, judged, params, HOST, **kept, log=print)

train(4)
held = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (held + 600_000_000,) * 2)
try:
    train(images)
except ParamsError as error:
    print(error)
"""


@pytest.mark.skipif(devices.backend() != "jax", reason="on a CPU without memory TensorFlow ends the process")
def test_real_memory_that_is_used_up(tmp_path: Path):
    assert "A batch of 192 images doesn't fit into memory." in run_script(tmp_path, MUCH, tmp_path)
