"""The champion: which model is in use for a data set. One small object, moved by compare-and-swap."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field

from tasks.core.errors import DataError, NotFound
from tasks.core.store import Store


@dataclass(frozen=True)
class Champion:
    """The model in use.

    Attributes:
        model: URI of the train artifact.
        previous: URI of the model that it replaced, or None.
        since: when it took over, UTC, ISO 8601.
        evaluation: URI of the evaluate artifact, which holds the model's export and card; empty where none was made.
        withdrawn: keys of models that a person took out of use, which no run promotes again.
        by_hand: whether a person put the model in use, though its run held it.
    """

    model: str
    previous: str | None
    since: str
    evaluation: str = ""
    withdrawn: list[str] = field(default_factory=list)
    by_hand: bool = False


def key_of(uri: str) -> str:
    """The key of the artifact at a URI: it stays the same where the store was moved."""
    return uri.rpartition("/")[2]


def dataset_name(dataset: str) -> str:
    """A name for what the store keeps of a data set: one per address, such that a person knows it."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset.rstrip("/").rpartition("/")[2]).strip("-") or "dataset"
    return f"{name}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}"


def champion_key(dataset: str) -> str:
    """Where the champion of a data set is kept in the store."""
    return f"champions/{dataset_name(dataset)}.json"


def read_champion(store: Store, dataset: str) -> tuple[Champion | None, str | None]:
    """The champion and the tag that `move_champion` wants; (None, None) before the first.

    Raises:
        DataError: the pointer was damaged.
    """
    try:
        return read_pointer(store, champion_key(dataset))
    except NotFound:
        return None, None


def read_pointer(store: Store, key: str) -> tuple[Champion, str]:
    """The champion at a key of the store, and its tag.

    Raises:
        NotFound: there is none.
        DataError: the pointer was damaged.
    """
    data, etag = store.get_with_etag(key)
    try:
        return Champion(**json.loads(data)), etag
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The champion's pointer {store.uri}/{key} can't be read ({error}). Expected a JSON object with model, "
            f"previous and since. Mend it, or delete it: the next model to pass the floor then becomes the champion."
        ) from None


def move_champion(store: Store, dataset: str, champion: Champion, etag: str | None) -> bool:
    """Make `champion` the model in use, if nobody moved the pointer since `etag` was read; whether it was moved."""
    return store.replace(champion_key(dataset), json.dumps(asdict(champion), indent=2).encode(), etag)
