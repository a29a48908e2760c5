"""Any history of updates, ends by hand, crashes and damage leaves a device with an executor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentkd.device import Device, State
from agentkd.errors import DeviceError
from tests.runtime_children import constant
from tests.test_device import written

FILES = 4


def refusal(call: Callable[[], object]) -> str:
    """Call, and return why the device refused, "" if it did not."""
    try:
        call()
    except DeviceError as error:
        return error.reason
    return ""


class Histories(RuleBasedStateMachine):
    """Checks a device after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = [written(self.folder, f"{n}", constant(n)) for n in range(FILES)]
        self.device = Device(self.folder / "device", starts=2)

    def teardown(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    @property
    def state(self) -> State:
        """The device's state."""
        return self.device.status()

    @initialize(number=some.integers(0, FILES - 1))
    def first(self, number: int) -> None:
        """Give the device its first executor."""
        self.device.apply(self.files[number])

    @rule(number=some.integers(0, FILES - 1), again=some.booleans())
    def apply(self, number: int, again: bool) -> None:
        """Offer a file."""
        before = self.state
        refused = refusal(lambda: self.device.apply(self.files[number], again=again))
        assert refused in ("", "busy", "blacklisted")
        after = self.state
        assert after.active == before.active
        if after.waiting is not None and after.active is not None:
            assert after.waiting.held.slot != after.active.slot

    @rule()
    def begin(self) -> None:
        """Start a program that begins the trial."""
        before = self.state.waiting
        bundle = Device(self.device.folder, starts=2).begin()
        if bundle is None:
            assert before is None or before.starts == 2
        else:
            assert before is not None
            after = self.state.waiting
            assert after is not None
            assert after.starts == before.starts + 1

    @rule(confirmed=some.booleans())
    def end(self, confirmed: bool) -> None:
        """End what is there by hand."""
        before = self.state
        refused = refusal(self.device.confirm if confirmed else self.device.rollback)
        assert refused in ("", "empty")
        last = self.state.last
        assert last is not None
        if refused:
            assert self.state == before
        else:
            assert last.stage == ("CONFIRMED" if confirmed else "ROLLED_BACK")

    @precondition(lambda self: self.state.former is not None)
    @rule()
    def damage(self) -> None:
        """Damage the file that acts, while there is another one."""
        active = self.state.active
        assert active is not None
        (self.device.folder / f"slot-{active.slot}.akd").write_bytes(b"x")
        self.device.apply(self.files[0], again=True)

    @invariant()
    def acts(self) -> None:
        """A program can start, and what is blacklisted does not act."""
        if self.state.active is None:
            return
        action = self.device.executor().act(np.zeros(3, np.float32))
        assert action in range(FILES)
        assert self.device.started not in self.state.blacklist


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
