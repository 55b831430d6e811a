"""Write the run's report: one HTML file that needs nothing else, the verdict first.

Reads the artifacts of all other steps but `pack`; those of a dry run end with `resample`, and then the plan takes the
verdict's place: what would be trained, on what, and how long that would take at the speed of past trainings in this
store.

Writes report.html: no script and no request to anywhere (its content security policy forbids both), so it can be
mailed, archived or opened from a private bucket. Whatever comes from the data set is escaped; figures are images, never
markup. Templates: `templates/report.html.j2` and what it includes.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tasks.core import params as all_params
from tasks.core.artifacts import Artifact, Inputs, Output, is_removed, manifests
from tasks.core.errors import ParamsError
from tasks.core.figures import SHEET_COLUMNS, label
from tasks.core.ledger import VERDICTS
from tasks.core.params import ReportParams
from tasks.core.search import ends, size
from tasks.core.step import NAMES
from tasks.core.store import Store
from tasks.page import Pictures, is_missing, render

INPUTS = ("snapshot", "validate", "eda", "cluster", "drift", "resample", "train*?", "evaluate?", "promote?")
RESOURCES = (
    "templates/report.html.j2",
    "templates/report.css",
    "templates/report_macros.html.j2",
    "templates/report_plan.html.j2",
    "templates/report_verdict.html.j2",
    "templates/report_results.html.j2",
    "templates/report_card.html.j2",
    "templates/report_data.html.j2",
    "templates/report_run.html.j2",
)
Params = ReportParams

JUDGING = ("train", "evaluate", "promote")
"""What a dry run has not."""

#: Pictures beyond this many bytes are named, not embedded: a page of 20 classes stays below 8 MB.
PICTURE_BYTES = 5_500_000

#: What makes a class one that needs data.
F1_BELOW_MACRO, FEW_TEST_IMAGES, MANY_PHOTOS = 0.05, 10, 0.2

Rows = list[dict[str, Any]]


def observe(inputs: Inputs, params: ReportParams, out: Output) -> tuple[Any, Any]:
    """For a dry run, how fast the latest training of each network was here; it goes into the key."""
    if inputs.has("promote"):
        return None, None
    speeds = past_speeds(out.store, params)
    return speeds, speeds


def run(inputs: Inputs, params: ReportParams, out: Output) -> None:
    """Write report.html.

    Args:
        inputs: the run's artifacts.
        params: what a dry run's plan is made from.
        out: where to write; its metrics repeat the verdict and the macro F1.

    Raises:
        ParamsError: of the training and what judges it some is missing.
    """
    pictures = Pictures(PICTURE_BYTES)
    judged = is_judged(inputs)
    page = {
        "judged": judged,
        **(_results(inputs, params, pictures) if judged else plan(inputs.one("resample"), params, out.observed)),
        **_photographs(inputs.one("cluster"), inputs.one("resample").params.get("drop_photos", True), pictures),
        **_data(inputs, pictures),
        **_drift(inputs.one("drift"), pictures),
        **_balance(inputs.one("resample")),
        **_made(inputs),
    }
    html = render("report.html.j2", page)
    out.text("report.html", html)
    out.metrics |= {
        "verdict": page["decision"]["verdict"] if judged else "DRY RUN",
        "images": inputs.one("snapshot").metrics["images"],
        **({"macro_f1": page["evaluation"]["macro"]["f1"]} if judged else {}),
        **({f"training_{name}": value for name, value in page["cost"].items()} if judged else {}),
        "bytes": len(html.encode()),
    }
    out.log(f"Wrote the report: {len(html.encode()) / 1e6:.1f} MB.")


def is_judged(inputs: Inputs) -> bool:
    """Whether something was trained and judged; else it is a dry run.

    Raises:
        ParamsError: the inputs say neither: some are missing.
    """
    missing = [name for name in JUDGING if not inputs.has(name)]
    if len(missing) == len(JUDGING):
        return False
    if missing:
        raise ParamsError(
            f"report was given some of {', '.join(JUDGING)}, but without {' and '.join(missing)}. Give all three, or "
            f"none for the report of a dry run."
        )
    evaluate, given = inputs.one("evaluate"), {model.key for model in inputs.many("train")}
    if absent := set(evaluate.table("leaderboard.parquet", ["model"])["model"]) - given:
        raise ParamsError(
            f"{evaluate.uri} judged models that are not among the `train` artifacts given: "
            f"{', '.join(sorted(absent))}. Give them to report, too."
        )
    return True


def changes(decision: dict[str, Any]) -> Rows:
    """F1 by class against the champion, largest loss first; `size` is the change relative to the largest of all."""
    rows = (decision["comparison"] or {}).get("per_class", [])
    largest = max((abs(row["delta"]) for row in rows if not is_missing(row["delta"])), default=0) or 1
    known = [row | {"size": 0 if is_missing(row["delta"]) else abs(row["delta"]) / largest} for row in rows]
    return sorted(known, key=lambda row: (is_missing(row["delta"]), row["delta"] or 0, row["class"]))


def in_need(
    classwise: pd.DataFrame,
    counts: pd.DataFrame,
    photos: pd.DataFrame,
    pairs: pd.DataFrame,
    min_per_class: int,
    train_share: float,
) -> Rows:
    """The classes that more or better images would help, the neediest first, each with what to do.

    A class is in need where it has fewer training images than `min_per_class`, an F1 more than 0.05 below the macro
    average, fewer than 10 test images, or photographs for a fifth of its images or more. Of the images that it is to
    collect only `train_share` will be training images.
    """
    macro = classwise["f1"].mean()
    shares = dict(zip(photos["class"], photos["photo_share"], strict=True))
    taken_for = {row["class"]: row for row in reversed(_rows(pairs.sort_values("images", ascending=False)))}
    scores = classwise.set_index("class")["f1"]
    found: Rows = []
    for row in _rows(counts):
        name, advice = row["class"], []
        f1, share = float(scores.get(name, math.nan)), float(shares.get(name, 0))
        if row["train"] < min_per_class:
            missing = math.ceil((min_per_class - row["train"]) / train_share)
            times = row["train_drawn"] / max(1, row["train"])
            until = f" Until then each is shown {times:.2g} times an epoch." if times >= 1.5 else ""
            advice.append(f"Collect about {missing:,} more images.{until}")
        if f1 < macro - F1_BELOW_MACRO:
            pair = taken_for.get(name)
            mostly = pair and f" Most often taken for “{label(pair['predicted'])}” ({pair['images']} of them)."
            advice.append(
                f"F1 is {macro - f1:.2f} below the average: look at its labels and its worst errors.{mostly or ''}"
            )
        if row["test"] < FEW_TEST_IMAGES:
            advice.append(f"Only {row['test']:,} test images: its F1 says little before there are more.")
        if share >= MANY_PHOTOS:
            advice.append(f"{100 * share:.0f} % photographs: find out where they come from, and ask for illustrations.")
        if advice:
            found.append({**row, "f1": f1, "photo_share": share, "advice": advice})
    return sorted(found, key=lambda row: (-len(row["advice"]), is_missing(row["f1"]), row["f1"], row["class"]))


def past_speeds(store: Store, params: ReportParams) -> dict[str, float]:
    """Images a second of the latest training of each architecture at this image size; of those that were trained.

    `residual` counts with this bottleneck; where a search tries several, all must be known, and the slowest counts.
    """
    speeds: dict[tuple[str, str], tuple[str, float]] = {}
    for _, manifest in manifests(store, "train"):
        given = manifest.get("params", {})
        if is_removed(manifest) or given.get("image_size") != params.image_size:
            continue
        made = (str(manifest["made_at"]), float(manifest["metrics"]["images_per_second"]))
        name = str(given["architecture"])
        network = name, str(given.get("bottleneck")) if name == "residual" else ""
        speeds[network] = max(speeds.get(network, made), made)
    tried = {params.bottleneck, *params.search.get("bottleneck", [])}
    found: dict[str, float] = {}
    for name in params.architectures:
        networks = {(name, each) for each in (tried if name == "residual" else {""})}
        if networks <= speeds.keys():
            found[name] = min(speeds[network][1] for network in networks)
    return found


def plan(resample: Artifact, params: ReportParams, speeds: dict[str, float]) -> dict[str, Any]:
    """What would be trained, a row a network, and what it would take at most: early stopping may end it sooner."""
    counts = resample.table("counts.parquet")
    drawn = int(counts["train_drawn"].sum())
    rows: Rows = []
    epochs = max(params.epochs, *ends(params.search.get("epochs", [0])))  # a search's first trial has the run's own
    if params.search:
        trainings = min(params.trials, 1 + size(params.search))
        images = drawn * epochs * trainings
    else:
        trainings = 1 + params.folds
        images = (drawn + params.folds * drawn_in_fold(counts, params.folds)) * epochs
    for name in params.architectures:
        seconds = images / speeds[name] if speeds.get(name) else None
        price = seconds / 3600 * params.hour_price if seconds and params.hour_price else None
        rows.append({"name": name, "trainings": trainings, "images": images, "seconds": seconds, "price": price})
    return {"plan": rows, "drawn": drawn, "epochs": epochs}


def drawn_in_fold(counts: pd.DataFrame, folds: int) -> int:
    """Images that the training of a fold draws in an epoch, where each class's images are spread evenly over the folds.

    More than the training itself in a class that was undersampled, or has many images to validate: `train.parts` draws
    each image of the fold's training part at least once, and the class as often as the training itself does.
    """
    images = counts[["train", "train_drawn"]].min(axis=1) + counts["validation"]
    return int(np.maximum(images - images // max(1, folds), counts["train_drawn"]).sum())


def cost(metrics: Mapping[str, Any], hour_price: float) -> dict[str, Any]:
    """What a training took, as far as it noted it: seconds, those until its best epoch, GPU-seconds, and the price."""
    seconds, to_best = metrics.get("training_seconds"), metrics.get("seconds_to_best")
    gpus = metrics.get("gpus")
    return {
        "seconds": seconds,
        "seconds_to_best": to_best,
        "gpu_seconds": seconds * gpus if seconds and gpus else None,
        "price": seconds / 3600 * hour_price if seconds and hour_price else None,
    }


def cost_of_all(models: Iterable[Artifact], hour_price: float) -> dict[str, Any]:
    """What all trainings of a run took together, those of folds and of a search's trials too; as `cost`."""
    costs = [cost(model.metrics, hour_price) for model in models]
    sums = {name: sum(each[name] or 0 for each in costs) or None for name in ("seconds", "gpu_seconds", "price")}
    return {"runs": len(costs), **sums}


