"""The benchmarks of real time: delays, cadence, seams, faults, late planners."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.layers import Dense
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats
from benchmarks import delay as delays
from benchmarks import late_rows, live_learning
from benchmarks.__main__ import main
from benchmarks.cadence import Metronome, cadence
from benchmarks.faults import FAULTS, Options, Stub, survive
from benchmarks.late_planner import ARMS, worse
from benchmarks.planners import random_returns
from benchmarks.seams import Scene, by_commands, by_estimate, by_ticks, path
from benchmarks.ticks import Timed, in_turns, ours, theirs
from tests.cli_reports import report, undocumented
from tests.waiting import longer

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
BALANCE = "tests.cli_planners:balance"
MS = 1_000_000


class Counter(gym.Env[Any, Any]):
    """Observes the tick; a reward for choosing it modulo 5, twelve ticks long."""

    observation_space = gym.spaces.Box(0, 99, (1,), np.float32)
    action_space = gym.spaces.Discrete(5)

    def __init__(self) -> None:
        self.tick = 0
        self.acted: list[int] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.tick, self.acted = 0, []
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.acted.append(int(action))
        ACTED.append(int(action))
        reward = float(action == self.tick % 5)
        self.tick += 1
        return np.full(1, self.tick, np.float32), reward, self.tick >= 12, False, {}


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Leave a logger's level as it was."""
    level = logging.getLogger(name).level
    yield
    logging.getLogger(name).setLevel(level)


ACTED: list[int] = []
COUNTER = "tests.test_benchmarks_realtime:Counter"
SPEC = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), DiscreteSpec(5))


def tells(obs: Floats) -> Categorical:
    """Chooses what it observes modulo 5."""
    return Categorical(np.eye(5, dtype=np.float32)[obs[:, 0].astype(int) % 5])


def case() -> delays.Subject:
    return delays.Subject(COUNTER, tells, initial("linear", SPEC), SPEC)


@pytest.mark.parametrize(
    ("way", "delay", "expected"),
    [
        ("async", 0, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]),
        ("async", 2, [0, 0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]),
        ("repeat", 2, [0, 0, 0, 0, 0, 3, 3, 3, 1, 1, 1, 4]),
        ("noop", 2, [0, 0, 0, 0, 0, 3, 0, 0, 1, 0, 0, 4]),
        ("repeat", 0, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]),
    ],
)
def test_delays_are_what_they_are_said_to_be(way: Any, delay: int, expected: list[int]) -> None:
    """Each way decides on what was observed d ticks before, at its own pace."""
    ACTED.clear()
    returns = delays.delayed(case(), way, delay, episodes=1, seed=0)
    assert expected == ACTED
    assert returns == (sum(a == t % 5 for t, a in enumerate(expected)),)


def test_runtime_acts_with_its_executor_while_the_planner_is_late() -> None:
    """At delay 0 the planner acts, later the executor, at each tick."""
    found = case()
    assert found.executor is not None
    for layer in found.executor.layers:
        assert isinstance(layer, Dense)
        layer.weight[:] = 0
        layer.bias[:] = np.eye(5)[3]
    for delay, expected in ((0, 12.0), (1, 2.0), (4, 2.0)):
        assert delays.delayed(found, "runtime", delay, episodes=2, seed=0) == (expected, expected)
    assert len(random_returns(COUNTER, episodes=3, seed=0)["returns"]) == 3


def test_cadence_of_even_ticks_has_no_gap() -> None:
    """Ticks at their period are never late, and none is missed."""
    found = cadence([np.arange(100) * 2 * MS], 500.0)
    assert (found.ticks, found.missed, found.uncommanded) == (100, 0, 0.0)
    assert found.hz == pytest.approx(500.0)
    assert set(found.late_us.values()) == {0.0}
    assert found.longest_ms == 2.0


