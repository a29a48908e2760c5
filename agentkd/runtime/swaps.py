"""Swaps: replacing the executor between two ticks, by a file too, and going back."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from agentkd.affinity import unbind
from agentkd.deploy.bundle import Bundle, own_bundle, read_bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.fit import check_contract, check_fit, check_numbers
from agentkd.errors import (
    AgentkdError,
    BundleError,
    ConfigError,
    LoadError,
    NumbersError,
    SpecError,
)
from agentkd.executors.acting import Form, staged_form
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.past import past_words, unrolled
from agentkd.executors.staged import Staged, finish
from agentkd.printable import logger
from agentkd.runtime.connect import Companions
from agentkd.runtime.decider import Decider
from agentkd.runtime.goals import Goals, conditioned, unconditioned
from agentkd.runtime.scores import Rollback, Scores
from agentkd.runtime.watched import Watched
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from agentkd.views import Seeing, environment

if TYPE_CHECKING:
    from agentkd.runtime.workers.host import Process
    from agentkd.signing.store import Trusting

log = logger(__name__)

_BUILD = "agentkd.distillation.service:build"

_REASONS: tuple[tuple[type[AgentkdError], str], ...] = (
    (LoadError, "file"),
    (SpecError, "unfit"),
    (NumbersError, "numbers"),
    (AgentkdError, "other"),
)
"""Why a swap is refused, by the error."""
_REMEMBERED = 8
"""Executors that `rollback` can return to."""


def open_executor(
    executor: Executor | str | Path,
    spec: Spec | None,
    goals: Goals | None,
    *,
    watch: bool,
    sees: Seeing = None,
    trust: Trusting | None = None,
) -> tuple[Executor, Contract | None, Watched | None]:
    """Return an executor, the contract of its file, and what follows the file.

    The executor is given as `Agent` takes it; an architecture needs its `spec`, of which it sees
    what `sees` says. With `trust`, what comes of a file has to be signed.

    Raises:
        ConfigError: If it is not an executor, an architecture lacks its environment, or there is no
            file to follow.
        SpecError: If the executor is for another environment.
        BundleError: If the file cannot be read.
    """
    if spec is not None and not isinstance(spec, Spec):
        raise ConfigError(f"spec is {spec!r:.80}; give env_spec(env).")
    contract, digest = None, ""
    if isinstance(executor, Executor):
        check_signed(executor, trust)
        found, contract = executor, executor.about.contract
    elif isinstance(executor, Path) or _is_path(executor):
        bundle = read_bundle(executor, trust=trust)
        found, contract, digest = bundle.executor, bundle.contract, bundle.digest
    elif isinstance(executor, str):
        if spec is None:
            raise ConfigError(
                f"The architecture {executor!r} needs its environment: Agent({executor!r}, "
                "env_spec(env)). An executor file ends in .akd."
            )
        if goals is None:
            found = initial(executor, spec, sees=sees)
        else:
            found = initial(executor, conditioned(spec, goals, sees))
    else:
        raise ConfigError(
            f"{type(executor).__name__} is not an executor: give an Executor, the path of an .akd "
            'file, or an architecture such as "mlp:32,32".'
        )
    if sees is not None and not (isinstance(executor, str) and not _is_path(executor)):
        raise ConfigError("executor_sees is for an architecture; an executor has its own view.")
    known = found.spec if goals is None else unconditioned(found.spec, goals)
    if spec is not None and environment(known) != environment(spec):
        raise SpecError(f"The executor is for {known}, not for {spec}.")
    if not watch:
        return found, contract, None
    if not digest:
        raise ConfigError("watch=True follows an executor's file: give its path.")
    assert isinstance(executor, str | Path)
    return found, contract, Watched(executor, digest, trust)


def check_signed(executor: Executor, trust: Trusting | None) -> None:
    """Raise BundleError unless an executor is the program's own, or as it came of a signed file."""
    bundle: Bundle | None = executor.about.bundle
    known = bundle is None or (bundle.signed is not None and own_bundle(executor) is not None)
    if trust is not None and not known:
        raise BundleError(
            "The executor counts as unsigned: it was read from a file without trust, or changed "
            "since. Load it with agentkd.load(path, trust=…), or give the agent the file's path.",
            "signature",
        )


