"""Learning beside an executor that acts: what is handed on is better, or it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.dataset import About
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.gate import MARGINS, Gate, GateOptions
from agentkd.distillation.live import LiveDistiller, LiveOptions
from agentkd.distillation.recording import DatasetWriter
from agentkd.distillation.service import build
from agentkd.dists import KINDS
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent, InlineDistiller
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
from agentkd.spec_json import to_json
from agentkd.types import ActionDist, Floats, Kind, Labels, Point, SquashedGaussian

OBS = ObsSpec((Part("", "box", (3,), "float32"),))
BOX = Spec(OBS, BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,)))
ACTIONS: dict[Kind, ActionSpec] = {
    "categorical": DiscreteSpec(4),
    "qvalues": DiscreteSpec(4),
    "multicategorical": MultiDiscreteSpec((2, 3)),
    "bernoulli": MultiBinarySpec(4),
    "gaussian": BOX.action,
    "squashed": BOX.action,
    "point": BOX.action,
}


def states(count: int, seed: int = 0, at: float = 0.0) -> Floats:
    """Draw observations around a place."""
    random = np.random.default_rng(seed)
    return (at + random.standard_normal((count, 3))).astype(np.float32)


def rule(kind: Kind) -> Callable[[Floats], ActionDist]:
    """Make a planner that answers with this kind by a rule that a network can learn."""
    action = ACTIONS[kind]
    size = dists.action_size(action)
    weight = np.random.default_rng(7).standard_normal((3, size)).astype(np.float32)

    def planner(obs: Floats) -> ActionDist:
        scores = np.tanh(obs @ weight).astype(np.float32)
        rows = 3 * scores if kind in ("categorical", "qvalues") else scores
        if kind in ("gaussian", "squashed"):
            rows = np.concatenate([scores, np.full_like(scores, -1.0)], axis=1)
        return dists.unpack(kind, np.ascontiguousarray(rows), action)

    return planner


def learnt(kind: Kind, steps: int, at: float = 0.0, sign: int = 1) -> Executor:
    """Distil the rule for so many steps from states around a place.

    With a sign of -1 the rule is another one: it sees each number with that sign.
    """
    executor = initial("mlp:32", Spec(OBS, ACTIONS[kind]), seed=1)
    distiller = Distiller(executor, DistillerOptions(batch=128, learning_rate=1e-2))
    obs = states(2048, seed=1, at=at)
    distiller.add(obs, rule(kind)(sign * obs))
    for _ in range(steps):
        distiller.step()
    return distiller.freeze()


def gate_of(kind: Kind, began: Executor, kept: Labels | None = None, count: int = 512) -> Gate:
    """Make a gate that holds recent labels."""
    gate = Gate(began, kept)
    obs = states(count, seed=2)
    gate.add(obs, rule(kind)(obs))
    return gate


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_has_to_be_better(kind: Kind) -> None:
    """Of each kind: better passes, worse does not, and the same proves nothing."""
    poor, good = learnt(kind, 3), learnt(kind, 100)
    gate = gate_of(kind, poor)
    assert gate.judge(good, poor) is None
    assert gate.judge(poor, good) == "recent"
    assert gate.judge(good, good) == "unproven"
    assert Gate(poor).judge(good, poor) == "few"
    assert gate_of(kind, poor, count=100).judge(good, poor) == "few"
    assert set(MARGINS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_must_not_forget(kind: Kind) -> None:
    """Better on recent labels and worse on kept ones is refused, for each kind."""
    old = states(512, seed=3)
    kept = Labels(old, rule(kind)(-old))
    elsewhere, here = learnt(kind, 100, sign=-1), learnt(kind, 100)
    gate = gate_of(kind, elsewhere, kept)
    assert gate.judge(here, elsewhere) == "kept"
    assert gate_of(kind, elsewhere).judge(here, elsewhere) is None


def test_many_small_losses_do_not_add_up() -> None:
    """On kept labels a candidate is held to where learning began, not only to the last.

    Each step is within the margin of the one before, and the sum of them is not.
    """
    kind: Kind = "squashed"
    old = states(512, seed=3)
    kept = Labels(old, rule(kind)(-old))
    began, ended = learnt(kind, 100, sign=-1), learnt(kind, 100)
    gate = gate_of(kind, began, kept)
    acting, reasons = began, []
    for share in np.linspace(0.0, 1.0, 200)[1:]:
        mixed = (1 - share) * began.vector() + share * ended.vector()
        candidate = began.with_vector(mixed.astype(np.float32), 0)
        reason = gate.judge(candidate, acting)
        reasons.append(reason)
        if reason is None:
            acting = candidate
    assert None in reasons
    assert reasons[-1] == "kept"


def test_labels_are_held_out_in_runs() -> None:
    """However they come, one run in so many is held out, and it is a whole one."""
    options = GateOptions(block=4, every=8, least=2, blocks=8)
    whole = Gate(initial("linear", BOX), None, options).hold_out(640)
    pieces = Gate(initial("linear", BOX), None, options)
    joined = np.concatenate([pieces.hold_out(n) for n in (1, 2, 3, 10, 624)])
    assert np.array_equal(whole, joined)
    runs = whole.reshape(-1, 4)
    assert (runs.all(1) == runs.any(1)).all()
    assert runs[:8].any(1).sum() == 2
    assert runs[8:].any(1).mean() == pytest.approx(1 / 8, abs=0.02)


@pytest.mark.parametrize(
    "options", [{"block": 0}, {"every": 1}, {"least": 1}, {"blocks": 4}, {"certainty": -1.0}]
)
def test_a_gate_is_checked(options: dict[str, Any]) -> None:
    """Runs of nothing and comparisons of one sample are refused."""
    with pytest.raises(ConfigError):
        GateOptions(**options)


def feed(distiller: LiveDistiller, rounds: int, at: float = 0.0, steps: int = 3) -> int:
    """Give labels as a run does, and count the snapshots that pass."""
    planner = rule("squashed")
    passed = 0
    for index in range(rounds):
        obs = states(32, seed=100 + index, at=at)
        distiller.add(obs, planner(obs))
        for _ in range(steps):
            distiller.step()
        passed += distiller.snapshot() is not None
    return passed


def error(executor: Executor, at: float = 0.0) -> float:
    """How far an executor's actions are from the rule's, in the mean square."""
    obs = states(1024, seed=9, at=at)
    mine = dists.mode(executor(obs), BOX.action)
    right = dists.mode(rule("squashed")(obs), BOX.action)
    return float(np.square(mine - right).mean())


def acting(distiller: LiveDistiller) -> Executor:
    """The executor that a distiller believes to act."""
    assert distiller.world.acting is not None
    return distiller.world.acting


def test_a_poor_executor_learns() -> None:
    """Swaps come, and what they bring is much better than what was there."""
    poor = learnt("squashed", 3)
    distiller = LiveDistiller(poor, DistillerOptions(batch=64, learning_rate=5e-3))
    assert feed(distiller, 80) > 2
    assert error(acting(distiller)) < 0.25 * error(poor)


def test_a_good_executor_is_not_thrown_away() -> None:
    """With a learning rate that ruins it, none of what was ruined is handed on."""
    good = learnt("squashed", 400)
    wild = DistillerOptions(batch=64, learning_rate=0.3, warmup=1)
    distiller = LiveDistiller(good, wild)
    feed(distiller, 60)
    assert error(acting(distiller)) <= 1.05 * error(good)
    assert distiller.refused()["recent"] > 5
    free = LiveDistiller(good, wild, live=LiveOptions(gate=None))
    assert feed(free, 60) == 60
    assert error(acting(free)) > 2 * error(good)


def test_after_harmful_candidates_learning_returns_to_the_last_good_weights() -> None:
    """Five in a row, and the network is again the executor that acts."""
    good = learnt("squashed", 400)
    distiller = LiveDistiller(good, DistillerOptions(batch=64, learning_rate=0.3, warmup=1))
    apart = []
    for index in range(60):
        feed(distiller, 1)
        network = distiller.distiller.freeze().vector()
        apart.append(float(np.abs(network - acting(distiller).vector()).max()))
        if index > 20 and apart[-1] == 0:
            break
    assert apart[-1] == 0
    assert max(apart) > 0.05


def test_what_knows_nothing_has_nothing_to_lose() -> None:
    """Random weights are replaced before there is enough to compare; later they pass.

    An executor that somebody swapped in is compared at once.
    """
    options = DistillerOptions(batch=64, learning_rate=5e-3)
    start = initial("mlp:16", BOX, seed=1)
    distiller = LiveDistiller(start, options, untaught=True)
    distiller.follow(start.vector())
    assert feed(distiller, 3) > 0
    distiller.follow(start.vector() * np.float32(0.5))
    assert feed(distiller, 1) == 0


def test_a_robot_at_rest_teaches_nothing_without_kept_labels() -> None:
    """What was learnt in one state would cost what the executor does in others.

    With kept labels the gate sees that cost. When the robot moves again, it learns again.
    """
    poor = learnt("squashed", 20)
    obs = states(400, seed=3)
    kept = Labels(obs, rule("squashed")(obs))
    fast = DistillerOptions(batch=64, learning_rate=5e-3)
    place = np.full((32, 3), 0.7, np.float32)
    passed = {}
    for name, labels in (("none", None), ("kept", kept)):
        distiller = LiveDistiller(poor, fast, kept=labels)
        passed[name] = 0
        for _ in range(60):
            distiller.add(place, rule("squashed")(place))
            distiller.step()
            passed[name] += distiller.snapshot() is not None
        if labels is None:
            assert distiller.refused()["still"] > 40
            assert feed(distiller, 200) > 0
    assert passed["none"] == 0
    assert passed["kept"] > 0


def test_kept_labels_stay_in_the_mix() -> None:
    """While live labels come from one place only, the other one is not forgotten."""
    kind: Kind = "squashed"
    good = learnt(kind, 600, at=4.0)
    far = states(512, seed=3, at=4.0)
    kept = Labels(far, rule(kind)(far))
    fast = DistillerOptions(batch=64, learning_rate=1e-2)
    no_gate = LiveOptions(gate=None)
    with_kept = LiveDistiller(good, fast, kept=kept, live=no_gate)
    without = LiveDistiller(good, fast, live=no_gate)
    for distiller in (with_kept, without):
        feed(distiller, 60, at=-2.0)
    assert error(acting(with_kept), at=4.0) < 0.5 * error(acting(without), at=4.0)


def test_kept_labels_may_be_of_another_kind() -> None:
    """A file from one planner learns on from another that answers otherwise."""
    good = learnt("squashed", 300)
    obs = states(256, seed=3)
    kept = Labels(obs, Point(dists.mode(rule("squashed")(obs), BOX.action)))
    distiller = LiveDistiller(good, DistillerOptions(batch=64), kept=kept)
    feed(distiller, 40)
    assert distiller.distiller.steps > 0
    assert error(acting(distiller)) <= 1.05 * error(good)


def test_an_executor_that_somebody_else_swapped_in_is_gone_on_from() -> None:
    """The distiller continues from it, and of another architecture it has nothing."""
    poor, good = learnt("squashed", 3), learnt("squashed", 400)
    distiller = LiveDistiller(poor, DistillerOptions(batch=64))
    distiller.follow(good.vector())
    assert np.array_equal(distiller.distiller.snapshot(), good.vector())
    distiller.follow(None)
    assert feed(distiller, 20) == 0
    assert distiller.refused() == {"architecture": 20}
    distiller.follow(poor.vector())
    assert feed(distiller, 60) > 0


class Drift:
    """An unstable robot: it stays near 0 only while it is steered as the rule says."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.x = np.zeros(3, np.float32)

    def step(self, action: Floats) -> tuple[Floats, float]:
        push = np.array([*action, 0.0], np.float32)
        noise = 0.1 * self._random.standard_normal(3)
        drift = np.array([1.15, 1.15, 0.9])
        self.x = np.clip(drift * self.x + 0.5 * push + noise, -3, 3).astype(np.float32)
        return self.x, float(np.exp(-np.square(self.x[:2]).sum()))


