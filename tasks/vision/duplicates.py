"""Find pictures that are there twice: the same bytes, or the same look.

Looks are compared by perceptual hashes of 64 bits. Two failings of such hashes are known, and both are met here: blank
pictures all share one hash, so hashes that say nothing are not compared; and chains of alike pairs can join pictures
that are nothing alike, so a group that grew to a sizeable part of a class is dissolved and reported. How much there is
of other classes doesn't count: a group would be dissolved and joined again as they come and go, and its images move.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

INFORMATIVE_BITS = range(8, 57)
"""Bits set in a hash that tells pictures apart. Half of a picture's 64 frequencies are above their median, fewer where
many are equal; a picture of one colour, or a straight gradient, has none."""

SIZEABLE_IMAGES, SIZEABLE_CLASS_SHARE, SIZEABLE_ANYWHERE = 50, 0.5, 1000
"""A group of near duplicates with more images than the first is taken for a chain where it holds a larger share of a
class than the second, and one with more images than the last in any case."""

_PAIRS = 1_000_000  # held in memory at once


@dataclass(frozen=True)
class Duplicates:
    """For each picture the groups it is in, numbered in the order of their first pictures; -1: not compared."""

    exact: Ids  # [n] same bytes
    group: Ids  # [n] same bytes or same look; every compared picture is in one, most of them alone
    dissolved: list[int]  # sizes of the near groups that were taken for chains, largest first


def find_duplicates(
    sha256: Sequence[str], phash: Sequence[str], bits: int, classes: Sequence[str] | None = None
) -> Duplicates:
    """Group pictures by their bytes and their look.

    Args:
        sha256: of each picture's bytes; "" for one that is not to be compared.
        phash: perceptual hash of each, 16 hex digits; read only where sha256 is given.
        bits: perceptual hashes that differ in at most this many bits are the same look.
        classes: the class of each; None: they are all of one.
    """
    exact = number(sha256)
    # One node for each distinct file; a look is shared by files.
    _, first, node = np.unique(exact[exact >= 0], return_index=True, return_inverse=True)
    compared = np.flatnonzero(exact >= 0)
    hashes = np.array([int(phash[at], 16) for at in compared[first]], np.uint64)
    telling = np.isin(np.bitwise_count(hashes), INFORMATIVE_BITS)
    looks, look = np.unique(hashes[telling], return_inverse=True)
    component = np.arange(len(hashes)) + len(looks)
    component[telling] = near_components(looks, bits)[look]

    looked = component[node]
    images = np.bincount(looked, minlength=len(hashes) + len(looks))
    owner = np.zeros(len(compared), np.int32) if classes is None else number(classes)[compared]
    share = np.zeros(len(images))  # the largest that the group has of a class
    pairs, counts = np.unique(np.stack([looked, owner]), axis=1, return_counts=True)
    np.maximum.at(share, pairs[0], counts / np.bincount(owner)[pairs[1]] if len(counts) else counts)
    large = (share > SIZEABLE_CLASS_SHARE) | (images > SIZEABLE_ANYWHERE)
    sizeable = (images > SIZEABLE_IMAGES) & large & (np.arange(len(images)) < len(looks))
    alone = sizeable[component]
    component[alone] = len(looks) + np.flatnonzero(alone)
    group = np.full(len(sha256), -1, np.int32)
    group[compared] = pd.factorize(component[node])[0]
    return Duplicates(exact, group, sorted(images[sizeable].tolist(), reverse=True))


def number(values: Sequence[str]) -> Ids:
    """The same number for the same text, in order of appearance; -1 for an empty text."""
    codes, _ = pd.factorize(np.array([value or None for value in values], object))
    return codes.astype(np.int32)


def near_components(hashes: Hashes, bits: int) -> Ids:
    """Number the connected components of distinct hashes, joined where they differ in at most `bits` of 64 bits.

    Two such hashes agree in at least one of bits + 1 bands (pigeonhole), so only those that share a band are compared.
    """
    component = np.arange(len(hashes), dtype=np.int32)
    for low, high in pairwise(np.linspace(0, 64, bits + 2).astype(int).tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        sharing = np.split(order, np.flatnonzero(np.diff(band[order])) + 1)
        found, count = [], 0
        for members in sharing:
            for one, other in _near_pairs(hashes, members, bits, component) if len(members) > 1 else ():
                found.append((one, other))
                count += len(one)
                if count > _PAIRS:  # joined early, they are not found again in the next block
                    component, found, count = _join(component, found), [], 0
        component = _join(component, found)
    return component


def _near_pairs(hashes: Hashes, members: Indices, bits: int, component: Ids) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of members with near hashes that are not in one component yet, a block of comparisons at a time."""
    rows = max(1, _PAIRS // len(members))
    for start in range(0, len(members), rows):
        block, rest = members[start : start + rows], members[start:]
        near = np.bitwise_count(hashes[block, None] ^ hashes[rest]) <= bits
        near &= component[block, None] != component[rest]
        one, other = near.nonzero()
        yield block[one], rest[other]


def _join(component: Ids, pairs: Sequence[tuple[Indices, Indices]]) -> Ids:
    """The components after the members of each pair were joined."""
    if not pairs:
        return component
    ones, others = (component[np.concatenate(side)] for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(ones), bool), (ones, others)), shape=(len(component), len(component)))
    joined: Ids = connected_components(graph, directed=False)[1]
    return joined[component]
