from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core.errors import DataError
from tasks.vision.pack import Pack


def write(folder: Path, *shards: np.ndarray) -> list[Path]:
    paths = [folder / f"{number:03}.npy" for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        np.save(path, shard)
    return paths


def images(first: int, count: int, size: int = 4) -> np.ndarray:
    """Images that show their number."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(numbers[:, None, None, None], (count, size, size, 3)).copy()


ROWS = pd.DataFrame({"row": range(5), "shard": [0, 0, 0, 1, 1], "offset": [0, 1, 2, 0, 1]})


def test_gathers_rows_in_the_order_asked_for(tmp_path: Path):
    pack = Pack(write(tmp_path, images(0, 3), images(3, 2)), ROWS)
    gathered = pack.gather(np.array([4, 0, 3, 0]))
    assert (len(pack), pack.size) == (5, 4)
    assert gathered.shape == (4, 4, 4, 3)
    assert gathered[:, 0, 0, 0].tolist() == [4, 0, 3, 0]


@pytest.mark.parametrize(
    ("shards", "rows", "message"),
    [
        pytest.param([images(0, 3).astype(np.float32), images(3, 2)], ROWS, "float32", id="floats"),
        pytest.param([images(0, 3)[..., :1], images(3, 2)], ROWS, "expected uint8", id="grey"),
        pytest.param([images(0, 3), images(3, 2, size=5)], ROWS, "2 sizes", id="sizes"),
        pytest.param([images(0, 3), images(3, 1)], ROWS, "Row 4", id="short shard"),
        pytest.param([images(0, 3)], ROWS, "Row 3", id="no such shard"),
        pytest.param([images(0, 3), images(3, 2)], ROWS.assign(row=[0, 1, 2, 4, 5]), "numbered", id="row numbers"),
    ],
)
def test_a_pack_that_does_not_fit_its_table(tmp_path: Path, shards, rows, message):
    with pytest.raises(DataError, match=message):
        Pack(write(tmp_path, *shards), rows)


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"], ids=["empty", "text", "cut short"])
def test_a_shard_that_is_no_array(tmp_path: Path, content):
    path = tmp_path / "000.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"000\.npy is not a shard of a pack"):
        Pack([path], ROWS)
