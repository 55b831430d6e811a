import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tasks.core.errors import DataError, ParamsError
from tasks.core.params import Architecture
from tasks.vision import models


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def by_part(model) -> dict[str, int]:
    """Parameters by the first word of the layers' names."""
    counts: dict[str, int] = {}
    for layer in model.layers:
        if layer.count_params():
            part = layer.name.partition("_")[0]
            counts[part] = counts.get(part, 0) + layer.count_params()
    return counts


RESIDUAL = {
    "output": [14_208, 61_184, 239_104, 945_152, 10_260],
    "inner": [218_624, 945_152, 3_758_080, 14_987_264, 40_980],
}


@pytest.mark.parametrize(("bottleneck", "parameters"), [("output", 1_279_572), ("inner", 19_959_764)])
def test_residuals_parameters(bottleneck, parameters):
    model = models.build("residual", 224, 20, seed=0, bottleneck=bottleneck)
    parts = ["stem", "stage1", "stage2", "stage3", "stage4", "logits"]
    assert by_part(model) == dict(zip(parts, [9_664, *RESIDUAL[bottleneck]], strict=True))
    assert model.count_params() == parameters
    assert model.output_shape == (None, 20)


def test_baselines_layers_and_parameters():
    model = models.build("baseline", 224, 20, seed=0)
    layers = [(layer.name, tuple(layer.output.shape[1:]), layer.count_params()) for layer in model.layers[2:]]
    assert layers == [
        ("conv1", (75, 75, 32), 896),
        ("pool1", (37, 37, 32), 0),
        ("drop1", (37, 37, 32), 0),
        ("conv2", (13, 13, 64), 18_496),
        ("conv3", (13, 13, 64), 36_928),
        ("pool2", (6, 6, 64), 0),
        ("drop2", (6, 6, 64), 0),
        ("flatten", (2304,), 0),
        ("dense1", (512,), 1_180_160),
        ("drop3", (512,), 0),
        ("logits", (20,), 10_260),
        ("probabilities", (20,), 0),
    ]
    assert [model.get_layer(f"drop{n}").rate for n in (1, 2, 3)] == [0.25, 0.25, 0.5]
    assert model.count_params() == 1_246_740


def test_vgg_is_vgg_16_under_four_dense_layers():
    model = models.build("vgg", 32, 20, seed=0)
    assert len([layer for layer in model.layers if layer.name.startswith("conv")]) == 13
    assert by_part(model) == {
        "conv1": 38_720,
        "conv2": 221_440,
        "conv3": 1_475_328,
        "conv4": 5_899_776,
        "conv5": 7_079_424,
        "dense1": 102_764_544 - (7 * 7 - 1) * 512 * 4096,  # of 224 px, 7 x 7 positions are flattened, of 32 px one
        "dense2": 16_781_312,
        "dense3": 8_390_656,
        "dense4": 2_098_176,
        "logits": 20_500,
    }
    assert [model.get_layer(f"drop{n}").rate for n in (1, 2, 3, 4)] == [0.5] * 4


def test_residual_has_three_bottlenecks_at_each_width():
    model = models.build("residual", 32, 3, seed=0)
    added = [layer for layer in model.layers if layer.name.endswith("_add")]
    assert [layer.output.shape[-1] for layer in added] == [64] * 3 + [128] * 3 + [256] * 3 + [512] * 3
    assert not any("drop" in layer.name for layer in model.layers)


@pytest.mark.parametrize("architecture", models.OWN)
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


@pytest.mark.parametrize("architecture", models.OWN)
@pytest.mark.parametrize("size", [31, 513])
def test_a_size_that_no_network_takes(architecture, size):
    with pytest.raises(ParamsError, match="image_size must be from 32 to 512"):
        models.build(architecture, size, 3, seed=0)


@pytest.mark.parametrize("architecture", ["baseline", "residual"])
@pytest.mark.parametrize("size", [33, 47, 97, 255, 512])
def test_any_size(architecture, size):
    model = models.build(architecture, size, 3, seed=0)
    assert model.input_shape == (None, size, size, 3)
    assert model.output_shape == (None, 3)


def test_floating_point_operations():
    """The sums of products, by hand: each twice."""
    products = 27 * 32 * 75 * 75 + 9 * 32 * 64 * 13 * 13 + 9 * 64 * 64 * 13 * 13 + 2304 * 512 + 512 * 20
    assert models.flops(models.build("baseline", 224, 20, seed=0)) == 2 * products
    # 4.1 GFLOP of multiply-adds at 224 px (He et al. 2015 say 3.8 without shortcuts), a body within the network
    assert models.flops(models.build("keras:ResNet50", 224, 20, seed=0)) == pytest.approx(2 * 3.86e9, rel=0.05)


def test_an_unknown_architecture():
    with pytest.raises(ParamsError, match=r"There are: baseline, vgg, residual, and keras:<Name> with .*ResNet50"):
        models.build("resnet", 32, 3, seed=0)


def test_the_architectures_to_choose_from_are_those_that_keras_has():
    listed = set(get_args(Architecture)) - set(models.OWN)
    assert listed == {f"keras:{name}" for name in models.applications()}


