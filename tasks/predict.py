"""Predict the class of images with a model's export, which gives calibrated probabilities.

Prints class and probability of each image, and writes a table of them: image, class, probability, error, and with
--top 3 also class_2, probability_2, class_3, probability_3. An image that can't be read is printed and listed with the
reason. Ends with 1 where not one could be read.

    gesso predict a.png b.jpg scans/                       # files, folders; the champion of the only data set
    gesso predict --model URI s3://bucket/inbox/           # an `evaluate` artifact; an image or all below a prefix
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, champion_key, read_pointer
from tasks.core.errors import DataError, NotFound, ParamsError, StoreError
from tasks.core.ledger import write_csv
from tasks.core.memory import keep_freed
from tasks.core.params import ScanParams
from tasks.core.settings import settings
from tasks.core.store import Store, open_store
from tasks.vision import images

BATCH = 64
"""Images read and predicted at a time."""


@dataclass(frozen=True)
class Picture:
    """An image to predict: its name as the table has it, and how to get its bytes."""

    name: str
    read: Callable[[], bytes]


def main(words: list[str]) -> int:
    """Run the tool with these command-line words; 0, or 1 where no image could be read.

    Raises:
        ParamsError: an option that can't be used.
        DataError: no images, no champion, or more than one to choose from.
        StoreError: a store can't be reached.
    """
    options = _options(words)
    output: Path = options.output
    if output.suffix not in (".csv", ".parquet"):
        raise ParamsError(f"--output {output}: expected a name that ends in .csv or .parquet.")
    if not output.absolute().parent.is_dir():
        raise ParamsError(f"--output {output}: there is no folder {output.absolute().parent}.")
    if options.top < 1:
        raise ParamsError(f"--top {options.top}: expected 1 or more.")
    allowed = ScanParams.of({"max_megapixels": options.max_megapixels}).max_megapixels
    artifact = find_model(options.model, options.dataset, open_store(options.store))
    pictures = itertools.chain.from_iterable(map(find_pictures, options.images))

    rows = []
    for row in predict(artifact, pictures, options.top, allowed):
        print(_line(row))
        rows.append(row)
    if not rows:
        raise DataError(f"There are no images in {', '.join(options.images)}.")
    table = pd.DataFrame(rows).astype({"probability": "float64"})
    if output.suffix == ".csv":
        write_csv(table, output)
    else:
        table.to_parquet(output, index=False)
    failed = int((table["error"] != "").sum())
    unread = f", {failed} of them could not be read" if failed else ""
    print(f"{len(rows)} images{unread}. The table is in {output}.", file=sys.stderr)
    return 1 if failed == len(rows) else 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "gesso predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, s3://bucket/key or s3://prefix/")
    parser.add_argument(
        "--model", default="champion", help="champion, or the URI of an evaluate artifact (default: %(default)s)"
    )
    parser.add_argument("--dataset", help="whose champion (default: that of the only data set that has one)")
    parser.add_argument("--store", default=settings().store_uri, help="where artifacts are (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"), help="(default: %(default)s)")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="so many classes an image (default: 1)")
    allowed = ScanParams().max_megapixels
    parser.add_argument(
        "--max-megapixels", type=float, default=allowed, metavar="N", help="refuse larger images (default: %(default)g)"
    )
    return parser.parse_intermixed_args(words)


def find_model(model: str, dataset: str | None, store: Store) -> Artifact:
    """The `evaluate` artifact that `--model` and `--dataset` name: it holds the model's export.

    Raises:
        DataError: there is no champion, it has no export, or there are several and no data set was named.
        ParamsError, NotFound: the URI is not that of an `evaluate` artifact.
    """
    if model == "champion":
        champion = find_champion(dataset, store)
        model = champion.evaluation
        if not model:
            raise DataError(
                f"The champion {champion.model} has no export. Run the workflow again, or name another model with "
                f"--model URI."
            )
        return Artifact.reopen(store, model)
    artifact = Artifact.open(model)
    if artifact.step != "evaluate":
        raise ParamsError(
            f"{model} was made by {artifact.step!r}; expected the URI of an `evaluate` artifact, which holds "
            f"the export of the model that it chose."
        )
    return artifact


def find_champion(dataset: str | None, store: Store) -> Champion:
    """The champion of a data set, named by its URI or as the store names it; else the only champion there is."""
    names = sorted(found.key.removeprefix("champions/").removesuffix(".json") for found in store.list("champions/"))
    if not names:
        raise DataError(
            f"There is no champion in {store.uri} yet: no run has promoted a model. Name one with --model URI."
        )
    if dataset is None:
        if len(names) > 1:
            raise DataError(
                f"There are champions of several data sets: choose by --dataset, one of {', '.join(names)}."
            )
        dataset = names[0]
    key = f"champions/{dataset}.json" if dataset in names else champion_key(_address(dataset))
    try:
        return read_pointer(store, key)[0]
    except NotFound:
        raise DataError(f"There is no champion of {dataset} in {store.uri}. There are: {', '.join(names)}.") from None


def _address(dataset: str) -> str:
    """The data set's address as `snapshot` writes it."""
    store = open_store(dataset)
    folder = store.local_path("")
    return str(folder.resolve()) if folder else store.uri


