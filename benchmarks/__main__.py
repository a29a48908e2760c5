"""`python -m benchmarks NAME [options]`: one command for all benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agentkd.cli.main import Program
from agentkd.cli.main import main as run

_NAME = "python -m benchmarks"
BENCHMARKS = {
    "retention": (
        "what distillation keeps, over many planners and seeds",
        "--planners DIR --seconds 60 --seeds 3",
    ),
    "libraries": (
        "time to a target, against DAgger, BC and PPD's methods",
        "CartPole-v1 --planner DIR",
    ),
    "mechanisms": (
        "what each mechanism of distillation changes, with and without",
        "--planners DIR --mechanisms soft auto",
    ),
    "int8": (
        "what executors keep of their return in integers",
        "--planners DIR --episodes 40 LunarLander=100",
    ),
    "delay": ("return under a planner's delay: async, sequential, runtime", "--planners DIR"),
    "latency": (
        "one decision in every form, beside other runtimes and SB3, and its energy",
        "FILE --planner DIR",
    ),
    "late_planner": (
        "planner alone, executor alone, runtime, over the planner's latency",
        "--env ENV --planner REF --executor FILE",
    ),
    "thinking": (
        "planner alone, executor alone and both, in worlds where both matter",
        "--worlds maze freeway-hard --out runs/thinking",
    ),
    "corrects": (
        "late rows that chance makes wrong: executors that correct them, and that remember",
        "--planners DIR --seeds 0 1",
    ),
    "late_rows": ("a robot whose planner is four ticks late, on both clocks", "--seeds 10"),
    "practice": (
        "practice in a planner's model: executor, guided planner, who is taught",
        "--out runs/practice --seeds 10 11",
    ),
    "live_learning": ("whether live learning harms a good executor", "--planners DIR"),
    "falls": ("how often a robot falls while learnt executors are swapped in", "--planners DIR"),
    "change": (
        "a world that changes while an executor acts, and changes back",
        "--planners DIR --worlds pendulum-reversed",
    ),
    "federated": (
        "devices of unlike bodies that distil one executor: arms, worst device, bytes",
        "--planners DIR --robots HalfCheetah-v5 --seeds 2",
    ),
    "faults": ("a planner killed, hung, slowed, corrupted in the middle of a run", "--hz 1000"),
    "seams": ("where chunks of actions meet: what is skipped, how far it jumps", "--blend 16"),
    "speed": (
        "gradient steps and labels, beside plain loops and another commit",
        "--planner DIR --env ENV --against COMMIT",
    ),
    "crowds": (
        "labels a second from one environment to thousands stepped at once",
        "--environment pendulums",
    ),
    "fleet": ("from a push until all devices have confirmed it", "--devices 10 100 1000"),
    "standing": (
        "late answers in the place of an executor that has hardly learnt",
        "--planners PLANNERS --worlds pendulum",
    ),
    "hard": ("which of the observations that devices met are worth a label", "--seeds 5"),
    "updates": ("a robot updated while it acts: its decisions; a device's programs", "--hz 50 500"),
    "ticks": ("a clock under load: ours, rtgym's, openpi-client's", "--hz 1000 --seconds 30"),
}
"""What each benchmark measures, and options to begin with."""
_TOOLS = {
    "pythons": (
        "the Pythons that other libraries need, for libraries, latency and ticks",
        "imitation loops",
    )
}
PROGRAM = Program(
    _NAME,
    "Studies of agentkd. They take minutes to hours, and lie outside the wheel.",
    {
        name: (f"benchmarks.{name}", does, f"{_NAME} {name} {example}")
        for name, (does, example) in {**BENCHMARKS, **_TOOLS}.items()
    },
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a benchmark; see `agentkd.cli.main.main`."""
    return run(words, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