def steer(obs: Floats) -> SquashedGaussian:
    """Steer a drifting robot back; its third number means nothing."""
    mean = np.arctanh(np.clip(-1.2 * obs[:, :2], -0.99, 0.99))
    return SquashedGaussian(mean.astype(np.float32), np.full((len(obs), 2), -1.0, "f4"))


def drive(agent: Agent, ticks: int, seed: int) -> list[float]:
    """Act, and give the return of each 100 ticks."""
    robot = Drift(seed)
    obs, parts = robot.x, [0.0]
    for tick in range(1, ticks + 1):
        obs, reward = robot.step(agent.act(obs))
        parts[-1] += reward
        if tick % 100 == 0:
            parts.append(0.0)
    return parts[:-1]


def steering(steps: int) -> tuple[Executor, Labels]:
    """Distil the steering, and keep some labels."""
    distiller = Distiller(
        initial("mlp:16", BOX, seed=1), DistillerOptions(batch=128, learning_rate=1e-2)
    )
    obs = 1.5 * states(2048, seed=1)
    distiller.add(obs, steer(obs))
    for _ in range(steps):
        distiller.step()
    kept = distiller.sample(12_000)
    assert kept is not None
    return distiller.freeze(), kept


def test_live_learning_does_not_harm_a_good_executor() -> None:
    """With the gate no stretch of a run falls below half of the executor alone.

    The learning rate is one that without the gate makes the robot drift away.
    """
    executor, kept = steering(300)
    alone = drive(Agent(executor), 600, 0)
    floor = 0.5 * float(np.mean(alone))
    wild = DistillerOptions(batch=32, learning_rate=1.0, warmup=1)
    worst = {}
    for name, live in (("gate", LiveOptions()), ("none", LiveOptions(gate=None))):
        distiller = LiveDistiller(executor, wild, kept=kept, live=live)
        port = InlineDistiller(distiller, swap_every=25)
        with Agent(
            executor, planner=steer, planner_latency=1, distiller=port, mode="executor"
        ) as agent:
            worst[name] = min(drive(agent, 600, 0))
    assert worst["gate"] >= floor
    assert worst["none"] < floor


