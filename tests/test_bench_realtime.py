"""The benchmarks of real time: delays, cadence, seams, faults, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.bench.realtime import delay as delays
from agentkd.bench.realtime.cadence import Metronome, cadence
from agentkd.bench.realtime.faults import FAULTS, Stub, survive
from agentkd.bench.realtime.seams import Scene, by_commands, by_estimate, by_ticks, path
from agentkd.bench.realtime.table import ARMS, Cell, best_at_all
from agentkd.bench.realtime.ticks import check_python, ours, theirs, together
from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.layers import Dense
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats
from tests.cli_reports import report, undocumented

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


ACTED: list[int] = []
COUNTER = "tests.test_bench_realtime:Counter"
SPEC = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), DiscreteSpec(5))


def tells(obs: Floats) -> Categorical:
    """Chooses what it observes modulo 5."""
    return Categorical(np.eye(5, dtype=np.float32)[obs[:, 0].astype(int) % 5])


def case() -> delays.Case:
    return delays.Case(COUNTER, "tells", tells, initial("linear", SPEC), SPEC)


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
    for layer in found.executor.layers:
        assert isinstance(layer, Dense)
        layer.weight[:] = 0
        layer.bias[:] = np.eye(5)[3]
    for delay, expected in ((0, 12.0), (1, 2.0), (4, 2.0)):
        assert delays.delayed(found, "runtime", delay, episodes=2, seed=0) == (expected, expected)
    assert len(delays.random_returns(found, episodes=3, seed=0)) == 3
    with pytest.raises(ConfigError, match="No way"):
        delays.delayed(found, "sideways", 1, episodes=1, seed=0)  # type: ignore[arg-type]


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
    found = survive(fault, hz=200.0, seconds=2.0)
    assert found.decisions == found.cadence.ticks
    assert sum(found.restarts.values()) >= 1
    assert found.recovery > 0
    assert found.answers > 0
    assert set(found.sources) <= {"strategy", "executor"}


def test_faults_that_cannot_be_are_refused() -> None:
    """An unknown fault, and a run without length."""
    assert set(FAULTS) == {"none", "killed", "stopped", "slowed", "garbage"}
    with pytest.raises(ConfigError, match="No fault"):
        survive("sulking")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="above 0"):
        survive("none", seconds=0)


def test_runtime_below_an_arm_is_told() -> None:
    """A latency at which the runtime is beaten is named; others are not."""

    def cells(values: dict[str, float], latency: int) -> list[Cell]:
        return [Cell("e", arm, latency, (value,), value, True, {}) for arm, value in values.items()]

    good = cells({"planner": 1.0, "executor": 2.0, "runtime": 2.0}, 0)
    bad = cells({"planner": 3.0, "executor": 2.0, "runtime": 2.0}, 4)
    assert best_at_all(good) == []
    assert best_at_all(good + bad) == ["e at 4: 2.000 below planner's 3.000"]
    # A span of time has no mean return, but all the reward there was.
    assert Cell("e", "runtime", 0, (), 3.5, False, {}).mean == 3.5
    assert np.isnan(Cell("e", "runtime", 0, (), 3.5, True, {}).mean)
    assert [arm.name for arm in ARMS] == ["planner", "executor", "runtime"]


def test_rounds_of_a_loop_are_joined_and_others_need_a_python(tmp_path: Path) -> None:
    """Ours is timed in rounds; a Python that lacks a package says what to install."""
    rounds = [ours(100.0, 1.0, busy=False) for _ in range(2)]
    found = together(rounds).cadence()
    assert found is not None
    assert found.ticks == sum(len(each.rounds[0]) for each in rounds)
    with pytest.raises(ConfigError, match="pip install rtgym"):
        check_python(Path("/usr/bin/env"), ["rtgym"])
    missing = theirs(tmp_path / "python", "rtgym", 100.0, 0.1, busy=False)
    assert missing.cadence() is None
    assert "No such file" in missing.note


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_seams_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, the JSON and the report say the same."""
    assert main(["bench", "realtime", "seams", "--json", "--out", str(tmp_path / "s")]) == 0
    data = told(capsys)
    assert [each["rule"] for each in data["exact"]][2] == "by commands"
    assert data["exact"][2]["skipped"] == 0
    kept = report(tmp_path / "s")
    assert kept["exact"] == data["exact"]
    assert undocumented(kept, kept["exact"][0], kept["scene"]) == []
    assert main(["bench", "realtime", "seams"]) == 0
    assert "0 positions are skipped" in " ".join(capsys.readouterr().out.split())


