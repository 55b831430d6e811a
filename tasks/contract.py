"""The data's contract: expectations in a file that a person can edit, checked by Great Expectations.

    suite = parse_suite(data, "images.yaml")
    results = check(suite, {"images": …, "classes": …, "dataset": …})
    findings = [finding(entry, result, tables) for entry, result in zip(suite, results)]

What is kept of the results holds no time and no random id: the same data gives the same bytes.
"""

import difflib
import html
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.errors import ParamsError

Tables = Mapping[str, pd.DataFrame]
Result = dict[str, Any]

#: The tables that expectations are about, with the column that names a row in messages.
ROWS = {"images": "key", "classes": "class", "dataset": None}

PAGE = Path(__file__).parent / "templates" / "data_docs.html"

EXAMPLES = 5  # rows named in a message

#: What a person may have written where YAML read one of these.
WRITTEN = {True: ("yes", "on", "true"), False: ("no", "off", "false"), None: ("null", "~")}


class Expectation(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    meaning: str = Field(min_length=1)
    severity: Literal["error", "warning"]
    table: Literal["images", "classes", "dataset"]
    expectation: str
    kwargs: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """What it is called in findings and messages."""
        column = self.kwargs.get("column")
        return f"{self.expectation} of {self.table}.{column}" if column else f"{self.expectation} of {self.table}"

    @property
    def allowed(self) -> str:
        """What it allows, in words."""
        rest = dict(self.kwargs)
        low, high, mostly = rest.pop("min_value", None), rest.pop("max_value", None), rest.pop("mostly", None)
        rest.pop("column", None)
        words = []
        if low is not None and high is not None:
            words.append(f"{_shown(low)} to {_shown(high)}")
        elif low is not None:
            words.append(f"at least {_shown(low)}")
        elif high is not None:
            words.append(f"at most {_shown(high)}")
        if "value_set" in rest:
            words.append(", ".join(map(_shown, rest.pop("value_set"))))
        words += [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in rest.items()]
        words += [f"for at least {float(mostly):.4g} of the {self.table}"] if mostly is not None else []
        return ", ".join(words) or self.expectation


def parse_suite(data: bytes, where: str) -> list[Expectation]:
    """The expectations in a YAML file.

    Args:
        where: the file's name, for messages.

    Raises:
        ParamsError: not YAML, no list of expectations, or an entry that lacks something; names the entry.
    """
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"The expectations in {where} are not YAML: {' '.join(str(error).split())}") from None
    entries = content.get("expectations") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ParamsError(f"{where} has no list of expectations. It must begin with a line 'expectations:'.")
    suite = []
    for number, entry in enumerate(entries, start=1):
        try:
            suite.append(Expectation.model_validate(entry))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the entry'}: {e['msg']}" for e in error.errors())
            raise ParamsError(f"Expectation {number} in {where} can't be used. {wrong}.") from None
    return suite


