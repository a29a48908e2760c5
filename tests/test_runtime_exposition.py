"""Metrics for other programs: Prometheus text over HTTP and in a file, scalars."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from agentkd.errors import ConfigError, WriteError
from agentkd.runtime import Agent, Guard, InlineDistiller, Shadow
from agentkd.runtime.exposition import PrometheusFile, PrometheusServer, _registry
from agentkd.runtime.metrics import scalars
from tests.runtime_children import Ahead, Towards, constant
from tests.waiting import ENOUGH

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
_SAMPLE = re.compile(
    rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? "
    r"([+-]?(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?|Inf)|NaN)"
)


def text(metrics: dict[str, Any], labels: dict[str, str] | None = None) -> str:
    return generate_latest(_registry(lambda: metrics, labels)).decode()


def parsed(page: str) -> dict[str, tuple[str, dict[str, float]]]:
    """Read the text format strictly: type and samples by metric, groups unbroken."""
    assert page.endswith("\n")
    found: dict[str, tuple[str, dict[str, float]]] = {}
    name = kind = ""
    for line in page.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in found, f"{name} comes twice"
            continue
        if line.startswith("# TYPE "):
            _, _, same, kind = line.split(" ")
            assert same == name
            assert kind in ("counter", "gauge", "summary")
            found[name] = kind, {}
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        sample, labels, value = match.groups()
        suffixes = ("", "_sum", "_count") if kind == "summary" else ("",)
        assert sample in {name + suffix for suffix in suffixes}, line
        key = sample + (f"{{{labels}}}" if labels else "")
        assert key not in found[name][1], line
        found[name][1][key] = float(value)
    return found


def lived() -> Agent:
    """An agent that has lived, with all that can be counted."""
    agent = Agent(
        constant(2),
        planner=Ahead(3),
        planner_latency=2,
        distiller=InlineDistiller(Towards()),
        routers=[Guard(lambda obs, action: action != 3), Shadow("executor")],
        period=10.0,
    )
    with agent:
        for i in range(40):
            agent.act(np.array([i, 0, 0], np.float32))
    return agent


def test_text_is_what_prometheus_reads() -> None:
    """Every line parses, counters keep their totals, summaries add up."""
    metrics = lived().metrics()
    found = parsed(text(metrics))
    kind, decisions = found["agentkd_decisions_total"]
    assert kind == "counter"
    assert sum(decisions.values()) == metrics["ticks_total"] == 40
    sample = 'agentkd_decisions_total{reason="ahead",source="strategy"}'
    assert decisions[sample] == metrics["decisions_total"]["strategy"]["ahead"]
    kind, latency = found["agentkd_decision_latency_seconds"]
    assert kind == "summary"
    count = sum(v for k, v in latency.items() if "_count" in k)
    assert count == 40
    assert 0 < latency['agentkd_decision_latency_seconds{quantile="0.5",source="hold"}'] < 1
    assert found["agentkd_guard_interventions_total"][1]
    assert found["agentkd_strategy_coverage"][0] == "gauge"


def test_every_total_is_exported() -> None:
    """No counter of an agent is left out of the text."""
    metrics = lived().metrics()
    found = parsed(text(metrics))
    totals = {name for name, value in metrics.items() if name.endswith("_total") and value != {}}
    assert {f"agentkd_{name}" for name in totals} - set(found) == set()


def test_openmetrics_is_what_prometheus_asks_for() -> None:
    """It is served, and its counters have the same names."""
    asked = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with PrometheusServer(lived().metrics, 0) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        request = urllib.request.Request(url, headers=asked)
        with urllib.request.urlopen(request, timeout=ENOUGH) as answer:
            page = answer.read().decode()
    assert "\nagentkd_ticks_total 40.0\n" in page
    assert page.endswith("# EOF\n")


def test_labels_are_escaped() -> None:
    """Quotes, backslashes and line ends in a label keep the format whole."""
    page = text({"ticks_total": 1}, {"robot": 'a"b\\c\nd'})
    assert page.splitlines()[-1] == r'agentkd_ticks_total{robot="a\"b\\c\nd"} 1.0'
    parsed(page)


def test_numbers_are_written_as_the_format_wants_them() -> None:
    """NaN and infinity have names."""
    page = text(
        {
            "executor_agreement": float("nan"),
            "planner_busy_ratio": float("inf"),
            "untrusted_share": -float("inf"),
            "lead_ticks": 3,
            "executor_agreement_mean": None,
        }
    )
    values = {
        line.split(" ")[0]: line.split(" ")[1] for line in page.splitlines() if line[0] != "#"
    }
    assert values == {
        "agentkd_executor_agreement": "NaN",
        "agentkd_planner_busy_ratio": "+Inf",
        "agentkd_untrusted_share": "-Inf",
        "agentkd_lead_ticks": "3.0",
    }
    parsed(page)


def test_scrape_over_http() -> None:
    """/metrics is served with the format's content type; anything else is not there."""
    agent = lived()
    with PrometheusServer(agent.metrics, 0, labels={"robot": "r2"}) as server:
        base = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{base}/metrics", timeout=ENOUGH) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            found = parsed(answer.read().decode())
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/", timeout=ENOUGH)
        with pytest.raises(ConfigError, match="not available"):
            PrometheusServer(agent.metrics, server.port)
    assert found["agentkd_ticks_total"][1] == {'agentkd_ticks_total{robot="r2"}': 40}
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}/metrics", timeout=ENOUGH)


