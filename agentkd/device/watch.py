"""A repository that is watched: each new version of an executor goes through the gate."""

from __future__ import annotations

from typing import final

from agentkd.device.device import Device
from agentkd.errors import DeviceError


@final
class Watch:
    """Looks at a signed repository, in a folder or behind an HTTP address.

    What was refused is not fetched again until it is signed again or another executor acts, and a
    message is given once.

    Args:
        device: The device; it needs `trust`.
        address: The repository: a folder, or an address that begins with http:// or https://.
        name: What the executor is signed as.
    """

    def __init__(self, device: Device, address: str, name: str) -> None:
        self._device, self._address, self._name = device, address, name
        self.failed = False
        """Whether the last look ended in an error."""
        self._said = ""

    def look(self) -> str:
        """Let in what is new; return what there is to say about it, "" if that was said before."""
        before = self._device.status()
        try:
            after = self._device.fetch(self._address, self._name)
        except DeviceError as error:
            # The trial of the one before goes first; the next look comes back to it.
            self.failed = error.reason != "busy"
            text = f"{self._name}: {error}"
        else:
            self.failed = False
            if after == before:
                return ""
            text = f"{self._name}: {after.candidate.stage if after.candidate else 'CONFIRMED'}"
        said, self._said = self._said, text
        return "" if text == said else text
