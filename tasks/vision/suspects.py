"""Labels that are probably wrong.

Two questions are asked of an image, and both have to be answered with yes. Does it belong to another class by the
model? That is confident learning (Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset
Labels, JAIR 70, 2021, section 3.1), the method of cleanlab. Is a wrong label a better explanation of that than the
model's own errors? By itself the first takes nearly every error of a weak model for a wrong label. How sure a model is
says how often it errs, so what that doesn't explain of the labels is the rate of wrong ones.
"""

import numpy as np
import numpy.typing as npt

from tasks.vision import calibration
from tasks.vision.calibration import TINY

#: Thresholds are means of probabilities: one that is equal to its mean reaches it, whatever the rounding.
SLACK = 1e-6

#: Bounds of the logarithm of the odds that a label is wrong. It is one in ten at most: the labels of a model that knows
#: next to nothing look as if drawn at random, and would all be taken for wrong ones.
ODDS = (-12.0, float(np.log(1 / 9)))

#: Logarithms of a temperature and of these odds, from which the likeliest are looked for.
STARTS = [(0.0, -6.0), (0.0, -3.0), (-1.0, -6.0), (-1.0, -3.0)]

Labels = npt.NDArray[np.integer]
Probabilities = npt.NDArray[np.floating]


def label_suspects(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.intp]:
    """The images whose label is more probably wrong than right, the least probable label first.

    Args:
        labels: the given class of each image [n].
        probabilities: [n, classes] by a model that was not trained on these images.
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

    A label is taken to be drawn from the model's probabilities at some temperature, or, at the rate of wrong labels,
    from the classes that the image does not belong to, all alike. Temperature and rate are those under which the given
    labels are likeliest. A temperature fitted without the rate would lay wrong labels to the model, and make it too
    unsure to tell them.
    """
    from scipy import optimize, special

    images, classes = probabilities.shape
    if images == 0 or classes < 2:
        return np.zeros(images)
    logs = np.log(np.maximum(probabilities.astype(np.float64), TINY))

    def drawn(log_temperature: float, odds: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """How probable each label is, as drawn from the model and as a wrong one."""
        scaled = special.log_softmax(logs / np.exp(log_temperature), axis=1)
        right = np.maximum(np.exp(scaled[np.arange(images), labels]), TINY)
        rate = special.expit(odds)
        return (1 - rate) * right, rate * (1 - right) / (classes - 1)

    def surprise(values: npt.NDArray[np.float64]) -> float:
        return float(-np.log(sum(drawn(*values))).mean())

    bounds = [np.log(calibration.BOUNDS), ODDS]
    found = [optimize.minimize(surprise, start, method="Nelder-Mead", bounds=bounds) for start in STARTS]
    right, wrong = drawn(*min(found, key=lambda result: float(result.fun)).x)
    chance: npt.NDArray[np.float64] = wrong / (right + wrong)
    return chance
