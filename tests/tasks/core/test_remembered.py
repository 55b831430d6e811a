"""Remembered rows are never wrong and never lost, whoever merges them at the same time, and may be deleted."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from tasks.core import remembered
from tasks.core.objects import Object
from tasks.core.remembered import Remembered, place_of
from tasks.core.store import LocalStore, Store

SCHEMA = pa.schema([("value", pa.int64()), ("data", pa.binary()), ("identity", pa.string()), ("place", pa.uint64())])


def memory(store: Store, shard: int = 0, shards: int = 1, said: list[str] | None = None) -> Remembered:
    return Remembered(store, "scan/code/data", SCHEMA, shard, shards, (said if said is not None else []).append)


def rows(numbers: Iterable[int]) -> pa.Table:
    """The row of each number, whose bytes no compression shortens."""
    numbers = list(numbers)
    names = [f"{number:06}" for number in numbers]
    data = [random.Random(number).randbytes(500) for number in numbers]
    columns = {"value": numbers, "data": data, "identity": names, "place": place_of(names)}
    return pa.table(columns, schema=SCHEMA)


def recalled(store: Store, numbers: Iterable[int], shard: int = 0, shards: int = 1) -> list[int]:
    identities = pa.array([f"{number:06}" for number in numbers], pa.string())
    table = memory(store, shard, shards).recall(identities)
    assert table.equals(rows(table["value"].to_pylist()))
    return sorted(table["value"].to_pylist())


def files(store: Store) -> list[Object]:
    return sorted(store.list("remembered/"), key=lambda found: found.key)


def test_what_was_kept_is_recalled_and_nothing_else(any_store: Store) -> None:
    assert recalled(any_store, range(5)) == []
    memory(any_store).keep(rows(range(3)))
    memory(any_store).keep(rows([]))
    assert recalled(any_store, range(1, 9)) == [1, 2]
    assert len(files(any_store)) == 1


def test_a_thousand_runs_leave_few_files_and_write_each_row_a_few_times(store: LocalStore) -> None:
    written = 0
    for week in range(1000):
        before = {found.key for found in files(store)}
        memory(store).keep(rows(range(4 * week, 4 * week + 4)))
        written += sum(found.size for found in files(store) if found.key not in before)
        assert len(files(store)) <= 12
    assert recalled(store, range(4000)) == list(range(4000))
    assert written < 15 * sum(found.size for found in files(store))


def test_a_file_that_is_large_enough_is_merged_no_more(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MERGED_BYTES", 50_000)
    for start in range(0, 1000, 10):
        memory(store).keep(rows(range(start, start + 10)))
    assert all(found.size <= 50_000 for found in files(store))
    assert 11 <= len(files(store)) < 30
    assert recalled(store, range(1000)) == list(range(1000))


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 2), (2, 4), (3, 2), (17, 3)])
def test_another_number_of_shards_divides_the_files_anew(store: LocalStore, before: int, after: int) -> None:
    everything = rows(range(200))
    places = everything["place"].to_numpy()
    for shard in range(before):
        memory(store, shard, before).keep(everything.filter(pa.array(places % before == shard)))
    for shard in range(after):
        mine = [number for number in range(200) if places[number] % after == shard]
        assert recalled(store, mine, shard, after) == mine
    for shard in range(after):
        memory(store, shard, after).keep(rows([]))
    names = [found.key.rpartition("/")[2] for found in files(store)]
    assert {name.split("-")[2] for name in names} == {str(after)}
    for shard in range(after):
        mine = [number for number in range(200) if places[number] % after == shard]
        assert recalled(store, mine, shard, after) == mine
        (read,) = [name for name in names if name.startswith(f"{shard}-of-")][:1]
        assert read


def test_who_keep_the_same_at_once_make_the_same_files(tmp_path: object) -> None:
    stores = [LocalStore(tmp_path / name) for name in "ab"]  # type: ignore[operator]
    for store in stores:
        for part in (range(10), range(10, 20), range(20, 25)):
            memory(store).keep(rows(reversed(part)))
    assert [found.key for found in files(stores[0])] == [found.key for found in files(stores[1])]


@pytest.mark.parametrize("shards", [(1, 1), (1, 2)], ids=["one way of sharding", "two ways"])
def test_writers_who_merge_at_once_lose_no_row(atomic_store: Store, shards: tuple[int, int]) -> None:
    start = threading.Barrier(4)
    everything, numbers = rows(range(240)), list(range(240))
    places = everything["place"].to_numpy()

    def write(worker: int) -> None:
        of = shards[worker % 2]
        start.wait()
        for begin in range(worker * 60, worker * 60 + 60, 5):
            part = rows(range(begin, begin + 5))
            for shard in range(of):
                memory(atomic_store, shard, of).keep(part.filter(pa.array(places[begin : begin + 5] % of == shard)))

    def read() -> int:
        """How often everything that was there at first was recalled, while others merge it."""
        times = 0
        while not done.is_set():
            assert set(range(240, 260)) <= set(recalled(atomic_store, range(260)))
            times += 1
        return times

    memory(atomic_store).keep(rows(range(240, 260)))
    done = threading.Event()
    with ThreadPoolExecutor(5) as pool:
        reading = pool.submit(read)
        try:
            list(pool.map(write, range(4)))
        finally:
            done.set()
    assert reading.result() > 0
    assert recalled(atomic_store, numbers) == numbers
    memory(atomic_store).tidy()
    assert recalled(atomic_store, numbers) == numbers
    assert len(files(atomic_store)) <= 12


class Interrupted(LocalStore):
    """A store in which something else happens before files are removed."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store.root)
        self.meanwhile: Callable[[], None] = lambda: None

    def delete_many(self, keys: Iterable[str]) -> None:
        self.meanwhile()
        super().delete_many(keys)


