"""Is there enough new to train again? What a scheduled run asks before it goes on.

New is what the champion was not trained on: images that came, changed or went since its snapshot, classes that came or
went, and a review file that was edited. A run that sees the data of an earlier instant than the champion's (a cleared
one, say) doesn't take what came after that for gone.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.core.champion import read_champion
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.ledger import read_review_file
from tasks.core.store import Store


@dataclass(frozen=True)
class Difference:
    """What tells a snapshot from an earlier one: counts of images, names of classes.

    `later` are images of the earlier one that came, or were changed, after the instant of the other, which therefore
    can't have them as they are. One that was deleted after that instant counts as added.
    """

    same: int
    added: int
    changed: int
    gone: int
    new_classes: list[str]
    gone_classes: list[str]
    later: int = 0

    def __str__(self) -> str:
        words = [f"{self.added:,} new images", f"{self.changed:,} changed", f"{self.gone:,} gone"]
        words += [f"new class {name}" for name in self.new_classes]
        words += [f"class gone: {name}" for name in self.gone_classes]
        words += [f"{self.later:,} came or changed after the instant that this run sees"] if self.later else []
        return ", ".join(words)


@dataclass(frozen=True)
class News:
    """What is new since the champion's snapshot."""

    data: Difference
    review_edited: bool

    def __str__(self) -> str:
        return str(self.data) + ", the review file was edited" * self.review_edited

    def is_enough(self, min_images: int) -> bool:
        """Whether to train again for it."""
        data = self.data
        many = data.added + data.changed + data.gone >= max(1, min_images)
        return bool(many or data.new_classes or data.gone_classes or self.review_edited)


def since_champion(store: Store, snapshot: Artifact, review: str, as_of: datetime | None = None) -> News | None:
    """What is new in a snapshot; None where there is no champion, or what it was trained on is lost.

    Args:
        store: where the champion is.
        snapshot: the run's.
        review: the run's param: its review file, or "" for the one beside the data set.
        as_of: the instant whose data the snapshot has; None: now.
    """
    dataset = str(snapshot.json("snapshot.json")["dataset"])
    champion, _ = read_champion(store, dataset)
    if champion is None:
        return None
    try:
        resample = Artifact.reopen(store, champion.model).made_of("resample")
        cluster = resample.made_of("cluster")
        data = difference(resample.made_of("snapshot"), snapshot, as_of)
    except (DataError, NotFound, ParamsError):
        return None
    file = read_review_file(review, dataset)
    digest = None if file is None else hashlib.sha256(file).hexdigest()
    return News(data, review_edited=(cluster.manifest["observed"] or {}).get("review") != digest)


def difference(before: Artifact, after: Artifact, as_of: datetime | None = None) -> Difference:
    """What tells a snapshot, which has the data as of an instant (None: now), from an earlier one."""
    then, now = _images(before), _images(after)
    both = then.merge(now, how="outer", left_index=True, right_index=True, suffixes=("_before", "_now"))
    added, missing = both["class_before"].isna(), both["class_now"].isna()
    later = ~added & (both["modified_before"] > as_of if as_of else False)
    gone = missing & ~later
    changed = ~added & ~missing & ~later & (both["content_before"] != both["content_now"])
    classes_then, classes_now = set(then["class"]), set(now["class"])
    return Difference(
        same=int((~added & ~missing & ~later & ~changed).sum()),
        added=int(added.sum()),
        changed=int(changed.sum()),
        gone=int(gone.sum()),
        new_classes=sorted(classes_now - classes_then),
        gone_classes=sorted(set(both.loc[gone, "class_before"]) - classes_now),
        later=int(later.sum()),
    )


def _images(snapshot: Artifact) -> pd.DataFrame:
    """By key: class, instant, and what tells one content from another."""
    columns = ["key", "class", "version", "etag", "bytes", "modified"]
    table = snapshot.table("images.parquet", columns).set_index("key")
    identity = table["version"].fillna(table["etag"]).astype("str") + " " + table["bytes"].astype("str")
    return pd.DataFrame({"class": table["class"], "content": identity, "modified": table["modified"]})
