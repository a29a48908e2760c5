"""One decision beside other runtimes and SB3's `predict`."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from agentkd import dists
from agentkd.executors.architecture import initial
from agentkd.measure.forms import policy_form
from agentkd.measure.latency import Form, observations
from agentkd.planners import load_planner
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from benchmarks.__main__ import main
from benchmarks.energy import Bill, Energy
from benchmarks.forms import other_forms, time_elsewhere
from benchmarks.latency import base_of
from benchmarks.sb3_model import sb3_form
from tests.cli_reports import report
from tests.test_cli_latency import ACTIONS, OBS, PLANNER, alike, lively


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("architecture", ["mlp:16,16", "mlp:8,silu", "mlp:8,elu"])
def test_other_runtimes_decide_alike(architecture: str, action: ActionSpec) -> None:
    """What is compared by time is the same decision: bound ONNX, torch, ExecuTorch."""
    spec = Spec(OBS, action)
    executor = lively(architecture, spec)
    obs = 2 * observations(spec)
    for form in other_forms(executor):
        if form.name == "ExecuTorch" and form.decide is None:
            continue
        if form.decide is None:
            pytest.skip(form.note)
        assert alike(form, Form("NumPy", executor.act), obs, spec) > 1 - 1e-5, form.name


def test_sb3_predicts_what_the_planner_decides() -> None:
    """The model built anew from a save acts as the planner does."""
    planner = load_planner(str(PLANNER))
    form, model = sb3_form(str(PLANNER), planner.spec)
    assert type(model).__name__ == "PPO"
    ours = policy_form("planner here", planner.policy, planner.spec)
    assert alike(form, ours, observations(planner.spec), planner.spec) == 1.0


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (DiscreteSpec(3), "DQN"),
        (BoxSpec((-1.0,), (1.0,), (1,)), "SAC"),
        (MultiDiscreteSpec((2, 3)), "PPO"),
        (MultiBinarySpec(2), "PPO"),
    ],
)
def test_without_a_planner_a_fresh_model_fits_the_actions(action: ActionSpec, name: str) -> None:
    """SAC where it can be, else what takes such actions; it says so."""
    form, model = sb3_form(None, Spec(OBS, action))
    assert type(model).__name__ == name
    assert form.note == f"a fresh {name}, 256-256"
    assert form.decide is not None
    assert (
        np.shape(form.decide(np.zeros(5, np.float32)))
        == dists.mode(
            initial("linear", Spec(OBS, action))(np.zeros((1, 5), np.float32)), action
        ).shape[1:]
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Spec(OBS, BoxSpec((-np.inf,), (1.0,), (1,))), "SB3 needs finite bounds"),
        (
            Spec(ObsSpec((Part("", "box", (4, 4, 3), "uint8"),)), DiscreteSpec(2)),
            "only for observations that are one vector",
        ),
    ],
)
def test_where_sb3_does_not_go_the_row_says_why(spec: Spec, reason: str) -> None:
    """What SB3 cannot do here is a row without figures."""
    form, model = sb3_form(None, spec)
    assert (form.decide, form.note, model) == (None, reason, None)


def test_ratios_need_something_to_compare_with() -> None:
    """SB3 if it was timed, else the planner here, else nothing."""
    forms = [{"name": name, "calls": 1} for name in ("planner here", "SB3 predict", "x")]
    assert base_of(forms) == forms[1]
    assert base_of(forms[::2]) == forms[0]
    assert base_of([forms[2], {"name": "SB3 predict", "calls": 0}]) is None


def test_energy_stands_in_the_table_with_how_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each form has its microjoules, and the estimate says that it is one."""
    rows = (Energy("NumPy", 123.4), Energy("Agent.act", 8.8))
    bill = Bill(rows, "estimate", "Energy is an estimate: such and such.", math.nan)
    monkeypatch.setattr("benchmarks.energy.measure", lambda *_, **__: bill)
    words = ["latency", "--architecture", "mlp:4", "--planner", str(PLANNER)]
    words += ["--seconds", "0.02", "--rounds", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "µJ" in said
    assert "123.4" in said
    assert "such and such" in " ".join(said.split())
    (result,) = report(tmp_path / "out")["results"]
    costs = {form["name"]: form["energy_uj"] for form in result["forms"]}
    assert (costs["NumPy"], costs["Agent.act"]) == (123.4, 8.8)
    assert costs["SB3 predict"] is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--seconds", "0"], "--seconds is 0"),
        (["--energy-seconds", "0.5"], "at least 1, or 0"),
        (["--watts", "0"], "--watts is 0"),
        (["--planner", "nowhere"], "No planner 'nowhere'"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong word ends in status 2 with the reason."""
    assert main(["latency", *words]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_another_python_that_cannot_says_why(tmp_path: Path) -> None:
    """A missing interpreter, and one without torch, are a row with the reason."""
    executor = initial("mlp:4", Spec(OBS, DiscreteSpec(3)))
    gone = time_elsewhere("/no/such/python", executor, seconds=0.1, rounds=1)
    assert gone.calls == 0
    assert "/no/such/python" in gone.note
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    without = time_elsewhere(str(bare), executor, seconds=0.1, rounds=1)
    assert without.calls == 0
    assert "No module named" in without.note
