"""The figures: functions from tables to matplotlib figures. None of them reads a file or trains anything."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator, NullFormatter

from nasrepro.report import style
from nasrepro.report.stats import interval
from nasrepro.report.style import colours, legend_below, new_axes, styled

_FEW = 20
"""Lines that can still be told apart."""


@styled
def best_so_far(
    runs: pd.DataFrame,
    title: str = "",
    budget: str = "cells trained",
    best: str = "best validation log perplexity",
) -> Figure:
    """Mean over seeds of the best so far against budget: a line per method, with a band, its bootstrap 95% interval.

    `runs` has columns budget, seed, method, best. Single seeds, where they are not too many, are drawn thin; fewer than
    three have no band.
    """
    fig, ax = new_axes(style.WIDE, budget, best, title)
    methods = runs.groupby("method", sort=False)
    for colour, (method, part) in zip(colours(methods), methods, strict=True):
        table = part.pivot_table(index="budget", columns="seed", values="best").ffill().dropna()
        if table.shape[1] <= _FEW:
            ax.plot(table.index, table, color=colour, linewidth=0.6, alpha=0.35)
        label = f"{method}, mean of {table.shape[1]} seed{'s' if table.shape[1] != 1 else ''}"
        ax.plot(table.index, table.mean(axis=1), color=colour, linewidth=2, label=label)
        if table.shape[1] >= 3:
            band = np.array([interval(row, resamples=999) for row in table.to_numpy()])  # (budgets, 2)
            ax.fill_between(table.index, band[:, 0], band[:, 1], color=colour, alpha=0.18, linewidth=0)
    legend_below(ax)
    return fig


@styled
def failure_bars(counts: Mapping[str, int] | pd.Series, title: str = "") -> Figure:
    """How many candidates failed, by reason; the most frequent on top."""
    return _bars(counts, "cells", style.RED, title)


@styled
def operator_counts(
    counts: Mapping[str, float] | pd.DataFrame, title: str = "", share: str = "share of operators"
) -> Figure:
    """How often each operator occurs: a bar for each of a mapping; of a frame, operators as index, groups of bars.

    The columns of a frame are its groups, such as "best 10%" and "all", and `share` says what its numbers are.
    """
    if not isinstance(counts, pd.DataFrame):
        return _bars(counts, "occurrences", style.BLUE, title)
    fig, ax = new_axes((7.2, 0.6 + 0.32 * len(counts) * max(1, counts.shape[1] / 2)), share, "", title)
    height = 0.8 / counts.shape[1]
    rows = np.arange(len(counts))[::-1]
    for i, (colour, name) in enumerate(zip(colours(counts.columns), counts.columns, strict=True)):
        ax.barh(rows + 0.4 - (i + 0.5) * height, counts[name], height, color=colour, label=str(name))
    ax.set_yticks(rows, [str(name) for name in counts.index])
    ax.grid(axis="y", visible=False)
    legend_below(ax)
    return fig


@styled
def training_curves(
    curves: pd.DataFrame, title: str = "", y: str = "valid_ppl", label: str = "validation perplexity"
) -> Figure:
    """Validation perplexity by epoch, log scale; columns name (one line each), epoch, `y`, seed if there are several.

    With seeds, the thick line is their mean and the thin ones are the seeds.
    """
    fig, ax = new_axes(style.WIDE, "epoch", label, title)
    names = curves.groupby("name", sort=False)
    for i, (colour, (name, part)) in enumerate(zip(colours(names), names, strict=True)):
        if "seed" in part and part["seed"].nunique() > 1:
            table = part.pivot_table(index="epoch", columns="seed", values=y)
            ax.plot(table.index, table, color=colour, linewidth=0.6, alpha=0.4)
            mean = table.mean(axis=1)
        else:
            mean = part.set_index("epoch")[y].sort_index()
        marks: dict[str, Any] = {"marker": style.MARKERS[i % len(style.MARKERS)], "markersize": 4}
        ax.plot(mean.index, mean, color=colour, linewidth=1.8, label=str(name), **marks)
    style.log_scale(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_below(ax)
    return fig


@styled
def over_reference(layers: pd.DataFrame, reference: str, title: str = "") -> Figure:
    """Time of each layer over the reference's, on a log axis: bars from 1 to the median, left of it faster.

    `layers` has columns H, B, T, layer, ratio, "ratio q1" and "ratio q3"; each size (H, B, T) has a colour, whiskers
    span the quartiles, and the first layer is on top.
    """
    rivals = layers[layers["layer"] != reference]
    names = list(rivals["layer"].unique())
    sizes = rivals.groupby(["H", "B", "T"], sort=False)
    fig, ax = new_axes((7.2, 1.4 + 0.38 * len(names)), f"time over {reference}'s: less is faster", "", title)
    height = 0.8 / len(sizes)
    for number, (colour, ((hidden, batch, steps), part)) in enumerate(zip(colours(sizes), sizes, strict=True)):
        rows = -np.array([names.index(name) for name in part["layer"]]) + 0.4 - height * (number + 0.5)
        whiskers = [part["ratio"] - part["ratio q1"], part["ratio q3"] - part["ratio"]]
        label = f"H {hidden}, B {batch}, T {steps}"
        ax.barh(rows, part["ratio"] - 1, 0.9 * height, left=1, color=colour, alpha=0.8, label=label)
        ax.errorbar(part["ratio"], rows, xerr=whiskers, fmt="none", ecolor=style.BLACK, elinewidth=0.8)
        for row, ratio, end in zip(rows, part["ratio"], part[["ratio q1", "ratio q3"]].to_numpy(), strict=True):
            x, away, side = (min(end), -3, "right") if ratio < 1 else (max(end), 3, "left")
            aside: dict[str, Any] = {"xytext": (away, 0), "textcoords": "offset points", "ha": side, "va": "center"}
            ax.annotate(f"{ratio:.2f}", (x, row), fontsize=6.5, **aside)
    ax.axvline(1, color=style.BLACK, linewidth=1)
    ax.set_xscale("log")
    low, high = layers["ratio q1"].min(), layers["ratio q3"].max()
    ax.set_xlim(min(0.9, 0.8 * low), max(1.1, 1.25 * high))
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(-np.arange(len(names)), names)
    ax.grid(axis="y", visible=False)
    legend_below(ax)
    return fig


@styled
def pipeline(samples: Sequence[tuple[str, float]] = (), title: str = "") -> Figure:
    """S17 Figure 1: generators, ranking function, training, and the results that feed back.

    `samples` are (cell, perplexity) pairs of a run, written beside the last box.
    """
    fig = Figure(figsize=(7.2, 3.3))
    fig.set_layout_engine("none")  # the boxes stand where they are put
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 100), ylim=(0, 46))
    ax.axis("off")
    ax.set_title(title, y=0.92, x=0.02)
    _box(ax, 2, 25, 22, 10, "random generator", style.BLUE)
    _box(ax, 2, 11, 22, 10, "learned generator\n(REINFORCE)", style.BLUE)
    _box(ax, 34, 18, 18, 10, "ranking function", style.ORANGE)
    _box(ax, 61, 18, 14, 10, "training", style.GREEN)
    best = [f"{name}: {value:.1f}" for name, value in samples[:4]]
    _box(ax, 82, 15, 16, 16, "\n".join(["results", *best]), style.GREY)
    for start, end in (((24, 30), (34, 25)), ((24, 16), (34, 21)), ((52, 23), (61, 23)), ((75, 23), (82, 23))):
        _arrow(ax, start, end)
    ax.text(29.5, 33.5, "candidates", ha="center", fontsize=8, color=style.GREY)
    ax.text(56.5, 29.5, "the most\npromising", ha="center", fontsize=8, color=style.GREY)
    ax.plot([90, 90, 13], [15, 4, 4], color=style.BLACK, linewidth=1.2)
    _arrow(ax, (13, 4), (13, 11))
    ax.plot([43, 43], [4, 12], color=style.BLACK, linewidth=1.2)
    _arrow(ax, (43, 12), (43, 18))
    ax.text(66, 5.5, "cell and perplexity feed back", ha="center", fontsize=8, color=style.GREY)
    return fig


def _bars(counts: Mapping[str, float] | pd.Series, unit: str, colour: str, title: str) -> Figure:
    ordered = sorted(counts.items(), key=lambda item: item[1])  # barh draws the first at the bottom
    fig, ax = new_axes((7.2, 1.1 + 0.3 * max(1, len(ordered))), unit, "", title)
    bars = ax.barh([str(name) for name, _ in ordered], [value for _, value in ordered], color=colour, height=0.7)
    ax.bar_label(bars, fmt="%g", padding=3, fontsize=9)
    ax.margins(x=0.1)
    ax.grid(axis="y", visible=False)
    if not ordered:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center", va="center", color=style.GREY)
    return fig


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    corners, fill = "round,pad=0,rounding_size=1.5", f"{colour}22"
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=corners, facecolor=fill, edgecolor=colour))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=style.BLACK, linewidth=1.2))
