"""A whole retraining, by Gesso and as it was done in 2022, on the same images, split and network.

    make bench-retrain DATA=folder       # with images/<class>/… and truth.csv: path, class, kind

`baseline` at 224 px, batches of 64, 5 epochs, 250..1000 training images a class. Each way runs in one process of its
own, one after the other: `benchmarks/original.py`, which a person tells what the photographs are; and Gesso's steps
from snapshot to report, which nobody tells anything. One image in a hundred is held back, and arrives before a second
run. The test images are the illustrations of the split's test part; neither way trains on them. Ends with one line of
JSON:

    speedup             seconds of the original / seconds of Gesso (bar: 2.5)
    cpu_speedup         the same in CPU time, which other work on the machine changes less
    memory_ratio        most memory of Gesso / most memory of the original (bar: 1)
    f1_gain             macro F1 of Gesso - macro F1 of the original, on the same test images (bar: 0)
    second_run_speedup  the original's data preparation, which starts anew each time / that of Gesso's second run, from
                        snapshot to resample (bar: 20)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PREPARATION = ("snapshot", "scan", "validate", "eda", "cluster", "drift", "resample", "pack")
TRAINING = ("train", "evaluate", "promote", "report")


def steps(dataset: Path, store: str, names: tuple[str, ...], epochs: int) -> dict[str, Any]:
    """Run these steps; seconds of each, and its artifact."""
    from tasks.core.params import Params
    from tasks.core.step import execute, load

    given = {"architectures": ["baseline"], "epochs": epochs, "batch_size": 64, "image_size": 224, "promote": False}
    params = Params.of({"preset": "original", "dataset": str(dataset)} | given)
    made: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name in names:
        step, started = load(name), time.perf_counter()
        inputs = {each.rstrip("*?"): made[each.rstrip("*?")] for each in step.inputs if each.rstrip("*?") in made}
        instance: dict[str, Any] = {"architecture": "baseline"} if name == "train" else {}
        made[name] = execute(name, inputs, params.section(step.params, **instance), store).artifact.uri
        seconds[name] = time.perf_counter() - started
    return {"seconds": seconds, "made": made}


def told(data: Path, dataset: Path, store: str, test: Path) -> pd.DataFrame:
    """The split that both ways use and what the person knows: key, class, part, photo.

    The parts are Gesso's, which go by hashes; of the test part only illustrations are used.
    """
    from tasks.core.artifacts import Artifact
    from tasks.resample import split

    made = steps(dataset, store, ("snapshot", "scan", "validate"), 1)["made"]
    images = Artifact.open(made["validate"]).table("images.parquet")
    images["part"] = split(images, 0.1, 0.1)
    truth = pd.read_csv(data / "truth.csv")
    kinds = dict(zip(truth["path"].str.removeprefix("images/"), truth["kind"], strict=True))
    images["photo"] = images["key"].map(kinds) == "photo"
    usable = (images["part"] != "") & ~(images["photo"] & (images["part"] == "test"))
    table = images.loc[usable, ["key", "class", "part", "photo"]]
    table.to_csv(test, index=False)
    return table


def measured(command: list[str]) -> dict[str, float]:
    """Run a process: its seconds, CPU seconds and the most memory it held [GB]."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}.")
    return {
        "seconds": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "gb": usage.ru_maxrss / 2**20,
    }


def macro_f1(classes: "pd.Series[str]", predicted: "pd.Series[str]") -> float:
    """Macro F1 over the classes of the test images."""
    from sklearn.metrics import f1_score

    return float(f1_score(classes, predicted, average="macro", labels=sorted(set(classes)), zero_division=0))


def predicted_by_gesso(evaluation: str, dataset: Path, keys: "pd.Series[str]") -> list[str]:
    """The class that the model of this evaluation gives each image."""
    from tasks.core.artifacts import Artifact
    from tasks.predict import Picture, predict

    pictures = [Picture(key, (dataset / key).read_bytes) for key in keys]
    return [str(row["class"]) for row in predict(Artifact.open(evaluation), pictures, top=1)]


