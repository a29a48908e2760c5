"""SIGTERM and SIGHUP do what Ctrl-C does, in every command."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_ALIKE = (signal.SIGTERM, signal.SIGHUP)
_CTRL_C = 128 + signal.SIGINT


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[Callable[[int], int]]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does inside the block.

    A signal that is ignored stays ignored, as `nohup` wants it. Elsewhere than in the main thread
    nothing is changed.

    Yields:
        What turns a command's status into the exit status: 128 + n if signal n ended it.
    """
    came: int = signal.SIGINT

    def note(number: int, _: FrameType | None) -> None:
        """Pass a signal on to what answers Ctrl-C at the moment."""
        nonlocal came
        came = number
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # ignored, as in a job that a shell started in the background
            raise KeyboardInterrupt

    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [each for each in _ALIKE if signal.getsignal(each) is not signal.SIG_IGN]
    before = [signal.signal(each, note) for each in taken]
    try:
        yield lambda status: 128 + came if status == _CTRL_C else status
    finally:
        for each, handler in zip(taken, before, strict=True):
            signal.signal(each, handler or signal.SIG_DFL)
