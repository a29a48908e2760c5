"""The planners that a benchmark goes through, and executors distilled from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentkd import environments
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.distillation.loop import Distilled, run_distillation
from agentkd.distillation.run import Budget
from agentkd.errors import ConfigError, LoadError, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.planners import Planner, load_planner
from agentkd.refs import is_reference
from agentkd.spec import Spec
from agentkd.types import Policy, RecurrentPolicy
from benchmarks.runner import Place

_ENV_MARK = "-"


@dataclass(frozen=True, kw_only=True)
class Planners(Place):
    """The planners to go through, and where the results go."""

    planners: Path | None = None
    """A folder of folders named ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5."""
    pairs: tuple[str, ...] = ()
    """Besides or instead, environments and planners as ENV=PLANNER."""
    only: tuple[str, ...] = ()
    """Names of some of these planners; all of them, if none is given."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""

    def cases(self) -> tuple[Case, ...]:
        """Find all planners, also those that `only` leaves out.

        Raises:
            ConfigError: If there are none, or `only` names an unknown one.
        """
        found = cases_of(self.pairs)
        if self.planners is not None:
            found = (*find_cases(self.planners), *found)
        found = tuple(
            replace(case, env=environments.with_arguments(case.env, self.env_args))
            for case in found
        )
        if not found:
            raise ConfigError("No planner: give --planners FOLDER or --pairs ENV=PLANNER.")
        names = [case.name for case in found]
        for name in self.only:
            if name not in names:
                raise ConfigError(f"No planner {name!r}.{did_you_mean(name, names)}")
        return found

    def chosen(self) -> tuple[Case, ...]:
        """Find the planners to go through.

        Raises:
            ConfigError: As `cases`.
        """
        return tuple(c for c in self.cases() if not self.only or c.name in self.only)


CHOOSING = ("planners", "pairs", "only")
"""The options above that choose planners."""


@dataclass(frozen=True, slots=True)
class Case:
    """A planner and where it acts.

    Attributes:
        name: Such as "sac-Swimmer-v5".
        env: The environment's name.
        planner: The planner's reference.
    """

    name: str
    env: str
    planner: str

    def load(self) -> tuple[Planner, Spec]:
        """Load the planner; return it with its environment's spec."""
        spec, _ = environments.look_at(self.env)
        return load_planner(self.planner, spec), spec

    def key(self) -> dict[str, str]:
        """Return it as part of a work's key, with the digest of its files."""
        digest = self.load()[0].digest
        return {"planner": self.name, "env": self.env, "ref": self.planner, "digest": digest}


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Find planners in folders named ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5.

    A planner.akd tells its environment itself, whatever its folder is called.

    Raises:
        ConfigError: If there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder.")
    found = (_case(each) for each in sorted(folder.iterdir()) if each.is_dir())
    cases = [each for each in found if each is not None]
    if not cases:
        raise ConfigError(
            f"{folder} holds no planners: folders named ALGORITHM-ENVIRONMENT, such as "
            "sac-Swimmer-v5, with an SB3 save in each, or folders with a planner.akd."
        )
    return tuple(cases)


def _case(folder: Path) -> Case | None:
    if _ENV_MARK in folder.name and any(folder.glob("*.zip")):
        return Case(folder.name, folder.name.partition(_ENV_MARK)[2], str(folder))
    file = folder / "planner.akd"
    if not file.is_file():
        return None
    try:
        provenance = read_bundle(file).manifest.get("provenance", {})
    except LoadError:
        # Whoever asks for it by its name is told what is wrong with it.
        provenance = {}
    env = provenance.get("env", "") or folder.name.partition(_ENV_MARK)[2]
    env = environments.named_by_file(str(env))
    return Case(folder.name, env, str(folder)) if env else None


def cases_of(pairs: Sequence[str]) -> tuple[Case, ...]:
    """Read cases from texts such as "LunarLander-v3=policies/lunarlander".

    Raises:
        ConfigError: If a text is not such a pair.
    """
    cases = []
    for text in pairs:
        env, _, planner = text.partition("=")
        if not env or not planner:
            raise ConfigError(
                f"{text!r} is not a pair: ENV=PLANNER, such as LunarLander-v3=policies/lunarlander."
            )
        own = planner.rpartition(":")[2]
        if not is_reference(planner):
            path = Path(planner)
            own = path.parent.name if path.suffix and path.parent.name else path.stem
        place = environments.split(env)[0].rpartition(":")[2].rpartition("/")[2]
        cases.append(Case(f"{own}{_ENV_MARK}{place}", env, planner))
    return tuple(cases)


def returns_of(
    env: str, policy: Policy | RecurrentPolicy, *, episodes: int, seed: int
) -> dict[str, Any]:
    """Measure a policy's returns, as a work's result."""
    return {"returns": evaluate(env, policy, episodes=episodes, seed=seed).returns}


def random_returns(env: str, *, episodes: int, seed: int) -> dict[str, Any]:
    """Measure random actions on the same seeds, as a work's result."""
    return {"returns": evaluate_random(env, episodes=episodes, seed=seed).returns}


def distilled(case: Case, executor: str, budget: Budget, **options: Any) -> Distilled:
    """Distil a planner.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
    """
    result = run_distillation(
        case.env,
        case.planner,
        executor,
        seconds=budget.seconds,
        labels=budget.labels,
        steps_per_label=budget.steps_per_label,
        episodes=0,
        **options,
    )
    if result.interrupted and not result.fault:
        raise KeyboardInterrupt
    return result


def kept_executor(case: Case, architecture: str, budget: Budget, out: Path | None) -> Executor:
    """Read the executor in OUT/rows; distil it with seed 0 if it is missing."""
    if out is None:
        return distilled(case, architecture, budget).executor
    file = executor_file(case, architecture, budget, out)
    return read_bundle(file).executor


def executor_file(case: Case, architecture: str, budget: Budget, out: Path) -> Path:
    """Give the file of the executor in OUT/rows; distil it if it is missing."""
    given: Mapping[str, Any] = {"s": budget.seconds, "labels": budget.labels}
    until = " ".join(f"{v:g} {k}" for k, v in given.items() if v is not None)
    file = out / "rows" / f"{case.name} {architecture} {until}.akd"
    if not file.exists():
        result = distilled(case, architecture, budget)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bundle(file, result.executor, {"env": case.env}, labels=result.kept)
    return file
