"""What a decision costs in energy: counters, idle power, and the estimate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError
from agentkd.measure.latency import Form
from benchmarks.energy import Clocks, find_rapl, measure

OBS = np.zeros((4, 1), np.float32)


class Machine:
    """Time that passes as decisions and sleep take it, and a counter of energy."""

    def __init__(self, idle: float, busy: float) -> None:
        self.now = self.cpu = self.taken = 0.0
        self.idle, self.busy = idle, busy

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.taken += self.idle * seconds

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds
        self.taken += self.busy * seconds

    def joules(self) -> float:
        return self.taken

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now, lambda: self.cpu, self.sleep)

    def form(self, name: str, seconds: float) -> Form:
        return Form(name, lambda _: self.work(seconds))


def test_idle_power_is_subtracted() -> None:
    """At 30 W busy and 20 W idle a decision of 2 ms costs 20 mJ, not 60."""
    machine = Machine(idle=20.0, busy=30.0)
    forms = [machine.form("slow", 0.002), machine.form("fast", 0.001)]
    bill = measure(forms, OBS, meter=machine, clocks=machine.clocks())
    slow, fast = bill.rows
    assert slow.microjoules == pytest.approx(20_000)
    assert fast.microjoules == pytest.approx(10_000)
    # A second of each, and twenty decisions to warm up.
    assert machine.cpu == pytest.approx(2.06, abs=0.02)
    assert bill.source == "RAPL"
    assert bill.idle_watts == pytest.approx(20.0)
    assert "less the 20.0 W" in bill.text


def test_a_noisy_idle_never_makes_energy_negative() -> None:
    """Where others took more while we slept than we do at work, nothing is left."""
    machine = Machine(idle=30.0, busy=20.0)
    bill = measure([machine.form("x", 0.001)], OBS, meter=machine, clocks=machine.clocks())
    assert bill.rows[0].microjoules == 0.0


def test_without_a_meter_it_is_processor_time_and_says_so() -> None:
    """2 ms at 4 W are 8 mJ, called an estimate, with why it is one."""
    machine = Machine(idle=20.0, busy=30.0)
    bill = measure(
        [machine.form("x", 0.002)], OBS, watts=4.0, missing="no counters", clocks=machine.clocks()
    )
    assert bill.rows[0].microjoules == pytest.approx(8_000)
    assert bill.source == "estimate"
    for words in ("estimate", "4 W", "not measured: no counters"):
        assert words in bill.text
    # Nothing waited for an idle power that nobody reads.
    assert machine.taken == pytest.approx(machine.cpu * 30.0)


def test_a_form_that_is_not_there_or_raises_has_no_figure() -> None:
    """The others are measured all the same."""
    machine = Machine(idle=1.0, busy=2.0)

    def broken(_: Any) -> None:
        raise OSError("unplugged")

    forms = [Form("gone", None), Form("broken", broken), machine.form("x", 0.001)]
    rows = measure(forms, OBS, clocks=machine.clocks()).rows
    assert [np.isnan(each.microjoules) for each in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("seconds", "watts", "wanted"),
    [(0.9, 5.0, "seconds is 0.9.*least 1"), (1.0, 0.0, "watts is 0")],
)
def test_batches_below_a_second_are_refused(seconds: float, watts: float, wanted: str) -> None:
    """They would measure the counter's steps."""
    with pytest.raises(ConfigError, match=wanted):
        measure([], OBS, seconds=seconds, watts=watts)


def package(root: Path, place: str, name: str, energy: int, most: int = 1000) -> Path:
    """Lay out a power domain as the kernel does."""
    folder = root / place
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_are_added_up_and_counters_begin_anew(tmp_path: Path) -> None:
    """Two packages count together; behind its range a counter goes on from zero."""
    first = package(tmp_path, "intel-rapl:0", "package-0", 900)
    second = package(tmp_path, "intel-rapl:1", "package-1", 10)
    # Parts of packages, and the whole machine, would count twice.
    package(tmp_path, "intel-rapl:0:0", "core", 5)
    package(tmp_path, "intel-rapl:2", "psys", 5)
    rapl, missing = find_rapl(tmp_path)
    assert missing == ""
    assert rapl is not None
    assert rapl.joules() == 0.0
    (first / "energy_uj").write_text("100\n")
    (second / "energy_uj").write_text("60\n")
    assert rapl.joules() == pytest.approx(250e-6)
    (first / "energy_uj").write_text("150\n")
    assert rapl.joules() == pytest.approx(300e-6)


def test_why_there_are_no_counters_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder, no package, no permission, no number: each has its words."""
    assert find_rapl(tmp_path / "gone") == (None, f"no {tmp_path / 'gone'} here")
    (tmp_path / "dtpm").mkdir()
    assert find_rapl(tmp_path)[1] == f"no package counts in {tmp_path}"
    folder = package(tmp_path, "intel-rapl:0", "package-0", 1)
    (folder / "energy_uj").write_text("none\n")
    assert "invalid literal" in find_rapl(tmp_path)[1]

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("benchmarks.energy._number", denied)
    assert "is not readable" in find_rapl(tmp_path)[1]