def _results(inputs: Inputs, params: ReportParams, pictures: Pictures) -> dict[str, Any]:
    decision = inputs.one("promote").json("decision.json")
    evaluate, resample = inputs.one("evaluate"), inputs.one("resample")
    evaluation = evaluate.json("evaluation.json")
    classwise, pairs = evaluate.table("classwise.parquet"), evaluate.table("confused_pairs.parquet")
    counts, photos = resample.table("counts.parquet"), inputs.one("cluster").table("classes.parquet")
    asked = resample.params
    min_per_class, train_share = int(asked["min_per_class"]), 1 - asked["validation_share"] - asked["test_share"]
    figures = [
        ("figures/f1.svg", "F1 by class", ""),
        ("figures/reliability.svg", "Reliability", "How often the model is right when it says that it is so sure."),
        ("figures/confusion.svg", "Confusion", "Rows: the class an image has. Columns: the class it was given."),
    ]
    board = _rows(evaluate.table("leaderboard.parquet"))
    best = {row["architecture"]: row for row in reversed(board)}  # of several trials the best stands for its network
    trained = {model.key: model for model in inputs.many("train")}
    return {
        "decision": decision,
        "reasons": sorted(decision["reasons"], key=lambda reason: bool(reason["passed"])),
        "changes": changes(decision),
        "evaluation": evaluation,
        "classwise": _rows(classwise),
        "card": evaluate.json("model_card.json"),
        "card_uri": _where(evaluate, "model_card.md"),
        "evaluate_folder": evaluate.folder,
        "operating": _rows(evaluate.table("operating.parquet")),
        "slices": _rows(evaluate.table("slices.parquet")),
        "pairs": _rows(pairs.head(12)),
        "need": in_need(classwise, counts, photos, pairs, min_per_class, train_share),
        "min_per_class": min_per_class,
        "figures": [shown for figure in figures if (shown := pictures.of(evaluate, *figure))],
        "gallery": pictures.of(evaluate, "errors.jpg", "Worst errors", "Wrong, and most sure of it, first."),
        "errors": _rows(evaluate.table("errors.parquet")) if evaluate.has("errors.parquet") else [],
        "suspect_gallery": pictures.of(
            evaluate, "suspects.jpg", "Labels to check", "The least probable label first, as many as fit."
        ),
        "suspects": _rows(evaluate.table("suspects.parquet")),
        "hour_price": params.hour_price,
        "leaderboard": board,
        "search": bool(params.search),
        "cost": cost_of_all(trained.values(), params.hour_price),
        "folds": _rows(evaluate.table("folds.parquet")),
        "models": [
            {
                "name": ", ".join(filter(None, (row["architecture"], row["trial"]))),
                "chosen": row["chosen"],
                "metrics": model.metrics,
                "folder": model.folder,
                "cost": cost(model.metrics, params.hour_price),
                "curves": pictures.of(model, "curves.svg", f"Learning curves: {row['architecture']}"),
                "batch": pictures.of(model, "train_batch.jpg", "What the network sees", "Augmented training images."),
            }
            for row in board
            if row is best[row["architecture"]]
            for model in [trained[row["model"]]]
        ],
    }


