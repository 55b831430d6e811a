import cv2
import numpy as np
import pytest

from tasks.vision.features import FEATURE_NAMES, FEATURE_SIZE, describe

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
