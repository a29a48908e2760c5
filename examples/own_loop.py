"""A robot with a loop of its own: observe, ask the agent, move, 25 times a second.

The executor starts with random weights. It acts from the first tick and learns from each answer of
the planner, which runs in a process of its own. Watch the robot fall less and less often:

    python examples/own_loop.py --seconds 30
"""

from __future__ import annotations

import argparse
from threading import Timer

from robot import Robot

from agentkd import Agent, env_spec


def main() -> None:
    """Let the robot learn to stand while it stands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds

    robot = Robot()
    timer = Timer(seconds, lambda: agent.stop())  # noqa: PLW0108 (the agent comes later)
    timer.daemon = True
    timer.start()
    agent = Agent("mlp:32,32", env_spec(robot), planner="robot:Regulator", learn=True, period=0.04)
    with agent:
        obs, _ = robot.reset()
        while agent.tick():  # the agent's clock; or call act(obs) on your own
            obs, *_ = robot.step(agent.act(obs))

    counts = agent.metrics()
    print(f"executor version {counts['executor_version']}")
    print(f"learnt from {counts['labels_total']} labels")
    print(f"a decision took {counts['decision_latency_us']['p50']:.0f} us")


if __name__ == "__main__":
    main()
