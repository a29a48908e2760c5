"""Options of `agentkd run` in groups: which strategies may act, and how a run is watched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

from agentkd.errors import AgentkdError, ConfigError, check_range
from agentkd.extras import needing
from agentkd.refs import is_reference, resolve
from agentkd.runtime.arbiter import Router
from agentkd.runtime.clock import Realtime
from agentkd.runtime.goals import Goals
from agentkd.runtime.live.page import LivePage
from agentkd.runtime.metrics import scalars
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.routers import Fresh, Guard, Valid
from agentkd.runtime.strategies import Seam, StrategyOptions, Trust

_SCALARS_EVERY = 0.5
_OFF = "off"


@dataclass(frozen=True, kw_only=True)
class StrategyChoice:
    """Which strategies may act, and how they are requested."""

    max_age: int | None = None
    """Refuse strategies whose observation is older than so many ticks."""
    valid: str | None = None
    """Refuse strategies for which this no longer holds: module:attribute of a function (strategy,
    observation, row) -> bool."""
    holds: str | None = None
    """Refuse strategies whose actions no longer lead where they should: module:attribute of a
    function (observation, actions that are left) -> bool."""
    tolerance: float | None = None
    """Refuse strategies that expected to observe something further away than this, in any number;
    for planners that say what they expect."""
    guard: str | None = None
    """Refuse any action that is not safe: module:attribute of a function (observation, action) ->
    bool."""
    baseline: str | None = None
    """A trusted controller for when the guard refused all others: module:attribute of a function
    observation -> action."""
    dwell: int = 0
    """Ticks for which a source that the guard refused is not asked again."""
    recover: int = 1
    """Safe actions in a row after which it acts again."""
    routers: str | None = None
    """Routers of your own besides: module:attribute of a list, or of a function that makes one."""
    roll_forward: str | None = None
    """Ask the planner about the state in which its answer will arrive: module:attribute of a
    function (observation, actions) -> observation, or the name of a MuJoCo environment, whose
    simulation is it. Left out, agentkd run takes its environment's own for a planner of several
    rows, if it is exact; "off" for none."""
    lead: int | None = None
    """By how many ticks; by default the 95th percentile of recent answers."""
    freeze: int = 0
    """Ticks for which a strategy goes on after the next one came."""
    blend: int = 0
    """Ticks over which one goes over into the next; for boxes."""
    advance: Literal["ticks", "commands"] = "ticks"
    """Whether each tick uses up a row of a strategy, or only each command."""
    trust: Literal["auto", "on", "off"] = "auto"
    """Whether a row that comes late acts only if its prediction was right, and the executor acts
    otherwise. auto: unless another option says which late rows act."""
    workers: int = 1
    """Planners that are asked in turn, where one is too slow."""

    def make_routers(self) -> list[Router]:
        """Make the routers afresh: they have a state, which belongs to one run.

        Raises:
            ConfigError: If options do not go together.
            RefError: If a reference leads nowhere.
        """
        if self.guard is None and (self.baseline or self.dwell or self.recover != 1):
            raise ConfigError("--baseline, --dwell and --recover belong to --guard.")
        out: list[Router] = []
        if self.max_age is not None:
            out.append(Fresh(self.max_age))
        if (self.valid, self.holds, self.tolerance) != (None, None, None):
            valid, holds = _function(self.valid), _function(self.holds)
            out.append(Valid(valid, tolerance=self.tolerance, holds=holds))
        if self.guard is not None:
            check, baseline = _function(self.guard), _function(self.baseline)
            out.append(Guard(check, baseline=baseline, dwell=self.dwell, recover=self.recover))
        if self.routers is not None:
            out += routers_of(self.routers)
        return out

    def make_options(self, goals: Goals | None = None) -> StrategyOptions:
        """Return how strategies are requested and take over, from a planner with these goals.

        Raises:
            ConfigError: If an option is invalid.
        """
        check_range("--workers", self.workers, least=1)
        roll = None
        if self.roll_forward not in (None, _OFF):
            # Actions that the guard refuses are not imagined either.
            most = max(32, self.lead or 0)
            roll = RollForward(str(self.roll_forward), self.guard, lead=self.lead, most=most)
        elif self.lead is not None:
            raise ConfigError("--lead belongs to --roll-forward.")
        seam = Seam(self.freeze, self.blend) if self.freeze or self.blend else None
        meant: dict[str, Any] = {"auto": "auto", "on": Trust(), "off": None}
        trust = meant[self.trust]
        return StrategyOptions(
            roll_forward=roll, goals=goals, seam=seam, advance=self.advance, trust=trust
        )


def look_ahead(
    choice: StrategyChoice, options: StrategyOptions, env: str, policy: Any
) -> tuple[StrategyOptions, str]:
    """Roll forward in the environment's own simulation, if nothing else was chosen and it is exact.

    Returns:
        The options, and what to tell the user; "" for a planner that has no use for it.
    """
    plain = getattr(policy, "horizon", 1) == 1 or hasattr(policy, "initial_state")
    if choice.roll_forward is not None or plain or choice.workers > 1:
        return options, ""
    if choice.advance == "commands":
        return options, ""
    from agentkd.planners.search.twin import TRANSITIONS, twin

    try:
        if is_reference(env):
            raise ConfigError(f"{env} would be taken for a model. Name the environment by its id.")
        twin(env)
        roll = RollForward(env, choice.guard)
    except AgentkdError as error:
        return options, f"No roll-forward: {error}"
    said = (
        f"Rolling forward in {env}'s own simulation, exact on {TRANSITIONS} random transitions "
        "from states whose velocities are shown whole."
    )
    return replace(options, roll_forward=roll), said


def _function(reference: str | None) -> Any:
    if reference is None:
        return None
    found = resolve(reference)
    if not callable(found):
        raise ConfigError(f"{reference} is a {type(found).__name__}, not a function.")
    return found


def routers_of(reference: str) -> list[Router]:
    """Make the routers that a reference names.

    Raises:
        RefError: If it leads nowhere.
        ConfigError: If it names something else.
    """
    found = resolve(reference)
    if callable(found) and not isinstance(found, Router):
        found = found()
    if isinstance(found, Router):
        return [found]
    if not isinstance(found, Sequence) or not all(isinstance(each, Router) for each in found):
        raise ConfigError(
            f"{reference} gives {found!r}; a router, a list of them, or a function "
            "that makes one is needed."
        )
    return list(found)


@dataclass(frozen=True, kw_only=True)
class WatchChoice:
    """Scheduling of the tick thread, and where its metrics go."""

    priority: int | None = None
    """Run the ticks under SCHED_FIFO with this priority, 1 to 99. What the system does not grant is
    reported."""
    cores: tuple[int, ...] = ()
    """Bind the ticks to these processors."""
    lock_memory: bool = False
    """Keep all memory from being paged out."""
    gc_freeze: bool = True
    """Keep the garbage collector away from what lived before the ticks, and let it look elsewhere
    only when there is slack."""
    log: bool = False
    """Write a decision log for each arm, to be read and replayed by agentkd log."""
    prometheus: int | None = None
    """Serve metrics at http://127.0.0.1:PORT/metrics; 0 for a port that is free."""
    prometheus_file: Path | None = None
    """Write metrics into this file every five seconds, in Prometheus' text format."""
    tensorboard: bool = False
    """Write metrics for TensorBoard into the folder's tensorboard/."""
    live: bool = False
    """Serve a page to browsers of this machine that shows the run while it goes on. A virtual clock
    then keeps real time at first; the page may pause it, step, and change the planner's latency."""
    live_port: int = 0
    """The page's port; 0 for one that is free."""

    def realtime(self) -> Realtime:
        """Return the scheduling of the tick thread.

        Raises:
            ConfigError: If an option is invalid.
        """
        return Realtime(self.priority, self.cores or None, self.lock_memory, self.gc_freeze)


