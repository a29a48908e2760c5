"""From the words on the command line to a command."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import getdoc
from types import TracebackType
from typing import Any

from agentkd.cli.output import lasting_output
from agentkd.cli.signals import like_ctrl_c
from agentkd.errors import AgentkdError, StatisticsError, did_you_mean
from agentkd.extras import needing
from agentkd.printable import printable


@dataclass(frozen=True, slots=True)
class Program:
    """A program with commands.

    Attributes:
        name: What is typed before a command.
        about: What it is for, in a sentence.
        commands: By name, the module with `Options` and `run`, what the command does, and an
            example.
    """

    name: str
    about: str
    commands: Mapping[str, tuple[str, str, str]]


_COMMANDS = {
    name: (f"agentkd.cli.{name}", does, f"agentkd {name} {example}")
    for name, does, example in re.findall(
        r"^(\w+) +(.+)\n +(.+)$",
        """
distill    distil a planner into a tiny executor, and measure what it kept
           LunarLander-v3 --planner policies/lunarlander --seconds 30
record     write a planner's labels down, to distil from later
           LunarLander-v3 --planner policies/lunarlander --labels 50000
reinforce  an executor that learns from planner and reward together
           LunarLander-v3 --planner policies/lunarlander
practise   an executor that learns by trying in the model that a planner searches with
           HalfCheetah-v5 --planner policies.mpc:planner
run        live with a planner that is late: planner alone, executor alone, both
           LunarLander-v3 --planner policies/lunarlander --clock virtual
eval       planners, executors and earlier reports side by side
           LunarLander-v3 policies/lunarlander runs/demo/executor.akd
bench      a suite of environments, planners, executors, methods, latencies and seeds
           quick --jobs 2
report     runs of suites side by side, seed by seed
           runs/bench-quick runs/mine
serve      a planner for agents on other machines
           policies/lunarlander --env LunarLander-v3
log        a decision log: what was decided and why; replay the run
           runs/demo/decisions-runtime.akdlog --replay
latency    how long one decision takes, planner beside executor
           runs/demo/executor.akd
freeze     a policy as an executor file, as it is
           runs/ppo/best_model.zip
pull       a planner of the Hugging Face Hub, by commit, with the SHA-256 of each file
           sb3/ppo-CartPole-v1
push       files to the Hugging Face Hub, listed first, in one commit
           policies/lunarlander OWNER/NAME --dry-run
card       a model card of measured figures, as the Hugging Face Hub reads it
           policies/lunarlander --report runs/eval/report.json
inspect    what an executor file holds
           runs/demo/executor.akd
verify     an executor file on every backend, against its golden vectors
           runs/demo/executor.akd
export     an executor as C99, ONNX, WebAssembly, or data for a fixed C runtime
           runs/demo/executor.akd -o executor.c
footprint  what an executor takes of a microcontroller: flash, RAM, stack, instructions
           runs/demo/executor.akd --int8
keys       keys, and signatures of executor files
           sign repository runs/demo/executor.akd
device     the gate through which an executor gets onto a device, and back
           apply executor.akd --folder device --trust root.json
fleet      signed executors for many devices, in waves that a bad one stops
           push fleet executor.akd --waves 5,25,100
""",
        re.MULTILINE,
    )
}
AGENTKD = Program(
    "agentkd", "A slow planner thinks; a tiny executor, distilled from it, acts in time.", _COMMANDS
)
_DEBUG = "AGENTKD_DEBUG"


def overview(program: Program = AGENTKD) -> str:
    """Return what `--help` says without a command."""
    lines = [
        program.about,
        "",
        f"usage: {program.name} COMMAND …",
        f"       {program.name} COMMAND --help explains each option",
        "",
    ]
    for name, (_, does, example) in program.commands.items():
        lines += [f"  {name:<15}{does}", f"{'':17}{example}"]
    lines += ["", "  --version, --help", f"  {_DEBUG}=1 shows where an error came from"]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None, program: Program = AGENTKD) -> int:
    """Run the command that `words` name; by default what follows the program's name.

    Returns:
        0 if it did what it should, 1 if what it ran failed, 2 if it was asked for something that
        cannot be, 128 + n if signal n ended it: 130 after Ctrl-C, 143 after SIGTERM, 129 after
        SIGHUP.
    """
    if words is None:
        sys.excepthook = _show_traceback
    with lasting_output() as output, like_ctrl_c() as exit_status:
        status = exit_status(_main(words, program))
        output.flush()
        if output.error is not None:
            sys.stderr.write(f"Standard output: {output.error.strerror}\n")
            return status or 1
        return status


def _main(words: Sequence[str] | None, program: Program) -> int:
    asked = list(sys.argv[1:] if words is None else words)
    if not asked or asked[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview(program))
        return 0
    if asked[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"agentkd {version('agentkd')}\n")
        return 0
    name = asked.pop(0)
    if name not in program.commands:
        sys.stderr.write(f"No command {name!r}.{did_you_mean(name, program.commands)}\n")
        return 2
    try:
        return _run(name, asked, program)
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


def parse(name: str, words: Sequence[str], program: Program = AGENTKD) -> Any:
    """Read a command's options; a wrong one ends the program with status 2."""
    import tyro

    from agentkd.cli.options import own_first

    home, _, example = program.commands[name]
    kind = import_module(home).Options
    own_first(kind)
    about = getdoc(kind) or ""
    if "\nExample" not in about:
        about = f"{about}\n\nExample: {example}"
    return tyro.cli(kind, args=words, prog=f"{program.name} {name}", description=about)


def _run(name: str, words: Sequence[str], program: Program) -> int:
    with needing(f"{program.name} {name}"):
        from agentkd.cli.first_look import first_look

        command = import_module(program.commands[name][0])
        options = _with_arguments(parse(name, words, program))
        first_look(name, options)
        with warnings.catch_warnings():
            if hasattr(options, "saves"):
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
