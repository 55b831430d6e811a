"""What keeps `gesso gc` from an old artifact that a run has just taken up.

A run's record names an artifact only when the step that reused it has ended. Until then its own artifact.json guards
it: the run notes there that it uses the artifact, `gesso gc` notes there that the artifact is removed, and both do so
by compare-and-swap on what they had read. So just one of them succeeds: gc finds the artifact in use, or the run finds
it removed and makes it anew.

The note of a removal stays. To delete it would need a delete that is as conditional as a write, which servers don't
have (or have, but not atomically).
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core.artifacts import MANIFEST, Artifact, is_removed
from tasks.core.errors import Denied, NotFound
from tasks.core.store import Store

#: So long after its last noted use an artifact is not noted again. `gesso gc` keeps whatever is younger than a day.
FRESH = timedelta(hours=12)


def last_used(manifest: Mapping[str, Any]) -> datetime:
    """When the artifact was made, or an old one was last taken up by a run."""
    return datetime.fromisoformat(manifest.get("used_at") or manifest["made_at"])


def mark_removed(store: Store, step: str, key: str, etag: str) -> bool:
    """Note in artifact.json that the artifact is removed, if it still has this tag; its files may go then."""
    note = {"step": step, "key": key, "removed_at": datetime.now(UTC).isoformat(timespec="seconds"), "files": {}}
    return store.replace(f"artifacts/{step}/{key}/{MANIFEST}", json.dumps(note).encode(), etag)


def hold(artifact: Artifact) -> bool:
    """Note that a run uses the artifact; False where it was removed meanwhile.

    An artifact that these credentials can't write is as it is: no run's gc removes it either.
    """
    store, key = artifact.store, f"{artifact.folder}/{MANIFEST}"
    while (now := datetime.now(UTC)) - last_used(artifact.manifest) > FRESH:
        try:
            data, etag = store.get_with_etag(key)
            manifest = json.loads(data)
            if is_removed(manifest):
                return False
            artifact.manifest = manifest  # another one, where it was removed and made anew since
            noted = artifact.manifest | {"used_at": now.isoformat(timespec="seconds")}
            if store.replace(key, json.dumps(noted, indent=2, ensure_ascii=False).encode(), etag):
                return True
        except NotFound:
            return False
        except Denied:
            return True
    return True
