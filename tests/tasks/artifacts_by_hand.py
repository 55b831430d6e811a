"""Small artifacts of every step, made without running the steps: each with the files and columns that it promises.

    made = a_run(store, tmp_path, classes={"L2_3": 12, "L2_10": 30})
    run_step("report", made)

In each class the images 0 and 1 are the same bytes, 2 and 3 look alike, 4 can't be read, 5 is also in the next class,
6 and 7 are photographs.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from tasks.core.artifacts import Artifact, Output, artifact_key
from tasks.core.checkpoint import Checkpoint
from tasks.core.figures import contact_sheet, figure, label
from tasks.core.ledger import write_csv
from tasks.core.step import commit
from tasks.core.store import LocalStore, Store

Run = dict[str, Artifact | list[Artifact]]
CLASSES = {"L2_3": 14, "L2_10": 30, "L2_12": 20}


def output(folder: Path, store: Store, step: str) -> Output:
    """A fresh output folder."""
    made = folder / f"{step}-{len(list(folder.iterdir()))}"
    made.mkdir()
    return Output(made, store, Checkpoint(store, "made"))


def committed(out: Output, step: str, inputs: dict[str, Any] | None = None, **params: Any) -> Artifact:
    """Commit what was written to `out`."""
    made_of: dict[str, Any] = {"params": params, "inputs": inputs or {}, "observed": None, "code": "0" * 16}
    content = artifact_key(
        step, made_of["code"], params, made_of["inputs"], [path.read_bytes().hex() for _, path in out.files()]
    )
    manifest = made_of | {
        "step": step, "key": content, "metrics": out.metrics, "seconds": 1.5,
        "made_at": "2022-08-01T00:00:00+00:00", "made_by": {"python": "3.11.0", "numpy": "1.2.3"},
    }  # fmt: skip
    return commit(out.store, manifest, out)  # type: ignore[arg-type]


def images_table(classes: dict[str, int]) -> pd.DataFrame:
    """images.parquet of validate."""
    rows, random, names = [], np.random.default_rng(0), list(classes)
    for position, (name, count) in enumerate(classes.items()):
        for number in range(count):
            readable = number != 4
            content = f"{position}-{0 if number == 1 else number}"
            if number == 5:
                content = "in two classes"
            rows.append(
                {
                    "key": f"{name}/{number:04}.jpg", "class": name, "bytes": 1000 + number, "etag": content,
                    "status": "ok" if readable else "unreadable", "error": "" if readable else "truncated JPEG",
                    "note": "", "width": 300 * readable, "height": 400 * readable,
                    "format": ("png" if number % 5 == 2 else "jpeg") if readable else "",
                    "mode": "RGB" if readable else "",
                    "frames": 1, "orientation": 1, "has_alpha": False, "phash": "0" * 16,
                    "sha256": hashlib.sha256(content.encode()).hexdigest(),
                    "brightness": np.float32(readable * (230 - 90 * (number in (6, 7)) + random.normal(0, 5))),
                    "sharpness": np.float32(readable * random.uniform(10, 400)),
                    "hue": np.float32(30), "lightness": np.float32(0.8),
                    "saturation": np.float32(random.uniform(0, 0.6)),
                    "verdict": {1: "duplicate", 4: "quarantined", 5: "conflict"}.get(number, "kept"),
                    "reason": {
                        1: f"same bytes as {name}/0000.jpg", 4: "truncated JPEG",
                        5: f"same bytes as {names[position - 1]}/0005.jpg, in another class",
                    }.get(number, ""),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows).sort_values("key", ignore_index=True)
    readable = table["status"] == "ok"
    table["exact_group"] = table["sha256"].factorize()[0].astype("int32")
    alike = table["exact_group"].where(
        ~table["key"].str.endswith("/0003.jpg"),
        table["class"].map(table.loc[table["key"].str.endswith("/0002.jpg")].set_index("class")["exact_group"]),
    )
    table["duplicate_group"] = alike.astype("int32")
    table.loc[~readable, ["exact_group", "duplicate_group"]] = -1
    table["duplicates"] = table.groupby("duplicate_group")["key"].transform("size").astype("int32")
    return table


def picture(seed: int, side: int = 40) -> np.ndarray:
    """A small picture, uint8 RGB."""
    return cv2.resize(np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8), (side, side))


def scanned(store: LocalStore, folder: Path, images: pd.DataFrame) -> list[Artifact]:
    """Two shards of a scan: thumbnails of the readable images."""
    readable = images.loc[images["status"] == "ok", "key"].tolist()
    shards = []
    for shard in (0, 1):
        out = output(folder, store, "scan")
        keys = readable[shard::2]
        jpegs = [cv2.imencode(".jpg", picture(number))[1].tobytes() for number in range(len(keys))]
        out.table("thumbnails.parquet", pd.DataFrame({"key": keys, "jpeg": jpegs}))
        out.metrics = {"images": len(keys)}
        shards.append(committed(out, "scan", {"snapshot": "s"}, max_megapixels=100.0, shard=shard, shards=2))
    return shards


def validated(store: LocalStore, folder: Path, images: pd.DataFrame, scans: Sequence[Artifact]) -> Artifact:
    """validate, with one failed warning."""
    out = output(folder, store, "validate")
    out.table("images.parquet", images)
    out.json(
        "findings.json",
        [
            {"expectation": "decodable share", "severity": "error", "success": True, "observed": "97.0 %",
             "allowed": "at least 95 %", "message": "Most files can be read."},
            {"expectation": "images per class", "severity": "warning", "success": False,
             "observed": f"{images['class'].iloc[0]}: 9", "allowed": "at least 50", "message": "A class is small."},
        ],
    )  # fmt: skip
    out.text("data_docs/index.html", "<html></html>")
    out.metrics = {"images": len(images), "quarantined": 3, "warnings": 1}
    return committed(out, "validate", {"scan": [scan.key for scan in scans]}, near_duplicate_bits=4)


def a_run(
    store: LocalStore,
    folder: Path,
    classes: dict[str, int] = CLASSES,
    architectures: Sequence[str] = ("baseline",),
    champion: bool = True,
    photos: bool = True,
    verdict: str = "HOLD",
    dataset: str = "s3://pictures/<b>illustrations</b>",
) -> Run:
    """The inputs of `report` except eda, which is cheap enough to run: `made | {"eda": run_step("eda", …)}`."""
    folder = folder / "by-hand"
    folder.mkdir(exist_ok=True)
    images = images_table(classes)
    names = sorted(classes)
    scans = scanned(store, folder, images)
    made: Run = {"validate": validated(store, folder, images, scans), "scan": list(scans)}

    out = output(folder, store, "snapshot")
    counts = {name: int(count) for name, count in images["class"].value_counts().items()}
    out.json(
        "snapshot.json",
        {"dataset": dataset, "versioned": False, "note": "This data set keeps no versions.",
         "images": len(images), "bytes": int(images["bytes"].sum()), "classes": counts, "ignored": {"hidden file": 2},
         "newest": "2022-07-29T12:34:56+00:00"},
    )  # fmt: skip
    listed = images[["key", "class", "bytes", "etag"]].assign(version=pd.array([None] * len(images), "str"))
    listed["modified"] = pd.Timestamp("2022-07-29", tz="UTC")
    out.table("images.parquet", listed)
    out.metrics = {"images": len(images)}
    made["snapshot"] = committed(out, "snapshot")

    kept = images.loc[images["verdict"] == "kept"].copy()
    kept["photo"] = photos & kept["key"].str.contains("000[67]")
    made["cluster"] = _clustered(store, folder, kept, photos)
    made["drift"] = _drifted(store, folder, champion, names)
    made["resample"] = _resampled(store, folder, images, kept, names)
    made["train"] = [_trained(store, folder, name, number) for number, name in enumerate(architectures)]
    made["evaluate"] = _evaluated(store, folder, names, made["train"])
    made["promote"] = _promoted(store, folder, names, made["train"][0], champion, verdict)
    return made


def _clustered(store: LocalStore, folder: Path, kept: pd.DataFrame, photos: bool) -> Artifact:
    out = output(folder, store, "cluster")
    table = kept.groupby("class").agg(images=("key", "size"), photos=("photo", "sum")).reset_index()
    table["unsure"] = int(photos)
    table["contaminated"] = table["photos"] > 0
    table["photo_share"] = table["photos"] / table["images"]
    table["note"] = ""
    out.table("classes.parquet", table)
    sheets = []
    for number, name in enumerate(table["class"]):
        for kind in ("photo", "borderline") if photos else ("borderline",):
            file = f"sheets/{number:02}-{kind}.jpg"
            contact_sheet([picture(number), picture(99)], out.path(file))
            keys = [f"{name}/0006.jpg", f"{name}/0007.jpg"]
            sheets.append({"class": name, "kind": kind, "file": file, "images": 2, "keys": keys})
    out.json("sheets.json", sheets)
    _draw(out, "figures/scatter.svg")
    out.metrics = {"images": len(kept), "photos": int(kept["photo"].sum())}
    return committed(out, "cluster", photo_threshold=0.8, separate=True, review="")


def _drifted(store: LocalStore, folder: Path, champion: bool, names: list[str]) -> Artifact:
    out = output(folder, store, "drift")
    measures = [
        {"measure": "class", "unit": "share", "distance": 0.31, "drifted": True, "before": f"{names[0]} 10.0 %",
         "now": f"{names[0]} 41.0 %", "sheet": "sheets/class.jpg", "keys": [f"{names[0]}/0000.jpg"]},
        {"measure": "brightness", "unit": "spread", "distance": 0.05, "drifted": False, "before": "180 of 255",
         "now": "176 of 255", "sheet": "", "keys": []},
    ]  # fmt: skip
    contact_sheet([picture(5)], out.path("sheets/class.jpg"))
    reference = {"model": "m", "newest": "2022-07-01T00:00:00+00:00", "images": 50}
    out.json(
        "drift.json",
        {"reference": reference if champion else None, "images": 60, "threshold": 0.2,
         "reason": "" if champion else "There is no champion yet.", "measures": measures if champion else [],
         "other_params": ["photo_threshold", "separate"] if champion else []},
    )  # fmt: skip
    out.metrics = {"images": 60, "drifted": int(champion)}
    return committed(out, "drift", drift_threshold=0.2)


def _resampled(store: LocalStore, folder: Path, images: pd.DataFrame, kept: pd.DataFrame, names: list[str]) -> Artifact:
    out = output(folder, store, "resample")
    photo_keys = set(kept.loc[kept["photo"], "key"])
    ledger = images[["key", "class", "verdict", "reason", "duplicate_group", "sha256"]].copy()
    ledger.loc[ledger["key"].isin(photo_keys), "verdict"] = "photo"
    ledger["part"] = np.where(ledger["verdict"] == "kept", "train", "")
    ledger["copies"] = (ledger["part"] == "train").astype("int32")
    asked = ledger["verdict"].isin(["kept", "photo"])
    ledger["decided_by"], ledger["photo_probability"] = np.where(asked, "clustering", "validation"), 0.1
    out.table("ledger.parquet", ledger)
    write_csv(ledger, out.path("ledger.csv"))
    used = ledger.loc[ledger["verdict"] == "kept"].groupby("class").size()
    counts = pd.DataFrame({"class": names, "snapshot": images.groupby("class").size().reindex(names).to_numpy()})
    counts["kept"] = counts["class"].map(used).fillna(0).astype(int)
    counts["train"], counts["train_drawn"] = counts["kept"] - 4, 40
    counts["validation"] = counts["test"] = 2
    out.table("counts.parquet", counts)
    out.json("classes.json", names)
    out.metrics = {
        "images": int(counts["kept"].sum()),
        "classes": len(names),
        **{part: int(counts[part].sum()) for part in ("train", "train_drawn", "validation", "test")},
    }
    shares = {"validation_share": 0.1, "test_share": 0.1}
    return committed(out, "resample", min_per_class=40, max_per_class=120, drop_photos=True, **shares)


def _trained(store: LocalStore, folder: Path, architecture: str, number: int) -> Artifact:
    out = output(folder, store, "train")
    _draw(out, "curves.svg")
    contact_sheet([picture(seed) for seed in range(16)], out.path("train_batch.jpg"), columns=8)
    out.json("model.json", {"architecture": architecture, "parameters": 123456, "image_size": 64, "best_epoch": 7})
    out.text("history.csv", "epoch,loss\n1,2.0\n")
    out.metrics = {
        "architecture": architecture, "parameters": 123456, "epochs": 9, "best_epoch": 7,
        "val_macro_f1": 0.8 - number / 10, "val_accuracy": 0.81, "val_loss": 0.6, "images_per_second": 900.0,
        "training_seconds": 200.0, "seconds_to_best": 150.0, "gpus": 2,
        "gpu_memory_bytes": 3 * 2**30, "gpu_use": 0.87,
    }  # fmt: skip
    residual = {"bottleneck": "output"} if architecture == "residual" else {}
    return committed(out, "train", architecture=architecture, image_size=64, epochs=24, seed=0, **residual)


def _evaluated(store: LocalStore, folder: Path, names: list[str], trained: Sequence[Artifact]) -> Artifact:
    out = output(folder, store, "evaluate")
    chosen = trained[0]
    architecture = chosen.params["architecture"]
    out.json(
        "evaluation.json",
        {"model": chosen.key, "architecture": architecture, "accuracy": 0.8, "ece": 0.04, "images": 2 * len(names),
         "ece_uncalibrated": 0.09, "temperature": 1.6, "suspects": {"judged": 40, "found": 1},
         "macro": {"precision": 0.81, "recall": 0.79, "f1": 0.789, "f1_low": 0.71, "f1_high": 0.84},
         "cross_validation": [
             {"architecture": architecture, "folds": 5, "mean": 0.771, "deviation": 0.02, "low": 0.73, "high": 0.812}
         ]},
    )  # fmt: skip
    out.table(
        "folds.parquet",
        pd.DataFrame(
            {
                "architecture": architecture, "fold": range(1, 6), "val_macro_f1": [0.75, 0.76, 0.77, 0.785, 0.79],
                "val_accuracy": 0.8, "epochs": 9,
            }
        ),
    )  # fmt: skip
    f1 = np.linspace(0.5, 1, len(names))
    f1[-1] = np.nan  # a class without test images
    out.table(
        "classwise.parquet",
        pd.DataFrame(
            {
                "class": names,
                "precision": f1,
                "recall": f1,
                "f1": f1,
                "f1_low": f1 - 0.1,
                "f1_high": f1 + 0.1,
                "support": 2,
                "accuracy": f1,
            }
        ),
    )
    out.table(
        "operating.parquet",
        pd.DataFrame(
            {
                "coverage": [1.0, 0.5],
                "confidence": [0.31, 0.92],
                "images": [6, 3],
                "accuracy": [0.8, 1.0],
                "low": [0.6, 0.7],
                "high": [0.9, 1.0],
                "errors": [1, 0],
            }
        ),
    )
    out.table(
        "slices.parquet",
        pd.DataFrame(
            {
                "by": ["cluster", "brightness"],
                "slice": [f"{names[0]}, group 1", "12 to 80 of 255"],
                "images": [12, 20],
                "accuracy": [0.25, 0.8],
                "low": [0.09, 0.6],
                "high": [0.53, 0.92],
                "expected": [0.75, 0.8],
                "weak": [True, False],
            }
        ),
    )
    out.table(
        "leaderboard.parquet",
        pd.DataFrame(
            {
                "architecture": [model.params["architecture"] for model in trained],
                "trial": "",
                "model": [model.key for model in trained],
                "val_macro_f1": [model.metrics["val_macro_f1"] for model in trained],
                "val_accuracy": 0.8, "test_macro_f1": 0.789, "test_accuracy": 0.8, "parameters": 123456, "epochs": 9,
                "chosen": [model is chosen for model in trained],
            }
        ),
    )  # fmt: skip
    out.table(
        "confused_pairs.parquet",
        pd.DataFrame({"class": names[:1], "predicted": names[1:2], "images": [1], "share": [0.5]}),
    )
    out.table(
        "errors.parquet",
        pd.DataFrame(
            {
                "key": [f"{names[0]}/0009.jpg"],
                "class": names[:1],
                "predicted": names[1:2],
                "confidence": [0.97],
                "p_true": [0.01],
            }
        ),
    )
    contact_sheet([picture(3)], out.path("errors.jpg"))
    out.table(
        "suspects.parquet",
        pd.DataFrame(
            {
                "key": [f"{names[0]}/0010.jpg"],
                "class": names[:1],
                "part": ["validation"],
                "suggested": names[1:2],
                "p_class": [0.02],
                "p_suggested": [0.95],
            }
        ),
    )
    contact_sheet([picture(4)], out.path("suspects.jpg"))
    out.json(
        "model_card.json",
        [
            {"title": "Results", "lines": [f"It tells {names[0]} apart."], "head": ["Class", "F1"],
             "rows": [[name, "0.500"] for name in names]},
            {"title": "Limits", "lines": ["Weaker where it is dark.", "Tested on few images."], "head": [], "rows": []},
        ],
    )  # fmt: skip
    out.text("model_card.md", "# Card")
    for name in ("confusion", "reliability", "f1"):
        _draw(out, f"figures/{name}.svg", names)
    out.metrics = {"images": 2 * len(names), "model": chosen.key, "architecture": architecture, "macro_f1": 0.789}
    return committed(out, "evaluate", worst_errors=24)


def _promoted(
    store: LocalStore, folder: Path, names: list[str], chosen: Artifact, champion: bool, verdict: str
) -> Artifact:
    out = output(folder, store, "promote")
    per_class = [
        {"class": name, "images": 2, "champion_f1": 0.75, "candidate_f1": 0.75 + delta, "delta": delta}
        for name, delta in zip(names, np.resize([0.1, -0.1], len(names)).tolist(), strict=True)
    ]
    per_class[-1] |= {"candidate_f1": None, "delta": None}
    model = {"model": chosen.key, "artifact": chosen.folder, "architecture": chosen.params["architecture"]}
    comparison = {
        "images": 2 * len(names), "candidate_macro_f1": 0.789, "champion_macro_f1": 0.775, "delta_macro_f1": 0.014,
        "interval": [-0.01, 0.04], "mcnemar": {"champion_only": 2, "candidate_only": 3, "p": 1.0},
        "per_class": per_class,
    }  # fmt: skip
    checks = [("floor", True, 0.789, 0.5, "0.789 is above the floor of 0.5.")]
    if verdict == "HOLD":
        checks.append(("class drop", False, 0.1, 0.05, f"{names[0]} lost 0.100 F1; allowed: 0.05."))
    out.json(
        "decision.json",
        {
            "verdict": verdict,
            "candidate": model | {"macro_f1": 0.789},
            "champion": model | {"model": "f" * 32, "macro_f1": 0.775} if champion else None,
            "reasons": [
                dict(zip(("check", "passed", "observed", "required", "message"), check, strict=True))
                for check in checks
            ],
            "comparison": comparison if champion else None,
            "notes": ["The champion was trained before the class “new” existed."] if champion else [],
        },
    )
    out.metrics = {"verdict": verdict, "macro_f1": 0.789}
    return committed(out, "promote", min_macro_f1=0.5, max_class_drop=0.05, promote=True)


def _draw(out: Output, name: str, names: Sequence[str] = ("a", "b")) -> None:
    out.path(name).write_bytes(_drawn(tuple(names)))


@cache
def _drawn(names: tuple[str, ...]) -> bytes:
    """An SVG: most of what a run by hand takes, so each is drawn once."""
    with tempfile.TemporaryDirectory() as folder:
        with figure(Path(folder) / "figure.svg", 6, 3) as axes:
            axes.bar([label(each) for each in names], range(len(names)))
        return (Path(folder) / "figure.svg").read_bytes()
