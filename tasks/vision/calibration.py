"""Calibration by temperature scaling: one number that makes a network as sure as it is right.

The logits are divided by a temperature before the softmax: above 1 the network becomes less sure, below 1 more. Which
class is the most probable never changes (Guo et al., On Calibration of Modern Neural Networks, 2017).
"""

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float32]

BOUNDS = (0.05, 20.0)
"""Of the temperature."""

TINY = float(np.finfo(np.float32).tiny)
"""A probability of 0 counts as this: its logarithm is taken."""


def fit_temperature(probabilities: Probabilities, labels: npt.NDArray[np.integer]) -> float:
    """The temperature with the lowest cross-entropy on images that the network was not trained on.

    The true class counts (n + 1) / (n + 2) and the others share the rest, as in Platt, Probabilistic Outputs for
    Support Vector Machines, 1999, section 2.2: else a network that errs on none of a few images would be made
    infinitely sure.

    Args:
        probabilities: the network's [n, classes].
        labels: the true classes [n].
    """
    from scipy import optimize

    images, classes = probabilities.shape
    logs = np.log(np.maximum(probabilities.astype(np.float64), TINY))
    wanted = np.full(logs.shape, 1 / (images + 2) / max(1, classes - 1))
    wanted[np.arange(images), labels] = (images + 1) / (images + 2)

    def cross_entropy(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(-(wanted * (scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))).sum(axis=1).mean())

    found = optimize.minimize_scalar(cross_entropy, bounds=np.log(BOUNDS), method="bounded")
    return float(np.exp(found.x))


def calibrated(probabilities: Probabilities, temperature: float) -> Probabilities:
    """The probabilities [n, classes] that the network gives at this temperature."""
    logs = np.log(np.maximum(probabilities, np.float32(TINY))) / np.float32(temperature)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
