import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tasks.vision.features import FEATURE_NAMES, describe
from tasks.vision.grouping import fisher_axis, neighbour_means, split_heavy, split_scores, two_groups, ward_groups
from tasks.vision.separation import DOUBT, PRIOR, Separation, Settings, _Search, separate

from .pictures import drawing, photograph

if TYPE_CHECKING:
    from benchmarks.separation import Bench

Images = tuple[np.ndarray, list[str], np.ndarray]  # features, classes, truth


@cache
def drawn(seed: int) -> np.ndarray:
    return describe(drawing(seed))


@cache
def taken(seed: int) -> np.ndarray:
    return describe(photograph(seed))


def images(**classes: tuple[int, int]) -> Images:
    """So many drawings and photographs in each class."""
    rows, labels, truth = [], [], []
    for position, (name, (drawings, photographs)) in enumerate(classes.items()):
        rows += [drawn(1000 * position + number) for number in range(drawings)]
        rows += [taken(1000 * position + number) for number in range(photographs)]
        labels += [name] * (drawings + photographs)
        truth += [False] * drawings + [True] * photographs
    return np.array(rows).reshape(-1, len(FEATURE_NAMES)), labels, np.array(truth)


def separated(given: Images) -> Separation:
    return separate(given[0], FEATURE_NAMES, given[1])


MIXED = {"a": (60, 30), "b": (80, 0), "c": (20, 45), "d": (50, 0), "e": (40, 6), "f": (12, 0)}


def test_finds_the_photographs_and_leaves_clean_classes_alone() -> None:
    given = images(**MIXED)
    found = separated(given)
    np.testing.assert_array_equal(found.probability >= 0.8, given[2])
    assert {name for name, finding in found.classes.items() if finding.contaminated} == {"a", "c", "e"}
    assert "too few images to judge: 12" in found.classes["f"].note


def test_one_contaminated_class_is_enough() -> None:
    given = images(a=(60, 40), b=(80, 0))
    np.testing.assert_array_equal(separated(given).probability >= 0.8, given[2])


def test_clean_classes_lose_nothing() -> None:
    given = images(a=(60, 0), b=(80, 0), c=(40, 0))
    found = separated(given)
    assert not found.probability.any()
    assert not any(finding.contaminated for finding in found.classes.values())
    assert all("no photographs found" in reason for reason in found.reasons)


def test_a_class_of_photographs_only_is_set_aside() -> None:
    found = separated(images(a=(80, 0), b=(70, 0), photographs=(0, 40)))
    assert "look for yourself" in found.classes["photographs"].note
    assert not found.probability.any()


def test_the_order_of_rows_changes_nothing() -> None:
    features, labels, _ = images(**MIXED)
    found = separated((features, labels, np.zeros(0)))
    shuffled = np.random.default_rng(5).permutation(len(labels))
    again = separate(features[shuffled], FEATURE_NAMES, [labels[row] for row in shuffled])
    np.testing.assert_array_equal(again.probability, found.probability[shuffled])
    np.testing.assert_array_equal(again.group, found.group[shuffled])
    np.testing.assert_array_equal(again.score, found.score[shuffled])
    np.testing.assert_array_equal(again.axis, found.axis[shuffled])
    assert again.reasons == [found.reasons[row] for row in shuffled]


def test_the_names_of_the_classes_change_nothing() -> None:
    features, labels, _ = images(**MIXED)
    names = dict(zip("abcdef", "fedcba", strict=True))
    renamed = separate(features, FEATURE_NAMES, [names[label] for label in labels])
    np.testing.assert_allclose(renamed.probability, separate(features, FEATURE_NAMES, labels).probability, atol=1e-6)


def test_a_class_twice_is_judged_as_once() -> None:
    features, labels, truth = images(**MIXED)
    double = [row for row, label in enumerate(labels) if label == "a"]
    features = np.concatenate([features, features[double]])
    found = separate(features, FEATURE_NAMES, labels + ["copy"] * len(double))
    np.testing.assert_array_equal(found.probability[: len(labels)] >= 0.8, truth)
    np.testing.assert_allclose(found.probability[len(labels) :], found.probability[double], atol=1e-6)


def test_reasons_are_the_three_strongest_in_words() -> None:
    given = images(**MIXED)
    found = separated(given)
    first = int(np.flatnonzero(given[2])[0])
    reasons = found.reasons[first].split("; ")
    assert len(reasons) == 3
    assert all(" than " in reason and reason.endswith("% of the class") for reason in reasons)


