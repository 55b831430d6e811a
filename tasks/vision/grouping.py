"""The statistics that `separation.py` stands on: ranks, axes, mixtures of two, Ward's groups.

Nothing here knows of photographs. Everything is deterministic, and rows in another order give the same numbers where
the caller has put them in `canonical_order` first.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import fastcluster
import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster
from scipy.special import expit, ndtri
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

#: In which ranks are held: half of float64's memory, and no other verdicts (`benchmarks/separation_scale.py`).
RANKS: type[np.floating] = np.float32
BLOCK = 20_000  # rows of a large table that are held in float64 at a time


def blocks(ranked: npt.NDArray[np.floating]) -> Iterator[tuple[slice, Floats]]:
    """A table [n, d] a part at a time: the rows, and their values in float64."""
    for start in range(0, len(ranked), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, ranked[part].astype(np.float64)


def projected(ranked: npt.NDArray[np.floating], axes: Floats) -> Floats:
    """The rows [n, d] on the axes [d] or [d, k], in float64, without a copy of the table in float64."""
    found = np.empty((len(ranked), *axes.shape[1:]))
    for part, values in blocks(ranked):
        found[part] = values @ axes
    return found


def canonical_order(values: Singles) -> Rows:
    """Rows in an order of their content, so that sums come out the same in whatever order the rows came."""
    if not values.size:
        return np.arange(len(values))
    rows = np.ascontiguousarray(values + np.float32(0))  # -0 counts as 0
    return np.argsort(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel(), kind="stable")


def ranked_to_normal(values: Singles, order: Rows, columns: Rows) -> Singles:
    """Each feature's ranks within the data set, as the values a standard normal would have, within -3 and 3.

    The rows come in `order`, the features as in `columns`. One feature at a time, so a large table is held only once.
    """
    ranked = np.empty((len(order), len(columns)), RANKS)
    for place, column in enumerate(columns):
        shares = (rankdata(values[:, column]) - 0.5) / max(len(order), 1)
        ranked[:, place] = np.clip(ndtri(shares), -3, 3)[order]
    return ranked


def principal_axes(ranked: npt.NDArray[np.floating], count: int) -> Floats:
    """Coordinates [n, count] on the axes of most variance; axes that there aren't are 0."""
    if not ranked.size:
        return np.zeros((len(ranked), count))
    mean = ranked.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(sum((rows - mean).T @ (rows - mean) for _, rows in blocks(ranked)))
    vectors = vectors[:, ::-1][:, :count]
    # An eigenvector's sign is arbitrary; its largest part is made positive.
    vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0, keepdims=True), 0))
    return np.pad(projected(ranked, vectors) - mean @ vectors, ((0, 0), (0, count - vectors.shape[1])))


@dataclass(frozen=True)
class Split:
    """Two normals of one width, fitted to the scores of a class."""

    low: float
    high: float
    deviation: float
    share: float  # of the upper one
    evidence: float

    @property
    def gap(self) -> float:
        """Distance of the two means, in deviations."""
        return (self.high - self.low) / self.deviation

    def upper(self, scores: Floats) -> Floats:
        """Probability of belonging to the upper normal."""
        return np.asarray(
            expit(
                np.log(self.share / (1 - self.share))
                + ((scores - self.low) ** 2 - (scores - self.high) ** 2) / (2 * self.deviation**2)
            )
        )


def _histogram(scores: Floats, bins: int) -> tuple[Floats, Floats] | None:
    """Centres and shares of the bins; None where all scores are (nearly) the same."""
    if len(scores) < 4 or float(scores.var()) < 1e-9:
        return None
    start, stop = float(scores.min()), float(scores.max())
    width = (stop - start) / bins
    places = np.minimum(((scores - start) / width).astype(np.intp), bins - 1)
    centres: Floats = start + (np.arange(bins, dtype=np.float64) + 0.5) * width
    return centres, np.asarray(np.bincount(places, minlength=bins) / len(scores), np.float64)


