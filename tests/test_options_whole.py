"""Whole numbers among the options: other values are refused, by the option's name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from agentkd.device.trial import TrialOptions
from agentkd.distillation.attack import Attack
from agentkd.distillation.auto import candidates
from agentkd.distillation.change import ChangeOptions
from agentkd.distillation.engine import DistillerOptions
from agentkd.distillation.gate import GateOptions
from agentkd.distillation.int8 import FineTuning
from agentkd.distillation.ppo import PpoOptions
from agentkd.distillation.practice import PracticeOptions
from agentkd.distillation.run import Budget
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.terms.adversarial import Adversarial
from agentkd.distillation.terms.inside import Attention, Slopes
from agentkd.distillation.terms.robust import Robust
from agentkd.errors import ConfigError
from agentkd.fleet.sharing import Sharing
from agentkd.planners.search.exact import ExactOptions
from agentkd.planners.search.mpc import MpcOptions
from agentkd.planners.search.tree import TreeOptions
from agentkd.runtime import loop
from agentkd.runtime.clock import Realtime
from agentkd.runtime.goals import Goals
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import Seam, Trust
from agentkd.runtime.workers.host import Process
from agentkd.transport.options import MqttOptions

# The options that have to be there are given.
OPTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    Adversarial: {},
    Attack: {"by": "noise", "eps": 0.1},
    Attention: {},
    Budget: {"seconds": 1.0},
    ChangeOptions: {},
    CollectionOptions: {},
    DistillerOptions: {},
    ExactOptions: {},
    FineTuning: {},
    GateOptions: {},
    Goals: {"size": 2, "max_age": 8},
    MpcOptions: {},
    MqttOptions: {"address": "mqtt://127.0.0.1"},
    PpoOptions: {},
    PracticeOptions: {"ticks": 100},
    Process: {"factory": "tests.runtime_children:constant"},
    Realtime: {},
    Robust: {},
    Rollback: {},
    RollForward: {"model": "Pendulum-v1"},
    Seam: {},
    Sharing: {},
    Slopes: {},
    TreeOptions: {},
    TrialOptions: {},
    candidates.Limits: {},
    candidates.Pruning: {},
    loop.Limits: {},
}


def whole(kind: Any) -> list[str]:
    """Return the names of the options that are whole numbers."""
    return [each.name for each in fields(kind) if str(each.type) in ("int", "int | None")]


@pytest.mark.parametrize("value", [True, 1.5, 8.0, math.nan, math.inf, "8", [8]], ids=repr)
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in OPTIONS for name in whole(kind)],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_what_is_no_whole_number_is_refused(kind: Any, name: str, value: Any) -> None:
    """The message has the option, the value and what it has to be."""
    told = rf"{name} is {re.escape(repr(value))}; it has to be an int"
    with pytest.raises(ConfigError, match=told):
        kind(**{**OPTIONS[kind], name: value})


def test_no_class_of_options_is_left_out() -> None:
    """Each in the table has such an option, and the defaults are some."""
    for kind, given in OPTIONS.items():
        assert whole(kind), kind
        kind(**given)


def test_true_is_no_share() -> None:
    """It was taken as 1."""
    told = r"Trust's stand_in is True; it has to be a number, at least 0 and at most 1"
    with pytest.raises(ConfigError, match=told):
        Trust(stand_in=True)