@cache
def painted(seed: int) -> np.ndarray:
    """A drawing without flat areas, under coloured grain: photo-like by the prior, in a style of its own."""
    random = np.random.default_rng([3, seed])
    rough = photograph(seed).astype(float) + random.normal(0, 25, (96, 96, 3))
    return describe(np.clip(rough, 0, 255).astype(np.uint8))


def test_photographs_are_found_among_paintings_that_look_like_them() -> None:
    features, labels, truth = images(a=(60, 40), b=(80, 0), c=(60, 30), paintings=(0, 30))
    features = np.vstack([features, [painted(seed) for seed in range(70)]])
    truth = np.append(truth, [False] * 70)
    labels = labels + ["paintings"] * 70
    found = separate(features, FEATURE_NAMES, labels)
    assert found.classes["paintings"].contaminated
    np.testing.assert_array_equal(found.probability >= 0.8, truth)


def test_paintings_alone_are_kept() -> None:
    features, labels, truth = images(a=(60, 40), b=(80, 0), c=(60, 30))
    features = np.vstack([features, [painted(seed) for seed in range(70)]])
    found = separate(features, FEATURE_NAMES, labels + ["paintings"] * 70)
    assert "look for yourself" in found.classes["paintings"].note
    np.testing.assert_array_equal(found.probability >= 0.8, np.append(truth, [False] * 70))


def test_photographs_too_few_to_accept_their_class_are_left_to_a_person() -> None:
    features, labels, truth = images(a=(60, 40), b=(80, 2), c=(60, 30), paintings=(0, 2))
    features = np.vstack([features, [painted(seed) for seed in range(70)]])
    truth = np.append(truth, [False] * 70)
    labels = np.array(labels + ["paintings"] * 70)
    found = separate(features, FEATURE_NAMES, labels.tolist())
    for name in ("b", "paintings"):
        assert not found.classes[name].contaminated
        np.testing.assert_array_equal(found.probability[labels == name], DOUBT * truth[labels == name])
        assert found.score[(labels == name) & truth].min() > found.score[(labels == name) & ~truth].max()
    for row in np.flatnonzero(labels == "b"):
        assert ("this one lies where photographs lie" in found.reasons[row]) == truth[row]


def with_a_class_that_the_prior_refuses() -> Images:
    """Three classes; in c there are photographs with some of the prior's measures like a drawing's."""
    features, labels, truth = images(a=(60, 40), b=(80, 0), c=(60, 8))
    photographs = np.flatnonzero(truth & (np.array(labels) == "c"))
    for name in list(PRIOR)[:5]:
        column = FEATURE_NAMES.index(name)
        features[photographs, column] = drawn(0)[column]
    return features, labels, truth


@pytest.mark.parametrize(("rounds", "accepted"), [(1, False), (2, True)])
def test_what_only_the_last_round_accepts_is_refused(rounds: int, accepted: bool) -> None:
    features, labels, _ = with_a_class_that_the_prior_refuses()
    found = separate(features, FEATURE_NAMES, labels, Settings(rounds=rounds, examples=10_000))
    assert found.classes["c"].contaminated == accepted
    assert ("only the last round" in found.classes["c"].note) != accepted


def test_a_class_accepted_by_mistake_misleads_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, accepted = _Search._judge_by_own_axes, []

    def mistake(search: _Search) -> None:
        accepted.append({name for name, refusal in search.refusals.items() if not refusal})
        judge(search)
        if len(accepted) == 1:
            search.probability[:] = search.prior < 0

    monkeypatch.setattr(_Search, "_judge_by_own_axes", mistake)
    given = with_a_class_that_the_prior_refuses()
    np.testing.assert_array_equal(separated(given).probability >= 0.8, given[2])
    assert accepted == [{"a", "c"}, {"a"}]


@cache
def sketched(seed: int) -> np.ndarray:
    """Black lines on white paper."""
    random, rgb = np.random.default_rng([4, seed]), np.full((96, 96, 3), 255, np.uint8)
    for _ in range(12):
        start, end = random.integers(0, 96, (2, 2)).tolist()
        cv2.line(rgb, start, end, (0, 0, 0), 1, cv2.LINE_AA)
    return describe(rgb)


@pytest.mark.parametrize("style", [sketched, painted])
def test_a_class_is_judged_alike_whatever_most_other_images_are(style: Callable[[int], np.ndarray]) -> None:
    features, labels, truth = images(a=(60, 30), b=(50, 0), c=(50, 6))
    found = separate(
        np.vstack([features, [style(seed) for seed in range(400)]]), FEATURE_NAMES, labels + ["many"] * 400
    )
    np.testing.assert_array_equal(found.probability >= 0.8, np.append(truth, [False] * 400))


