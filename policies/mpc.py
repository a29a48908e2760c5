"""Planners that try many futures of a robot: `policies.mpc:half_cheetah` and others.

Each restores the simulation's state from what its environment observes, and pays what the
environment pays. `planner` finds the robot by what is observed and done.

    agentkd distill InvertedPendulum-v5 --planner policies.mpc:planner --labels 4000

`guided` looks a few ticks ahead only; what follows it is told by an executor and a value that
practised in the same model.

    agentkd practise HalfCheetah-v5 --planner policies.mpc:planner
    agentkd run HalfCheetah-v5 --planner policies.mpc:guided
        --planner-args practised=runs/practise-HalfCheetah-v5
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from agentkd.errors import SpecError
from agentkd.planners import Planner
from agentkd.planners.search.guide import Guide, read_guide
from agentkd.planners.search.mpc import MpcOptions, SamplingControl
from agentkd.planners.search.physics import Moves, Physics
from agentkd.planners.search.worlds import Doubles, Rollouts, Steps
from agentkd.spec import BoxSpec, Spec
from agentkd.types import Floats

HORIZON = 12


@cache
def _model(name: str) -> Any:
    """One of Gymnasium's robots."""
    import mujoco

    files = resources.files("gymnasium.envs.mujoco") / "assets" / f"{name}.xml"
    with resources.as_file(files) as path:
        return mujoco.MjModel.from_xml_path(str(path))


def _forward(moves: Moves) -> Doubles:
    """How fast a robot runs, in m/s."""
    apart: Doubles = moves.qpos[..., 0] - moves.before[..., 0]
    return apart / moves.seconds


def _effort(moves: Moves) -> Doubles:
    squares: Doubles = np.square(moves.action).sum(axis=-1)
    return squares


def _without_x(positions: int) -> Callable[[Floats], tuple[Any, Any]]:
    """Restore a robot whose first coordinate is not observed; it is put at 0."""

    def restore(obs: Floats) -> tuple[Any, Any]:
        return np.append(0.0, obs[: positions - 1]), obs[positions - 1 :]

    return restore


def _observe(hidden: int) -> Callable[[Doubles, Doubles], Doubles]:
    """Observe positions, but for the first, and velocities."""
    return lambda qpos, qvel: np.concatenate([qpos[..., hidden:], qvel], axis=-1)


def half_cheetah_world() -> Physics:
    """HalfCheetah-v5."""
    return Physics(
        _model("half_cheetah"),
        5,
        _without_x(9),
        lambda moves: _forward(moves) - 0.1 * _effort(moves),
        observe=_observe(1),
        anywhere=(0,),
    )


def swimmer_world() -> Physics:
    """Swimmer-v5; neither coordinate of its nose is observed."""
    return Physics(
        _model("swimmer"),
        4,
        lambda obs: (np.append([0.0, 0.0], obs[:3]), obs[3:]),
        lambda moves: _forward(moves) - 1e-4 * _effort(moves),
        observe=_observe(2),
        anywhere=(0, 1),
    )


def inverted_pendulum_world() -> Physics:
    """InvertedPendulum-v5; to stand upright in the middle is paid a little more."""

    def reward(moves: Moves) -> Doubles:
        place, angle = moves.qpos[..., 0], moves.qpos[..., 1]
        paid: Doubles = (np.abs(angle) <= 0.2) - np.square(angle)
        return paid - 0.1 * np.square(place)

    return Physics(
        _model("inverted_pendulum"),
        2,
        lambda obs: (obs[:2], obs[2:]),
        reward,
        over=lambda moves: np.abs(moves.qpos[..., 1]) > 0.2,
        observe=_observe(0),
    )


class Pendulum:
    """Pendulum-v1 as `Rollouts`, in NumPy; its state is the angle and its velocity."""

    low: Doubles = np.array([-2.0])
    high: Doubles = np.array([2.0])

    def restore(self, obs: Floats, /) -> Doubles:
        """Read the angle from its cosine and sine."""
        return np.array([np.arctan2(obs[1], obs[0]), obs[2]], float)

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        """Live on by the equations of Gymnasium's pendulum."""
        count, ticks, _ = actions.shape
        now = state[None].repeat(count, 0)
        rewards = np.empty((count, ticks))
        states = np.empty((count, ticks, 2))
        for tick in range(ticks):
            rewards[:, tick], now, _ = self.step(now, actions[:, tick])
            states[:, tick] = now
        return rewards, states

    def step(self, states: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles, Any]:
        """Live on from each state by a tick."""
        angle, speed, torque = states[:, 0], states[:, 1], np.clip(actions[:, 0], -2.0, 2.0)
        upright = (angle + np.pi) % (2 * np.pi) - np.pi
        rewards = -(upright**2 + 0.1 * speed**2 + 1e-3 * torque**2)
        speed = np.clip(speed + 0.05 * (15.0 * np.sin(angle) + 3.0 * torque), -8.0, 8.0)
        after = np.stack([angle + 0.05 * speed, speed], axis=1)
        return rewards, after, np.zeros(len(states), bool)

    def observe(self, states: Doubles, /) -> Floats:
        """Cosine and sine of the angle, and the velocity."""
        angle, speed = states[..., 0], states[..., 1]
        return np.stack([np.cos(angle), np.sin(angle), speed], axis=-1).astype(np.float32)

    def features(self, states: Doubles, /) -> Doubles:
        """Where it points, and how far it turns in a tick."""
        angle, speed = states[..., 0], states[..., 1]
        return np.stack([np.cos(angle), np.sin(angle), 0.05 * speed], axis=-1)