def split_scores(scores: Floats, bins: int = 256, rounds: int = 200) -> Split | None:
    """Fit two normals of one width by expectation maximisation; None where all scores are (nearly) the same.

    Works on a histogram, so its time hardly depends on the number of scores.
    """
    histogram = _histogram(scores, bins)
    if histogram is None:
        return None
    centres, shares = histogram
    variance = float(scores.var())
    likelihood, best = -np.inf, None
    for below in (0.1, 0.5, 0.9):
        upper = (np.arange(bins) > np.searchsorted(np.cumsum(shares), below)).astype(np.float64)
        previous = -np.inf
        for _ in range(rounds):
            share = float(np.clip(shares @ upper, 1e-6, 1 - 1e-6))
            high = float((shares * upper) @ centres / share)
            low = float((shares * (1 - upper)) @ centres / (1 - share))
            spread = float((shares * upper) @ (centres - high) ** 2 + (shares * (1 - upper)) @ (centres - low) ** 2)
            spread = max(spread, 1e-3 * variance)
            below_log = np.log(1 - share) - (centres - low) ** 2 / (2 * spread)
            above_log = np.log(share) - (centres - high) ** 2 / (2 * spread)
            both = np.logaddexp(below_log, above_log)
            upper = np.exp(above_log - both)
            reached = len(scores) * float(shares @ both - 0.5 * np.log(2 * np.pi * spread))
            if reached - previous < 1e-3:
                break
            previous = reached
        if reached > likelihood + 1e-9:
            likelihood, best = reached, (low, high, spread, share)
    if best is None:
        return None
    low, high, spread, share = best
    single = -len(scores) / 2 * (np.log(2 * np.pi * variance) + 1)
    evidence = 2 * (likelihood - single) - 2 * np.log(len(scores))
    if low > high:
        low, high, share = high, low, 1 - share
    return Split(low, high, float(np.sqrt(spread)), share, float(evidence))


@dataclass(frozen=True)
class HeavySplit:
    """Two t distributions of one width, fitted to the scores of a class."""

    low: float
    high: float
    width: float
    share: float  # of the upper one
    freedom: float

    def upper(self, scores: Floats) -> Floats:
        """Probability of belonging to the upper one; it rises with the score."""
        # The ratio of two t densities has its extremes here; farther out it would turn back.
        centre = (self.low + self.high) / 2
        reach = np.sqrt((self.high - self.low) ** 2 / 4 + self.freedom * self.width**2)
        inside = np.clip(scores, centre - reach, centre + reach)
        lower, upper = (
            np.log1p(((inside - middle) / self.width) ** 2 / self.freedom) for middle in (self.low, self.high)
        )
        return np.asarray(
            expit(np.log(self.share / (1 - self.share)) + (self.freedom + 1) / 2 * (lower - upper)), np.float64
        )


def split_heavy(scores: Floats, freedom: float, bins: int = 512, rounds: int = 200) -> HeavySplit | None:
    """Fit two t distributions of one width (Peel and McLachlan 2000); None where all scores are (nearly) the same.

    Their tails are heavy, so what lies between goes to the larger of the two, and a few far images draw neither away.
    """
    histogram = _histogram(scores, bins)
    if histogram is None:
        return None
    centres, shares = histogram
    variance, likelihood, best = float(scores.var()), -np.inf, None
    for below in (0.1, 0.5, 0.9, 0.97):
        upper = (np.arange(bins) > np.searchsorted(np.cumsum(shares), below)).astype(np.float64)
        member, weight = np.stack([1 - upper, upper]), np.ones((2, bins))
        spread, previous = 0.3 * variance, -np.inf
        for _ in range(rounds):
            size = np.clip(member @ shares, 1e-6, 1 - 1e-6)
            pull = member * weight * shares
            middle = pull @ centres / np.maximum(pull.sum(1), 1e-12)
            distance = (centres - middle[:, None]) ** 2
            spread = max(float((pull * distance).sum()), 1e-3 * variance)
            scaled = distance / spread / freedom
            density = np.log(size)[:, None] - (freedom + 1) / 2 * np.log1p(scaled) - 0.5 * np.log(spread)
            both = np.logaddexp(*density)
            member, weight = np.exp(density - both), (freedom + 1) / freedom / (1 + scaled)
            reached = len(scores) * float(shares @ both)
            if reached - previous < 1e-4:
                break
            previous = reached
        if reached > likelihood + 1e-9:
            likelihood, best = reached, (*middle.tolist(), spread, *size.tolist())
    if best is None:
        return None
    low, high, spread, below_share, share = best
    if low > high:
        low, high, share = high, low, below_share
    return HeavySplit(low, high, float(np.sqrt(spread)), float(share), freedom)


