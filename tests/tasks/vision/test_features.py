import cv2
import numpy as np
import pytest

from tasks.vision.features import FEATURE_NAMES, FEATURE_SIZE, describe, fit
from tasks.vision.images import shrink

from . import plain_features
from .pictures import drawing, photograph


def measures(rgb: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, describe(rgb).tolist(), strict=True))


def test_there_is_one_float_for_each_name() -> None:
    found = describe(drawing(0))
    assert found.dtype == np.float32
    assert found.shape == (len(FEATURE_NAMES),) == (len(set(FEATURE_NAMES)),)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (2, 3), (128, 128), (3000, 1)], ids=str)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)], ids=str)
def test_a_constant_picture_is_finite_and_flat(size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    found = measures(np.full((*size, 3), colour, np.uint8))
    assert np.isfinite(list(found.values())).all()
    assert found["flat_share"] == found["lightness_eight_commonest"] == found["palette5_commonest"] == 1
    assert found["edge_share"] == found["palette5_entropy"] == found["lightness_gradient_p97"] - 1 / 256 == 0
    # OpenCV rounds half a level of lightness one way in the body of a row and the other at its end.
    assert found["lightness_spread"] < 0.003


@pytest.mark.filterwarnings("error")
def test_a_grey_picture_has_no_hue() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (90, 70, 1), dtype=np.uint8), 3, axis=2)
    found = measures(grey)
    assert np.isfinite(list(found.values())).all()
    assert found["grey_share"] == 1
    assert found["hue_entropy"] == found["chroma_mean"] == found["colour_only_edges"] == 0


def test_a_photograph_and_a_drawing_differ_as_the_prior_says() -> None:
    photo, drawn = measures(photograph(1)), measures(drawing(1))
    for name in ("lightness_entropy", "palette5_entropy", "noise_floor_p5", "faint_gradient_share"):
        assert photo[name] > drawn[name], name
    for name in ("flat_share", "equal_neighbours", "lightness_eight_commonest", "lightness_roughness"):
        assert photo[name] < drawn[name], name


def test_known_values() -> None:
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = (255, 0, 0)  # black and red
    found = measures(halves)
    assert found["lightness_entropy"] == pytest.approx(1)
    assert found["lightness_eight_commonest"] == pytest.approx(1)
    assert found["lightness_mean"] == pytest.approx(0.25, abs=0.01)
    assert found["saturation_mean"] == pytest.approx(0.5)
    assert found["hue_concentration"] == pytest.approx(1)
    assert found["palette4_commonest"] == pytest.approx(0.5)


@pytest.mark.parametrize("make", [drawing, photograph], ids=["drawing", "photograph"])
def test_hardly_depends_on_the_size_it_comes_in(make: object) -> None:
    rgb = make(3, side=FEATURE_SIZE)  # type: ignore[operator]
    larger = cv2.resize(rgb, (4 * FEATURE_SIZE, 4 * FEATURE_SIZE), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_allclose(describe(larger), describe(rgb), atol=1e-6)


def test_a_picture_that_is_not_contiguous_is_the_same_picture() -> None:
    rgb = photograph(4)
    np.testing.assert_array_equal(describe(rgb[:, ::-1]), describe(rgb[:, ::-1].copy()))


def test_does_not_depend_on_where_in_memory_the_picture_lies() -> None:
    rgb, others = drawing(3, side=FEATURE_SIZE), []
    first = describe(rgb)
    for size in range(1, 4000, 61):  # other arrays in between move the ones that are made inside
        others.append(np.zeros(size * 17, np.uint8))
        np.testing.assert_array_equal(describe(rgb), first)


def noise(height: int, width: int, levels: int = 256) -> np.ndarray:
    values = np.random.default_rng(height * width).integers(0, levels, (height, width, 3)) * (255 // (levels - 1))
    return values.astype(np.uint8)


@pytest.mark.parametrize(
    "rgb",
    [
        *(noise(*size) for size in [(1, 1), (1, 60), (60, 1), (2, 2), (2, 3), (3, 2), (3, 3), (4, 4), (5, 9), (9, 7)]),
        *(noise(*size) for size in [(17, 128), (128, 31), (128, 128)]),
        *(noise(64, 64, levels) for levels in (2, 3, 6)),
        *(np.full((40, 30, 3), level, np.uint8) for level in (0, 15, 16, 128, 239, 240, 255)),
        *(drawing(seed, side=FEATURE_SIZE) for seed in range(3)),
        *(photograph(seed, side=100) for seed in range(3)),
    ],
)
def test_every_measure_is_what_it_is_said_to_be(rgb: np.ndarray) -> None:
    plain = plain_features.describe(rgb)
    assert plain_features.FEATURE_NAMES == FEATURE_NAMES
    np.testing.assert_allclose(describe(rgb), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "size", [(145, 217), (227, 227), (199, 133), (129, 129), (256, 256), (577, 866), (3000, 7), (1, 1000)], ids=str
)
def test_fitting_is_shrinking(size: tuple[int, int]) -> None:
    rgb = noise(*size)
    fitted, shrunk = fit(rgb).astype(int), shrink(rgb, FEATURE_SIZE).astype(int)
    assert fitted.shape == shrunk.shape
    # The two add up in another order, so that one may round up a half that the other rounds down.
    assert np.abs(fitted - shrunk).max() <= 1
    assert (fitted != shrunk).mean() < 1e-3


def test_a_small_picture_is_not_changed() -> None:
    np.testing.assert_array_equal(fit(noise(128, 90)), noise(128, 90))
