"""Topics, and the names that are words of them; texts that have to match a pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentkd.errors import LoadError

_SITE = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
_ROUNDS = "to", "from"
"""What topics of federated rounds begin with: to a device, or from it."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a site: of its devices, of their part in federated rounds, and of chunks.

    Raises:
        LoadError: If a name is not one word of letters, digits, `_` and `-` (a device's may have
            points).
    """

    site: str

    def __post_init__(self) -> None:
        """Check the site's name."""
        matching(_SITE, self.site, "The site's name")

    @property
    def root(self) -> str:
        """What every topic of the site begins with."""
        return f"akd/v1/{self.site}"

    def of(self, device: str, what: str) -> str:
        """Return a device's topic, `state`, or one of its rounds, `to/offer`."""
        return self._of(device_name(device), what)

    def every(self, what: str) -> str:
        """Return the filter of such a topic of all devices."""
        return self._of("+", what)

    def _of(self, device: str, what: str) -> str:
        branch = "f" if what.partition("/")[0] in _ROUNDS else "d"
        return f"{self.root}/{branch}/{device}/{what}"

    def read(self, topic: str) -> tuple[str, str]:
        """Return the device of a topic and what of it, or "" twice."""
        name, _, what = topic[len(self.root) + 3 :].partition("/")
        words = DEVICE.fullmatch(name) and what.replace("/", "", 1).isalpha()
        return (name, what) if words and topic == self._of(name, what) else ("", "")

    def chunk(self, digest: str, index: int | str) -> str:
        """Return the topic of a chunk, or with `+` the filter of all chunks of a file."""
        return f"{self.root}/b/{matching(DIGEST, digest, 'A digest')}/{index}"

    def place(self, topic: str) -> tuple[str, int]:
        """Return digest and index of a chunk's topic, or "" and -1."""
        begins = f"{self.root}/b/"
        digest, _, index = topic[len(begins) :].partition("/")
        known = topic.startswith(begins) and DIGEST.fullmatch(digest)
        if not known or not re.fullmatch(r"\d{1,4}", index):
            return "", -1
        return digest, int(index)


def device_name(name: str) -> str:
    """Return a device's name if it can be one.

    Raises:
        LoadError: If it is not one word of letters, digits, `_`, `-` and points.
    """
    return matching(DEVICE, name, "The device's name")


def matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    """Return a text that matches a pattern.

    Raises:
        LoadError: If it does not; the message begins with `what`.
    """
    if not pattern.fullmatch(text):
        raise LoadError(f"{what} is {text[:80]!r}; it has to match {pattern.pattern}.")
    return text
