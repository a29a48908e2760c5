"""`agentkd eval`: planners, executors and earlier reports side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentkd.cli.options.eval import Options
from agentkd.cli.planner_choice import access
from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.cli.terminal import View
    from agentkd.distillation.attack import Attack
    from agentkd.measure.agreement import Sample
    from agentkd.measure.evaluate import Watch
    from agentkd.planners import Planner
    from agentkd.report.comparison import Candidate, Measured
    from agentkd.spec import Spec

__all__ = ["Options", "run"]
_SECONDS = 0.3
"""How long each policy's decision is timed."""


def run(options: Options) -> int:
    """Load everything, then measure one policy after another."""
    if options.episodes < 1 or options.seed < 0:
        raise ConfigError(
            f"--episodes {options.episodes} --seed {options.seed}: at least 1, and at least 0."
        )
    if not options.policies:
        raise ConfigError("Nothing to measure: name at least one policy.")
    import torch

    from agentkd.cli.terminal import View
    from agentkd.distillation.attack import Attack
    from agentkd.environments import look_at
    from agentkd.report.write import prepare_out

    torch.set_num_threads(1)
    spec = look_at(options.env)[0]
    attack = None
    if options.attack is not None:
        attack = Attack(options.attack, options.epsilon, options.attack_steps)
    found, reference = _load(options, spec)
    if attack is not None and all(each.planner is None for each in found):
        raise ConfigError("--attack needs a policy that acts; these are earlier reports.")
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    last = options.seed + options.episodes - 1
    view = View(
        (options.env, "bold"),
        f"   {options.episodes} episodes each, seeds {options.seed} to {last}",
    )
    return _measure(options, spec, found, reference, view, attack)


def _load(options: Options, spec: Spec) -> tuple[list[Candidate], Candidate | None]:
    """Load every policy, and choose the reference; it is in the list, and first."""
    from agentkd.report.comparison import candidates

    def load(ref: str) -> list[Candidate]:
        own = access(options)
        if ":" in ref or ref.endswith(".akd"):
            # What tells how a save is read is for saves.
            own["algorithm"] = None
            if ref.endswith(".akd") or own["vecnormalize"] == "off":
                own["vecnormalize"] = None
        return candidates(ref, options.env, spec, own)

    found = [each for ref in dict.fromkeys(options.policies) for each in load(ref)]
    if options.reference is None:
        reference = next((each for each in found if each.kind == "planner"), None)
    else:
        known = [each for each in found if each.ref == options.reference]
        known = known or load(options.reference)
        if known[0].planner is None:
            raise ConfigError(
                f"--reference {options.reference} is an earlier report; it has to be "
                "a policy, which can be asked."
            )
        reference = known[0]
    if reference is not None:
        found = [reference, *(each for each in found if each is not reference)]
    return found, reference


@contextmanager
def _watch(view: View, name: str) -> Iterator[Watch]:
    def tell(look: tuple[int, int, float]) -> tuple[float, dict[str, str]]:
        done, of, mean = look
        return done / of, {"episodes": f"{done} of {of}", "return": f"{mean:,.1f}"}

    with view.follow(name, tell) as show:
        yield lambda done, of, mean: show((done, of, mean))


def _measure(
    options: Options,
    spec: Spec,
    found: list[Candidate],
    reference: Candidate | None,
    view: View,
    attack: Attack | None,
) -> int:
    from agentkd.cli.eval_report import Comparison, report
    from agentkd.measure.agreement import Sample
    from agentkd.measure.evaluate import evaluate_random
    from agentkd.report.comparison import live
    from agentkd.report.console import publish

    # The spread of what the reference, or else the first that acts, observes is the unit of an
    # attack.
    sample = Sample()
    observer = reference or next((each for each in found if each.planner), None)
    seen = sample if observer is reference else Sample()
    done: list[Measured] = []
    attacked: tuple[Measured, ...] = ()
    random, interrupted = None, False
    measure: Any = {"episodes": options.episodes, "seed": options.seed}
    try:
        with _watch(view, "random actions") as watch:
            random = evaluate_random(options.env, progress=watch, **measure)
        for each in found:
            visited = seen if each is observer else None
            with _watch(view, each.ref) as watch:
                lived = live(each, options.env, spec, progress=watch, visited=visited, **measure)
            done.append(lived)
        view.say("Timing decisions …")
        done = _asked(done, sample, spec)
        if attack is not None:
            attacked = tuple(
                _attacked(options, attack, each, seen, sample, spec, view) for each in done
            )
    except KeyboardInterrupt:
        interrupted = True
    outcome = Comparison(random, tuple(done), reference, sample.size, interrupted, attack, attacked)
    publish(view.console, report(options, outcome), options.out)
    if interrupted:
        return 130
    return int(any(each.fault for each in done))


def _asked(done: list[Measured], sample: Sample, spec: Spec) -> list[Measured]:
    """Add agreement and latency to those that did not fail."""
    from agentkd.report.comparison import latencies

    alive = [each.candidate for each in done if not each.fault]
    times = iter(latencies(alive, sample, spec, seconds=_SECONDS))
    return [
        each
        if each.fault
        else replace(
            each, agreement=_agreement(each.candidate.planner, sample, spec), latency=next(times)
        )
        for each in done
    ]


def _agreement(planner: Planner | None, sample: Sample, spec: Spec) -> float:
    from agentkd.measure.agreement import agreement_with

    return math.nan if planner is None else agreement_with(sample, planner.policy, spec)


def _attacked(
    options: Options,
    attack: Attack,
    each: Measured,
    seen: Sample,
    agreed: Sample,
    spec: Spec,
    view: View,
) -> Measured:
    """Let a policy live its episodes again, under attack."""
    from agentkd.distillation.attack import Attacked, units
    from agentkd.report.comparison import Measured, live

    known, planner = each.candidate, each.candidate.planner
    if planner is None or each.fault or not seen.size:
        return Measured(known, None)
    try:
        unit = units(seen.obs, spec.obs)
        policy = Attacked(planner.policy, attack, unit, options.seed)
    except ConfigError as error:
        return Measured(known, None, fault=str(error))
    planner = replace(planner, policy=policy)
    with _watch(view, f"{known.ref} under {attack.by}") as watch:
        lived = live(
            replace(known, planner=planner),
            options.env,
            spec,
            episodes=options.episodes,
            seed=options.seed,
            progress=watch,
        )
    if lived.fault:
        return lived
    return replace(lived, agreement=_agreement(planner, agreed, spec))
