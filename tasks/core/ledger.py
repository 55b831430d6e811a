"""The ledger: one line for each image of the snapshot, with its verdict and the reason, for a person to read.

Nothing is dropped silently: an image that isn't used stands here with the reason, and a review file (CSV with the
columns key and verdict) overrules what the machine decided.
"""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import DataError

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


def read_review(data: bytes, where: str) -> dict[str, str]:
    """The verdicts that people gave, by key.

    Args:
        data: the CSV file.
        where: its name, for messages.

    Raises:
        DataError: not a CSV with the columns key and verdict, an unknown verdict, or a key with two verdicts.
    """
    import pandas as pd

    try:
        review = pd.read_csv(BytesIO(data), dtype="string", keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"The review file {where} is not a CSV file in UTF-8: {error}") from None
    if missing := {"key", "verdict"} - set(review.columns):
        raise DataError(
            f"The review file {where} has no column {', '.join(sorted(missing))}; it needs key and verdict."
        )
    # write_csv led such a key by an apostrophe; a file that a person edited from the ledger brings it back.
    review["key"] = review["key"].str.replace(r"^'(?=[=+\-@\t\r])", "", regex=True)
    review["verdict"] = review["verdict"].str.strip().str.lower()
    unknown = review.loc[~review["verdict"].isin(REVIEW_VERDICTS)]
    if len(unknown):
        row = unknown.iloc[0]
        raise DataError(
            f"The review file {where} says {row['verdict']!r} of {row['key']!r}; allowed: {', '.join(REVIEW_VERDICTS)}."
        )
    review = review.drop_duplicates()
    twice = review.loc[review["key"].duplicated(), "key"]
    if len(twice):
        raise DataError(f"The review file {where} gives {twice.iloc[0]!r} two verdicts; leave one.")
    return dict(zip(review["key"], review["verdict"], strict=True))
