"""Plots of `agentkd run`: what each arm returned, who acted and why, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.cli.run_film import NAMES, choose_episode, span_of
from agentkd.measure.live import Lived, Setting
from agentkd.report.model import Plot, Series
from agentkd.report.returns import episodes_plot
from agentkd.runtime.loop import SOURCES

_LEVELS = (*SOURCES, "guided")
_WORDS = ("strategy of the planner", "executor", "hold the last action", "default action")
_NAMED = (*_WORDS, "guided: executor with a goal")


def returns_of(data: Mapping[str, Any]) -> Plot:
    """Show the returns of each arm, beside a planner that is never late and random actions."""
    arms = {NAMES[name]: arm for name, arm in data["arms"].items()}
    ends = ("random actions", data["random_return"]), ("never late", data["planner_return"])
    return episodes_plot(arms, ends)


def who_acted(setting: Setting, arms: Mapping[str, Lived]) -> list[Plot]:
    """Show who acted when, in the episode of the film, and why, in all of them."""
    plots = []
    episode, why = choose_episode(arms)
    strips = [_strip(NAMES[name], lived, episode) for name, lived in arms.items()]
    if all(each is not None for each in strips):
        plots.append(
            Plot(
                "Who acted at each tick of an episode",
                "tick",
                "",
                tuple(each for each in strips if each is not None),
                f"Seed {setting.seed + episode}, {why}. Point at a part for the reason.",
                "strips",
                levels=_NAMED,
            )
        )
    shares = [
        _share(NAMES[name], lived.result.metrics["decisions_total"]) for name, lived in arms.items()
    ]
    plots.append(
        Plot(
            "Who decided, and why",
            "",
            "",
            tuple(shares),
            "Of all decisions of each arm, by source and reason; the reasons are in the glossary.",
            "shares",
            levels=_NAMED,
        )
    )
    return plots


def _strip(name: str, lived: Lived, episode: int) -> Series | None:
    """Join the ticks of an episode at which the same acted for the same reason."""
    span = span_of(lived, episode)
    did = list(zip(lived.acts.who[span], lived.acts.why[span], strict=True))
    if not did:
        return None
    starts = [at for at, each in enumerate(did) if not at or each != did[at - 1]]
    codes = [_LEVELS.index(did[at][0]) for at in starts]
    notes = [f"{_NAMED[code]} ({did[at][1]})" for code, at in zip(codes, starts, strict=True)]
    return Series(name, [*starts, len(did)], codes, notes=notes)


def _share(name: str, decisions: Mapping[str, Mapping[str, int]]) -> Series:
    parts = [
        (_LEVELS.index("guided" if reason == "guided" else source), count, reason)
        for source, reasons in decisions.items()
        for reason, count in reasons.items()
    ]
    parts.sort(key=lambda part: (part[0], -part[1]))
    codes, counts, notes = zip(*parts, strict=True) if parts else ((), (), ())
    return Series(name, codes, counts, notes=notes)


def latencies(setting: Setting, arms: Mapping[str, Lived]) -> Plot:
    """Show how long decisions took, against what a tick leaves for one."""
    rows: Sequence[Series] = [
        Series(NAMES[name], *lived.result.latencies)
        for name, lived in arms.items()
        if lived.result.latencies[1]
    ]
    what = "deadline" if setting.clock == "wall" else f"a period at {setting.hz:g} Hz"
    return Plot(
        "How long a decision takes",
        "µs",
        "",
        tuple(rows),
        "Both axes are logarithmic, so that a single slow decision is seen.",
        "distributions",
        marks=((what, 1e6 / setting.hz),),
    )