def test_rows_that_are_united_and_divided_again_at_once_are_not_lost(store: LocalStore) -> None:
    everything = rows(range(40))
    half = everything.filter(pa.array(everything["place"].to_numpy() % 2 == 0))
    numbers = half["value"].to_pylist()
    memory(store, 0, 2).keep(half)
    interrupted = Interrupted(store)
    interrupted.meanwhile = memory(store, 0, 2).tidy
    memory(interrupted, 0, 1).tidy()
    assert recalled(store, range(40)) == numbers


class Slow(LocalStore):
    """A store in which something else happens before an object is read."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store.root)
        self.meanwhile: Callable[[], None] = lambda: None

    def get(self, key: str, version: str | None = None) -> bytes:
        self.meanwhile()
        return super().get(key, version)


def test_a_reader_whose_files_are_merged_away_finds_the_rows_in_the_merged_one(store: LocalStore) -> None:
    slow = Slow(store)
    store.put("remembered/scan/code/data/notes.txt", b"put here by somebody")
    first, second = memory(store), memory(store)
    first._write(rows(range(10)), 0, 1)
    second._write(rows(range(10, 20)), 0, 1)

    def merge() -> None:
        slow.meanwhile = lambda: None
        memory(store).tidy()

    slow.meanwhile = merge
    assert recalled(slow, range(20)) == list(range(20))


def test_deletion_in_the_middle_of_a_merge_leaves_no_wrong_row(store: LocalStore) -> None:
    slow = Slow(store)
    for start in (0, 10):
        memory(store)._write(rows(range(start, start + 10)), 0, 1)

    def delete() -> None:
        slow.meanwhile = lambda: None
        store.delete_many([found.key for found in files(store)])

    slow.meanwhile = delete
    memory(slow).tidy()
    assert recalled(store, range(20)) == []
    memory(store).keep(rows(range(20)))
    assert recalled(store, range(20)) == list(range(20))


@pytest.mark.parametrize("damage", [b"", b"PAR1 no longer", None], ids=["empty", "overwritten", "cut"])
def test_a_damaged_file_is_told_of_and_stands_in_nobodys_way(store: LocalStore, damage: bytes | None) -> None:
    memory(store).keep(rows(range(10)))
    (whole,) = files(store)
    store.put(whole.key, store.get(whole.key)[:-100] if damage is None else damage)
    said: list[str] = []
    table = memory(store, said=said).recall(pa.array(["000001"]))
    assert len(table) == 0
    assert "is damaged; its images are looked at again" in said[0]
    memory(store).keep(rows(range(10)))
    assert [found.key for found in files(store)] == [whole.key]
    assert recalled(store, range(10)) == list(range(10))


def test_a_file_of_another_schema_is_set_aside(store: LocalStore) -> None:
    from io import BytesIO

    import pyarrow.parquet as pq

    buffer = BytesIO()
    pq.write_table(pa.table({"identity": ["000001"]}), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:32]
    store.put(f"remembered/scan/code/data/0-of-1-{digest}.parquet", buffer.getvalue())
    assert recalled(store, range(3)) == []
