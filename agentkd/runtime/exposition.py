"""Metrics for other programs: Prometheus text, over HTTP or in a file, and scalars.

The text is the exposition format 0.0.4 (prometheus.io/docs/instrumenting/ exposition_formats): base
units, one group of lines for each metric, `# HELP` and `# TYPE` before it, label values escaped, a
line feed after every line.
"""

from __future__ import annotations

import contextlib
import http.server
import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from agentkd.errors import ConfigError, WriteError
from agentkd.printable import logger, printable

log = logger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "agentkd_"
_MOST_CLIENTS = 16
_QUANTILES = {"p50": "0.5", "p99": "0.99", "p99.9": "0.999", "max": "1"}
Source = Callable[[], Mapping[str, Any]]
"""Gives an agent's metrics, as `Agent.metrics` does."""

# Name in `Agent.metrics`: what it is, and the labels of what is nested in it.
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ticks_total": ("Ticks.", ()),
    "episodes_total": ("Episodes begun.", ()),
    "decisions_total": ("Decisions by who decided and why.", ("source", "reason")),
    "starved_ticks_total": ("Ticks at which neither strategy nor executor acted.", ()),
    "vetoes_total": ("Sources that routers refused.", ("source", "reason")),
    "router_errors_total": ("Routers that raised.", ()),
    "guard_interventions_total": ("Ticks at which a guard refused a source.", ()),
    "guard_refused_total": ("Sources that a guard refused.", ("source",)),
    "shadow_compared_total": ("Decisions compared with a shadow's.", ()),
    "deadline_miss_total": ("Decisions after their deadline.", ()),
    "missed_cycles_total": ("Periods without a tick.", ()),
    "nan_observations_total": ("Observations with NaN or infinity.", ()),
    "planner_answers_total": ("Answers of the planner.", ()),
    "planner_partial_answers_total": ("Answers that were still improved.", ()),
    "planner_errors_total": ("Requests that failed.", ()),
    "planner_restarts_total": ("Planners started again.", ("cause",)),
    "planner_starts_failed_total": ("Starts of the planner that failed.", ()),
    "strategy_accepted_total": ("Strategies taken.", ()),
    "strategy_rejected_total": ("Strategies refused.", ("reason",)),
    "labels_total": ("Observations that the planner labelled.", ()),
    "observations_unlabelled_total": ("Observations that it did not.", ()),
    "labels_learnt_total": ("Labels that the distiller took.", ()),
    "labels_dropped_total": ("Labels that found the distiller too slow.", ()),
    "distiller_steps_total": ("Gradient steps.", ()),
    "distiller_errors_total": ("Steps of the distiller that failed.", ()),
    "distiller_restarts_total": ("Distillers started again.", ("cause",)),
    "distiller_starts_failed_total": ("Starts of the distiller that failed.", ()),
    "workers_raised_total": ("Priorities raised: the worker hardly ran.", ("worker",)),
    "swaps_total": ("Executors swapped in.", ()),
    "swaps_refused_total": ("Executors that were not swapped in.", ("reason",)),
    "rollbacks_total": ("Returns to a former executor.", ("reason",)),
    "log_records_total": ("Records of the decision log.", ()),
    "log_dropped_total": ("Records that found no room.", ()),
    "views_dropped_total": ("Decisions that a slow consumer missed.", ()),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "executor_version": ("Version of the executor that acts.", ()),
    "executor_parameters": ("Trained numbers of the executor.", ()),
    "executor_agreement": ("Executor and planner, newest answers, 0 to 1.", ()),
    "executor_agreement_mean": ("Executor and planner, all answers, 0 to 1.", ()),
    "strategy_coverage": ("Share of ticks at which a strategy acted.", ()),
    "untrusted_share": ("Share of ticks at which strategy or executor acted.", ()),
    "shadow_agreement": ("Agreement of the shadow with the source that acted, 0 to 1.", ()),
    "planner_ready": ("Whether the planner is ready, 0 or 1.", ()),
    "distiller_ready": ("Whether the distiller is ready, 0 or 1.", ()),
    "planner_busy_ratio": ("Share of the time that the planner thinks.", ()),
    "reward_per_tick": ("Mean reward by who acted.", ("source",)),
    "strategies_worse": ("Whether strategies do worse than the executor, 0 or 1.", ()),
    "lead_ticks": ("Ticks by which observations are rolled forward.", ()),
    "distiller_progress": ("What the distiller tells of itself.", ("number",)),
}
# Name there, name here, what it is, labels, and how many of its units make a base unit.
_SUMMARIES: tuple[tuple[str, str, str, tuple[str, ...], float], ...] = (
    (
        "decision_latency_by_source_us",
        "decision_latency_seconds",
        "From the observation to the action.",
        ("source",),
        1e6,
    ),
    (
        "decision_latency_by_planner_us",
        "decision_latency_by_planner_seconds",
        "The same with a planner that is ready, and with none.",
        ("planner",),
        1e6,
    ),
    ("tick_lateness_us", "tick_lateness_seconds", "How late ticks began.", (), 1e6),
    ("tick_period_us", "tick_period_seconds", "From tick to tick.", (), 1e6),
    (
        "planner_latency_us",
        "planner_latency_seconds",
        "From the observation to the planner's answer.",
        (),
        1e6,
    ),
    ("planner_latency_ticks", "planner_latency_ticks", "The same in ticks.", (), 1.0),
    ("strategy_age_ticks", "strategy_age_ticks", "Age of strategies that act.", (), 1.0),
    ("seam_jump", "seam_jump", "From one action to the next.", ("where",), 1.0),
)


