"""What is desired of a device, and how it gets there: chunks, the gate, and what the gate says."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from agentkd.device.device import Device
from agentkd.device.slots import LARGEST
from agentkd.device.state import Held, State
from agentkd.errors import AgentkdError, DeviceError, check_range
from agentkd.files import reason as told
from agentkd.fleet.incoming import Incoming
from agentkd.fleet.messages import Desired, Phase
from agentkd.printable import logger
from agentkd.signing.proof import LARGEST as LARGEST_PROOF
from agentkd.signing.proof import proof_path
from agentkd.transport.blobs import Need, need

log = logger(__name__)

INCOMING = "incoming"
"""The folder, inside the device's own, of what is being fetched."""
_PASSING = ("busy", "unwritten")
"""Reasons of a refusal that pass: the gate is asked again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a device looks, asks and reports.

    Attributes:
        look: Seconds between two looks at the device's own state.
        need: Seconds without a chunk after which the missing ones are asked for, and after which a
            gate that could not take a file is asked again. It doubles each time, and is drawn from
            half to one and a half of that.
        most: The longest of them.
        report: Seconds after which the same is reported again.
    """

    look: float = 0.5
    need: float = 1.0
    most: float = 30.0
    report: float = 60.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("look", "need", "most", "report"):
            check_range(name, getattr(self, name), above=0, below=86400)


