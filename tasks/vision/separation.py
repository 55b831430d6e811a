"""Photographs apart from illustrations, class by class, without labels.

Two-way clustering of a class finds its largest difference, which need not be photographs. So the question by class
comes first, does it hold photographs at all, and only then the one by image:

1. *Prior.* A score with fixed signs, from how pictures come about: a photograph has many tones, gradients nearly
   everywhere and noise; a drawing has few tones, flat areas, equal neighbours and dark lines. (Athitsos, Swain and
   Frankel 1997; see `features.py`.)
2. *Gate.* Two normals of one width are fitted to the scores of each class. The class is accepted as contaminated only
   where two are much likelier than one, lie far apart, and one lies where photographs and the other where
   illustrations lie. All else keeps every image.
3. *Self-training.* The sure images of accepted classes, and the refused classes, are examples for a linear axis (Fisher
   1936, with shrinkage). The axis by which a class is scored is fitted to the other classes only, so a class never
   confirms itself; without that, self-training drifts. Back to 2, a few rounds. A refused class on the
   photographs' side (paintings) is set aside: it is no example of either.
4. *Second look.* A class that was set aside is looked at once more by an axis of its own: the other classes'
   photographs against the class itself, cross-fitted so that no image judges itself, and the images that come out as
   photographs change sides for the next round. So photographs are found among paintings, whose style no other class
   tells.
5. *Ward.* Inside an accepted class, agglomerative clustering (Ward 1963) on the score and the principal axes proposes
   groups; each is called photographs or not as a whole; two normals with one covariance, started from there, give
   each image its probability.

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
    Rows,
    Split,
    Sums,
    canonical_order,
    fisher_axis,
    mixed,
    principal_axes,
    ranked_to_normal,
    split_scores,
    two_groups,
    ward_groups,
)

#: The prior: features by which photographs are higher (+1) or lower (-1) than illustrations, whatever is shown.
PRIOR: Mapping[str, int] = {
    "lightness_entropy": 1,
    "lightness_gradient_p25": 1,
    "palette5_entropy": 1,
    "gradient_entropy": 1,
    "residual_faint": 1,
    "faint_gradient_share": 1,
    "noise_floor_p5": 1,
    "saturation_lightness_entropy": 1,
    "hue_lightness_entropy": 1,
    "lightness_eight_commonest": -1,
    "lightness_roughness": -1,
    "saturation_roughness": -1,
    "palette5_four_commonest": -1,
    "flat_share": -1,
    "nearly_flat_share": -1,
    "toned_flat_share": -1,
    "equal_neighbours": -1,
    "residual_none": -1,
    "dark_line_asymmetry": -1,
}


#: Measures of the finest detail. They tell a style as much as a camera, so only the second look uses them.
FINE = re.compile("_run_|^pattern|_together_")
FOLDS = 4


@dataclass(frozen=True)
class Settings:
    """The method's constants. Gaps are in deviations of a normal; evidence is the gain in BIC of two normals over one.

    On the prior's scale 0 is the data set's middle; on a trained axis the illustrations among the examples lie at -1
    on average and the photographs at +1.
    """

    min_images: int = 20  # a smaller class says too little about itself
    seed_gap: float = 3.3
    seed_evidence: float = 5.0
    seed_low: float = 0.2  # by the prior, illustrations lie below this
    seed_high: float = 0.4  # and photographs above this
    gap: float = 3.1
    evidence: float = 10.0
    low: float = -0.55  # on a trained axis the illustrations lie below this
    high: float = 0.5  # and the photographs above this
    few: float = 3.0  # images that the smaller group must have
    sure: float = 0.8  # probability from which an image is an example
    weight: float = 0.5  # a class of n examples weighs n ** (1 - weight)
    shrinkage: float = 2.0
    rounds: int = 5
    groups: int = 4
    axes: int = 6
    axis_weight: float = 0.5  # of the first principal axis against the score
    own_ridge: float = 0.3  # of the second look, against the mean variance
    own_share: float = 0.5  # of the class itself among the examples of a second look
    own_middle: float = 0.4  # score from which a second look takes an image for a photograph
    own_slope: float = 6.0  # how sharply
    own_high: float = 0.65  # a second look's photographs lie beyond this


@dataclass(frozen=True)
class ClassFinding:
    """What was found of a class: whether it holds photographs, and why that was decided."""

    contaminated: bool
    note: str


@dataclass(frozen=True)
class Separation:
    """What was found of each image and each class.

    probability: [n], of being a photograph. group: [n], inside its class; 0 is the least like photographs.
    place: [n, 2], for a scatter plot: the score, and the first principal axis of what the score leaves.
    reasons: [n], in words. classes: by name.
    """

    probability: Floats
    group: npt.NDArray[np.int32]
    place: Floats
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
    values = np.nan_to_num(np.asarray(features, np.float64), posinf=0.0, neginf=0.0).reshape(len(classes), len(names))
    order = canonical_order(values)
    values, labels = values[order], np.asarray(classes, dtype=object)[order]
    ranked = ranked_to_normal(values)
    members = {name: np.flatnonzero(labels == name) for name in sorted(set(classes))}
    coarse = [column for column, name in enumerate(names) if not FINE.search(name)]
    trainer = _SelfTraining(ranked[:, coarse], ranked, _prior(ranked, names), members, settings)
    trainer.train()

    probability, group = np.zeros(len(labels)), np.zeros(len(labels), np.int32)
    findings, reasons = {}, np.full(len(labels), "", dtype=object)
    for name, rows in members.items():
        split, note = trainer.splits[name], trainer.refusals[name]
        own = name in trainer.looked_again
        space = _space(trainer.scores[rows], ranked[rows][:, slice(None) if own else coarse], settings)
        group[rows] = ward_groups(space, settings.groups)
        if note or split is None:
            findings[name], reasons[rows] = ClassFinding(False, note), note
            continue
        probability[rows] = _probabilities(space, group[rows], split.upper(trainer.scores[rows]))
        findings[name] = ClassFinding(
            True, f"two groups, {split.gap:.1f} deviations apart, one of them where photographs lie"
        )
        reasons[rows] = _reasons(values[rows], names, probability[rows])
    back = np.argsort(order)
    place = _place(trainer.scores, ranked)
    return Separation(probability[back], group[back], place[back], list(reasons[back]), findings)


def _prior(ranked: Floats, names: Sequence[str]) -> Floats:
    known = [(column, PRIOR[name]) for column, name in enumerate(names) if name in PRIOR]
    if not known:
        return np.zeros(len(ranked))
    columns, signs = zip(*known, strict=True)
    return np.asarray(ranked[:, columns] @ np.array(signs, np.float64) / len(signs))


def _space(scores: Floats, ranked: Floats, settings: Settings) -> Floats:
    """Where Ward clusters a class: its score and its principal axes, standardised to the first of them."""
    axes = principal_axes(ranked, settings.axes)
    score = (scores - scores.mean()) / max(float(scores.std()), 1e-9)
    return np.column_stack([score, axes * (settings.axis_weight / max(float(axes[:, 0].std()), 1e-9))])


def _place(scores: Floats, ranked: Floats) -> Floats:
    centred = scores - scores.mean() if len(scores) else scores
    explained = np.outer(centred, centred @ ranked / max(float(centred @ centred), 1e-9))
    return np.column_stack([scores, principal_axes(ranked - explained, 1)[:, 0]])


def _probabilities(space: Floats, group: npt.NDArray[np.int32], upper: Floats) -> Floats:
    """Call each of Ward's groups photographs or not as a whole, by its mean score; then let two normals decide."""
    means = np.bincount(group, upper) / np.maximum(np.bincount(group), 1)
    photographs = (means > 0.5)[group]
    # Where photographs are few they may have no group of their own; then the scores alone are the start.
    start = photographs.astype(np.float64) if 0 < photographs.sum() < len(group) else upper
    return two_groups(space, start)


