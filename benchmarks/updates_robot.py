"""A robot's program that takes updates, for updates.py: it notes when it decided, and for how long.

python -m benchmarks.updates_robot FOLDER HZ TRIAL OUT, until SIGTERM
"""

from __future__ import annotations

import signal
import sys
from time import monotonic_ns
from typing import Any

import numpy as np

from agentkd.device import Device, Trial, TrialOptions
from agentkd.runtime.agent import Agent


def main(folder: str, hz: str, trial: str, out: str) -> None:
    """Act until SIGTERM; then write when each decision began and when it ended, in ns, (n, 2)."""
    device = Device(folder)
    options = TrialOptions(shadow=int(trial), acting=int(trial), agreement=0.0)
    random = np.random.default_rng(0)
    ended = False
    times: list[tuple[int, int]] = []

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    executor = device.executor()
    size = executor.spec.obs.size
    seen = random.standard_normal((256, size)).astype(np.float32)
    with Agent(executor, period=1 / float(hz)) as agent, Trial(device, agent, options) as watched:
        while agent.tick() and not ended:
            obs = seen[len(times) % len(seen)]
            began = monotonic_ns()
            action = agent.act(obs)
            times.append((began, monotonic_ns()))
            watched.tick(obs, action)
    np.save(out, np.array(times, np.int64))


if __name__ == "__main__":
    main(*sys.argv[1:])
