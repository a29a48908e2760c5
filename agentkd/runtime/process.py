"""Worker processes: started, watched, killed when they hang, and started again.

A worker is a fresh interpreter that gets its orders as one line of JSON and shares
memory by descriptor. So nothing is pickled, the user's main module is not imported a
second time, and the number of threads is settled before any library asks for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from agentkd.errors import ConfigError, WorkerError
from agentkd.printable import logger
from agentkd.refs import is_reference, resolve
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.status import Status

log = logger(__name__)

Cause = Literal["died", "hung", "raised"]
MOST_NICE = 19
RAISED = 70
"""How a worker ends when its planner or learner raised."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from agentkd.runtime.worker import main; main()"
)
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Remote:
    """What a worker process makes for itself: `resolve(factory)(**arguments)`.

    Attributes:
        factory: "module:attribute", such as "agentkd.planners:load_policy".
        arguments: Keyword arguments for it, as JSON values.
        threads: How many threads its numerical libraries use.
        nice: How much it yields to others, 0 to 19. At 19 it is in SCHED_IDLE where
            there is that: it has what nobody else wants, and gives it up at once. With
            all cores busy, fewest ticks at 1 kHz came late so; where ordinary work
            keeps all cores busy for good, it needs less to get anywhere.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    nice: int = MOST_NICE

    def __post_init__(self) -> None:
        """Refuse what could not be sent."""
        if not is_reference(self.factory):
            raise ConfigError(
                f"{self.factory!r} is not a reference. Write module:attribute."
            )
        if self.threads < 1 or not 0 <= self.nice <= MOST_NICE:
            raise ConfigError(
                f"threads={self.threads}, nice={self.nice}: at least one thread, and "
                "a niceness from 0 to 19."
            )
        try:
            json.dumps(dict(self.arguments))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The arguments of {self.factory} go to another process as JSON: "
                f"{error}. Give names and numbers; let the factory make objects."
            ) from error

    def build(self) -> Any:
        """Make it here, in this process.

        Raises:
            RefError: If the reference leads nowhere.
        """
        return resolve(self.factory)(**self.arguments)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may take, in seconds.

    Attributes:
        start: From its start until it is ready.
        answer: For one answer or step, before it counts as hung.
        backoff: Before it is started again; doubles up to `most_backoff`.
        most_backoff: The longest wait before a start.
        grace: To end by itself when told to.
    """

    start: float = 120.0
    answer: float = 30.0
    backoff: float = 0.1
    most_backoff: float = 10.0
    grace: float = 1.0


@final
class Worker:
    """One supervised process.

    Args:
        name: For messages: "planner", "distiller".
        remote: What it makes.
        serve: "module:function" of ours that it runs, as f(orders, made, status).
        orders: What that function needs to know, as JSON values.
        descriptors: What it shares with this process.
        patience: How long it may take.
        wake: Called when it is told to end.
    """

    def __init__(
        self,
        name: str,
        remote: Remote,
        serve: str,
        orders: Mapping[str, Any],
        descriptors: Sequence[int],
        patience: Patience,
        wake: Callable[[], None],
    ) -> None:
        """Prepare; `check` starts it."""
        self.status = Status()
        self.words = Mailbox(8192, 4)
        self.restarts: dict[str, int] = {"died": 0, "hung": 0, "raised": 0}
        self.error = ""
        self.failed_to_start = False
        self._name, self._remote, self._patience = name, remote, patience
        self._wake = wake
        self._descriptors = [
            *descriptors,
            self.status.segment.fd,
            self.words.segment.fd,
        ]
        self._orders = {
            "serve": serve,
            "factory": remote.factory,
            "arguments": dict(remote.arguments),
            "nice": remote.nice,
            "status": self.status.segment.handle(),
            "words": self.words.handle(),
            **orders,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._failures = 0
        self._closed = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._process.pid if self._process else None

    def _start(self) -> None:
        environment = dict(os.environ)
        for name in _THREADS:
            environment[name] = str(self._remote.threads)
        self.status.begin()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            # What a planner prints must not mix with this program's output.
            stdout=2,
            env=environment,
            pass_fds=self._descriptors,
            # Ctrl-C is for the parent, which ends its workers in order.
            process_group=0,
        )
        assert self._process.stdin is not None
        # A worker that is gone already is found by the next check.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(self._orders).encode() + b"\n")
            self._process.stdin.flush()

    def check(self) -> None:
        """Start, or kill and reap, as needed; takes milliseconds when it acts."""
        with self._lock:
            if not self._closed:
                self._check()

    def _check(self) -> None:
        self._listen()
        if self._process is None:
            if time.monotonic() >= self._start_at:
                try:
                    self._start()
                except OSError as error:
                    self.error = f"{sys.executable} could not be started: {error}"
                    self._fail("died")
            return
        code = self._process.poll()
        if code is not None:
            self._listen()
            self._fail("raised" if code == RAISED else "died", code)
        elif self.status.ready:
            if self.status.silence > self._patience.answer:
                self._fail("hung")
        elif self.status.silence > self._patience.start:
            self._fail("hung")

    def _listen(self) -> None:
        for message in self.words.take():
            self.error = message.decode(errors="replace")
            log.warning("The %s: %s", self._name, self.error.strip().split("\n")[-1])

    def _fail(self, cause: Cause, code: int | None = None) -> None:
        was_ready = self.status.ready
        self.failed_to_start |= not was_ready
        self._failures = 0 if was_ready else self._failures + 1
        self._reap()
        self.restarts[cause] += 1
        pause = self._patience.backoff * 2.0 ** min(self._failures, 20)
        self._start_at = time.monotonic() + min(pause, self._patience.most_backoff)
        if cause == "died":
            self.error = f"It ended with code {code}. {self.error}".strip()
        elif cause == "hung":
            self.error = f"It was silent for {self.status.silence:.1f} s."
        log.warning("The %s %s; it is started again.", self._name, cause)

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def await_ready(self) -> None:
        """Start and wait until it serves.

        Raises:
            WorkerError: If it raised, died or took too long on the way, with its words.
        """
        while not self.status.ready or self._process is None:
            self.check()
            if self.failed_to_start or self._closed:
                text = self.error or "It said nothing."
                raise WorkerError(
                    f"The {self._name} {self._remote.factory} did not start: {text}"
                )
            time.sleep(0.002)

    def close(self) -> None:
        """End the process: ask, wait a moment, kill; and reap it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.status.stop()
            self._wake()
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self._patience.grace)
            self._reap()
            self._listen()
            self.status.segment.close()
            self.words.segment.close()
