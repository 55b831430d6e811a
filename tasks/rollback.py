"""Put the model of a past run in use again, and keep the one in use from coming back by itself.

    gesso rollback RUN

RUN is the run's id, as Airflow shows it. Its model becomes the champion of its data set, whatever its verdict was. The
model that is in use until then is withdrawn: a run that finds it again, over the same data, holds it. To withdraw that
once more, roll back to its run.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from tasks.core.champion import Champion, key_of, move_champion, read_champion
from tasks.core.errors import DataError, ParamsError, StoreError
from tasks.core.runs import artifacts_of, find_record
from tasks.core.settings import settings
from tasks.core.store import Store, open_store


def main(words: Sequence[str]) -> int:
    """Run the tool with these command-line words.

    Raises:
        ParamsError: there is no such run, or its model is in use already.
        DataError: the run has no evaluated model that is still there.
        StoreError: the store is away, or a run changed the champion meanwhile.
    """
    parser = argparse.ArgumentParser("gesso rollback", description="Put the model of a past run in use again.")
    parser.add_argument("run", metavar="RUN", help="the id of the run whose model is to be in use")
    parser.add_argument("--dag", default="retrain", help="the DAG that it is a run of (default: %(default)s)")
    parser.add_argument("--store", default=settings().store_uri, help="where its artifacts are (default: %(default)s)")
    options = parser.parse_args(words)
    dataset, before, champion = roll_back(open_store(options.store), options.dag, options.run)
    print(champion.model)
    withdrawn = f" {before.model} is withdrawn." if before else ""
    print(f"In use for {dataset}: the model of {options.run}.{withdrawn}", file=sys.stderr)
    return 0


def roll_back(store: Store, dag_id: str, run_id: str) -> tuple[str, Champion | None, Champion]:
    """Make a past run's model the champion: the data set, its champion until now, and from now on.

    Raises as `main`.
    """
    record = find_record(store, dag_id, run_id)
    found = {step: artifacts_of(store, record, step) for step in ("snapshot", "train", "evaluate", "promote")}
    evaluation = next(iter(found["evaluate"]), None)
    model = next((each for each in found["train"] if evaluation and each.key == evaluation.metrics["model"]), None)
    if not (found["snapshot"] and evaluation and model):
        raise DataError(
            f"The run {run_id!r} has no model to go back to: it evaluated none, or its artifacts were removed. The "
            f"History tab of {dag_id} shows which runs have one."
        )
    dataset = str(found["snapshot"][0].json("snapshot.json")["dataset"])
    before, etag = read_champion(store, dataset)
    if before and key_of(before.model) == model.key:
        raise ParamsError(
            f"The model of {run_id!r} is in use already. Name the run whose model is to be in use instead."
        )
    # What it was measured against then: so a rerun of its run finds its decision, and no new one is made.
    decision = next(iter(found["promote"]), None)
    opponent = decision.manifest["observed"]["champion"] if decision else None
    withdrawn = {*before.withdrawn, key_of(before.model)} if before else set()
    champion = Champion(
        model.uri,
        previous=f"{store.uri}/artifacts/train/{opponent}" if opponent else None,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        evaluation=evaluation.uri,
        withdrawn=sorted(withdrawn - {model.key}),
        by_hand=decision is None or decision.metrics["verdict"] != "PROMOTE",
    )
    if not move_champion(store, dataset, champion, etag):
        raise StoreError("A run changed the champion meanwhile. Look which model is in use now, and run again.")
    return dataset, before, champion
