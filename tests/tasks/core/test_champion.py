"""The pointer to the champion: read, moved by compare-and-swap, and explained where somebody damaged it."""

import pytest

from tasks.core.champion import Champion, champion_key, move_champion, read_champion
from tasks.core.errors import DataError
from tasks.core.store import Store

DATASET = "s3://pictures/drawings"
FIRST = Champion("store/artifacts/train/a", previous=None, since="2026-11-01T00:00:00+00:00")


def test_there_is_no_champion_before_the_first(store: Store) -> None:
    assert read_champion(store, DATASET) == (None, None)


def test_only_one_of_two_moves_from_the_same_pointer_succeeds(store: Store) -> None:
    assert move_champion(store, DATASET, FIRST, None)
    _, etag = read_champion(store, DATASET)
    second = Champion("store/artifacts/train/b", previous=FIRST.model, since="2026-11-08T00:00:00+00:00")
    third = Champion("store/artifacts/train/c", previous=FIRST.model, since="2026-11-08T00:00:01+00:00")
    assert move_champion(store, DATASET, second, etag)
    assert not move_champion(store, DATASET, third, etag)
    assert read_champion(store, DATASET)[0] == second


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'"text"', b'{"model": "m"}', b"\xff\xfe", b"null"])
def test_a_damaged_pointer_is_explained(store: Store, damaged: bytes) -> None:
    store.put(champion_key(DATASET), damaged)
    with pytest.raises(DataError, match=r"champions/drawings-\w+\.json can't be read .* Mend it, or delete it"):
        read_champion(store, DATASET)
