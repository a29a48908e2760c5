"""Returns and retention, as reports of several commands show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.measure.intervals import mean_interval, retention
from agentkd.report.model import Column, Series

COLUMNS = (
    *(Column("return", form=",.1f"), Column("95 % interval", form=",.1f")),
    Column("retention", form=",.3f", help="0 is random actions, 1 the reference."),
)


@dataclass(frozen=True, slots=True)
class Goals:
    """The mean returns of planner and random actions, with which others are compared."""

    planner: float = math.nan
    random: float = math.nan

    def retention(self, value: float) -> float:
        """(value - random) / (planner - random); NaN where they are equal."""
        apart = self.planner - self.random
        return (value - self.random) / apart if apart else math.nan


def reached(
    returns: Sequence[float], best: Sequence[float], floor: Sequence[float]
) -> dict[str, Any]:
    """Return the mean of a policy's returns and its retention, with intervals.

    `best` are the reference's returns, `floor` those of random actions.
    """
    mean, kept = mean_interval(returns), retention(returns, best, floor)
    return {
        "return": mean.mean,
        "return_interval": [mean.low, mean.high],
        "returns": list(returns),
        "retention": kept.mean,
        "retention_interval": [kept.low, kept.high],
        "retention_note": kept.reason,
    }


def add_headline(data: dict[str, Any], name: str, figures: Mapping[str, Any]) -> None:
    """Put a policy's figures where programs look for them in a report's data."""
    for key in ("return", "return_interval"):
        data[f"{name}_{key}"] = figures[key]
    data.setdefault("returns", {})[name] = figures["returns"]
    if name == "executor":
        data |= {key: figures[key] for key in ("retention", "retention_interval")}


def cells(figures: Mapping[str, Any]) -> list[Any]:
    """Return the cells under `COLUMNS`."""
    return [figures[key] for key in ("return", "return_interval", "retention")]


def levels(x: Sequence[float], values: Mapping[str, float]) -> list[Series]:
    """Return lines to compare a curve with, from its first x to its last."""
    ends = [x[0], x[-1]] if x else []
    return [Series(name, ends, [value for _ in ends]) for name, value in values.items()]
