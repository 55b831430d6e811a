"""What landed in a data set since it was last looked at, at the price of a listing.

A look keeps a 64-bit hash of each image's key, ETag and size: 8 bytes an image, of a million images 8 MB. What was
last told of is kept in the store, so that a watcher that is started again, on whatever machine, goes on from there.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from tasks.core.champion import dataset_name
from tasks.core.errors import NotFound
from tasks.core.settings import settings
from tasks.core.store import Store, open_store
from tasks.snapshot import check_apart, why_ignored


@dataclass(frozen=True)
class Look:
    """The images of a data set at one time: their hashes, uint64, sorted."""

    hashes: np.ndarray

    @property
    def digest(self) -> str:
        """The same for the same images, 16 hexadecimal digits."""
        return hashlib.blake2b(self.hashes.tobytes(), digest_size=8).hexdigest()

    def landed_since(self, before: "Look | None") -> int:
        """How many images are new or changed."""
        if before is None:
            return len(self.hashes)
        return len(np.setdiff1d(self.hashes, before.hashes, assume_unique=True))


def look(dataset: str) -> Look:
    """List a data set.

    Raises:
        ParamsError: the artifact store is in it.
        StoreError: it can't be listed.
    """
    store = open_store(dataset)
    check_apart(store, open_store(settings().store_uri))
    hashes = bytearray()
    for found in store.list(broken_links=True):
        if why_ignored(found.key) is None:
            identity = f"{found.key}\0{found.etag}\0{found.size}".encode()
            hashes += hashlib.blake2b(identity, digest_size=8).digest()
    return Look(np.unique(np.frombuffer(bytes(hashes), "<u8")))


def read_mark(store: Store, dataset: str) -> Look | None:
    """What was last told of; None before the first time."""
    try:
        return Look(np.frombuffer(store.get(_key(dataset)), "<u8"))
    except NotFound:
        return None


def write_mark(store: Store, dataset: str, told: Look) -> None:
    """Keep what was told of."""
    store.put(_key(dataset), told.hashes.astype("<u8").tobytes())


def _key(dataset: str) -> str:
    return f"watched/{dataset_name(dataset)}.u64"
