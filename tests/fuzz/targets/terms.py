"""The text of --terms."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.terms import Terms, parse_terms, to_text
from agentkd.distillation.terms.adversarial import Adversarial
from agentkd.distillation.terms.answers import Action, Hard, Match, Soft
from agentkd.distillation.terms.inside import Attention, Slopes
from agentkd.distillation.terms.robust import Robust
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, Spec
from agentkd.types import Categorical
from tests.deploy_executors import OBS
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_SPEC = Spec(OBS, DiscreteSpec(3))
_TERMS = (Match, Soft, Hard, Robust, Adversarial, Action, Slopes, Attention)
_VALUES = ("auto", "true", "false", "none", "0", "1", "2", "3.5", "-1", "0.1", "1e-3")
_ODD = ("nan", "inf", "-inf", "1e999", "1e-999", "1e30", "99999999999", "", "x", "1_0", "٣")


def build(draw: Draw) -> Files:
    """Make a line."""
    line = " + ".join(_term(draw) for _ in range(1 + draw.below(2)))
    if draw.chance(2):
        line = f"match + {line}"
    if draw.chance(6):
        line = mutate.text(draw, line)
    return {"line": line.encode("utf-8", "surrogatepass")}


def _term(draw: Draw) -> str:
    """One term, with a factor and options that may be odd."""
    kind = draw.choice(_TERMS)
    keys = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    given = [
        f"{draw.choice(keys)}={draw.choice(_ODD if draw.chance(4) else _VALUES)}"
        for _ in range(draw.below(3) if keys else 0)
    ]
    factor = draw.choice(("", "0.3 ", "0.5*", "2e3 "))
    if draw.chance(16):
        factor = draw.choice(_ODD) + " "
    return factor + kind.__name__.lower() + (f":{','.join(given)}" if given else "")


def _options(terms: Terms) -> DistillerOptions:
    return DistillerOptions(terms=terms, batch=8, least=8, capacity=64)


def read(folder: Path) -> tuple[Terms, float]:
    """Parse it, and learn one step by it."""
    terms = parse_terms((folder / "line").read_bytes().decode("utf-8", "surrogatepass"))
    distiller = Distiller(initial("linear", _SPEC), _options(terms))
    random = np.random.default_rng(0)
    obs, logits = (random.standard_normal((16, n)).astype(np.float32) for n in (7, 3))
    distiller.add(obs, Categorical(logits))
    return terms, next(iter(distiller.step().values()))


def work(found: tuple[Terms, float]) -> None:
    """Write the terms as they are read; the loss is a number."""
    terms, loss = found
    assert parse_terms(to_text(terms)) == terms
    assert math.isfinite(loss)


TARGET = Target("terms", build, read, work)
