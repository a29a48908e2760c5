"""What a server and its clients tell each other over a transport, in chunks with hashes.

| topic below `akd/v1/SITE/f/CLIENT` | from, to | payload |
|---|---|---|
| `from/here` | client; retained, cleared by its last will | its boot, 16 hexadecimal digits |
| `to/offer`, `from/offer` | server, client and back | `Offer`: a request, or the reply to one |
| `from/need`, `to/need` | back | `Need`: the chunks of it that are missing; none at the end |
| `to/chunk`, `from/chunk` | server, client and back | a digest, an index, the chunk's bytes |

The one who sends repeats an offer until the other end has all of it; the one who receives answers
each with what it lacks. So messages may be lost, repeated, late or damaged. All of it works on MQTT
3.1.1. Requests and replies themselves are those of `messages.py`, and are checked there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from agentkd.errors import LoadError
from agentkd.fields import Fields, parse_json
from agentkd.transport.blobs import CHUNK, LARGEST, Blob, Need, blob, need, packed, read_blob
from agentkd.transport.names import DIGEST, matching
from agentkd.transport.transport import Message

AGAIN, SELDOM = 0.5, 8.0
"""Seconds after which an offer is repeated: at first, and at most."""
_LEAST = 0.2
"""Seconds between two answers to a need, so that who asks often gets no more than others."""
_HEAD = 36
_BOOT = re.compile(rb"[0-9a-f]{16}")
_ERROR = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
Send = Callable[[Message], bool]


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be fetched: a request, or the reply to one.

    Raises:
        LoadError: If a value is out of its range.
    """

    request: str
    """SHA-256 of the request in hexadecimal, also in the offer of a reply to it."""
    file: Blob | None = None
    """The request or the reply; None if there is none."""
    failed: str = ""
    """Why there is none: the name of an error's class. Its text could hold an observation."""

    def __post_init__(self) -> None:
        """Check the values against each other."""
        matching(DIGEST, self.request, "The digest of a request")
        if (self.file is None) == (not self.failed):
            raise LoadError("an offer with both a file and an error, or neither")
        if self.failed:
            matching(_ERROR, self.failed, "The name of an error")

    @property
    def digest(self) -> str:
        """What a `Need` names: the file's digest, or the request's where there is no file."""
        return self.request if self.file is None else self.file.digest


def read_offer(payload: bytes) -> Offer:
    """Read an offer.

    Raises:
        LoadError: If it is not an `Offer`.
    """
    what = "The offer"
    fields = Fields(parse_json(payload, what, limit=LARGEST), what)
    return Offer(fields.text("request"), read_blob(fields, "file"), fields.text("failed"))


def read_boot(payload: bytes) -> str:
    """Read which start of a client's program is there; "" if it went.

    Raises:
        LoadError: If it is not one.
    """
    if payload and not _BOOT.fullmatch(payload):
        raise LoadError("not a boot's number")
    return payload.decode()


@final
class Sending:
    """Bytes, or an error, that are offered until the other end has them.

    Args:
        send: Takes messages.
        below: The topic below which they go, a client's `to` or `from`.
        data: The bytes; None for an error.
        request: The digest of the request that they reply to; "" if they are a request.
        failed: The name of the error.
        chunk: Bytes of a chunk.
    """

    def __init__(
        self,
        send: Send,
        below: str,
        data: bytes | None,
        *,
        request: str = "",
        failed: str = "",
        chunk: int = CHUNK,
    ) -> None:
        file, self._chunks = (None, []) if data is None else blob(data, chunk)
        self.offered = Offer(request or (file.digest if file else ""), file, failed)
        self.done = False
        """Whether the other end has all of it."""
        self.due = 0.0
        """When it is to be offered again."""
        self._send, self._pause = send, AGAIN
        self._offer = Message(f"{below}/offer", packed(self.offered))
        self._topic = f"{below}/chunk"
        self._lacks = len(self._chunks)
        self._answered = float("-inf")

    def offer(self, now: float) -> None:
        """Offer it, more and more seldom."""
        self._send(self._offer)
        self.due, self._pause = now + self._pause, min(2 * self._pause, SELDOM)

    def renew(self) -> None:
        """Offer it anew: the other end may have lost what it had."""
        self.done, self.due, self._pause, self._lacks = False, 0.0, AGAIN, len(self._chunks)

    def needed(self, wanted: Need, now: float) -> None:
        """Send the chunks that are missing; note it if none is."""
        if wanted.digest != self.offered.digest:
            return
        missing = [index for index in wanted.missing if index < len(self._chunks)]
        if not missing:
            self.done = True
            return
        if now < self._answered + _LEAST:
            return
        if len(missing) < self._lacks:
            self._lacks, self._pause = len(missing), AGAIN
        self._answered, self.due = now, now + self._pause
        digest = bytes.fromhex(wanted.digest)
        for index in missing:
            head = digest + index.to_bytes(4, "big")
            self._send(Message(self._topic, head + self._chunks[index]))


@final
class Receiving:
    """What an offer's chunks add up to.

    Args:
        offer: What is offered.
    """

    def __init__(self, offer: Offer) -> None:
        assert offer.file is not None
        self.offer, self._file = offer, offer.file
        self._chunks: dict[int, bytes] = {}

    @property
    def need(self) -> Need:
        """What is missing of it."""
        count = len(self._file.hashes)
        return need(self._file.digest, (i for i in range(count) if i not in self._chunks))

    def put(self, payload: bytes) -> bool:
        """Take a chunk, if it is one; return whether all are there."""
        digest, index = payload[:32].hex(), int.from_bytes(payload[32:_HEAD], "big")
        data = payload[_HEAD:]
        if digest == self._file.digest and self._file.fits(index, data):
            self._chunks[index] = data
        return len(self._chunks) == len(self._file.hashes)

    def whole(self) -> bytes | None:
        """Return the bytes once all chunks are there; None if they are not what was offered."""
        data = b"".join(self._chunks[index] for index in range(len(self._file.hashes)))
        return data if hashlib.sha256(data).hexdigest() == self._file.digest else None