def find_pictures(word: str) -> Iterator[Picture]:
    """The images that a word of the command line names: a file, all in a folder, an object, all below a prefix."""
    if word.startswith("s3://"):
        bucket, _, key = word.removeprefix("s3://").partition("/")
        store = open_store(f"s3://{bucket}")
        is_object = key and store.exists(key)
        prefix = f"{key.rstrip('/')}/" if key else ""
        below = [] if is_object else list(_all_in(f"s3://{bucket}", store, prefix))
        yield from below or [_picture(word, store, key)]
        return
    path = Path(word)
    if path.is_dir():
        yield from _all_in(word.rstrip("/"), open_store(path), "")
    else:
        yield _picture(word, open_store(path.absolute().parent), path.name)


def _picture(name: str, store: Store, key: str) -> Picture:
    return Picture(name, lambda: store.get(key))


def _all_in(name: str, store: Store, prefix: str) -> Iterator[Picture]:
    for key in sorted(found.key for found in store.list(prefix, broken_links=True)):
        below = key.removeprefix(prefix)
        if below and not below.endswith("/") and not any(part.startswith(".") for part in below.split("/")):
            yield _picture(f"{name}/{key}", store, key)


def predict(
    artifact: Artifact, pictures: Iterable[Picture], top: int, max_megapixels: float = ScanParams().max_megapixels
) -> Iterator[dict[str, Any]]:
    """A row of the table for each image, in their order; so many are held in memory as a batch has.

    Args:
        artifact: an `evaluate` artifact.
        pictures: the images.
        top: how many classes an image.
        max_megapixels: a larger image is not read: it could fill the memory.
    """
    keep_freed()
    from tasks.vision.export import Export  # imports TensorFlow, which takes seconds

    model = Export(artifact.directory("export"))
    size = model.size
    max_pixels = round(max_megapixels * 1e6)

    def read(picture: Picture) -> images.Pixels | str:
        try:
            return images.resize(images.open_image(picture.read(), max_pixels=max_pixels, min_side=size).pixels, size)
        except (DataError, StoreError) as error:
            return str(error)

    waiting = iter(pictures)
    with ThreadPoolExecutor(settings().threads) as pool:
        while batch := list(itertools.islice(waiting, BATCH)):
            read_ones = list(pool.map(read, batch))
            pixels = [one for one in read_ones if not isinstance(one, str)]
            answers = iter(zip(*model.of_pixels(np.stack(pixels)), strict=True) if pixels else ())
            for picture, one in zip(batch, read_ones, strict=True):
                error, best = (one, []) if isinstance(one, str) else ("", _best(*next(answers), top))
                yield _row(picture.name, error, best)


def _best(names: list[str], probabilities: npt.NDArray[np.float32], top: int) -> list[tuple[str, float]]:
    return [(name, float(probability)) for name, probability in zip(names[:top], probabilities[:top], strict=True)]


def _row(image: str, error: str, best: list[tuple[str, float]]) -> dict[str, Any]:
    name, probability = best[0] if best else ("", None)
    row = {"image": _utf8(image), "class": name, "probability": probability, "error": _utf8(error)}
    for rank, (name, probability) in enumerate(best[1:], start=2):
        row |= {f"class_{rank}": name, f"probability_{rank}": probability}
    return row


def _utf8(text: str) -> str:
    """The text with \\x… for what can't be written as UTF-8: file names may hold any bytes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _line(row: dict[str, Any]) -> str:
    """A row as it is printed: no name can move the cursor or colour the terminal."""
    if row["error"]:
        text = f"{row['image']}: not read: {row['error']}"
    else:
        suffixes = [column.removeprefix("class") for column in row if column.startswith("class")]
        best = (f"{row[f'class{suffix}']} {row[f'probability{suffix}']:.3f}" for suffix in suffixes)
        text = f"{row['image']}: {', '.join(best)}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
