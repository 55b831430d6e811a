"""Is there enough new to train again? What a scheduled run asks before it goes on.

New is what the champion was not trained on: images that came, changed or went since its snapshot, classes that came or
went, and a review file that was edited.
"""

import hashlib
from dataclasses import dataclass

import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.core.champion import read_champion
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.ledger import review_store, review_uri
from tasks.core.store import Store


@dataclass(frozen=True)
class News:
    """What is new since the champion's snapshot: counts of images, names of classes."""

    added: int
    changed: int
    gone: int
    new_classes: list[str]
    gone_classes: list[str]
    review_edited: bool

    @property
    def images(self) -> int:
        """Images that are not as they were."""
        return self.added + self.changed + self.gone

    def __str__(self) -> str:
        words = [f"{self.added:,} new images", f"{self.changed:,} changed", f"{self.gone:,} gone"]
        words += [f"new class {name}" for name in self.new_classes] + [
            f"class gone: {name}" for name in self.gone_classes
        ]
        return ", ".join(words + ["the review file was edited"] * self.review_edited)

    def is_enough(self, min_images: int) -> bool:
        """Whether to train again for it."""
        return bool(self.images >= max(1, min_images) or self.new_classes or self.gone_classes or self.review_edited)


def since_champion(store: Store, snapshot: Artifact, review: str) -> News | None:
    """What is new in a snapshot; None where there is no champion, or what it was trained on is lost.

    Args:
        store: where the champion is.
        snapshot: of now.
        review: the run's param: its review file, or "" for the one beside the data set.
    """
    dataset = str(snapshot.json("snapshot.json")["dataset"])
    champion, _ = read_champion(store, dataset)
    if champion is None:
        return None
    try:
        model = Artifact.find(store, "train", champion.model.rpartition("/")[2]) or Artifact.open(champion.model)
        resample = _input(store, model, "resample")
        then, cluster = _input(store, resample, "snapshot"), _input(store, resample, "cluster")
        before, now = _images(then), _images(snapshot)
    except (DataError, NotFound, ParamsError):
        return None
    both = before.merge(now, how="outer", left_index=True, right_index=True, suffixes=("_before", "_now"))
    added, gone = both["class_before"].isna(), both["class_now"].isna()
    changed = ~added & ~gone & (both["content_before"] != both["content_now"])
    classes_before, classes_now = set(before["class"]), set(now["class"])
    return News(
        added=int(added.sum()),
        changed=int(changed.sum()),
        gone=int(gone.sum()),
        new_classes=sorted(classes_now - classes_before),
        gone_classes=sorted(classes_before - classes_now),
        review_edited=(cluster.manifest["observed"] or {}).get("review") != _digest(review_uri(review, dataset)),
    )


def _input(store: Store, artifact: Artifact, name: str) -> Artifact:
    key = str(artifact.inputs[name])
    found = Artifact.find(store, name, key)
    if found is None:
        raise NotFound(f"The artifact {name}/{key} is gone.")
    return found


def _images(snapshot: Artifact) -> pd.DataFrame:
    """By key: class, and what tells one content from another."""
    table = snapshot.table("images.parquet", ["key", "class", "version", "etag", "bytes"]).set_index("key")
    identity = table["version"].fillna(table["etag"]).astype("str") + " " + table["bytes"].astype("str")
    return pd.DataFrame({"class": table["class"], "content": identity})


def _digest(review: str) -> str | None:
    """SHA-256 of the review file, as `cluster` notes it; None where there is none."""
    folder, name = review_store(review)
    try:
        return hashlib.sha256(folder.get(name)).hexdigest()
    except NotFound:
        return None
