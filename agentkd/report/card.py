"""Model cards of the Hugging Face Hub: figures that were measured, and what a file is.

A card is a README.md. Its front matter, which the Hub reads, and one block between two marks are
written by agentkd; what stands outside of them is kept.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkd.errors import ConfigError
from agentkd.printable import printable

BEGIN, END = "<!-- agentkd card: begin -->", "<!-- agentkd card: end -->"
_OWN = "# Written by agentkd card; what stands here is replaced."
_TAGS = ("reinforcement-learning", "policy-distillation", "real-time", "agentkd")
_FRONT = re.compile(r"\A---\n(.*?)^---\n\n?", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END) + "\n?", re.DOTALL)

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one policy reached. NaN and None are unknown.

    Attributes:
        name: What it is called, such as "executor".
        value: Its mean return.
        interval: The 95 % interval of it.
        spread: The standard deviation between episodes.
        retention: Of the executor.
        kept: The 95 % interval of it.
        parameters: Trained numbers that act; 0 if unknown.
        latency: The median time of one decision, µs.
    """

    name: str
    value: float
    interval: Interval | None = None
    spread: float = math.nan
    retention: float = math.nan
    kept: Interval | None = None
    parameters: int = 0
    latency: float = math.nan


@dataclass(frozen=True, slots=True)
class Figures:
    """What a report tells: the environment, policies, and how they were measured."""

    env: str
    policies: tuple[Measured, ...]
    episodes: int = 0
    seed: int | None = None
    command: str = ""
    versions: Mapping[str, str] | None = None
    platform: str = ""


def of_report(data: Mapping[str, Any]) -> Figures:
    """Read the figures out of a report.json of distill, run or eval, as far as they are numbers."""
    listed = data.get("policies")
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        best = data.get("reference")
        rows = [_policy(each, best) for each in listed if isinstance(each, Mapping)]
    else:
        names = ("planner", "executor", "runtime")
        rows = [_headline(data, name) for name in names]
    if (chance := _headline(data, "random")) is not None:
        rows.append(chance)
    returns = data.get("returns")
    lived = returns.values() if isinstance(returns, Mapping) else ()
    counted = [len(each) for each in lived if isinstance(each, list)]
    episodes = data.get("episodes", max(counted, default=0))
    seed = data.get("eval_seed", data.get("seed"))
    return Figures(
        str(data.get("env") or ""),
        tuple(each for each in rows if each is not None),
        episodes if isinstance(episodes, int) else 0,
        seed if isinstance(seed, int) else None,
        _words(data.get("argv")),
        _versions(data.get("versions")),
        str(data.get("platform") or ""),
    )


def of_provenance(told: Mapping[str, Any]) -> Figures:
    """Read the figures that an executor's file holds, as far as they are there."""
    kept, returns = told.get("retention"), told.get("returns")
    kept = kept if isinstance(kept, Mapping) else {}
    returns = returns if isinstance(returns, Mapping) else {}
    rows = []
    for name in ("planner", "executor", "random"):
        value = _number(returns.get(name))
        own = kept if name == "executor" else {}
        if math.isfinite(value):
            pair = _pair([own.get("low"), own.get("high")])
            rows.append(Measured(name, value, None, retention=_number(own.get("mean")), kept=pair))
    episodes, seed = kept.get("episodes"), kept.get("seed")
    return Figures(
        str(told.get("env") or ""),
        tuple(rows),
        episodes if isinstance(episodes, int) else 0,
        seed if isinstance(seed, int) else None,
        _words(told.get("command")),
        _versions(told.get("versions")),
    )


def card(
    figures: Figures,
    facts: Mapping[str, str],
    *,
    name: str,
    files: Mapping[str, str],
    licence: str = "",
    before: str = "",
) -> str:
    """Write a card, or renew one.

    Args:
        figures: What was measured.
        facts: What the executor is, in words, by name.
        name: The model's name.
        files: The SHA-256 of each file that it is about, by name.
        licence: The licence as the Hub names it, such as "mit"; "" for none.
        before: The text that the README has now.

    Raises:
        ConfigError: If `before` has front matter that agentkd did not write.
    """
    found = _FRONT.match(before)
    if found and not found[1].startswith(_OWN):
        raise ConfigError(
            "The README has front matter of its own. Remove it, or write the card elsewhere "
            "(--out)."
        )
    rest = before[found.end() :] if found else before
    block = "\n".join((BEGIN, *_block(figures, facts, files), END)) + "\n"
    if _BLOCK.search(rest):
        rest = _BLOCK.sub(lambda _: block, rest, count=1)
    else:
        title = "" if rest.strip() else f"# {_cell(name)}\n\n"
        rest = f"{title}{rest.rstrip()}\n\n{block}" if rest.strip() else title + block
    return "\n".join(("---", _OWN, *_front(figures, name, licence), "---", "", rest))


def _front(figures: Figures, name: str, licence: str) -> Iterator[str]:
    """Yield the lines of YAML; texts are written as JSON, which is YAML."""
    yield "library_name: agentkd"
    if licence:
        yield f"license: {_yaml(licence)}"
    yield "pipeline_tag: reinforcement-learning"
    yield "tags:"
    env = _short(figures.env)
    yield from (f"- {_yaml(each)}" for each in (*_TAGS, *([env] if env else ())))
    measured = [each for each in figures.policies if each.name != "random" and env]
    if not measured:
        return
    yield "model-index:"
    for each in measured:
        yield f"- name: {_yaml(f'{name}, {each.name}')}"
        yield "  results:"
        yield "  - task:"
        yield "      type: reinforcement-learning"
        yield "      name: reinforcement learning"
        yield "    dataset:"
        yield f"      name: {_yaml(figures.env)}"
        yield f"      type: {_yaml(env)}"
        yield "    metrics:"
        spread = "" if math.isnan(each.spread) else f" +/- {each.spread:.2f}"
        yield from _metric("mean_reward", f"{each.value:.2f}{spread}")
        if math.isfinite(each.retention):
            yield from _metric("retention", f"{each.retention:.3f}")
        if math.isfinite(each.latency):
            yield from _metric("decision_latency_us_p50", f"{each.latency:.1f}")


