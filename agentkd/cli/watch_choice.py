"""Options for real-time scheduling, and for exporting a run's metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from agentkd.errors import ConfigError
from agentkd.extras import needing
from agentkd.runtime.clock import Realtime
from agentkd.runtime.metrics import scalars

_SCALARS_EVERY = 0.5


@dataclass(frozen=True, kw_only=True)
class WatchChoice:
    """Scheduling of the tick thread, and where its metrics go."""

    priority: int | None = None
    """Run the ticks under SCHED_FIFO with this priority, 1 to 99. What the system does not grant is
    reported."""
    cores: tuple[int, ...] = ()
    """Bind the ticks to these processors."""
    lock_memory: bool = False
    """Keep all memory from being paged out."""
    gc_freeze: bool = True
    """Keep the garbage collector away from what lived before the ticks, and let it look elsewhere
    only when there is slack."""
    log: bool = False
    """Write a decision log for each arm, to be read and replayed by agentkd log."""
    prometheus: int | None = None
    """Serve metrics at http://127.0.0.1:PORT/metrics; 0 for a port that is free."""
    prometheus_file: Path | None = None
    """Write metrics into this file every five seconds, in Prometheus' text format."""
    tensorboard: bool = False
    """Write metrics for TensorBoard into the folder's tensorboard/."""

    def realtime(self) -> Realtime:
        """Return the scheduling of the tick thread."""
        return Realtime(self.priority, self.cores or None, self.lock_memory, self.gc_freeze)


@final
@dataclass(slots=True)
class Watchers:
    """Exporters of a run's metrics. The source changes from arm to arm."""

    labels: dict[str, str]
    source: Callable[[], Mapping[str, Any]] = dict
    port: int | None = None
    boards: Any = None
    _at: float = 0.0

    def metrics(self) -> Mapping[str, Any]:
        """Return the metrics of the present arm."""
        return self.source()

    def look(self, arm: str, tick: int, metrics: Mapping[str, Any]) -> None:
        """Write TensorBoard's scalars, twice a second at most."""
        if self.boards is None or time.monotonic() - self._at < _SCALARS_EVERY:
            return
        self._at = time.monotonic()
        for name, value in scalars(metrics).items():
            self.boards.add_scalar(f"{arm}/{name}", value, tick)


@contextlib.contextmanager
def watchers(options: WatchChoice, out: Path, env: str) -> Iterator[Watchers]:
    """Open what the options ask for, and close it at the end.

    Raises:
        ConfigError: If a port is not free, or TensorBoard is missing.
        WriteError: If a file cannot be written.
    """
    found = Watchers({"env": env, "arm": ""})
    with contextlib.ExitStack() as stack:
        port, file = options.prometheus, options.prometheus_file
        if port is not None:
            from agentkd.runtime.exposition import PrometheusServer

            server = PrometheusServer(found.metrics, port, labels=found.labels)
            found.port = stack.enter_context(server).port
        if file is not None:
            from agentkd.runtime.exposition import PrometheusFile

            stack.enter_context(PrometheusFile(found.metrics, file, labels=found.labels))
        if options.tensorboard:
            with needing("--tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            folder = out / "tensorboard"
            try:
                found.boards = SummaryWriter(str(folder))
            except OSError as error:
                raise ConfigError(f"{folder} cannot be written: {error.strerror}.") from error
            stack.callback(found.boards.close)
        yield found
