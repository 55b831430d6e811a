from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from tasks.slices import _chance, slices


@pytest.fixture
def images() -> pd.DataFrame:
    """200 images of two classes; b is in two groups, added over 100 days."""
    number = np.arange(200)
    return pd.DataFrame(
        {
            "key": [f"{at}.png" for at in number],
            "class": np.where(number < 100, "a", "b"),
            "label": number // 100,
            "width": 200 + number % 7,
            "height": 500,
            "brightness": (number % 50) * 5.0,
            "modified": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(number // 2, unit="D"),
            "duplicates": np.where(number % 4 == 0, 3, 1),
            "cluster": np.where(number < 150, 0, 1),
        }
    )


def test_a_weak_slice_stands_out(images):
    right = np.ones(200, bool)
    right[150:175] = False  # half of b's second group
    found = slices(images, right)
    assert found.columns.tolist() == ["by", "slice", "images", "accuracy", "low", "high", "expected", "weak"]
    groups = found[found["by"] == "cluster"].set_index("slice")
    assert groups.index.tolist() == ["b, group 0", "b, group 1"], "a has one group only"
    assert groups.loc["b, group 1", ["images", "accuracy", "expected", "weak"]].tolist() == [50, 0.5, 1, True]
    assert not groups.loc["b, group 0", "weak"]
    assert (found["low"] <= found["accuracy"]).all()
    assert (found["accuracy"] <= found["high"]).all()


def test_a_slice_of_a_hard_class_is_not_weak_for_that(images):
    right = (images["label"] == 0).to_numpy() | (images.index % 2 == 0)
    later = slices(images, right).set_index("by").loc["date added"].iloc[-1]
    assert later["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert later["expected"] == pytest.approx(0.5)
    assert not later["weak"]


def test_a_slice_that_is_most_of_its_class_is_judged_by_the_rest(images):
    images = pd.concat([images[images["class"] == "b"].head(1)] * 500, ignore_index=True)
    images["cluster"] = np.where(images.index < 450, 0, 1)
    right = images.index % 5 >= np.where(images["cluster"] == 0, 2, 0)
    found = slices(images, right)
    assert found["slice"].tolist() == ["b, group 0", "b, group 1"]
    assert found["accuracy"].tolist() == [0.6, 1]
    assert found["expected"].tolist() == pytest.approx([1, 0.6])
    assert found["weak"].tolist() == [True, False]


def test_what_elsewhere_is_is_itself_uncertain(images):
    images = images.assign(cluster=np.where(images.index < 197, 0, 1))  # three images are all there is elsewhere
    found = slices(images, images.index % 3 > 0).set_index("slice").loc["b, group 0"]
    assert found[["images", "expected", "weak"]].tolist() == [97, pytest.approx(2 / 3), False]
    found = slices(images, (images.index % 5 > 1) | (images.index >= 197)).set_index("slice").loc["b, group 0"]
    assert found[["expected", "weak"]].tolist() == [1, False], "three of three say little"
    assert found["high"] < 0.7


def test_classes_that_are_nowhere_else_are_left_out(images):
    images = images.assign(duplicates=np.where((images.index < 100) | (images.index % 2 == 0), 2, 1))
    right = (images.index < 100) | (images.index % 4 > 0)
    found = slices(images, right).set_index("slice").loc["has duplicates"]
    assert found[["images", "accuracy", "expected", "weak"]].tolist() == [50, 0.5, 1, True], "b's, without a's 100"


def test_chance_is_the_share_of_all_ways_to_draw_a_slice():
    """Of two classes: 3 of 5 images, 2 of which were right, and 2 of 4 with 3 right."""
    ways = [
        sum(at < 2 for at in a) + sum(at < 3 for at in b)
        for a in combinations(range(5), 3)
        for b in combinations(range(4), 2)
    ]
    chances = [_chance(np.array([5, 4]), np.array([2, 3]), np.array([3, 2]), hits) for hits in range(5)]
    assert chances == pytest.approx([np.mean(np.array(ways) <= hits) for hits in range(5)])


def test_where_nothing_is_weaker_few_data_sets_show_a_weak_slice(images):
    draws = [np.random.default_rng(seed).random(200) < 0.8 for seed in range(60)]
    assert sum(slices(images, right)["weak"].any() for right in draws) <= 4


def test_quarters_say_where_they_end_and_hold_every_image(images):
    found = slices(images, np.ones(200, bool))
    for by in ("brightness", "date added", "duplicates", "shorter side"):
        assert found.loc[found["by"] == by, "images"].sum() == 200
    assert found.loc[found["by"] == "date added", "slice"].iloc[0] == "2026-01-01 to 2026-01-25"
    assert found.loc[found["by"] == "brightness", "slice"].iloc[-1].endswith(" to 245 of 255")


def test_what_cuts_nothing_apart_is_left_out(images):
    images = images.assign(width=227, height=227, brightness=9.0, duplicates=1, cluster=0)
    images["modified"] = images["modified"].iloc[0]
    assert slices(images, np.ones(200, bool)).empty
    few = images.assign(duplicates=[2] * 9 + [1] * 191)
    assert slices(few, np.ones(200, bool))["slice"].tolist() == ["one of a kind"], "9 images say nothing"
