"""From the words on the command line to a command."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from types import TracebackType
from typing import Any

from agentkd.cli.output import lasting_output
from agentkd.cli.signals import like_ctrl_c
from agentkd.errors import AgentkdError, StatisticsError, did_you_mean
from agentkd.extras import needing
from agentkd.printable import printable

_COMMANDS = {
    "distill": (
        "agentkd.cli.distill",
        "distil a planner into a tiny executor, and measure what it kept",
        "agentkd distill LunarLander-v3 --planner policies/lunarlander --seconds 30",
    ),
    "record": (
        "agentkd.cli.record",
        "write a planner's labels down, to distil from later",
        "agentkd record LunarLander-v3 --planner policies/lunarlander --labels 50000",
    ),
    "reinforce": (
        "agentkd.cli.reinforce",
        "an executor that learns from planner and reward together",
        "agentkd reinforce LunarLander-v3 --planner policies/lunarlander",
    ),
    "run": (
        "agentkd.cli.run",
        "live with a planner that is late: planner alone, executor alone, both",
        "agentkd run LunarLander-v3 --planner policies/lunarlander --clock virtual",
    ),
    "eval": (
        "agentkd.cli.eval",
        "planners, executors and earlier reports side by side",
        "agentkd eval LunarLander-v3 policies/lunarlander runs/demo/executor.akd",
    ),
    "serve": (
        "agentkd.cli.serve",
        "a planner for agents on other machines",
        "agentkd serve policies/lunarlander --env LunarLander-v3",
    ),
    "log": (
        "agentkd.cli.log",
        "a decision log: what was decided and why; replay the run",
        "agentkd log runs/demo/decisions-runtime.akdlog --replay",
    ),
    "bench latency": (
        "agentkd.cli.bench_latency",
        "how long one decision takes, in every form",
        "agentkd bench latency runs/demo/executor.akd",
    ),
    "bench ticks": (
        "agentkd.cli.bench_ticks",
        "whether a clock is kept while planner and distiller work",
        "agentkd bench ticks --hz 1000 --seconds 30",
    ),
    "bench realtime delay": (
        "agentkd.cli.bench_realtime_delay",
        "what a planner's delay costs: async, sequential, runtime",
        "agentkd bench realtime delay --planners DIR",
    ),
    "bench realtime table": (
        "agentkd.cli.bench_realtime_table",
        "planner alone, executor alone, runtime, over the planner's latency",
        "agentkd bench realtime table --env ENV --planner REF --executor FILE",
    ),
    "bench realtime faults": (
        "agentkd.cli.bench_realtime_faults",
        "a planner killed, hung, slowed, corrupted in the middle of a run",
        "agentkd bench realtime faults --hz 1000",
    ),
    "bench realtime seams": (
        "agentkd.cli.bench_realtime_seams",
        "where chunks of actions meet: what is skipped, how far it jumps",
        "agentkd bench realtime seams --blend 16",
    ),
    "bench realtime ticks": (
        "agentkd.cli.bench_realtime_ticks",
        "a clock under load: ours, rtgym's, openpi-client's",
        "agentkd bench realtime ticks --other-python others/bin/python",
    ),
    "bench distill": (
        "agentkd.cli.bench_distill",
        "what distillation keeps, over many planners and seeds",
        "agentkd bench distill --planners DIR --seconds 60 --seeds 3",
    ),
    "bench imitation": (
        "agentkd.cli.bench_imitation",
        "time to a target, against DAgger, BC and PPD's methods",
        "agentkd bench imitation CartPole-v1 --planner DIR --python OTHER/bin/python",
    ),
    "freeze": (
        "agentkd.cli.freeze",
        "an SB3 policy as an executor file, as it is",
        "agentkd freeze runs/ppo/best_model.zip",
    ),
    "bench mechanisms": (
        "agentkd.cli.bench_mechanisms",
        "what each mechanism of distillation changes, with and without",
        "agentkd bench mechanisms --planners DIR --mechanisms soft auto",
    ),
    "bench int8": (
        "agentkd.cli.bench_int8",
        "what executors keep of their return in integers",
        "agentkd bench int8 --planners DIR --episodes 40 LunarLander=100",
    ),
    "inspect": (
        "agentkd.cli.inspect",
        "what an executor file holds",
        "agentkd inspect runs/demo/executor.akd",
    ),
    "verify": (
        "agentkd.cli.verify",
        "an executor file on every backend, against its golden vectors",
        "agentkd verify runs/demo/executor.akd",
    ),
    "export": (
        "agentkd.cli.export",
        "an executor as C99, ONNX, or data for a fixed C runtime",
        "agentkd export runs/demo/executor.akd -o executor.c",
    ),
    "footprint": (
        "agentkd.cli.footprint",
        "what an executor takes of a microcontroller: flash, RAM, stack, instructions",
        "agentkd footprint runs/demo/executor.akd --int8",
    ),
}
_DEBUG = "AGENTKD_DEBUG"


def overview(family: str = "") -> str:
    """What `agentkd --help` says; of a family of commands, what its members do."""
    lines = [
        "A slow planner thinks; a tiny executor, distilled from it, acts in time.",
        "",
        "usage: agentkd COMMAND …      agentkd COMMAND --help explains each option",
        "",
    ]
    for name, (_, does, example) in _COMMANDS.items():
        if name.startswith(family):
            lines += [f"  {name:<22}{does}", f"{'':24}{example}"]
    lines += ["", "  --version, --help", f"  {_DEBUG}=1 shows where an error came from"]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        words: What follows "agentkd"; by default this process's own.

    Returns:
        0 if it did what it should, 1 if what it ran failed, 2 if it was asked for something that
        cannot be, 128 + n if signal n ended it: 130 after Ctrl-C, 143 after SIGTERM, 129 after
        SIGHUP.
    """
    if words is None:
        sys.excepthook = _show_traceback
    with lasting_output() as output, like_ctrl_c() as ending:
        status = ending.status(_main(words))
        output.flush()
        if output.error is not None:
            sys.stderr.write(f"Standard output: {output.error.strerror}\n")
            return status or 1
        return status


