"""The observed logs that this router writes: sent together, looked after from time to time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvroute.router.knowledge.sharing.observed_follower import ObservedFollower
from kvroute.router.knowledge.sharing.observed_writer import ObservedWriter, WriterSettings
from kvroute.router.knowledge.sharing.store import Append, Batch, Put, Store

TURN_BYTES = 1 << 20
"""About the most that is sent at once: a few milliseconds of packing."""


class ObservedWriters:
    """One writer for each replica whose ingest lease we hold."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        settings: WriterSettings = WriterSettings(),  # noqa: B008
    ) -> None:
        """`clock` [s], monotonic."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._writers: dict[str, ObservedWriter] = {}
        self._turn = 0

    def __getitem__(self, replica: str) -> ObservedWriter:
        return self._writers[replica]

    def __len__(self) -> int:
        return len(self._writers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._writers)

    def __contains__(self, replica: str) -> bool:
        return replica in self._writers

    def begin(self, replica: str, follower: ObservedFollower, token: bytes) -> ObservedWriter:
        """Write this replica's log, the lease on which was won with `token`. The follower was just now told to `load`,
        after the lease was won: so it is at the log's tip. The engine's events go on from `writer.progress`."""
        writer = self._writers[replica] = ObservedWriter(follower, token, self._settings)
        return writer

    def end(self, replica: str) -> None:
        """Write it no more: the lease is lost, or about to be given back."""
        writer = self._writers.pop(replica, None)
        if writer is not None:
            writer.end()

    def keys(self, replica: str) -> list[str]:
        """All keys of a log that we write; none of another's."""
        writer = self._writers.get(replica)
        return [] if writer is None else writer.keys

    @property
    def lost(self) -> list[str]:
        """Replicas whose lease turned out to be another's."""
        return [replica for replica, writer in self._writers.items() if writer.lost]

    @property
    def idle(self) -> bool:
        """Whether the logs hold all that they should."""
        return all(writer.idle or writer.lost for writer in self._writers.values())

    async def flush(self) -> int:
        """Send what waits, or as much of it as one turn may take; how many batches that were. Not to be called
        again before it returns.

        Raises:
            StoreDown: the store did not serve; the same is sent again next time.
        """
        await self._resolve()
        sending = self._due()
        if not sending:
            return 0
        try:
            outcomes = await self._store.commit([batch for _, batch in sending])
        except BaseException:
            for writer, _ in sending:
                writer.failed()
            raise
        now = self._clock()
        for (writer, _), outcome in zip(sending, outcomes, strict=True):
            writer.settle(outcome, now)
        return len(sending)

    def _due(self) -> list[tuple[ObservedWriter, Batch]]:
        """What to send now; whoever has to wait is first next time."""
        writers = list(self._writers.values())
        found: list[tuple[ObservedWriter, Batch]] = []
        size = 0
        now = self._clock()
        for step in range(len(writers)):
            writer = writers[(self._turn + step) % len(writers)]
            batch = writer.batch(now)
            if batch is not None:
                found.append((writer, batch))
                size += _size(batch)
                if size >= TURN_BYTES:
                    self._turn += step + 1
                    break
        return found

    async def _resolve(self) -> None:
        """Read what the store holds for writers that do not know."""
        unsure = [writer for writer in self._writers.values() if writer.unsure and not writer.lost]
        if not unsure:
            return
        keys = [key for writer in unsure for key in (writer.names.ingest, writer.names.tip, writer.names.snapshot)]
        values = await self._store.get(keys)
        now_ms = await self._store.time_ms(keys[0])
        now = self._clock()
        for at, writer in enumerate(unsure):
            writer.resolve(values[3 * at : 3 * at + 3], now_ms, now)

    async def inspect(self) -> None:
        """Look whether the logs are still there; to be called about once a second, not during `flush`.

        Raises:
            StoreDown: the store did not serve.
        """
        writers = list(self._writers.values())
        values = await self._store.get([key for writer in writers for key in (writer.names.tip, writer.names.snapshot)])
        ends = await self._store.ends([writer.names.observed for writer in writers])
        for at, writer in enumerate(writers):
            writer.inspect(values[2 * at], values[2 * at + 1], ends[at])


def _size(batch: Batch) -> int:
    """About how many bytes it has on the wire."""
    return sum(
        sum(map(len, write.fields.values())) if isinstance(write, Append) else len(write.value)
        for write in batch.writes
        if isinstance(write, Append | Put)
    )