def _yaml(text: str) -> str:
    return json.dumps(printable(text), ensure_ascii=False)


def _metric(name: str, value: str) -> Iterator[str]:
    yield f"    - type: {name}"
    yield f"      name: {name}"
    yield f"      value: {_yaml(value)}"
    yield "      verified: false"


def _block(figures: Figures, facts: Mapping[str, str], files: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of Markdown between the marks."""
    yield ""
    if figures.policies:
        yield "| policy | return | 95 % interval | retention | parameters | one decision, p50 |"
        yield "|---|---|---|---|---|---|"
        for each in figures.policies:
            size = f"{each.parameters:,}" if each.parameters else ""
            time = f"{each.latency:.1f} µs" if math.isfinite(each.latency) else ""
            kept = f"{each.retention:.3f}{_within(each.kept, '.3f')}"
            kept = kept if math.isfinite(each.retention) else ""
            interval = _within(each.interval, ",.1f").strip(" ()")
            shown = (_cell(each.name), f"{each.value:,.1f}", interval, kept, size, time)
            yield f"| {' | '.join(shown)} |"
        yield ""
        yield from _how(figures)
    else:
        yield "Nothing was measured: give a report of `agentkd eval`, `run` or `distill`."
    yield ""
    if facts:
        yield "| | |"
        yield "|---|---|"
        yield from (f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items())
        yield ""
    if files:
        yield "| file | SHA-256 |"
        yield "|---|---|"
        yield from (f"| `{_cell(key)}` | `{_cell(value)}` |" for key, value in files.items())
        yield ""
    executors = [each for each in files if each.endswith(".akd")]
    if executors:
        yield from ("```python", "import agentkd", "")
        yield f"executor = agentkd.read_bundle({json.dumps(executors[0])}).executor"
        yield from ("action = executor.act(obs)", "```", "")


def _how(figures: Figures) -> Iterator[str]:
    said = []
    if figures.episodes:
        first = "" if figures.seed is None else f" from seed {figures.seed}"
        said.append(f"{figures.episodes} episodes each{first}, in `{_cell(figures.env)}`.")
    said.append("Retention: 0 is random actions, 1 the planner.")
    if figures.platform:
        said.append(f"On {_cell(figures.platform)}.")
    if figures.versions:
        listed = ", ".join(f"{key} {value}" for key, value in sorted(figures.versions.items()))
        said.append(f"With {_cell(listed)}.")
    yield " ".join(said)
    if figures.command:
        yield from ("", f"    {printable(figures.command)}")


def _policy(told: Mapping[str, Any], best: Any) -> Measured | None:
    """Return one policy of a report of `eval`; None if it reached nothing.

    The best one, by which retention is measured, has none.
    """
    ref, name = str(told.get("ref", "")), str(told.get("name", ""))
    found = _measured(f"{ref} ({name})" if name else ref, told)
    if found is None or ref != best:
        return found
    return replace(found, retention=math.nan, kept=None)


def _headline(data: Mapping[str, Any], name: str) -> Measured | None:
    """Return a policy of a report of `distill` or `run`; None if it reached nothing."""
    keys = ("return", "return_interval", "parameters")
    told = {key: data.get(f"{name}_{key}") for key in keys}
    returns = data.get("returns")
    told["returns"] = returns.get(name) if isinstance(returns, Mapping) else None
    if name == "executor":
        told |= {key: data.get(key) for key in ("retention", "retention_interval")}
        told["decision_latency_us"] = data.get("decision_latency_us")
    return _measured(name, told)


def _measured(name: str, told: Mapping[str, Any]) -> Measured | None:
    value = _number(told.get("return"))
    if not math.isfinite(value):
        return None
    size, latency = told.get("parameters"), told.get("decision_latency_us")
    returns = told.get("returns")
    numbers = [_number(each) for each in returns] if isinstance(returns, list) else []
    mean = sum(numbers) / len(numbers) if numbers else math.nan
    square = sum((each - mean) ** 2 for each in numbers)
    return Measured(
        name,
        value,
        _pair(told.get("return_interval")),
        math.sqrt(square / (len(numbers) - 1)) if len(numbers) > 1 else math.nan,
        _number(told.get("retention")),
        _pair(told.get("retention_interval")),
        size if isinstance(size, int) else 0,
        _number(latency.get("p50")) if isinstance(latency, Mapping) else math.nan,
    )


def _number(value: Any) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known else math.nan


def _pair(value: Any) -> Interval | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(_number, value)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _words(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else ""


def _versions(value: Any) -> dict[str, str] | None:
    if not isinstance(value, Mapping):
        return None
    return {str(key): str(each) for key, each in value.items()}


def _within(pair: Interval | None, form: str) -> str:
    return "" if pair is None else f" ({pair[0]:{form}} … {pair[1]:{form}})"


def _short(env: str) -> str:
    """Return an environment's id, without its module and arguments."""
    return env.partition("{")[0].rpartition(":")[2].rpartition("/")[2]


def _cell(text: str) -> str:
    """Make a text safe in a table of Markdown, and as one line."""
    plain = printable(str(text))
    for mark in "\\|`<>*[":
        plain = plain.replace(mark, f"\\{mark}") if mark != "`" else plain.replace(mark, "'")
    return plain
