import numpy as np
import pytest

from tasks.vision.suspects import chance_of_error, label_suspects, of_another_class


def mislabelled(images: int, classes: int, wrong: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which a share is wrong, a model's probabilities, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (images, classes))
    logits[np.arange(images), truth] += 4
    logits *= 4  # as sure as it is right: of two normal distributions so far apart, this is the ratio
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bad = rng.random(images) < wrong
    labels = np.where(bad, (truth + 1 + rng.integers(0, classes - 1, images)) % classes, truth)
    return labels, probabilities, bad


def test_wrong_labels_are_found_and_the_likeliest_come_first():
    labels, probabilities, bad = mislabelled(3000, 12, 0.03)
    found = label_suspects(labels, probabilities)
    assert bad[found[:30]].all()
    assert bad[found].mean() > 0.95, "few are wronged"
    assert bad[found].sum() > bad.sum() / 2
    assert (np.diff(probabilities[found, labels[found]]) >= 0).all()


@pytest.mark.parametrize(("images", "classes", "wrong"), [(2000, 12, 0.05), (300, 3, 0.2), (40, 10, 0.1), (9, 2, 0)])
def test_it_is_cleanlab_s_confident_learning(images, classes, wrong):
    from cleanlab.filter import find_label_issues

    for seed in range(3):
        labels, probabilities, _ = mislabelled(images, classes, wrong, seed)
        theirs = find_label_issues(labels, probabilities, filter_by="confident_learning")
        assert of_another_class(labels, probabilities).tolist() == theirs.tolist()


def calibrated(images: int, classes: int, sure: float, wrong: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `mislabelled`, by a model that is right just as often as it says."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, sure, (images, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (probabilities.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    bad = rng.random(images) < wrong
    labels = np.where(bad, (truth + 1 + rng.integers(0, classes - 1, images)) % classes, truth)
    return labels, probabilities, bad


@pytest.mark.parametrize("sure", [1.5, 2.5, 4])
def test_the_errors_of_a_weak_model_are_not_taken_for_wrong_labels(sure):
    labels, probabilities, _ = calibrated(548, 8, sure, wrong=0)
    assert of_another_class(labels, probabilities).sum() > 30
    assert len(label_suspects(labels, probabilities)) <= 2


@pytest.mark.parametrize("wrong", [0.01, 0.03, 0.1])
def test_wrong_labels_are_told_from_the_model_s_errors(wrong):
    labels, probabilities, bad = calibrated(4000, 12, 6, wrong)
    found = label_suspects(labels, probabilities)
    assert bad[found].mean() > 0.75
    assert bad[found].sum() > bad.sum() / 3
    assert chance_of_error(labels, probabilities).mean() == pytest.approx(wrong, abs=0.01), "the rate of wrong labels"


def test_no_images_give_no_suspects():
    assert label_suspects(np.zeros(0, int), np.zeros((0, 3))).tolist() == []


def test_a_class_without_images_is_suggested_to_none():
    labels, probabilities = np.zeros(20, int), np.tile([0.1, 0.9], (20, 1))
    assert label_suspects(labels, probabilities).tolist() == []
