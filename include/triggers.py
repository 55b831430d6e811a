"""What tells Airflow that images have landed in the data set (`dags/watch_new_images.py`).

The triggerer lists the data set every `GESSO_WATCH_SECONDS`. What it last told Airflow of is kept in the store, and
moves on only when Airflow has written the event down (a shared stream in Airflow's ack mode): a triggerer that dies in
between tells of it again, and no event is lost. A second telling starts no second run (`dags/watch_new_images.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from tasks.core.errors import GessoError
from tasks.core.settings import settings
from tasks.core.store import open_store

if TYPE_CHECKING:
    from tasks.watch import Look  # it imports pandas, too much for where the DAG is parsed

log = structlog.get_logger(__name__)


class ImagesLanded(BaseEventTrigger):
    """Fires when enough images are new or changed since it last fired and the listing has come to rest.

    The event says {dataset, listing, images, landed}: address, digest of the listing, and two counts of images.

    Args:
        dataset: a folder or s3://bucket/prefix.
        seconds: how long to wait between two looks; two that show the same mean that the listing is at rest.
        min_images: how many are enough.
    """

    def __init__(self, *, dataset: str, seconds: float, min_images: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.arguments: dict[str, Any] = {"dataset": dataset, "seconds": seconds, "min_images": min_images}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "include.triggers.ImagesLanded", self.arguments

    def shared_stream_key(self) -> Hashable:
        return tuple(self.arguments.values())

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        return Watch(**kwargs)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        async for event in shared_stream:
            yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The same without a shared stream: Airflow asks for it, but never calls it. Nothing is kept as told."""
        async for event, _ in Watch(**self.arguments).open_stream():
            yield TriggerEvent(event)  # type: ignore[no-untyped-call]


class Watch(SharedStreamProducer):
    """Looks at a data set again and again."""

    def __init__(self, dataset: str, seconds: float, min_images: int) -> None:
        self.dataset, self.seconds, self.min_images = dataset, seconds, min_images

    async def open_stream(self) -> AsyncIterator[tuple[dict[str, Any], "Look"]]:
        """Yield what to tell of, and the look that `advance` is to keep once it is told."""
        from tasks.watch import look, read_mark

        told: Look | None = None
        before: Look | None = None
        has_mark = False
        while True:
            try:
                if not has_mark:
                    told = await asyncio.to_thread(read_mark, open_store(settings().store_uri), self.dataset)
                    has_mark = True
                now = await asyncio.to_thread(look, self.dataset)
            except GessoError as error:  # a store that is away comes back
                log.warning("gesso ! watch: %s", error)
            else:
                landed = now.landed_since(told)
                if landed >= max(1, self.min_images) and before is not None and before.digest == now.digest:
                    event = {"dataset": self.dataset, "listing": now.digest}
                    yield event | {"images": len(now.hashes), "landed": landed}, now
                    told = now
                before = now
            await asyncio.sleep(self.seconds)

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Keep what Airflow has written down."""
        from tasks.watch import write_mark

        told = [item.broker_payload for item in batch if item.outcome.is_clean]
        if told:
            await asyncio.to_thread(write_mark, open_store(settings().store_uri), self.dataset, told[-1])