def text(metrics: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> str:
    """Write metrics in Prometheus' text format.

    Args:
        metrics: What `Agent.metrics` gave.
        labels: Labels that every line has besides.
    """
    common = dict(labels or {})
    lines: list[str] = []
    for known, kind in ((_COUNTERS, "counter"), (_GAUGES, "gauge")):
        for name, (about, nested) in known.items():
            found = [
                _sample(name, {**common, **more}, value)
                for more, value in _leaves(metrics.get(name), nested)
            ]
            lines += _group(name, kind, about, found)
    for key, name, about, nested, unit in _SUMMARIES:
        found = []
        for more, value in _summaries(metrics.get(key), nested):
            found += _summary(name, {**common, **more}, value, unit)
        lines += _group(name, "summary", about, found)
    return "".join(f"{line}\n" for line in lines)


def _group(name: str, kind: str, about: str, samples: list[str]) -> list[str]:
    if not samples:
        return []
    escaped = about.replace("\\", "\\\\").replace("\n", "\\n")
    head = [f"# HELP {_PREFIX}{name} {escaped}", f"# TYPE {_PREFIX}{name} {kind}"]
    return head + samples


def _leaves(value: Any, nested: tuple[str, ...]) -> Iterator[tuple[dict[str, str], float]]:
    """The numbers in nested mappings, each with its labels."""
    if value is None:
        return
    if not nested:
        if isinstance(value, (int, float)):
            yield {}, float(value)
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            for more, number in _leaves(inner, nested[1:]):
                yield {nested[0]: str(key), **more}, number


def _summaries(
    value: Any, nested: tuple[str, ...]
) -> Iterator[tuple[dict[str, str], Mapping[str, float]]]:
    if not isinstance(value, Mapping):
        return
    if not nested:
        yield {}, value
        return
    for key, inner in value.items():
        for more, found in _summaries(inner, nested[1:]):
            yield {nested[0]: str(key), **more}, found


def _summary(
    name: str, labels: dict[str, str], value: Mapping[str, float], unit: float
) -> list[str]:
    count = value.get("count", 0)
    out = [
        _sample(name, {**labels, "quantile": quantile}, value[key] / unit)
        for key, quantile in _QUANTILES.items()
        if key in value
    ]
    total = value.get("mean", 0.0) * count / unit
    out.append(_sample(f"{name}_sum", labels, total))
    out.append(_sample(f"{name}_count", labels, float(count)))
    return out


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    braces = f"{{{inside}}}" if inside else ""
    return f"{_PREFIX}{name}{braces} {_number(value)}"


def _escaped(label: str) -> str:
    label = printable(label, lines=True)
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Lay metrics out flat, such as "decisions_total/executor/late", for TensorBoard.

    What is no number is left out.
    """
    out: dict[str, float] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{name}/{key}" if name else str(key), inner)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            out[name] = float(value)

    walk("", metrics)
    return out


@final
class PrometheusServer:
    """Serves metrics at /metrics, on this machine only unless another host is given.

        with PrometheusServer(agent.metrics, 9400): …

    Each scrape costs the interpreter about a millisecond, in slices of 0.1 ms between which ticks
    come through; a scrape every second or so is meant.

    Args:
        source: Gives the metrics.
        port: The TCP port; 0 for one that is free.
        host: The address to listen at.
        labels: Labels that every line has besides.
    """

    def __init__(
        self,
        source: Source,
        port: int,
        *,
        host: str = "127.0.0.1",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Bind the port; entering the block serves.

        Raises:
            ConfigError: If the port cannot be had.
        """
        if not 0 <= port < 65536:
            raise ConfigError(f"Port {port}: from 0, for a free one, to 65535.")

        class Handler(_Handler):
            def page(self) -> str:
                return text(source(), labels)

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise ConfigError(
                f"Port {port} at {host} cannot be had: {error.strerror or error}. "
                "Another one, or 0 for any that is free?"
            ) from error
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    """Answers few at a time: a client that stalls has to go when another one comes."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._open: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= _MOST_CLIENTS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("%s is gone: %s", client_address, sys.exception())


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers a scrape."""

    timeout = 10.0

    def page(self) -> str:
        """Give the text; the server's own handler says of what."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "There is /metrics and nothing else.")
            return
        try:
            body = self.page().encode()
        except Exception as error:
            log.exception("The metrics could not be written.")
            self.send_error(500, explain=f"{type(error).__name__}: {error}")
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (ditto)
        """Keep requests out of the terminal."""
        log.debug(format, *args)


@final
class PrometheusFile:
    """Writes metrics into a file every so often, for node_exporter's text collector.

    The file is replaced whole, and for the last time at the end of the block. A disk that refuses
    is told once and changes nothing else.

    Args:
        source: Gives the metrics.
        path: The file; its name has to end in .prom for the collector.
        every: Seconds.
        labels: Labels that every line has besides.
    """

    def __init__(
        self,
        source: Source,
        path: str | Path,
        *,
        every: float = 5.0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Take the place; entering the block writes."""
        if not every > 0:
            raise ConfigError(f"every is {every} s; above 0.")
        self.path, self.error = Path(path), ""
        self._source, self._every, self._labels = source, every, labels
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self) -> None:
        """Write now.

        Raises:
            WriteError: If the disk refuses; what was there before is whole.
        """
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            fresh.write_text(text(self._source(), self._labels), encoding="utf-8")
            fresh.replace(self.path)
        except OSError as error:
            raise WriteError(
                f"{self.path} could not be written: {error.strerror or error}."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._write_or_tell()

    def _write_or_tell(self) -> None:
        try:
            self.write()
            self.error = ""
        except WriteError as error:
            if not self.error:
                log.warning("%s", error)
            self.error = str(error)

    def __enter__(self) -> Self:
        """Write for the first time.

        Raises:
            WriteError: If the place cannot be written to.
        """
        self.write()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._write_or_tell()
