"""A report with a plot of each kind, as commands make them."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from agentkd.report.html import page
from agentkd.report.model import Column, Film, Plot, Report, Section, Series, Table
from agentkd.report.returns import episodes_plot, kept_plots, reached

ORIGIN = {
    "argv": ["agentkd", "run", "LunarLander-v3", "--planner", "policies/lunarlander"],
    "date": "2030-01-01T10:00:00+00:00",
    "platform": "Linux x86_64, 2 cores",
    "schema": 1,
    "versions": {"python": "3.13", "numpy": "2.0"},
}
LEVELS = ("strategy of the planner", "executor", "hold the last action", "default action")


def film() -> Film:
    """Two frames of a world."""
    frames = [Image.new("RGB", (528, 220), colour) for colour in ("#1b1f24", "#3d444d")]
    made = []
    for more in ({"save_all": True, "append_images": frames[1:], "duration": 500}, {}):
        out = io.BytesIO()
        frames[0].save(out, "WEBP", **more)
        made.append(out.getvalue())
    return Film(made[0], made[1], 528, 220, "Two arms side by side.", "Seed 7.")


def sample() -> Report:
    """Return a report with a sentence, a picture, a film, tables and all kinds of plots."""
    rng = np.random.default_rng(0)
    means = {"planner alone": -190, "executor alone": 231, "with agentkd": 272}
    best, floor = rng.normal(275, 20, 20).tolist(), rng.normal(-180, 90, 20).tolist()
    figures = {
        name: reached(rng.normal(mean, 25, 20).tolist(), best, floor)
        for name, mean in means.items()
    }
    labels = np.arange(1, 31) * 2000
    curve = 270 - 450 * np.exp(-labels / 9000) + rng.normal(0, 9, 30)
    learning = Plot(
        "Return against labels",
        "labels",
        "return",
        (
            Series(
                "executor",
                labels.tolist(),
                curve.tolist(),
                (curve - 20).tolist(),
                (curve + 20).tolist(),
            ),
            Series("planner", [2000, 60000], [275, 275]),
            Series("random", [2000, 60000], [-180, -180]),
        ),
        "Mean of the last 20 episodes.",
    )
    codes = rng.integers(0, 3, 60).tolist()
    acted = Plot(
        "Who acted at each tick of an episode",
        "tick",
        "",
        tuple(
            Series(
                name,
                list(range(0, 305, 5)),
                codes,
                notes=[f"{LEVELS[code]} (late)" for code in codes],
            )
            for name in means
        ),
        "Seed 1003.",
        "strips",
        levels=LEVELS,
    )
    shares = Plot(
        "Who decided, and why",
        "",
        "",
        tuple(
            Series(
                name, [0, 1, 1, 2], [600, 250, 100, 50], notes=["fresh", "late", "untrusted", "nan"]
            )
            for name in means
        ),
        kind="shares",
        levels=LEVELS,
    )
    times = np.exp(rng.normal(1.2, 0.5, 5000))
    counts, edges = np.histogram(times, np.geomspace(0.5, 400, 90))
    counts[-3] = 1
    speed = Plot(
        "How long a decision takes",
        "µs",
        "",
        tuple(Series(name, edges.tolist(), counts.tolist()) for name in means),
        "Both axes are logarithmic.",
        "distributions",
        marks=(("deadline", 20000.0),),
    )
    policies = {
        f"mlp:{size}": {
            **reached((rng.normal(272 - 500 / size, 20, 20)).tolist(), best, floor),
            "parameters": size * size + 20 * size,
            "decision_latency_us": {"p50": 0.5 + size / 30},
        }
        for size in (4, 8, 16, 32, 64)
    }
    columns: tuple[Column | str, ...] = (
        "arm",
        Column("return", form=",.1f"),
        Column("95 % interval", form=",.1f"),
        "what it does",
    )
    rows = [
        [
            name,
            each["return"],
            each["return_interval"],
            "acts when its answer arrives, and holds in between",
        ]
        for name, each in figures.items()
    ]
    wide: tuple[Column | str, ...] = (
        "arm",
        *(Column(f"a figure with a long name, number {i}", form=",.2f") for i in range(9)),
    )
    data: dict[str, Any] = {
        "command": "run",
        "env": "LunarLander-v3",
        "planner_name": "PPO, 136,000 parameters",
        "seed": 1000,
        "retention": 0.993,
        "retention_interval": [0.94, 1.04],
        "runtime_return": 272.3,
        "planner_return": 275.0,
        "decision_latency_us": {"p50": 2.4, "p99": 9.1},
    }
    sections = [
        Section(
            "The arms, on the same seeds",
            "The planner is 8 ticks late.",
            Table(columns, rows, "20 episodes."),
        ),
        Section("Learning", plots=(learning,)),
        Section("Who acted, and why", plots=(acted, shares)),
        Section(
            "How fast", "", Table(wide, [["with agentkd", *range(9)]]), (speed,), ("Mind this.",)
        ),
        Section("Size", plots=tuple(kept_plots(policies))),
    ]
    lead = (
        "Late planner -190, with agentkd 272. Mean returns on the same seeds, the planner 8 ticks "
        "(160 ms) late; executor alone 231, planner that is never late 275."
    )
    picture = episodes_plot(
        figures, [("random actions", -180.0), ("never late", 275.0), ("none", math.nan)]
    )
    return Report(data, sections, {}, lead, picture, film())


def sample_page() -> str:
    """Return its page."""
    made = sample()
    return page({**ORIGIN, **made.data}, made)


def cells_page(cells: int) -> str:
    """Return the page of a benchmark with so many cells, each with its episodes and a curve."""
    rng = np.random.default_rng(1)
    figures = {
        f"env-{i // 10} method-{i % 10}": {
            "returns": rng.normal(i, 9, 50).tolist(),
            "return": float(i),
            "return_interval": [i - 2.5, i + 2.5],
            "retention": i / 100,
        }
        for i in range(cells)
    }
    rows = [
        [name, each["return"], each["return_interval"], each["retention"]]
        for name, each in figures.items()
    ]
    columns: tuple[Column | str, ...] = (
        "cell",
        Column("return", form=",.1f"),
        Column("95 %", form=",.1f"),
        Column("retention", form=".3f"),
    )
    curves = tuple(
        Plot(
            name,
            "labels",
            "return",
            (Series("executor", list(range(40)), np.cumsum(rng.normal(size=40)).tolist()),),
        )
        for name in figures
    )
    sections = [Section("Cells", "", Table(columns, rows), curves)]
    made = Report(
        {"command": "bench", "env": "many"}, sections, {}, "All cells.", episodes_plot(figures)
    )
    return page({**ORIGIN, **made.data}, made)
