"""A world that changes while the agent lives: `python examples/change.py`, half a minute.

An executor has learnt to hold a pendulum up. Then its motor is wired the other way round. The
planner is told, and its answers are four ticks late; the executor is not told and learns from them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from agentkd import Agent, distill, environments, load_planner
from agentkd.distillation.service import build
from agentkd.executors.executor import Executor
from agentkd.report.film import Take
from agentkd.report.film_child import film_apart
from agentkd.runtime import InlineDistiller, InlinePlanner

OUT = Path("runs/change")
ENV, PLANNER = "envs.changing:agentkd/ChangingPendulum-v0", "policies/pendulum"
CHANGED = f"{ENV}{json.dumps({'gain': -1.0})}"
HZ, LATE, SEED = 20, 4, 30_000
BEFORE, AFTER, EACH = 8, 16, 4
HOW: dict[str, Any] = {"labels": 20_000, "seed": 0}
ARMS = {
    "executor": "executor as it was",
    "planner": f"planner alone, {LATE} ticks late",
    "runtime": "with agentkd, learning",
}


@dataclass
class Life:
    """What an arm went through, episode by episode, and its last episode tick by tick."""

    returns: list[float] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    who: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)


def agent_of(arm: str, executor: Executor, file: Path) -> Agent:
    """Make an agent of an arm."""
    ports: dict[str, Any] = {"mode": arm}
    if arm != "executor":
        planner = load_planner(PLANNER, environments.look_at(ENV)[0])
        ports["planner"] = InlinePlanner(planner.policy, latency_ticks=LATE)
    if arm == "runtime":
        learner = build(executor=str(file))
        ports["distiller"] = InlineDistiller(learner, steps_per_tick=2, swap_every=25)
    return Agent(executor, **ports)


def live(arm: str, executor: Executor, file: Path) -> Life:
    """Live some episodes in the world as it was, and then in the changed one."""
    life, worlds = Life(), [environments.make(each) for each in (ENV, CHANGED)]
    with agent_of(arm, executor, file) as agent:
        for episode in range(BEFORE + AFTER):
            env = worlds[episode >= BEFORE]
            life.actions, life.who, life.rewards, life.ends = [], [], [], []
            obs, _ = env.reset(seed=SEED + episode)
            agent.reset()
            over = False
            while not over:
                decision = agent.decide(obs)
                obs, reward, *ended, _ = env.step(decision.action)
                over = any(ended)
                life.actions.append(decision.action)
                life.who.append(decision.source)
                life.rewards.append(float(reward))
                life.ends.append((bool(ended[0]), bool(ended[1])))
            life.returns.append(sum(life.rewards))
    for env in worlds:
        env.close()
    return life


def show() -> Path:
    """Live with each arm, tell what happened, and film the last episode; return the film's file."""
    made = distill(ENV, PLANNER, "mlp:32,32", executor_sees="0:3", episodes=0, **HOW)
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "before.akd"
    made.save(file)
    lives = {arm: live(arm, made, file) for arm in ARMS}
    sys.stdout.write(f"mean returns of {EACH} episodes; after {BEFORE} episodes the motor turns\n")
    for arm, life in lives.items():
        parts = [life.returns[at : at + EACH] for at in range(0, BEFORE + AFTER, EACH)]
        means = "".join(f"{sum(each) / EACH:8,.0f}" for each in parts)
        sys.stdout.write(f"{ARMS[arm]:<28}{means}\n")
    takes = [
        Take(ARMS[arm], each.actions, each.who, each.returns[-1], each.rewards, each.ends)
        for arm, each in lives.items()
    ]
    film = film_apart(CHANGED, SEED + BEFORE + AFTER - 1, takes, HZ, "the last one")
    moving = OUT / "change.webp"
    moving.write_bytes(film.moving)
    return moving


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"film      {show()}\n")
