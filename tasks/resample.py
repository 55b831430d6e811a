"""Split the images, and balance the training part.

The split comes first and the balancing after it, on the training part alone: copies made before a split leak into the
part that is meant to be unseen. Validation and test keep their natural counts.

The split is by hash buckets. Each duplicate group (same bytes or same look, over all classes) has an anchor, the
SHA-256 of its earliest image; read as a fraction in [0, 1) it falls into the bucket of test, validation or training.
No list is kept, the seed doesn't count, and images of other groups seldom do; a group is never in two parts. The price:
shares hold in expectation; of n groups a share p comes out within about 2 * sqrt(p * (1 - p) / n). What still moves
images that were there:
    - a class of three or more groups with an empty part gets one group moved there, which may go back once the class
      has grown; a class of one or two groups trains on all of them;
    - a new image that looks like two old ones joins their groups;
    - a new image that is dated earlier than an old one like it (`cp -p`, `rsync -t` and `unzip` keep dates) becomes the
      anchor of their group;
    - where the earliest image of a group is deleted, or written anew and so dated later, another becomes the anchor of
      the rest; where an image by which others were alike is deleted, their group falls apart;
    - a group of more than 50 images that grows beyond half of a class, or beyond 1,000, is taken for a chain and
      dissolved (`vision/duplicates.py`), and joined again once it isn't.

Then a class with more than max_per_class training images is undersampled, and one with fewer than min_per_class is
oversampled. Which images, the seed and the key decide, independently in each class.

Writes:
    ledger.parquet, ledger.csv  a row for each image of the snapshot: key, class, verdict, reason, decided_by
                         (validation, clustering, person, sampling), part, copies (times drawn in an epoch; 0 = not
                         used), photo_probability, duplicate_group, sha256
    used.parquet         row, key, class, label, part, copies, duplicate_group, modified, version, sha256, width,
                         height: the images that are used, sorted by key; a row is an image's number in the pack
    classes.json         names of the classes; a label is an index of it
    counts.parquet       class, snapshot, kept (of which the next are parts), train, train_drawn (after sampling),
                         validation, test
"""

import hashlib

import numpy as np
import pandas as pd

from tasks.core import params
from tasks.core.artifacts import Inputs, Output
from tasks.core.errors import DataError, ParamsError
from tasks.core.ledger import COLUMNS, write_csv

INPUTS = ("snapshot", "validate", "cluster")  # the snapshot for lineage: by it a champion's data are found
Params = params.ResampleParams

