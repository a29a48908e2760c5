"""Metrics for Prometheus, over HTTP or in a file; read when they are asked for.

Names, help and labels are those of `metrics.DESCRIBED`, in Prometheus' base units.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, final

from agentkd.errors import ConfigError, WriteError, check_range
from agentkd.extras import needing
from agentkd.printable import logger, printable
from agentkd.runtime.metrics import DESCRIBED

with needing("Metrics for Prometheus"):
    from prometheus_client import CollectorRegistry, write_to_textfile
    from prometheus_client.exposition import MetricsHandler
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

log = logger(__name__)

_MOST_CLIENTS = 16
_QUANTILES = {"p50": "0.5", "p99": "0.99", "p99.9": "0.999", "max": "1"}
Source = Callable[[], Mapping[str, Any]]
"""Gives an agent's metrics, as `Agent.metrics` does."""
Described = Mapping[str, tuple[str, ...]]
"""By a metric's name, what it is and the names of its labels."""


@final
class _Reading(Collector):
    """Reads an agent's metrics at each scrape, so that a tick only counts."""

    def __init__(
        self, source: Source, labels: Mapping[str, str] | None, described: Described
    ) -> None:
        self._source, self._labels, self._described = source, labels or {}, described

    def collect(self) -> Iterator[Metric]:
        metrics = self._source()
        for key, (about, *nested) in self._described.items():
            found = list(_leaves(metrics.get(key), tuple(nested), self._labels))
            if not found:
                continue
            name, unit = key.replace("_by_source", ""), 1.0
            if name.endswith("_us"):
                name, unit = f"{name.removesuffix('_us')}_seconds", 1e6
            name = f"agentkd_{name}"
            if isinstance(found[0][1], Mapping):
                metric = Metric(name, about, "summary")
                for labels, value in found:
                    _add_summary(metric, labels, value, unit)
            else:
                kind = "counter" if name.endswith("_total") else "gauge"
                metric = Metric(name.removesuffix("_total"), about, kind)
                for labels, value in found:
                    metric.add_sample(name, labels, float(value))
            yield metric


def _leaves(
    value: Any, nested: tuple[str, ...], labels: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], Any]]:
    """Yield what lies below nested mappings, each with its labels."""
    if nested:
        for key, inner in value.items() if isinstance(value, Mapping) else ():
            yield from _leaves(inner, nested[1:], {**labels, nested[0]: str(key)})
    elif isinstance(value, (int, float, Mapping)):
        yield {key: printable(text, lines=True) for key, text in labels.items()}, value


def _add_summary(
    metric: Metric, labels: dict[str, str], value: Mapping[str, float], unit: float
) -> None:
    for key, quantile in _QUANTILES.items():
        if key in value:
            metric.add_sample(metric.name, {**labels, "quantile": quantile}, value[key] / unit)
    count = value.get("count", 0)
    total = value.get("mean", 0.0) * count / unit
    metric.add_sample(f"{metric.name}_sum", labels, total)
    metric.add_sample(f"{metric.name}_count", labels, float(count))


def _registry(
    source: Source, labels: Mapping[str, str] | None, described: Described = DESCRIBED
) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Reading(source, labels, described))
    return registry


@final
class PrometheusServer(http.server.ThreadingHTTPServer):
    """Serves metrics at /metrics, on this machine only unless another host is given.

        with PrometheusServer(agent.metrics, 9400): …

    A scrape costs the interpreter some milliseconds, between whose slices ticks run. It answers few
    clients at a time: one that stalls has to go when another one comes. Port 0 takes one that is
    free. Every line has `labels` besides its own. `described` says what a source gives that is not
    an agent's.

    Raises:
        ConfigError: If the port is not available.
    """

    daemon_threads = True

    def __init__(
        self,
        source: Source,
        port: int,
        *,
        host: str = "127.0.0.1",
        labels: Mapping[str, str] | None = None,
        described: Described = DESCRIBED,
    ) -> None:
        check_range("port", port, least=0, most=65535, hint="0 takes a free one.", whole=True)
        self._open: dict[Any, None] = {}
        self._lock = threading.Lock()
        try:
            super().__init__((host, port), _Handler.factory(_registry(source, labels, described)))
        except OSError as error:
            raise ConfigError(
                f"Port {port} at {host} is not available: {error.strerror or error}. "
                "Another one, or 0 for any that is free?"
            ) from error

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(
            target=self.serve_forever, args=(0.1,), name="metrics", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; end the oldest connection if there are too many."""
        with self._lock:
            if len(self._open) >= _MOST_CLIENTS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Note that a client is gone."""
        log.debug("%s is gone: %s", client_address, sys.exception())


class _Handler(MetricsHandler):
    """Answers a scrape."""

    timeout = 10.0

    def do_GET(self) -> None:  # noqa: N802 (its name there)
        """Answer, also where the metrics cannot be read."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "There is /metrics and nothing else.")
            return
        try:
            super().do_GET()
        except OSError:
            raise
        except Exception as error:
            log.exception("The metrics could not be read.")
            self.send_error(500, explain=f"{type(error).__name__}: {error}")


@final
class PrometheusFile:
    """Writes metrics into a file every so many seconds, for node_exporter's text collector.

    The file is replaced whole, and for the last time at the end of the block. A disk that refuses,
    or a source that raises, is told once and changes nothing else. The collector wants a name that
    ends in .prom. Every line has `labels` besides its own.
    """

    def __init__(
        self,
        source: Source,
        path: str | Path,
        *,
        every: float = 5.0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        check_range("every", every, above=0)
        self.path, self.error = Path(path), ""
        self._registry, self._every = _registry(source, labels), every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def write(self) -> None:
        """Write now, or raise a WriteError; what was there before is whole."""
        try:
            write_to_textfile(str(self.path), self._registry)
        except OSError as error:
            raise WriteError(
                f"{self.path} could not be written: {error.strerror or error}."
            ) from error

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
        except Exception as error:  # of the source: the next time it may be well again
            if not self.error:
                log.exception("The metrics could not be read.")
            self.error = f"The metrics could not be read: {error}"

    def __enter__(self) -> Self:
        """Write for the first time, or raise a WriteError."""
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write_or_tell()