def _reasons(values: Floats, names: Sequence[str], probability: Floats) -> list[str]:
    """For each image of a class the three measures of the prior that speak most for what it was found to be."""
    known = [(column, name, PRIOR[name]) for column, name in enumerate(names) if name in PRIOR]
    share_below = np.column_stack([(rankdata(values[:, column]) - 0.5) / len(values) for column, _, _ in known])
    signs = np.array([sign for _, _, sign in known]) * np.where(probability >= 0.5, 1, -1)[:, None]
    support = (share_below - 0.5) * signs
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


class _SelfTraining:
    """Rounds of gate and axis. Holds what they leave: `scores` [n], and by class `splits` and `refusals`."""

    def __init__(
        self, ranked: Floats, everything: Floats, prior: Floats, members: dict[str, Rows], settings: Settings
    ) -> None:
        self.everything = everything  # `ranked` and the fine measures
        self.ranked, self.prior, self.members, self.settings = ranked, prior, members, settings
        self.scores = prior.copy()
        self.looked_again: set[str] = set()  # classes accepted by an axis of their own
        self.trained: set[str] = set()  # classes that other classes' axis scores; the prior scores the others
        self.splits: dict[str, Split | None] = {}
        self.refusals: dict[str, str] = {}  # why a class is not accepted; "" where it is

    def train(self) -> None:
        self._gate()
        for _ in range(self.settings.rounds):
            if all(self.refusals.values()):
                break
            self._rescore()
            self._gate()
        if not all(self.refusals.values()):
            self._look_again()

    def _gate(self) -> None:
        for name, rows in self.members.items():
            self.splits[name] = split_scores(self.scores[rows])
            self.refusals[name] = self._refusal(name)

    def _refusal(self, name: str) -> str:
        """Why a class isn't accepted as contaminated, in words; "" where it is."""
        settings, split, images = self.settings, self.splits[name], len(self.members[name])
        trained = name in self.trained
        if images < settings.min_images:
            return f"too few images to judge: {images}, at least {settings.min_images} are needed"
        if split is None:
            return "all images measure the same"
        high, low = (settings.high, settings.low) if trained else (settings.seed_high, settings.seed_low)
        if split.low > low and self._on_photographs_side(name):
            return "lies on the photographs' side as a whole, as paintings do; nothing removed, look for yourself"
        if split.evidence < (settings.evidence if trained else settings.seed_evidence):
            return "no photographs found: one group"
        if split.high < high:
            return "no photographs found: no group lies where photographs lie"
        if split.low > low:
            return "no photographs found: no group lies where illustrations lie"
        if split.gap < (settings.gap if trained else settings.seed_gap):
            return f"no photographs found: two groups only {split.gap:.1f} deviations apart"
        if min(split.share, 1 - split.share) * images < settings.few:
            return "no photographs found: a few odd images, but no second group"
        return ""

    def _rescore(self) -> None:
        """Score each class by the axis that the other classes' examples give."""
        photographs, illustrations = self._examples()
        sums = {
            name: (Sums.of(self.ranked[rows], photographs[rows]), Sums.of(self.ranked[rows], illustrations[rows]))
            for name, rows in self.members.items()
        }
        self.trained = set()
        for name, rows in self.members.items():
            others = [pair for other, pair in sums.items() if other != name]
            axis = fisher_axis(
                Sums.total(p for p, _ in others), Sums.total(i for _, i in others), self.settings.shrinkage
            )
            if axis is None:
                self.scores[rows] = self.prior[rows]
            else:
                self.scores[rows] = self.ranked[rows] @ axis[0] + axis[1]
                self.trained.add(name)

    def _look_again(self) -> None:
        """Judge each class that was set aside by an axis of its own."""
        settings = self.settings
        photographs, illustrations = self._examples(set_aside=True)
        for name, rows in self.members.items():
            if len(rows) < settings.min_images or not self.refusals[name] or not self._on_photographs_side(name):
                continue
            others = np.ones(len(self.scores))
            others[rows] = 0
            upper, lower = (Sums.of(self.everything, weights * others) for weights in (photographs, illustrations))
            if min(upper.weight, lower.weight) <= 0:
                continue
            scores = self._scores_by_itself(self.everything[rows], upper, lower)
            split = split_scores(scores)
            if (
                split is not None
                and split.evidence >= settings.evidence
                and split.low < 0
                and split.high >= settings.own_high
                and min(split.share, 1 - split.share) * len(rows) >= settings.few
            ):
                self.splits[name], self.refusals[name], self.scores[rows] = split, "", scores
                self.looked_again.add(name)

    def _scores_by_itself(self, ranked: Floats, upper: Sums, lower: Sums) -> Floats:
        """Scores of a class by axes of its own, each fitted without the fold that it scores.

        All the class counts as illustrations at first; what scores as a photograph changes sides for the next round.
        """
        settings, folds = self.settings, np.arange(len(ranked)) % FOLDS  # rows are in the order of their content
        scores, photograph = np.zeros(len(ranked)), np.zeros(len(ranked))
        ridge = settings.own_ridge * upper.images / ranked.shape[1]  # of the mean variance, however many examples
        for _ in range(settings.rounds):
            for fold in range(FOLDS):
                weights = photograph * (folds != fold), (1 - photograph) * (folds != fold)
                high, low = (
                    mixed(Sums.of(ranked, own), others, settings.own_share) if own.sum() >= settings.few else others
                    for own, others in zip(weights, (upper, lower), strict=True)
                )
                axis = fisher_axis(high, low, ridge)
                if axis is not None:
                    scores[folds == fold] = ranked[folds == fold] @ axis[0] + axis[1]
            photograph = expit(settings.own_slope * (scores - settings.own_middle))
        return scores

    def _examples(self, set_aside: bool = False) -> tuple[Floats, Floats]:
        """Weights [n] of the images as examples of photographs and of illustrations."""
        photographs, illustrations = np.zeros(len(self.scores)), np.zeros(len(self.scores))
        for name, rows in self.members.items():
            weight = len(rows) ** -self.settings.weight
            split = self.splits[name]
            if not self.refusals[name] and split is not None:
                upper = split.upper(self.scores[rows])
                photographs[rows[upper > self.settings.sure]] = weight
                illustrations[rows[upper < 1 - self.settings.sure]] = weight
            elif set_aside or not self._on_photographs_side(name):
                illustrations[rows] = weight
        return photographs, illustrations

    def _on_photographs_side(self, name: str) -> bool:
        middle = float(np.median(self.scores[self.members[name]]))
        return middle > (0.0 if name in self.trained else self.settings.seed_low)
