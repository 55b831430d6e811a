import numpy as np
import pytest

from tasks.vision.suspects import label_suspects


def mislabelled(images: int, classes: int, wrong: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which a share is wrong, a model's probabilities, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (images, classes))
    logits[np.arange(images), truth] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bad = rng.random(images) < wrong
    labels = np.where(bad, (truth + 1 + rng.integers(0, classes - 1, images)) % classes, truth)
    return labels, probabilities, bad


def test_wrong_labels_are_found_and_the_likeliest_come_first():
    labels, probabilities, bad = mislabelled(3000, 12, 0.03)
    found = label_suspects(labels, probabilities)
    assert bad[found[:30]].all()
    assert bad[found].mean() > 0.9, "few are wronged"
    assert bad[found].sum() > bad.sum() / 2
    assert (np.diff(probabilities[found, labels[found]]) >= 0).all()


@pytest.mark.parametrize(("images", "classes", "wrong"), [(2000, 12, 0.05), (300, 3, 0.2), (40, 10, 0.1), (9, 2, 0)])
def test_it_is_cleanlab_s_confident_learning(images, classes, wrong):
    from cleanlab.filter import find_label_issues

    for seed in range(3):
        labels, probabilities, _ = mislabelled(images, classes, wrong, seed)
        theirs = find_label_issues(
            labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence"
        )
        assert label_suspects(labels, probabilities).tolist() == theirs.tolist()


def test_a_class_without_images_is_suggested_to_none():
    labels, probabilities = np.zeros(20, int), np.tile([0.1, 0.9], (20, 1))
    assert label_suspects(labels, probabilities).tolist() == []
