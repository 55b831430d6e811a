"""Labels that are probably wrong.

Two questions are asked of an image, and both have to be answered with yes. Does it belong to another class by the
model? That is confident learning (Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset
Labels, JAIR 70, 2021, section 3.1), the method of cleanlab. Is a wrong label a better explanation of that than the
model's own errors? By itself the first takes nearly every error of a weak model for a wrong label. A calibrated model
says how often it errs, so what it doesn't explain of the labels is the rate of wrong ones.
"""

import numpy as np
import numpy.typing as npt

#: Thresholds are means of probabilities: one that is equal to its mean reaches it, whatever the rounding.
SLACK = 1e-6

#: How closely the rate of wrong labels is looked for, and how often it is improved at most.
CLOSE, ROUNDS = 1e-7, 1000

Labels = npt.NDArray[np.integer]
Probabilities = npt.NDArray[np.floating]


def label_suspects(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.intp]:
    """The images whose label is more probably wrong than right, the least probable label first.

    Args:
        labels: the given class of each image [n].
        probabilities: calibrated, [n, classes], by a model that was not trained on these images.
    """
    found = np.flatnonzero(of_another_class(labels, probabilities) & (chance_of_error(labels, probabilities) > 0.5))
    return found[np.argsort(probabilities[found, labels[found]], kind="stable")]


def of_another_class(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.bool_]:
    """Which images belong to another class than their label's, by confident learning [n].

    A class's threshold is the mean probability that its own images get for it. An image belongs, by the model, to the
    most probable of the classes whose threshold it reaches; that is another class than its label, and the most probable
    class of all is another one, too. Classes that the model tells badly have low thresholds, so none is suspected for
    being hard. (As cleanlab's `find_label_issues(filter_by="confident_learning")`.)
    """
    classes = probabilities.shape[1]
    of_label = np.arange(classes) == labels[:, None]
    counts = of_label.sum(axis=0)
    thresholds = np.where(counts > 0, (probabilities * of_label).sum(axis=0) / np.maximum(counts, 1), np.inf)
    reached = probabilities >= thresholds - SLACK
    belongs = np.where(reached, probabilities, -1).argmax(axis=1)
    wrong: npt.NDArray[np.bool_] = reached.any(axis=1) & (belongs != labels) & (probabilities.argmax(axis=1) != labels)
    return wrong


def chance_of_error(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """How probable it is that each label is wrong [n].

    A label is taken to be drawn from the model's probabilities, or with the rate of wrong labels from the classes that
    the image does not belong to, all alike. The rate is the one under which these labels are likeliest, found by
    expectation and maximisation (Dempster, Laird and Rubin 1977).
    """
    if len(labels) == 0:
        return np.zeros(0)
    right = np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), np.finfo(np.float32).tiny)
    wrong = (1 - right) / (probabilities.shape[1] - 1)
    rate, chance = 0.05, np.zeros(len(labels))
    for _ in range(ROUNDS):
        chance = rate * wrong / (rate * wrong + (1 - rate) * right)
        if abs((better := float(chance.mean())) - rate) < CLOSE:
            break
        rate = better
    return chance
