"""Figures of ways to search beside each other: functions from the tables of `arms` to matplotlib figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nasrepro.experiments.arms import STATISTICS, WINDOW
from nasrepro.report import style
from nasrepro.report.style import new_panels, styled


@styled
def progress(
    progress: pd.DataFrame, words: Mapping[str, str], unit: str, title: str = "", children: str = "children"
) -> Figure:
    """What each arm has found after so many children, and what it draws now: thick means, and thin single seeds.

    `progress` is from `arms.progress`, `words` names its arms, `unit` what the loss is called, `children` what captions
    call those that are trained, such as networks.
    """
    fig, ((best, window),) = new_panels((7.2, 4.0), title, 1, 2)
    shown = {"top1": (best, "the best so far"), "window": (window, f"mean of the last {WINDOW}")}
    for statistic, (ax, what) in shown.items():
        for arm, part in progress.groupby("arm", sort=False):
            table = part.pivot(index="samples", columns="seed", values=statistic)
            look = _look(words, str(arm), len(table), has_label=ax is best)
            ax.plot(table.index, table, color=look["color"], linewidth=0.6, alpha=0.5)
            ax.plot(table.index, table.mean(axis=1), linewidth=2, **look)
        ax.set(xlabel=children, ylabel=f"validation {unit}")
        ax.set_title(what, fontsize=9, fontweight="normal")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.legend_for_all(fig, 2)
    return fig


@styled
def leads(
    leading: pd.DataFrame,
    words: Mapping[str, str],
    unit: str,
    title: str = "",
    on_surrogate: pd.DataFrame | None = None,
    children: str = "children",
) -> Figure:
    """ZL17 Figure 6: how much better than random search each arm is after so many children; above zero it is ahead.

    A panel for each statistic. `leading` is from `arms.leads`; bands are its intervals. What the first children
    span, too few to say much, may be cut off. Searches on the surrogate, if any, are dashed, on a logarithmic axis.
    `children` as in `progress`.
    """
    both = {"-": leading} if on_surrogate is None else {"-": leading, (0, (4, 2)): on_surrogate}
    last = pd.concat(table[table["samples"] >= leading["samples"].max() / 4] for table in both.values())
    fig, panels = new_panels((7.2, 5.6), title, 2, 2, sharex=True)
    for ax, (statistic, what) in zip(panels.flat, STATISTICS.items(), strict=True):
        for dashes, table in both.items():
            for arm, part in table[table["statistic"] == statistic].groupby("arm", sort=False):
                look = _look(words, str(arm), len(part), has_label=statistic == "top1" and dashes == "-")
                ax.plot(part["samples"], part["lead"], linewidth=1.8, linestyle=dashes, **look)
                ax.fill_between(
                    part["samples"], part["low"], part["high"], color=look["color"], alpha=0.13, linewidth=0
                )
        seen = last.loc[last["statistic"] == statistic, ["lead", "low", "high"]].to_numpy()
        low, high = min(0.0, np.nanmin(seen)), max(0.0, np.nanmax(seen))
        ax.set_ylim(low - 0.08 * (high - low) - 1e-3, high + 0.08 * (high - low) + 1e-3)
        ax.axhline(0, color=style.BLACK, linewidth=1)
        ax.set_title(what, fontsize=9, fontweight="normal")
        if on_surrogate is None:
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            ax.set_xscale("log")
            ax.set_xlim(left=min(50, leading["samples"].max()))
            ax.xaxis.set_major_formatter(style.PLAIN)
    for ax in panels[-1]:
        ax.set_xlabel(children if on_surrogate is None else f"{children} (dashed: on the surrogate)")
    fig.supylabel(f"{unit} better than random search", fontsize=10)
    style.legend_for_all(fig, 2)
    return fig


def _look(words: Mapping[str, str], arm: str, points: int, has_label: bool) -> dict[str, Any]:
    """Colour and marker of an arm, the same in every figure; a few markers on a line of so many points."""
    number = list(words).index(arm)
    mark = {"marker": style.MARKERS[number], "markersize": 4, "markevery": max(1, points // 6)}
    return {"color": style.PALETTE[number], "label": words[arm] if has_label else None, **mark}
