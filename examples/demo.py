"""The whole idea in a minute or two: `make demo`.

A planner that lands well answers eight ticks late at 50 Hz, as a large model would. Alone, it
crashes. An executor that begins with nothing learns from its late answers
while it flies, and then lands on time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agentkd.cli.run import Options, run

LATENCY = "8"
INTRODUCTION = f"""\
A planner that lands well, but answers {LATENCY} ticks late at 50 Hz.
1. learning   an executor flies from the first tick, with nothing learnt, and learns
              from every late answer
2. planner    the planner alone: acts when its answer arrives, and holds in between
3. executor   what was learnt, alone
4. runtime    the planner where it is in time, the executor where it is not
"""


def main() -> int:
    """Learn live, then compare the three arms on the same thirty seeds."""
    sys.stdout.write(INTRODUCTION + "\n")
    sys.stdout.flush()
    return run(
        Options(
            env="LunarLander-v3",
            planner=("policies/lunarlander",),
            executor="mlp:64,64",
            clock="virtual",
            planner_latency=LATENCY,
            learn_ticks=30_000,
            episodes=30,
            out=Path("runs/demo"),
            overwrite=True,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
