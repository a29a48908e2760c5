"""`agentkd eval`: planners, executors and earlier reports side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import tyro

from agentkd.cli.options import Reported, access
from agentkd.cli.terminal import View
from agentkd.environments import look_at
from agentkd.errors import ConfigError, check_range
from agentkd.measure.agreement import Sample, agreement_with
from agentkd.measure.evaluate import Watch, evaluate_random
from agentkd.planners.load import takes_arguments
from agentkd.refs import is_reference
from agentkd.report import comparison
from agentkd.report.comparison import Candidate, Comparison
from agentkd.report.console import publish
from agentkd.report.write import prepare_out
from agentkd.spec import Spec

if TYPE_CHECKING:
    from agentkd.distillation.attack import Attack

_SECONDS = 0.3
"""How long each policy's decision is timed."""


@dataclass(frozen=True, kw_only=True)
class Options(Reported):
    """Measure policies on the same episodes, side by side."""

    env: tyro.conf.Positional[str]
    """A Gymnasium id, "module:Id-v0", or "module:attribute" that makes one."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment: KEY=VALUE, such as gravity=-5, or a JSON object."""
    policies: tyro.conf.Positional[tuple[str, ...]]
    """SB3 saves or their folders, module:attribute, executor files (.akd), and earlier results: a
    report.json or a folder with one."""
    reference: str | None = None
    """What retention and agreement are against; by default the first planner."""
    episodes: int = 20
    """How many episodes each policy lives."""
    seed: int = 1000
    """Episode i is reset with seed + i."""
    attack: Literal["noise", "fgsm", "pgd"] | None = None
    """Measure everything once more on perturbed observations: by noise, or the worst that one step,
    or several, along an executor's own gradient find."""
    epsilon: float = 0.1
    """The size of the attack, in units of the spread of what the reference observes."""
    attack_steps: int = 10
    """How many steps pgd takes."""


def run(options: Options) -> int:
    """Load everything, then measure one policy after another."""
    check_range("--episodes", options.episodes, least=1)
    check_range("--seed", options.seed, least=0)
    if not options.policies:
        raise ConfigError("Nothing to measure: name at least one policy.")
    import torch

    from agentkd.distillation.attack import Attack

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

    def load(ref: str) -> list[Candidate]:
        own = access(options.saves)
        if ":" in ref or ref.endswith(".akd"):
            # What tells how a save is read is for saves.
            own["algorithm"] = None
            if not (is_reference(ref) and takes_arguments(ref)):
                own["args"] = None
            if ref.endswith(".akd"):
                own["sees"] = None
            if ref.endswith(".akd") or own["vecnormalize"] == "off":
                own["vecnormalize"] = None
        return comparison.candidates(ref, options.env, spec, own)

    found = [each for ref in dict.fromkeys(options.policies) for each in load(ref)]
    if options.reference is None:
        reference = next((each for each in found if each.kind == "planner"), None)
    else:
        known = [each for each in found if each.ref == options.reference]
        reference = (known or load(options.reference))[0]
        if reference.planner is None:
            raise ConfigError(
                f"--reference {options.reference} is an earlier report; it has to be "
                "a policy, which can be asked."
            )
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
    # The spread of what the reference, or else the first that acts, observes is the unit of an
    # attack.
    sample = Sample()
    observer = reference or next((each for each in found if each.planner), None)
    seen = sample if observer is reference else Sample()
    done: list[Candidate] = []
    attacked: list[Candidate] = []
    random, interrupted = None, False
    env, how = options.env, {"episodes": options.episodes, "seed": options.seed}

    def compared(each: Candidate) -> Candidate:
        if each.planner is None or each.evaluation is None:
            return each
        return replace(each, agreement=agreement_with(sample, each.planner.policy, spec))

    try:
        with _watch(view, "random actions") as watch:
            random = evaluate_random(env, progress=watch, **how)
        for each in found:
            visited = seen if each is observer else None
            with _watch(view, each.ref) as watch:
                done.append(
                    comparison.live(each, env, spec=spec, progress=watch, visited=visited, **how)
                )
        view.say("Timing decisions …")
        times = comparison.timed(done, sample, spec, seconds=_SECONDS)
        done = list(map(compared, times))
        if attack is not None:
            hurt = [_attacked(options, attack, each, seen, spec, view) for each in done]
            attacked = list(map(compared, hurt))
    except KeyboardInterrupt:
        interrupted = True
    outcome = Comparison(
        env=env,
        **how,
        random=random,
        measured=tuple(done),
        reference=reference,
        states=sample.size,
        interrupted=interrupted,
        attack=attack,
        attacked=tuple(attacked),
    )
    publish(view.console, outcome.report(), options.out)
    if interrupted:
        return 130
    return int(any(each.fault for each in done))


def _attacked(
    options: Options, attack: Attack, each: Candidate, seen: Sample, spec: Spec, view: View
) -> Candidate:
    """Let a policy live its episodes again, under attack."""
    from agentkd.distillation.attack import Attacked, units

    new = replace(each, evaluation=None, agreement=math.nan, fault="")
    if each.planner is None or each.fault or not seen.size:
        return new
    try:
        unit = units(seen.obs, spec.obs)
        policy = Attacked(each.planner.policy, attack, unit, options.seed)
    except ConfigError as error:
        return replace(new, fault=str(error))
    hurt = replace(new, planner=replace(each.planner, policy=policy))
    how = {"episodes": options.episodes, "seed": options.seed, "spec": spec}
    with _watch(view, f"{each.ref} under {attack.by}") as watch:
        return comparison.live(hurt, options.env, progress=watch, **how)
