"""The scan's thumbnails, read back."""

from collections.abc import Collection, Iterable

import pandas as pd

from tasks.core.artifacts import Artifact


def thumbnails(scans: Iterable[Artifact], keys: Collection[str]) -> dict[str, bytes]:
    """The thumbnails (JPEG files) of these images, by key; those that could not be read have none."""
    if not keys:
        return {}
    wanted = [("key", "in", sorted(keys))]
    table = pd.concat(pd.read_parquet(scan.path("thumbnails.parquet"), filters=wanted) for scan in scans)
    return dict(zip(table["key"], table["jpeg"], strict=True))