@pytest.mark.parametrize(
    ("name", "probe"),
    [
        # what the pixels 0, 0, 0 and 255, 255, 255 are before the first convolution
        pytest.param("VGG16", [[-103.939, -116.779, -123.68], [151.061, 138.221, 131.32]], id="mean taken off, BGR"),
        pytest.param("MobileNetV2", [[-1, -1, -1], [1, 1, 1]], id="-1 to 1"),
    ],
)
def test_a_network_of_keras_applications_gets_pixels_as_it_wants_them(name, probe):
    import keras

    model = models.build(f"keras:{name}", 32, 3, seed=0)
    body = model.get_layer("body")
    before = keras.Model(model.input, body._inbound_nodes[-1].input_tensors[0])
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[1] = 255
    assert np.asarray(before(pixels))[:, 5, 5] == pytest.approx(np.array(probe), abs=1e-3)


def test_a_network_of_keras_applications_is_saved_and_loaded(tmp_path: Path, pixels):
    model = models.build("keras:MobileNetV2", 32, 3, seed=0)
    models.save(model, tmp_path / "model.keras")
    loaded = models.load(tmp_path / "model.keras")
    assert np.asarray(model(pixels)) == pytest.approx(np.asarray(loaded(pixels)), abs=1e-6)


def test_a_size_that_a_network_of_keras_applications_cannot_take():
    with pytest.raises(ParamsError, match=r"keras:InceptionV3 can't take images of 64 px: .*at least 75x75"):
        models.build("keras:InceptionV3", 64, 3, seed=0)


@pytest.mark.parametrize("ending", [".weights.h5", "_notop.h5"])
def test_weights_from_a_file(tmp_path: Path, ending):
    import keras

    source = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3), pooling="avg")
    path = tmp_path / f"MobileNetV2{ending}"
    if ending == "_notop.h5":
        import h5py
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as file:  # as the weights that Keras' makers offer
            legacy_h5_format.save_weights_to_hdf5_group(file, source)
    else:
        source.save_weights(path)
    model = models.build("keras:MobileNetV2", 32, 3, seed=1)
    models.load_weights(model, path, "s3://models/file")
    for one, two in zip(model.get_layer("body").weights, source.weights, strict=True):
        assert np.array_equal(one, two)


@pytest.fixture
def scratch():
    """An EfficientNet without its head that isn't of ImageNet; its normalisation has values."""
    import keras

    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    (normalisation,) = (layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    normalisation.adapt_mean.assign([0.485, 0.456, 0.406])
    normalisation.adapt_variance.assign([0.229, 0.224, 0.225])
    normalisation.finalize_state()
    return network


def stem(network, pixels: np.ndarray) -> np.ndarray:
    """What the first convolution of an EfficientNet makes of pixels."""
    import keras

    return np.asarray(keras.Model(network.inputs[0], network.get_layer("stem_conv").output)(pixels))


@pytest.mark.parametrize("ending", [".weights.h5", "_notop.h5"])
def test_an_efficientnet_of_imagenet_scales_pixels_as_keras_own(tmp_path: Path, monkeypatch, scratch, pixels, ending):
    import h5py
    import keras
    from keras.src.applications import efficientnet
    from keras.src.legacy.saving import legacy_h5_format

    path = tmp_path / "efficientnetb0_notop.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, scratch)
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *_, **__: str(path))  # in place of its download
    own = keras.applications.EfficientNetB0(include_top=False, input_shape=(32, 32, 3), pooling="avg")
    if ending == ".weights.h5":
        path = tmp_path / "own.weights.h5"
        own.save_weights(path)

    model = models.build("keras:EfficientNetB0", 32, 3, seed=1)
    models.load_weights(model, path, "s3://models/file")
    models.save(model, tmp_path / "model.keras")
    wanted = stem(own, pixels)
    assert np.abs(wanted - stem(scratch, pixels)).max() > 1
    for network in (model, models.load(tmp_path / "model.keras")):
        assert stem(network.get_layer("body"), pixels) == pytest.approx(wanted, abs=1e-5)
        features = np.asarray(network.get_layer("body")(pixels))
        assert features == pytest.approx(np.asarray(own(pixels)), rel=1e-3, abs=1e-4 * float(features.std()))


def test_an_efficientnet_that_started_from_scratch_scales_pixels_once(tmp_path: Path, scratch, pixels):
    scratch.save_weights(tmp_path / "some.weights.h5")
    model = models.build("keras:EfficientNetB0", 32, 3, seed=1)
    models.load_weights(model, tmp_path / "some.weights.h5", "s3://models/file")
    assert stem(model.get_layer("body"), pixels) == pytest.approx(stem(scratch, pixels), abs=1e-5)


@pytest.mark.parametrize("content", [b"no weights", None], ids=["no HDF5", "another network's"])
def test_weights_that_do_not_fit(tmp_path: Path, content):
    import keras

    path = tmp_path / "some.weights.h5"
    keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(path)
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match="The weights in s3://models/file are not those of keras:MobileNetV2"):
        models.load_weights(models.build("keras:MobileNetV2", 32, 3, seed=0), path, "s3://models/file")


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
