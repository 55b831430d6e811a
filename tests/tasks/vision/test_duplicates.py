import hashlib
import itertools

import numpy as np
import pytest

from tasks.vision.duplicates import find_duplicates, near_components, number


def sha(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def hashes(count: int, seed: int = 0) -> np.ndarray:
    """Random hashes with half of their bits set, as pictures have them."""
    bits = np.zeros((count, 64), np.uint8)
    bits[:, :32] = 1
    return np.packbits(np.random.default_rng(seed).permuted(bits, axis=1), axis=1).view(">u8").ravel().astype(np.uint64)


def flipped(one: int, *bits: int) -> int:
    return one ^ sum(1 << bit for bit in bits)


def hexes(values: "list[int] | np.ndarray") -> list[str]:
    return [f"{int(value):016x}" for value in values]


def test_number_counts_in_order_of_appearance_and_skips_empty_texts() -> None:
    assert number(["b", "", "a", "b"]).tolist() == [0, -1, 1, 0]
    assert number([]).tolist() == []


@pytest.mark.parametrize("bits", [0, 1, 4, 8, 16])
def test_near_components_are_those_of_comparing_every_pair(bits: int) -> None:
    random = np.random.default_rng(bits)
    values = [int(one) for one in hashes(60)]
    for one in values[:40]:  # neighbours at every distance around the limit
        chosen = random.choice(64, random.integers(1, bits + 3), replace=False)
        values.append(flipped(one, *chosen.tolist()))
    distinct = np.unique(np.array(values, np.uint64))
    expected = list(range(len(distinct)))
    for a, b in itertools.combinations(range(len(distinct)), 2):
        if (int(distinct[a]) ^ int(distinct[b])).bit_count() <= bits:
            expected = [expected[a] if label == expected[b] else label for label in expected]

    found = near_components(distinct, bits)

    same = np.equal.outer(found, found)
    assert (same == np.equal.outer(expected, expected)).all()
    assert bits == 0 or same.sum() > len(distinct)  # there was something to find


def test_a_crowd_of_near_hashes_is_one_component() -> None:
    centre = int(hashes(1)[0])
    crowd = np.array([flipped(centre, a, b) for a, b in itertools.combinations(range(64), 2)], np.uint64)
    assert near_components(np.unique(crowd), 4).max() == 0


def test_equal_bytes_and_equal_looks_are_grouped_and_the_rest_is_alone() -> None:
    one, two, three = (int(value) for value in hashes(3))
    found = find_duplicates(
        [sha(1), sha(2), sha(1), "", sha(3), sha(4)],
        hexes([one, two, one, 0, flipped(one, 3, 17, 40, 63), flipped(three, 5)]),
        bits=4,
    )
    assert found.exact.tolist() == [0, 1, 0, -1, 2, 3]
    assert found.group.tolist() == [0, 1, 0, -1, 0, 2]
    assert found.dissolved == []


@pytest.mark.parametrize(("apart", "together"), [(4, True), (5, False)], ids=["at the limit", "beyond it"])
def test_the_limit_is_inclusive(apart: int, together: bool) -> None:
    one = int(hashes(1)[0])
    found = find_duplicates([sha(1), sha(2)], hexes([one, flipped(one, *range(0, 60, 60 // apart)[:apart])]), bits=4)
    assert (found.group[0] == found.group[1]) == together


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1], ids=["flat", "nearly flat", "all set"])
def test_blank_pictures_are_not_near_duplicates_but_their_copies_are_exact_ones(value: int) -> None:
    found = find_duplicates([sha(1), sha(2), sha(3), sha(1)], hexes([value] * 4), bits=4)
    assert found.group.tolist() == [0, 1, 2, 0]


def test_a_chain_that_swallows_the_data_is_dissolved_into_exact_groups() -> None:
    step, chain = int(hashes(1)[0]), []
    for place in range(60):  # each differs from the one before in two bits, first and last in most
        step = flipped(step, place % 64, (place * 7 + 1) % 64)
        chain.append(step)
    content = [*range(60), 0]
    found = find_duplicates([sha(each) for each in content], hexes([*chain, chain[0]]), bits=4)
    assert found.dissolved == [61]
    assert found.group.tolist() == [*range(60), 0]


def test_a_large_group_in_a_larger_data_set_stays() -> None:
    one, others = int(hashes(1)[0]), hashes(1500, seed=1)
    found = find_duplicates([sha(each) for each in range(1560)], hexes([*[one] * 60, *others]), bits=4)
    assert set(found.group[:60]) == {0}
    assert found.dissolved == []


def test_a_group_that_swallows_a_class_is_dissolved_and_a_large_one_beside_others_stays() -> None:
    one, two, *others = (int(value) for value in hashes(3000, seed=2))
    looks = [*[one] * 60, *others[:40], *[two] * 60, *others[40:]]
    classes = [*["small"] * 100, *["large"] * (len(looks) - 100)]
    found = find_duplicates([sha(each) for each in range(len(looks))], hexes(looks), bits=4, classes=classes)
    assert found.dissolved == [60]
    assert len(set(found.group[:100])) == 100
    assert len(set(found.group[100:160])) == 1


def test_what_there_is_of_other_classes_dissolves_no_group() -> None:
    one, *others = (int(value) for value in hashes(3200, seed=2))
    for more in (0, 100, 3000):
        looks = [*[one] * 60, *others[: 140 + more]]
        classes = [*["series"] * 200, *["other"] * more]
        found = find_duplicates([sha(each) for each in range(len(looks))], hexes(looks), bits=4, classes=classes)
        assert found.dissolved == []
        assert set(found.group[:60]) == {0}


def test_no_group_grows_beyond_a_number_however_much_there_is() -> None:
    one, others = int(hashes(1)[0]), hashes(29_000, seed=1)
    found = find_duplicates([sha(each) for each in range(30_001)], hexes([*[one] * 1001, *others]), bits=0)
    assert found.dissolved == [1001]


def test_nothing_to_compare() -> None:
    found = find_duplicates(["", ""], ["", ""], bits=4)
    assert found.group.tolist() == [-1, -1]
    assert find_duplicates([], [], bits=4).group.tolist() == []
