"""`agentkd latency`, and the forms that it times."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.cli.latency import base_of
from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure import latency
from agentkd.measure.energy import Bill, Energy
from agentkd.measure.forms import acting_form, executor_forms, policy_form, time_elsewhere
from agentkd.measure.latency import Form, measure, observations
from agentkd.measure.sb3_model import sb3_form
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
from agentkd.types import Floats
from tests.cli_reports import report, undocumented

OBS = ObsSpec((Part("", "box", (5,), "float32"),))
ACTIONS: list[ActionSpec] = [
    DiscreteSpec(3, 1),
    MultiDiscreteSpec((2, 3)),
    MultiBinarySpec(4),
    BoxSpec((-1.0, -3.0), (2.0, 3.0), (2,)),
    BoxSpec((-1.0,) * 4, (1.0,) * 4, (2, 2)),
    BoxSpec((-np.inf, 0.0), (np.inf, 1.0), (2,)),
]
PLANNER = Path(__file__).parents[1] / "policies" / "lunarlander"


def lively(architecture: str, spec: Spec) -> Executor:
    """Make an executor whose outputs are not all near zero."""
    executor = initial(architecture, spec, seed=1)
    vector = executor.vector()
    noise = np.random.default_rng(2).standard_normal(vector.shape)
    return executor.with_vector(vector + 0.3 * noise.astype(np.float32), 1)


def alike(form: Form, reference: Form, obs: Floats, spec: Spec) -> float:
    """Tell how far two forms agree on observations, 0 to 1."""
    assert form.decide is not None
    assert reference.decide is not None
    mine = np.stack([np.asarray(form.decide(each)) for each in obs])
    theirs = np.stack([np.asarray(reference.decide(each)) for each in obs])
    return float(dists.agreement(mine, theirs, spec.action).mean())


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("architecture", ["mlp:16,16", "mlp:8,silu", "mlp:8,elu"])
def test_every_form_decides_alike(architecture: str, action: ActionSpec) -> None:
    """What is compared by time is the same decision: ONNX, torch, native, NumPy."""
    spec = Spec(OBS, action)
    executor = lively(architecture, spec)
    obs = 2 * observations(spec)
    reference = Form("NumPy", executor.act)
    forms = [each for each in executor_forms(executor) if each.name != "native kernel"]
    for form in [*forms, acting_form(executor)]:
        if form.name == "ExecuTorch" and form.decide is None:
            continue
        if form.decide is None:
            pytest.skip(form.note)
        assert alike(form, reference, obs, spec) > 1 - 1e-5, form.name
        one, wanted = form.decide(obs[0]), executor.act(obs[0])
        assert np.shape(one) == np.shape(wanted), form.name


@pytest.mark.needs("cc")
def test_the_bare_kernel_outlives_its_maker() -> None:
    """The kernel's memory stays as long as it is called."""
    import gc

    kernel = executor_forms(lively("mlp:16", Spec(OBS, DiscreteSpec(3))))[1]
    gc.collect()
    assert kernel.decide is not None
    assert kernel.decide(np.zeros(5, np.float32)) == 0


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


def test_forms_take_turns_and_each_call_is_counted() -> None:
    """Every form is called in every round, and the order moves on."""
    order: list[str] = []

    def called(name: str) -> Any:
        def decide(obs: Any) -> None:
            if order[-1:] != [name]:
                order.append(name)

        return decide

    forms = [Form("a", called("a")), Form("gone", None, "no such"), Form("b", called("b"))]
    rounds: list[tuple[int, int]] = []
    times = measure(
        forms,
        np.zeros((3, 1), np.float32),
        seconds=0.004,
        rounds=3,
        progress=lambda done, of: rounds.append((done, of)),
    )
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    # Warming up, then a b | b a | a b.
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert times[0].calls > 0
    assert 0 < times[0].p50 <= times[0].p99 <= times[0].p999
    assert (times[1].calls, times[1].note) == (0, "no such")
    assert np.isnan(times[1].p50)


