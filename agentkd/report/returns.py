"""Returns and retention, as reports of several commands show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.measure.intervals import mean_interval, retention
from agentkd.report.model import Column, Plot, Series

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


def episodes_plot(
    figures: Mapping[str, Mapping[str, Any]], marks: Sequence[tuple[str, Any]] = ()
) -> Plot:
    """Show the return of each episode, by policy, with mean and interval.

    `figures` are those of `reached`; `marks` are means to compare with, by name, NaN or None where
    they are not known.
    """
    rows = (
        Series(name, each["returns"], [each["return"]], *zip(each["return_interval"], strict=False))
        for name, each in figures.items()
        if each["returns"]
    )
    note = "A dot is an episode, the diamond their mean, the bar its 95 % interval."
    known = tuple((name, value) for name, value in marks if value is not None and value == value)
    title = "Return of each episode, on the same seeds"
    return Plot(title, "return", "", tuple(rows), note, "rows", marks=known)


def kept_plots(policies: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Show retention against size and against the time of a decision, where several have them.

    Each policy has the figures of `reached`, `parameters` and `decision_latency_us`.
    """
    named = {
        "parameters": {name: each["parameters"] for name, each in policies.items()},
        "µs for one decision, p50": {
            name: (each["decision_latency_us"] or {}).get("p50") for name, each in policies.items()
        },
    }
    plots = []
    for label, values in named.items():
        points = tuple(
            Series(name, [value], [kept], *zip(policies[name]["retention_interval"], strict=False))
            for name, value in values.items()
            if value and math.isfinite(kept := policies[name]["retention"])
        )
        if len(points) > 1:
            title = f"What is kept, against {'size' if label == 'parameters' else 'time'}"
            plots.append(Plot(title, label, "retention", points, kind="points", log=True))
    return plots
