"""What the native engine minimises on labels, as its C code takes it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd.distillation.engine import DistillerOptions
from agentkd.distillation.matching import CHOICES, Box, Matching, choice_sizes
from agentkd.executors.executor import Executor
from agentkd.types import Floats, Kind

if TYPE_CHECKING:
    from agentkd.distillation.terms.term import Objective

_SOFT, _SHARPENED, _HARD, _ACTION = range(4)


def structure(name: str, **fields: Any) -> type[ctypes.Structure]:
    """Make a C structure of pointers ("p"), integers ("i", "l") and floats ("f")."""
    of = {"p": ctypes.c_void_p, "i": ctypes.c_int32, "l": ctypes.c_int64, "f": ctypes.c_float}
    return type(name, (ctypes.Structure,), {"_fields_": [(k, of[v]) for k, v in fields.items()]})


TermC = structure("TermC", kind="i", weight="f", number="f")
PartC = structure(
    "PartC",
    rows="p",
    places="p",
    width="l",
    count="i",
    split="i",
    weight="f",
    terms="i",
    term="p",
    blocks="i",
    pairs="i",
    sizes="p",
    squashed_planner="i",
    squashed="i",
    **dict.fromkeys(("low", "high", "middle", "half", "box_low", "box_high"), "p"),
)


@final
class NativeTerms:
    """What is minimised on the labels of one buffer, as the C code takes it."""

    def __init__(self, executor: Executor, kind: Kind, options: DistillerOptions | None) -> None:
        """Take the term `match`, or those of `options`."""
        spec = executor.spec
        self.matching = Matching(kind, executor.head, spec.action)
        self.objective: Objective | None = None
        self._softs: list[tuple[int, str, Any]] = []
        if options is None or options.terms == "match":
            soft = _SHARPENED if kind == "qvalues" else _SOFT
            what = soft if kind in CHOICES else _ACTION
            rows = [TermC(what, 1.0, self.matching.tau)]
        else:
            rows = self._parsed(executor, kind, options)
        self._table = (TermC * len(rows))(*rows)
        self.part = PartC(weight=1.0, terms=len(rows), term=ctypes.addressof(self._table))
        self._keep: list[Any] = []
        if self.matching.box is None:
            found = choice_sizes(kind, spec.action, executor.out)
            self.part.blocks, self.part.pairs = len(found), kind == "bernoulli"
            self.part.sizes = self._hold(np.array(found, np.int32))
        else:
            self._lay_out(self.matching.box, executor, kind)

    def _hold(self, array: NDArray[Any]) -> int:
        self._keep.append(array)
        return int(array.ctypes.data)

    def _lay_out(self, box: Box, executor: Executor, kind: Kind) -> None:
        part = self.part
        part.squashed_planner, part.squashed = kind == "squashed", executor.head == "squashed"
        part.low, part.high = self._hold(box.inside(box.low)), self._hold(box.inside(box.high))
        part.middle, part.half = self._hold(box.middle), self._hold(box.half)
        part.box_low, part.box_high = self._hold(box.low), self._hold(box.high)

    def _parsed(self, executor: Executor, kind: Kind, options: DistillerOptions) -> list[Any]:
        """Read terms with the help of torch's, which check them and find their temperatures."""
        from agentkd.distillation.terms.answers import Hard, SoftLabels
        from agentkd.distillation.torch_engine import TorchEngine

        engine = TorchEngine(executor, options)
        engine.expect(kind)
        assert engine.objective is not None
        self.objective = engine.objective
        rows: list[Any] = []
        for weighted, (name, loss) in zip(options.sum(), self.objective.named, strict=True):
            if isinstance(loss, SoftLabels):
                self._softs.append((len(rows), name, loss))
                rows.append(TermC(_SOFT if loss.both else _SHARPENED, weighted.weight, 1.0))
            elif isinstance(weighted.term, Hard):
                rows.append(TermC(_HARD, weighted.weight, weighted.term.smoothing))
            else:
                # `match` is `action` for boxes.
                rows.append(TermC(_ACTION, weighted.weight))
        return rows

    def observe(self, rows: Callable[[], Floats]) -> None:
        """Let temperatures follow the drawn answers, (batch, width)."""
        if self.objective is None:
            if self.matching.kind == "qvalues":
                self.matching.observe(rows())
                self._table[0].number = self.matching.tau
            return
        for place, _, soft in self._softs:
            if soft.follows:
                import torch

                soft.observe(torch.from_numpy(rows()))
            self._table[place].number = float(soft.tau)

    def restore(self, objective: Objective | None) -> None:
        """Take over what torch's terms of the same options learnt."""
        from agentkd.distillation.terms.answers import SoftLabels

        assert objective is not None
        if self.objective is not None:
            self.objective.load_state_dict(objective.state_dict())
        for _, loss in objective.named:
            if isinstance(loss, SoftLabels):
                self.matching.tau = float(loss.tau)

    def keep(self) -> tuple[float, Any]:
        """Return what the terms learnt, for `recover`."""
        state = None if self.objective is None else deepcopy(self.objective.state_dict())
        return self.matching.tau, state

    def recover(self, kept: tuple[float, Any]) -> None:
        """Go back to what `keep` returned."""
        self.matching.tau, state = kept
        if self.objective is not None:
            self.objective.load_state_dict(state)

    def numbers(self) -> dict[str, float]:
        """What the terms tell."""
        if self.objective is None:
            known = self.matching.kind in CHOICES
            return {"match.tau": self.matching.tau} if known else {}
        return {f"{name}.tau": float(soft.tau) for _, name, soft in self._softs}
