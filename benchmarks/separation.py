"""Gesso's separation of photographs from illustrations, on a data set whose truth is known, next to other ways.

    make bench-separation DATA=folder       # with images/<class>/… and truth.csv: path, class, kind

Gesso is told nothing. The references are told which classes hold photographs, and which of two clusters they are: the
2022 original's (Ward on means of hue, lightness and saturation), Ward and k-means on raw pixels, DBSCAN; and a
supervised model, cross-validated, that sees the truth. Then Gesso is tried where the data set is changed: contamination
resampled, a class taken out, photographs put into painting classes, few or many photographs in one class, small
classes, fewer images, fewer classes, each constant moved by a fifth. Prints tables, and ends with one line of JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.cluster import SHEET_IMAGES
from tasks.core.artifacts import Artifact
from tasks.core.step import execute, load
from tasks.vision.separation import PRIOR, Separation, Settings, separate

Truth = npt.NDArray[np.bool_]
DRAWS = 5
SHARES = (5, 15, 30, 50, 75)
HOSTS, GUESTS = ("L2_33", "L2_34"), ("L2_3", "L2_21", "L2_24")  # where a data set has them all
THRESHOLD, UNSURE = 0.8, 0.5


class Bench:
    """A data set's features, classes and truth, and Gesso's probabilities on any part of it."""

    def __init__(self, data: Path) -> None:
        with tempfile.TemporaryDirectory() as store:
            scanned, features = scan(data / "images", store)
        truth = pd.read_csv(data / "truth.csv").assign(key=lambda table: table["path"].str.removeprefix("images/"))
        table = scanned.merge(truth[["key", "kind"]], on="key")
        features = features.set_index("key").loc[table["key"]]
        self.paths = [data / "images" / key for key in table["key"]]
        self.values, self.names = features.to_numpy(np.float32), list(features.columns)
        self.classes = table["class"].to_numpy(str)
        self.photo: Truth = (table["kind"] == "photo").to_numpy()

    def separated(self, rows: Any, classes: Any = None, settings: Settings | None = None) -> Separation:
        """Gesso's finding, as if these rows, in these classes, were the data set."""
        labels = (self.classes if classes is None else classes)[rows].tolist()
        return separate(self.values[rows], self.names, labels, settings)

    def probability(self, rows: Any, classes: Any = None, settings: Settings | None = None) -> npt.NDArray[np.float64]:
        """The same, each image's probability alone."""
        return self.separated(rows, classes, settings).probability

    def contaminated(self) -> list[str]:
        return sorted(set(self.classes[self.photo].tolist()))


