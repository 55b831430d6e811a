import numpy as np
import pytest

from tasks.vision import metrics
from tasks.vision.calibration import calibrated, fit_temperature


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_by_which_a_model_is_too_sure_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn by the softmax's probabilities
    said = softmax(logits * temperature)
    fitted = fit_temperature(said[:10_000], truth[:10_000])
    assert fitted == pytest.approx(temperature, rel=0.05)
    mended = calibrated(said[10_000:], fitted)
    np.testing.assert_allclose(mended.sum(axis=1), 1, atol=1e-6)
    right = mended.argmax(axis=1) == truth[10_000:]
    error = metrics.calibration_error(metrics.reliability(mended.max(axis=1), right))
    before = metrics.calibration_error(metrics.reliability(said[10_000:].max(axis=1), right))
    assert error < 0.02
    assert error <= before + 0.005


def test_the_most_probable_class_stays_and_probabilities_of_0_are_no_trouble():
    said = np.array([[1, 0, 0], [0.2, 0.5, 0.3], [0, 0, 1]], np.float32)
    mended = calibrated(said, 2.5)
    assert np.isfinite(mended).all()
    assert mended.argmax(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(calibrated(said, 1.0), said, atol=1e-6)


def test_a_few_images_without_an_error_make_nobody_infinitely_sure():
    labels = np.arange(20) % 2
    said = np.where(np.eye(2, dtype=bool)[labels], 0.9, 0.1).astype(np.float32)
    sure = calibrated(said, fit_temperature(said, labels)).max()
    assert sure == pytest.approx(21 / 22, abs=0.002)
