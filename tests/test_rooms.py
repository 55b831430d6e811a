"""Imports run one way: dags, plugins -> include -> tasks -> tasks/vision, tasks/core; no step imports another."""

import ast
from pathlib import Path

import pytest

from tasks.core.step import NAMES

ROOT = Path(__file__).parents[1]
FILES = [path for room in ("dags", "include", "plugins", "tasks") for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(names: set[str], *forbidden: str) -> set[str]:
    return {name for name in names if any(name == room or name.startswith(room + ".") for room in forbidden)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    names, place = imported(path), path.relative_to(ROOT).as_posix()
    if place.startswith("tasks/"):
        assert not rooms(names, "airflow", "include", "dags", "plugins")
    if place.startswith(("tasks/core/", "tasks/vision/")):
        steps = {f"tasks.{name}" for name in NAMES}
        assert not rooms(names, *steps)
    if place.startswith("tasks/core/"):
        assert not rooms(names, "tasks.vision")
    if place.startswith("include/"):
        assert not rooms(names, "dags", "plugins")
    if place in {f"tasks/{name}.py" for name in NAMES}:
        others = {f"tasks.{name}" for name in NAMES} - {f"tasks.{path.stem}"}
        assert not rooms(names, *others)


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 20