def test_cadence_counts_gaps_and_rounds_apart() -> None:
    """A gap of 150 ms in 20 ms ticks is seven missed periods; rounds do not join."""
    burst = np.arange(10) * 20 * MS
    one = np.concatenate([burst, burst + burst[-1] + 170 * MS])
    found = cadence([one, one + 10**12], 50.0)
    # 8.5 periods stand for eight of which seven were missed, in each round.
    assert found.missed == 2 * 7
    assert found.longest_ms == 170.0
    assert found.uncommanded == pytest.approx(150 / (18 * 20 + 170))
    assert found.late_us["max"] == 150_000
    with pytest.raises(ConfigError, match="cadence"):
        cadence([np.array([1])], 50.0)


def test_metronome_writes_down_when_it_was_commanded() -> None:
    """Each command has its moment; beyond the room nothing is lost but that."""
    time = iter(range(100))
    world = Metronome(3, 4, lambda: next(time))
    world.reset()
    for _ in range(6):
        world.step(None)
    assert world.moments.tolist() == [0, 1, 2, 3]


def test_seam_of_issue_4223_is_no_jump_by_commands() -> None:
    """0.7 s, then 0.3 s, at 30 Hz, chunks of 30: nothing is skipped, nothing jumps."""
    scene = Scene()
    assert [scene.late(request) for request in (1, 2, 3)] == [21, 9, 9]
    mine = by_commands(scene)
    assert (mine.first, mine.skipped, mine.starved) == (1, 0, 21)
    assert mine.within
    # The rule that was at fault skips 21 positions of the first chunk, and jumps.
    theirs = by_estimate(scene)
    assert theirs.first == 22
    assert theirs.skipped > 21
    assert theirs.jump > 5 * theirs.step
    assert by_ticks(scene).first == 22


def test_blend_keeps_seams_within_a_chunk_s_own_step() -> None:
    """Chunks that drift apart jump without a blend, and do not with one."""
    scene = Scene(wander=0.3)
    for seed in range(4):
        drifting = Scene(wander=scene.wander, seed=seed)
        assert not by_commands(drifting).within
        assert by_commands(drifting, blend=16).within


def test_planner_slower_than_its_chunks_starves_the_arm_and_it_is_counted() -> None:
    """Two seconds for one of chunk, of which every other answer is over when it comes: three ticks
    of four hold the last position, and still nothing is skipped."""
    found = by_commands(Scene(warm_up=2.0, latency=2.0))
    assert found.starved == 0.75 * found.ticks
    assert found.skipped == 0
    assert found.jump <= 1.01 * np.abs(np.diff(path(np.arange(999)), axis=0)).max()


def test_stub_does_what_it_is_told(tmp_path: Path) -> None:
    """The planner of the faults answers garbage on order, and only then."""
    orders = tmp_path / "orders"
    stub = Stub(0.0, str(orders))
    obs = np.zeros((1, 17), np.float32)
    assert np.isfinite(stub(obs).mean).all()
    orders.write_text("garbage")
    assert np.isnan(stub(obs).mean).all()


@pytest.mark.parametrize("fault", ["killed", "garbage"])
def test_planner_that_comes_to_harm_costs_no_decision(fault: Any) -> None:
    """Each tick has its decision, and answers come back in a new process."""
    with quiet("agentkd.runtime"):
        found = survive(fault, Options(hz=200.0, seconds=2.0))
    assert found["lost"] == 0
    assert found["decisions"] == found["cadence"]["ticks"]
    assert sum(found["restarts"].values()) >= 1
    assert found["recovery"] > 0
    assert found["answers"] > 0
    assert set(found["sources"]) <= {"strategy", "executor"}


def test_runtime_below_an_arm_is_told() -> None:
    """A latency at which the runtime is beaten is named; others are not."""

    def cells(values: dict[str, float], latency: int) -> list[dict[str, Any]]:
        return [
            {"env": "e", "arm": arm, "latency": latency, "score": value}
            for arm, value in values.items()
        ]

    good = cells({"planner": 1.0, "executor": 2.0, "runtime": 2.0}, 0)
    bad = cells({"planner": 3.0, "executor": 2.0, "runtime": 2.0}, 4)
    assert worse(good) == []
    assert worse(good + bad) == ["e at 4: 2.000 below planner's 3.000"]
    assert [arm.name for arm in ARMS] == ["planner", "executor", "runtime"]


