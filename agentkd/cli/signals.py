"""SIGTERM and SIGHUP do what Ctrl-C does, in every command."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import final

_ALIKE = (signal.SIGTERM, signal.SIGHUP)
_CTRL_C = 128 + signal.SIGINT


@final
class Ending:
    """The signal that ended a command, if one did."""

    def __init__(self) -> None:
        """No signal came yet."""
        self.number: int = signal.SIGINT

    def status(self, status: int) -> int:
        """Return the exit status: 128 + n if signal n ended the command."""
        return 128 + self.number if status == _CTRL_C else status

    def note(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on to whatever answers Ctrl-C at the moment."""
        self.number = number
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # ignored, as in a job that a shell started in the background
            raise KeyboardInterrupt


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does inside the block.

    A signal that is ignored stays ignored, as `nohup` wants it. Elsewhere than in the main thread
    nothing is changed.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    taken = [each for each in _ALIKE if signal.getsignal(each) is not signal.SIG_IGN]
    before = [signal.signal(each, ending.note) for each in taken]
    try:
        yield ending
    finally:
        for each, handler in zip(taken, before, strict=True):
            signal.signal(each, handler or signal.SIG_DFL)