def _planner(
    spec: Spec, name: str, world: Rollouts, options: MpcOptions, guide: Guide | None = None
) -> Planner:
    size = spec.action.low if isinstance(spec.action, BoxSpec) else ()
    if len(size) != len(world.low):
        raise SpecError(f"The {name} has {len(world.low)} joints, not {spec.action}.")
    return Planner(SamplingControl(world, options, guide), spec, f"MPC {name}", 0, "")


_WORLDS: Mapping[str, Callable[[], Steps]] = {
    "half cheetah": half_cheetah_world,
    "swimmer": swimmer_world,
    "inverted pendulum": inverted_pendulum_world,
    "pendulum": Pendulum,
}
_OPTIONS = {
    # A second ahead.
    "half cheetah": MpcOptions("cem", ticks=20, knots=20, horizon=HORIZON, samples=48),
    # Two seconds.
    "swimmer": MpcOptions("cem", ticks=50, knots=8, horizon=HORIZON, samples=24, iterations=2),
    "inverted pendulum": MpcOptions("cem", ticks=20, knots=5, horizon=HORIZON, samples=32),
    # 1.5 s, widely: hanging still is a trap.
    "pendulum": MpcOptions(ticks=30, knots=15, horizon=HORIZON, samples=64, spread=1.0),
}
_BY_SHAPE = {
    (17, 6): "half cheetah",
    (8, 2): "swimmer",
    (4, 1): "inverted pendulum",
    (3, 1): "pendulum",
}
_GUIDED = MpcOptions(
    "cem",
    ticks=5,
    knots=5,
    horizon=5,
    samples=16,
    iterations=1,
    spread=0.2,
    elites=0.2,
    remembered=8,
)
"""A guide says what follows, so that five ticks ahead are enough."""


def _named(spec: Spec, name: str) -> Planner:
    return _planner(spec, name, _WORLDS[name](), _OPTIONS[name])


def half_cheetah(spec: Spec) -> Planner:
    """Plan for HalfCheetah-v5, a second ahead."""
    return _named(spec, "half cheetah")


def swimmer(spec: Spec) -> Planner:
    """Plan for Swimmer-v5, two seconds ahead."""
    return _named(spec, "swimmer")


def inverted_pendulum(spec: Spec) -> Planner:
    """Plan for InvertedPendulum-v5, 0.8 s ahead."""
    return _named(spec, "inverted pendulum")


def pendulum(spec: Spec) -> Planner:
    """Plan for Pendulum-v1, 1.5 s ahead."""
    return _named(spec, "pendulum")


def planner(spec: Spec) -> Planner:
    """Plan for whichever of these robots it is.

    Raises:
        SpecError: If it is none of them.
    """
    return _named(spec, _robot(spec))


def guided(spec: Spec, practised: str, executor: str | None = None, **options: Any) -> Planner:
    """Plan a few ticks ahead, guided by an executor and a value that practised.

    Args:
        spec: The environment.
        practised: The folder of `agentkd practise`.
        executor: The file of another executor that proposes.
        options: Fields of `MpcOptions` to change.

    Raises:
        SpecError: If it is none of the robots here, or the files are for another one.
    """
    name = _robot(spec)
    guide = read_guide(practised, spec, executor)
    # Without a value that predicts, only looking further shows what follows.
    base = _OPTIONS[name] if guide.value is None else _GUIDED
    made = _planner(spec, name, _WORLDS[name](), replace(base, **options), guide)
    return replace(made, name=f"guided {made.name}")


def _robot(spec: Spec) -> str:
    """The name of the robot with these numbers."""
    size = len(spec.action.low) if isinstance(spec.action, BoxSpec) else 0
    name = _BY_SHAPE.get((spec.obs.size, size))
    if name is None:
        raise SpecError(
            f"None of the robots here observes {spec.obs.size} numbers and has {size} "
            f"joints. Write a world as in {__file__}, and give it to SamplingControl."
        )
    return name
