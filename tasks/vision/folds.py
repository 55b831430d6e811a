"""The folds of a cross-validation: each class in each fold, no duplicate group in two."""

import warnings

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer]


def assign_folds(labels: Integers, groups: Integers, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each image [n]: 1 to `folds`, or 0 for what every fold trains on.

    Folds are stratified by label and keep a duplicate group together (scikit-learn's StratifiedGroupKFold). A class all
    of whose images would land in one fold, because it has a single group, could not be trained on there: it gets 0, and
    so does what else is in the group.

    Args:
        labels: label of each image [n].
        groups: its duplicate group [n].
        folds: how many, at least 2.
        seed: decides which groups go where.

    Raises:
        ValueError: there are fewer groups than folds, or no label has as many images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    found = np.zeros(len(labels), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)  # NumPy takes no larger one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is in fewer folds, that's all
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups), start=1):
            found[held_out] = fold
    for label in np.unique(labels):
        here = labels == label
        if len(np.unique(found[here])) == 1:
            found[np.isin(groups, groups[here])] = 0
    return found
