"""The figures of notebook 14: what models multiply, all trainings, and the new cell held against the LSTM."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nasrepro.experiments.zl17_transfer.analysis import BASE, NEW, PARTS
from nasrepro.experiments.zl17_transfer.sizes import COMPARED
from nasrepro.report import style
from nasrepro.report.stats import interval
from nasrepro.report.style import log_scale, new_axes, new_panels, styled

COLOURS = dict(zip(COMPARED, (style.BLUE, style.ORANGE), strict=True))
"""Of the two cells, in every figure."""

_MARKERS = dict(zip(COMPARED, style.MARKERS, strict=False))
_BESIDE: dict[str, Any] = {"xytext": (0, -9), "textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 8}
_BESIDE["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
_PART_COLOURS = dict(zip(PARTS, (style.BLUE, style.SKY, style.RED, style.ORANGE), strict=True))


@styled
def costs(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """What models multiply for a token, part by part: a panel for each of the `analysis.costs`, by what it is called.

    A bar is a model; the dotted line is the LSTM's, which the solved width has to reach.
    """
    fig, axes = new_panels((7.2, 0.9 + 1.35 * len(tables)), title, len(tables), 1)
    for ax, (words, table) in zip(axes[:, 0], tables.items(), strict=True):
        rows, left = np.arange(len(table)), np.zeros(len(table))
        for part in PARTS:
            ax.barh(rows, table[part], 0.66, left=left, color=_PART_COLOURS[part], label=part)
            left += table[part].to_numpy()
        ax.axvline(left[0], color=style.BLACK, linestyle=":", linewidth=1.2)
        ax.set_yticks(rows, table["model"])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_title(words, fontsize=10)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
    axes[-1, 0].set_xlabel("millions of multiply-adds for a source token and a target token")
    style.legend_for_all(fig, len(PARTS))
    return fig


@styled
def curves(points: pd.DataFrame, stuck: pd.Series, title: str = "") -> Figure:
    """Every training by itself: validation perplexity by epoch, log scale, from `analysis.curves`.

    `stuck` is a bool by (cell, seed): such trainings are dashed, and bear their seed.
    """
    fig, ax = new_axes(style.WIDE, "epoch", "validation perplexity", title)
    ends = []
    for (name, seed), part in points.sort_values(["cell", "seed", "epoch"]).groupby(["cell", "seed"]):
        dashed = bool(stuck.get((name, seed), False))
        line: dict[str, Any] = {"color": COLOURS[str(name)], "linestyle": "--" if dashed else "-", "alpha": 0.85}
        ax.plot(part["epoch"], part["valid_ppl"], linewidth=1.3, marker=_MARKERS[str(name)], markersize=3.5, **line)
        ends += [(part["valid_ppl"].iloc[-1], part["epoch"].iloc[-1], f"{name}, seed {seed}")] if dashed else []
    for place, (height, epoch, words) in enumerate(sorted(ends)):
        # Those that end alike stand one above the other.
        aside: dict[str, Any] = {"xytext": (6, 8 * (place - (len(ends) - 1) / 2)), "textcoords": "offset points"}
        ax.annotate(words, (epoch, height), va="center", fontsize=8, **aside)
    for name in COMPARED:
        count = points.loc[points["cell"] == name, "seed"].nunique()
        ax.plot([], [], color=COLOURS[name], marker=_MARKERS[name], markersize=3.5, label=f"{name}, {count} seeds")
    if ends:
        ax.plot([], [], color=style.GREY, linestyle="--", label="got stuck")
        last = points["epoch"].max()
        ax.set_xlim(right=last + 0.15 * last)
    ax.set_xlim(left=0.5)
    log_scale(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style.legend_below(ax)
    return fig


@styled
def by_seed(panels: Mapping[str, tuple[pd.DataFrame, str]], title: str = "") -> Figure:
    """Both cells from every seed: a row for each seed, its two trainings joined by a line, a panel for each measure.

    `panels` are, by the label of an axis, rows of `analysis.flat` and the measure that is drawn. A hollow mark got
    stuck; a short bar below the seeds is a cell's mean.
    """
    seeds = sorted({seed for runs, _ in panels.values() for seed in runs["seed"]})
    fig, (axes,) = new_panels((7.2, 1.9 + 0.34 * len(seeds)), title, 1, len(panels), sharey=True)
    for ax, (label, (runs, measure)) in zip(axes, panels.items(), strict=True):
        for seed, part in runs.groupby("seed"):
            middle = seeds.index(seed)
            # One a little above the other, so that equal ones do not hide each other.
            rows = [middle + (-0.12 if name == BASE else 0.12) for name in part.index]
            ax.plot(part[measure], rows, color=style.GREY, linewidth=1, zorder=1)
            for name, value, row, stuck in zip(part.index, part[measure], rows, part["stuck"], strict=True):
                face = "white" if stuck else COLOURS[name]
                mark: dict[str, Any] = {"marker": _MARKERS[name], "edgecolors": COLOURS[name], "facecolors": face}
                ax.scatter(value, row, s=38, linewidths=1.5, zorder=2, **mark)
        for name, part in runs.groupby("cell", sort=False):
            ax.scatter(part[measure].mean(), len(seeds), marker="|", s=190, color=COLOURS[str(name)], linewidths=2.4)
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(seeds) + 1), [*(f"seed {seed}" for seed in seeds), "mean"])
    axes[0].set_ylim(len(seeds) + 0.6, -0.6)
    marks: list[Any] = [
        axes[0].scatter([], [], marker=_MARKERS[name], color=COLOURS[name], s=38, label=name) for name in COMPARED
    ]
    if any(runs["stuck"].any() for runs, _ in panels.values()):
        hollow: dict[str, Any] = {"facecolors": "white", "edgecolors": style.GREY}
        marks.append(axes[0].scatter([], [], s=38, linewidths=1.5, label="got stuck", **hollow))
    style.legend_for_all(fig, len(marks), marks)
    return fig


@styled
def gains(pairs: pd.DataFrame, paper: float, title: str = "") -> Figure:
    """The new cell's test BLEU less the LSTM's, from `analysis.paired`, beside the paper's: three rows.

    On top all seeds, with their mean and its interval, which decides; below, hollow, the seeds without one that got
    stuck, which decides nothing; then the paper's.
    """
    rows = {"all seeds": pairs, "without stuck ones\n(exploratory)": pairs[~pairs["stuck"]]}
    if not pairs["stuck"].any():
        rows = {"all seeds": pairs}
    fig, ax = new_axes((7.2, 1.5 + 0.5 * len(rows)), f"test BLEU of {NEW} less that of {BASE}", "", title)
    for row, part in enumerate(rows.values()):
        face = style.GREEN if not row else "white"
        if (found := interval(part["gain"])) is not None:
            ax.plot(found, [row, row], color=style.GREEN, linewidth=5, alpha=0.3, solid_capstyle="butt", zorder=1)
        ax.scatter(part["gain"], [row - 0.22] * len(part), s=16, color=style.GREY, linewidths=0, zorder=2)
        if len(part):
            mean: dict[str, Any] = {"facecolors": face, "edgecolors": style.GREEN, "linewidths": 1.6}
            ax.scatter(part["gain"].mean(), row, s=60, zorder=3, **mean)
            ax.annotate(f"{part['gain'].mean():+.2f}", (part["gain"].mean(), row), **_BESIDE)
    ax.scatter(paper, len(rows), s=46, marker="D", facecolors="none", edgecolors=style.RED, linewidths=1.6)
    ax.annotate(f"{paper:+g}", (paper, len(rows)), **_BESIDE)
    ax.axvline(0, color=style.BLACK, linewidth=1, zorder=0)
    ax.set_yticks(range(len(rows) + 1), [*rows, "ZL17, WMT'14"])
    ax.set_ylim(len(rows) + 0.5, -0.6)
    ax.margins(x=0.08)
    ax.grid(axis="y", visible=False)
    return fig
