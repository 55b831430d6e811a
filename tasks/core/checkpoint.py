"""The state of a step's unfinished work, kept in the store so that a killed step goes on where it was.

checkpoints/<step>/<key>    one object, written over and over; gone once the artifact of this key is committed
"""

from pathlib import Path

from tasks.core.errors import NotFound
from tasks.core.store import Store


class Checkpoint:
    """Where a step may keep the state of the artifact that it is making."""

    def __init__(self, store: Store, step: str) -> None:
        self._store, self._step = store, step
        self._touched = False
        self.key = ""
        """The artifact's key: known once the step has looked at the outside world."""

    @property
    def uri(self) -> str:
        """Where the state is."""
        return f"{self._store.uri}/{self._path}"

    @property
    def _path(self) -> str:
        return f"checkpoints/{self._step}/{self.key}"

    def load(self, path: Path) -> bool:
        """Copy the state to a local file; whether there was one."""
        try:
            self._store.download(self._path, path)
        except NotFound:
            return False
        self._touched = True
        return True

    def save(self, path: Path) -> None:
        """Move a local file into the store as the state; a reader sees the old state or the new one, whole."""
        self._touched = True
        self._store.upload(path, self._path)

    def remove(self) -> None:
        """Forget the state: its work is done, or of no use."""
        if self._touched:
            self._store.delete(self._path)
