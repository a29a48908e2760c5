"""The gate of a device: how an executor comes onto it, is tried, and stays or goes.

`Trial` is imported when it is first used: only a program that acts needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentkd.device.device import Device
from agentkd.device.state import Candidate, Held, Outcome, State, Tally

if TYPE_CHECKING:
    from agentkd.device.trial import Trial, TrialOptions

__all__ = ["Candidate", "Device", "Held", "Outcome", "State", "Tally", "Trial", "TrialOptions"]


def __getattr__(name: str) -> Any:
    if name not in ("Trial", "TrialOptions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("agentkd.device.trial"), name)
