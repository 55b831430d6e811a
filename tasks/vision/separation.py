"""Photographs apart from illustrations, class by class, without labels.

Two-way clustering of a class finds its largest difference, which need not be photographs. So the question by class
comes first, does it hold photographs at all, and only then the one by image:

1. *Prior.* A score on a scale that no data set moves, from how pictures come about: a photograph has many tones,
   gradients nearly everywhere and noise; a drawing has few tones, flat areas, equal neighbours and dark lines.
   (Athitsos, Swain and Frankel 1997; see `features.py`.)
2. *Gate.* Two normals of one width are fitted to the scores of each class. The class is accepted as contaminated only
   where two are much likelier than one, lie far apart, and one lies where photographs and the other where
   illustrations lie. All else keeps every image. What the prior accepts stays accepted, but where nearly all of a class
   would be photographs, since paintings look so too.
3. *Self-training.* The sure images of accepted classes, and the refused classes, are examples for a linear axis (Fisher
   1936, with shrinkage). The axis by which a class is scored is fitted to the other classes only, so a class never
   confirms itself; without that, self-training drifts. Back to 2, a few rounds. A refused class on the
   photographs' side (paintings) is set aside: it is no example of either. What only the last round accepts is refused.
4. *Ward.* Inside an accepted class, agglomerative clustering (Ward 1963) on the score and the principal axes proposes
   groups; each is called photographs or not as a whole; two normals with one covariance, started from there, say which
   images are examples from here on.
5. *Axes of the classes' own.* Each class gets one more axis, from the other classes' examples and its own, cross-fitted
   so that no image judges itself. The illustrations that lie nearest to the photographs weigh most, so full scenes are
   told from photographs too. Each score is mixed with those of the images that measure most alike, and two t
   distributions give each image its probability. A refused class is accepted after all where the upper one lies most of
   the way to the other classes' photographs. Where what is found doesn't look like photographs by the prior, the class
   was accepted by mistake: all are judged once more without it.
6. *Paintings.* For a class that was set aside the illustrations are the class itself and the others set aside, and the
   images that come out as photographs change sides for the next round. So photographs are found among paintings, whose
   style no other class tells. Where there are many, as many rounds follow in which the class itself weighs more, and
   more neighbours count.
7. *Doubt.* Images of a refused class that lie where photographs lie, by the prior and by the axis, are kept for a
   person to look at: their probability is `DOUBT`. In a class set aside the axis is its own.

Nothing here is random, and the order of rows does not matter.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import rankdata

from tasks.vision.grouping import (
    Floats,
    HeavySplit,
    Rows,
    Singles,
    Split,
    Sums,
    blocks,
    canonical_order,
    fisher_axis,
    mixed,
    neighbour_means,
    principal_axes,
    projected,
    ranked_to_normal,
    split_heavy,
    split_scores,
    two_groups,
    ward_groups,
)

#: The prior: measures by which photographs differ from illustrations whatever is shown, and what a drawing and a
#: photograph typically measure.
PRIOR: Mapping[str, tuple[float, float]] = {
    "lightness_entropy": (4.9, 7.2),
    "lightness_gradient_p25": (0.004, 0.035),
    "palette5_entropy": (4.4, 8.3),
    "gradient_entropy": (4.8, 6.7),
    "residual_faint": (0.20, 0.33),
    "faint_gradient_share": (0.15, 0.35),
    "noise_floor_p5": (0.02, 0.08),
    "saturation_lightness_entropy": (4.1, 6.0),
    "hue_lightness_entropy": (3.7, 5.5),
    "lightness_eight_commonest": (0.62, 0.16),
    "lightness_roughness": (0.74, 0.45),
    "saturation_roughness": (1.0, 0.18),
    "palette5_four_commonest": (0.64, 0.12),
    "flat_share": (0.43, 0.02),
    "nearly_flat_share": (0.55, 0.12),
    "toned_flat_share": (0.09, 0.004),
    "equal_neighbours": (0.33, 0.007),
    "residual_none": (0.69, 0.40),
    "dark_line_asymmetry": (0.14, 0.006),
}


#: Measures of the finest detail. They tell a style as much as a camera, so only a class's own axis uses them.
FINE = re.compile("_run_|^pattern|_together_")
FOLDS = 24
UNLIKE = "no photographs found: two groups, but neither looks like photographs"
UNSTEADY = "no photographs found: two groups, but only the last round told them apart"
ON_THE_SIDE = "lies on the photographs' side as a whole, as paintings do; nothing removed, look for yourself"
DOUBT = 0.5  # the probability of images of a refused class that look like photographs all the same


@dataclass(frozen=True)
class Settings:
    """The method's constants. Gaps are in deviations of a normal; evidence is the gain in BIC of two normals over one.

    Scores have one scale: by the prior a typical drawing lies at -1 and a typical photograph at +1, and on a trained
    axis the examples of either do on average.
    """

    min_images: int = 20  # a smaller class says too little about itself
    gap: float = 3.1
    evidence: float = 5.0
    low: float = -0.55  # the illustrations lie below this
    high: float = 0.5  # and the photographs above this
    likeness: float = 0.35  # by the prior, of the images found, on average
    few: float = 3.0  # images that the smaller group must have
    many: float = 0.16  # share of photographs from which on they are many
    examples: int = 12  # photographs of other classes that an axis of a class's own needs
    sure: float = 0.8  # probability from which an image is an example
    weight: float = 0.5  # a class of n examples weighs n ** (1 - weight)
    shrinkage: float = 2.0
    rounds: int = 5
    groups: int = 4
    axes: int = 6
    axis_weight: float = 0.5  # of the first principal axis against the score
    near: float = 2.0  # how much more an example weighs on a class's own axis the nearer it is to the other side
    own_share: float = 0.5  # of the class itself among the illustrations of its own axis
    own_photographs: float = 50.0  # found photographs that weigh as much as all other classes' photographs
    freedom: float = 4.0  # of the t distributions
    found: float = 4.0  # photographs that a class's own axis must find to have it accepted
    reach: float = 0.47  # and where they must lie, between its illustrations (0) and other classes' photographs (1)
    painting_reach: float = 0.78  # the same for a class set aside
    painting_shrinkage: float = 0.15  # of its axis, against the mean variance
    painting_middle: float = 0.32  # score from which its images change sides
    painting_slope: float = 6.0  # how sharply
    painting_own_share: float = 0.8  # own_share where it holds many photographs
    painting_own_photographs: float = 10.0  # and own_photographs
    neighbours: int = 8  # images with whose scores each is mixed
    neighbour_share: float = 0.3  # how much these weigh
    painting_neighbours: int = 25  # the same where there are many
    painting_neighbour_share: float = 0.5
    neighbour_axes: int = 40  # principal axes of the class on which they are near


@dataclass(frozen=True)
class ClassFinding:
    """What was found of a class: whether it holds photographs, and why that was decided."""

    contaminated: bool
    note: str


@dataclass(frozen=True)
class Separation:
    """What was found of each image and each class.

    probability: [n], of being a photograph; in a class where none were found 0, or DOUBT. score: [n], by the last axis
    that judged the image; of any class the highest are the most like photographs. group: [n], inside its class; 0 is
    the least like photographs. axis: [n], the first principal axis of what the score leaves, for a scatter plot.
    reasons: [n], in words. classes: by name.
    """

    probability: Floats
    score: Floats
    group: npt.NDArray[np.int32]
    axis: Floats
    reasons: list[str]
    classes: dict[str, ClassFinding]


def separate(
    features: npt.ArrayLike, names: Sequence[str], classes: Sequence[str], settings: Settings | None = None
) -> Separation:
    """Tell photographs from illustrations.

    Args:
        features: [n, len(names)]; what isn't finite counts as 0.
        names: the features' names (`vision/features.py`).
        classes: the class of each row.
        settings: the method's constants.
    """
    settings = settings or Settings()
    values = np.asarray(features, np.float32).reshape(len(classes), len(names))
    if not np.isfinite(values).all():  # else the table, which may be large, needs no copy
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    order = canonical_order(values)
    fine = np.array([bool(FINE.search(name)) for name in names], bool)
    columns = np.argsort(fine, kind="stable")  # the coarse measures first, so that they are a view of all
    ranked = ranked_to_normal(values, order, columns)
    labels = np.asarray(classes, dtype=object)[order]
    members = {name: np.flatnonzero(labels == name) for name in sorted(set(classes))}
    search = _Search(ranked, int((~fine).sum()), _prior(values, names)[order], members, settings)
    search.run()

    findings, reasons = {}, np.full(len(labels), "", dtype=object)
    for name, rows in members.items():
        note = search.refusals[name]
        findings[name] = ClassFinding(not note, note or "two groups, one of them where photographs lie")
        if note:
            doubted = f"{note}; but this one lies where photographs lie"
            reasons[rows] = np.where(search.probability[rows] > 0, doubted, note)
        else:
            reasons[rows] = _reasons(values[order[rows]].astype(np.float64), names, search.probability[rows])
    back = np.argsort(order)
    axis = _axis_beside(search.scores, ranked)
    return Separation(
        search.probability[back], search.scores[back], search.group[back], axis[back], list(reasons[back]), findings
    )


def _prior(values: Singles, names: Sequence[str]) -> Floats:
    """Mean of the prior's measures, each at -1 for a typical drawing and 1 for a typical photograph."""
    known = [(column, *PRIOR[name]) for column, name in enumerate(names) if name in PRIOR]
    total = np.zeros(len(values))
    for column, drawing, photograph in known:
        scaled = (2 * values[:, column].astype(np.float64) - drawing - photograph) / (photograph - drawing)
        total += np.clip(scaled, -2, 2)
    return total / max(len(known), 1)


