"""Tell photographs from illustrations, class by class, by their colours and structure alone.

Reads the images that `validate` kept and the scan's features. First each class is judged as a whole, does it hold
photographs at all; a class that does not keeps every image, and those that look like photographs all the same are
unsure. Inside the others each image gets the probability of being a photograph (`vision/separation.py` tells how), and
the thresholds turn it into a verdict: photo, unsure (kept, and shown for review) or illustration. A review file, CSV
with columns key and verdict, overrules the verdicts: the one that the run names, or else review.csv beside the data
set's class folders, if it is there. A line counts for the picture, whichever of its exact copies it names. Writes

    verdicts.parquet  key, class, photo_probability, verdict (illustration, photo, unsure), cluster (number of the
                      group inside its class, 0 the least like photographs), reasons, decided_by (clustering, person)
    classes.parquet   class, images, photos, unsure, contaminated, photo_share, note
    sheets/<nn>-photo.jpg, -unsure.jpg, -borderline.jpg   of each class what is left out, what is unsure, and what is
                      nearest on either side: in a class without photographs the images most like one; sheets.json
                      says of each: class, kind, file, images, keys
    figures/scatter.svg   every image by score and main axis, and scatter.parquet behind it
    review.csv        the review file, where there is one
"""

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tasks.core import params
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.figures import COLOURS, contact_sheet, each_sheet, figure
from tasks.core.ledger import NO_REVIEW, read_review, read_review_file, review_uri
from tasks.thumbnails import thumbnails
from tasks.vision.separation import ClassFinding, Separation, separate

INPUTS = ("validate", "scan*")
Params = params.ClusterParams

ROWS = 8_192  # of the features that are read at a time
SHEET_IMAGES = 60
KEPT_IMAGES = 600  # on the sheets of all classes without photographs, so that a report of many stays a few MB
SWITCHED_OFF = "not judged: the separation is switched off"
NOT_LISTED = "kept: its class is not among those listed as contaminated"
COLOUR_OF = {"illustration": COLOURS[0], "photo": COLOURS[1], "unsure": COLOURS[2]}


def observe(inputs: Inputs, params: Params, out: Output) -> tuple[dict[str, str] | None, tuple[bytes, dict[str, str]]]:
    """The review file and the verdicts in it; its digest goes into the artifact's key.

    Raises:
        ParamsError: there is no such file, or it can't be opened.
        DataError: it is not a review file.
    """
    dataset = _dataset(inputs)
    data = read_review_file(params.review, dataset)
    if data is None and params.review not in ("", NO_REVIEW):
        raise ParamsError(f"review = {params.review!r} can't be read: there is no such file.")
    if data is None:
        return None, (b"", {})
    verdicts = read_review(data, review_uri(params.review, dataset))
    return {"review": hashlib.sha256(data).hexdigest()}, (data, verdicts)