def _is_path(text: Any) -> bool:
    """Return whether text names an executor file rather than an architecture."""
    return isinstance(text, str) and (
        text.endswith(".akd") or "/" in text.partition(":")[0] or Path(text).is_file()
    )


def distiller_for(
    executor: Executor, given: Executor | str | Path, owner: object
) -> tuple[Process, Callable[[], object] | None]:
    """Return a distiller that goes on from an executor, and what removes its temporary folder.

    An architecture, as the user `given` it, is learnt from nothing; a file brings its kept labels;
    an executor in memory is written to a folder first, which goes with its `owner` at the latest.
    """
    from agentkd.runtime.workers.host import Process

    if unrolled(executor).memory:
        raise ConfigError(
            f"{executor.architecture} has a memory and learns from whole sequences: distil it "
            "with agentkd.distill. For learn=True take one without, such as mlp:64,64, or let it "
            "see stack:4."
        )
    if isinstance(given, str) and not _is_path(given):
        told = {"spec": to_json(executor.spec), "past": past_words(executor)}
        return Process(_BUILD, {"executor": given, **told}), None
    if executor.about.labels is None:
        log.warning(
            "The executor has no kept labels, so the gate cannot tell what live learning costs it "
            "elsewhere. Record some (agentkd record) and give them as data: docs/guides/live.md."
        )
    if not isinstance(given, Executor):
        return Process(_BUILD, {"executor": str(Path(given).absolute())}), None
    folder = Path(tempfile.mkdtemp(prefix="agentkd-"))
    remove = weakref.finalize(owner, _remove, folder, os.getpid())
    executor.save(folder / "executor.akd")
    return Process(_BUILD, {"executor": str(folder / "executor.akd")}), remove


