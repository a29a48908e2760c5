"""`agentkd latency`, and the forms that it times."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure import latency
from agentkd.measure.forms import acting_form, executor_forms
from agentkd.measure.latency import Form, measure, observations
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
    """What is compared by time is the same decision: ONNX, native, NumPy."""
    spec = Spec(OBS, action)
    executor = lively(architecture, spec)
    obs = 2 * observations(spec)
    reference = Form("NumPy", executor.act)
    forms = [each for each in executor_forms(executor) if each.name != "native kernel"]
    for form in [*forms, acting_form(executor)]:
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
    assert sum(times[0].counts) == times[0].calls
    assert len(times[0].edges) == len(times[0].counts) + 1
    assert times[0].edges[0] <= times[0].p50 <= times[0].edges[-1]
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


def test_the_table_compares_with_the_planner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file and a planner in; every form out, on the screen and in the report."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:8", load_planner(str(PLANNER)).spec))
    words = ["latency", str(file), "--planner", str(PLANNER)]
    short = ["--seconds", "0.02", "--rounds", "2", "--out", str(tmp_path / "out")]
    assert main([*words, *short]) == 0
    said = capsys.readouterr().out
    data = report(tmp_path / "out")
    assert undocumented(data, data["forms"][0]) == []
    assert data["command"] == "latency"
    assert data["planner_name"] == "PPO"
    assert data["ratio_to"] == "planner"
    names = [form["name"] for form in data["forms"]]
    assert names == ["NumPy", "native kernel", "Agent.act", "ONNX Runtime", "planner"]
    assert all(name in said for name in names)
    measured = {form["name"]: form for form in data["forms"]}
    assert measured["planner"]["ratio"] == 1.0
    assert data["decision_latency_us"] == measured["Agent.act"]["latency_us"]
    assert measured["NumPy"]["latency_us"]["count"] > 0
    shown = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for each in ("How long a decision takes", "a period at 50 Hz", " µs: "):
        assert each in shown
    assert main([*words, *short]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_what_is_missing_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ONNX Runtime the others are timed, and its row names the package."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["latency", "--obs", "3", "--actions", "2"]
    assert main([*words, "--seconds", "0.02", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    assert "agentkd[export]" in said
    assert "Faster" not in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["gone.akd"], "gone.akd"),
        (["--obs", "0"], "--obs is 0"),
        (["--seconds", "0"], "--seconds is 0"),
        (["--architecture", "mpl:3"], "Did you mean 'mlp'"),
        (["--planner", str(PLANNER), "--obs", "3"], "--obs and --actions"),
        (["--planner", "nowhere"], "No planner 'nowhere'"),
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