def _rows(table: pd.DataFrame) -> Rows:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _photographs(cluster: Artifact, dropped: bool, pictures: Pictures) -> dict[str, Any]:
    """What was found of photographs, which are left out of the training or, where they aren't `dropped`, kept."""
    photo = "left out as photographs" if dropped else "photographs, kept all the same"
    titles = {"photo": photo, "unsure": "unsure", "borderline": "borderline"}
    classes = cluster.table("classes.parquet").sort_values(["photo_share", "class"], ascending=[False, True])
    clean = set(classes.loc[~classes["contaminated"], "class"])
    sheets = []
    for sheet in cluster.json("sheets.json"):
        title = titles[sheet["kind"]]
        if sheet["kind"] == "borderline" and sheet["class"] in clean:
            title = "kept, but most like photographs"
        sheets.append((sheet["keys"], pictures.of(cluster, sheet["file"], f"{sheet['class']}: {title}")))
    return {
        "photo_classes": _rows(classes),
        "photos_dropped": dropped,
        "not_looked_for": _not_looked_for(cluster, set(classes["class"])),
        "photo_scatter": pictures.of(cluster, "figures/scatter.svg", "Illustrations and photographs apart"),
        "photo_sheets": [(keys, picture) for keys, picture in sheets if picture],
        "sheet_columns": SHEET_COLUMNS,
    }


