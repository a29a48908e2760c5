"""The options of `agentkd distill`, and what they say about planner and learning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import tyro

from agentkd.cli.options import Learning
from agentkd.errors import ConfigError, check_range


@dataclass(frozen=True, kw_only=True)
class Options(Learning):
    """Distil a planner into a tiny executor, and measure what it kept."""

    folder: ClassVar[str] = "distill"
    env: tyro.conf.Positional[str] = ""
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one; with --data it may be
    left out."""
    planner: tuple[str, ...] = ()
    """An SB3 save or its folder, an .akd file, or module:attribute; several are an ensemble."""
    data: str | None = None
    """Labels to learn from instead: a folder of `agentkd record` or of Minari, or minari:ID. No
    environment is stepped, but to measure."""
    executor: str = "mlp:64,64"
    """The executor's architecture: widths, maybe an activation (mlp:64,64,silu). Or "auto": the
    smallest that keeps --target within the limits."""
    executor_sees: str | None = None
    """What the executor sees of the observation: keys (joints,imu), places (0:2,4:5); stack:4 for
    the last four, delay:2 for that of two ticks ago and the actions since, actions:3 for those
    alone."""
    seconds: float | None = None
    """How long to distil, in seconds; 60 if --labels is not given either."""
    labels: int | None = None
    """How many labels to collect. Without --seconds the run repeats itself exactly."""
    steps: int | None = None
    """How many gradient steps, with --data, or with auto and --labels: instead of seconds, so that
    the run repeats itself exactly."""
    seed: int = 0
    """For the executor's weights, the environments and every draw."""
    resume: bool = False
    """Go on from what an earlier run left there; --seconds is the whole time."""
    terms: str = "match"
    """What is minimised: a sum of terms with factors and options, such as "soft:tau=auto + 0.3
    hard" (docs/reference/terms.md)."""
    temperature: str | None = None
    """Of soft labels: a number, or "auto"; short for --terms soft:tau=…"""
    batch: int = 512
    """Labels in one gradient step."""
    learning_rate: float = 3e-3
    """Of Adam; it falls along a cosine."""
    capacity: int = 1_000_000
    """The most labels held in memory."""
    collectors: int | None = None
    """With --seconds: processes that collect labels; by default one fewer than there are
    processors, at most 4."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a torch planner answers; auto takes a GPU for a planner that is large for so many
    environments."""
    planner_share: float = 0.1
    """What is left in the end of the planner's share of the driving."""
    halving: int = 10_000
    """Labels after which the planner's share of the driving has halved."""
    steps_per_label: float | None = None
    """Gradient steps for each label, without --seconds: how often labels are used again; by default
    1/8, or more where there are few."""
    kept_bytes: int = 1_000_000
    """Bytes of labels that the executor file keeps, for learning on live; 0 for none. An executor
    with a memory keeps none."""
    names: tuple[str, ...] = ()
    """What the numbers are called, for the executor file: obs=x,y,… action=left,…"""
    units: tuple[str, ...] = ()
    """Their units, likewise: obs=m,m,rad/s; left empty for a number without one."""
    period: float | None = None
    """Seconds between two decisions, for the executor file; by default the contract's, or else the
    environment's own."""
    contract: str | None = None
    """The file that tells what the robot gives and takes, such as IO_descriptors.yaml; by default
    the one in the planner's run folder. "off" for none."""
    target: float = 0.97
    """With auto: the retention to keep."""
    candidates: tuple[str, ...] = ()
    """With auto: architectures to choose from; linear to mlp:256,256 by default."""
    most_parameters: int | None = None
    """With auto: the most parameters."""
    most_bytes: int | None = None
    """With auto: the most bytes that its numbers take."""
    most_us: float | None = None
    """With auto: the longest median decision on this machine, in µs."""
    prune: bool = True
    """With auto: try to remove hidden units of the smallest that keeps the target."""
    int8: bool = False
    """With auto: fit the smallest that keeps the target to integers, too, for a device that has no
    floats: agentkd export FILE --to c-int8."""


_PAST = re.compile(r"\b(stack|delay|actions):\d")
_AUTO = ("target", "candidates", "most_parameters", "most_bytes", "most_us", "prune", "int8")
"""Options about a search."""
_LIVE = ("halving", "steps_per_label")
"""Options about collecting labels."""


def check(options: Options) -> None:
    """Check the options that need neither planner nor environment.

    Raises:
        ConfigError: If one is invalid, or would be ignored.
    """
    check_range("episodes", options.episodes, least=1)
    hint = "0 keeps no labels, 1000000 some thousands."
    check_range("--kept-bytes", options.kept_bytes, least=0, hint=hint)
    if not options.env and options.data is None:
        raise ConfigError("Name an environment.")
    if options.executor == "auto":
        if _PAST.search(options.executor_sees or ""):
            raise ConfigError(
                f"--executor-sees {options.executor_sees}: the past is not for --executor auto. "
                "Name an executor, such as mlp:64,64."
            )
        _refuse(options, ("steps_per_label",), "--executor auto")
        return
    _refuse(options, _AUTO, "one architecture: give --executor auto")
    if options.data is not None:
        _refuse(options, _LIVE, "--data: its labels are there already")
        if options.labels is not None:
            raise ConfigError("--labels is for a planner: the dataset has its own.")
    elif options.steps is not None:
        raise ConfigError("--steps is for --data and for --executor auto.")
    timed = options.seconds is not None or options.labels is None
    if timed and options.steps_per_label is not None:
        raise ConfigError(
            "--steps-per-label is for runs that are ended by --labels alone: with "
            "--seconds, learning takes as many steps as there is time for."
        )


def _refuse(options: Options, names: Sequence[str], where: str) -> None:
    """Refuse options that would be ignored."""
    usual = Options()
    for name in names:
        if getattr(options, name) != getattr(usual, name):
            raise ConfigError(f"--{name.replace('_', '-')} is not for {where}.")


def collection(options: Options) -> Any:
    """Return what the options say about driving."""
    from agentkd.distillation.sources import CollectionOptions

    return CollectionOptions(
        environments=options.environments,
        halving=options.halving,
        least_share=options.planner_share,
        collectors=options.collectors,
        device=options.device,
    )


def learning(options: Options) -> Any:
    """Return what the options say about learning.

    Raises:
        ConfigError: If an option is invalid, or `--temperature` stands beside `--terms`.
    """
    from agentkd.distillation.distiller import DistillerOptions

    terms = options.terms
    if options.temperature is not None:
        if terms != "match":
            raise ConfigError(
                f"--temperature {options.temperature} is short for --terms "
                f"soft:tau={options.temperature}; write it into --terms {terms!r}."
            )
        terms = f"soft:tau={options.temperature}"
    return DistillerOptions(
        batch=options.batch,
        learning_rate=options.learning_rate,
        capacity=options.capacity,
        seed=options.seed,
        terms=terms,
    )