def _dataset(inputs: Inputs) -> str:
    """The address of the data set that was scanned."""
    scan = inputs.many("scan")[0]
    snapshot = Artifact.find(scan.store, "snapshot", str(scan.inputs["snapshot"]))
    if snapshot is None:
        raise NotFound(f"The snapshot that {scan.uri} was made from is gone. Run again: it is made anew.")
    return str(snapshot.json("snapshot.json")["dataset"])


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Give every kept image its verdict.

    Raises:
        DataError: the scan lacks features of an image that was kept, or the review file gives copies of one picture
            different verdicts.
    """
    validated = inputs.one("validate").table("images.parquet", ["key", "class", "verdict", "exact_group"])
    images = validated.loc[validated["verdict"] == "kept", ["key", "class"]].sort_values("key", ignore_index=True)
    scans = inputs.many("scan")
    found = _separated(images, scans) if params.separate else _switched_off(images)
    if params.contaminated:
        keep_the_others(images, found, params.contaminated, out)
    verdicts = decide(images, found, params)
    review_file, review = out.observed
    if review:
        overrule(verdicts, review, carried(review, validated, review_uri(params.review, _dataset(inputs))), out)
    if review_file:
        out.path("review.csv").write_bytes(review_file)
    classes = summarise(verdicts, found.classes)

    out.table("verdicts.parquet", verdicts)
    out.table("classes.parquet", classes)
    _write_sheets(verdicts, classes, found, scans, params, out)
    _draw_scatter(verdicts, found, out)
    out.metrics |= {
        "images": len(verdicts),
        "photos": int(classes["photos"].sum()),
        "unsure": int(classes["unsure"].sum()),
        "contaminated_classes": int(classes["contaminated"].sum()),
    }
    for row in classes.loc[classes["contaminated"]].itertuples():
        out.log(f"{row[1]}: {row.photos:,} photographs and {row.unsure:,} unsure among {row.images:,} images")


def _separated(images: pd.DataFrame, scans: list[Artifact]) -> Separation:
    keys, names, given = pd.Index(images["key"]), list[str](), np.zeros(len(images), bool)
    features = np.empty((len(images), 0), np.float32)
    for scan in scans:
        file = pq.ParquetFile(scan.path("features.parquet"), pre_buffer=False)
        if not names:
            names = [name for name in file.schema_arrow.names if name != "key"]
            features = np.empty((len(images), len(names)), np.float32)
        for batch in file.iter_batches(ROWS):  # into one table, which may be large
            part = batch.to_pandas().set_index("key")
            places = keys.get_indexer(part.index)
            wanted = places >= 0
            features[places[wanted]] = part.loc[wanted, names].to_numpy(np.float32)
            given[places[wanted]] = True
    if not given.all():
        raise DataError(
            f"The scan has no features of {int((~given).sum()):,} kept images, such as {keys[~given][0]!r}. "
            f"validate and scan do not belong together: run both again."
        )
    return separate(features, names, images["class"].tolist())


def _switched_off(images: pd.DataFrame) -> Separation:
    nothing = ClassFinding(False, SWITCHED_OFF)
    return Separation(
        probability=np.zeros(len(images)),
        score=np.zeros(len(images)),
        group=np.zeros(len(images), np.int32),
        axis=np.zeros(len(images)),
        reasons=[SWITCHED_OFF] * len(images),
        classes=dict.fromkeys(sorted(images["class"].unique()), nothing),
    )


def keep_the_others(images: pd.DataFrame, found: Separation, contaminated: list[str], out: Output) -> None:
    """Let every class that isn't listed keep all its images, in place; say which listed classes there aren't."""
    for name in sorted(set(found.classes) - set(contaminated)):
        rows = (images["class"] == name).to_numpy()
        found.probability[rows] = 0
        found.classes[name] = ClassFinding(False, NOT_LISTED)
        for row in rows.nonzero()[0]:
            found.reasons[row] = NOT_LISTED
    if strangers := sorted(set(contaminated) - set(found.classes)):
        out.log(f"contaminated lists classes that aren't in the data set: {', '.join(map(repr, strangers))}")


def decide(images: pd.DataFrame, found: Separation, params: Params) -> pd.DataFrame:
    """The table of verdicts, from the probabilities and the two thresholds."""
    probability = found.probability.astype(np.float32)
    photo = probability >= np.float32(params.photo_threshold)
    # Doubts of a refused class have no probability of their own; people see them whatever the thresholds.
    refused = ~images["class"].map(lambda name: found.classes[name].contaminated).to_numpy(bool)
    unsure = ~photo & ((probability >= np.float32(params.unsure_threshold)) | (refused & (probability > 0)))
    return images.assign(
        photo_probability=probability,
        verdict=np.select([photo, unsure], ["photo", "unsure"], "illustration"),
        cluster=found.group,
        reasons=found.reasons,
        decided_by="clustering",
    )


def carried(review: dict[str, str], images: pd.DataFrame, where: str) -> dict[str, str]:
    """Of each key of the review file that is a picture in use: the key of the copy that was kept.

    A verdict is about a picture, and which of its exact copies is kept may change with the next copy that comes.

    Args:
        images: all images that were validated; columns key, verdict, exact_group.
        where: the review file's name, for messages.

    Raises:
        DataError: copies of one picture have different verdicts.
    """
    readable = images.loc[images["exact_group"] >= 0]
    kept = readable.loc[readable["verdict"] == "kept"].set_index("exact_group")["key"]
    group = readable.set_index("key")["exact_group"].reindex(list(review)).dropna()
    found = {str(key): str(copy) for key, copy in group.map(kept).dropna().items()}
    named: dict[str, str] = {}
    for key, copy in found.items():
        other = named.setdefault(copy, key)
        if review[key] != review[other]:
            raise DataError(
                f"The review file {where} gives one picture two verdicts: {other!r} is {review[other]}, and {key!r}, "
                f"the same bytes, is {review[key]}; leave one."
            )
    return found


def overrule(verdicts: pd.DataFrame, review: dict[str, str], carried: dict[str, str], out: Output) -> None:
    """Let a person's verdicts replace the clustering's, in place; count those that meet no image."""
    named = {copy: key for key, copy in carried.items()} | {key: key for key, copy in carried.items() if key == copy}
    line = verdicts["key"].map(named).dropna().astype("str")  # of an empty one pandas makes numbers
    reviewed = line.index
    says = "the review file says so" + (" of its copy " + line).where(line != verdicts.loc[reviewed, "key"], "")
    before = verdicts.loc[reviewed, "verdict"] + ": " + verdicts.loc[reviewed, "reasons"]
    verdicts.loc[reviewed, "verdict"] = line.map(review)
    verdicts.loc[reviewed, "reasons"] = says + "; clustering said " + before
    verdicts.loc[reviewed, "decided_by"] = "person"
    strangers = sorted(set(review) - set(carried))
    out.metrics |= {"reviewed": len(reviewed), "reviewed_without_image": len(strangers)}
    if strangers:
        shown = ", ".join(map(repr, strangers[:3])) + (", …" if len(strangers) > 3 else "")
        out.log(f"{len(strangers):,} keys of the review file are not among the images in use: {shown}")


def summarise(verdicts: pd.DataFrame, findings: dict[str, ClassFinding]) -> pd.DataFrame:
    """One row for each class: how many photographs it holds, and why it was or wasn't held for contaminated."""
    counts = pd.DataFrame(
        {
            "class": verdicts["class"],
            "photos": verdicts["verdict"] == "photo",
            "unsure": verdicts["verdict"] == "unsure",
        }
    )
    table = counts.groupby("class", sort=True).agg(
        images=("photos", "size"), photos=("photos", "sum"), unsure=("unsure", "sum")
    )
    table = table.reset_index()
    found = table["class"].map(findings)
    table["contaminated"] = found.map(lambda finding: finding.contaminated).astype(bool) | (table["photos"] > 0)
    table["photo_share"] = table["photos"] / table["images"]
    table["note"] = [finding.note for finding in found]
    return table


