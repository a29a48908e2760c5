"""Worker processes: their host, which starts, watches and ends them, and what runs inside.

A worker is a fresh interpreter that gets its orders as JSON and shares memory by descriptor. So
nothing is pickled, the user's main module is not imported a second time, and the number of threads
is settled before any library asks for it. A guardian process (`agentkd.runtime.workers.guardian`)
ends each worker with all that it has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from agentkd import affinity
from agentkd.errors import AgentkdError, ConfigError, RefError, WorkerError, check_range
from agentkd.printable import logger
from agentkd.refs import is_reference, resolve
from agentkd.runtime.workers import channels, guardian, priority
from agentkd.runtime.workers.channels import PID, STOP, Channel, Health, Mailbox, Segment, Status
from agentkd.runtime.workers.ending import Ending
from agentkd.runtime.workers.priority import MOST_NICE, Ladder, Silence, levels

log = logger(__name__)

Cause = Literal["died", "hung", "raised"]
RAISED, HOPELESS = 70, 71
"""How a worker ends when its planner or distiller raised, and when a new start would."""
_LIBRARIES = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")
"""Each has a variable such as OMP_NUM_THREADS."""


@dataclass(frozen=True, slots=True)
class Process:
    """What a worker process makes for itself: `resolve(factory)(**arguments)`.

    Attributes:
        factory: "module:attribute", such as "agentkd.planners:load_policy".
        arguments: Keyword arguments for it, as JSON values.
        threads: How many threads its numerical libraries use.
        nice: How much it yields to other programs once it is ready, 0 to 19. At 19 it is in
            SCHED_IDLE on Linux, where it gives a processor up at once. A worker that hardly runs is
            raised step by step. Where the system allows no raise, niceness 10 is the most.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    nice: int = MOST_NICE

    def __post_init__(self) -> None:
        if not is_reference(self.factory):
            raise ConfigError(f"{self.factory!r} is not a reference. Write module:attribute.")
        check_range("threads", self.threads, least=1, whole=True)
        check_range("nice", self.nice, least=0, most=MOST_NICE, whole=True)
        try:
            json.dumps(dict(self.arguments))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The arguments of {self.factory} go to another process as JSON: "
                f"{error}. Give names and numbers; let the factory make objects."
            ) from error

    def build(self) -> Any:
        """Make it here, in this process, or raise a RefError."""
        return resolve(self.factory)(**self.arguments)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may take, in seconds.

    Time in which a worker could run and other programs had the processors does not count towards
    `start` and `answer` (`agentkd.runtime.workers.priority`).

    Attributes:
        start: From its start until it is ready.
        answer: For one answer or step, before it counts as hung.
        backoff: Before it is started again; doubles up to `most_backoff`.
        most_backoff: The longest wait before a start.
        grace: To end by itself when told to.
        silence: Without a heartbeat, although it could run, before its priority is raised; at most
            a quarter of `answer`.
    """

    start: float = 120.0
    answer: float = 30.0
    backoff: float = 0.1
    most_backoff: float = 10.0
    grace: float = 1.0
    silence: float = 0.2


@final
class Host:
    """One supervised process: a planner, a distiller or a collector.

    It makes what `process` says and runs `serve`, a "module:function" that takes a `Child`, whose
    orders are JSON values. Channels in `shared` are closed with the host; those in `lent` stay
    open. `wake` is called when the worker is told to end. If it is `quiet`, what it prints does not
    appear among this process's errors.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        serve: str,
        orders: Mapping[str, Any],
        shared: Mapping[str, Channel | channels.Bell],
        patience: Patience | None = None,
        *,
        lent: Mapping[str, Channel] | None = None,
        wake: Callable[[], None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        self.status = Status()
        self.words = Mailbox(8192, 4)
        self.restarts: dict[str, int] = {"died": 0, "hung": 0, "raised": 0}
        self.error = ""
        self._name, self._factory = name, process
        self._patience = patience = patience or Patience()
        self._wake = wake
        self._printed = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115
        self._owned = {**shared, "status": self.status.segment, "words": self.words}
        every = {**self._owned, **(lent or {})}
        self._shared = {name: each.handle() for name, each in every.items()}
        self._orders = {
            "serve": serve,
            "factory": process.factory,
            "arguments": dict(process.arguments),
            "shared": self._shared,
            "orders": dict(orders),
        }
        steps = levels(process.nice, priority.niceness(), priority.lowest_reachable())
        self._ladder = Ladder(steps, min(patience.silence, patience.answer / 4))
        self._silence = Silence()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: Ending | None = None
        self._start_at = 0.0
        self._failures = self._starts_failed = 0
        self._state: channels.State = "starting"
        self._hopeless = self._closed = False
        self._told = ""
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The worker's process id, None while there is none."""
        return self.status[PID] or None if self._process else None

    @property
    def failures(self) -> int:
        """How often it died, hung or raised, at a start or later."""
        return sum(self.restarts.values()) + self._hopeless

    @property
    def ready(self) -> bool:
        """Whether it serves, as far as is known."""
        return self._process is not None and self.status.ready

    def health(self) -> Health:
        """Return its state."""
        state = "ready" if self.ready else self._state
        return Health(state, self._starts_failed, self._ladder.raised)

    def _start(self) -> None:
        """Start a guardian, which forks the worker and ends as it ends."""
        self.status.begin()
        # In a pipe, long orders would have to wait for the worker to read them.
        text = json.dumps(self._orders).encode()
        letter = Segment(len(text))
        letter.buffer[: len(text)] = text
        threads = str(self._factory.threads)
        command = [sys.executable, "-P", "-c", guardian.BOOT, guardian.__file__]
        # The thread that ticks may start it, and be bound.
        cores = json.dumps(sorted(affinity.UNBOUND[0]) if affinity.UNBOUND else [])
        told = [os.getpid(), json.dumps(sys.path), f"{__name__}:main", letter.fd, len(text), cores]
        # What a planner prints must not mix with this program's output.
        output = 2 if self._printed is None else self._printed.fileno()
        try:
            self._process = subprocess.Popen(
                [*command, *map(str, told)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=os.environ | {f"{each}_THREADS": threads for each in _LIBRARIES},
                pass_fds=[letter.fd, *(each.fd for each in self._shared.values())],
                # Ctrl-C is for the parent, which ends its workers in order.
                process_group=0,
            )
        finally:
            letter.close()

    def check(self) -> None:
        """Start, kill and reap, or raise its priority, as needed."""
        with self._lock:
            if not self._closed:
                self._check()

    def _check(self) -> None:
        self._listen()
        now = time.monotonic()
        if self._process is None:
            if not self._hopeless and now >= self._start_at and self._free():
                try:
                    self._start()
                except (OSError, WorkerError) as error:
                    self._fail("died", f"It could not be started: {error}")
            return
        code = self._process.poll()
        if code is not None:
            self._listen()
            self._hopeless = code == HOPELESS
            if code in (RAISED, HOPELESS):
                self._fail("raised", self.error)
            else:
                self._fail("died", f"{_ended(code)} {self.error or self._end_of_print()}".strip())
            return
        root, patience = self._process.pid, self._patience
        heard, what, limit = self.status.heard, "not ready after", patience.start
        if self.status.ready:
            self._yield(now, root)
            heard = max(self.status.heard, self._ladder.changed)
            what, limit = "silent for", patience.answer
        if self._silence.beyond(limit, now, heard, lambda: priority.usage(root)):
            self._fail("hung", f"It was {what} {now - heard:.1f} s.")

    def _yield(self, now: float, root: int) -> None:
        """Set the priority that the worker should have."""
        ladder = self._ladder
        first = self._state != "ready"
        if first:
            self._state, self._told = "ready", ""
            ladder.begin(now)
        raised = ladder.raised
        changed = ladder.look(now, self.status.heard, lambda: priority.usage(root))
        if not (first or changed) or not self._factory.nice:
            return
        try:
            # Its guardian needs no processor and stays as it is.
            priority.set_level(priority.family(root)[1:], ladder.level)
        except OSError as error:
            if ladder.raised == raised:
                return
            # A new start is the only way up; from then on it keeps a share.
            ladder.keep_to(levels(self._factory.nice, priority.niceness(), priority.NEVER))
            self._fail("hung", f"Its priority could not be raised: {error}.")
            return
        if ladder.raised > raised:
            log.info("The %s hardly ran: now at %s.", self._name, ladder.level)

    def _listen(self) -> None:
        for message in self.words.take():
            self.error = message.decode(errors="replace")
            if self.ready:
                log.warning("The %s: %s", self._name, _last_line(self.error))

    def _end_of_print(self) -> str:
        """Return the last line that a quiet worker printed."""
        if self._printed is None:
            return ""
        self._printed.seek(0)
        return _last_line(self._printed.read().decode(errors="replace"))

    def _fail(self, cause: Cause, words: str) -> None:
        was_ready = self.status.ready
        self.error = words
        self._end()
        self._failures = 0 if was_ready else self._failures + 1
        self._starts_failed += not was_ready
        self._state = "restarting" if was_ready else "failed"
        if self._hopeless:
            self._report(f"did not start and cannot: {_last_line(words)}")
            return
        self.restarts[cause] += 1
        pause = self._patience.backoff * 2.0 ** min(self._failures, 20)
        pause = min(pause, self._patience.most_backoff)
        self._start_at = time.monotonic() + pause
        why = f"did not start and is tried again: {_last_line(words)}"
        self._report(f"{cause}; it is started again." if was_ready else why)

    def _report(self, what: str) -> None:
        """Log a failure, once for each reason until it serves again."""
        if what != self._told:
            log.warning("The %s %s", self._name, what)
        self._told = what

    def _free(self) -> bool:
        """Return whether the worker before is gone, with all that it started."""
        return self._ending is None or self._ending.over()

    def _end(self) -> None:
        """Let the guardian end the worker and all that the worker started; do not wait for it."""
        process, self._process = self._process, None
        if process is not None:
            self._ending = Ending(process)

    def await_ready(self, timeout: float | None = None) -> None:
        """Start and wait until it serves; see `Port.await_ready`."""
        failed = self._starts_failed
        limit = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not self.ready:
            self.check()
            late = time.monotonic() > limit
            if late or self._starts_failed > failed or self._hopeless or self._closed:
                text = self.error or "It said nothing."
                if late:
                    text = f"It is not ready after {timeout:.3g} s. {self.error}".strip()
                raise WorkerError(f"The {self._name} {self._factory.factory} did not start: {text}")
            time.sleep(0.002)

    def close(self) -> None:
        """End the process: ask, wait a moment, kill; and reap it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # It may have become ready since the last look.
            self._state = self.health().state
            self.status[STOP] = 1
            self._wake()
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self._patience.grace)
            self._end()
            if self._ending is not None:
                self._ending.wait()
            self._listen()
            for channel in self._owned.values():
                channel.close()
            if self._printed is not None:
                self._printed.close()


class Port:
    """A planner or a distiller as an agent sees it, with or without a process."""

    _host: Host | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be used. It is read on the tick."""
        return True

    @property
    def pid(self) -> int | None:
        """The id of its process, None while there is none."""
        return self._host.pid if self._host is not None else None

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until it can be used, at most `timeout` seconds.

        None waits for as long as a start may take. A start that fails or takes longer is a
        WorkerError.
        """
        if self._host is not None:
            self._host.await_ready(timeout)

    def _hosted(self) -> Host:
        if self._host is None:
            raise ConfigError("It is not open. Use the agent in a with block.")
        return self._host

    def supervise(self) -> None:
        """Look after background work, such as its process; not on the tick's way."""
        if self._host is not None:
            self._host.check()


def _last_line(text: str) -> str:
    return text.strip().split("\n")[-1]


def _ended(code: int) -> str:
    if code >= 0:
        return f"It ended with code {code}."
    with contextlib.suppress(ValueError):
        return f"It was ended by {signal.Signals(-code).name}."
    return f"It was ended by signal {-code}."


@dataclass(slots=True)
class Child:
    """What a worker's function gets: what the factory made, its orders, and the channels.

    `shared` has the channels' handles by name; `status` shows its state; `words` takes errors.
    """

    made: Any
    orders: Mapping[str, Any]
    shared: Mapping[str, Sequence[int]]
    status: Status
    words: Mailbox

    def mailbox(self, name: str) -> Mailbox:
        """Open a shared mailbox."""
        return Mailbox.attach(self.shared[name])

    def say(self, text: str) -> None:
        """Send a text to the parent; only its end if it is too long."""
        self.words.write(text.encode(errors="backslashreplace")[-self.words.size :])


def describe(error: BaseException) -> str:
    """Describe an error: ours by its message, others by their traceback."""
    if isinstance(error, AgentkdError):
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        return f"{type(error).__name__}: {error}{cause}"
    return "".join(traceback.format_exception(error)).strip()


def main(told: Mapping[str, Any]) -> None:
    """Make what the host named, and serve until told to end."""
    shared = told["shared"]
    status = Status.attach(shared["status"])
    status[PID] = os.getpid()
    child = Child(None, told["orders"], shared, status, Mailbox.attach(shared["words"]))
    code = RAISED
    try:
        child.made = resolve(told["factory"])(**told["arguments"])
        resolve(told["serve"])(child)
    except (RefError, ConfigError) as error:
        # Another start would end the same way.
        code = RAISED if status.ready else HOPELESS
        child.say(describe(error))
    except Exception as error:
        child.say(describe(error))
    else:
        return
    sys.stdout.flush()
    os._exit(code)
