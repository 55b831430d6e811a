from concurrent.futures import ThreadPoolExecutor

from tasks.core.runs import Record, change_record, read_record
from tasks.core.store import LocalStore


def test_tasks_that_write_at_the_same_time_lose_nothing(store: LocalStore) -> None:
    def add(task: int) -> None:
        def change(record: Record) -> None:
            record["steps"][f"step {task}"] = task

        change_record(store, "retrain", "manual__2026-01-01T00:00:00+00:00", change)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))

    record = read_record(store, "retrain", "manual__2026-01-01T00:00:00+00:00")
    assert sorted(record["steps"].values()) == list(range(24))
    assert record["dag_id"] == "retrain"
