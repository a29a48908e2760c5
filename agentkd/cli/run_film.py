"""The film of `agentkd run`: one episode of each arm, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentkd.cli.terminal import View
from agentkd.environment_checks import told
from agentkd.errors import AgentkdError, ConfigError
from agentkd.measure.live import Lived, Setting
from agentkd.report.film import Take, renders
from agentkd.report.film_child import film_apart
from agentkd.report.model import Report

NAMES = {"planner": "planner alone", "executor": "executor alone", "runtime": "with agentkd"}
"""The arms, as film and lead call them."""
KEPT = 50_000
"""Decisions of an arm that a film can be made of."""


def check_film(env: str) -> None:
    """Check that an environment can be filmed.

    Raises:
        ConfigError: If it does not render.
    """
    if not renders(env):
        raise ConfigError(
            f"--film on: {env} does not render. Give its class render_mode='rgb_array' and name it "
            "in metadata['render_modes'], or leave --film out."
        )


def choose_episode(arms: Mapping[str, Lived]) -> tuple[int, str]:
    """Return the episode to show, and why, in words.

    It is the typical one: that with the median difference between the runtime and the planner
    alone.
    """
    kept = [_kept(lived) for lived in arms.values()]
    names = list(arms)
    first, last = names[0], names[-1]
    if {"planner", "runtime"} <= set(names):
        first, last = "planner", "runtime"
    many = min(kept)
    if not many:
        return 0, "the first one"
    ends = [arms[name].result.returns for name in (first, last)]
    if first == last:
        apart, why = list(ends[0][:many]), "the one with the median return"
    else:
        apart = [after - before for before, after in zip(*ends, strict=False)][:many]
        why = f"the one with the median difference in return between the {last} and the {first}"
    order = sorted(range(many), key=lambda each: (apart[each], each))
    return order[(many - 1) // 2], f"{why} ({many} episodes)"


def _kept(lived: Lived) -> int:
    """Count the episodes whose decisions were all kept."""
    ticks = count = 0
    for length in lived.result.lengths:
        ticks += length
        if ticks > len(lived.acts.who):
            break
        count += 1
    return count


def span_of(lived: Lived, episode: int) -> slice:
    """Return which of the decisions that were kept are those of an episode."""
    lengths = lived.result.lengths
    begin = sum(lengths[:episode])
    whole = episode < _kept(lived)
    return slice(begin, begin + lengths[episode] if whole else len(lived.acts.who))


def take_of(name: str, lived: Lived, episode: int) -> Take:
    """Return what an arm did in an episode."""
    acts, here = lived.acts, span_of(lived, episode)
    total = lived.result.returns[episode] if episode < _kept(lived) else None
    return Take(
        NAMES[name], acts.actions[here], acts.who[here], total, acts.rewards[here], acts.ends[here]
    )


def add_film(view: View, report: Report, setting: Setting, arms: Mapping[str, Lived]) -> Report:
    """Film an episode of each arm for a report; where that fails, a line says why.

    What was measured stays as it is: its actions are stepped again, in other environments.
    """
    episode, why = choose_episode(arms)
    seed = setting.seed + episode
    takes = [take_of(name, lived, episode) for name, lived in arms.items()]
    try:
        if not renders(setting.env):
            return report
        if not all(take.actions for take in takes):
            view.say("No film: some decisions were missed, so what was done is not known.")
            return report
        view.say(f"Filming seed {seed}, {why} …")
        made = film_apart(setting.env, seed, takes, setting.hz, why)
    except AgentkdError as error:
        view.say(f"No film: {error}")
    except ModuleNotFoundError as error:
        view.say(f"No film: it needs the package {error.name}.")
    except Exception as error:  # a renderer raises anything
        view.say(f"No film: the renderer raised {told(error)}.")
    else:
        return replace(report, film=made, data={**report.data, "film": {"seed": seed, "why": why}})
    return report
