"""The files of rollouts in chunks: published while one runs, sent to devices that lack them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import final

from agentkd.errors import LoadError
from agentkd.fleet.office import Office
from agentkd.fleet.rollout import Fleet
from agentkd.printable import logger
from agentkd.transport import Message
from agentkd.transport.blobs import Blob
from agentkd.transport.names import Topics

log = logger(__name__)

_AGAIN, _SELDOM = 0.25, 16.0
"""Seconds in which a chunk is sent once, though many need it: at first, and at most. All that fetch
get it each time, so many slow devices that ask for it would else drown each other."""
_MOST_NEEDED = 20_000
_RETRY = 1.0
"""Seconds after which a file that could not be read is tried again."""
_OPEN = ("running", "paused")


@final
class Shelf:
    """What a server has to send in chunks.

    Args:
        office: The folder with the files.
        send: Sends a message; False if there is no room.
        counters: Where chunks are counted.
        chunk: Bytes of a chunk.
    """

    def __init__(
        self, office: Office, send: Callable[[Message], bool], counters: Counter[str], chunk: int
    ) -> None:
        self.missing: dict[str, str] = {}
        """Why a file of a rollout cannot be sent, by its digest."""
        self._office, self._send, self._counters, self._chunk = office, send, counters, chunk
        self._topics = Topics(office.fleet.site)
        self._blobs: dict[str, tuple[Blob, list[bytes]]] = {}
        self._tried: dict[str, float] = {}
        self._needed: dict[tuple[str, int], None] = {}
        self._sent_at: dict[tuple[str, int], tuple[float, float]] = {}
        self._published: dict[str, int] = {}
        self._offered = self._cleaned = 0
        self._stale: list[tuple[str, int]] = []

    def load(self, fleet: Fleet, now: float) -> None:
        """Have in memory what devices are asked for; from a thread that may wait for the disk."""
        plans = list(fleet.plans.values())
        wanted = {digest for plan in plans for digest in (plan.digest, plan.proof) if digest}
        for digest in wanted - set(self._blobs):
            if now - self._tried.get(digest, -_RETRY) >= _RETRY:
                self._read(digest, now)
        for digest in set(self._blobs) - wanted:
            del self._blobs[digest]
        for digest in set(self.missing) - wanted:
            del self.missing[digest]
            del self._tried[digest]

    def _read(self, digest: str, now: float) -> None:
        try:
            self._blobs[digest] = self._office.blob(digest, self._chunk)
        except LoadError as error:
            if digest not in self.missing:
                log.warning("%s Devices that need it wait.", error)
            self.missing[digest], self._tried[digest] = str(error), now
        else:
            self.missing.pop(digest, None)
            self._tried.pop(digest, None)

    def find_stale(self, fleet: Fleet) -> None:
        """Look how many chunks there are of what a later push replaced; from such a thread too."""
        for digest in fleet.replaced:
            try:
                count = len(self._office.blob(digest, self._chunk)[0].hashes)
            except LoadError:
                continue  # how many chunks it had is not known any more
            self._stale += [(digest, index) for index in range(count)]
        fleet.replaced.clear()

    def blob(self, digest: str) -> Blob | None:
        """Return a file's chunks, None if it is not here."""
        found = self._blobs.get(digest)
        return None if found is None else found[0]

    def need(self, digest: str, missing: Iterable[int]) -> None:
        """Note that a device lacks chunks."""
        # Another thread may drop the file meanwhile.
        chunks = len(self._blobs.get(digest, (None, []))[1])
        for index in missing:
            if index < chunks and len(self._needed) < _MOST_NEEDED:
                self._needed[digest, index] = None

    def say_again(self) -> None:
        """Publish everything once more: a broker may have lost what it kept."""
        self._offered = self._cleaned = 0
        self._published.clear()

    def offer(self, fleet: Fleet) -> None:
        """Publish the chunks of a rollout as it begins, and take them back as it ends."""
        rollout = fleet.rollout
        present = () if rollout is None else (rollout.plan.digest, rollout.plan.proof)
        while self._stale:
            digest, index = self._stale[-1]
            if digest not in present and not self._publish(digest, index, b""):
                return
            self._stale.pop()
        if rollout is None or rollout.wave < 0:
            return
        begin = rollout.course in _OPEN
        if (self._offered if begin else self._cleaned) == rollout.number:
            return
        for digest in filter(None, present):
            if digest not in self._blobs:
                return
            chunks = self._blobs[digest][1]
            for index in range(self._published.get(digest, 0), len(chunks)):
                if not self._publish(digest, index, chunks[index] if begin else b""):
                    return
                self._published[digest] = index + 1
                self._counters["chunks_sent"] += begin
        self._published.clear()
        if begin:
            self._offered = rollout.number
        else:
            self._cleaned = rollout.number

    def answer(self, fleet: Fleet, now: float) -> None:
        """Send the chunks that were asked for; one that was just sent waits its time."""
        rollout, kept = fleet.rollout, tuple[str, ...]()
        if rollout is not None and rollout.course in _OPEN:
            kept = rollout.plan.digest, rollout.plan.proof
        for key in list(self._needed):
            at, wait = self._sent_at.get(key, (-1e9, _AGAIN))
            if now - at < wait:
                continue
            digest, index = key
            chunks = self._blobs.get(digest, (None, []))[1]
            data = chunks[index] if index < len(chunks) else b""
            if data and not self._publish(digest, index, data, retain=digest in kept):
                return
            often = now - at < 4 * wait
            self._sent_at[key] = now, min(2 * wait, _SELDOM) if often else _AGAIN
            del self._needed[key]
            self._counters["chunks_sent"] += 1
        if len(self._sent_at) > _MOST_NEEDED:
            self._sent_at.clear()

    def _publish(self, digest: str, index: int, data: bytes, *, retain: bool = True) -> bool:
        return self._send(Message(self._topics.chunk(digest, index), data, retain=retain))