def _remove(folder: Path, process: int) -> None:
    """Remove a folder; leave it to the process that made it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


@final
class Swaps:
    """Replaces the executor of a decider and tells planner and distiller.

    `contract` is that of the first executor; with `trust`, files have to be signed.
    """

    def __init__(
        self,
        decider: Decider,
        companions: Companions,
        *,
        native: bool,
        rollback: Rollback | None,
        watched: Watched | None,
        contract: Contract | None,
        trust: Trusting | None = None,
    ) -> None:
        self._trust = trust
        self._decider, self._metrics = decider, decider.metrics
        self._companions, self._distiller = companions, companions.distiller
        self._native, self._watched = native, watched
        self._contract = contract or Contract()
        self.scores = Scores(rollback) if rollback is not None else None
        self._former: deque[Executor] = deque(maxlen=_REMEMBERED)
        # Versions never come twice, whatever is rolled back.
        self._newest = decider.form.executor.version
        # The user's thread, the tick's and the supervisor's may all swap. None holds it while it
        # reads or compiles, for a tick may wait for it.
        self._lock = threading.RLock()
        self._reader: threading.Thread | None = None
        self._wishes = 0  # swaps and rollbacks that were asked for

    def swap(self, executor: Executor | Bundle | str | Path) -> None:
        """Let another executor act from the next tick on; see `Agent.swap`."""
        with self._counting():
            if isinstance(executor, str | Path):
                executor = read_bundle(executor, trust=self._trust)
            if isinstance(executor, Bundle):
                check_contract(self._contract, executor.contract)
                executor = executor.executor
            if not isinstance(executor, Executor):
                raise ConfigError(
                    f"{type(executor).__name__} is not an executor: give an Executor or the "
                    "path of an .akd file."
                )
            check_signed(executor, self._trust)
            if executor.about.contract is not None:
                check_contract(self._contract, executor.about.contract)
            made = finish(self._staged(executor))
            with self._lock:
                self._wishes += 1
                self._install(made)
                if self._distiller is not None:
                    self._distiller.follow(executor)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Count a refusal by its reason, and pass it on."""
        try:
            yield
        except AgentkdError as error:
            self._refused(next(why for kind, why in _REASONS if isinstance(error, kind)))
            raise

    def _refused(self, reason: str) -> None:
        counts = self._metrics.swaps_refused
        counts[reason] = counts.get(reason, 0) + 1

    def _staged(self, executor: Executor) -> Staged[Form]:
        """Check and compile an executor."""
        check_fit(self._decider.form.executor, executor)
        check_numbers(executor)
        yield "lay out"
        made = yield from staged_form(executor, native=self._native)
        return made

    def _install(self, made: Form) -> None:
        """Let a form act from the next tick on."""
        executor, present = made.executor, self._decider.form.executor
        if self._companions.planner is not None and self._companions.running:
            self._companions.planner.follow(executor)
        self._former.append(present)
        if self.scores is not None:
            self.scores.swapped(present)
        self._decider.form = made
        self._newest = max(self._newest, executor.version)
        self._metrics.swaps += 1

    def rollback(self) -> Executor:
        """Let the former executor act again; see `Agent.rollback`."""
        with self._lock:
            if not self._former:
                raise ConfigError(
                    "There is no executor to return to: none was swapped in, or "
                    f"{_REMEMBERED} rollbacks in a row used up the former ones."
                )
            to = self._former[-1]
        finish(self._going_back("asked", to))
        return to

    def _going_back(self, reason: str, to: Executor, wishes: int | None = None) -> Staged[None]:
        """Let a former executor act again, in stages; with `wishes` if none came in between."""
        with self._counting():
            made = yield from self._staged(to)
            with self._lock:
                if wishes not in (None, self._wishes):
                    if self.scores is not None:
                        self.scores.again()
                    return
                self._wishes += 1
                # Those after it are not returned to; of all that are kept, if it is older.
                kept = list(self._former)
                while kept and kept.pop() is not to:
                    pass
                self._install(made)
                if self._distiller is not None:
                    self._distiller.follow(to)
                self._former.clear()
                self._former.extend(kept)
                if self.scores is not None:
                    self.scores.rolled_back()
                counts = self._metrics.rollbacks
                counts[reason] = counts.get(reason, 0) + 1

    def take_learnt(self) -> None:
        """Swap the distiller's newest weights in, if there are new ones."""
        finish(self.learn())

    def learn(self) -> Staged[None]:
        """Swap the distiller's newest weights in as `take_learnt` does, in stages.

        The last stage only changes who acts. If another swap came in between, the weights are of
        a time before it, and are dropped.
        """
        if self._distiller is None:
            return
        with self._lock:  # a swap tells the distiller last
            weights = self._distiller.weights()
            present = self._decider.form.executor
        if weights is None:
            return
        try:
            with self._counting():
                yield "executor"
                executor = present.with_vector(weights, self._newest + 1)
                yield "check"
                made = yield from self._staged(executor)
                yield "swap"
                with self._lock:
                    if self._decider.form.executor is present:
                        self._install(made)
                    else:
                        self._refused("stale")
        except AgentkdError as error:
            log.warning("New weights are not swapped in: %s", error)
            self._distiller.follow(self._decider.form.executor)

    def look_at_file(self) -> None:
        """Follow the watched file; a new one is read in a thread, for it takes many periods."""
        if self._reader is not None and self._reader.is_alive():
            return
        if self._watched is not None and self._watched.stirred():
            self._reader = threading.Thread(target=self._read_file, name="file", daemon=True)
            self._reader.start()

    def _read_file(self) -> None:
        unbind()
        self.follow_file()

    def close(self) -> None:
        """Wait for a file that is being read."""
        if self._reader is not None:
            self._reader.join()

    def follow_file(self) -> None:
        """Swap the executor of the watched file in, if it was replaced."""
        if self._watched is None:
            return
        bundle = None
        try:
            with self._counting():
                bundle = self._watched.changed()
            if bundle is not None:
                self.swap(bundle)
        except AgentkdError as error:
            what = "The file" if bundle is None else self._watched.path
            log.warning("%s is not swapped in: %s", what, error)

    def heed_scores(self) -> Staged[None]:
        """Roll back if the scores fell after a swap, in stages."""
        if self.scores is None:
            return
        with self._lock:
            former, wishes = self.scores.fallen(), self._wishes
        if former is not None:
            log.warning("The scores fell after a swap: going back to the former executor.")
            yield "check"
            yield from self._going_back("score", former, wishes)
