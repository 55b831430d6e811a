"""How far the data have moved since the champion's: what a model learnt may not hold for what comes now.

Compares the readable images of this snapshot with those of the snapshot that the champion was trained on. Where the
champion was trained on this very snapshot, with that of the model before it; so a rerun finds its own comparison again.

Each measure has a distance that a person can read:
  class, hue, photographs      share of the images that would have to change their class (their mean hue's sixth of the
                               colour circle; from illustration to photograph) for the two to be alike: the total
                               variation distance
  brightness, lightness, saturation, sharpness, size      how far the images moved on average, in units of their spread
                               (the standard deviation of both together): the Wasserstein distance. Sharpness and
                               size, which is the shorter side, are counted in doublings
A measure has drifted where its distance is more than `drift_threshold`. That is a warning in the report, and nothing
fails for it. Photographs are left out where they were told apart with other params then: the difference may be theirs.

Writes
  drift.json    reference (null where there is nothing to compare with, or {model, newest, images}), images, threshold,
                reason (why there is nothing to compare with), other_params (those of `cluster` that differed then),
                measures [{measure, unit ("share" | "spread"), distance, drifted, before, now: medians or largest
                changes as text, sheet (a file or ""), keys}], furthest first
  sheets/<measure>.jpg  the new images that moved a measure most; for those that have drifted, or else for the first
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.core import params
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.champion import Champion, key_of, read_champion
from tasks.core.errors import DataError, NotFound, ParamsError
from tasks.core.figures import contact_sheet
from tasks.core.store import Store
from tasks.thumbnails import thumbnails

INPUTS = ("snapshot", "validate", "cluster", "scan*")
Params = params.DriftParams

SHEET = 24
"""Images of a sheet."""

PARTS = 10
"""Into how many parts of equal size the earlier images are cut, to see where there are more of them."""

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")

GREY = 0.02
"""Mean saturation (0..1) below which a picture is grey: its hue is that of the noise."""

MISSING = "There is no champion yet, or none that was trained on other data than these."


@dataclass(frozen=True)
class Reference:
    """What the images are compared with: a model's key, and the artifacts about the images that it was trained on."""

    model: str
    snapshot: Artifact
    validate: Artifact
    cluster: Artifact


def observe(inputs: Inputs, params: params.DriftParams, out: Output) -> tuple[Any, Any]:
    """Find what to compare with; it goes into the key."""
    dataset = str(inputs.one("snapshot").json("snapshot.json")["dataset"])
    pointer, _ = read_champion(out.store, dataset)
    found = reference(out.store, pointer, inputs.one("snapshot"))
    if isinstance(found, str):
        return {"champion": None, "reason": found}, found
    return {"champion": found.model}, found


def reference(store: Store, pointer: Champion | None, snapshot: Artifact) -> Reference | str:
    """The champion, or where it was trained on this snapshot the model before it; or why there is nothing."""
    for uri in (pointer.model, pointer.previous) if pointer else ():
        if uri is None:
            continue
        try:
            resample = Artifact.reopen(store, uri).made_of("resample")
            if resample.inputs["snapshot"] != snapshot.key:
                return Reference(key_of(uri), *(resample.made_of(name) for name in ("snapshot", "validate", "cluster")))
        except (DataError, NotFound, ParamsError) as error:
            return f"What the champion was trained on can't be opened any more. {error}"
    return MISSING


def run(inputs: Inputs, params: params.DriftParams, out: Output) -> None:
    """Compare the images in use with those that the champion was trained on; without a champion say so."""
    now = seen(inputs.one("validate"), inputs.one("cluster"))
    facts: dict[str, Any] = {"reference": None, "images": len(now), "threshold": params.drift_threshold}
    facts |= {"reason": "", "other_params": []}
    rows: list[dict[str, Any]] = []
    if isinstance(out.observed, str):
        facts["reason"] = out.observed
    else:
        before = seen(out.observed.validate, out.observed.cluster)
        facts["reference"] = {
            "model": out.observed.model,
            "newest": out.observed.snapshot.json("snapshot.json")["newest"],
            "images": len(before),
        }
        facts["other_params"] = _other_params(out.observed.cluster, inputs.one("cluster"))
        left_out = ["photographs"] if facts["other_params"] else []
        rows = measures(before.drop(columns=left_out), now.drop(columns=left_out), params.drift_threshold)
        draw_sheets(rows, inputs.many("scan"), out)
    out.json("drift.json", facts | {"measures": rows})
    drifted = [row["measure"] for row in rows if row["drifted"]]
    if rows:
        out.log(f"drift: {', '.join(drifted) or 'nothing'} moved by more than {params.drift_threshold:g}")
    out.metrics |= {
        "images": len(now),
        "drifted": len(drifted),
        "furthest": rows[0]["measure"] if rows else None,
        "distance": rows[0]["distance"] if rows else None,
    }


