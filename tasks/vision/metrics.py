"""How good predictions are: scores of each class and how sure they are, calibration, the difference of two models.

Labels are integers from 0; a prediction of -1 is none of the classes, and always wrong.
"""

from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS = 15
"""Of the reliability diagram, as in Guo et al. 2017."""

CHUNK = 1000
"""Resamplings that are drawn at a time: bounds the memory."""


class Classwise(NamedTuple):
    """The scores of each class [classes]; precision, recall and F1 are NaN where a class has no image.

    `accuracy` is one-vs-rest: the share of all images for which "of this class or not" is answered rightly,
    (TP + TN) / N.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Counts
    accuracy: Floats


class Reliability(NamedTuple):
    """The reliability diagram [bins]: mean confidence and accuracy of the images in (low, high]; NaN where none is."""

    bin_low: Floats
    bin_high: Floats
    confidence: Floats
    accuracy: Floats
    images: Counts


def classwise(truth: Labels, predicted: Labels, classes: int) -> Classwise:
    """The scores of each class; a class that is never predicted has precision 0, as in scikit-learn."""
    support = np.bincount(truth, minlength=classes)
    called = np.bincount(predicted[predicted >= 0], minlength=classes)
    right = np.bincount(truth[truth == predicted], minlength=classes)
    there = support > 0
    return Classwise(
        precision=np.where(there, right / np.maximum(called, 1), np.nan),
        recall=np.where(there, right / np.maximum(support, 1), np.nan),
        f1=np.where(there, 2 * right / np.maximum(support + called, 1), np.nan),
        support=support,
        accuracy=1 - (support + called - 2 * right) / max(len(truth), 1),
    )


def macro(scores: Floats) -> float:
    """The mean over the classes that have images."""
    return float(np.nanmean(scores))


def confusion(truth: Labels, predicted: Labels, classes: int) -> Counts:
    """Images of each class (rows) that were called each class (columns): [classes, classes]. No prediction is -1."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def reliability(confidence: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """The reliability diagram over bins of equal width (Guo et al., On Calibration of Modern Neural Networks, 2017).

    Args:
        confidence: probability of the predicted class [n], 0..1.
        right: whether the prediction was right [n].
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    images = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, bins) / images
        accuracy = np.bincount(place, right, bins) / images
    return Reliability(edges[:-1], edges[1:], mean, accuracy, images)


def calibration_error(diagram: Reliability) -> float:
    """Expected calibration error: the mean of |accuracy - confidence|, each bin weighed by its images."""
    gaps = np.nan_to_num(np.abs(diagram.accuracy - diagram.confidence))
    return float(gaps @ diagram.images / diagram.images.sum())


def bootstrap_f1(truth: Labels, predicted: Labels, classes: int, resamplings: int, seed: int) -> Floats:
    """F1 of each class on resamplings of the images: [resamplings, classes]; NaN where a class has no image.

    Images are drawn within each class, as `paired_bootstrap` draws them. A class without a wrong answer has none in
    any resampling either: then the interval has no width, and says less than the number of images does.
    """
    scores = np.full((resamplings, classes), np.nan)
    there = np.unique(truth)
    chunks = [f1 for (f1,) in _resampled_f1(truth, [predicted], classes, resamplings, seed)]
    scores[:, there] = np.concatenate(chunks)
    return scores


def paired_bootstrap(truth: Labels, first: Labels, second: Labels, classes: int, resamplings: int, seed: int) -> Floats:
    """Differences in macro F1, second minus first, on resamplings of the images both predicted: [resamplings].

    Images are drawn within each class, with replacement, so that each resampling has every class, as often as the
    test part has it. Both models are scored on the same images, hence paired: what is hard for both cancels out.
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 16.)
    """
    chunks = _resampled_f1(truth, [first, second], classes, resamplings, seed)
    return np.concatenate([f1_second.mean(axis=1) - f1_first.mean(axis=1) for f1_first, f1_second in chunks])


def mcnemar(truth: Labels, first: Labels, second: Labels) -> dict[str, float]:
    """McNemar's exact test of whether two models are right equally often on the same images.

    Returns {only_first, only_second: images that one of them alone is right about, p: two-sided probability of a split
    as uneven as that or more if both were as good}. (McNemar 1947; recommended where a model is trained once by
    Dietterich, Approximate Statistical Tests for Comparing Supervised Classification Learning Algorithms, 1998.)
    """
    from scipy import stats

    only_first = int(((first == truth) & (second != truth)).sum())
    only_second = int(((second == truth) & (first != truth)).sum())
    p = float(stats.binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def wilson(right: int, images: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share at a level (Wilson 1927): holds for few images, and for a share of 0 or 1."""
    z, share = NormalDist().inv_cdf((1 + level) / 2), right / images
    middle, half = share + z**2 / (2 * images), z * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    scale = 1 + z**2 / images
    return 0.0 if right == 0 else (middle - half) / scale, 1.0 if right == images else (middle + half) / scale


def selective(confidence: npt.NDArray[np.floating], coverage: float) -> tuple[float, int]:
    """Where a model answers its surest images only: the confidence from which it answers, and how many those are.

    As many as `coverage` (0..1) of the images, or more where several are equally sure (El-Yaniv and Wiener, On the
    Foundations of Noise-free Selective Classification, 2010).
    """
    ordered = np.sort(confidence)[::-1]
    threshold = ordered[max(0, round(coverage * len(ordered)) - 1)]
    return float(threshold), int((confidence >= threshold).sum())


def over_folds(scores: Floats) -> dict[str, float]:
    """Mean, standard deviation and 95% interval of the mean [low, high] of a score [folds], two folds or more.

    The folds' training parts overlap, so their scores are not independent, and the usual interval of a mean is too
    narrow. This one allows for it: the variance counts 1 / k + 1 / (k - 1) times instead of 1 / k times (Nadeau and
    Bengio, Inference for the Generalization Error, 2003; the second term is validation over training images).
    """
    from scipy import stats

    count, mean, deviation = len(scores), float(scores.mean()), float(scores.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * deviation * (1 / count + 1 / (count - 1)) ** 0.5
    return {"mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}


def _resampled_f1(
    truth: Labels, models: list[Labels], classes: int, resamplings: int, seed: int
) -> Iterator[list[Floats]]:
    """For chunks of resamplings, each model's F1 of the classes that have images: [chunk, classes with images]."""
    rng = np.random.default_rng(seed)
    # An image counts only by its truth and predictions, so drawing how many of each such kind is drawing the images.
    kinds, counts = np.unique(np.stack([truth, *models]), axis=1, return_counts=True)
    of_class, support = kinds[0], np.bincount(truth, minlength=classes)
    there = np.flatnonzero(support)
    for start in range(0, resamplings, CHUNK):
        size = min(CHUNK, resamplings - start)
        drawn = np.empty((size, len(counts)))
        for label in there:
            here = of_class == label
            drawn[:, here] = rng.multinomial(support[label], counts[here] / support[label], size)
        yield [_f1(drawn, of_class, predicted, support, there) for predicted in kinds[1:]]


def _f1(drawn: Floats, truth: Labels, predicted: Labels, support: Counts, there: Counts) -> Floats:
    """F1 [resamplings, there] where `drawn` [resamplings, kinds] says how many images of each kind there are."""
    called = drawn @ (predicted[:, None] == there)
    right = drawn @ ((predicted[:, None] == there) & (truth == predicted)[:, None])
    scores: Floats = 2 * right / (support[there] + called)
    return scores
