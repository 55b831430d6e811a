"""The pack: all images of a training at one size, read by row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.errors import DataError


class Pack:
    """uint8 images [n, size, size, 3] in `.npy` shards, mapped into memory: only what is read is loaded."""

    def __init__(self, shards: Sequence[Path], rows: pd.DataFrame) -> None:
        """Open the shards.

        Args:
            shards: the `.npy` files, in order.
            rows: columns `row` (0, 1, 2, …), `shard` and `offset`: where each image is.

        Raises:
            DataError: the shards are not images of one size, or the table does not fit them.
        """
        self._shards = [_open(path) for path in shards]
        sizes = sorted({shard.shape[1] for shard in self._shards})
        if len(sizes) != 1:
            raise DataError(f"The pack holds images of {len(sizes)} sizes {sizes}: expected one. Pack it anew.")
        self.size: int = sizes[0]
        self._shard = rows["shard"].to_numpy()
        self._offset = rows["offset"].to_numpy()
        if not np.array_equal(rows["row"], np.arange(len(rows))):
            raise DataError("The pack's rows are not numbered 0, 1, 2, …. Pack it anew.")
        lengths = np.array([len(shard) for shard in self._shards])
        known = (self._shard >= 0) & (self._shard < len(lengths))
        inside = known & (self._offset >= 0) & (self._offset < lengths[np.where(known, self._shard, 0)])
        if not inside.all():
            raise DataError(f"Row {int(np.argmin(inside))} of the pack's table lies outside its shards. Pack it anew.")

    def __len__(self) -> int:
        return len(self._shard)

    def views(self, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
        """The images of these rows where they lie: uint8 [size, size, 3] RGB, not to be written to."""
        return [
            self._shards[shard][offset] for shard, offset in zip(self._shard[rows], self._offset[rows], strict=True)
        ]

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The images of these rows, in their order: uint8 [n, size, size, 3] RGB."""
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for shard in np.unique(self._shard[rows]):
            here = self._shard[rows] == shard
            images[here] = self._shards[shard][self._offset[rows[here]]]
        return images


def _open(path: Path) -> npt.NDArray[np.uint8]:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a shard of a pack: {error}. Pack it anew.") from error
    if shard.dtype != np.uint8 or shard.ndim != 4 or shard.shape[1:] != (shard.shape[1], shard.shape[1], 3):
        raise DataError(
            f"{path} holds {shard.dtype} {list(shard.shape)}: expected uint8 [n, size, size, 3]. Pack it anew."
        )
    return np.asarray(shard)
