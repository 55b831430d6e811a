"""The champion and the candidate, judged on the same test images: what `promote` decides by."""

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.artifacts import Artifact, Inputs
from tasks.core.errors import Archived, DataError, NotFound
from tasks.core.params import PromoteParams
from tasks.core.settings import settings
from tasks.core.store import Store, open_store
from tasks.vision import images, metrics
from tasks.vision.pack import Pack, open_pack

BATCH = 64
"""Images predicted at a time."""

INTERVAL = (0.05, 0.95)
"""Quantiles of the bootstrapped differences."""

FEW = 5
"""A class with fewer test images decides nothing: one of them moves its F1 by a seventh or more."""

MAX_PIXELS = 1_000_000_000
"""Of a test image read again: the most that `scan` can be told to accept; what it refused is not in the test part."""

Batches = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]
"""Rows in the pack, and their pixels [n, size, size, 3]."""


@dataclass(frozen=True)
class Rival:
    """The champion that the candidate is measured against, opened."""

    artifact: Artifact
    model: Any
    labels: list[str]

    @classmethod
    def open(cls, store: Store, uri: str) -> "Rival":
        """Open the `train` artifact at a URI; where `store` was moved since it was written, in its new place.

        Raises:
            DataError, NotFound, ParamsError: it is gone, damaged or none.
        """
        from tasks.vision import models  # imports TensorFlow, which takes seconds

        artifact = Artifact.reopen(store, uri)
        return cls(artifact, models.load(artifact.path("model.keras")), list(artifact.json("labels.json")))

    @property
    def size(self) -> int:
        """Side of the images it takes, in pixels."""
        return int(self.model.input_shape[1])


@dataclass(frozen=True)
class Duel:
    """Both models' labels for the compared images, and the true ones; -1 is none of this run's classes."""

    truth: metrics.Labels
    candidate: metrics.Labels
    champion: metrics.Labels
    notes: list[str]

    def where(self, images: npt.NDArray[np.bool_]) -> "Duel":
        """The same on some of the images."""
        return Duel(self.truth[images], self.candidate[images], self.champion[images], self.notes)


def fight(inputs: Inputs, rival: Rival) -> Duel:
    """Let the champion predict the test images by which it may be judged.

    Args:
        inputs: those of `promote`.
        rival: the champion.
    """
    resample = inputs.one("resample")
    classes: list[str] = resample.json("classes.json")
    test = judged_images(inputs)
    notes = notes_on_classes(classes, rival.labels)

    seen = learnt(rival.artifact, resample)
    if seen is None:
        notes.append("What the champion was trained on is not known any more: it may have learnt some test images.")
    elif (known := is_known(test, resample.table("ledger.parquet", ["sha256", "duplicate_group"]), seen)).any():
        notes.append(
            f"{known.sum()} of {len(test)} test images left out: the champion was trained on them, or on duplicates "
            f"of them."
        )
        test = test[~known]

    pack = open_pack(resample, inputs.many("pack"))
    if pack.size == rival.size:
        batches = pack_batches(pack, test)
    else:
        notes.append(f"The champion takes images of {rival.size} px, this run's have {pack.size}: read again for it.")
        batches = fresh_batches(open_store(inputs.one("snapshot").json("snapshot.json")["dataset"]), test, rival.size)

    label_of = {name: label for label, name in enumerate(classes)}
    theirs = np.array([label_of.get(name, -1) for name in rival.labels])
    rows, champion = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch, pixels in batches:
        rows.append(batch)
        champion.append(theirs[rival.model.predict_on_batch(pixels).argmax(axis=1)])
    if missing := len(test) - sum(map(len, rows)):
        notes.append(f"{missing} test images left out: they are gone from the data set, or were changed there.")
    test = test.set_index("row").loc[np.concatenate(rows)]
    candidate = test["predicted"].map(label_of).to_numpy(np.int64)
    return Duel(test["label"].to_numpy(), candidate, np.concatenate(champion), notes)


def judged_images(inputs: Inputs) -> pd.DataFrame:
    """The images of the test part, by row, with what the candidate predicted."""
    used = inputs.one("resample").table("used.parquet")
    predictions = inputs.one("evaluate").table("predictions.parquet", ["key", "predicted"])
    return used[used["part"] == "test"].merge(predictions, on="key", validate="one_to_one")


def notes_on_classes(classes: list[str], known: list[str]) -> list[str]:
    """What to say where the champion knows other classes than this run."""
    notes = []
    if unknown := [name for name in classes if name not in known]:
        notes.append(f"Classes that the champion doesn't know, wrong for it: {', '.join(unknown)}.")
    if gone := [name for name in known if name not in classes]:
        notes.append(f"Classes of the champion that the data set has no more: {', '.join(gone)}.")
    return notes