def check(suite: Sequence[Expectation], tables: Tables, where: str) -> list[Result]:
    """Great Expectations' result for each expectation, as plain JSON values, in the suite's order.

    Raises:
        ParamsError: an expectation that Great Expectations doesn't know, or can't apply to its table; or a value
            that YAML read as a number, say, where the column holds text.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported: no telemetry
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library about itself: nothing a person here can act on
        import great_expectations

        return _checked(suite, tables, where, great_expectations)


def _checked(suite: Sequence[Expectation], tables: Tables, where: str, gx: Any) -> list[Result]:
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    # Without a docs site of its own, for which it would leave a temporary folder behind.
    in_memory = DataContextConfig(store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False))
    context = gx.get_context(project_config=in_memory, mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    results: dict[int, Result] = {}
    for table, frame in tables.items():
        chosen = {number: entry for number, entry in enumerate(suite) if entry.table == table}
        for number, entry in chosen.items():
            _check_columns(entry, number, frame, where)
        asset = context.data_sources.add_pandas(table).add_dataframe_asset(table)
        batch = asset.add_batch_definition_whole_dataframe(table).get_batch({"dataframe": frame})
        checks = [_build(entry, number, gx.expectations, where) for number, entry in chosen.items()]
        for number, entry in chosen.items():
            _check_texts(entry, number, frame, where)
        names_row = {"unexpected_index_column_names": [row]} if (row := ROWS[table]) else {}
        found = batch.validate(
            gx.ExpectationSuite(name=table, expectations=checks),
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES, **names_row},
        )
        plain = json.dumps(found.to_json_dict()["results"], default=lambda value: value.item())  # NumPy's scalars
        for result in json.loads(plain):
            results[result["expectation_config"]["meta"]["entry"]] = result
    for number, entry in enumerate(suite):
        if problem := _exception(results[number]):
            raise ParamsError(f"{_which(entry, number, where)} can't be checked: {problem}")
        kwargs, result = results[number]["expectation_config"]["kwargs"], results[number]["result"]
        kwargs.pop("batch_id", None)
        if result.get("partial_missing_list"):  # 20 of a set, in another order in each process
            there = set(tables[entry.table][entry.kwargs["column"]])
            wanted = zip(kwargs["value_set"], entry.kwargs["value_set"], strict=True)
            result["partial_missing_list"] = [text for text, value in wanted if value not in there]
    return [results[number] for number in range(len(suite))]


def finding(entry: Expectation, result: Result, tables: Tables) -> dict[str, Any]:
    """What a person wants to know of a result: expectation, severity, success, observed, allowed, message."""
    observed = _observed(entry, result["result"], tables[entry.table])
    message = entry.meaning if result["success"] else f"{entry.meaning} Seen: {observed}. Allowed: {entry.allowed}."
    return {
        "expectation": entry.name,
        "severity": entry.severity,
        "success": bool(result["success"]),
        "observed": observed,
        "allowed": entry.allowed,
        "message": message,
    }


def data_docs(suite: Sequence[Expectation], results: Sequence[Result], findings: Sequence[Mapping[str, Any]]) -> str:
    """The findings, and below them what Great Expectations draws of each table, as one HTML page.

    Its own page loads scripts, styles and fonts from six servers and doesn't escape the values it met. So only its
    sections are used, in a page that loads nothing, and the results are escaped before they are drawn.
    """
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaSectionView

    body, view = [], DefaultJinjaSectionView()  # one for all: each compiles its templates anew
    for table in ROWS:
        chosen = [_drawable(result) for entry, result in zip(suite, results, strict=True) if entry.table == table]
        if not chosen:
            continue
        success = all(result["success"] for result in chosen)
        whole = {"success": success, "results": chosen, "suite_name": table, "meta": {}, "statistics": _counts(chosen)}
        loaded = expectationSuiteValidationResultSchema.load(whole)
        _, *sections = ValidationResultsPageRenderer().render(loaded).sections  # the first: run time, random ids
        body.append(f"<h2>Table {table}</h2>")
        for number, section in enumerate(sections, start=1):
            drawn = {"section": section.to_json_dict(), "section_loop": {"index": f"{table}-{number}"}}
            body.append(view.render(drawn))
    return Template(PAGE.read_text()).substitute(findings="\n".join(map(_row, findings)), sections="\n".join(body))


def _which(entry: Expectation, number: int, where: str) -> str:
    return f"Expectation {number + 1} in {where} ({entry.name})"


def _check_columns(entry: Expectation, number: int, frame: pd.DataFrame, where: str) -> None:
    columns = [value for name, value in entry.kwargs.items() if name in ("column", "column_A", "column_B")]
    for column in columns:
        if column not in list(frame.columns):  # the columns themselves refuse to look for what isn't hashable
            raise ParamsError(
                f"{_which(entry, number, where)}: the table {entry.table} has no column {column!r}. "
                f"It has: {', '.join(frame.columns)}."
            )


def _check_texts(entry: Expectation, number: int, frame: pd.DataFrame, where: str) -> None:
    """Refuse values that no text equals: without quotes, a class 0 or no is a number or a truth value in YAML."""
    given = [("value_set", "column", value) for value in entry.kwargs.get("value_set") or ()]
    for pair in entry.kwargs.get("value_pairs_set") or ():
        given += [("value_pairs_set", *each) for each in zip(("column_A", "column_B"), pair, strict=False)]
    columns = {entry.kwargs[name] for _, name, _ in given}
    texts = {column for column in columns if pd.api.types.is_string_dtype(frame[column].dropna())}
    wrong = [each for each in given if entry.kwargs[each[1]] in texts and not isinstance(each[2], str)]
    if wrong:
        option, name, _ = wrong[0]
        told = "; ".join(_misread(value) for *_, value in wrong[:EXAMPLES])
        more = f"; and {len(wrong) - EXAMPLES:,} more" if len(wrong) > EXAMPLES else ""
        raise ParamsError(
            f"{_which(entry, number, where)}: the column {entry.kwargs[name]!r} holds text, but {option} has what YAML "
            f"takes for something else without quotes: {told}{more}."
        )


def _misread(value: Any) -> str:
    """What YAML made of a text, and what to write instead."""
    if value is None or isinstance(value, bool):
        kind, written = "nothing" if value is None else "a truth value", WRITTEN[value]
    else:
        kind, written = "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}", (str(value),)
    return f"{value} is {kind}, write {' or '.join(map(repr, written))}"


def _build(entry: Expectation, number: int, module: Any, where: str) -> Any:
    """Great Expectations' own object for an entry."""
    known = [name for name in dir(module) if name.startswith("Expect") and name != "Expectation"]
    if entry.expectation not in known:
        near = difflib.get_close_matches(entry.expectation, known, 3, 0.4)
        raise ParamsError(
            f"{_which(entry, number, where)}: Great Expectations has no {entry.expectation!r}. "
            f"Like it: {', '.join(near) or 'none'}."
        )
    kind = getattr(module, entry.expectation)
    if unknown := set(entry.kwargs) - set(kind.__fields__):
        raise ParamsError(f"{_which(entry, number, where)} takes no {', '.join(sorted(unknown))}.")
    if runtime := [name for name, value in entry.kwargs.items() if isinstance(value, dict) and "$PARAMETER" in value]:
        raise ParamsError(
            f"{_which(entry, number, where)}: {', '.join(runtime)} = $PARAMETER: there are no such parameters here. "
            f"Write the value itself."
        )
    severity = {"error": "critical", "warning": "warning"}[entry.severity]
    try:
        return kind(**entry.kwargs, severity=severity, meta={"entry": number, "meaning": entry.meaning})
    except (ValueError, TypeError) as error:
        raise ParamsError(f"{_which(entry, number, where)} can't be used: {' '.join(str(error).split())}") from None