@dataclass(frozen=True)
class Sums:
    """Weighted sums over rows, from which mean and scatter follow; sums of disjoint rows add up."""

    images: int
    weight: float
    first: Floats
    second: Floats

    @classmethod
    def of(cls, rows: npt.NDArray[np.floating], weights: Floats) -> Self:
        """Sums over the rows [n, d] with these weights [n]."""
        some = weights > 0
        rows, weights = rows[some], weights[some]
        first, second = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
        for part, values in blocks(rows):
            weighted = values * weights[part, None]
            first += weighted.sum(0)
            second += weighted.T @ values
        return cls(len(rows), float(weights.sum()), first, second)

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self | None:
        """All together; None where there is no weight."""
        given = [part for part in parts if part.weight > 0]
        if not given:
            return None
        return cls(
            sum(part.images for part in given),
            sum(part.weight for part in given),
            np.sum([part.first for part in given], axis=0),
            np.sum([part.second for part in given], axis=0),
        )

    def without(self, part: Self | None) -> Self | None:
        """What is left of these rows without some of them; None where there is no weight."""
        if part is None:
            return self
        if part.images == self.images:
            return None
        return type(self)(
            self.images - part.images, self.weight - part.weight, self.first - part.first, self.second - part.second
        )

    @property
    def mean(self) -> Floats:
        """Mean [d]."""
        return self.first / self.weight

    @property
    def scatter(self) -> Floats:
        """Covariance [d, d]."""
        return self.second / self.weight - np.outer(self.mean, self.mean)


def mixed(some: Sums | None, others: Sums | None, share: float) -> Sums | None:
    """Both together, the first with this share of the weight; the other alone where one is None."""
    if some is None or others is None:
        return some or others
    a, b = share / some.weight, (1 - share) / others.weight
    return Sums(
        some.images + others.images, 1.0, some.first * a + others.first * b, some.second * a + others.second * b
    )


def fisher_axis(upper: Sums | None, lower: Sums | None, shrinkage: float) -> tuple[Floats, float] | None:
    """Axis [d] and offset of Fisher's linear discriminant: the lower examples' mean scores -1, the upper's +1.

    The fewer upper examples there are, the more the covariance is shrunk towards a sphere. None where a side has no
    example or the means are the same.
    """
    if upper is None or lower is None:
        return None
    within = (upper.scatter + lower.scatter) / 2
    ridge = shrinkage * max(float(np.trace(within)), 1e-9) / upper.images
    difference = upper.mean - lower.mean
    axis = np.linalg.solve(within + ridge * np.eye(len(within)), difference)
    half = float(difference @ axis) / 2
    if half < 1e-9:
        return None
    return np.asarray(axis / half, np.float64), -float((upper.mean + lower.mean) @ axis) / 2 / half


def ward_groups(space: Floats, groups: int) -> npt.NDArray[np.int32]:
    """Ward's clustering of the rows [n, d] into at most `groups`, numbered 0, 1, ... from low to high mean of the
    first column. Exact, in O(n) memory (Müllner 2013).
    """
    if len(space) < 2:
        return np.zeros(len(space), np.int32)
    found = fcluster(fastcluster.linkage_vector(space, method="ward"), groups, criterion="maxclust") - 1
    means = np.bincount(found, space[:, 0]) / np.bincount(found)
    return np.asarray(np.argsort(np.argsort(means, kind="stable"))[found], np.int32)


def neighbour_means(space: Floats, values: Floats, count: int) -> Floats:
    """For each row of the space [n, d] the mean value of the `count` rows nearest to it, itself left out: [n]."""
    from sklearn.neighbors import NearestNeighbors  # half a second, which a run saves that reuses its verdicts

    found = NearestNeighbors(n_neighbors=min(count, len(space) - 1), algorithm="brute").fit(space)
    return np.asarray(values[found.kneighbors(return_distance=False)].mean(1), np.float64)


def two_groups(space: Floats, start: Floats, rounds: int = 30) -> Floats:
    """Probability [n] of the upper of two normals with one covariance, fitted from `start` [n] in 0..1.

    A group that dies out leaves `start` as it was.
    """
    upper = start.astype(np.float64)
    for _ in range(rounds):
        inside, outside = float(upper.sum()), float((1 - upper).sum())
        if min(inside, outside) < 1:
            return start.astype(np.float64)
        high, low = upper @ space / inside, (1 - upper) @ space / outside
        within = (space - high).T @ ((space - high) * upper[:, None])
        within += (space - low).T @ ((space - low) * (1 - upper)[:, None])
        axis = np.linalg.solve(within / len(space) + 1e-3 * np.eye(space.shape[1]), high - low)
        new = expit(space @ axis - (high + low) @ axis / 2 + np.log(inside / outside))
        moved, upper = float(np.abs(new - upper).max()), new
        if moved < 1e-4:
            break
    return np.asarray(upper)