PARTS = ("train", "validation", "test")


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Write the ledger, and which images are used.

    Raises:
        DataError: a class has no image left to train on.
        ParamsError: min_per_class is more than max_per_class.
    """
    if params.min_per_class > params.max_per_class:
        raise ParamsError(
            f"min_per_class = {params.min_per_class} is more than max_per_class = {params.max_per_class}."
        )
    images = inputs.one("validate").table("images.parquet")
    images = with_photos(images, inputs.one("cluster").table("verdicts.parquet"), params.drop_photos)
    images["part"] = split(images, params.validation_share, params.test_share)
    images = sample(images, params)
    ledger = images[list(COLUMNS)]
    out.table("ledger.parquet", ledger)
    write_csv(ledger, out.path("ledger.csv"))

    counts = count(images)
    out.table("counts.parquet", counts)
    _check(images, counts)
    names = counts["class"].tolist()
    out.json("classes.json", names)
    if untested := counts.loc[(counts["validation"] == 0) | (counts["test"] == 0), "class"].tolist():
        out.log(f"resample: too few different images to validate or test: {', '.join(untested)}")

    used = used_table(images, names)
    out.table("used.parquet", used)
    totals = counts[["train", "train_drawn", "validation", "test"]].sum()
    out.metrics |= {
        "images": len(used),
        "classes": len(names),
        **{str(name): int(total) for name, total in totals.items()},
        "untested_classes": len(untested),
    }


def with_photos(images: pd.DataFrame, judged: pd.DataFrame, drop_photos: bool) -> pd.DataFrame:
    """The images with the clustering's verdicts: adds photo_probability and decided_by, updates verdict and reason.

    Raises:
        DataError: the clustering judged other images than those that were kept.
    """
    kept = images["verdict"] == "kept"
    if set(images.loc[kept, "key"]) != set(judged["key"]):
        raise DataError(
            "The artifacts of validate and cluster are not about the same images. Give resample the cluster artifact "
            "that was made from this validate artifact."
        )
    verdicts = judged.set_index("key").reindex(images["key"]).set_axis(images.index)
    photo = kept & (verdicts["verdict"] == "photo")
    words = verdicts["reasons"].fillna("").astype("str")
    unsure = verdicts["verdict"].map(lambda verdict: "unsure, " if verdict == "unsure" else "")
    rated = unsure + verdicts["photo_probability"].map("photo {:.2f}".format)
    rated += words.map(lambda text: text and f": {text}")
    plain = (verdicts["verdict"] == "illustration") & (verdicts["decided_by"] == "clustering")
    told = rated.mask(plain, "illustration").mask(verdicts["decided_by"] == "person", words)
    images = images.assign(
        photo_probability=verdicts["photo_probability"].astype(np.float32),
        decided_by=verdicts["decided_by"].astype("str").where(kept, "validation"),
        reason=images["reason"].mask(kept, told).astype("str"),
    )
    if drop_photos:
        images["verdict"] = images["verdict"].where(~photo, "photo")
    return images


def split(images: pd.DataFrame, validation_share: float, test_share: float) -> pd.Series:
    """The part of each image whose verdict is kept, "" for the others; the module's docstring tells how.

    Args:
        images: columns key, class, modified, sha256, duplicate_group, verdict.
    """
    readable = images[images["duplicate_group"] >= 0].sort_values(["modified", "key"])
    anchor = readable.groupby("duplicate_group")["sha256"].first()  # of all members: no later verdict moves it
    place = anchor.map(lambda digest: int(digest[:13], 16) / 16**13)
    part = pd.Series("train", place.index)
    part[place < test_share + validation_share] = "validation"
    part[place < test_share] = "test"

    kept = images[images["verdict"] == "kept"]
    memberships = kept[["class", "duplicate_group"]].drop_duplicates()
    alone = ~memberships.duplicated("duplicate_group", keep=False)
    by_class = {
        str(name): place[group["duplicate_group"]].sort_values(kind="stable").index
        for name, group in memberships.groupby("class")
    }
    own = set(memberships.loc[alone, "duplicate_group"])  # moving another's group could empty a part of its class
    for ordered in by_class.values():
        if len(ordered) < len(PARTS):
            part[ordered] = "train"
    for ordered in by_class.values():
        if len(ordered) >= len(PARTS):
            _fill_empty_parts(part, ordered.to_list(), own)
    parts = kept["duplicate_group"].map(part)
    return parts.reindex(images.index, fill_value="").astype("str")


def _fill_empty_parts(part: "pd.Series[str]", ordered: list[int], own: set[int]) -> None:
    """Move groups of a class, ordered by place, so that each part has one; `own` are those that no other class has."""
    for empty in PARTS:
        sizes = part[ordered].value_counts()
        if empty in sizes:
            continue
        for giver in sizes[sizes > 1].sort_index().sort_values(ascending=False, kind="stable").index:
            if movable := [group for group in ordered if part[group] == giver and group in own]:
                # The group next to the empty part's bucket: test lies below validation, and that below training.
                upwards = empty == "train" or (empty == "validation" and giver == "test")
                part[movable[-1] if upwards else movable[0]] = empty
                break


def sample(images: pd.DataFrame, params: Params) -> pd.DataFrame:
    """The images with `copies`; those that undersampling leaves out get their verdict and reason."""
    images = images.assign(copies=(images["part"] != "").astype(np.int32))
    for _, group in images[images["part"] == "train"].groupby("class"):
        drawn = group["key"].map(lambda key: hashlib.sha256(f"{params.seed}\0{key}".encode()).hexdigest())
        ordered, size = drawn.sort_values().index, len(group)
        copies = np.ones(size, np.int32)
        if size > params.max_per_class:
            copies[params.max_per_class :] = 0
            left = ordered[params.max_per_class :]
            images.loc[left, "verdict"] = "undersampled"
            images.loc[left, "decided_by"] = "sampling"
            images.loc[left, "reason"] = (
                f"not drawn: {params.max_per_class:,} of the class's {size:,} training images are"
            )
        elif size < params.min_per_class:
            every, extra = divmod(params.min_per_class, size)
            copies[:] = every
            copies[:extra] += 1
        images.loc[ordered, "copies"] = copies
    return images


def count(images: pd.DataFrame) -> pd.DataFrame:
    """Images of each class in the snapshot, kept, in each part, and drawn for training."""
    parts = {part: images["part"] == part for part in PARTS}
    flags = pd.DataFrame(
        {
            "class": images["class"],
            "snapshot": 1,
            "kept": images["part"] != "",
            "train": parts["train"],
            "train_drawn": images["copies"].where(parts["train"], 0),
            "validation": parts["validation"],
            "test": parts["test"],
        }
    )
    return flags.groupby("class", sort=True).sum().astype(np.int64).reset_index()


def used_table(images: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The images that are used, with their rows in the pack, and what it takes to read them again."""
    used = images[images["copies"] > 0].reset_index(drop=True)
    labels = used["class"].map({name: label for label, name in enumerate(names)})
    return pd.DataFrame(
        {
            "row": np.arange(len(used), dtype=np.int64),
            "key": used["key"],
            "class": used["class"],
            "label": labels.astype(np.int32),
            "part": used["part"],
            "copies": used["copies"].astype(np.int32),
            "duplicate_group": used["duplicate_group"],
            "modified": used["modified"],
            "version": used["version"],
            "sha256": used["sha256"],
            "width": used["width"],
            "height": used["height"],
        }
    )


def _check(images: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Raise where a class has nothing to train on, or there is only one."""
    if problems := counts.loc[counts["train"] == 0, "class"].tolist():
        verdicts = pd.crosstab(images["class"], images["verdict"])
        told = []
        for name in problems:
            present = [f"{number:,} {verdict}" for verdict, number in verdicts.loc[name].items() if number]
            told.append(f"{name!r} ({', '.join(present)})")
        raise DataError(
            f"No image is left to train on in {'; '.join(told)}. The ledger says why, image by image. Add images, "
            f"remove the class's folder, overrule verdicts in a review file, or set drop_photos to false."
        )
    if len(counts) < 2:
        raise DataError(f"There is one class only, {counts['class'].iloc[0]!r}. A classifier needs two or more.")