def learnt(champion: Artifact, resample: Artifact) -> set[str] | None:
    """SHA-256 of the images that the champion was trained or validated on; None where that is lost.

    Nothing where it was trained on this very split.
    """
    if champion.inputs["resample"] == resample.key:
        return set()
    theirs = Artifact.find(champion.store, "resample", champion.inputs["resample"])
    if theirs is None:
        return None
    try:
        ledger = theirs.table("ledger.parquet", ["sha256", "part", "verdict"])
    except (DataError, NotFound):
        return None
    used = ledger["verdict"] == "kept"  # what undersampling left out is of the training part, too
    return set(ledger.loc[used & ledger["part"].isin(["train", "validation"]), "sha256"])


def is_known(test: pd.DataFrame, ledger: pd.DataFrame, seen: set[str]) -> "pd.Series[bool]":
    """Whether each test image, or another of its duplicate group, is among those seen.

    A picture that was saved again is another file, but the same to a network.

    Args:
        test: columns sha256, duplicate_group.
        ledger: the same of all images of this run; the group of one that can't be read is -1.
        seen: SHA-256 of images.
    """
    groups = set(ledger.loc[ledger["sha256"].isin(seen), "duplicate_group"]) - {-1}
    return test["sha256"].isin(seen) | test["duplicate_group"].isin(groups)


def pack_batches(pack: Pack, test: pd.DataFrame) -> Batches:
    """The test images, out of the pack."""
    rows = test["row"].to_numpy()
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH], pack.gather(rows[start : start + BATCH])


def fresh_batches(store: Store, test: pd.DataFrame, size: int) -> Batches:
    """The test images, read again at another size; those that are not there as they were are left out."""

    def read(image: Any) -> images.Pixels | None:
        try:
            data = store.get(image.key, image.version if isinstance(image.version, str) else None)
            if hashlib.sha256(data).hexdigest() != image.sha256:
                return None
            return images.resize(images.open_image(data, max_pixels=MAX_PIXELS, min_side=size).pixels, size)
        except (Archived, DataError, NotFound):
            return None

    with ThreadPoolExecutor(settings().threads) as pool:
        for start in range(0, len(test), BATCH):
            batch = test.iloc[start : start + BATCH]
            pixels = list(pool.map(read, batch.itertuples()))
            there = np.array([picture is not None for picture in pixels])
            if there.any():
                yield batch["row"].to_numpy()[there], np.stack([picture for picture in pixels if picture is not None])


def compare(duel: Duel, classes: list[str], params: PromoteParams) -> dict[str, Any]:
    """The two models' scores on the compared images, as decision.json has them."""
    count = len(classes)
    theirs = metrics.classwise(duel.truth, duel.champion, count)
    ours = metrics.classwise(duel.truth, duel.candidate, count)
    # Images are left out, not only classes: one that is wrong for its own class counts against another, too.
    of_many = ours.support[duel.truth] >= FEW
    without: dict[str, Any] = {"delta_macro_f1": None, "interval": None}
    if of_many.any():
        without = difference(duel.where(of_many), count, params)
    test = metrics.mcnemar(duel.truth, duel.champion, duel.candidate)
    return {
        "images": len(duel.truth),
        "candidate_macro_f1": metrics.macro(ours.f1),
        "champion_macro_f1": metrics.macro(theirs.f1),
        **difference(duel, count, params),
        "few": None if of_many.all() else {"classes": len(np.unique(duel.truth[~of_many])), **without},
        "mcnemar": {
            "champion_only": test["only_first"],
            "candidate_only": test["only_second"],
            "p": test["p"],
        },
        "per_class": [
            {
                "class": name,
                "images": int(ours.support[at]),
                "champion_f1": _defined(theirs.f1[at]),
                "candidate_f1": _defined(ours.f1[at]),
                "delta": _defined(ours.f1[at] - theirs.f1[at]),
            }
            for at, name in enumerate(classes)
        ],
    }


def difference(duel: Duel, classes: int, params: PromoteParams) -> dict[str, Any]:
    """The candidate's macro F1 minus the champion's, with its interval."""
    models = [
        metrics.macro(metrics.classwise(duel.truth, each, classes).f1) for each in (duel.candidate, duel.champion)
    ]
    drawn = metrics.paired_bootstrap(duel.truth, duel.champion, duel.candidate, classes, params.bootstrap, params.seed)
    return {
        "delta_macro_f1": models[0] - models[1],
        "interval": [float(edge) for edge in np.quantile(drawn, INTERVAL)],
    }


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else float(score)
