"""The README's tables name every param and every setting."""

import re
from pathlib import Path

from tasks.core.params import Params
from tasks.core.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text()


def first_column(head: str) -> set[str]:
    """The words in code quotes in the first column of the table with this head."""
    table = README[README.index(head) :].split("\n\n")[0]
    return {word for line in table.splitlines()[2:] for word in re.findall("`(.+?)`", line.split("|")[1])}


def test_every_param_is_in_its_table() -> None:
    assert first_column("| param | default |") == set(Params.model_fields)


def test_every_setting_is_in_its_table() -> None:
    assert first_column("| setting | default |") == {f"GESSO_{name.upper()}" for name in Settings.model_fields}