@final
@dataclass(slots=True)
class Watchers:
    """Exporters of a run's metrics. The source changes from arm to arm."""

    labels: dict[str, str]
    source: Callable[[], Mapping[str, Any]] = dict
    port: int | None = None
    boards: Any = None
    page: LivePage | None = None
    _at: float = 0.0

    @property
    def addresses(self) -> Iterator[str]:
        """What to tell of where metrics and the live page are."""
        if self.port is not None:
            yield f"metrics at http://127.0.0.1:{self.port}/metrics"
        if self.page is not None:
            yield f"live at {self.page.address}"

    @property
    def changes(self) -> tuple[tuple[str, int, int], ...]:
        """What the live page changed."""
        return () if self.page is None else tuple(self.page.changes)

    def metrics(self) -> Mapping[str, Any]:
        """Return the metrics of the present arm."""
        return self.source()

    def look(self, arm: str, tick: int, metrics: Mapping[str, Any]) -> None:
        """Write TensorBoard's scalars, twice a second at most."""
        if self.boards is None or time.monotonic() - self._at < _SCALARS_EVERY:
            return
        self._at = time.monotonic()
        for name, value in scalars(metrics).items():
            self.boards.add_scalar(f"{arm}/{name}", value, tick)


@contextlib.contextmanager
def watchers(options: WatchChoice, out: Path, env: str) -> Iterator[Watchers]:
    """Open what the options ask for, and close it at the end.

    Raises:
        ConfigError: If a port is not free, or TensorBoard is missing.
        WriteError: If a file cannot be written.
    """
    found = Watchers({"env": env, "arm": ""})
    with contextlib.ExitStack() as stack:
        port, file = options.prometheus, options.prometheus_file
        if port is not None:
            from agentkd.runtime.exposition import PrometheusServer

            server = PrometheusServer(found.metrics, port, labels=found.labels)
            found.port = stack.enter_context(server).port
        if file is not None:
            from agentkd.runtime.exposition import PrometheusFile

            stack.enter_context(PrometheusFile(found.metrics, file, labels=found.labels))
        if options.live:
            found.page = stack.enter_context(LivePage(options.live_port))
        if options.tensorboard:
            with needing("--tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            folder = out / "tensorboard"
            try:
                found.boards = SummaryWriter(str(folder))
            except OSError as error:
                raise ConfigError(f"{folder} cannot be written: {error.strerror}.") from error
            stack.callback(found.boards.close)
        yield found
