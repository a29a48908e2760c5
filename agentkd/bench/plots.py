"""Plots as SVG text, drawn by Matplotlib without a display."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from agentkd.bench.report import Plot

_COLOURS = ("#0b66c3", "#d1495b", "#2a9d6f", "#8a5cc2", "#d98e04", "#5b6770")


def svg(plot: Plot) -> str:
    """Draw a plot; the same values give the same text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Ids in the SVG come from this salt instead of chance.
    settings = {"svg.hashsalt": plot.title, "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for index, series in enumerate(plot.series):
            colour = _COLOURS[index % len(_COLOURS)]
            x = np.asarray(series.x, float)
            y = np.asarray(series.y, float)
            few = len(x) <= 60
            axes.plot(
                x,
                y,
                label=series.name,
                color=colour,
                linewidth=1.6,
                marker="o" if few and len(x) != 2 else None,
                markersize=3,
                linestyle="--" if len(x) == 2 else "-",
            )
            if series.low is not None and series.high is not None:
                low, high = (np.asarray(e, float) for e in (series.low, series.high))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(plot.title, fontsize=11, loc="left")
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(plot.series) > 1:
            axes.legend(frameon=False, fontsize=9)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
