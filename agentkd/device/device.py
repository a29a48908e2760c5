"""The gate of a device: the one way in which an executor gets onto it, and stays."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import final

from agentkd.deploy.bundle import Bundle
from agentkd.device.checks import check_all, read
from agentkd.device.offers import offered
from agentkd.device.slots import LARGEST, Slots, file_digest
from agentkd.device.state import Candidate, Held, Outcome, State, Tally, read_state, write_state
from agentkd.errors import DeviceError, DeviceReason, LoadError, SignatureError
from agentkd.executors.executor import Executor
from agentkd.files import read_file, write_atomic
from agentkd.printable import logger
from agentkd.signing.proof import read_proof
from agentkd.signing.store import Signed, Trusting, TrustStore, trust_store
from agentkd.spec import Spec

log = logger(__name__)

STARTS = 3
"""Programs that may begin a trial without confirming it."""


@final
class Device:
    """A folder that holds the executor that acts, and lets another one in only through the gate.

        device = Device("/var/lib/robot", trust="root.json")
        with Agent(device.executor(), period=0.02) as agent, Trial(device, agent) as trial:
            while agent.tick():
                action = agent.act(obs)
                ...
                trial.tick(obs, action)

    An executor goes from FETCHED over VERIFIED and STAGED to TRIAL, and ends as CONFIRMED, REFUSED
    or ROLLED_BACK. Each transition is one replaced file. Until it is confirmed, every program
    starts with the executor that acted before. Several processes may use the folder.

    Args:
        folder: The device's own folder; it is made by the first update.
        trust: A `root.json`, or a `TrustStore`: files without a valid signature are refused. What
            was seen signed is kept in the folder, against rollbacks.
        spec: The environment, against which executors are checked, besides the one that acts.
        starts: Programs that may begin a trial without confirming it, before it is rolled back.

    Raises:
        SignatureError: If the `root.json` cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        trust: Trusting | None = None,
        spec: Spec | None = None,
        starts: int = STARTS,
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "state.json"
        """The file of the state."""
        self._trust: TrustStore | None = None
        self._anchor = ""
        if trust is not None:
            self._trust = trust_store(trust).remembering(self.folder / "trust.json")
            self._anchor = file_digest(self._trust.anchor)
        self.signed = trust is not None
        """Whether unsigned files are refused."""
        self._slots = Slots(self.folder, signed=self.signed)
        self._spec, self._starts = spec, starts
        # What a repository offered in vain: its SHA-256 and serial, what acted then, and why.
        self._refused: tuple[tuple[str, int, str], DeviceError] | None = None
        self.started = ""
        """SHA-256 of the executor that `executor` gave last."""

    def status(self) -> State:
        """Return the state on disk.

        Raises:
            DeviceError: If it cannot be read.
        """
        try:
            return read_state(self.path)
        except LoadError as error:
            raise DeviceError(
                f"{error} Without it the device does not know which executor was confirmed. "
                f"Remove {self.path} and apply an executor again.",
                "",
                "damaged",
            ) from error

    def executor(self) -> Executor:
        """Return the confirmed executor, with which a program starts.

        Raises:
            DeviceError: If there is none, or its file is damaged and so is the former one's.
        """
        return self.bundle().executor

    def bundle(self) -> Bundle:
        """Return the file of the confirmed executor; see `executor`."""
        state = self.status()
        if state.active is None:
            raise DeviceError(
                f"{self.folder} holds no executor. Give it the first one: agentkd device apply "
                f"FILE --folder {self.folder}.",
                "",
                "empty",
            )
        try:
            held, bundle = state.active, self._slots.open(state.active)
        except DeviceError as error:
            if state.former is None:
                raise
            held = state.former
            log.warning("%s The former executor acts: %s.", error, held.name)
            bundle = self._slots.open(held)
        self.started = held.digest
        return bundle

    def starting(self) -> Held | None:
        """Return what a program would start with now, None if no file is whole.

        Raises:
            DeviceError: If the state cannot be read.
        """
        state = self.status()
        for held in (state.active, state.former):
            with suppress(DeviceError):
                if held is not None:
                    self._slots.open(held)
                    return held
        return None

    def _startable(self, state: State) -> tuple[State, Bundle | None]:
        """Return the file that a program can start with, if there is one, and the state.

        Where only the former executor is whole, the device returns to it for good: so the slot that
        is written next is the one with the damage.
        """
        active, former = state.active, state.former
        if active is None:
            return state, None
        try:
            return state, self._slots.open(active)
        except DeviceError as error:
            if former is None:
                return state, None
            text = f"Its file was damaged: {error}"
        try:
            bundle = self._slots.open(former)
        except DeviceError:
            return state, None
        outcome = Outcome(active.digest, active.name, "ROLLED_BACK", "damaged", text)
        return self._write(replace(state.ended(outcome), active=former, former=None)), bundle

    def apply(self, file: str | Path, *, again: bool = False, name: str = "") -> State:
        """Let an executor file in, as far as STAGED; a running `Trial` takes it from there.

        The first executor of a device is confirmed at once, for there is none to compare it with.

        Args:
            file: The file; its proof lies beside it.
            again: Whether to take it off the blacklist.
            name: What it is called; "" for the file's name.

        Raises:
            DeviceError: If it is refused. `state` is how far it came, `reason` is why.
        """
        path = Path(file)
        try:
            data = read_file(path, LARGEST)
        except LoadError as error:
            raise DeviceError(f"{error} It was not fetched.", "", "damaged") from error
        signed = None
        if self._trust is not None:
            try:
                with self._slots.changing("FETCHED", fetching=True):
                    signed = self._trust.check(data, read_proof(path), path)
            except SignatureError as error:
                raise DeviceError(str(error), "FETCHED", "unsigned") from error
        with self._slots.changing("FETCHED"):
            return self._apply(data, name or path.name, signed, again=again)

    def fetch(self, address: str, name: str) -> State:
        """Fetch a signed executor from a repository, and let it in as `apply` does.

        Only what is new is downloaded. Meanwhile others may confirm, roll back and try executors.

        Args:
            address: The repository: a folder, or an address that begins with http:// or https://.
            name: What the executor was signed as.

        Raises:
            DeviceError: If it is refused, or cannot be fetched.
        """
        if self._trust is None:
            raise DeviceError(
                f"What comes from {address} is taken only with a signature: give the device "
                "the repository's root.json as trust.",
                "",
                "unsigned",
            )
        try:
            with self._slots.changing("FETCHED", fetching=True):
                digest, serial = offered(self._trust, address, name)
                state = self.status()
                if self._has(state, digest, name):
                    return state
                offer = digest, serial, "" if state.active is None else state.active.digest
                if self._refused is not None and self._refused[0] == offer:
                    raise self._refused[1]
                data, signed = self._trust.fetch(address, name, LARGEST)
        except SignatureError as error:
            raise DeviceError(str(error), "", "unsigned") from error
        with self._slots.changing("FETCHED"):
            try:
                return self._apply(data, name, signed, again=False)
            except DeviceError as error:
                if error.reason in ("damaged", "unfit", "old"):
                    self._refused = offer, error
                raise

    def begin(self) -> Bundle | None:
        """Begin the trial of what is staged, and return it; None if nothing is.

        The start is counted on disk before the executor is handed out: a program that dies with it
        again and again finds it rolled back.

        Raises:
            DeviceError: If the state cannot be written.
        """
        with self._slots.changing("STAGED"):
            state = self.status()
            candidate = state.waiting
            if candidate is None:
                return None
            if candidate.starts >= self._starts:
                self._end(
                    state,
                    "crashes",
                    f"{candidate.starts} programs began its trial and none confirmed it.",
                )
                return None
            starts = candidate.starts + 1
            write_state(self.path, state.advanced(replace(candidate, stage="TRIAL", starts=starts)))
            try:
                return self._slots.open(candidate.held)
            except DeviceError as error:
                blacklisted = error.reason == "golden"
                self._end(self.status(), error.reason, str(error), blacklisted=blacklisted)
                return None

    def pause(self, digest: str, shadow: Tally, acting: Tally) -> State:
        """Take back the start of a trial that a program ended cleanly, and keep what it counted.

        Raises:
            DeviceError: If the state cannot be written.
        """
        with self._slots.changing("TRIAL"):
            state = self.status()
            found = state.waiting
            if found is None or found.held.digest != digest or not found.starts:
                return state
            starts = found.starts - 1
            after = replace(found, starts=starts, shadow=shadow, acting=acting)
            return self._write(state.advanced(after))

    def confirm(self, digest: str | None = None) -> State:
        """Confirm what is staged or on trial: programs start with it from now on.

        Args:
            digest: What is meant; by default whatever there is. If it is not there any more,
                nothing is done.

        Raises:
            DeviceError: If there is nothing to confirm, its file is damaged (then it is rolled
                back), or the state cannot be written.
        """
        with self._slots.changing("TRIAL"):
            state = self.status()
            candidate = state.waiting
            if candidate is None:
                if digest is not None:
                    return state
                raise DeviceError(
                    "There is nothing to confirm: no executor is staged or on trial. Apply one "
                    "first.",
                    "",
                    "empty",
                )
            if digest not in (None, candidate.held.digest):
                return state
            try:
                self._slots.open(candidate.held)
            except DeviceError as error:
                self._end(state, error.reason, str(error), blacklisted=error.reason == "golden")
                raise
            return self._confirm(state, candidate.held, "after its trial" if digest else "by hand")

    def fail(self, digest: str, reason: DeviceReason, text: str) -> State:
        """Roll back what is staged or on trial, onto the blacklist; nothing if it is not any more.

        Args:
            digest: What is meant.
            reason: Why, in one word.
            text: Why, in a sentence.

        Raises:
            DeviceError: If the state cannot be written.
        """
        with self._slots.changing("TRIAL"):
            state = self.status()
            if state.waiting is None or state.waiting.held.digest != digest:
                return state
            return self._end(state, reason, text)

    def rollback(self, digest: str | None = None) -> State:
        """Roll back what is on its way; else return to the executor before the confirmed one.

        What is left goes onto the blacklist.

        Args:
            digest: What is meant; by default whatever there is. If it neither acts nor waits,
                nothing is done.

        Raises:
            DeviceError: If there is nothing to return to, or the state cannot be written.
        """
        text = "It was rolled back by hand."
        with self._slots.changing("TRIAL"):
            state = self.status()
            candidate, active, former = state.waiting, state.active, state.former
            if candidate is not None and digest in (None, candidate.held.digest):
                return self._end(state, "asked", text)
            if digest is not None and (active is None or active.digest != digest):
                return state
            if active is None or former is None:
                raise DeviceError(
                    "There is nothing to return to: no executor is on its way, and none is left "
                    "of before the confirmed one. Apply one.",
                    "CONFIRMED",
                    "empty",
                )
            self._slots.open(former)
            outcome = Outcome(active.digest, active.name, "ROLLED_BACK", "asked", text)
            after = state.ended(outcome, blacklisted=True)
            return self._write(replace(after, active=former, former=None))

    def _has(self, state: State, digest: str, name: str) -> bool:
        """Return whether an executor acts or waits already; raise for one that cannot come now."""
        candidate, active = state.waiting, state.active
        if active is not None and active.digest == digest and self._slots.whole(active):
            return True
        if candidate is not None:
            if candidate.held.digest == digest:
                return True
            raise DeviceError(
                f"{candidate.held.name} is {candidate.stage} since before. Let its trial end, or "
                "end it: agentkd device confirm, or agentkd device rollback.",
                candidate.stage,
                "busy",
            )
        if digest in state.blacklist:
            raise DeviceError(
                f"{name} is on the blacklist of this device: {state.blacklist[digest]} Distil "
                "another one, or give --again if that had another cause.",
                "FETCHED",
                "blacklisted",
            )
        return False

    def _apply(self, data: bytes, name: str, signed: Signed | None, *, again: bool) -> State:
        """Take an executor's bytes, whose signature was checked, from FETCHED to STAGED."""
        state, present = self._startable(self.status())
        digest = hashlib.sha256(data).hexdigest()
        if again:
            kept = {each: why for each, why in state.blacklist.items() if each != digest}
            state = replace(state, blacklist=kept)
        if self._has(state, digest, name):
            return state
        self._slots.tidy()
        held = Held(state.free, digest, name)
        if signed is not None:
            held = replace(held, signed=str(signed), serial=signed.serial, anchor=self._anchor)
        before = state
        if state.last is None or (state.last.digest, state.last.stage) != (digest, "REFUSED"):
            state = self._write(state.advanced(Candidate(held, "FETCHED")))
        try:
            self._verify(data, held, state, present)
        except DeviceError as error:
            outcome = Outcome(digest, held.name, "REFUSED", error.reason, str(error))
            blacklisted = error.reason in ("golden", "numbers")
            after = state.ended(outcome, blacklisted=blacklisted)
            if after != before:
                self._write(after)
            raise
        # The other slot is about to be written: what it held is gone from here on.
        state = self._write(replace(state, former=None).advanced(Candidate(held, "VERIFIED")))
        write_atomic(self._slots.path(held.slot), data)
        state = self._write(state.advanced(Candidate(held, "STAGED")))
        if state.active is None:
            return self._confirm(state, held, "as the first one of this device")
        if present is None:
            return self._confirm(state, held, "because no other one could be started")
        return state

    def _verify(self, data: bytes, held: Held, state: State, present: Bundle | None) -> None:
        """Check bytes, golden vectors, contract and numbers, and that nothing older comes back."""
        bundle = read(data, held.name)
        active = state.active
        if active is not None and held.serial < active.serial and _comparable(active, held):
            raise DeviceError(
                f"{held.name} was signed before {active.name}, which acts: serial {held.serial} "
                f"against {active.serial}. To go back to it, sign it again: agentkd keys sign. If "
                f"{active.name} was signed with a stolen key, go back first: agentkd device "
                "rollback.",
                "FETCHED",
                "old",
            )
        check_all(bundle, held.name, present, self._spec)

    def _confirm(self, state: State, held: Held, how: str) -> State:
        outcome = Outcome(held.digest, held.name, "CONFIRMED", "", f"It was confirmed {how}.")
        return self._write(replace(state.ended(outcome), active=held, former=state.active))

    def _end(
        self, state: State, reason: DeviceReason, text: str, *, blacklisted: bool = True
    ) -> State:
        """Roll the candidate back."""
        assert state.candidate is not None
        held = state.candidate.held
        outcome = Outcome(held.digest, held.name, "ROLLED_BACK", reason, text)
        ended = self._write(state.ended(outcome, blacklisted=blacklisted))
        log.warning("%s is rolled back: %s", held.name, text)
        return ended

    def _write(self, state: State) -> State:
        write_state(self.path, state)
        return state


def _comparable(one: Held, other: Held) -> bool:
    """Return whether serials tell which is newer: each repository counts from 1."""
    return one.anchor == other.anchor or "" in (one.anchor, other.anchor)
