"""What is distilled: an environment and a planner, opened and checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

from agentkd import dists, environments
from agentkd.deploy.bundle import load
from agentkd.distillation.collector import Collector
from agentkd.distillation.dataset import Dataset
from agentkd.distillation.sources import CollectionOptions
from agentkd.environments import Environment
from agentkd.errors import AgentkdError, ConfigError, PlannerError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import Evaluation, evaluate, evaluate_random
from agentkd.measure.intervals import Interval, retention
from agentkd.planners import Planner, load_planner
from agentkd.planners.adapt import from_object
from agentkd.planners.device import on_device
from agentkd.planners.planner import one_row
from agentkd.planners.view import viewed
from agentkd.runtime.goals import Goals, conditioned, unconditioned
from agentkd.spec import Spec
from agentkd.types import Floats, Kind, Policy, RecurrentPolicy
from agentkd.views import EVERYTHING, Seeing, View, parse_view, see, whole

_MANY = 32


@dataclass(frozen=True, slots=True)
class Returns:
    """Returns of episodes on the same seeds, the first of which is `seed`.

    `random` are those of random actions; `executor` is () before it is measured.
    """

    planner: tuple[float, ...]
    random: tuple[float, ...]
    seed: int
    executor: tuple[float, ...] = ()

    @property
    def retention(self) -> Interval:
        """(G_executor − G_random) / (G_planner − G_random), with its 95 % interval."""
        return retention(self.executor, self.planner, self.random)


@final
@dataclass(frozen=True, slots=True)
class Task:
    """An environment and a planner that fit each other; `open_task` makes one.

    Attributes:
        env: The environment, by name or as a function that makes it.
        spec: Its spec.
        planner: The planner. That of a dataset is known by name and cannot be asked.
        kind: The kind of its answers.
        refs: References by which another process loads it; () where none can.
        access: How they are read: `load_planner`'s own options.
        data: Labels to learn from instead of asking the planner.
        copies: How many environments may be open at a time; 1 for a live one.
        sees: What new executors see of the observation.
    """

    env: Environment
    spec: Spec
    planner: Planner
    kind: Kind
    refs: tuple[str, ...] = ()
    access: Mapping[str, Any] = field(default_factory=dict)
    data: Dataset | None = None
    copies: int = _MANY
    sees: View = EVERYTHING

    @property
    def squashed(self) -> bool:
        """Whether an executor of bounded boxes should end in tanh, as its planner does.

        The box clips a Gaussian planner's mean, which often saturates it; tanh reaches a bound only
        in the limit.
        """
        return self.kind != "gaussian"

    def executor(
        self,
        executor: str | Path | Executor,
        seed: int = 0,
        name: str = "",
        goals: Goals | None = None,
    ) -> Executor:
        """Return a new executor of an architecture, or one that is there already.

        Args:
            executor: An architecture such as "mlp:64,64", or an executor or the path of its file,
                to go on from.
            seed: For new weights.
            name: The executor's name in messages.
            goals: What the goals look like that it follows.

        Raises:
            ConfigError: If it is for another environment.
        """
        if isinstance(executor, Path) or (isinstance(executor, str) and executor.endswith(".akd")):
            executor = load(executor, native=False)
        if isinstance(executor, str):
            how: Any = {"seed": seed, "squashed": self.squashed}
            if goals is not None:
                return initial(executor, conditioned(self.spec, goals, self.sees), **how)
            return initial(executor, self.spec, sees=self.sees, **how)
        if self.sees != EVERYTHING:
            raise ConfigError("executor_sees is for a new executor; this one has its own view.")
        hint = "Distil one for this environment."
        known = executor.spec if goals is None else unconditioned(executor.spec, goals)
        need_fit(known, self.spec, name or "The executor", hint)
        return executor

    @property
    def goals(self) -> Goals | None:
        """What the planner's goals look like, None where it gives none.

        Raises:
            ConfigError: If the planner's attribute `goals` is something else.
        """
        found = getattr(self.planner.policy, "goals", None)
        if not isinstance(found, Goals | None):
            raise ConfigError(
                f"The planner's goals are {found!r}; agentkd.runtime.Goals is needed."
            )
        return found

    def collector(
        self, options: CollectionOptions, seed: int, make: Callable[[], Any] | None = None
    ) -> Collector:
        """Return a collector; `make` makes its environments, where they are wrapped."""
        return Collector(
            make or (lambda: environments.make_many(self.env, options.environments)),
            on_device(self.planner.policy, options.device, options.environments, self.spec),
            self.spec,
            count=min(options.environments, self.copies),
            seed=seed,
            stretch=options.stretch,
        )

    def measure(
        self, policy: Policy | RecurrentPolicy | None, episodes: int, seed: int
    ) -> Evaluation:
        """Measure a policy, or random actions where it is None, over some episodes."""
        how: Any = {"episodes": episodes, "seed": seed, "copies": self.copies}
        if policy is None:
            return evaluate_random(self.env, **how)
        return evaluate(self.env, policy, spec=self.spec, **how)

    def references(self, episodes: int, seed: int) -> Returns:
        """Measure the planner and random actions."""
        best = self.measure(self.planner.policy, episodes, seed).returns
        return Returns(best, self.measure(None, episodes, seed).returns, seed)


def open_task(
    env: Any = None,
    planner: Any = None,
    *,
    data: Dataset | None = None,
    executor_sees: Seeing = None,
    **access: Any,
) -> Task:
    """Open an environment and a planner, and check that they fit.

    Args:
        env: The environment: a name as `agentkd.environments.make` takes it, a function that makes
            one, or a live `gymnasium.Env`, which is then stepped alone and left open. None, with
            `data`, if nothing is to be measured.
        planner: A reference, several (an ensemble), a `Planner`, or an object: a live SB3 model, a
            torch module, a function of observations. Or None, with `data`.
        data: Labels to learn from: a dataset of `open_dataset`.
        executor_sees: What new executors see of the observation, as `agentkd.views` reads it.
        access: How references are read: `load_planner`'s own options. `sees`, what the planner
            sees, is for objects too.

    Raises:
        ConfigError: If planner and data are both missing, or the dataset is of another environment.
        LoadError: If the planner cannot be loaded.
        SpecError: If the planner's answers do not fit the environment.
    """
    if env is None and data is not None and planner is None:
        sees = parse_view(executor_sees, data.about.spec.obs)
        see(data.about.spec, sees)
        return Task("", data.about.spec, by_name(data), data.kind, data=data, sees=sees)
    env, copies = _opened(env)
    spec, probe = environments.look_at(env)
    sees = parse_view(executor_sees, spec.obs)
    see(spec, sees)
    if data is not None:
        need_fit(data.about.spec, spec, "The dataset")
    if planner is None:
        if data is None:
            raise ConfigError("Name a planner, or a dataset of its labels.")
        return Task(env, spec, by_name(data), data.kind, data=data, copies=copies, sees=sees)
    if isinstance(planner, Path):
        planner = str(planner)
    elif isinstance(planner, list | tuple):
        planner = [str(each) if isinstance(each, Path) else each for each in planner]
    several = isinstance(planner, Sequence) and all(isinstance(each, str) for each in planner)
    refs: tuple[str, ...] = ()
    if isinstance(planner, str) or several:
        known = load_planner(planner, spec, **access)
        # A name and references are all that another process needs.
        if isinstance(env, str):
            refs = (planner,) if isinstance(planner, str) else tuple(planner)
    else:
        its_view = access.pop("sees", None)
        if any(value is not None for value in access.values()):
            raise ConfigError(f"{sorted(access)} are for references to planners.")
        known = viewed(partial(from_object, planner, type(planner).__name__), spec, its_view)
    kind = data.kind if data is not None else kind_of_planner(known, spec, probe)
    return Task(env, spec, known, kind, refs, access, data, copies, sees)


def _opened(env: Any) -> tuple[Environment, int]:
    """Return an environment as a task keeps it, and how many may be open at a time."""
    if hasattr(env, "num_envs"):
        raise ConfigError(
            f"env is a {type(env).__name__}, a vectorised environment; give its name, or a "
            "function that makes it."
        )
    if hasattr(env, "step") and hasattr(env, "reset") and not isinstance(env, type):
        return _Live(env), 1
    if not isinstance(env, str) and not callable(env):
        raise ConfigError(
            f"env is a {type(env).__name__}; give a name, a function that makes a "
            "gymnasium.Env, or such an environment."
        )
    return env, _MANY


def kind_of_planner(planner: Planner, spec: Spec, probe: Floats) -> Kind:
    """Ask a planner about an observation (1, obs) to learn its kind of answer.

    Raises:
        PlannerError: If it does not answer.
        SpecError: If the answer does not fit the environment.
    """
    policy: Any = one_row(planner.policy)
    try:
        if hasattr(policy, "initial_state"):
            dist = policy(probe, policy.initial_state(1))[0]
        else:
            dist = policy(probe)
    except AgentkdError:
        raise
    except Exception as error:  # a planner of a user's may raise anything
        # With a view it is handed less than the environment gives.
        look = getattr(planner.policy, "look", None)
        seen = probe if look is None else look(probe)
        raise PlannerError(
            f"{planner.name} raised {type(error).__name__} for an observation {seen.shape}, "
            f"which is what it sees: {error}"
        ) from error
    dists.check(dist, spec.action, 1)
    return dists.kind_of(dist)


def need_fit(found: Spec, wanted: Spec, what: str, hint: str = "") -> None:
    """Check that numbers observed and actions are those of an environment.

    Raises:
        ConfigError: If they are not.
    """
    size = whole(found.obs).size
    if (size, found.action) != (wanted.obs.size, wanted.action):
        raise ConfigError(
            f"{what} is for {size} numbers and {found.action}; the "
            f"environment has {wanted.obs.size} and {wanted.action}. {hint}".rstrip()
        )


def by_name(dataset: Dataset) -> Planner:
    """Return the planner that a dataset's labels are of; it cannot be asked."""
    about = dataset.about
    return Planner(
        _silent, about.spec, about.planner or "a dataset", about.parameters, about.digest
    )


def _silent(_: Floats, /) -> Any:
    raise PlannerError("The planner is known by its labels only; it cannot be asked.")


@final
class _Live:
    """A function that gives a live environment again and again; it is never closed."""

    def __init__(self, env: Any) -> None:
        self._env = env
        spec = getattr(env, "spec", None)
        self.__name__ = getattr(spec, "id", None) or type(env).__name__

    def __call__(self) -> Any:
        return _Open(self._env)


@final
class _Open:
    """A live environment whose `close` does nothing: it is not ours."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def close(self) -> None:
        """Leave it open."""