def _write_sheets(
    verdicts: pd.DataFrame,
    classes: pd.DataFrame,
    found: Separation,
    scans: list[Artifact],
    params: Params,
    out: Output,
) -> None:
    chosen: list[tuple[str, str, str, list[str]]] = []  # class, kind, file, keys
    clean = ~classes["contaminated"]
    few = each_sheet(int(clean.sum()), SHEET_IMAGES // 2, KEPT_IMAGES)
    ordered = verdicts.assign(score=found.score).sort_values(["photo_probability", "score", "key"], kind="stable")
    for number, (name, members) in enumerate(ordered.groupby("class", sort=True)):
        border = _borderline(members, few if clean.iloc[number] else SHEET_IMAGES // 2) if params.separate else []
        photo, unsure = (members.loc[members["verdict"] == kind, "key"].tolist() for kind in ("photo", "unsure"))
        chosen += [
            (str(name), kind, f"sheets/{number:02}-{kind}.jpg", keys)
            for kind, keys in (
                ("photo", _spread(photo, SHEET_IMAGES)),
                ("unsure", _spread(unsure, SHEET_IMAGES)),
                ("borderline", border),
            )
            if keys
        ]
    pictures = thumbnails(scans, {key for *_, keys in chosen for key in keys})
    sheets: list[dict[str, Any]] = []
    for name, kind, file, keys in chosen:
        contact_sheet([pictures[key] for key in keys], out.path(file))
        sheets.append({"class": name, "kind": kind, "file": file, "images": len(keys), "keys": keys})
    out.json("sheets.json", sheets)


def _spread(keys: list[str], most: int) -> list[str]:
    """At most `most` keys, evenly from the first to the last."""
    if len(keys) <= most:
        return keys
    return [keys[place] for place in np.linspace(0, len(keys) - 1, most).round().astype(int)]


def _borderline(members: pd.DataFrame, half: int) -> list[str]:
    """Keys of the illustrations most like photographs and of the photographs least sure; `members` is sorted so.

    What a person has decided is no longer in question.
    """
    undecided = members.loc[members["decided_by"] != "person"]
    kept, photos = (undecided.loc[undecided["verdict"] == kind, "key"].tolist() for kind in ("illustration", "photo"))
    return kept[-half:] + photos[:half]


def _draw_scatter(verdicts: pd.DataFrame, found: Separation, out: Output) -> None:
    points = verdicts[["key", "class", "cluster", "verdict"]].assign(
        score=found.score.astype(np.float32), axis=found.axis.astype(np.float32)
    )
    out.table("figures/scatter.parquet", points)
    with figure(out.path("figures/scatter.svg"), 8, 5) as axes:
        for verdict, colour in COLOUR_OF.items():
            some = points.loc[points["verdict"] == verdict]
            # As vectors, ten thousand dots would be megabytes in the report.
            axes.scatter(
                some["score"], some["axis"], s=7, c=colour, alpha=0.55, linewidths=0, rasterized=True,
                label=f"{verdict} ({len(some):,})",
            )  # fmt: skip
        axes.set_xlabel("score: illustrations left, photographs right")
        axes.set_ylabel("main difference besides the score")
        axes.legend(markerscale=2)
