"""The runs of a DAG one after another, and two of them side by side."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from include.pages.runs import Run
from tasks.core.champion import read_champion
from tasks.core.errors import GessoError
from tasks.new_images import difference

#: Runs that the history shows.
MOST = 200

#: Size of the chart, and of the room for its labels, in pixels.
WIDTH, HEIGHT, LEFT, GAP = 960, 150, 56, 34


@dataclass(frozen=True)
class Line:
    """A run as the history shows it; what isn't known (yet) is None.

    Attributes:
        run_id: the run.
        as_of: the instant whose data it saw, ISO 8601.
        run_type: Airflow's: manual, scheduled, backfill, …
        macro_f1: of the new model, on the test part.
        images: of the snapshot.
        photos: images left out as photographs.
        seconds: what its tasks took, together.
        verdict: PROMOTE, HOLD or DRY RUN.
        in_use: whether its model is the champion now.
    """

    run_id: str
    as_of: str
    run_type: str
    macro_f1: float | None
    images: int | None
    photos: int | None
    seconds: float
    verdict: str
    in_use: bool


def lines(runs: Iterable[Run], models: frozenset[str]) -> list[Line]:
    """The runs' lines, in their order; `models` are those in use."""
    return [_line(run, models) for run in runs]


def _line(run: Run, models: frozenset[str]) -> Line:
    metrics = {step: entries[-1].get("metrics", {}) for step, entries in run.record["steps"].items() if entries}
    model = metrics.get("evaluate", {}).get("model")
    verdict = str(metrics.get("promote", metrics.get("report", {})).get("verdict") or "")
    return Line(
        run_id=run.run_id,
        as_of=str(run.record.get("as_of", "")),
        run_type=str(run.record.get("run_type", "")),
        macro_f1=metrics.get("evaluate", {}).get("macro_f1"),
        images=metrics.get("snapshot", {}).get("images"),
        photos=metrics.get("cluster", {}).get("photos"),
        seconds=sum(entry.get("seconds", 0) for entries in run.record["steps"].values() for entry in entries),
        verdict=verdict,
        in_use=model in models,
    )


def models_in_use(runs: Sequence[Run]) -> frozenset[str]:
    """Keys of the models in use for the data sets of these runs."""
    newest = {str(run.record["params"].get("dataset", "")): run for run in reversed(runs) if _ended(run, "snapshot")}
    found = set()
    for run in newest.values():
        try:
            champion, _ = read_champion(run.store, run.dataset)
        except GessoError:
            continue  # the history is there without the mark, too
        if champion is not None:
            found.add(champion.model.rpartition("/")[2])
    return frozenset(found)


def _ended(run: Run, step: str) -> bool:
    return bool(run.record["steps"].get(step))


def chart(shown: Sequence[Line]) -> dict[str, Any] | None:
    """Where the chart's marks are, in pixels, oldest run left; None where there is nothing to draw."""
    drawn = [line for line in reversed(shown) if line.images is not None]
    if not drawn:
        return None
    step = (WIDTH - LEFT - 12) / max(1, len(drawn))
    most = max(line.images or 0 for line in drawn) or 1
    scores = [line.macro_f1 for line in drawn if line.macro_f1 is not None]
    low, high = _range(scores)
    marks = []
    for place, line in enumerate(drawn):
        across = LEFT + step * (place + 0.5)
        marks.append(
            {
                "line": line,
                "x": round(across, 1),
                "y": None if line.macro_f1 is None else round(_height(line.macro_f1, low, high), 1),
                "left": round(across - min(step * 0.4, 16), 1),
                "width": round(min(step * 0.8, 32), 1),
                "images": round((HEIGHT - 20) * (line.images or 0) / most, 1),
                "photos": round((HEIGHT - 20) * (line.photos or 0) / most, 1),
            }
        )
    return {
        "marks": marks,
        "path": " ".join(f"{mark['x']},{mark['y']}" for mark in marks if mark["y"] is not None),
        "scores": [{"value": value, "y": round(_height(value, low, high), 1)} for value in _ticks(low, high)],
        "most": most,
        "width": WIDTH,
        "height": HEIGHT,
        "gap": GAP,
        "left": LEFT,
    }


def _range(scores: Sequence[float]) -> tuple[float, float]:
    """The part of 0 to 1 that holds the scores, its ends multiples of a tenth."""
    if not scores:
        return 0.0, 1.0
    low = min(0.9, int(min(scores) * 10) / 10)
    return low, min(1.0, max(low + 0.1, -(-max(scores) * 10 // 1) / 10))


def _ticks(low: float, high: float) -> list[float]:
    return [round(low + (high - low) * part / 2, 3) for part in range(3)]


def _height(value: float, low: float, high: float) -> float:
    return 10 + (HEIGHT - 20) * (1 - (value - low) / (high - low))


def compare(left: Run, right: Run) -> dict[str, Any]:
    """Two runs side by side: params, data, metrics, F1 by class; of each row, whether the two differ."""
    return {
        "runs": lines([left, right], models_in_use([left, right])),
        "params": _rows(left.record["params"], right.record["params"]),
        "data": _data(left, right),
        "metrics": {
            step: rows
            for step in dict.fromkeys([*left.record["steps"], *right.record["steps"]])
            if (rows := _rows(_metrics(left, step), _metrics(right, step)))
        },
        "classes": _classes(left, right),
    }


def _rows(left: dict[str, Any], right: dict[str, Any]) -> list[dict[str, Any]]:
    names = dict.fromkeys([*left, *right])
    rows = [
        {"name": name, "left": left.get(name), "right": right.get(name), "differs": left.get(name) != right.get(name)}
        for name in names
    ]
    return sorted(rows, key=lambda row: not row["differs"])


def _metrics(run: Run, step: str) -> dict[str, Any]:
    entries = run.record["steps"].get(step) or [{}]
    return dict(entries[-1].get("metrics", {}))


def _data(left: Run, right: Run) -> dict[str, Any] | None:
    """Which images the snapshots share, which were changed; None where one has no snapshot."""
    if not (_ended(left, "snapshot") and _ended(right, "snapshot")):
        return None
    found = difference(left.artifact("snapshot"), right.artifact("snapshot"))
    return {
        "same": found.same,
        "changed": found.changed,
        "only_left": found.gone,
        "only_right": found.added,
        "left": left.dataset,
        "right": right.dataset,
    }


def _classes(left: Run, right: Run) -> list[dict[str, Any]]:
    """Images and F1 of each class, left and right."""
    images: list[dict[str, int]] = []
    scores: list[dict[str, float]] = []
    for run in (left, right):
        counts = run.artifact("snapshot").json("snapshot.json")["classes"] if _ended(run, "snapshot") else {}
        table = (
            run.artifact("evaluate").table("classwise.parquet", ["class", "f1"]) if _ended(run, "evaluate") else None
        )
        images.append(counts)
        scores.append({} if table is None else dict(zip(table["class"], table["f1"], strict=True)))
    return [
        {
            "class": name,
            "images": [counts.get(name) for counts in images],
            "f1": [found.get(name) for found in scores],
            "delta": scores[1].get(name, math.nan) - scores[0].get(name, math.nan),
        }
        for name in sorted(set().union(*images, *scores))
    ]
