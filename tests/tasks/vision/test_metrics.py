from math import comb

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


def test_the_bootstrap_of_each_class_is_that_of_the_macro_average():
    truth, first = guesses(200, 4, seed=1)
    f1 = metrics.bootstrap_f1(truth, first, 5, 1500, seed=0)
    assert f1.shape == (1500, 5)
    assert np.isnan(f1[:, 4]).all(), "a class without images"
    wrong = np.full_like(first, -1)  # against it the difference is the macro average itself
    np.testing.assert_allclose(
        np.nanmean(f1, axis=1).mean(), metrics.paired_bootstrap(truth, wrong, first, 5, 1500, seed=0).mean(), atol=0.003
    )
    scores = metrics.classwise(truth, first, 4).f1
    low, high = np.quantile(f1[:, :4], [0.025, 0.975], axis=0)
    assert ((low < scores) & (scores < high)).all()


def test_the_interval_holds_the_true_score_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(3), 0
    population_truth, population = guesses(200_000, 3, seed=7)
    true = metrics.macro(metrics.classwise(population_truth, population, 3).f1)
    for seed in range(200):
        drawn = rng.integers(0, len(population), 150)
        f1 = metrics.bootstrap_f1(population_truth[drawn], population[drawn], 3, 300, seed=seed)
        low, high = np.quantile(f1.mean(axis=1), [0.025, 0.975])
        inside += low <= true <= high
    assert 0.9 <= inside / 200 <= 0.99


def test_mcnemar_is_the_sign_test_of_the_images_they_differ_on():
    truth = np.zeros(30, int)
    first, second = np.zeros(30, int), np.zeros(30, int)
    first[:2], second[2:12] = 1, -1
    test = metrics.mcnemar(truth, first, second)
    assert (test["only_first"], test["only_second"]) == (10, 2)
    assert test["p"] == pytest.approx(2 * sum(comb(12, k) for k in range(3)) / 2**12)
    assert metrics.mcnemar(truth, first, first)["p"] == 1


@pytest.mark.parametrize(
    ("right", "images", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)]
)
def test_wilson_s_interval(right, images, low, high):
    """The last is the example of Newcombe, Two-sided confidence intervals for the single proportion, 1998."""
    assert metrics.wilson(right, images) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_surest_images_come_first():
    confidence = np.array([0.9, 0.2, 0.5, 0.5, 0.7])
    assert metrics.selective(confidence, 1.0) == (0.2, 5)
    assert metrics.selective(confidence, 0.4) == (0.7, 2)
    assert metrics.selective(confidence, 0.6) == (0.5, 4), "equally sure, both or none"
    assert metrics.selective(confidence, 0.0) == (0.9, 1)