def test_what_does_not_look_like_photographs_is_kept() -> None:
    features, labels, _ = images(**MIXED)
    found = separate(features, FEATURE_NAMES, labels, Settings(likeness=2.1))  # more than anything measures
    assert "neither looks like photographs" in found.classes["a"].note
    assert not found.probability.any()


def test_a_few_photographs_are_no_examples_for_another_class() -> None:
    features, labels, truth = images(a=(60, 7), b=(80, 0), paintings=(0, 30))
    features = np.vstack([features, [painted(seed) for seed in range(70)]])
    found = separate(features, FEATURE_NAMES, labels + ["paintings"] * 70)
    assert "look for yourself" in found.classes["paintings"].note
    np.testing.assert_array_equal(found.probability[: len(labels)] >= 0.8, truth & (np.array(labels) == "a"))


def described(change: Callable[[np.ndarray], np.ndarray], side: int = 96) -> Images:
    """Two classes that hold photographs and one that doesn't, each picture changed before it is described."""
    rows, labels, truth = [], [], []
    for position, (name, drawings, photographs) in enumerate((("a", 60, 30), ("b", 50, 0), ("c", 40, 20))):
        for make, count in ((drawing, drawings), (photograph, photographs)):
            rows += [describe(change(make(1000 * position + number, side))) for number in range(count)]
            labels += [name] * count
            truth += [make is photograph] * count
    return np.array(rows), labels, np.array(truth)


@pytest.mark.parametrize("side", [64, 200])
def test_the_size_of_the_images_changes_no_verdict(side: int) -> None:
    given = described(lambda rgb: rgb, side)
    np.testing.assert_array_equal(separated(given).probability >= 0.8, given[2])


def test_grey_pictures_are_told_apart_too() -> None:
    given = described(lambda rgb: np.repeat(rgb.mean(2, keepdims=True).astype(np.uint8), 3, axis=2))
    np.testing.assert_array_equal(separated(given).probability >= 0.8, given[2])


def test_a_class_of_photographs_only_does_not_disturb_the_others() -> None:
    given = images(a=(60, 40), b=(80, 0), photographs=(0, 50))
    found = separated(given)
    others = np.array([label != "photographs" for label in given[1]])
    np.testing.assert_array_equal(found.probability[others] >= 0.8, given[2][others])


def test_classes_of_one_image_change_nothing_for_the_others() -> None:
    features, labels, truth = images(**MIXED)
    single = np.array([taken(9_001), drawn(9_002)])
    found = separate(np.vstack([features, single]), FEATURE_NAMES, [*labels, "one", "two"])
    np.testing.assert_array_equal(found.probability >= 0.8, np.append(truth, [False, False]))


def test_probabilities_rise_with_the_score() -> None:
    given = images(**MIXED)
    found = separated(given)
    for name in ("a", "c", "e"):
        inside = np.array([label == name for label in given[1]])
        by_score = np.argsort(found.score[inside])
        assert (np.diff(found.probability[inside][by_score]) >= -1e-9).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("features", "names", "labels"),
    [
        (np.zeros((0, 3)), ("flat_share", "x", "y"), []),
        (np.zeros((1, len(FEATURE_NAMES))), FEATURE_NAMES, ["a"]),
        (np.zeros((50, len(FEATURE_NAMES))), FEATURE_NAMES, ["a"] * 49 + ["b"]),
        (np.full((50, 2), np.nan), ("flat_share", "residual_none"), ["a"] * 50),
        (np.full((50, 1), np.inf), ("flat_share",), ["a"] * 50),
        (np.random.default_rng(0).normal(size=(60, 2)), ("unknown", "features"), ["a", "b"] * 30),
        (np.zeros((40, 0)), (), ["a"] * 40),
    ],
    ids=["no image", "one image", "all the same", "all NaN", "all infinite", "unknown features", "no features"],
)
def test_where_nothing_can_be_said_every_image_stays(
    features: np.ndarray, names: tuple[str, ...], labels: list[str]
) -> None:
    found = separate(features, names, labels)
    for each in (found.probability, found.score, found.group, found.axis, found.reasons):
        assert len(each) == len(labels)
    assert not found.probability.any()
    assert set(found.classes) == set(labels)