def _main(words: Sequence[str] | None) -> int:
    asked = list(sys.argv[1:] if words is None else words)
    if not asked or asked[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    if asked[0] == "--version":
        sys.stdout.write(f"agentkd {version('agentkd')}\n")
        return 0
    name = asked.pop(0)
    while any(known.startswith(f"{name} ") for known in _COMMANDS):
        if not asked or asked[0] in ("-h", "--help"):
            sys.stdout.write(overview(f"{name} "))
            return 0 if asked else 2
        name = f"{name} {asked.pop(0)}"
    if name not in _COMMANDS:
        sys.stderr.write(f"No command {name!r}.{did_you_mean(name, _COMMANDS)}\n")
        return 2
    try:
        return _run(name, asked)
    except (AgentkdError, OSError) as error:
        # What the system refuses names the path: too long, not allowed, a full disk.
        if os.environ.get(_DEBUG):
            raise
        _tell(error)
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _tell(error: Exception) -> None:
    try:
        from rich.text import Text

        from agentkd.cli.terminal import Console
    except ModuleNotFoundError:
        sys.stderr.write(f"error: {error}\n")
        return
    text = Text.assemble(("error: ", "bold red"), str(error))
    Console(stderr=True).print(text, soft_wrap=True)


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what nobody caught; it may quote a file or a peer."""
    import traceback

    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(printable(text, lines=True))


def _run(name: str, words: Sequence[str]) -> int:
    with needing(f"agentkd {name}"):
        import tyro

        from agentkd.cli.first_look import first_look

        home, _, _ = _COMMANDS[name]
        command = import_module(home)
        options = tyro.cli(command.Options, args=words, prog=f"agentkd {name}")
        options = _with_arguments(options)
        first_look(name, options)
        with warnings.catch_warnings():
            if hasattr(options, "vecnormalize"):
                warnings.simplefilter("error", StatisticsError)
            return int(command.run(options))


def _with_arguments(options: Any) -> Any:
    """Put --env-args into the environments' names, which carry them from here on."""
    words, env = getattr(options, "env_args", ()), getattr(options, "env", None)
    if not words or not hasattr(options, "env"):
        return options
    from agentkd.environments import with_arguments

    if isinstance(env, tuple):
        return replace(options, env=tuple(with_arguments(one, words) for one in env))
    return replace(options, env=with_arguments(env or "", words))