def test_a_poor_executor_gets_better_while_it_acts() -> None:
    """In a closed loop, from an executor that hardly steers, returns rise."""
    executor, kept = steering(1)
    distiller = LiveDistiller(executor, DistillerOptions(batch=64, learning_rate=5e-3), kept=kept)
    port = InlineDistiller(distiller, swap_every=25)
    with Agent(
        executor, planner=steer, planner_latency=1, distiller=port, mode="executor"
    ) as agent:
        parts = drive(agent, 1500, 0)
        metrics = agent.metrics()
    assert parts[-1] > 2 * max(parts[:3])
    assert metrics["swaps_total"] > 0
    assert sum(metrics["swaps_refused_total"].values()) > 0


def files(folder: Path) -> tuple[Executor, Labels, Path]:
    """Write an executor with kept labels."""
    good = learnt("squashed", 50)
    obs = states(400, seed=3)
    kept = Labels(obs, rule("squashed")(obs))
    write_bundle(folder / "kept.akd", good, labels=kept)
    return good, kept, folder / "kept.akd"


def test_a_file_is_where_learning_begins(tmp_path: Path) -> None:
    """Kept labels anchor it; without them its golden observations do, less and less."""
    good, kept, file = files(tmp_path)
    distiller = build(str(file))
    assert np.array_equal(distiller.distiller.snapshot(), good.vector())
    anchor = distiller._anchor
    assert anchor is not None
    assert len(anchor) == 300
    assert distiller.world.gate is not None
    assert distiller.world.gate._kept is not None
    assert len(distiller.world.gate._kept.obs) == 100
    write_bundle(tmp_path / "bare.akd", good)
    bare = build(str(tmp_path / "bare.akd"))
    assert bare._anchor is not None
    assert len(bare._anchor) == 64
    assert bare.world.gate is not None
    assert bare.world.gate._kept is None
    assert feed(bare, 8, steps=1) <= 8
    assert build(str(file), keep=False)._anchor is None
    assert build(str(file), gate=False).world.gate is None
    assert build("mlp:8", to_json(BOX))._anchor is None
    assert len(kept.obs) == 400


