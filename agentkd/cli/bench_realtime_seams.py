"""`agentkd bench realtime seams`: where chunks of actions meet, and the arm jumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tyro.conf import OmitArgPrefixes

from agentkd.bench.realtime.seams import Scene, Seamed, rules
from agentkd.cli.bench_realtime import Place
from agentkd.errors import ConfigError
from agentkd.report.model import Section, Table

_ANYWHERE = Place()
_COLUMNS = ("rule", "starved", "first", "skipped", "step", "seam", "seam/step")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Live LeRobot's issue 4223 again under the virtual clock, with several rules.

    An arm is told positions at 30 Hz; its planner answers with the next 30, after 0.7 s the first
    time and 0.3 s later. Which of them is commanded first? By the largest latency so far, as
    LeRobot's queue had it, the arm jumps over 21. By commands, which is
    StrategyOptions(advance="commands"), none is skipped: what nobody acted on is not used up. By
    ticks is for worlds that do not wait, and skips what is over.

    In the second table chunks drift from one another, as those of generative policies do, and a
    blend (Seam(blend=…)) keeps seams within a chunk's own largest step.

    Example: agentkd bench realtime seams
    """

    seconds: float = 20.0
    """How long the arm moves."""
    warm_up: float = 0.7
    """Seconds of the first answer."""
    latency: float = 0.3
    """Seconds of the others."""
    wander: float = 0.3
    """How far chunks drift from the path by their ends, in the second table."""
    blend: int = 16
    """Ticks of the blend."""
    seed: int = 0
    """For the drift."""
    place: OmitArgPrefixes[Place] = _ANYWHERE
    """Where the results go."""


def run(options: Options) -> int:
    """Live through both scenes, and print the tables."""
    for name in ("seconds", "warm_up", "latency"):
        value = getattr(options, name)
        if not 0 < value < 3600:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: above 0, in s.")
    if options.blend < 0 or options.wander < 0 or options.seed < 0:
        raise ConfigError("--blend, --wander and --seed: at least 0.")
    options.place.prepare()
    scene = Scene(
        seconds=options.seconds, warm_up=options.warm_up, latency=options.latency, seed=options.seed
    )
    exact = [rule(scene) for rule in rules(options.blend)]
    drifting = replace(scene, wander=options.wander)
    wandering = [rule(drifting) for rule in rules(options.blend)]
    sections = [
        _section("Chunks that continue one another", exact, known=True),
        _section("Chunks that drift from one another", wandering, known=False),
    ]
    data: dict[str, Any] = {
        "command": "bench realtime seams",
        "scene": asdict(scene),
        "exact": [_told(each) for each in exact],
        "wandering": [_told(each) for each in wandering],
    }
    options.place.deliver(data, sections, _verdict(exact, wandering))
    return 0


def _told(seamed: Seamed) -> dict[str, Any]:
    return {**asdict(seamed), "within": seamed.within}


def _section(title: str, found: Sequence[Seamed], *, known: bool) -> Section:
    rows = [
        [
            each.rule,
            f"{each.starved} of {each.ticks}",
            f"{each.first}" if known else "–",
            f"{each.skipped}" if known else "–",
            f"{each.step:.3f}",
            f"{each.jump:.3f}",
            f"{each.jump / each.step:.2f}" if each.step else "–",
        ]
        for each in found
    ]
    caption = (
        "Starved: ticks at which nothing new was commanded. First, skipped: positions "
        "of the path. Step: the largest within a chunk; seam: from chunk to chunk."
    )
    return Section(title, "", Table(_COLUMNS, rows, caption))


def _verdict(exact: Sequence[Seamed], wandering: Sequence[Seamed]) -> str:
    ours = exact[2]
    blended = wandering[3]
    said = "within" if ours.within else "beyond"
    also = "within" if blended.within else "beyond"
    return (
        f"By commands {ours.skipped} positions are skipped, and no seam is a larger "
        f"step than {ours.jump / ours.step:.2f} of a chunk's own ({said}); with drift "
        f"and a blend {blended.jump / blended.step:.2f} ({also}). Starved ticks: "
        f"{ours.starved}, all of them before the first answer came."
    )
