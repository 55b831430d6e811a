import zipfile
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import DataError, ParamsError
from tasks.vision import models


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        pytest.param("baseline", 1_246_740, id="baseline"),
        pytest.param("residual", 1_279_572, id="residual"),
    ],
)
def test_parameters_at_the_originals_size(architecture, parameters):
    model = models.build(architecture, 224, 20, seed=0)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 20)


def test_vgg_is_vgg_16_under_four_dense_layers():
    model = models.build("vgg", 32, 20, seed=0)
    assert len([layer for layer in model.layers if layer.name.startswith("conv")]) == 13
    assert [model.get_layer(f"dense{n}").units for n in (1, 2, 3, 4)] == [4096, 4096, 2048, 1024]
    # Flattened, 224 px are 7 x 7 positions of 512 channels for the first dense layer, 32 px are one.
    assert model.count_params() + (7 * 7 - 1) * 512 * 4096 == 144_769_876


def test_residual_has_three_bottlenecks_at_each_width():
    model = models.build("residual", 32, 3, seed=0)
    added = [layer for layer in model.layers if layer.name.endswith("_add")]
    assert [layer.output.shape[-1] for layer in added] == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
    assert not any("drop" in layer.name for layer in model.layers)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_probabilities_from_bytes_and_from_floats(architecture, pixels):
    model = models.build(architecture, 32, 3, seed=0)
    probabilities = np.asarray(model(pixels))
    assert probabilities.shape == (2, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(probabilities, np.asarray(model(pixels.astype(np.float32))))


def test_the_seed_sets_the_weights():
    first, same, other = (models.build("baseline", 32, 3, seed).get_weights() for seed in (1, 1, 2**32 + 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
@pytest.mark.parametrize("size", [31, 513])
def test_a_size_that_no_network_takes(architecture, size):
    with pytest.raises(ParamsError, match="image_size must be from 32 to 512"):
        models.build(architecture, size, 3, seed=0)


@pytest.mark.parametrize("architecture", ["baseline", "residual"])
def test_the_largest_size(architecture):
    assert models.build(architecture, 512, 3, seed=0).input_shape == (None, 512, 512, 3)


def test_an_unknown_architecture():
    with pytest.raises(ParamsError, match="There are: baseline, vgg, residual"):
        models.build("resnet", 32, 3, seed=0)


def test_saved_and_loaded(tmp_path: Path, pixels):
    model = models.build("residual", 32, 3, seed=0)
    models.save(model, tmp_path / "model.keras")
    loaded = models.load(tmp_path / "model.keras")
    assert np.array_equal(np.asarray(model(pixels)), np.asarray(loaded(pixels)))
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_the_same_weights_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Later:
        """A clock that is a day further each time it is read."""

        days = 0

        @classmethod
        def time(cls) -> float:
            cls.days += 1
            return 1_700_000_000.0 + cls.days * 86_400

    monkeypatch.setattr(zipfile.time, "time", Later.time)
    paths = [tmp_path / "first.keras", tmp_path / "second.keras"]
    kept = []  # so that the second network lies at other addresses
    for path in paths:
        kept.append(models.build("baseline", 32, 3, seed=0))
        models.save(kept[-1], path)
    assert Later.days > 0
    first, second = (path.read_bytes() for path in paths)
    assert first == second


@pytest.mark.parametrize(
    "content",
    [pytest.param(b"", id="empty"), pytest.param(b"no zip", id="no zip"), pytest.param(None, id="cut short")],
)
def test_a_file_that_is_no_model(tmp_path: Path, content):
    path = tmp_path / "model.keras"
    models.save(models.build("baseline", 32, 3, seed=0), path)
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(DataError, match="is not a model that Keras can read"):
        models.load(path)


def test_a_model_with_code_in_it_is_refused(tmp_path: Path):
    import keras

    pixels = keras.Input((32, 32, 3))
    model = keras.Model(pixels, keras.layers.Lambda(lambda x: x * 2)(pixels))
    model.save(tmp_path / "model.keras")
    with pytest.raises(DataError, match="is not a model that Keras can read"):
        models.load(tmp_path / "model.keras")