def test_a_form_that_raises_is_left_out_with_a_note() -> None:
    """Early or late, its error stands in its row, and the others are timed."""
    calls = 0

    def later(obs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > latency._WARM:
            raise OSError("unplugged")

    def at_once(obs: Any) -> None:
        raise ValueError("no")

    obs = np.zeros((1, 1), np.float32)
    forms = [Form("later", later), Form("at once", at_once), Form("fine", len)]
    first, second, third = measure(forms, obs, seconds=0.01, rounds=2)
    assert (first.calls, first.note) == (0, "raised OSError: unplugged")
    assert (second.calls, second.note) == (0, "raised ValueError: no")
    assert third.calls > 0
    with pytest.raises(ConfigError, match="rounds is 0"):
        measure(forms, obs, rounds=0)


def test_the_table_compares_with_sb3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file and a planner in; every form out, on the screen and in the report."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:8", load_planner(str(PLANNER)).spec))
    words = ["latency", str(file), "--planner", str(PLANNER)]
    short = [
        "--seconds",
        "0.02",
        "--rounds",
        "2",
        "--energy-seconds",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, *short]) == 0
    said = capsys.readouterr().out
    data = report(tmp_path / "out")
    assert undocumented(data, data["forms"][0]) == []
    assert data["command"] == "latency"
    assert data["planner_name"] == "PPO"
    assert data["ratio_to"] == "SB3 predict"
    names = [form["name"] for form in data["forms"]]
    assert names == [
        "NumPy",
        "native kernel",
        "Agent.act",
        "ONNX Runtime",
        "ONNX, bound",
        "torch eager",
        "ExecuTorch",
        "SB3 predict",
        "planner here",
    ]
    assert all(name in said for name in names)
    measured = {form["name"]: form for form in data["forms"]}
    assert measured["SB3 predict"]["ratio"] == 1.0
    assert (data["energy_source"], data["energy_watts"]) == ("", None)
    assert data["decision_latency_us"] == measured["Agent.act"]["latency_us"]
    assert measured["NumPy"]["latency_us"]["count"] > 0
    assert main([*words, *short]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_what_is_missing_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ONNX and SB3 the others are timed, and their rows name the package."""
    for name in ("onnx", "onnxruntime", "stable_baselines3", "sb3_contrib"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("agentkd.deploy.onnx", "agentkd.measure.sb3_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["latency", "--obs", "3", "--actions", "2"]
    assert main([*words, "--seconds", "0.02", "--rounds", "1", "--energy-seconds", "0"]) == 0
    said = capsys.readouterr().out
    assert "agentkd[export]" in said
    assert "agentkd[train]" in said
    assert "nothing to compare with" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["gone.akd"], "gone.akd"),
        (["--obs", "0"], "--obs 0"),
        (["--seconds", "0"], "--seconds 0"),
        (["--architecture", "mpl:3"], "Did you mean 'mlp'"),
        (["--planner", str(PLANNER), "--obs", "3"], "--obs and --actions"),
        (["--planner", "nowhere"], "No planner 'nowhere'"),
        (["--energy-seconds", "0.5"], "at least 1, or 0"),
        (["--watts", "0"], "--watts 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong word ends in status 2 with the reason."""
    assert main(["latency", *words]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_an_executor_and_a_planner_are_for_one_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are not compared if their observations differ."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:8", Spec(OBS, DiscreteSpec(4))))
    words = ["latency", str(file), "--planner", str(PLANNER)]
    assert main(words) == 2
    assert "error: " in capsys.readouterr().err


def test_ratios_need_something_to_compare_with() -> None:
    """SB3 if it was timed, else the planner here, else nothing."""
    obs = np.zeros((1, 1), np.float32)
    forms = [Form("SB3 predict", None), Form("planner here", len), Form("x", len)]
    times = measure(forms, obs, seconds=0.002, rounds=1)
    base = base_of(times)
    assert base is not None
    assert base.name == "planner here"
    assert base_of(times[2:]) is None


def test_energy_stands_in_the_table_with_how_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each form has its microjoules, and the estimate says that it is one."""
    rows = (Energy("NumPy", 123.4), Energy("Agent.act", 8.8))
    bill = Bill(rows, "estimate", "Energy is an estimate: such and such.", float("nan"))
    monkeypatch.setattr("agentkd.measure.energy.measure", lambda *_, **__: bill)
    words = ["latency", "--obs", "3", "--actions", "2", "--seconds", "0.02"]
    assert main([*words, "--rounds", "1", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "µJ" in said
    assert "123.4" in said
    assert "such and such" in " ".join(said.split())
    data = report(tmp_path / "out")
    assert (data["energy_source"], data["energy_watts"]) == ("estimate", 5.0)
    costs = {form["name"]: form["energy_uj"] for form in data["forms"]}
    assert (costs["NumPy"], costs["Agent.act"]) == (123.4, 8.8)
    assert costs["SB3 predict"] is None
    assert undocumented(data, data["forms"][0]) == []


def test_another_python_that_cannot_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
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
