from pathlib import Path

import pandas as pd
import pytest

from tasks.core.errors import DataError
from tasks.core.ledger import read_review, write_csv


def test_no_cell_is_run_as_a_formula_and_the_review_reads_it_back(tmp_path: Path) -> None:
    keys = ["=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@x.png", "plain/그림.png"]
    write_csv(pd.DataFrame({"key": keys, "verdict": "photo"}), tmp_path / "ledger.csv")

    text = (tmp_path / "ledger.csv").read_text(encoding="utf-8-sig")
    assert [line[0] for line in text.splitlines()[1:]] == ["'", "'", "'", "'", "p"]
    assert list(read_review((tmp_path / "ledger.csv").read_bytes(), "ledger.csv")) == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,verdict\na,photo\n", "no column key"),
        ("key,verdict\na,painting\n", "says 'painting' of 'a'; allowed: illustration, photo"),
        ("key,verdict\na,photo\na,illustration\n", "gives 'a' two verdicts"),
        ("", "not a CSV file"),
    ],
)
def test_a_review_that_can_not_be_used_is_explained(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_review(text.encode(), "review.csv")


def test_a_review_that_is_not_text() -> None:
    with pytest.raises(DataError, match=r"review.csv is not a CSV file in UTF-8"):
        read_review(b"\xff\xfe\x00\x89PNG", "review.csv")


def test_cells_beyond_the_header_are_left_aside() -> None:
    assert read_review(b"key,verdict\na.png,photo,\nb.png,illustration,why\n", "review.csv") == {
        "a.png": "photo",
        "b.png": "illustration",
    }


def test_a_repeated_line_is_one_verdict() -> None:
    assert read_review(b"key,verdict\na,Photo\na,photo \n", "review.csv") == {"a": "photo"}