def seen(validate: Artifact, cluster: Artifact) -> pd.DataFrame:
    """The readable images, by key, with what is measured of them."""
    columns = ["key", "class", "sha256", "status", "width", "height", "brightness", "hue", "lightness", "saturation"]
    images = validate.table("images.parquet", [*columns, "sharpness"])
    images = images[images["status"] == "ok"].set_index("key")
    verdicts = cluster.table("verdicts.parquet", ["key", "verdict"]).set_index("key")["verdict"]
    images["photographs"] = (verdicts.reindex(images.index) == "photo").map({True: "photograph", False: "illustration"})
    hues = [HUES[round(hue / 60) % 6] for hue in images["hue"]]
    images["hue"] = np.where(images["saturation"] < GREY, "grey", hues)
    images["size"] = np.log2(images[["width", "height"]].min(axis=1))
    images["sharpness"] = np.log2(images["sharpness"] + 1)
    return images


def _other_params(before: Artifact, now: Artifact) -> list[str]:
    """The params that differ between two artifacts."""
    return sorted(name for name in before.params.keys() & now.params.keys() if before.params[name] != now.params[name])


#: How the median of a measure is told.
NUMBERS: dict[str, Callable[[float], str]] = {
    "brightness": "{:.0f} of 255".format,
    "lightness": "{:.2f}".format,
    "saturation": "{:.2f}".format,
    "sharpness": lambda value: f"{2**value - 1:.0f}",
    "size": lambda value: f"{2**value:.0f} px",
}
SHARES = ("class", "hue", "photographs")


def measures(before: pd.DataFrame, now: pd.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """The distance of each measure that is a column, furthest first, and the new images that moved it most."""
    from scipy import stats

    rows = []
    new = ~now["sha256"].isin(before["sha256"])
    for name in (each for each in (*SHARES, *NUMBERS) if each in now):
        then, today = before[name], now[name]
        if name in SHARES:
            parts_then, parts_now = then, today
            changes = _shares(today).sub(_shares(then), fill_value=0)
            distance = float(changes.abs().sum() / 2)
            texts = _largest_changes(_shares(then), _shares(today))
        else:
            spread = float(np.concatenate([then, today]).std())
            distance = float(stats.wasserstein_distance(then, today)) / spread if spread else 0.0
            texts = NUMBERS[name](float(then.median())), NUMBERS[name](float(today.median()))
            edges = np.unique(np.quantile(then, np.linspace(0, 1, PARTS + 1)[1:-1]))
            parts_then, parts_now = (pd.Series(np.digitize(each, edges), each.index) for each in (then, today))
        surplus = _shares(parts_now).sub(_shares(parts_then), fill_value=0)
        rows.append(
            {
                "measure": name,
                "unit": "share" if name in SHARES else "spread",
                "distance": distance,
                "drifted": distance > threshold,
                "before": texts[0],
                "now": texts[1],
                "sheet": "",
                "keys": _movers(parts_now[new], surplus),
            }
        )
    return sorted(rows, key=lambda row: (-float(row["distance"]), row["measure"]))


def _shares(values: "pd.Series[Any]") -> "pd.Series[float]":
    return values.value_counts(normalize=True)


def _largest_changes(before: "pd.Series[float]", now: "pd.Series[float]") -> tuple[str, str]:
    """The three values whose share changed most, as text."""
    changes = now.sub(before, fill_value=0)
    ordered = changes.sort_index().sort_values(key=np.abs, ascending=False, kind="stable")
    shown = ordered[ordered != 0].index[:3]

    def told(shares: "pd.Series[float]") -> str:
        return ", ".join(f"{name} {100 * shares.get(name, 0):.1f} %" for name in shown) or "the same"

    return told(before), told(now)


def _movers(parts: "pd.Series[Any]", surplus: "pd.Series[float]") -> list[str]:
    """The images of the parts that grew, those of the part that grew most first."""
    grown = surplus[surplus > 0]
    order = parts[parts.isin(grown.index)].map(grown).astype(float)
    table = order.rename("surplus").rename_axis("key").reset_index()
    return table.sort_values(["surplus", "key"], ascending=[False, True])["key"].head(SHEET).tolist()


def draw_sheets(rows: list[dict[str, Any]], scans: list[Artifact], out: Output) -> None:
    """Draw the sheets of the measures that have drifted, or of the first, and note their files in the rows."""
    drawn = [row for row in rows if row["drifted"]] or rows[:1]
    pictures = thumbnails(scans, {key for row in drawn for key in row["keys"]})
    for row in rows:
        if row in drawn and row["keys"]:
            row["sheet"] = f"sheets/{row['measure']}.jpg"
            contact_sheet([pictures[key] for key in row["keys"]], out.path(row["sheet"]), columns=8)
        else:
            row["keys"] = []
