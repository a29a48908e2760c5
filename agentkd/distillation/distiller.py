"""The distiller: labels in, executor weights out."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.deploy.kept import capacity
from agentkd.distillation import native_engine
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.engine import Beside, DistillerOptions, Engine, Step
from agentkd.distillation.history import Histories
from agentkd.distillation.moments import is_neutral, normaliser
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.executor import Executor, distribution
from agentkd.executors.past import past_layer, rolled, unrolled
from agentkd.extras import needing
from agentkd.fields import Fields
from agentkd.files import loading
from agentkd.spec import Spec
from agentkd.types import AnyDist, Floats, Kind, Labels, Policy, RecurrentPolicy
from agentkd.views import columns, pick

__all__ = ["Distiller", "DistillerOptions"]

_AVERAGE = 16.0
_SETTLED = 4096
"""Labels from which on a change of the normaliser is compensated."""
_CHECK = 64


@final
class Distiller:
    """Trains an executor on labels. It satisfies `agentkd.types.DistillerLike`.

    Weights are averaged with a window that grows with the run (polynomial decay, Shamir and Zhang
    2013), and the average is what `snapshot` gives. The normaliser is set from the labels at hand
    whenever their number has doubled. Once there are enough labels the first layer is changed
    against it, so that nothing is unlearnt; before, the network is left as it is, since weights
    that carried the units of the first few observations would stay badly scaled for good.

    Args:
        executor: The executor to start from.
        options: How to learn.
        planner: What the labels are from, for terms that ask it themselves.
        beside: Further labels, learnt in every step; for an executor with a stack or a delay, of
            what it is shown.
        windows: Whether labels hold what an executor with a stack or a delay is shown, with NaN
            where there was nothing yet, as those of a live run do. They then need no links.

    Attributes:
        engine: What takes the gradient steps, compiled C or torch.
    """

    def __init__(
        self,
        executor: Executor,
        options: DistillerOptions | None = None,
        planner: Policy | RecurrentPolicy | None = None,
        beside: Beside | None = None,
        *,
        windows: bool = False,
    ) -> None:
        self.options = options or DistillerOptions()
        past = past_layer(executor)
        self._windows = windows and past is not None
        linked = executor.memory > 0 and not self._windows
        self.buffer = LabelBuffer(self.options.capacity, linked=linked, gaps=self._windows)
        self._histories = None if past is None else Histories(self.buffer, past, windows=windows)
        shown = unrolled(executor).spec
        self._labelled = shown if self._windows else executor.spec
        self._partial = columns(self._labelled.obs) is not None
        if past is not None or self._partial:
            # A label's row holds what the executor sees, not what the planner does.
            planner = None
        if beside is not None and beside.labels.kind is not None:
            rows, split = beside.labels.rows()
            check_labels(shown, beside.labels.kind, split, rows.shape[1] - split)
        self.engine = _engine(unrolled(executor), self.options, planner, beside)
        self.steps = 0
        self.rejected = 0
        self._random = np.random.default_rng(self.options.seed)
        self._executor = executor
        self._expected = False
        # A normaliser that was set by labels is not given up for a few new ones.
        self._normalised_at = 0 if is_neutral(executor) else _SETTLED // 2
        self._progress, self._rising, self._averaged = 0.0, 0, 0

    def add(self, obs: Floats, dist: AnyDist, link: NDArray[np.int32] | None = None) -> None:
        """Take labels: observations (batch, obs) and the planner's answer to them.

        The observations may be whole, where the executor sees a part of them. An executor with a
        memory learns from sequences: `link` is as in `Labels`. With `windows` they are what the
        executor was shown, (batch, shown).

        Raises:
            SpecError: If they are of another environment.
        """
        packed = dists.packed(dist)
        if self._partial:
            obs = pick(self._labelled.obs, obs)
        check_labels(self._labelled, packed.kind, obs.shape[1], packed.rows.shape[1])
        if link is None and self._executor.memory and not self._windows:
            raise ConfigError(
                f"{self._executor.architecture} has a memory and learns from sequences: "
                "give each label its link (agentkd.types.Labels). In a live run an "
                "executor without a memory learns, such as mlp:64,64."
            )
        self.buffer.add(obs, packed, link)
        self.expect(self.buffer.kind)

    def load_labels(self, path: Path) -> None:
        """Take the labels that `LabelBuffer.save` left in a file.

        Raises:
            LoadError: If the file is damaged.
        """
        self.buffer.load(path, self._labelled)
        self.expect(self.buffer.kind)

    def expect(self, kind: Kind | None) -> None:
        """Make the losses for labels of a kind; the first ones do it otherwise.

        Raises:
            ConfigError: If a term does not go with such labels or the executor.
        """
        if kind is not None and not self._expected:
            self.engine.expect(kind)
            self._expected = True

    def schedule(self, progress: float) -> None:
        """Set the learning rate: `progress` runs from 0 to 1 over the whole run."""
        self._progress = min(max(progress, 0.0), 1.0)

    def step(self) -> Mapping[str, float]:
        """Take one gradient step.

        Returns:
            "divergence" and "learning_rate", and what the terms tell as "term.number"; {} while
            there are too few labels.
        """
        if not self._expected or len(self.buffer) < self.options.least:
            return {}
        self._renormalise()
        self.steps += 1
        share = (_AVERAGE + 1) / (self.steps - self._averaged + _AVERAGE)
        how = Step(self._rate(), share, self._progress)
        numbers = dict(self.engine.step(self._histories or self.buffer, self._random, how))
        if not np.isfinite(numbers.pop("loss")):
            self.rejected += 1
            self.engine.recover()
        elif self.steps % _CHECK == 0:
            self.engine.keep()
        return {"learning_rate": how.rate, **numbers}

    def sample(self, size: int) -> Labels | None:
        """Return labels of the newer half that take at most `size` bytes; None of none.

        Those for an executor with a stack or a delay are of what it is shown. Others with a memory
        give none: single labels say nothing of it.
        """
        kind, shown = self.buffer.kind, unrolled(self._executor)
        spec = shown.spec
        most = capacity(spec, kind, size) if kind and not shown.memory else 0
        random = np.random.default_rng(self.options.seed)
        obs, packed = (self._histories or self.buffer).sample(most, random)
        if not len(obs) or kind is None:
            return None
        return Labels(obs, dists.unpack(kind, packed, spec.action))

    def agreement(self, newest: int) -> float:
        """How far the executor agrees with the planner on sequences, 0 to 1.

        They end among the `newest` labels, some of which may have been learnt from.
        """
        if not len(self.buffer) or self.buffer.kind is None:
            return float("nan")
        random = np.random.default_rng([self.options.seed, self.steps])
        executor, action = self.freeze(), self._executor.spec.action
        if self._histories is not None:
            # A look at each history is enough: nothing that was computed is remembered.
            obs, packed = self._histories.newest(64, max(1, newest), random)
            outputs = unrolled(executor).outputs(obs)
        else:
            outputs, packed = self._followed(executor, max(1, newest), random)
        answer = distribution(executor.head, outputs, executor.spec)
        wanted = dists.unpack(self.buffer.kind, packed, action)
        agreed = dists.agreement(dists.mode(answer, action), dists.mode(wanted, action), action)
        return float(agreed.mean()) if len(agreed) else float("nan")

    def _followed(
        self, executor: Executor, newest: int, random: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Let an executor go along sequences: its numbers, and the packed labels."""
        options = self.options
        found = self.buffer.draw_sequences(
            64, options.burn_in + options.ticks, random, burn_in=options.burn_in, newest=newest
        )
        state = np.zeros((64, executor.memory), np.float32)
        mine = []
        for row in found.obs:
            outputs, state = executor.advance(row, state)
            mine.append(outputs)
        return np.stack(mine)[found.learnt], found.planner[found.learnt]

    def _rate(self) -> float:
        options = self.options
        risen = self.steps - self._rising
        warm = min(1.0, risen / max(1, options.warmup))
        cosine = 0.5 * (1 + np.cos(np.pi * self._progress))
        share = options.floor + (1 - options.floor) * cosine
        return float(options.learning_rate * warm * share)

    def _renormalise(self) -> None:
        held, before = len(self.buffer), self._normalised_at
        if not self.options.normalise or held < 2 * before or held == before:
            return
        obs = self.buffer.all()[0] if self._histories is None else self._histories.observed()
        if not len(obs):
            return
        self._normalised_at = held
        mean, scale = normaliser(self._executor, obs)
        settled = len(self.buffer) >= _SETTLED
        if self._histories is not None:
            self._histories.blank = mean
            mean, scale = (self._histories.spread(each) for each in (mean, scale))
        self.engine.renormalise(mean, scale, compensate=settled)
        self.engine.keep()

    def freeze(self, version: int = 0) -> Executor:
        """Give the averaged executor with its weights fixed."""
        return rolled(self.engine.freeze(version), self._executor)

    def snapshot(self) -> Floats:
        """Give the averaged executor's numbers as `Executor.vector` lays them out."""
        return self.freeze().vector()

    def warm_start(self, vector: Floats, *, afresh: bool = True) -> None:
        """Go on from an executor's numbers, as `Executor.vector` lays them out.

        The average of the weights begins anew.

        Args:
            vector: The numbers.
            afresh: Whether the optimiser begins anew too, and the learning rate rises once more.

        Raises:
            SpecError: If they are of another executor.
            NumbersError: If they hold NaN or infinity.
        """
        executor = self._executor.with_vector(vector, 0)
        self.engine.warm_start(unrolled(executor), afresh=afresh)
        if self._histories is not None:
            self._histories.blank = executor.mean
        self._averaged = self.steps
        if afresh:
            self._rising = self.steps
        self.engine.keep()

    def state(self) -> dict[str, Any]:
        """Everything but the labels that is needed to go on later, as tensors."""
        return {**self.engine.state(), "steps": self.steps, "normalised_at": self._normalised_at}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            LoadError: If it is of another executor.
        """
        with loading("The saved state"):
            fields = Fields(state, "The saved state")
            self.engine.restore(fields)
            if self._histories is not None:
                self._histories.blank = self.freeze().mean
            self.steps = fields.whole("steps")
            self._normalised_at = fields.whole("normalised_at")
            self._random = np.random.default_rng([self.options.seed, self.steps])
        self.engine.keep()


def check_labels(spec: Spec, kind: Kind, observed: int, answered: int) -> None:
    """Make sure that labels are of an environment; native code trusts their sizes.

    Raises:
        SpecError: If they are not.
    """
    dists.check_kind(kind, spec.action)
    wanted = (spec.obs.size, dists.width(kind, spec.action))
    if (observed, answered) != wanted:
        raise SpecError(
            f"The {kind} labels have {observed} numbers observed and {answered} answered; the "
            f"executor takes {wanted[0]} and {wanted[1]}."
        )


def _engine(
    executor: Executor,
    options: DistillerOptions,
    planner: Policy | RecurrentPolicy | None,
    beside: Beside | None,
) -> Engine:
    """Take the native engine where it fits and is the faster one; else torch's.

    Raises:
        ConfigError: If torch is needed and missing.
    """
    if options.engine != "torch":
        reason = native_engine.fits(executor, options)
        # What fits and is wide is torch's, if there is one.
        preferred = not native_engine.wide(executor) or find_spec("torch") is None
        if options.engine == "native" or (preferred and not reason):
            return native_engine.NativeEngine(executor, options, beside)
        what = f"Learning without compiled gradient steps ({reason or 'wide layers'})"
    else:
        what = "engine=torch"
    with needing(what):
        from agentkd.distillation.torch_engine import TorchEngine

    return TorchEngine(executor, options, planner, beside)
