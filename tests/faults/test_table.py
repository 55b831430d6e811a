"""The table in docs/reliability.md names tests that are there."""

import re

from tests.conftest import ROOT

TABLE = [line for line in (ROOT / "docs" / "reliability.md").read_text().splitlines() if line.startswith("| ")][1:]


def test_every_row_names_its_tests() -> None:
    assert len(TABLE) > 15
    for row in TABLE:
        named = re.findall(r"`(tests/[\w/]+\.py|…)(?:::(\w+))?", row.split("|")[3])
        assert named, row
        file = ""
        for path, test in named:
            file = file if path == "…" else (ROOT / path).read_text()
            assert f"def {test}(" in file or not test, f"{path}::{test}"