def test_source_that_raises_is_an_answer_too() -> None:
    """A scrape that fails says so and ends nothing."""

    def broken() -> dict[str, Any]:
        raise RuntimeError("no \u2026\r\nmetrics: <b>")

    with PrometheusServer(broken, 0) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError) as failed:
                urllib.request.urlopen(url, timeout=ENOUGH)
            with failed.value as answer:
                assert answer.code == 500
                assert "metrics: &lt;b&gt;" in answer.read().decode()


def test_clients_that_ask_nothing_hold_no_threads() -> None:
    """The oldest has to go when another one comes, and a scrape is answered."""
    with PrometheusServer(dict, 0) as server, contextlib.ExitStack() as stack:
        where = ("127.0.0.1", server.port)
        idle = [
            stack.enter_context(socket.create_connection(where, timeout=ENOUGH)) for _ in range(40)
        ]
        assert [each.recv(1) for each in idle[:24]] == [b""] * 24
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}/metrics", timeout=ENOUGH
        ) as answer:
            assert answer.status == 200


def test_port_that_cannot_be_is_refused() -> None:
    """Ports end at 65535."""
    with pytest.raises(ConfigError, match="65536"):
        PrometheusServer(dict, 65536)
    with pytest.raises(ConfigError, match="every"):
        PrometheusFile(dict, "x.prom", every=0)


def test_file_is_whole_at_all_times(tmp_path: Path) -> None:
    """The file is there from the start, replaced whole, and last written at the end."""
    ticks = {"ticks_total": 1}
    path = tmp_path / "agent.prom"
    with PrometheusFile(lambda: ticks, path, every=1e6):
        assert "agentkd_ticks_total 1.0\n" in path.read_text()
        ticks["ticks_total"] = 7
    assert "agentkd_ticks_total 7.0\n" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["agent.prom"]
    with (
        pytest.raises(WriteError, match="could not be written"),
        PrometheusFile(lambda: ticks, tmp_path / "no" / "agent.prom"),
    ):
        pass


def test_file_that_fails_later_is_told_and_nothing_else(tmp_path: Path) -> None:
    """A folder that goes away during the run does not end it."""
    folder = tmp_path / "there"
    folder.mkdir()
    file = PrometheusFile(lambda: {"ticks_total": 1}, folder / "agent.prom", every=1e6)
    with file:
        (folder / "agent.prom").unlink()
        folder.rmdir()
    assert "could not be written" in file.error


def test_a_source_that_raises_now_and_then_ends_no_file(tmp_path: Path) -> None:
    """Its thread writes again as soon as the metrics can be read."""
    asked, healed = threading.Event(), threading.Event()
    path, raising = tmp_path / "agent.prom", [False]

    def source() -> dict[str, int]:
        if raising[0]:
            asked.set()
            raise RuntimeError("dictionary changed size during iteration")
        if asked.is_set():
            healed.set()
        return {"ticks_total": 2 if asked.is_set() else 1}

    with PrometheusFile(source, path, every=0.01) as file:
        raising[0] = True
        assert asked.wait(ENOUGH)
        raising[0] = False
        assert healed.wait(ENOUGH)
    assert "agentkd_ticks_total 2.0\n" in path.read_text()
    assert file.error == ""


def test_scalars_are_flat_numbers() -> None:
    """Nested counters become paths; texts and gaps are left out."""
    found = scalars({"a": {"b": {"c": 2}}, "d": 1.5, "e": "words", "f": None, "g": True})
    assert found == {"a/b/c": 2.0, "d": 1.5}
