import json
import re
from typing import Any

import pandas as pd
import pytest

from tasks import contract
from tasks.core.errors import ParamsError
from tasks.validate import BUILT_IN

ENTRY = {
    "meaning": "Widths are sensible.",
    "severity": "error",
    "table": "images",
    "expectation": "ExpectColumnValuesToBeBetween",
    "kwargs": {"column": "width", "min_value": 32},
}
TABLES = {
    "images": pd.DataFrame({"key": ["a/1.jpg", "a/2.jpg", "b/1.jpg"], "width": [300.0, 8.0, None]}),
    "classes": pd.DataFrame({"class": ["a", "b"], "usable": [2, 1]}),
    "dataset": pd.DataFrame({"imbalance": [1234.5]}),
}


def suite(*entries: dict[str, Any]) -> list[contract.Expectation]:
    return contract.parse_suite(json.dumps({"expectations": entries}).encode(), "mine.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expectations: [", r"mine\.yaml are not YAML.*line 1"),
        ("\xff".encode("latin-1"), r"mine\.yaml are not YAML"),
        ("", "has no list of expectations"),
        ("- 1", "has no list of expectations"),
        ("expectations: []", "has no list of expectations"),
        ("expectations: [5]", r"Expectation 1 in mine\.yaml can't be used"),
        (json.dumps({"expectations": [ENTRY, {**ENTRY, "severity": "fatal"}]}), "Expectation 2 .*severity"),
        (json.dumps({"expectations": [{**ENTRY, "table": "pictures"}]}), "table: .*'images', 'classes' or 'dataset'"),
        (json.dumps({"expectations": [{**ENTRY, "mostly": 0.5}]}), "mostly: Extra inputs"),
        (json.dumps({"expectations": [{k: v for k, v in ENTRY.items() if k != "meaning"}]}), "meaning: Field required"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(text: str | bytes, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        contract.parse_suite(text if isinstance(text, bytes) else text.encode(), "mine.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"expectation": "ExpectColumnValuesToBeBetwixt"},
            "has no 'ExpectColumnValuesToBeBetwixt'. Like it: .*Between",
        ),
        ({"expectation": "Expectation"}, "has no 'Expectation'"),
        ({"kwargs": {"column": "widht"}}, "no column 'widht'. It has: key, width"),
        ({"kwargs": {"column": "width", "minimum": 3}}, "takes no minimum"),
        ({"kwargs": {"column": "width", "min_value": [3]}}, "can't be used: .*min_value"),
        ({"kwargs": {"min_value": 3}}, "can't be used: .*column"),
        ({"kwargs": {"column": ["width"]}}, r"no column \['width'\]. It has: key, width"),
        (
            {"kwargs": {"column": "width", "min_value": {"$PARAMETER": "least"}}},
            r"min_value = \$PARAMETER: .*the value",
        ),
        ({"kwargs": {"column": "width", "mostly": "most"}}, "can't be used: .*mostly"),
        (
            {"expectation": "ExpectColumnValuesToMatchRegex", "kwargs": {"column": "key", "regex": "("}},
            "can't be checked: .*regular expression",
        ),
    ],
)
def test_an_expectation_that_cannot_be_checked_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=rf"(?s)Expectation 2 in mine\.yaml.*{said}"):
        contract.check(suite(ENTRY, ENTRY | change), TABLES, "mine.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "ExpectColumnDistinctValuesToEqualSet, kwargs: {column: class, value_set: [0, 1, a]}",
            r"\(ExpectColumnDistinctValuesToEqualSet of classes\.class\): the column 'class' holds text, but value_set "
            r"has .*: 0 is a number, write '0'; 1 is a number, write '1'\.",
        ),
        (
            "ExpectColumnValuesToBeInSet, kwargs: {column: class, value_set: [no, on, ~, 2026-01-04]}",
            "False is a truth value, write 'no' or 'off' or 'false'; True is .*'yes' or 'on' .*; None is nothing.*; "
            "2026-01-04 is a date, write '2026-01-04'",
        ),
        ("ExpectColumnValuesToNotBeInSet, kwargs: {column: class, value_set: [0, 1, 2, 3, 4, 5, 6]}", "; and 2 more"),
        (
            "ExpectColumnPairValuesToBeInSet, kwargs: {column_A: usable, column_B: class, value_pairs_set: [[1, 2]]}",
            "the column 'class' .* value_pairs_set has .*: 2 is a number, write '2'",
        ),
    ],
)
def test_a_value_that_yaml_takes_for_no_text_is_named(change: str, said: str) -> None:
    text = f"expectations: [{{meaning: Known classes., severity: error, table: classes, expectation: {change}}}]"
    entries = contract.parse_suite(text.encode(), "mine.yaml")
    with pytest.raises(ParamsError, match=rf"Expectation 1 in mine\.yaml.*{said}"):
        contract.check(entries, TABLES, "mine.yaml")


