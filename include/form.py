"""A run's params as Airflow's trigger form, made from the one params model."""

from typing import Any

from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import ParamsDict

from include.defaults import default_params
from tasks.core.params import PRESETS, Params, Section
from tasks.core.settings import settings

SECTIONS = ("Data", "Cleaning", "Balancing", "Training", "Evaluation", "Promotion", "Advanced")

LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def trigger_form() -> dict[str, Param]:
    """A field for each param, in the order of the workflow.

    A field that presets set is empty: only where it is filled in, it wins over them. The others hold their default,
    and a field that `GESSO_PARAMS` sets holds that, as it was understood: Airflow takes no "5" for a number.

    Raises:
        ParamsError: `GESSO_PARAMS` can't be used.
    """
    understood = default_params().model_dump(mode="json")
    given = {name: understood[name] for name in settings().params}
    fields = Params.model_json_schema()["properties"]
    steps = [each for each in Params.__bases__ if issubclass(each, Section)]
    by_step = dict.fromkeys(["preset", *(name for each in steps for name in each.model_fields)])
    ordered = sorted(by_step, key=lambda name: SECTIONS.index(fields[name]["section"]))
    return {name: _field(name, fields[name], given) for name in ordered}


def drop_copies(dag: DAG) -> None:
    """Leave the run's params to the DAG alone.

    Airflow gives every task a copy of all, and looks them up in the DAG anyhow. The copies are nine tenths of the
    serialised DAG, and each is checked against its schema whenever the DAG is parsed.
    """
    for task in dag.tasks:
        task.params = ParamsDict({name: param for name, param in task.params.items() if name not in dag.params})


def _field(name: str, facts: dict[str, Any], given: dict[str, Any]) -> Param:
    """A param's field: what its schema says, in the words that Airflow's form knows."""
    kind = next((each for each in facts.get("anyOf", ()) if each["type"] != "null"), facts)
    # No pattern: what doesn't match it, Airflow refuses without a word on why; the run's first task says why.
    drawn = {limit: kind[limit] for limit in (*LIMITS, "type", "format", "enum", "items") if limit in kind}
    drawn |= {"section": facts["section"], "title": _title(name, facts), "description_md": _help(name, facts, kind)}
    if facts.get("names"):
        drawn["values_display"] = facts["names"]
    if "enum" in kind.get("items", {}):
        drawn["examples"] = kind["items"]["enum"]  # a field to choose several from; else it has one value a line
    if "enum" not in kind:  # a choice has no empty value unless it names one
        drawn["type"] = ["null", kind["type"]]
    return Param(given.get(name, None if _by_preset(name) else facts["default"]), **drawn)


def _title(name: str, facts: dict[str, Any]) -> str:
    by_pydantic = name.replace("_", " ").title()
    return name.replace("_", " ").capitalize() if facts["title"] == by_pydantic else str(facts["title"])


def _by_preset(name: str) -> bool:
    return any(name in values for values in PRESETS.values())


def _help(name: str, facts: dict[str, Any], kind: dict[str, Any]) -> str:
    """What a param does, allows and is where it isn't given, as Markdown."""
    said = [facts["description"], _allowed(*(_text(kind[limit]) if limit in kind else "" for limit in LIMITS))]
    if _by_preset(name):
        by_preset = (f"{preset} {_text(values.get(name, facts['default']))}" for preset, values in PRESETS.items())
        said.append(f"Empty: by the preset ({'; '.join(by_preset)}).")
    links = ", ".join(f"[{words}]({address})" for words, address in facts.get("read", {}).items())
    said.append(f"Read: {links}." if links else "")
    return " ".join(filter(None, said))


def _allowed(least: str, above: str, most: str, below: str) -> str:
    """The limits of a number, of which the form draws some and says none."""
    low, high = least or (above and f"more than {above}"), most or (below and f"less than {below}")
    return (
        f"{low} to {high}.".capitalize() if high else f"{'At least ' * bool(least)}{low}.".capitalize() if low else ""
    )


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:,}".removesuffix(".0")