def test_table_command_lives_every_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two environments, two latencies, three arms; the executor's line is flat."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:4", CARTPOLE, seed=2))
    command = ["bench", "realtime", "table", "--env", "CartPole-v1", "CartPole-v1"]
    rest = ["--planner", BALANCE, "--executor", str(file), "--latencies", "0,3"]
    more = ["--episodes", "2", "--unit", "500", "--json", "--max-age", "9"]
    out = tmp_path / "table"
    assert main([*command, *rest, *more, "--out", str(out), "--ablate"]) == 0
    data = told(capsys)
    assert len(data["cells"]) == 2 * 2 * 7
    scores = {(c["arm"], c["latency"]): c["score"] for c in data["cells"]}
    assert scores["planner", 0] == scores["runtime", 0] == 1.0
    assert scores["executor", 0] == scores["executor", 3] == scores["runtime", 3]
    kept = report(out)
    assert undocumented(kept, kept["cells"][0]) == []


def table_of(folder: Path) -> list[str]:
    """The command with a small executor, in one environment."""
    file = folder / "e.akd"
    write_bundle(file, initial("mlp:4", CARTPOLE, seed=2))
    command = ["bench", "realtime", "table", "--env", "CartPole-v1"]
    return [*command, "--planner", BALANCE, "--executor", str(file)]


def test_table_command_truncates_episodes_and_says_who_acted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Episodes end after so many ticks, scores have intervals, sources have shares."""
    command = table_of(tmp_path)
    rest = ["--latencies", "0", "--episodes", "3"]
    assert main([*command, *rest, "--episode-ticks", "7", "--json"]) == 0
    data = told(capsys)
    returns = {each["arm"]: each["returns"] for each in data["cells"]}
    assert returns["planner"] == returns["runtime"] == [7.0] * 3
    assert data["episode_ticks"] == 7
    assert main([*command, *rest, "--episode-ticks", "7"]) == 0
    said = capsys.readouterr().out
    assert "who acted" in said
    assert "runtime 0 7.000 7.000 7.000" in " ".join(said.split())
    assert "runtime 0 1.000 0.000 0.000 0.000" in " ".join(said.split())
    assert main([*command, *rest, "--episode-ticks", "0"]) == 2
    assert "--episode-ticks" in capsys.readouterr().err


def test_table_command_survives_a_planner_that_was_never_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm without an answer has a dash for how long answers took."""
    assert main([*table_of(tmp_path), "--latencies", "50", "--ticks", "10"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "runtime 50 0.000 1.000 0.000 0.000 – – 0" in said


def test_delay_command_distils_and_delays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An executor at hand is used, each way has a row, the runtime's is judged."""
    planners, executors = tmp_path / "planners", tmp_path / "executors"
    (planners / "x-CartPole-v1").mkdir(parents=True)
    executors.mkdir()
    command = ["bench", "realtime", "delay", "--planners", str(planners)]
    assert main([*command, "--names", "x-Cartpole"]) == 2
    assert "Did you mean 'x-CartPole-v1'?" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--names", "x-CartPole-v1", "--ways", "asink"]) == 2
    assert "Did you mean 'async'?" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--names", "x-CartPole-v1", "--delays", "a"]) == 2
    assert "--delays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ticks", "--hz", "0"], "--hz"),
        (["ticks", "--seconds", "0"], "--seconds"),
        (["ticks", "--other-python", "/nowhere/python"], "no Python that runs"),
        (["seams", "--blend", "-1"], "--blend"),
        (["faults", "--faults", "kiled"], "Did you mean 'killed'?"),
        (["faults", "--seconds", "0"], "--seconds"),
        (["fault"], "Did you mean"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong option ends in status 2 before anything is measured."""
    assert main(["bench", "realtime", *words]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_family_within_a_family_names_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    """`agentkd bench realtime` says what there is."""
    assert main(["bench", "realtime"]) == 2
    said = capsys.readouterr().out
    assert "bench realtime seams" in said
    assert "agentkd distill" not in said
