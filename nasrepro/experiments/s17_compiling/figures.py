"""The figures of compiled cells: how long they take, and what dropout does to a state."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nasrepro.report import style
from nasrepro.report.style import colours, new_axes, styled


@styled
def timings(seconds: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Milliseconds of each variant: a point per round, a bar at the median; the first variant on top."""
    fig, ax = new_axes((7.2, 1.2 + 0.5 * len(seconds)), "milliseconds", "", title)
    for row, (colour, times) in enumerate(zip(colours([*seconds]), seconds.values(), strict=True)):
        milliseconds = 1e3 * np.asarray(times)
        middle = float(np.median(milliseconds))
        ax.barh(-row, middle, 0.6, color=colour, alpha=0.35)
        # Rounds stand one under the other, in order, so that a drift of the machine shows as a slope.
        ax.scatter(milliseconds, -row + np.linspace(0.25, -0.25, len(times)), s=9, color=colour, zorder=3)
        ax.annotate(f"{middle:.3g}", (middle, -row + 0.3), ha="right", va="bottom", fontsize=8)
    ax.set_yticks(-np.arange(len(seconds)), list(seconds))
    # A round in which the machine did something else would shrink all others to a line.
    ax.set_xlim(0, 1.2e3 * max(float(np.quantile(times, 0.9)) for times in seconds.values()))
    ax.grid(axis="y", visible=False)
    return fig


@styled
def held_state(units: pd.DataFrame, title: str = "") -> Figure:
    """The largest unit of two states that should be held, step by step and on a log axis.

    `units` is a table of `analysis.held_units`; the labels say what share of units is lost at the end.
    """
    fig, ax = new_axes(style.WIDE, "step", "largest unit of the state, at the start = 1", title)
    ax.set_yscale("log")
    for colour, (name, part) in zip((style.BLUE, style.RED), units.groupby("name", sort=False), strict=True):
        label = f"{name}: {part['lost'].iloc[-1]:.0%} of units lost"
        ax.plot(part["step"], part["largest"], color=colour, label=label)
    ax.legend()
    return fig