def linked(data: Path, folder: Path, limit: int | None) -> list[tuple[Path, Path]]:
    """Link the images into `folder`, but for one in a hundred: of those, where they are and where they will be."""
    files = sorted(path for path in (data / "images").rglob("*") if path.is_file())
    chosen = np.random.default_rng(0).permutation(len(files))[:limit]
    late = []
    for number, at in enumerate(chosen):
        target = folder / files[at].relative_to(data / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 50:
            late.append((files[at], target))
        else:
            target.symlink_to(files[at])
    return late


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Run both ways in this folder, print the table, end with one line of JSON."""
    dataset, store, csv = folder / "images", str(folder / "store"), folder / "told.csv"
    late = linked(options.data, dataset, options.limit)
    os.environ["GESSO_HOME"] = str(folder / "home")
    told(options.data, dataset, str(folder / "other"), csv)
    epochs, original, gesso = f"--epochs={options.epochs}", folder / "original.json", folder / "gesso.json"

    def by_gesso(names: str) -> tuple[dict[str, float], dict[str, Any]]:
        steps = ["--steps", str(dataset), store, names, str(gesso)]
        command = [sys.executable, "-m", "benchmarks.retrain", "--data", str(options.data), epochs, *steps]
        return measured(command), json.loads(gesso.read_text())

    words = ["--images", str(dataset), "--told", str(csv), "--work", str(folder / "work"), "--answer", str(original)]
    old = measured([sys.executable, "-m", "benchmarks.original", epochs, *words])
    answer = json.loads(original.read_text())
    new, first = by_gesso("all")
    for source, target in late:
        target.symlink_to(source)
    _, second = by_gesso("preparation")

    predictions = pd.DataFrame(answer["predictions"])
    old_f1 = macro_f1(predictions["class"], predictions["predicted"])
    keys = predictions["class"] + "/" + predictions["file"]
    found = predicted_by_gesso(first["made"]["evaluate"], dataset, keys)
    new_f1 = macro_f1(predictions["class"], pd.Series(found))

    print(f"{'seconds of Gesso':<20} {'first run':>10} {'second':>10}")
    for name, seconds in first["seconds"].items():
        print(f"{name:<20} {seconds:>10.2f} {second['seconds'].get(name, float('nan')):>10.2f}")
    print(f"\n{'':<20} {'original':>10} {'Gesso':>10}")
    for what in ("seconds", "cpu", "gb"):
        print(f"{what:<20} {old[what]:>10.2f} {new[what]:>10.2f}")
    again = sum(second["seconds"].values())
    prepared = sum(first["seconds"][name] for name in PREPARATION)
    print(f"{'data preparation':<20} {answer['preparation']:>10.2f} {prepared:>10.2f}   second run {again:.2f}")
    print(f"{'macro F1':<20} {old_f1:>10.3f} {new_f1:>10.3f}   on {len(found):,} images")
    figures = {
        "speedup": old["seconds"] / new["seconds"],
        "cpu_speedup": old["cpu"] / new["cpu"],
        "memory_ratio": new["gb"] / old["gb"],
        "f1_gain": new_f1 - old_f1,
        "second_run_speedup": answer["preparation"] / again,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def main() -> None:
    """Run both ways, print the table, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.retrain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images/<class>/… and truth.csv")
    parser.add_argument("--limit", type=int, help="so many images only, to try it out")
    parser.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--steps", nargs=4, metavar=("DATASET", "STORE", "STEPS", "ANSWER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        dataset, store, names, answer = options.steps
        done = steps(Path(dataset), store, PREPARATION + (TRAINING if names == "all" else ()), options.epochs)
        Path(answer).write_text(json.dumps(done))
        return
    with tempfile.TemporaryDirectory() as name:
        compare(options, Path(name))


if __name__ == "__main__":
    main()
