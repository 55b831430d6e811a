import os

import numpy as np
import pytest

from tasks.vision import augment

SIZE = 48


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A smooth random picture: neither flips nor shifts leave it as it was."""
    coarse = np.random.default_rng(0).uniform(0, 255, (6, 6, 3))
    return np.repeat(np.repeat(coarse, SIZE // 6, axis=0), SIZE // 6, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def generator():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        horizontal_flip=True,
        width_shift_range=0.3,
        height_shift_range=0.3,
        rotation_range=30,
        zoom_range=0.2,
        fill_mode="nearest",
    )


def as_keras(drawn: augment.Draw, i: int) -> dict[str, float | bool]:
    # Keras calls the columns' shift tx and draws it as `height_shift`: its axes are swapped.
    return {
        "theta": drawn.angle[i],
        "tx": drawn.shift_x[i] * SIZE,
        "ty": drawn.shift_y[i] * SIZE,
        "zx": drawn.zoom_x[i],
        "zy": drawn.zoom_y[i],
        "flip_horizontal": bool(drawn.flip[i]),
    }


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # Keras' old code on a newer SciPy
def test_warp_equals_image_data_generator(picture, generator):
    drawn = augment.draw(np.random.default_rng(1), 40)
    warped = augment.warp(np.stack([picture] * 40), augment.matrices(drawn, SIZE))
    for i in range(40):
        expected = generator.apply_transform(picture.astype(np.float32), as_keras(drawn, i))
        assert np.abs(warped[i] - expected).max() <= 0.51  # half a step: only the rounding to uint8 is left


def test_draws_are_distributed_as_in_image_data_generator(generator):
    drawn = augment.draw(np.random.default_rng(2), 4000)
    np.random.seed(2)
    keras = [generator.get_random_transform((SIZE, SIZE, 3)) for _ in range(4000)]
    columns = {
        "theta": drawn.angle,
        "tx": drawn.shift_x * SIZE,
        "ty": drawn.shift_y * SIZE,
        "zx": drawn.zoom_x,
        "zy": drawn.zoom_y,
        "flip_horizontal": drawn.flip,
    }
    for name, ours in columns.items():
        theirs = np.array([float(row[name]) for row in keras])
        for statistic in (np.min, np.mean, np.max, np.std):
            assert statistic(ours) == pytest.approx(statistic(theirs), abs=0.05 * np.ptp(theirs)), name
    assert not any(row["flip_vertical"] for row in keras)
    assert abs(np.corrcoef(drawn.zoom_x, drawn.zoom_y)[0, 1]) < 0.1


@pytest.mark.parametrize("jit", [False, True], ids=["as written", "compiled by XLA"])
def test_the_warp_in_the_step_gives_the_same_picture(jit):
    import keras

    images = np.random.default_rng(3).integers(0, 256, (64, SIZE, SIZE, 3), dtype=np.uint8)  # as rough as can be
    matrices = augment.matrices(augment.draw(np.random.default_rng(4), 64), SIZE).astype(np.float32)
    warp = augment.warp_in_step
    # Not by a model that is compiled: after a deterministic training in this process Keras would leave XLA out.
    if keras.backend.backend() == "jax":
        import jax

        warp = jax.jit(warp) if jit else warp
    else:
        import tensorflow

        warp = tensorflow.function(warp, jit_compile=jit)
    in_step = keras.ops.convert_to_numpy(warp(images, matrices))
    assert in_step.dtype == np.uint8
    off = np.abs(augment.warp(images, matrices).astype(int) - in_step)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


NOTHING = {"angle": 0.0, "shift_x": 0.0, "shift_y": 0.0, "zoom_x": 1.0, "zoom_y": 1.0, "flip": False}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, lambda x: x, id="nothing"),
        pytest.param({"flip": True}, lambda x: x[:, ::-1], id="flip"),
        pytest.param({"shift_x": 0.25}, lambda x: x[:, np.minimum(np.arange(SIZE) + 12, 47)], id="shift columns"),
        pytest.param({"shift_y": -0.25}, lambda x: x[np.maximum(np.arange(SIZE) - 12, 0)], id="shift rows"),
    ],
)
def test_warp_of_one_kind(picture, change, expected):
    drawn = augment.Draw(**{name: np.array([value]) for name, value in (NOTHING | change).items()})
    warped = augment.warp(picture[None], augment.matrices(drawn, SIZE))[0]
    assert np.array_equal(warped, expected(picture))


def test_same_generator_same_pictures(picture):
    first, second = (
        augment.warp(picture[None], augment.matrices(augment.draw(np.random.default_rng(3), 1), SIZE)) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], picture)