def test_a_dataset_gives_kept_labels(tmp_path: Path) -> None:
    """Labels that were recorded serve in place of those of the file."""
    _, kept, file = files(tmp_path)
    with DatasetWriter(tmp_path / "data", About("Robot-v0", BOX)) as writer:
        writer.add(
            kept.obs,
            kept.dist,
            np.zeros(400, np.float32),
            np.zeros(400, np.int32),
            np.zeros(400, np.uint8),
        )
    distiller = build(str(file), data=str(tmp_path / "data"))
    assert distiller._anchor is not None
    assert len(distiller._anchor) == 300
    other = Spec(OBS, DiscreteSpec(2))
    with pytest.raises(ConfigError, match="labels of 3 numbers"):
        build("mlp:8", to_json(other), data=str(tmp_path / "data"))


def test_a_distiller_that_cannot_be_meant_is_refused() -> None:
    """An architecture without a spec, and shares of more than all, name the remedy."""
    with pytest.raises(ConfigError, match="needs the environment's spec"):
        build("mlp:8")
    with pytest.raises(ConfigError, match="kept_share"):
        build("mlp:8", to_json(BOX), kept_share=1.0)
    with pytest.raises(ConfigError, match="memory"):
        build("gru:8", to_json(replace(BOX, obs=OBS)))
