import numpy as np
import pytest

from tasks.vision.folds import assign_folds


@pytest.mark.parametrize("seed", range(3))
def test_each_class_in_each_fold_and_no_group_in_two(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [300, 60, 40])
    groups = np.arange(400) // rng.integers(1, 4)
    fold = assign_folds(labels, groups, 5, seed)
    assert set(fold) == {1, 2, 3, 4, 5}
    assert all(len(set(fold[groups == group])) == 1 for group in np.unique(groups))
    counts = np.array([[np.sum((labels == label) & (fold == k)) for k in range(1, 6)] for label in range(3)])
    assert counts.min() >= 1
    assert np.ptp(counts, axis=1).max() <= 6


def test_the_seed_decides() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100)
    assert np.array_equal(assign_folds(labels, groups, 4, 1), assign_folds(labels, groups, 4, 1))
    assert not np.array_equal(assign_folds(labels, groups, 4, 1), assign_folds(labels, groups, 4, 2))


def test_a_class_of_one_group_is_always_trained_on() -> None:
    labels = np.repeat([0, 1], [40, 6])
    groups = np.concatenate([np.arange(40), np.full(6, 99)])
    fold = assign_folds(labels, groups, 4, 0)
    assert set(fold[labels == 1]) == {0}
    assert set(fold[labels == 0]) == {1, 2, 3, 4}


def test_what_is_in_its_group_beside_it_is_trained_on_too() -> None:
    labels = np.repeat([0, 1], [41, 6])
    groups = np.concatenate([np.arange(40), np.full(7, 99)])  # an image of the other class is a near duplicate
    fold = assign_folds(labels, groups, 4, 0)
    assert set(fold[groups == 99]) == {0}


def test_any_seed_will_do() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100)
    assert set(assign_folds(labels, groups, 4, 2**40)) == {1, 2, 3, 4}
