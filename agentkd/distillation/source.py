"""Where a distillation takes its labels from: a protocol, and the simple case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final, get_args

from agentkd import environments
from agentkd.distillation.asking import Ask, check_ask, make_asking
from agentkd.distillation.collector import Collector
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.spec import Spec
from agentkd.types import Labels, Policy, RecurrentPolicy

Schedule = Literal["exponential", "linear", "constant", "none"]


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """Who drives while labels are collected, and what the planner is asked.

    The planner's share is the β of DAgger (Ross et al. 2011, "A reduction of imitation learning and
    structured prediction to no-regret online learning"), drawn for stretches of ticks instead of
    once for each.

    Attributes:
        environments: How many are stepped together.
        stretch: The mean length, in ticks, for which one driver stays.
        halving: Labels after which the planner's share of the driving has halved.
        least_share: What is left of its share in the end. A little keeps the states near the
            planner's own way among the labels.
        schedule: How the share falls from 1, with which it stays until there is an executor: by
            halves; on a line, half of it gone after `halving` labels; at once to `least_share`,
            where it stays (1 is teacher-driven); or to nothing, so that the executor drives alone.
        ask: Which states the planner is asked about, where the executor drives: "all", or those of
            `ask_share`, chosen by chance ("random"), where the executor is "uncertain", that are
            "novel", or by a committee's "disagreement". Labels count what was asked.
        ask_share: The share of these states that is asked about; not with "all".
    """

    environments: int = 16
    stretch: float = 50.0
    halving: int = 10_000
    least_share: float = 0.1
    schedule: Schedule = "exponential"
    ask: Ask = "all"
    ask_share: float = 0.25

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.environments < 1 or self.halving < 1 or self.stretch < 1:
            raise ConfigError("environments, halving and stretch have to be ≥ 1.")
        if not 0 <= self.least_share <= 1:
            raise ConfigError(f"least_share is {self.least_share}; it is a share.")
        if self.schedule not in get_args(Schedule):
            hint = did_you_mean(self.schedule, get_args(Schedule))
            raise ConfigError(f"No schedule {self.schedule!r}.{hint}")
        check_ask(self.ask, self.ask_share)

    def share(self, labels: int) -> float:
        """The planner's share of the driving after so many labels, 0 to 1."""
        match self.schedule:
            case "exponential":
                falling = 0.5 ** (labels / self.halving)
            case "linear":
                falling = 1.0 - labels / (2 * self.halving)
            case "constant":
                falling = self.least_share
            case "none":
                return 0.0
        return max(self.least_share, float(falling))


class Source(Protocol):
    """Gives labels, and is told of better executors."""

    @property
    def restarts(self) -> int:
        """How often what collects had to be started again."""
        ...

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""
        ...

    def take(self) -> list[Labels]:
        """Give what is there, without waiting for more; [] when there is nothing."""
        ...

    def update(self, executor: Executor, share: float) -> None:
        """Let a newer executor, and so much of the planner, drive from now on."""
        ...

    def returns(self) -> Sequence[float]:
        """Returns of the last episodes that an executor drove from start to end."""
        ...

    def close(self) -> None:
        """Stop collecting and give everything back."""
        ...


@final
class LocalSource:
    """Collects in this process, one tick of all environments at a `take`.

    With it a distillation repeats itself exactly under the same seed.
    """

    def __init__(
        self,
        env: str,
        planner: Policy | RecurrentPolicy,
        executor: Executor,
        spec: Spec,
        options: CollectionOptions,
        seed: int,
    ) -> None:
        """Make the environments."""
        self._collector = Collector(
            lambda: environments.make(env),
            planner,
            spec,
            count=options.environments,
            seed=seed,
            stretch=options.stretch,
            asking=make_asking(options.ask, options.ask_share, planner, spec, seed),
        )
        self.restarts = 0
        self._executor = executor.policy
        self._share = 1.0

    @property
    def dropped(self) -> int:
        """None: what is taken is handed over at once."""
        return 0

    def take(self) -> list[Labels]:
        """Move every environment by one tick."""
        step = self._collector.step(self._executor, self._share)
        return [step.labels] if len(step.obs) else []

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor`, and so much of the planner, drive from now on."""
        self._executor = (compile_native(executor) or executor).policy
        self._share = share

    def returns(self) -> Sequence[float]:
        """Returns of the executor's own last episodes."""
        return tuple(self._collector.recent)

    def close(self) -> None:
        """Close the environments."""
        self._collector.close()
