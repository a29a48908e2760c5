"""`agentkd freeze`: a policy as an executor file, without distilling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from agentkd.cli.options import Loading, access
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError, LoadError

_TOLERANCE = 1e-3
"""Of the action, in its own units: SB3 normalises in double precision."""


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Convert a policy into an executor file, without training.

    A multilayer perceptron of Stable-Baselines3, or of a checkpoint of rsl_rl, skrl, rl_games,
    CleanRL or RLtools; of a checkpoint also a GRU or LSTM. Nothing is trained: the file does what
    the policy does deterministically. It is inspected, exported and run like any other.
    """

    save: tyro.conf.Positional[str]
    """An SB3 save, a checkpoint, a folder with one, or module:attribute that names a model."""
    out: Path | None = None
    """The file to write; by default the save's name, ending in .akd."""
    overwrite: bool = False
    """Replace a file that is there."""
    env: str | None = None
    """The environment it is for; left out, the spaces that it was trained with."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    contract: str | None = None
    """The file that tells what the robot gives and takes, such as IO_descriptors.yaml; by default
    the one in the run's folder. "off" for none."""


def run(options: Options) -> int:
    """Convert the policy, compare both, and write the file."""
    from agentkd.cli.contracts import take_along
    from agentkd.deploy.bundle import write_bundle
    from agentkd.deploy.vectors import probes
    from agentkd.distillation.sb3.from_sb3 import difference, from_sb3
    from agentkd.environments import look_at
    from agentkd.planners import load_planner
    from agentkd.planners.files import freeze
    from agentkd.report.write import made_from

    source = Path(options.save)
    beside = Path(f"{source.name.replace(':', '.')}.akd")
    out = options.out or (source.with_suffix(".akd") if source.suffix == ".zip" else beside)
    if out.suffix != ".akd":
        raise ConfigError(f"{out} does not end in .akd, by which it would be known.")
    if out.exists() and not options.overwrite:
        raise ConfigError(f"{out} is there. Give --overwrite to replace it, or --out.")
    spec = look_at(options.env)[0] if options.env else None
    planner = load_planner(options.save, spec, **access(options.saves))
    if freeze.is_checkpoint(planner):
        executor = freeze.from_checkpoint(planner)
        apart = freeze.difference(executor, planner, probes(executor, 1024))
    else:
        executor = from_sb3(planner, spec)
        apart = difference(executor, planner, probes(executor, 1024))
    if not apart <= _TOLERANCE:
        raise LoadError(f"The executor differs from {planner.name} by {apart:.2g}. Distil it.")
    told = take_along(options.contract, [options.save], options.saves, executor.spec)
    facts = options.env or "", [options.save], planner.name, planner.digest
    write_bundle(out, executor, made_from(*facts), contract=told)
    console = Console()
    console.print(
        f"{planner.name}: {executor.architecture}, {executor.parameters:,} parameters, "
        f"largest difference over 1,024 observations {apart:.1g}"
    )
    for name, words in (("executor", str(out)), ("next:", f"agentkd inspect {out}")):
        console.print(f"{name:<10}{words}", soft_wrap=True)
    return 0