def _not_looked_for(cluster: Artifact, classes: set[str]) -> str:
    """Why no photographs were looked for; empty where they were."""
    listed = cluster.params.get("contaminated", [])
    if not cluster.params.get("separate", True):
        return "the separation is switched off (separate)"
    if listed and not classes & set(listed):
        return f"no class is one of those listed as contaminated ({', '.join(listed)})"
    return ""


def _data(inputs: Inputs, pictures: Pictures) -> dict[str, Any]:
    validate, eda = inputs.one("validate"), inputs.one("eda")
    explored = eda.json("eda.json")
    findings = validate.json("findings.json")
    kinds = {"exact": "Groups of the same bytes, one a row", "near": "Groups that look alike, one a row"}
    sheets = [
        (sheet, pictures.of(eda, sheet["file"], kinds.get(sheet["kind"], sheet["class"])))
        for sheet in eda.json("sheets.json")
    ]
    return {
        "snapshot": inputs.one("snapshot").json("snapshot.json"),
        "findings": sorted(findings, key=lambda one: (bool(one["success"]), one["severity"] != "error")),
        "data_docs": _where(validate, "data_docs/index.html"),
        "eda_figures": [
            pictures.of(eda, f"figures/{each['name']}.svg", each["title"], each["caption"])
            for each in explored["figures"]
        ],
        "formats": _rows(eda.table("formats.parquet")),
        "unreadable": _rows(eda.table("quarantined.parquet")),
        "class_sheets": [picture for sheet, picture in sheets if sheet["kind"] == "class"],
        "duplicate_sheets": [(sheet["groups"], picture) for sheet, picture in sheets if sheet["kind"] != "class"],
        "exact_groups": eda.metrics["exact_groups"],
        "near_groups": eda.metrics["near_groups"],
    }