def test_white_pictures_among_others_are_no_photographs() -> None:
    features, labels, truth = images(**MIXED)
    white = describe(np.full((50, 50, 3), 255, np.uint8))
    found = separate(np.vstack([features, np.tile(white, (30, 1))]), FEATURE_NAMES, labels + ["a"] * 5 + ["white"] * 25)
    np.testing.assert_array_equal(found.probability >= 0.8, np.append(truth, [False] * 30))


def test_split_finds_two_normals() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(-1, 0.3, 700), random.normal(1, 0.3, 300)])
    split = split_scores(scores)
    assert split is not None
    assert (split.low, split.high, split.deviation, split.share) == pytest.approx((-1, 1, 0.3, 0.3), abs=0.05)
    assert split.gap == pytest.approx(6.7, abs=0.5)
    assert split.evidence > 100
    assert split.upper(np.array([-1.0, 1.0])) == pytest.approx([0, 1], abs=1e-6)


def test_split_of_one_normal_has_no_evidence() -> None:
    split = split_scores(np.random.default_rng(1).normal(size=800))
    assert split is not None
    assert split.evidence < 0


def test_a_heavy_split_gives_the_middle_to_the_larger_group() -> None:
    random = np.random.default_rng(3)
    scores = np.concatenate([random.normal(-1, 0.2, 900), random.normal(1, 0.2, 50), [0.0, 9.0, -9.0]])
    split = split_heavy(scores, 4.0)
    assert split is not None
    assert (split.low, split.high, split.share) == pytest.approx((-1, 1, 0.055), abs=0.05)
    upper = split.upper(np.linspace(-9, 9, 400))
    assert (np.diff(upper) >= 0).all()
    assert split.upper(np.array([-1.0, 0.0, 1.0, 9.0])) == pytest.approx([0, 0, 1, 1], abs=0.1)
    assert split_heavy(np.ones(50), 4.0) is None


def test_ward_numbers_groups_by_the_first_column() -> None:
    space = np.array([[5.0, 0], [5.1, 0], [0.0, 0], [0.1, 0], [9.0, 0]])
    assert ward_groups(space, 3).tolist() == [1, 1, 0, 0, 2]
    assert ward_groups(space[:1], 3).tolist() == [0]


def test_neighbours_are_the_nearest_and_not_the_image_itself() -> None:
    space, values = np.array([[0.0], [1.0], [2.5], [9.0]]), np.array([1.0, 2.0, 4.0, 8.0])
    np.testing.assert_array_equal(neighbour_means(space, values, 1), [2, 1, 2, 4])
    np.testing.assert_array_equal(neighbour_means(space, values, 2), [3, 2.5, 1.5, 3])
    np.testing.assert_allclose(neighbour_means(space, values, 9), (values.sum() - values) / 3)  # more than there are


def test_two_groups_mend_a_bad_start() -> None:
    random = np.random.default_rng(2)
    space = np.concatenate([random.normal(-2, 1, (200, 3)), random.normal(2, 1, (100, 3))])
    start = np.repeat([0.0, 1.0], [200, 100])
    start[:30], start[200:215] = 1.0, 0.0
    np.testing.assert_array_equal(two_groups(space, start) > 0.5, np.repeat([False, True], [200, 100]))


def test_an_axis_needs_examples_of_both() -> None:
    assert fisher_axis(None, None, 1.0) is None


@pytest.fixture(scope="module")
def bench() -> "Bench":
    from benchmarks.separation import Bench

    return Bench(Path(os.environ["GESSO_TEST_DATA"]))


@pytest.mark.realdata
def test_a_real_data_set_is_separated(bench: "Bench") -> None:
    from benchmarks.separation import THRESHOLD, f1, lost

    found = bench.probability(np.arange(len(bench.photo))) >= THRESHOLD
    assert f1(bench.photo, found) >= 0.95
    for name in set(bench.classes.tolist()) - set(bench.contaminated()):
        inside = bench.classes == name
        assert lost(bench.photo[inside], found[inside]) <= 0.03, name


@pytest.mark.realdata
def test_photographs_too_few_among_paintings_score_highest(bench: "Bench") -> None:
    from benchmarks.separation import GUESTS, HOSTS, hosts_and_guests, with_guests

    (host, *_), guests = hosts_and_guests(bench, HOSTS, GUESTS)
    labels = with_guests(bench, host, guests[-1], 0.05)
    found, inside = bench.separated(np.arange(len(labels)), labels), np.flatnonzero(labels == host)
    highest = inside[np.argsort(-found.score[inside])[:30]]
    assert not found.classes[host].contaminated
    assert bench.photo[highest].sum() >= 0.6 * bench.photo[inside].sum()
