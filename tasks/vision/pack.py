"""The pack: all images of a training at one size, read by row."""

import os
import resource
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.artifacts import Artifact
from tasks.core.errors import DataError, ParamsError
from tasks.core.objects import in_threads


class Pack:
    """uint8 images [n, size, size, 3] in `.npy` shards: only what is asked for is read.

    They are read, not mapped into memory: mapped pages count as the process's until something else needs them.
    """

    def __init__(self, shards: Sequence[Path], rows: pd.DataFrame) -> None:
        """Open the shards.

        Args:
            shards: the `.npy` files, in order.
            rows: columns `row` (0, 1, 2, …), `shard` and `offset`: where each image is.

        Raises:
            DataError: the shards are not images of one size, or the table does not fit them.
        """
        _allow_open_files(len(shards))
        self._shards = [Shard(path) for path in shards]
        sizes = sorted({shard.size for shard in self._shards})
        if len(sizes) != 1:
            raise DataError(f"The pack holds images of {len(sizes)} sizes {sizes}: expected one. Pack it anew.")
        self.size: int = sizes[0]
        self._shard = rows["shard"].to_numpy()
        self._offset = rows["offset"].to_numpy()
        if not np.array_equal(rows["row"], np.arange(len(rows))):
            raise DataError("The pack's rows are not numbered 0, 1, 2, …. Pack it anew.")
        lengths = np.array([shard.images for shard in self._shards])
        known = (self._shard >= 0) & (self._shard < len(lengths))
        inside = known & (self._offset >= 0) & (self._offset < lengths[np.where(known, self._shard, 0)])
        if not inside.all():
            raise DataError(f"Row {int(np.argmin(inside))} of the pack's table lies outside its shards. Pack it anew.")

    def __len__(self) -> int:
        return len(self._shard)

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The images of these rows, in their order: uint8 [n, size, size, 3] RGB."""
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for image, shard, offset in zip(images, self._shard[rows].tolist(), self._offset[rows].tolist(), strict=True):
            self._shards[shard].read(offset, image)
        return images


class Shard:
    """One file of images: `images` of `size` x `size` pixels."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            DataError: it is not one of images.
        """
        try:
            mapped: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            self._file = os.open(path, os.O_RDONLY)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is not a shard of a pack: {error}. Pack it anew.") from error
        weakref.finalize(self, os.close, self._file)
        self._path, shape = path, mapped.shape
        if mapped.dtype != np.uint8 or mapped.ndim != 4 or shape[1:] != (shape[1], shape[1], 3):
            raise DataError(
                f"{path} holds {mapped.dtype} {list(shape)}: expected uint8 [n, size, size, 3]. Pack it anew."
            )
        self.images, self.size, self._start = shape[0], shape[1], mapped.offset

    def read(self, offset: int, image: npt.NDArray[np.uint8]) -> None:
        """Read one image into uint8 [size, size, 3]; safe in threads.

        Raises:
            DataError: the file was cut short.
        """
        if os.preadv(self._file, [image.data], self._start + offset * image.nbytes) < image.nbytes:
            raise DataError(f"{self._path} was cut short while it was in use. Pack it anew.")


def open_pack(resample: Artifact, packs: Sequence[Artifact]) -> Pack:
    """The pack of a `resample` artifact, in the order of its rows, from the artifacts of `pack`'s shards.

    Raises:
        ParamsError: an artifact is not a pack of it.
        DataError: an image is in none of the shards, or in two; a file is missing or was changed.
    """
    tables: list[pd.DataFrame] = []
    files: list[Path] = []
    for artifact in packs:
        if artifact.inputs["resample"] != resample.key:
            raise ParamsError(f"{artifact.uri} holds the pixels of another `resample` artifact than {resample.uri}.")
        rows = artifact.table("rows.parquet", ["row", "file", "offset"])
        tables.append(rows.assign(shard=rows["file"] + len(files)))
        files += pixel_files(artifact, rows)
    rows = pd.concat(tables).sort_values("row", ignore_index=True)
    used = len(resample.table("used.parquet", ["row"]))
    if not np.array_equal(rows["row"], np.arange(used)):
        raise DataError(
            f"The packs hold {rows['row'].nunique():,} of the {used:,} images that {resample.uri} uses, and "
            f"{rows['row'].duplicated().sum():,} of them again. Give the artifact of each of `pack`'s shards once."
        )
    return Pack(files, rows)


def pixel_files(artifact: Artifact, rows: pd.DataFrame) -> list[Path]:
    """The files of pixels of a `pack` artifact with these rows, each checked against its hash."""
    numbers = range(rows["file"].max() + 1 if len(rows) else 0)
    return list(in_threads(lambda number: artifact.path(file_name(number)), numbers, artifact.store.threads))


def file_name(number: int) -> str:
    """Name of the file of pixels with this number."""
    return f"{number:03}.npy"


def _allow_open_files(count: int) -> None:
    """Raise this process's limit where so many files don't fit, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512  # libraries hold some, too
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