def _space(scores: Floats, ranked: Singles, settings: Settings) -> Floats:
    """Where Ward clusters a class: its score and its principal axes, standardised to the first of them."""
    axes = principal_axes(ranked, settings.axes)
    score = (scores - scores.mean()) / max(float(scores.std()), 1e-9)
    return np.column_stack([score, axes * (settings.axis_weight / max(float(axes[:, 0].std()), 1e-9))])


def _axis_beside(scores: Floats, ranked: Singles) -> Floats:
    """Coordinates [n] on the principal axis of what the score does not explain."""
    if not ranked.size:
        return np.zeros(len(scores))
    centred = scores - scores.mean()
    mean, length = ranked.mean(0, dtype=np.float64), float(centred @ centred)
    slopes, scatter = np.zeros(ranked.shape[1]), np.zeros((ranked.shape[1], ranked.shape[1]))
    for part, values in blocks(ranked):
        slopes += centred[part] @ values / max(length, 1e-9)
        scatter += (values - mean).T @ (values - mean)
    scatter -= length * np.outer(slopes, slopes)
    axis = np.linalg.eigh(scatter)[1][:, -1]
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    return np.asarray(projected(ranked, axis) - mean @ axis - centred * (slopes @ axis))


def _probabilities(space: Floats, group: npt.NDArray[np.int32], upper: Floats, sure: float) -> Floats:
    """Call each of Ward's groups photographs or not as a whole where its mean is sure; then let two normals decide."""
    means = (np.bincount(group, upper) / np.maximum(np.bincount(group), 1))[group]
    # Few photographs may have no group of their own, and a mixed group called as a whole would turn the normals.
    start = np.where(means > sure, 1.0, np.where(means < 1 - sure, 0.0, upper))
    return two_groups(space, start)


