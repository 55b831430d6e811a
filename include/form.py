"""A run's params as Airflow's trigger form, made from the one params model."""

from typing import Any

from airflow.sdk import Param

from tasks.core.params import PRESETS, Params

SECTIONS = ("Data", "Cleaning", "Balancing", "Training", "Evaluation", "Promotion", "Advanced")


def trigger_form() -> dict[str, Param]:
    """A field for each param. An empty field means what the preset says, so only a filled one wins over it."""
    schema = Params.model_json_schema()["properties"]
    fields = {name: facts for name, facts in schema.items() if facts.get("section") in SECTIONS}
    ordered = sorted(fields, key=lambda name: (SECTIONS.index(fields[name]["section"]), name != "preset"))
    return {name: _field(name, fields[name]) for name in ordered}


def _field(name: str, facts: dict[str, Any]) -> Param:
    facts = {key: value for key, value in facts.items() if key != "observed"}
    default = facts.pop("default", None)
    for choice in facts.pop("anyOf", ()):
        if choice["type"] != "null":
            facts.update(choice)
    if name == "preset":
        return Param(default, **facts)
    presets = [f"{preset}: {values[name]}" for preset, values in PRESETS.items() if name in values]
    text = " ".join(
        [facts.pop("description"), f"Default: {default!r}." if default not in (None, "", []) else ""]
    ).strip()
    if presets:
        text += f" Presets: {', '.join(presets)}."
    if facts["type"] == "array" and "enum" in facts["items"]:
        facts["examples"] = facts["items"]["enum"]  # a field to choose several from; else one value a line
    if "enum" in facts:
        facts["enum"] = [*facts["enum"], None]
    facts["type"] = ["null", facts["type"]]
    return Param(None, description=text, **facts)
