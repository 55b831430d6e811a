"""Labels that are probably wrong: confident learning (Northcutt, Jiang and Chuang 2021, the method of cleanlab)."""

import numpy as np
import numpy.typing as npt

#: Thresholds are means of probabilities: one that is equal to its mean reaches it, whatever the rounding.
SLACK = 1e-6


def label_suspects(labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """The images whose label is probably wrong, the least probable label first.

    A class's threshold is the mean probability that its own images get for it. An image belongs, by the model, to the
    most probable of the classes whose threshold it reaches. It is a suspect where that is another class than its label,
    and the most probable class of all is another one, too. Classes that the model tells badly have low thresholds, so
    none is suspected for being hard. (Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021,
    section 3.1; as cleanlab's `find_label_issues(filter_by="confident_learning")`.)

    Args:
        labels: the given class of each image [n].
        probabilities: [n, classes] by a model that was not trained on these images.
    """
    classes = probabilities.shape[1]
    of_label = np.arange(classes) == labels[:, None]
    counts = of_label.sum(axis=0)
    thresholds = np.where(counts > 0, (probabilities * of_label).sum(axis=0) / np.maximum(counts, 1), np.inf)
    reached = probabilities >= thresholds - SLACK
    belongs = np.where(reached, probabilities, -1).argmax(axis=1)
    wrong = reached.any(axis=1) & (belongs != labels) & (probabilities.argmax(axis=1) != labels)
    found = np.flatnonzero(wrong)
    return found[np.argsort(probabilities[found, labels[found]], kind="stable")]