def _reasons(values: Floats, names: Sequence[str], probability: Floats) -> list[str]:
    """For each image of a class the three measures of the prior that speak most for what it was found to be."""
    known = [(column, name, PRIOR[name]) for column, name in enumerate(names) if name in PRIOR]
    share_below = np.column_stack([(rankdata(values[:, column]) - 0.5) / len(values) for column, _, _ in known])
    signs = np.sign([photograph - drawing for _, _, (drawing, photograph) in known])
    support = (share_below - 0.5) * signs * np.where(probability >= 0.5, 1, -1)[:, None]
    strongest = np.argsort(-support, axis=1, kind="stable")[:, :3]
    return [
        "; ".join(
            _sentence(known[place][1], float(values[row, known[place][0]]), float(share_below[row, place]))
            for place in strongest[row]
            if support[row, place] > 0
        )
        for row in range(len(values))
    ]


def _sentence(name: str, value: float, below: float) -> str:
    spoken = name.replace("palette5", "palette").replace("_p25", " (lower quartile)").replace("_p5", " (least 5%)")
    side, share = ("higher", below) if below >= 0.5 else ("lower", 1 - below)
    return f"{spoken.replace('_', ' ')} {value:.3g}: {side} than {share:.0%} of the class"


class _Search:
    """Looks for photographs in each class.

    Leaves `probability` [n] of being one, `group` [n] inside the class, `scores` [n], and by class `refusals`: why it
    is not held for contaminated, "" where it is.
    """

    def __init__(
        self, ranked: Singles, coarse: int, prior: Floats, members: dict[str, Rows], settings: Settings
    ) -> None:
        self.ranked, self.coarse = ranked, ranked[:, :coarse]
        self.prior, self.members, self.settings = prior, members, settings
        self.scores, self.probability, self.group = prior.copy(), np.zeros(len(prior)), np.zeros(len(prior), np.int32)
        self.by_prior: set[str] = set()  # classes that the prior alone accepts for good
        self.trained: set[str] = set()  # classes that other classes' axis scores; the prior scores the others
        self.splits: dict[str, Split | None] = {}
        self.refusals: dict[str, str] = {}
        self.refused_scores: dict[str, Floats] = {}  # scores of refused classes, by an axis of their own

    def run(self) -> None:
        self._gate()
        self.by_prior = {
            name
            for name, split in self.splits.items()
            if split is not None and not self.refusals[name] and split.share <= self.settings.sure
        }
        before = self.refusals
        for _ in range(self.settings.rounds):
            if all(self.refusals.values()):
                break
            before = self.refusals
            self._rescore()
            self._gate()
        for name, refusal in before.items():
            split = self.splits[name]
            # No further round has confirmed it; an axis of its own may, where there are few photographs.
            if refusal and not self.refusals[name] and split is not None and split.share < self.settings.many:
                self.refusals[name] = UNSTEADY
        self._cluster()
        self._own_axes()
        for name, rows in self.members.items():
            if not self.refusals[name] and not self._look_like_photographs(name, self.probability[rows]):
                self.refusals[name] = UNLIKE
            if self.refusals[name]:
                self.probability[rows] = np.where(self._doubtful(name), DOUBT, 0.0)
                self.scores[rows] = self.refused_scores.get(name, self.scores[rows])

    def _doubtful(self, name: str) -> npt.NDArray[np.bool_]:
        """Which images of a refused class lie where photographs lie, and look like them by the prior, too."""
        rows = self.members[name]
        scores = self.refused_scores.get(name) if self.refusals[name] == ON_THE_SIDE else self.scores[rows]
        if scores is None or self.splits[name] is None:
            return np.zeros(len(rows), bool)
        return np.asarray((scores > self.settings.high) & (self.prior[rows] >= self.settings.likeness))

    def _gate(self) -> None:
        self.splits = {name: split_scores(self.scores[rows]) for name, rows in self.members.items()}
        self.refusals = {name: self._refusal(name) for name in self.members}

    def _refusal(self, name: str) -> str:
        """Why a class isn't accepted as contaminated, in words; "" where it is."""
        settings, split, images = self.settings, self.splits[name], len(self.members[name])
        if images < settings.min_images:
            return f"too few images to judge: {images}, at least {settings.min_images} are needed"
        if split is None:
            return "all images measure the same"
        if name in self.by_prior:
            return ""
        if split.low > settings.low and self._on_photographs_side(name):
            return ON_THE_SIDE
        if split.evidence < settings.evidence:
            return "no photographs found: one group"
        if split.high < settings.high:
            return "no photographs found: no group lies where photographs lie"
        if split.low > settings.low:
            return "no photographs found: no group lies where illustrations lie"
        if split.gap < settings.gap:
            return f"no photographs found: two groups only {split.gap:.1f} deviations apart"
        if min(split.share, 1 - split.share) * images < settings.few:
            return "no photographs found: a few odd images, but no second group"
        return "" if self._look_like_photographs(name, split.upper(self.scores[self.members[name]])) else UNLIKE

    def _look_like_photographs(self, name: str, upper: Floats) -> bool:
        """Whether those of a class's images that are surely in the upper group do, by the prior alone."""
        found = self.prior[self.members[name][upper > self.settings.sure]]
        return not found.size or float(found.mean()) >= self.settings.likeness

    def _on_photographs_side(self, name: str) -> bool:
        middle = float(np.median(self.scores[self.members[name]]))
        return middle > (0.0 if name in self.trained else self.settings.low)

    def _set_aside(self) -> set[str]:
        return {name for name, refusal in self.refusals.items() if refusal and self._on_photographs_side(name)}

    def _rescore(self) -> None:
        """Score each class by the axis that the other classes' examples give."""
        aside, sure = self._set_aside(), self.settings.sure
        photographs, illustrations = {}, {}
        for name, rows in self.members.items():
            split, weight = self.splits[name], self._weight(name)
            accepted = not self.refusals[name] and split is not None
            upper = split.upper(self.scores[rows]) if accepted and split is not None else np.zeros(len(rows))
            illustration = (upper < 1 - sure) & (name not in aside)
            photographs[name] = Sums.of(self.coarse[rows], np.where(upper > sure, weight, 0.0))
            illustrations[name] = Sums.of(self.coarse[rows], np.where(illustration, weight, 0.0))
        self.trained = set()
        for name, rows in self.members.items():
            axis = fisher_axis(_without(name, photographs), _without(name, illustrations), self.settings.shrinkage)
            if axis is None:
                self.scores[rows] = self.prior[rows]
            else:
                self.scores[rows] = projected(self.coarse[rows], axis[0]) + axis[1]
                self.trained.add(name)

    def _weight(self, name: str) -> float:
        """Of one image of the class among the examples."""
        return float(len(self.members[name]) ** -self.settings.weight)

    def _cluster(self) -> None:
        """Ward's groups of each class; in the accepted ones they start the probabilities."""
        for name, rows in self.members.items():
            space = _space(self.scores[rows], self.coarse[rows], self.settings)
            self.group[rows] = ward_groups(space, self.settings.groups)
            split = self.splits[name]
            if not self.refusals[name] and split is not None:
                upper = split.upper(self.scores[rows])
                self.probability[rows] = _probabilities(space, self.group[rows], upper, self.settings.sure)

    def _own_axes(self) -> None:
        """Judge each class by an axis of its own; again without those whose finds don't look like photographs.

        By its examples a class that was accepted by mistake misleads the others.
        """
        while not all(self.refusals.values()):
            scores, probability, refusals = self.scores.copy(), self.probability.copy(), dict(self.refusals)
            self._judge_by_own_axes()
            mistaken = [
                name
                for name, rows in self.members.items()
                if not refusals[name] and name not in self.by_prior
                if not self._look_like_photographs(name, self.probability[rows])
            ]
            if not mistaken:
                break
            self.scores, self.probability, self.refusals, self.refused_scores = scores, probability, refusals, {}
            for name in mistaken:
                self.refusals[name], self.probability[self.members[name]] = UNLIKE, 0.0

    def _judge_by_own_axes(self) -> None:
        settings, aside = self.settings, self._set_aside()
        photographs, illustrations, paintings = {}, {}, {}
        for name, rows in self.members.items():
            weight, ranked, probability = self._weight(name), self.ranked[rows], self.probability[rows]
            photographs[name] = Sums.of(ranked, np.where(probability > settings.sure, weight, 0.0))
            weights = np.where(probability < 1 - settings.sure, weight, 0.0)
            if name in aside:
                paintings[name] = Sums.of(ranked, weights)
            else:
                illustrations[name] = Sums.of(ranked, weights * _nearness(self.scores[rows], settings.near))
        for name, rows in self.members.items():
            upper = _without(name, photographs)
            if len(rows) < settings.min_images or upper is None or upper.images < settings.examples:
                continue
            if name in aside:
                scores, reach = self._painting_scores(rows, upper, _without(name, paintings)), settings.painting_reach
            else:
                scores, reach = self._own_scores(rows, upper, _without(name, illustrations)), settings.reach
                scores = self._mixed_with_neighbours(rows, scores, settings.neighbours, settings.neighbour_share)
            split = split_heavy(scores, settings.freedom)
            if split is None or (self.refusals[name] and not self._reaches(split, scores, reach)):
                self.refused_scores[name] = scores
                continue
            if name in self.by_prior and not self._look_like_photographs(name, split.upper(scores)):
                continue  # others mislead it: by the prior it holds some that do
            if name in aside:  # only now: the mean of many neighbours would bring a class below its reach
                many = split.share >= settings.many
                count = settings.painting_neighbours if many else settings.neighbours
                share = settings.painting_neighbour_share if many else settings.neighbour_share
                scores = self._mixed_with_neighbours(rows, scores, count, share)
                split = split_heavy(scores, settings.freedom) or split
            self.scores[rows], self.probability[rows], self.refusals[name] = scores, split.upper(scores), ""

    def _mixed_with_neighbours(self, rows: Rows, scores: Floats, count: int, share: float) -> Floats:
        """The scores, each with a share of the mean of so many neighbours in the class."""
        space = principal_axes(self.ranked[rows], self.settings.neighbour_axes)
        return (1 - share) * scores + share * neighbour_means(space, scores, count)

    def _reaches(self, split: HeavySplit, scores: Floats, reach: float) -> bool:
        """Whether there is an upper group, and it lies where photographs lie: at 1, on a class's own axis."""
        found = int((split.upper(scores) >= self.settings.sure).sum())
        return found >= self.settings.found and split.high - split.low >= reach * (1 - split.low)

    def _own_scores(self, rows: Rows, upper: Sums, lower: Sums | None) -> Floats:
        """Scores of a class's images by its own axes."""
        settings, scores, probability = self.settings, self.scores[rows], self.probability[rows]
        photographs = (probability > settings.sure) * _nearness(-scores, settings.near)
        illustrations = (probability < 1 - settings.sure) * _nearness(scores, settings.near)
        return self._cross_fitted(
            rows, photographs, illustrations, upper, lower,
            settings.shrinkage, settings.own_share, settings.own_photographs,
        )  # fmt: skip

    def _painting_scores(self, rows: Rows, upper: Sums, lower: Sums | None) -> Floats:
        """Scores of a class that was set aside: all of it counts as illustrations at first."""
        settings, scores, photographs = self.settings, np.zeros(len(rows)), np.zeros(len(rows))
        shrinkage = settings.painting_shrinkage * upper.images / self.ranked.shape[1]  # however many examples
        # Much weight of its own would split a clean class in the end, or one with few photographs.
        for share, count in (
            (settings.own_share, settings.own_photographs),
            (settings.painting_own_share, settings.painting_own_photographs),
        ):
            for _ in range(settings.rounds):
                scores = self._cross_fitted(rows, photographs, 1 - photographs, upper, lower, shrinkage, share, count)
                photographs = expit(settings.painting_slope * (scores - settings.painting_middle))
            split = split_heavy(scores, settings.freedom)
            if split is None or split.share < settings.many:
                break
            if not self._reaches(split, scores, settings.painting_reach):
                break
        return scores

    def _cross_fitted(
        self, rows: Rows, photographs: Floats, illustrations: Floats, upper: Sums, lower: Sums | None,
        shrinkage: float, own_share: float, own_photographs: float,
    ) -> Floats:  # fmt: skip
        """Scores of a class's images, each by an axis fitted without the fold that it is in.

        The axis is fitted to the class's own examples, by weight, and to the other classes' `upper` and `lower`.
        """
        settings, scores = self.settings, np.zeros(len(rows))
        folds = np.arange(len(rows)) % FOLDS  # rows are in the order of their content
        parts = [
            [Sums.of(self.ranked[rows[folds == fold]], weights[folds == fold]) for fold in range(FOLDS)]
            for weights in (photographs, illustrations)
        ]
        wholes = [Sums.total(part) for part in parts]
        for fold in range(FOLDS):
            own_upper, own_lower = (
                whole and whole.without(part[fold]) for whole, part in zip(wholes, parts, strict=True)
            )
            high: Sums | None = upper
            low = lower
            if own_upper is not None and (count := photographs[folds != fold].sum()) >= settings.few:
                high = mixed(own_upper, upper, count / (count + own_photographs))
            if own_lower is not None and own_lower.images >= settings.few:
                low = mixed(own_lower, lower, own_share)
            axis = fisher_axis(high, low, shrinkage)
            if axis is not None:
                scores[folds == fold] = projected(self.ranked[rows[folds == fold]], axis[0]) + axis[1]
        return scores


def _without(name: str, sums: Mapping[str, Sums]) -> Sums | None:
    """The sums of all classes but one."""
    return Sums.total(part for other, part in sums.items() if other != name)


def _nearness(scores: Floats, rate: float) -> Floats:
    """Weights of examples at these scores: the nearer to the other side (upwards), the more, within bounds."""
    return np.asarray(np.exp(rate * np.clip(scores, -1.5, 0.2)))
