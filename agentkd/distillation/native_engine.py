"""Gradient steps in compiled C, for executors of dense layers and the usual terms.

A step of a tiny network in torch is mostly the launching of operators. Here it is one call into
`learn.c`, which is compiled once and cached as the executor's native form is. It draws the same
labels as torch and agrees with it within float error. All weights lie in one vector, as in
`Executor.vector`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.engine import Beside, DistillerOptions, Step
from agentkd.distillation.history import Histories
from agentkd.distillation.native_terms import NativeTerms, PartC, structure
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense, sizes
from agentkd.executors.native import aligned, compiled
from agentkd.executors.plan import ACTIVATIONS, up
from agentkd.fields import Fields
from agentkd.types import Floats, Kind

if TYPE_CHECKING:
    from agentkd.distillation.torch_engine import TorchEngine

_SOURCE = Path(__file__).with_name("learn.c")
_BLOCK, _PIECE, _TILE = 16, 96, 12
"""Floats of a vector, rows that go through together, and rows of the largest tile of a product."""
_FLAGS = ("-fno-math-errno", "-fno-trapping-math", f"-DPIECE={_PIECE}", f"-DMOST_TILE={_TILE}")
_ALIASED = 256
"""Floats: rows that lie a multiple of this apart would push one another out of the cache."""
_WIDE = 512
"""The width of a layer from which on torch is as fast or faster."""


_DenseC = structure(
    "_DenseC",
    **dict.fromkeys(("inputs", "out", "activation", "in_stride", "out_stride"), "i"),
    at="l",
    **dict.fromkeys(
        ("forward", "backward", "weights_gradient", "bias_gradient", "input", "before"), "p"
    ),
)
_NetC = structure(
    "_NetC",
    layers="i",
    out="i",
    numbers="l",
    clip="f",
    **dict.fromkeys(("mean", "scale", "weights", "gradient", "first", "second", "average"), "p"),
    **dict.fromkeys(("dense", "outputs", "delta", "spare"), "p"),
)


@cache
def _library() -> ctypes.CDLL | None:
    library = compiled(
        _SOURCE, ("akd_learn",), *_FLAGS, what="The native distiller", instead="torch runs"
    )
    if library is not None:
        pointer, whole, number = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
        library.akd_learn.argtypes = [
            *(pointer, pointer, whole, number, number, number),
            *(ctypes.c_int64, pointer),
        ]
        library.akd_learn.restype = whole
    return library


def fits(executor: Executor, options: DistillerOptions) -> str:
    """Say why executor and terms need torch; "" if they do not."""
    if not all(isinstance(layer, Dense) for layer in executor.layers):
        return f"{executor.architecture} has other layers than dense ones"
    if options.terms != "match":
        from agentkd.distillation.terms.text import name_of

        known = ("match", "soft", "hard", "action")
        for each in options.sum():
            if name_of(each.term) not in known:
                return f"the term {name_of(each.term)!r} is none of {', '.join(known)}"
    if _library() is None:
        return "there is no C compiler, it failed (see the warning), or AGENTKD_NATIVE is 0"
    return ""


def wide(executor: Executor) -> bool:
    """Say whether a layer is so wide that torch is as fast or faster."""
    return any(max(sizes(layer)) >= _WIDE for layer in executor.layers)


def _stride(width: int) -> int:
    """How far apart rows of a width lie: whole vectors, and not where they would collide."""
    stride = up(width, _BLOCK)
    return stride + _BLOCK if stride % _ALIASED == 0 else stride


@final
class NativeEngine:
    """An executor's weights in one vector, moved by compiled C. It is an `Engine`.

    Args:
        executor: The executor to start from, of dense layers.
        options: How to learn.
        beside: Further labels, learnt in every step.

    Raises:
        ConfigError: If it does not fit (`fits`).
    """

    name = "native"

    def __init__(
        self, executor: Executor, options: DistillerOptions, beside: Beside | None = None
    ) -> None:
        if reason := fits(executor, options):
            raise ConfigError(f"engine=native: {reason}. Leave it out, or take engine=torch.")
        library = _library()
        assert library is not None
        self._learn = library.akd_learn
        self.options = options
        self._executor, self._beside = executor, beside
        self._terms: NativeTerms | None = None
        self._kept: NativeTerms | None = None
        self._restored: TorchEngine | None = None
        if beside is not None and beside.labels.kind is not None:
            self._kept = NativeTerms(executor, beside.labels.kind, None)
        self._vector = np.array(executor.vector())
        self._numbers = len(self._vector) - 2 * executor.spec.obs.size
        self._average, self._first, self._second, self._gradient = (
            np.zeros(self._numbers, np.float32) for _ in range(4)
        )
        self._moved = 0
        self._values = (ctypes.c_double * 2)()
        self._lay_out()
        self._average[:] = self._weights
        self._good: tuple[Floats, Floats, Any]
        self.keep()

    @property
    def _weights(self) -> Floats:
        return self._vector[2 * self._executor.spec.obs.size :]

    def _lay_out(self) -> None:
        """Give the C code its arrays."""
        keep: list[Any] = []

        def room(*shape: int) -> int:
            keep.append(aligned(np.zeros(int(np.prod(shape)), np.float32)))
            return int(keep[-1].ctypes.data)

        obs, at, layers = self._executor.spec.obs.size, 0, []
        for layer in self._executor.layers:
            assert isinstance(layer, Dense)
            inputs, out = sizes(layer)
            wide, long = _stride(inputs), _stride(out)
            tiles = up(out, _TILE)
            layers.append(
                _DenseC(
                    *(inputs, out, ACTIVATIONS[layer.activation], wide, long, at),
                    *(room(inputs, long), room(tiles, wide), room(tiles, wide), room(long)),
                    *(room(_PIECE, wide), room(_PIECE, long)),
                )
            )
            at += inputs * out + out
        dense = (_DenseC * len(layers))(*layers)
        widest = max(max(each.in_stride, each.out_stride) for each in layers)
        vector = self._vector.ctypes.data
        arrays = (self._gradient, self._first, self._second, self._average)
        self._net = _NetC(
            *(len(layers), self._executor.out, self._numbers, self._executor.clip),
            *(vector, vector + 4 * obs, vector + 8 * obs),
            *(each.ctypes.data for each in arrays),
            ctypes.addressof(dense),
            # The last tile reads a little beyond the last row.
            *(room(_PIECE + 1, widest) for _ in range(3)),
        )
        self._keep = [*keep, dense]

    def expect(self, kind: Kind) -> None:
        """Make the losses for labels of a kind, once.

        Raises:
            ConfigError: If a term does not go with such labels or the executor.
        """
        if self._terms is not None:
            return
        self._terms = NativeTerms(self._executor, kind, self.options)
        self._good = (*self._good[:2], self._terms.keep())
        if self._restored is not None:
            self._restored.expect(kind)
            self._terms.restore(self._restored.objective)
            self._restored = None

    def step(
        self, labels: LabelBuffer | Histories, random: np.random.Generator, how: Step
    ) -> Mapping[str, float]:
        """Take one gradient step on drawn labels."""
        assert self._terms is not None
        drawn: list[Any] = [(self._terms, labels, labels.places(self.options.batch, random), 1.0)]
        if self._kept is not None and self._beside is not None:
            count, weight = self._beside.amount()
            places = self._beside.labels.places(count, self._beside.random)
            drawn.append((self._kept, self._beside.labels, places, weight))
        parts = (PartC * len(drawn))(*(self._part(*each) for each in drawn))
        moved = self._learn(
            ctypes.byref(self._net),
            ctypes.byref(parts),
            len(parts),
            how.rate,
            self.options.clip_gradient,
            how.share,
            self._moved + 1,
            ctypes.byref(self._values),
        )
        self._moved += moved
        divergence = self._values[0]
        rest = self._values[1] * drawn[1][3] if len(drawn) > 1 else 0.0
        loss = divergence + rest if moved else float("nan")
        return {"loss": loss, "divergence": divergence, **self._terms.numbers()}

    def _part(
        self,
        terms: NativeTerms,
        labels: LabelBuffer | Histories,
        places: NDArray[np.int64],
        weight: float,
    ) -> Any:
        rows, split = labels.rows()
        terms.observe(lambda: np.ascontiguousarray(rows[places, split:]))
        part = terms.part
        part.rows, part.width, part.split = rows.ctypes.data, rows.shape[1], split
        part.places, part.count, part.weight = places.ctypes.data, len(places), weight
        return part

    def renormalise(self, mean: Floats, scale: Floats, *, compensate: bool) -> None:
        """Change the normaliser, and if `compensate` the first layer against it.

        `Network.renormalise` has the formula.
        """
        size = self._executor.spec.obs.size
        old_mean, old_scale = self._vector[:size], self._vector[size : 2 * size]
        if compensate:
            shift, ratio = old_scale * (mean - old_mean), old_scale / scale
            inputs, out = sizes(self._executor.layers[0])
            for numbers in (self._weights, self._average):
                weight = numbers[: inputs * out].reshape(out, inputs)
                numbers[inputs * out : inputs * out + out] += weight @ shift
                weight *= ratio
        old_mean[:], old_scale[:] = mean, scale

    def freeze(self, version: int) -> Executor:
        """Return the averaged executor."""
        size = 2 * self._executor.spec.obs.size
        vector = np.concatenate([self._vector[:size], self._average])
        return self._executor.with_vector(vector, version)

    def warm_start(self, executor: Executor, *, afresh: bool = True) -> None:
        """Go on from an executor's weights, with a fresh average; `afresh`, a fresh optimiser."""
        self._vector[:] = executor.vector()
        self._average[:] = self._weights
        if afresh:
            self._begin_adam()

    def _begin_adam(self) -> None:
        self._first[:], self._second[:], self._moved = 0.0, 0.0, 0

    def keep(self) -> None:
        """Remember the state to recover, if all of it is finite."""
        if np.isfinite(self._average).all():
            told = None if self._terms is None else self._terms.keep()
            self._good = (self._vector.copy(), self._average.copy(), told)

    def recover(self) -> None:
        """Go back to what `keep` remembered, with a fresh optimiser."""
        self._vector[:], self._average[:], told = self._good
        if self._terms is not None and told is not None:
            self._terms.recover(told)
        self._begin_adam()

    def _pieces(self, numbers: Floats) -> list[Floats]:
        """Cut weights into those of each layer, as torch's engine has them."""
        pieces, at = [], 0
        for layer in self._executor.layers:
            inputs, out = sizes(layer)
            for shape in ((out, inputs), (out,)):
                size = int(np.prod(shape))
                pieces.append(numbers[at : at + size].reshape(shape))
                at += size
        return pieces

    def _torch(self) -> TorchEngine:
        """Return torch's engine in the state of this one."""
        import torch

        from agentkd.distillation.terms.answers import SoftLabels
        from agentkd.distillation.torch_engine import TorchEngine

        engine = TorchEngine(self._executor.with_vector(self._vector, 0), self.options)
        engine.average = [torch.from_numpy(each.copy()) for each in self._pieces(self._average)]
        if self._restored is not None:
            engine.restored = self._restored.restored
        if self._terms is not None:
            engine.expect(self._terms.matching.kind)
            assert engine.objective is not None
            if self._terms.objective is not None:
                engine.objective.load_state_dict(self._terms.objective.state_dict())
            for _, loss in engine.objective.named:
                if isinstance(loss, SoftLabels) and self._terms.objective is None:
                    loss.tau.fill_(self._terms.matching.tau)
        parameters = engine.network.parameters()
        averages = zip(self._pieces(self._first), self._pieces(self._second), strict=True)
        for parameter, (first, second) in zip(parameters, averages, strict=True):
            if self._moved:
                engine.adam.state[parameter] = {
                    "step": torch.tensor(float(self._moved)),
                    "exp_avg": torch.from_numpy(first.copy()),
                    "exp_avg_sq": torch.from_numpy(second.copy()),
                }
        return engine

    def state(self) -> dict[str, Any]:
        """Return weights, averages and what terms learnt, as torch tensors."""
        return self._torch().state()

    def restore(self, state: Fields) -> None:
        """Go on from what `state` gave, of this engine or of torch's.

        Raises:
            LoadError: If it is of another executor.
        """
        engine = self._torch()
        engine.restore(state)
        size = 2 * self._executor.spec.obs.size
        self._vector[:] = engine.network.freeze(0).vector()
        self._average[:] = engine.freeze(0).vector()[size:]
        held = [engine.adam.state[each] for each in engine.network.parameters()]
        self._begin_adam()
        if held[0]:
            self._moved = int(held[0]["step"])
            for array, name in ((self._first, "exp_avg"), (self._second, "exp_avg_sq")):
                array[:] = np.concatenate([each[name].numpy().ravel() for each in held])
        if self._terms is None:
            # What the terms learnt is taken over once they are made.
            self._restored = engine
        else:
            self._terms.restore(engine.objective)
