"""`agentkd eval`: planners, executors and earlier reports side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.cli.eval_view import EvalView
    from agentkd.distillation.attack import Assault, Attack
    from agentkd.measure.agreement import Sample
    from agentkd.report.comparison import Candidate, Measured
    from agentkd.spec import Spec

_SECONDS = 0.3
"""How long each policy's decision is timed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure policies on the same episodes, side by side.

    Example: agentkd eval LunarLander-v3 policies/lunarlander runs/demo/executor.akd
    """

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
    """Measure everything once more on observations that are off: by chance, or the worst that one
    step, or several, along an executor's own gradient find."""
    epsilon: float = 0.1
    """How far off: in units of the spread of what the reference observes."""
    attack_steps: int = 10
    """How many steps pgd takes."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""
    vecnormalize: str | None = None
    """Statistics of the planners' normaliser, if not beside them; "off" for none."""
    algorithm: str | None = None
    """The SB3 algorithm, if a save does not tell."""
    unpickle: bool = False
    """Read a save by running the code in it. Only for files whose maker you trust."""


def run(options: Options) -> int:
    """Load everything, then measure one policy after another."""
    import torch

    from agentkd import environments
    from agentkd.cli.eval_attack import attack_of, whose_states
    from agentkd.cli.eval_view import EvalView
    from agentkd.report.report import prepare_out
    from agentkd.spec import env_spec

    torch.set_num_threads(1)
    if options.episodes < 1 or options.seed < 0:
        raise ConfigError(
            f"--episodes {options.episodes} --seed {options.seed}: at least 1, and at least 0."
        )
    if not options.policies:
        raise ConfigError("Nothing to measure: name at least one policy.")
    probe = environments.make(options.env)
    spec = env_spec(probe)
    probe.close()
    attack = attack_of(options)
    found, reference = _load(options, spec)
    whose = None if attack is None else whose_states(found, reference)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    view = EvalView(options.env, options.episodes, options.seed)
    return _measure(options, spec, found, reference, view, attack, whose)


def _load(options: Options, spec: Spec) -> tuple[list[Candidate], Candidate | None]:
    """Load every policy, and choose the reference; it is in the list, and first."""
    from agentkd.report.comparison import candidates

    def load(ref: str) -> list[Candidate]:
        own = dict(access)
        if ":" in ref or ref.endswith(".akd"):
            # What tells how a save is read is for saves.
            own |= {"algorithm": None}
        if ref.endswith(".akd") or own["vecnormalize"] == "off":
            own |= {"vecnormalize": None if ":" in ref or ref.endswith(".akd") else "off"}
        return candidates(ref, options.env, spec, own)

    access = {
        "vecnormalize": options.vecnormalize,
        "algorithm": options.algorithm,
        "allow_pickle": options.unpickle,
    }
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


def _measure(
    options: Options,
    spec: Spec,
    found: Sequence[Candidate],
    reference: Candidate | None,
    view: EvalView,
    attack: Attack | None,
    whose: Candidate | None,
) -> int:
    from agentkd.cli.eval_attack import assault
    from agentkd.cli.eval_report import Comparison, write
    from agentkd.measure.agreement import Sample
    from agentkd.measure.evaluate import evaluate_random
    from agentkd.report.comparison import live

    sample = Sample()
    seen = sample if whose is reference else Sample()
    assaults: tuple[Assault, ...] = ()
    done: list[Measured] = []
    random, interrupted = None, False
    measure: Any = {"episodes": options.episodes, "seed": options.seed}
    try:
        with view.watch("random actions") as watch:
            random = evaluate_random(options.env, progress=watch, **measure)
        for each in found:
            with view.watch(each.ref) as watch:
                visited = sample if each is reference else None
                if each is whose:
                    visited = seen
                done.append(
                    live(each, options.env, spec, progress=watch, visited=visited, **measure)
                )
        done = _asked(done, sample, spec, view)
        if attack is not None:
            assaults = assault(options, attack, done, seen, sample, spec, view)
    except KeyboardInterrupt:
        interrupted = True
    outcome = Comparison(random, tuple(done), reference, sample.size, interrupted, attack, assaults)
    return write(options, outcome, view)


def _asked(done: Sequence[Measured], sample: Sample, spec: Spec, view: EvalView) -> list[Measured]:
    """Add agreement and latency to what lived."""
    from agentkd.report.comparison import compared, latencies

    alive = [each for each in done if not each.fault]
    view.say("Timing decisions …")
    found = [each.candidate for each in alive]
    times = latencies(found, sample, spec, seconds=_SECONDS)
    known = {
        id(each): replace(each, agreement=compared(each.candidate, sample, spec), latency=latency)
        for each, latency in zip(alive, times, strict=True)
    }
    return [known.get(id(each), each) for each in done]