def _exception(result: Result) -> str:
    """Why Great Expectations could not check this; "" where it could."""
    info = result["exception_info"]
    for each in (info, *info.values()):
        if isinstance(each, dict) and each.get("raised_exception"):
            return str(each["exception_message"])
    return ""


def _observed(entry: Expectation, result: Result, frame: pd.DataFrame) -> str:
    """What was seen, in words."""
    apart = _apart(result)
    if apart:
        return apart
    if "observed_value" in result and apart is None:
        return _shown(result["observed_value"])
    values = frame[entry.kwargs["column"]].dropna() if "column" in entry.kwargs else None
    if entry.table == "dataset" and values is not None and len(values):
        return _shown(values.iloc[0])
    wrong = result.get("unexpected_count", 0)
    if not wrong:
        if values is not None and pd.api.types.is_numeric_dtype(values) and len(values):
            low, high = _shown(values.min()), _shown(values.max())
            return low if low == high else f"{low} to {high}"
        return f"all {len(frame):,} {entry.table}"
    row = ROWS[entry.table]
    indexes = (result.get("partial_unexpected_index_list") or ())[:EXAMPLES] if row else ()
    examples = [": ".join(_shown(value) for value in (index.pop(row), *index.values())) for index in map(dict, indexes)]
    more = f" and {wrong - len(examples):,} more" if wrong > len(examples) else ""
    return f"{wrong:,} of {len(frame):,} {entry.table}" + (f" ({', '.join(examples)}{more})" if examples else "")


def _apart(result: Result) -> str | None:
    """A column's values that are not in its set, and the set's that it lacks, in words; None where there is no set."""
    kinds = [kind for kind in ("unexpected", "missing") if f"partial_{kind}_list" in result]
    if "observed_value" not in result or not kinds:
        return None
    words = []
    for kind in kinds:
        if count := result[f"{kind}_count"]:
            listed = result[f"partial_{kind}_list"][:EXAMPLES]
            more = f" and {count - len(listed):,} more" if count > len(listed) else ""
            words.append(f"{kind} {_shown(listed)}{more}")
    return "; ".join(words)


def _shown(value: Any) -> str:
    """A value as a person writes it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return (
        f"{number:,.0f}"
        if number.is_integer()
        else f"{number:,.3f}".rstrip("0")
        if abs(number) >= 1
        else f"{number:.3g}"
    )


def _counts(results: Sequence[Result]) -> dict[str, float]:
    good = sum(bool(result["success"]) for result in results)
    return {
        "evaluated_expectations": len(results),
        "successful_expectations": good,
        "unsuccessful_expectations": len(results) - good,
        "success_percent": 100 * good / len(results),
    }


def _drawable(result: Result) -> Result:
    """The result with its values escaped, as Great Expectations can draw it."""

    def escape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: escape(each) for name, each in value.items()}
        if isinstance(value, list):
            return [escape(each) for each in value]
        return html.escape(value) if isinstance(value, str) else value

    # In words: of a set's values it draws no missing ones, and of unexpected ones it asks for their share of the rows.
    apart = _apart(result["result"])
    seen = {"observed_value": apart} if apart else result["result"]
    return result | {"result": escape(seen)}  # the kwargs it escapes itself


def _row(found: Mapping[str, Any]) -> str:
    state = "passed" if found["success"] else found["severity"]
    name, observed, allowed = (html.escape(found[name]) for name in ("expectation", "observed", "allowed"))
    meaning = html.escape(found["message"].partition(" Seen: ")[0])
    return (
        f'<tr class="{state}"><td>{state}</td><td>{meaning}<br><small>{name}</small></td>'
        f"<td>{observed}</td><td>{allowed}</td></tr>"
    )
