"""The ledger: one line for each image of the snapshot, with its verdict and the reason, for a person to read.

Nothing is dropped silently: an image that isn't used stands here with the reason, and a review file (CSV with the
columns key and verdict, and who, when and note if they are known) overrules what the machine decided.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import DataError, NotFound
from tasks.core.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

#: Every verdict, with what it means for the image.
VERDICTS = {
    "kept": "used for training, validation or test",
    "undersampled": "its class has more than max_per_class images; not drawn this time",
    "photo": "a photograph among illustrations; left out",
    "duplicate": "the same bytes as another image of its class; left out",
    "conflict": "the same bytes as an image of another class; left out, since one of the two labels is wrong",
    "quarantined": "could not be read; left out",
}

COLUMNS = (
    "key", "class", "verdict", "reason", "decided_by", "part", "copies",
    "photo_probability", "duplicate_group", "sha256",
)  # fmt: skip

#: What a person may write into a review file.
REVIEW_VERDICTS = ("illustration", "photo")


#: What write_csv put before a text that a spreadsheet would run as a formula.
LED = re.compile(r"^'(?=[=+\-@\t\r])")


@dataclass(frozen=True)
class Overruling:
    """A person's verdict on an image: a line of a review file.

    Attributes:
        key: the image.
        verdict: one of REVIEW_VERDICTS.
        who: name of the person, or empty.
        when: UTC, ISO 8601, or empty.
        note: why, in the person's words, or empty.
    """

    key: str
    verdict: str
    who: str = ""
    when: str = ""
    note: str = ""


def csv_safe(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame with each text that a spreadsheet would run as a formula led by an apostrophe (OWASP)."""
    safe = frame.copy()
    for column in safe.select_dtypes(include=["object", "string"]):
        texts = safe[column].astype("string")
        safe[column] = texts.where(~texts.str.match(r"[=+\-@\t\r]", na=False), "'" + texts)
    return safe


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a frame as CSV in UTF-8 (with the mark by which spreadsheets know it), safe to open in a spreadsheet."""
    csv_safe(frame).to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\n")


#: The param `review` of a run that is to use no review file, though one may be beside the data set.
NO_REVIEW = "none"


def review_uri(review: str, dataset: str) -> str:
    """Where a run's review file is: where its param `review` says, or else review.csv at the data set's root."""
    return f"{dataset.rstrip('/')}/review.csv" if review in ("", NO_REVIEW) else review


def review_store(uri: str) -> tuple[Store, str]:
    """The store of a review file, and its key there."""
    folder, slash, name = uri.rpartition("/")
    return open_store(folder or slash or "."), name


def read_review_file(review: str, dataset: str) -> bytes | None:
    """The bytes of a run's review file; None where there is none. Arguments as of `review_uri`."""
    if review == NO_REVIEW:
        return None
    store, name = review_store(review_uri(review, dataset))
    try:
        return store.get(name)
    except NotFound:
        return None


def load_review(uri: str) -> tuple[dict[str, Overruling], str | None]:
    """What people decided, by key, and the tag that `save_review` wants; ({}, None) where there is no file yet.

    Raises:
        DataError: it is not a review file.
        StoreError: it can't be read.
    """
    store, name = review_store(uri)
    try:
        data, etag = store.get_with_etag(name)
    except NotFound:
        return {}, None
    return read_overrulings(data, uri), etag


def save_review(uri: str, overrulings: Mapping[str, Overruling], etag: str | None) -> bool:
    """Write a review file if nobody changed it since `etag` was read; whether it was written."""
    store, name = review_store(uri)
    return store.replace(name, review_csv(overrulings), etag)


def review_csv(overrulings: Mapping[str, Overruling]) -> bytes:
    """The review file with these lines, sorted by key, safe to open in a spreadsheet."""
    import pandas as pd

    columns = [field.name for field in fields(Overruling)]
    lines = [asdict(overrulings[key]) for key in sorted(overrulings)]
    frame = csv_safe(pd.DataFrame(lines, columns=columns, dtype="string"))
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8-sig")


def read_review(data: bytes, where: str) -> dict[str, str]:
    """The verdicts in a review file, by key. As `read_overrulings`."""
    return {key: line.verdict for key, line in read_overrulings(data, where).items()}


def read_overrulings(data: bytes, where: str) -> dict[str, Overruling]:
    """The lines of a review file, by key.

    Args:
        data: the CSV file.
        where: its name, for messages.

    Raises:
        DataError: not a CSV with the columns key and verdict, an unknown verdict, or a key with two verdicts.
    """
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # cells beyond the header's, left by a spreadsheet
            review = pd.read_csv(
                BytesIO(data), dtype="string", keep_default_na=False, encoding="utf-8-sig", index_col=False
            )
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"The review file {where} is not a CSV file in UTF-8: {error}") from None
    if missing := {"key", "verdict"} - set(review.columns):
        raise DataError(
            f"The review file {where} has no column {', '.join(sorted(missing))}; it needs key and verdict."
        )
    columns = [field.name for field in fields(Overruling)]
    review = review.reindex(columns=columns, fill_value="").fillna("")
    # write_csv led such a text by an apostrophe; a file that a person edited from the ledger brings it back.
    review = review.apply(lambda column: column.str.replace(LED, "", regex=True))
    review["verdict"] = review["verdict"].str.strip().str.lower()
    unknown = review.loc[~review["verdict"].isin(REVIEW_VERDICTS)]
    if len(unknown):
        row = unknown.iloc[0]
        raise DataError(
            f"The review file {where} says {row['verdict']!r} of {row['key']!r}; allowed: {', '.join(REVIEW_VERDICTS)}."
        )
    review = review.drop_duplicates(["key", "verdict"], keep="last")
    twice = review.loc[review["key"].duplicated(), "key"]
    if len(twice):
        raise DataError(f"The review file {where} gives {twice.iloc[0]!r} two verdicts; leave one.")
    return {line["key"]: Overruling(**line) for line in review.to_dict("records")}
