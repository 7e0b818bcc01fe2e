"""The figures of notebook 12: what a world looks like, and how searches fare in it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nasrepro.report import style
from nasrepro.report.style import colours, legend_below, new_axes, new_panels, styled


@styled
def losses(values: ArrayLike, marks: Mapping[str, float], title: str = "") -> Figure:
    """How many cells there are of each loss, on a logarithmic axis, with lines at some losses that one should know."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    fig, ax = new_axes(style.WIDE, "validation perplexity", "cells", title)
    ax.hist(known, bins=np.geomspace(known.min(), known.max(), 80).tolist(), color=style.BLUE)
    ax.set_xscale("log")
    style.log_axis(ax.xaxis)
    for colour, (words, at) in zip((style.RED, style.GREEN, style.PURPLE), marks.items(), strict=False):
        ax.axvline(at, color=colour, linewidth=1.8, linestyle="--", label=f"{words}: {at:.2f}")
    legend_below(ax)
    return fig


@styled
def two_orders(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str = "") -> Figure:
    """The losses of the same cells by two trainings: a panel for each pair, by the label of its other axis."""
    fig, (axes,) = new_panels((7.2, 3.9), title, 1, len(pairs))
    for ax, (other, (first, second)) in zip(axes, pairs.items(), strict=True):
        ax.scatter(first, second, s=10, alpha=0.5, linewidths=0, color=style.BLUE)
        ax.axline((10, 10), (20, 20), color=style.GREY, linestyle=":", linewidth=1.2, label="equal")
        ax.set(xscale="log", yscale="log", xlabel="perplexity, seed 0", ylabel=other)
        style.log_axis(ax.xaxis)
        style.log_axis(ax.yaxis)
    axes[0].legend(loc="upper left")
    return fig


@styled
def leads_over_random(panels: Mapping[str, pd.DataFrame], unit: str, title: str = "") -> Figure:
    """ZL17's Figure 6: a panel for each search, a line for the best 1, 5 and 15, with its 95% interval where known.

    `panels` have columns samples, of ("best 1", ...) and lead, and may have low and high. What intervals of the first
    hundredth of the samples span, which is much and says little, may be cut off.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = new_panels((7.2, 0.6 + 2.7 * rows), title, rows, columns)
    for ax, (words, table) in zip(axes.flat, panels.items(), strict=False):
        lines = table[table["of"].str.startswith("best")].groupby("of", sort=False)
        for colour, (of, line) in zip(colours(lines), lines, strict=True):
            ax.plot(line["samples"], line["lead"], color=colour, label=of)
            if "low" in line:
                ax.fill_between(line["samples"], line["low"], line["high"], color=colour, alpha=0.2, linewidth=0)
        ax.axhline(0, color=style.GREY, linewidth=1)
        if "low" in table:
            shown = table[table["of"].str.startswith("best") & (table["samples"] >= table["samples"].max() / 100)]
            least, most = min(0.0, shown["low"].min()), max(0.0, shown["high"].max())
            ax.set_ylim(least - 0.08 * (most - least), most + 0.08 * (most - least))
        ax.set_title(words, fontsize=9)
        ax.set_xlabel("samples")
        ax.set_ylabel(f"lead over random, {unit}", fontsize=9)
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    style.legend_for_all(fig, columns=3)
    return fig


@styled
def progress_of_searches(tables: Mapping[str, pd.DataFrame], score: str, title: str = "") -> Figure:
    """How searches come on: the best so far, and the mean of the last samples; means over seeds with 95% intervals.

    `tables` by method have columns samples, seed, best and window, as of `token_table.progress`.
    """
    fig, (axes,) = new_panels((7.2, 3.8), title, 1, 2)
    for ax, (column, words) in zip(axes, {"best": "best so far", "window": "last 32 samples"}.items(), strict=True):
        for colour, (method, table) in zip(colours(tables), tables.items(), strict=True):
            found = table.groupby("samples")[column].agg(["mean", "sem"])
            ax.plot(found.index, found["mean"], color=colour, label=method)
            reach = 1.96 * found["sem"]
            ax.fill_between(found.index, found["mean"] - reach, found["mean"] + reach, color=colour, alpha=0.2)
        ax.set(xscale="log", xlabel="samples", ylabel=f"{score}, {words}")
        ax.xaxis.set_major_formatter(style.PLAIN)
    style.legend_for_all(fig, columns=2)
    return fig