def scan(dataset: Path, store: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Kept images by key and class, and all features."""

    def step(name: str, inputs: dict[str, str], **params: object) -> Artifact:
        return execute(name, inputs, load(name).params.of(params), store).artifact

    snapshot = step("snapshot", {}, dataset=str(dataset))
    scanned = step("scan", {"snapshot": snapshot.uri})
    validated = step("validate", {"scan": scanned.uri}).table("images.parquet", ["key", "class", "verdict"])
    kept = validated.loc[validated["verdict"] == "kept", ["key", "class"]]
    return kept, scanned.table("features.parquet")


def f1(truth: Truth, found: Truth) -> float:
    """F1 of photographs; NaN where there are none."""
    both = 2 * int((truth & found).sum())
    return both / (both + int((truth ^ found).sum())) if truth.any() else float("nan")


def lost(truth: Truth, found: Truth) -> float:
    """Share of the illustrations that was taken for photographs."""
    return float((found & ~truth).sum() / max(1, (~truth).sum()))


def calibration_error(probability: npt.NDArray[np.float64], truth: Truth) -> float:
    """Expected calibration error in ten bins."""
    bins = np.minimum((probability * 10).astype(int), 9)
    sizes = np.bincount(bins, minlength=10)
    gaps = np.bincount(bins, probability, 10) - np.bincount(bins, truth, 10)
    return float(np.abs(gaps).sum() / sizes.sum())


def references(bench: Bench) -> Iterator[tuple[str, Truth]]:
    """Name and found photographs of each other way."""
    from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def by_class(rows: npt.NDArray[Any], cluster: Callable[[Any], npt.NDArray[Any]]) -> Truth:
        found = np.zeros(len(rows), bool)
        for name in bench.contaminated():
            inside = np.flatnonzero(bench.classes == name)
            second = cluster(rows[inside]) == 1
            found[inside] = max(second, ~second, key=lambda photos: f1(bench.photo[inside], photos))
        return found

    def outliers(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scaled = StandardScaler().fit_transform(rows)
        nearest = np.sort(np.linalg.norm(scaled[:, None] - scaled, axis=2), axis=1)[:, 5]
        return np.asarray(DBSCAN(eps=float(np.median(nearest)) * 1.5).fit_predict(scaled) == -1, int)

    def ward(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(AgglomerativeClustering(2).fit_predict(rows))

    small = [
        cv2.resize(np.asarray(cv2.imread(str(path))), (32, 32), interpolation=cv2.INTER_AREA) for path in bench.paths
    ]
    pixels = np.array([picture.ravel() for picture in small], np.float32) / 255
    means = np.array([
        cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2HLS).mean((0, 1)) for path in bench.paths
    ])  # fmt: skip
    supervised = make_pipeline(StandardScaler(), PCA(60, random_state=0), LogisticRegression(max_iter=1000))
    inside = np.isin(bench.classes, bench.contaminated())
    told = np.zeros(len(inside), bool)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    told[inside] = cross_val_predict(supervised, bench.values[inside], bench.photo[inside], cv=folds)
    yield "Ward, HLS means (the original's)", by_class(means, ward)
    scaled = by_class(means, lambda rows: ward(StandardScaler().fit_transform(rows)))
    yield "Ward, HLS means, standardised", scaled
    yield "Ward, raw pixels", by_class(pixels, ward)
    yield "k-means, raw pixels", by_class(pixels, lambda rows: KMeans(2, n_init=5, random_state=0).fit_predict(rows))
    yield "DBSCAN, HLS means", by_class(means, outliers)
    yield "supervised, in those classes", told
    yield "supervised, all images", cross_val_predict(supervised, bench.values, bench.photo, cv=folds)


def resampled(bench: Bench, share: float, draw: int) -> npt.NDArray[np.intp]:
    """Rows with this share of photographs in each contaminated class."""
    random, keep = np.random.default_rng([round(share * 100), draw]), np.ones(len(bench.photo), bool)
    for name in bench.contaminated():
        photos = np.flatnonzero((bench.classes == name) & bench.photo)
        drawn = np.flatnonzero((bench.classes == name) & ~bench.photo)
        wanted = round(share / (1 - share) * len(drawn))
        some, size = (photos, wanted) if wanted <= len(photos) else (drawn, round(len(photos) * (1 - share) / share))
        keep[some] = False
        keep[random.choice(some, size, replace=False)] = True
    return np.flatnonzero(keep)


def without_photographs(bench: Bench) -> Iterator[npt.NDArray[np.intp]]:
    """Rows of all illustrations, then of three fifths of them, drawn at random."""
    drawn = np.flatnonzero(~bench.photo)
    yield drawn
    for draw in range(DRAWS):
        yield np.sort(np.random.default_rng([0, draw]).choice(drawn, round(0.6 * len(drawn)), replace=False))


def smaller(bench: Bench) -> Iterator[tuple[str, list[npt.NDArray[np.intp]]]]:
    """Smaller data sets: what was done, and the rows of each draw. At least one class of each holds photographs."""
    contaminated, names = bench.contaminated(), sorted(set(bench.classes.tolist()))
    for share in (0.15, 0.3, 0.6):
        draws = [np.random.default_rng([round(share * 100), draw]) for draw in range(2 * DRAWS)]
        yield f"{share:.0%} of the images", [np.flatnonzero(draw.random(len(bench.photo)) < share) for draw in draws]
    for count in (4, 6):
        some = []
        for draw in range(2 * DRAWS):
            random = np.random.default_rng([count, draw])
            first = random.choice(contaminated)
            others = random.choice([name for name in names if name != first], min(count, len(names)) - 1, replace=False)
            some.append(np.flatnonzero(np.isin(bench.classes, [first, *others])))
        yield f"{count} of the classes", some


def hosts_and_guests(bench: Bench, hosts: Sequence[str], guests: Sequence[str]) -> tuple[list[str], list[str]]:
    """Classes among which photographs are put, and classes that these come from.

    Where the data set lacks some that are named: the two clean classes that lie nearest to photographs, and the three
    classes with the most photographs.
    """
    contaminated = bench.contaminated()
    clean = sorted(set(bench.classes.tolist()) - set(contaminated))
    if not set(hosts) <= set(clean):
        score = separate(bench.values, bench.names, bench.classes.tolist()).score
        middle = {name: float(np.median(score[bench.classes == name])) for name in clean}
        hosts = sorted(clean, key=lambda name: -middle[name])[:2]
    if not set(guests) <= set(contaminated):
        many = {name: int((bench.photo & (bench.classes == name)).sum()) for name in contaminated}
        guests = sorted(contaminated, key=lambda name: -many[name])[:3]
    return list(hosts), list(guests)


def with_guests(bench: Bench, host: str, guests: str, share: float = 0.3) -> npt.NDArray[Any]:
    """Classes where photographs of one class were moved into another until they are this share of it."""
    pool = np.flatnonzero(bench.photo & (bench.classes == guests))
    size = min(len(pool), round((bench.classes == host).sum() * share / (1 - share)))
    classes = bench.classes.copy()
    classes[np.random.default_rng(7).choice(pool, size, replace=False)] = host
    return classes


def remixed(
    bench: Bench, hosts: Sequence[str], guests: Sequence[str]
) -> Iterator[tuple[str, str | None, npt.NDArray[np.intp], npt.NDArray[Any]]]:
    """Other data sets made of this one, at the ends of what is asked: what was done, the class in question (None: all),
    rows, classes. Where photographs or drawings of a class are drawn at random, there are several draws.
    """
    everything = np.arange(len(bench.photo))
    many = sorted(bench.contaminated(), key=lambda name: -int((bench.photo & (bench.classes == name)).sum()))
    for some in (*([name] for name in many), many[:2]):
        inside = np.isin(bench.classes, some)
        yield f"photographs in {', '.join(some)} alone", None, np.flatnonzero(inside | ~bench.photo), bench.classes
    for share, most in ((0.02, None), (0.9, None), (0.1, 60), (0.5, 60)):
        for name in many:
            images = int((bench.classes == name).sum())
            photos, drawn = (np.flatnonzero((bench.classes == name) & (bench.photo == side)) for side in (True, False))
            others = np.flatnonzero(bench.classes != name)
            count = round(min(len(photos), len(drawn) * share / (1 - share), share * (most or images)))
            rest = min(len(drawn), round(count * (1 - share) / share))
            for draw in range(DRAWS):
                random = np.random.default_rng([round(share * 100), draw])
                parts = [random.choice(photos, count, replace=False), random.choice(drawn, rest, replace=False), others]
                what = f"{share:.0%} of {f'{most} of ' if most else ''}{name}"
                yield what, name, np.sort(np.concatenate(parts)), bench.classes
    largest = max(set(bench.classes[~bench.photo].tolist()) - set(many), key=lambda n: int((bench.classes == n).sum()))
    for host, share in ((largest, 0.02), *((host, share) for share in (0.05, 0.1, 0.5) for host in hosts)):
        for guest in guests:
            yield f"{guest} in {host}: {share:.0%}", host, everything, with_guests(bench, host, guest, share)


def fate(judged: Separation, truth: Truth, labels: npt.NDArray[Any], asked: str | None) -> dict[str, Any]:
    """What became of the images of the class that is asked for (None: of all): F1, and of the photographs those that
    were found, are unsure, head their class's contact sheet of what was kept, or are shown to nobody.
    """
    photos = judged.probability >= THRESHOLD
    unsure = (judged.probability >= UNSURE) & ~photos
    inside, sheet = (labels == asked) | (asked is None), np.zeros(len(truth), bool)
    for name in set(labels[inside].tolist()):
        kept = np.flatnonzero((labels == name) & ~photos & ~unsure)
        sheet[kept[np.argsort(-judged.score[kept], kind="stable")[: SHEET_IMAGES // 2]]] = True
    truth = truth & inside
    return {
        "F1": f1(truth[inside], photos[inside]),
        "lost": lost(truth[inside], photos[inside]),
        "photographs": truth.sum(),
        "found": (truth & photos).sum(),
        "unsure": (truth & unsure).sum(),
        "of unsure": unsure[inside].sum(),
        "on the sheet": (truth & sheet).sum(),
        "not shown": (truth & ~photos & ~unsure & ~sheet).sum(),
    }


def moved() -> Iterator[tuple[str, Settings]]:
    """Each of the method's constants a fifth lower and higher."""
    for field in fields(Settings):
        value = getattr(Settings(), field.name)
        for factor in (0.8, 1.2):
            other = type(value)(round(value * factor) if isinstance(value, int) else value * factor)
            yield f"{field.name} = {other:g}", replace(Settings(), **{field.name: other})


def moved_prior() -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """Each of the prior's figures a fifth lower and higher."""
    for name, (drawing, photograph) in PRIOR.items():
        for factor in (0.8, 1.2):
            yield f"{name} of a drawing = {factor * drawing:.3g}", {name: (factor * drawing, photograph)}
            yield f"{name} of a photograph = {factor * photograph:.3g}", {name: (drawing, factor * photograph)}


def measure(bench: Bench, hosts: Sequence[str], guests: Sequence[str]) -> dict[str, float]:
    """Print every table; the figures by their names."""
    everything = np.arange(len(bench.photo))
    probability = bench.probability(everything)
    found = probability >= THRESHOLD
    ways = [("Gesso", found), *references(bench)]
    classes = {name: bench.classes == name for name in sorted(set(bench.classes.tolist()))}
    clean = [inside for inside in classes.values() if not bench.photo[inside].any()]
    rows: list[dict[str, Any]] = []
    for way, some in ways:
        row = {name: f1(bench.photo[classes[name]], some[classes[name]]) for name in bench.contaminated()}
        loss = max((lost(bench.photo[inside], some[inside]) for inside in clean), default=0.0)
        rows.append({"way": way, "all": f1(bench.photo, some), **row, "lost in a clean class": loss})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format), flush=True)
    figures = {
        "photo_f1": f1(bench.photo, found),
        "lowest_class_f1": min(rows[0][name] for name in bench.contaminated()),
        "clean_loss": rows[0]["lost in a clean class"],
        "ece": calibration_error(probability, bench.photo),
    }

    for share in SHARES:
        scores = []
        for draw in range(DRAWS):
            drawn = resampled(bench, share / 100, draw)
            scores.append(f1(bench.photo[drawn], bench.probability(drawn) >= THRESHOLD))
        figures[f"f1_at_{share}"] = float(np.mean(scores))
        print(f"{share}% photographs: {np.mean(scores):.3f}, worst draw {min(scores):.3f}", flush=True)
    losses = [float((bench.probability(some) >= THRESHOLD).mean()) for some in without_photographs(bench)]
    figures["clean_loss_at_0"] = max(losses)
    print("lost without photographs", [round(loss, 4) for loss in losses], flush=True)
    for what, sets in smaller(bench):
        scores, losses = [], []
        for part in sets:
            photos, truth, names = bench.probability(part) >= THRESHOLD, bench.photo[part], bench.classes[part]
            scores.append(f1(truth, photos))
            losses += [lost(truth[names == n], photos[names == n]) for n in set(names) if not truth[names == n].any()]
        print(
            f"{what}: {np.mean(scores):.3f}, worst {min(scores):.3f}; a clean class loses {max(losses):.3f} at most, "
            f"more than .01 in {sum(loss > 0.01 for loss in losses)} of {len(losses)}",
            flush=True,
        )

    without = {}
    for name, inside in classes.items():
        without[name] = f1(bench.photo[~inside], bench.probability(~inside) >= THRESHOLD)
    figures["f1_without_a_class"] = min(without.values())
    print("without", {name: round(score, 3) for name, score in without.items()}, flush=True)

    scores, losses = [], []
    hosts, guests = hosts_and_guests(bench, hosts, guests)
    for painting in hosts:
        for name in guests:
            labels = with_guests(bench, painting, name)
            inside = labels == painting
            photos = bench.probability(everything, labels)[inside] >= THRESHOLD
            scores.append(f1(bench.photo[inside], photos))
            losses.append(lost(bench.photo[inside], photos))
            print(f"{name} in {painting}: {scores[-1]:.3f}, lost {losses[-1]:.3f}", flush=True)
    fates = []
    for what, name, part, labels in remixed(bench, hosts, guests):
        fates.append({"done": what} | fate(bench.separated(part, labels), bench.photo[part], labels[part], name))
    by_set = pd.DataFrame(fates).groupby("done", sort=False)
    table = by_set.sum().assign(F1=by_set["F1"].mean(), lowest=by_set["F1"].min(), lost=by_set["lost"].max())
    print(table.to_string(float_format="{:.3f}".format), flush=True)
    few = table[table.index.str.startswith("2% ")]
    figures["found_or_shown_at_2"] = float(1 - few["not shown"].sum() / few["photographs"].sum())
    figures["f1_in_paintings"] = min(scores, default=float("nan"))
    figures["lost_in_paintings"] = max(losses, default=float("nan"))

    constants = {name: f1(bench.photo, bench.probability(everything, None, s) >= THRESHOLD) for name, s in moved()}
    for what, ends in moved_prior():
        with patch.dict(cast(dict[str, tuple[float, float]], PRIOR), ends):
            constants[what] = f1(bench.photo, bench.probability(everything) >= THRESHOLD)
    worst = sorted(constants, key=constants.__getitem__)[:5]
    print("constants moved, lowest:", {name: round(constants[name], 3) for name in worst})
    return figures | {"f1_constants_moved": constants[worst[0]]}


def main() -> None:
    """Measure, print the tables, end with one line of JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.separation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images/<class>/… and truth.csv")
    parser.add_argument("--hosts", nargs="+", default=HOSTS, help="clean classes among which photographs are put")
    parser.add_argument("--guests", nargs="+", default=GUESTS, help="classes whose photographs these are")
    given = parser.parse_args()
    figures = measure(Bench(given.data), given.hosts, given.guests)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