def _drift(drift: Artifact, pictures: Pictures) -> dict[str, Any]:
    facts = drift.json("drift.json")
    caption = "New images that moved it most, the strongest first."
    sheets = [
        pictures.of(drift, row["sheet"], row["measure"].capitalize(), caption)
        for row in facts["measures"]
        if row["sheet"]
    ]
    return {"drift": facts, "drift_sheets": sheets}


def _balance(resample: Artifact) -> dict[str, Any]:
    ledger = resample.table("ledger.parquet", ["class", "verdict"])
    table = pd.crosstab(ledger["class"], ledger["verdict"])
    verdicts = [name for name in VERDICTS if name in table]
    totals = {name: int(table[name].sum()) for name in verdicts}
    return {
        "counts": _rows(resample.table("counts.parquet")),
        "ledger": [{"class": name, **row} for name, row in table[verdicts].to_dict("index").items()],
        "ledger_totals": totals,
        "ledger_images": len(ledger),
        "verdicts": {name: VERDICTS[name] for name in verdicts},
        "ledger_file": _where(resample, "ledger.csv"),
        "used": totals.get("kept", 0),
    }


def _where(artifact: Artifact, name: str) -> str:
    return f"{name} in {artifact.folder}" if artifact.has(name) else ""


def lineage(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """These artifacts and all that they were made from, in the order of the workflow."""
    waiting, known = list(artifacts), dict[str, Artifact]()
    while waiting:
        artifact = waiting.pop()
        if artifact.key in known:
            continue
        known[artifact.key] = artifact
        for step, keys in artifact.inputs.items():
            found = (Artifact.find(artifact.store, step, key) for key in ([keys] if isinstance(keys, str) else keys))
            waiting.extend(made_from for made_from in found if made_from is not None)
    return sorted(known.values(), key=lambda artifact: (NAMES.index(artifact.step), artifact.key))


def _made(inputs: Inputs) -> dict[str, Any]:
    """What the run was made with: params, artifacts, seconds, versions."""
    artifacts = lineage(artifact for group in inputs.artifacts.values() for artifact in group)
    values: dict[str, list[str]] = {}
    versions: dict[str, list[str]] = {}
    for artifact in artifacts:
        for table, pairs in ((values, artifact.params), (versions, artifact.manifest["made_by"])):
            for name, value in pairs.items():
                text = "–" if value in ("", None) else str(value)
                if text not in table.setdefault(name, []):
                    table[name].append(text)
    fields = all_params.ScanParams.model_fields | all_params.TrainParams.model_fields | all_params.Params.model_fields
    longest = max(artifact.seconds for artifact in artifacts) or 1
    return {
        "params": [
            {"name": name, "values": found, "text": (fields[name].description or "") if name in fields else ""}
            for name, found in sorted(values.items())
        ],
        "versions": sorted(versions.items()),
        "artifacts": [
            {
                "step": artifact.step,
                "key": artifact.key,
                "seconds": artifact.seconds,
                "size": artifact.seconds / longest,
                "made_at": artifact.manifest["made_at"],
                "code": artifact.manifest["code"],
                "metrics": artifact.metrics,
            }
            for artifact in artifacts
        ],
        "seconds": sum(artifact.seconds for artifact in artifacts),
    }