def test_a_column_of_numbers_takes_numbers() -> None:
    entry = ENTRY | {"expectation": "ExpectColumnValuesToBeInSet", "kwargs": {"column": "width", "value_set": [8, 300]}}
    (result,) = contract.check(suite(entry), TABLES, "mine.yaml")
    assert result["success"]


@pytest.mark.parametrize(
    ("change", "success", "observed", "allowed"),
    [
        ({}, False, "1 of 3 images (a/2.jpg: 8)", "at least 32"),
        ({"kwargs": {"column": "width", "min_value": 8, "max_value": 3000}}, True, "8 to 300", "8 to 3,000"),
        (
            {"kwargs": {"column": "width", "min_value": 32, "mostly": 0.5}},
            True, "1 of 3 images (a/2.jpg: 8)", "at least 32, for at least 0.5 of the images",
        ),
        (
            {"kwargs": {"column": "width", "min_value": 32, "mostly": "0.5"}},
            True, "1 of 3 images (a/2.jpg: 8)", "at least 32, for at least 0.5 of the images",
        ),
        (
            {"expectation": "ExpectColumnQuantileValuesToBeBetween",
             "kwargs": {"column": "width", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[8, 300]]}}},
            True, "{'quantiles': [0.5], 'values': [8.0]}",
            "quantile ranges {'quantiles': [0.5], 'value_ranges': [[8, 300]]}",
        ),
        (
            {"table": "classes", "kwargs": {"column": "usable", "min_value": 2}},
            False, "1 of 2 classes (b: 1)", "at least 2",
        ),
        (
            {"table": "classes", "expectation": "ExpectColumnValuesToBeInSet",
             "kwargs": {"column": "class", "value_set": ["a", "c"]}},
            False, "1 of 2 classes (b)", "a, c",
        ),
        ({"table": "dataset", "kwargs": {"column": "imbalance", "max_value": 50}}, False, "1,234.5", "at most 50"),
        (
            {"expectation": "ExpectTableRowCountToBeBetween", "kwargs": {"min_value": 3}},
            True, "3", "at least 3",
        ),
        (
            {"expectation": "ExpectColumnValuesToBeUnique", "kwargs": {"column": "key"}},
            True, "all 3 images", "ExpectColumnValuesToBeUnique",
        ),
        (
            {"expectation": "ExpectColumnDistinctValuesToBeInSet",
             "kwargs": {"column": "key", "value_set": ["a/2.jpg"]}},
            False, "unexpected a/1.jpg, b/1.jpg", "a/2.jpg",
        ),
        (
            {"expectation": "ExpectColumnDistinctValuesToContainSet",
             "kwargs": {"column": "key", "value_set": ["a/1.jpg", *map(str, range(30))]}},
            False, "missing 0, 1, 2, 3, 4 and 25 more", ", ".join(["a/1.jpg", *map(str, range(30))]),
        ),
        (
            {"table": "classes", "expectation": "ExpectColumnDistinctValuesToEqualSet",
             "kwargs": {"column": "class", "value_set": ["b", "a"]}},
            True, "all 2 classes", "b, a",
        ),
    ],
)  # fmt: skip
def test_a_finding_says_what_was_seen_and_what_is_allowed(
    change: dict[str, Any], success: bool, observed: str, allowed: str
) -> None:
    (entry,) = suite(ENTRY | change)
    (result,) = contract.check([entry], TABLES, "mine.yaml")
    found = contract.finding(entry, result, TABLES)
    assert (found["success"], found["observed"], found["allowed"]) == (success, observed, allowed)
    assert found["message"].startswith("Widths are sensible.")
    assert ("Seen:" in found["message"]) != success


def test_the_commented_example_names_the_classes_that_are_not_as_expected(caplog: pytest.LogCaptureFixture) -> None:
    commented = re.findall(r"^  # (.*)", BUILT_IN.read_text(), re.MULTILINE)[1:]
    entries = contract.parse_suite("\n".join(["expectations:", *commented]).encode(), BUILT_IN.name)
    tables = TABLES | {"classes": pd.DataFrame({"class": ["<i>", "L2_3"]})}
    results = contract.check(entries, tables, BUILT_IN.name)
    found = contract.finding(entries[0], results[0], tables)
    assert found["message"] == (
        "Only the known classes are there. Seen: unexpected <i>; missing L2_10. Allowed: L2_3, L2_10."
    )
    page = contract.data_docs(entries, results, [found])
    assert page.count("unexpected &lt;i&gt;; missing L2_10") == 2, "in the summary, and in what is drawn"
    assert not caplog.records, "it could be drawn"


def test_every_entry_of_the_built_in_file_has_its_columns_and_a_meaning() -> None:
    entries = contract.parse_suite(BUILT_IN.read_bytes(), BUILT_IN.name)
    assert {entry.severity for entry in entries} == {"error", "warning"}
    assert all(entry.meaning.endswith(".") for entry in entries)
