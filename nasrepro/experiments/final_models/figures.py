"""The figures of notebooks 05 and 11: learning curves, and what came of every training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nasrepro.report import style
from nasrepro.report.style import new_axes, new_panels, styled


def _colours(models: list[str]) -> dict[str, Any]:
    return {model: style.PALETTE[number % len(style.PALETTE)] for number, model in enumerate(models)}


@styled
def curves(points: pd.DataFrame, unit: str, title: str = "") -> Figure:
    """Validation loss by epoch, a line for each training, from `analysis.points`; open dots are of averaged weights."""
    fig, ax = new_axes(style.WIDE, "epoch", f"validation, {unit}", title)
    colours = _colours(list(points["model"].unique()))
    for (model, _), part in points.groupby(["model", "seed"], sort=False):
        line: dict[str, Any] = {"color": colours[str(model)], "linewidth": 1.3, "alpha": 0.8}
        ax.plot(part["epoch"], part["valid"], marker="o", markersize=2.5, **line)
        averaged = part[part["averaging"]]
        ax.plot(averaged["epoch"], averaged["valid"], "o", markersize=5, markerfacecolor="white", **line)
    for model, colour in colours.items():
        count = points.loc[points["model"] == model, "seed"].nunique()
        ax.plot([], [], color=colour, marker="o", markersize=2.5, label=f"{model}, {count} seeds")
    if points["averaging"].any():
        ax.plot([], [], "o", color=style.GREY, markerfacecolor="white", markersize=5, label="averaged weights")
    style.log_scale(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend_below(ax)
    return fig


@styled
def losses(runs: Mapping[str, pd.DataFrame], units: Mapping[str, str], title: str = "") -> Figure:
    """The test loss of every training, from `analysis.flat` by what a table is called: a panel for each.

    Dots are seeds, bars their means; `units` are by the same words.
    """
    fig, axes = new_panels(
        (7.2, 1.0 + 0.42 * sum(len(each["model"].unique()) + 1 for each in runs.values())), title, len(runs), 1
    )
    for ax, (words, table) in zip(axes[:, 0], runs.items(), strict=True):
        models = list(table["model"].unique())
        for place, (model, colour) in enumerate(_colours(models).items()):
            tested = table.loc[table["model"] == model, "test"].to_numpy(float)
            ax.plot(tested, np.full(len(tested), place), "o", color=colour, alpha=0.7)
            ax.plot([tested.mean()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.set_title(words, fontsize=10)
        ax.set_xlabel(f"test, {units[words]}")
    return fig
