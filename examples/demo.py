"""The whole idea in two minutes: `make demo`.

A planner knows the way through a maze, and answers half a second late. Carts roam there. Alone the
planner runs into them, for what it saw is over. A tiny executor is in time and sees what is beside
it, but does not know the way. Together they arrive. Then a world changes, and what learns recovers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from agentkd.cli.run import Options, run
from agentkd.deploy.bundle import write_bundle
from examples.change import show
from policies.maze.train import train

OUT = Path("runs/demo")
ENV, PLANNER = "envs.maze:agentkd/Maze-v0", "policies.maze:planner"
HZ, LATENCY, EPISODES = 20, "10", 30
HOW = {"labels": 160_000, "steps": 20_000, "seed": 0}
INTRODUCTION = f"""\
A maze with carts in it. The planner knows the way, but answers {LATENCY} ticks late at {HZ} Hz.
1. learning   an executor that begins with nothing learns from {HOW["labels"]:,} of the planner's
              answers; it sees the walls and carts beside it, not the maze
2. planner    the planner alone: acts when its answer arrives, and holds in between
3. executor   what was learnt, alone: it does not know the way
4. runtime    the executor acts at every tick, and the late answers tell it the way
5. change     another world, a pendulum, is wired the other way round: who learns recovers
"""


def main() -> int:
    """Learn, then compare the three arms on the same mazes, none of which was learnt on."""
    sys.stdout.write(INTRODUCTION + "\n")
    sys.stdout.flush()
    torch.set_num_threads(1)
    began = time.monotonic()

    def told(share: float, what: str) -> None:
        done = f"\r learning {100 * share:4.0f}%  {what:<28}"
        sys.stdout.write(done if sys.stdout.isatty() else "")
        sys.stdout.flush()

    executor = train("mlp:128,128", **HOW, told=told)
    took = time.monotonic() - began
    sys.stdout.write(f"\r learning  {executor.parameters:,} parameters in {took:.0f} s\n\n")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    file = OUT.with_name("demo-learnt.akd")
    write_bundle(file, executor, {"env": ENV, "planner": PLANNER, **HOW})
    code = run(
        Options(
            env=ENV,
            planner=(PLANNER,),
            executor=str(file),
            clock="virtual",
            hz=HZ,
            planner_latency=LATENCY,
            episodes=EPISODES,
            out=OUT,
            overwrite=True,
        )
    )
    if code == 0:
        sys.stdout.write("\n change     a pendulum whose motor turns while it lives\n")
        sys.stdout.flush()
        sys.stdout.write(f"film      {show()}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