def test_a_clock_is_measured_idle_and_busy() -> None:
    """Every tick is a decision, and only the busy one has a planner's answers."""
    for seconds in longer(1.0):
        idle, busy = (ours(100.0, seconds, busy=busy) for busy in (False, True))
        for each in (idle, busy):
            assert each.counts["lost"] == 0
            assert 0 < each.told(100.0)["ticks"] <= 100 * seconds + 1
        assert idle.counts["answers"] == idle.counts["steps"] == 0
        if busy.counts["answers"]:
            return
    raise AssertionError("a busy clock had no answer")


def test_rounds_of_a_loop_are_joined_and_others_need_a_python(tmp_path: Path) -> None:
    """Loops take turns; a Python that is missing is told."""
    turns: list[str] = []

    def loop(name: str) -> Timed:
        turns.append(name)
        return Timed([np.arange(10) * 2 * MS], {"lost": 1})

    loops = {name: lambda name=name: loop(name) for name in ("a", "b")}
    found = in_turns(loops, 500.0, 2)["loops"]
    assert turns == ["a", "b", "b", "a"]
    assert (found["a"]["ticks"], found["a"]["lost"]) == (20, 2)
    missing = theirs(tmp_path / "python", "rtgym", 100.0, 0.1)
    assert "No such file" in missing.told(100.0)["note"]


def test_ticks_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each loop has its row, ours with what they did meanwhile."""
    out = tmp_path / "out"
    words = ["ticks", "--hz", "50", "--seconds", "1", "--rounds", "1", "--no-idle"]
    words += ["--pythons", str(tmp_path)]
    assert main([*words, "--chunks", "--out", str(out)]) == 0
    clock, slow = report(out)["results"]
    assert list(clock["loops"]) == ["ours, busy"]
    assert list(slow["loops"]) == ["ours"]
    assert undocumented(clock, *clock["loops"].values(), *slow["loops"].values()) == []
    said = " ".join(capsys.readouterr().out.split())
    assert "0 decisions were lost." in said
    assert "python -m benchmarks pythons loops" in said


def test_faults_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What happened is a row."""
    assert set(FAULTS) == {"none", "killed", "stopped", "slowed", "garbage"}
    out = tmp_path / "out"
    words = ["faults", "--hz", "100", "--seconds", "1", "--faults", "none"]
    with quiet("agentkd.runtime"):
        assert main([*words, "--out", str(out)]) == 0
    (found,) = report(out)["results"]
    assert undocumented(found, found["cadence"]) == []
    assert found["lost"] == 0
    assert "0 decisions were lost." in capsys.readouterr().out


def test_seams_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the report say the same."""
    assert main(["seams", "--out", str(tmp_path / "s")]) == 0
    data = report(tmp_path / "s")
    assert [each["rule"] for each in data["results"]][2] == "by commands"
    assert data["results"][2]["skipped"] == 0
    assert undocumented(*data["results"]) == []
    assert "0 positions are skipped" in " ".join(capsys.readouterr().out.split())


def table_of(folder: Path, *environments: str) -> list[str]:
    """The benchmark with a small executor, in one environment or several."""
    file = folder / "e.akd"
    write_bundle(file, initial("mlp:4", CARTPOLE, seed=2))
    command = ["late_planner", "--env", *(environments or ["CartPole-v1"])]
    return [*command, "--planner", BALANCE, "--executor", str(file)]


def test_late_planner_lives_every_cell(tmp_path: Path) -> None:
    """Two environments, two latencies, seven arms; the executor's line is flat."""
    command = table_of(tmp_path, "CartPole-v1", 'CartPole-v1{"sutton_barto_reward": 0}')
    rest = ["--latencies", "0", "3", "--episodes", "2", "--unit", "500"]
    out = tmp_path / "table"
    more = ["--max-age", "9", "--ablate", "--out", str(out)]
    assert main([*command, *rest, *more]) == 0
    data = report(out)
    assert len(data["results"]) == 2 * 2 * 7
    scores = {(c["arm"], c["latency"]): c["score"] for c in data["results"]}
    assert scores["planner", 0] == scores["runtime", 0] == 1.0
    assert scores["executor", 0] == scores["executor", 3] == scores["runtime", 3]
    assert undocumented(data, data["results"][0]) == []


