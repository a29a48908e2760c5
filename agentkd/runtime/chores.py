"""Chores: what is done between two ticks, in the time that the clock leaves.

A thread beside the tick would take the interpreter from it at any moment. So supervision, swaps and
the like are cut into slices, and the loop that ticks runs a slice only where its usual duration
fits before the next tick.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, final

from agentkd.printable import logger

log = logger(__name__)

SOON = 0.05
"""Seconds between two runs of a chore, by default."""
_MARGIN, _MARGIN_SHARE = 1e-4, 0.1
"""What is left free before a tick: seconds, or its share of the period, whichever is less."""
_OVERDUE = 1.0
"""Seconds after which a slice runs although it does not fit, one at a tick."""
_LEARN = 0.25
"""How fast the usual duration of a slice follows the last ones."""
_GROWTH = 2.0
"""A slice that took longer than so many times the usual counts as that: the system may have
interrupted it."""

Work = Callable[[], Iterator[str] | None]
"""Does a chore at once, or returns its slices: each step does one and names the next."""


class Timekeeper(Protocol):
    """The part of a clock that chores need."""

    @property
    def period(self) -> float:
        """Seconds from one tick to the next."""

    def now(self) -> float:
        """Seconds since the start."""


@final
class Chore:
    """Something that is done every so many seconds of the clock.

    One that is `patient` waits for as long as it does not fit before a tick.
    """

    def __init__(
        self, name: str, work: Work, every: float = SOON, *, patient: bool = False
    ) -> None:
        self.name, self.every, self.patient = name, every, patient
        self.due, self.slice = 0.0, name  # of the next slice: when it is due, and its name
        self._work = work
        self._rest: Iterator[str] | None = None
        self._trouble = ""

    @property
    def begun(self) -> bool:
        """Whether slices of it are left."""
        return self._rest is not None

    def step(self) -> bool:
        """Do the next slice; return whether the chore is done.

        An error ends the chore until it is due again. It is logged, once until it goes away.
        """
        try:
            if self._rest is None:
                self._rest = self._work()
            if self._rest is not None:
                self.slice = f"{self.name}: {next(self._rest)}"
                return False
        except StopIteration:
            pass
        except Exception as error:
            trouble, self._trouble = self._trouble, f"{type(error).__name__}: {error}"
            if self._trouble != trouble:
                log.exception("Supervision failed; it goes on.")
            self._end()
            return True
        self._trouble = ""
        self._end()
        return True

    def _end(self) -> None:
        self._rest, self.slice = None, self.name


@final
class Chores:
    """Runs chores between ticks, or all at once where nobody ticks.

    One thread at a time runs them; another one that comes meanwhile waits or goes on.

    Attributes:
        resting: Whether no tick came since a thread said so last.
        overruns: Slices that ended after the next tick was due.
        trace: If it is a list, each slice adds its name, its beginning and its end, in seconds of
            the clock.
    """

    def __init__(self, *chores: Chore) -> None:
        self.overruns, self.resting = 0, True
        self.trace: list[tuple[str, float, float]] | None = None
        self._chores = list(chores)
        self._usual: dict[str, float] = {}
        self._next = 0.0
        # Not a plain lock: a signal's handler may close the agent while this thread has the turn.
        self._turn = threading.RLock()
        self._runner = 0  # the thread that is inside a chore
        self._postponed: Callable[[], None] | None = None
        self._closed = False

    def add(self, chore: Chore) -> None:
        """Add a chore; not while another thread ticks."""
        self._chores.append(chore)

    def expect(self, name: str, seconds: float) -> None:
        """Tell how long a slice takes that has not been run yet."""
        self._usual.setdefault(name, seconds)

    def between(self, clock: Timekeeper, until: float) -> None:
        """Run what is due and fits before a moment, in seconds of the clock.

        Under a virtual clock `until` is infinite, and whatever is due is run.
        """
        self.resting = False
        now = clock.now()
        if now < self._next or not self._turn.acquire(blocking=False):
            return
        try:
            self._alone(partial(self._run, clock, now, until))
        finally:
            self._turn.release()

    def _alone(self, run: Callable[[], None]) -> None:
        """Run chores in this thread, which has the turn, and then do what they postponed."""
        if self._closed or self._runner:
            return
        self._runner = threading.get_ident()
        try:
            run()
        finally:
            self._runner = 0
            postponed, self._postponed = self._postponed, None
            if postponed is not None:
                postponed()

    def postpone(self, closing: Callable[[], None]) -> bool:
        """Let this thread close after the chore that it is inside of; return False outside of one.

        A signal's handler runs in the middle of a chore, which holds locks and is half done.
        """
        if self._runner != threading.get_ident():
            return False
        self._postponed, self._closed = closing, True
        return True

    def _run(self, clock: Timekeeper, now: float, until: float) -> None:
        end, spent = until - min(_MARGIN, _MARGIN_SHARE * clock.period), False
        for chore in sorted(self._chores, key=_due):
            if now < chore.due:
                break
            done = False
            while not (done or self._closed):
                fits = now + self._usual.get(chore.slice, 0.0) <= end
                early = chore.patient or now - chore.due <= _OVERDUE
                if not fits and (spent or early):
                    break
                name, began = chore.slice, now
                done = chore.step()
                now = clock.now()
                chore.due = now + (chore.every if done else 0.0)
                self._note(name, began, now, until)
                if not fits:
                    # Once is enough: the next tick is due.
                    end, spent = -math.inf, True
        self._next = min((chore.due for chore in self._chores), default=math.inf)

    def _note(self, name: str, began: float, ended: float, until: float) -> None:
        took = ended - began
        usual = self._usual.get(name)
        if usual is None:
            self._usual[name] = took
        else:
            self._usual[name] = usual + _LEARN * (min(took, _GROWTH * usual) - usual)
        self.overruns += ended > until
        if self.trace is not None:
            self.trace.append((name, began, ended))

    def all(self, *, wait: bool = True) -> None:
        """Run all of them to their end, due or not; unless another thread does, without `wait`."""
        if not self._turn.acquire(blocking=wait):
            return
        try:
            self._alone(self._all)
        finally:
            self._turn.release()

    def _all(self) -> None:
        for chore in self._chores:
            while not (self._closed or chore.step()):
                pass

    def close(self) -> None:
        """Bring what was begun to its end, and run nothing any more."""
        with self._turn:
            self._closed = True
            for chore in self._chores:
                while chore.begun and not chore.step():
                    pass


def _due(chore: Chore) -> float:
    return chore.due
