"""What Prometheus and Grafana are given about a fleet."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from agentkd.fleet.server import DESCRIBED, Server, filters
from agentkd.transport.memory import Hub
from tests.fleet_world import office
from tests.virtual_loop import run_virtually

BOARD = Path(__file__).parents[1] / "examples" / "fleet" / "grafana.json"


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        said: str = answer.read().decode()
    return said


def test_every_metric_is_served(tmp_path: Path) -> None:
    """Each metric that is described is in a scrape, with its labels."""
    pytest.importorskip("prometheus_client")
    from agentkd.runtime.exposition import PrometheusServer

    async def main() -> None:
        place = office(tmp_path)
        server = Server(place, Hub().line(*filters("plant")))
        server.counters["chunks_sent"] += 3
        with PrometheusServer(server.metrics, 0, described=DESCRIBED) as served:
            said = _scrape(served.port)
        assert "agentkd_fleet_chunks_sent_total 3.0" in said
        assert 'agentkd_fleet_devices{phase="ROLLED_BACK"} 0.0' in said
        assert 'agentkd_fleet_outcomes{outcome="timed-out"} 0.0' in said
        for name in DESCRIBED:
            assert f"\nagentkd_{name}" in said

    run_virtually(main())


def test_the_board_shows_what_is_served() -> None:
    """Each metric of Grafana's board is one of a server's, and each of those is on it."""
    board = json.loads(BOARD.read_text())
    exprs = [each["expr"] for panel in board["panels"] for each in panel["targets"]]
    found = set(re.findall(r"agentkd_(fleet_\w+)", " ".join(exprs)))
    assert found == set(DESCRIBED)
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_guide_names_every_metric() -> None:
    """The table of the guide is the code's."""
    guide = (BOARD.parents[2] / "docs" / "guides" / "fleet.md").read_text()
    found = set(re.findall(r"`agentkd_(fleet_\w+)", guide))
    assert found == set(DESCRIBED)