@final
class Patience:
    """When to ask again."""

    def __init__(self, pace: Pace, drawn: random.Random) -> None:
        self._pace, self._random = pace, drawn
        self._pause, self._end = pace.need, 0.0

    @property
    def over(self) -> bool:
        """Whether it is time."""
        return asyncio.get_running_loop().time() >= self._end

    def renew(self) -> None:
        """Begin with the shortest pause."""
        self._pause = self._pace.need
        self.wait()

    def wait(self) -> None:
        """Begin a pause, twice as long as the one before."""
        now = asyncio.get_running_loop().time()
        self._end = now + self._pause * self._random.uniform(0.5, 1.5)
        self._pause = min(2 * self._pause, self._pace.most)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a device came, and why not further."""

    phase: Phase
    reason: str = ""
    text: str = ""


@final
class Errand:
    """Brings a device to what is desired, step by step.

    Args:
        desired: What is desired.
        device: The gate.
        patience: When chunks, or a gate that could not take a file, are asked for again.
    """

    def __init__(self, desired: Desired, device: Device, patience: Patience) -> None:
        self.desired, self.patience = desired, patience
        self._device = device
        self._folder = device.folder / INCOMING
        self._files: list[Incoming] = []
        self._verdict: Standing | None = None
        # Whether the executor was seen in the device: then it does not come in a second time.
        self._came = False
        self._trouble = Standing("FETCHING")

    @property
    def digest(self) -> str:
        """The executor that it is about."""
        return "" if self.desired.action == "hold" else self.desired.digest

    @property
    def fetched(self) -> int:
        """Chunks that are here."""
        return sum(each.here for each in self._files)

    @property
    def fetching(self) -> tuple[str, ...]:
        """The digests of the files of which chunks are missing."""
        return tuple(each.blob.digest for each in self._files if each.missing)

    def put(self, digest: str, index: int, data: bytes) -> str:
        """Take a chunk if it is missing; return what is wrong with it, if anything."""
        for each in self._files:
            if each.blob.digest != digest or index not in each.missing:
                continue
            if not each.blob.fits(index, data):
                return f"chunk {index} of {digest[:12]} has another SHA-256"
            try:
                each.put(index, data)
            except OSError as error:
                self._trouble = Standing("FETCHING", "unwritten", told(error))
                continue
            self._trouble = Standing("FETCHING")
            self.patience.renew()
        return ""

    def asks(self) -> list[Need]:
        """Return what to ask the server for now."""
        if not self.fetching or not self.patience.over:
            return []
        self.patience.wait()
        return [
            need(each.blob.digest, sorted(each.missing)) for each in self._files if each.missing
        ]

    async def step(self, state: State, starting: Held | None) -> Standing | None:
        """Come a step nearer; return how far it is, None if the device's state is another one now.

        Args:
            state: The device's state.
            starting: What a program would start with.
        """
        if self.desired.action == "hold":
            return Standing("IDLE")
        try:
            if self.desired.action == "rollback":
                return await self._go_back()
            stands = self._stands(state, starting) or self._verdict
            if stands is None:
                return await self._bring(state)
            if self._files:
                self._files = []
                await asyncio.to_thread(self._tidy, ())
        except OSError as error:
            self.patience.wait()
            self._trouble = Standing("FETCHING", "unwritten", told(error))
            return self._trouble
        return stands

    def _stands(self, state: State, starting: Held | None) -> Standing | None:
        """Return how far the executor came, None if it has to be brought."""
        digest, waiting, last = self.desired.digest, state.waiting, state.last
        if starting is not None and starting.digest == digest:
            self._came = True
            return Standing("CONFIRMED", "", starting.signed or "unsigned")
        if waiting is not None and waiting.held.digest == digest:
            self._came = True
            phase: Phase = "TRIAL" if waiting.stage == "TRIAL" else "STAGED"
            return Standing(phase, "", waiting.held.signed or "unsigned")
        if not self._came and digest not in state.blacklist:
            return None
        if last is not None and last.digest == digest and last.stage != "CONFIRMED":
            phase = "ROLLED_BACK" if last.stage == "ROLLED_BACK" else "REFUSED"
            return Standing(phase, last.reason, last.text)
        if digest in state.blacklist:
            return Standing("REFUSED", "blacklisted", state.blacklist[digest])
        return Standing("REFUSED", "replaced", "It was let in, and does not act any more.")

    async def _bring(self, state: State) -> Standing | None:
        """Fetch a file with its proof, and take both to the gate."""
        if self._trouble.reason and not self.fetching and not self.patience.over:
            return self._trouble
        if not self._files:
            self._files = await asyncio.to_thread(self._opened)
            self._trouble = Standing("FETCHING")
            self.patience.renew()
        if self._verdict is not None or self.fetching:
            return self._outcome()
        waiting = state.waiting
        if waiting is not None:
            text = f"{waiting.held.name} is {waiting.stage} since before."
            return Standing("FETCHING", "busy", text)
        if not await asyncio.to_thread(self._complete):
            self.patience.renew()
            return self._outcome()
        path, name = self._files[0].path, self.desired.name
        apply = partial(self._device.apply, path, name=name)
        self._came = await self._ask_gate(apply, "FETCHING")
        return None if self._came else self._outcome()

    async def _go_back(self) -> Standing:
        """Go back from an executor, if it acts or waits."""
        go_back = partial(self._device.rollback, self.desired.digest)
        due = self._verdict is None and (not self._trouble.reason or self.patience.over)
        if due and await self._ask_gate(go_back, "IDLE"):
            self._verdict = Standing("ROLLED_BACK", "asked", "The server asked for it.")
        return self._outcome()

    def _outcome(self) -> Standing:
        return self._verdict or self._trouble

    async def _ask_gate(self, what: Callable[[], object], meanwhile: Phase) -> bool:
        """Do something to the device, in a thread; note why it was refused, if it was."""
        self._trouble = Standing(meanwhile)
        try:
            await asyncio.to_thread(what)
        except AgentkdError as error:
            reason = error.reason if isinstance(error, DeviceError) else "error"
            if reason in _PASSING:
                self._trouble = Standing(meanwhile, reason, str(error))
                self.patience.wait()
            else:
                self._verdict = Standing("REFUSED", reason, str(error))
        except Exception as error:
            log.exception("The gate ended in an error.")
            self._verdict = Standing("REFUSED", "error", told(error))
        else:
            return True
        return False

    def _opened(self) -> list[Incoming]:
        """Look at what is there of the files; none if they are refused unseen."""
        desired = self.desired
        assert desired.file is not None
        path = self._folder / f"{desired.digest}.akd"
        wanted = [(path, desired.file, LARGEST)]
        if self._device.signed and desired.proof is not None:
            wanted.append((proof_path(path), desired.proof, LARGEST_PROOF))
        for _, blob, most in wanted:
            if blob.size > most:
                text = f"It has {blob.size:,} bytes; at most {most:,} are fetched."
                self._verdict = Standing("REFUSED", "damaged", text)
                return []
        self._tidy([each for each, _, _ in wanted])
        return [Incoming(each, blob) for each, blob, _ in wanted]

    def _tidy(self, kept: Iterable[Path]) -> None:
        """Remove what arrived of other files."""
        if self._folder.is_symlink():
            # What is not this device's own is not tidied up.
            raise NotADirectoryError(errno.ENOTDIR, "It is a link; remove it", str(self._folder))
        names = {each.name for each in kept}
        if self._folder.is_dir():
            for each in self._folder.iterdir():
                if each.name not in names:
                    folder = each.is_dir() and not each.is_symlink()
                    shutil.rmtree(each) if folder else each.unlink(missing_ok=True)

    def _complete(self) -> bool:
        """Look at the files on the disk once more, as a whole."""
        for each in self._files:
            whole = each.whole()
            if each.missing:
                self._trouble = Standing("FETCHING", "damaged", "What was fetched is damaged.")
                return False
            if not whole:
                text = f"Its chunks do not make up {each.blob.digest}."
                self._verdict = Standing("REFUSED", "damaged", text)
                return False
        return True