def test_late_planner_truncates_episodes_and_says_who_acted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Episodes end after so many ticks, scores have intervals, sources have shares."""
    command = [*table_of(tmp_path), "--latencies", "0", "--episodes", "3"]
    out = tmp_path / "out"
    assert main([*command, "--episode-ticks", "7", "--out", str(out)]) == 0
    returns = {each["arm"]: each["returns"] for each in report(out)["results"]}
    assert returns["planner"] == returns["runtime"] == [7.0] * 3
    said = " ".join(capsys.readouterr().out.split())
    assert "who acted" in said
    assert "runtime 0 7.000 7.000 7.000" in said
    assert "runtime 0 1.000 0.000 0.000 0.000" in said
    assert main([*command, "--episode-ticks", "0"]) == 2
    assert "--episode-ticks" in capsys.readouterr().err


def test_late_planner_survives_a_planner_that_was_never_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm without an answer has a dash for how long answers took."""
    command = [*table_of(tmp_path), "--latencies", "50", "--episodes", "1"]
    assert main([*command, "--episode-ticks", "8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "runtime 50 0.000 1.000 0.000 0.000 – – 0" in said


def test_delay_distils_and_delays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each way has a row, the runtime's is judged, and the executor is kept."""
    out = tmp_path / "out"
    words = ["delay", "--pairs", f"CartPole-v1={BALANCE}", "--episodes", "2"]
    words += ["--executor", "mlp:8", "--distil-seconds", "1", "--delays", "0", "2"]
    assert main([*words, "--ways", "async", "runtime", "--out", str(out)]) == 0
    data = report(out)
    assert undocumented(*data["results"]) == []
    assert [(each["way"], each["delay"]) for each in data["results"]] == [
        ("random", None),
        ("async", 0),
        ("async", 2),
        ("runtime", 0),
        ("runtime", 2),
    ]
    assert "the runtime keeps at least" in " ".join(capsys.readouterr().out.split())
    assert len(list((out / "rows").glob("*.akd"))) == 1
    planners = tmp_path / "planners"
    (planners / "x-CartPole-v1").mkdir(parents=True)
    (planners / "x-CartPole-v1" / "planner.zip").touch()
    command = ["delay", "--planners", str(planners), "--only", "x-Cartpole"]
    assert main(command) == 2
    assert "Did you mean 'x-CartPole-v1'?" in " ".join(capsys.readouterr().err.split())


def test_late_rows_are_compared_seed_by_seed() -> None:
    """An arm is beside the executor; ahead is beside the better of it and virtual."""
    earned = {"executor": (10.0, 20.0), "late": (5.0, 20.0), "ahead": (10.0, 10.0)}
    earned["ahead, virtual"] = (20.0, 10.0)
    results = [
        {"arm": arm, "seed": seed, "return": value}
        for arm, values in earned.items()
        for seed, value in enumerate(values)
    ]
    section = late_rows.findings(late_rows.Options(), results).sections[0]
    assert section.table is not None
    shares = {row[0]: row[-1] for row in section.table.rows}
    assert shares["late"] == "0.750 (0.500 … 1.000)"
    assert shares["ahead"] == "0.500 (0.500 … 0.500)"
    assert shares["ahead, virtual"] == "0.750 (0.500 … 1.000)"


def test_live_learning_finds_runs_that_fell(tmp_path: Path) -> None:
    """A window below half of the executor's mean alone counts, after the first."""
    options = live_learning.Options(planners=tmp_path, settle=150, ticks=600)
    windows = {"alone": [0, 10, 10, 10], "plain": [0, 10, 4, 10], "gate": [0, 6, 9, 9]}
    results = [
        {"robot": "cheetah", "arm": arm, "windows": each, "swaps": 2, "refused": 1}
        for arm, each in windows.items()
    ]
    rows = live_learning.rows_of(results, options)
    fell = {row["arm"]: row["fell"] for row in rows}
    assert fell == {"alone": 0, "plain": 1, "gate": 0}
    assert live_learning.findings(options, results).passed
    results[2]["windows"] = [0, 4, 9, 9]
    assert not live_learning.findings(options, results).passed
