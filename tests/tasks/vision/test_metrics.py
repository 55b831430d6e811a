import numpy as np
import pytest
from sklearn import metrics as reference

from tasks.vision import metrics


def guesses(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, images)
    return truth, np.where(rng.random(images) < 0.6, truth, rng.integers(0, classes, images))


@pytest.mark.parametrize(("images", "classes"), [(30, 2), (500, 7), (2000, 100), (40, 30)], ids=str)
def test_classwise_equals_scikit_learn(images, classes):
    truth, predicted = guesses(images, classes)
    scores = metrics.classwise(truth, predicted, classes)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        truth, predicted, labels=range(classes), zero_division=0
    )
    there = support > 0
    np.testing.assert_array_equal(scores.support, support)
    for mine, theirs in zip(scores, (precision, recall, f1), strict=False):
        np.testing.assert_allclose(mine[there], theirs[there])
        assert np.isnan(mine[~there]).all()
    one_vs_rest = [reference.accuracy_score(truth == label, predicted == label) for label in range(classes)]
    np.testing.assert_allclose(scores.accuracy, one_vs_rest)
    assert metrics.macro(scores.f1) == pytest.approx(
        reference.f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    )


def test_confusion_equals_scikit_learn():
    truth, predicted = guesses(300, 6)
    np.testing.assert_array_equal(metrics.confusion(truth, predicted, 6), reference.confusion_matrix(truth, predicted))


def test_a_class_never_predicted_scores_0_and_one_without_images_is_left_out():
    scores = metrics.classwise(np.array([0, 0, 1]), np.array([0, 0, 0]), 3)
    assert scores.f1[1] == 0
    assert scores.precision[1] == 0
    assert np.isnan(scores.f1[2])
    assert metrics.macro(scores.f1) == pytest.approx((0.8 + 0) / 2)


def test_no_class_is_a_wrong_answer_and_nobody_s_false_positive():
    scores = metrics.classwise(np.array([0, 0, 1, 1]), np.array([0, -1, 1, -1]), 2)
    assert scores.recall.tolist() == [0.5, 0.5]
    assert scores.precision.tolist() == [1, 1]


def test_calibration_error_of_a_calibrated_model_is_small():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    diagram = metrics.reliability(confidence, rng.random(len(confidence)) < confidence)
    assert metrics.calibration_error(diagram) < 0.01


def test_calibration_error_of_an_overconfident_model():
    right = np.arange(1000) % 10 < 6
    diagram = metrics.reliability(np.full(1000, 0.95), right)
    assert metrics.calibration_error(diagram) == pytest.approx(0.35)
    assert diagram.images.tolist() == [0] * 14 + [1000]
    assert np.isnan(diagram.accuracy[:14]).all()


def test_bins_are_closed_above():
    diagram = metrics.reliability(np.array([0.0, 0.2, 0.2001, 1.0]), np.ones(4, bool), bins=5)
    assert diagram.images.tolist() == [2, 1, 0, 0, 1]


def test_bootstrap_is_that_of_drawing_images():
    truth, first = guesses(200, 4, seed=1)
    second = np.where(np.random.default_rng(5).random(200) < 0.5, truth, first)
    fast = metrics.paired_bootstrap(truth, first, second, 4, 2000, seed=0)

    rng = np.random.default_rng(9)
    places = [np.flatnonzero(truth == label) for label in range(4)]
    slow = []
    for _ in range(1000):
        drawn = np.concatenate([rng.choice(place, len(place)) for place in places])
        scores = [metrics.macro(metrics.classwise(truth[drawn], model[drawn], 4).f1) for model in (first, second)]
        slow.append(scores[1] - scores[0])
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.004)
    np.testing.assert_allclose(np.quantile(fast, [0.05, 0.95]), np.quantile(slow, [0.05, 0.95]), atol=0.012)


def test_bootstrap_of_equal_models_is_0():
    truth, predicted = guesses(100, 3)
    assert not metrics.paired_bootstrap(truth, predicted, predicted.copy(), 3, 500, seed=0).any()


def test_bootstrap_follows_its_seed():
    truth, first = guesses(100, 3)
    _, second = guesses(100, 3, seed=2)
    draws = [metrics.paired_bootstrap(truth, first, second, 3, 1500, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_bootstrap_with_a_model_that_knows_no_class():
    truth = np.repeat([0, 2], 20)  # class 1 has no image
    nothing = np.full(40, -1)
    assert (metrics.paired_bootstrap(truth, nothing, truth, 3, 100, seed=0) == 1).all()
