"""The figures of ZL17's convolutional half: functions from tables to matplotlib figures, as in `report.figures`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nasrepro.experiments.zl17_convnets.analysis import Turn
from nasrepro.report import stats, style
from nasrepro.report.style import new_axes, new_panels, styled


@styled
def loop(turn: Turn, sizes: str, title: str = "") -> Figure:
    """ZL17 Figure 1: the controller draws a network, its accuracy is a reward, which updates the controller.

    The numbers are those of one network, `turn`; `sizes` says in a few words what was drawn.
    """
    fig = Figure(figsize=(7.2, 3.1))
    fig.set_layout_engine("none")  # the boxes stand where they are put
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 100), ylim=(0, 43))
    ax.axis("off")
    ax.set_title(title, y=0.92, x=0.02)
    boxes = {
        (4, style.BLUE): "the controller\n(an LSTM)",
        (70, style.GREEN): f"trains the network\nto an accuracy of {100 - turn.error:.1f} %",
    }
    for (left, colour), words in boxes.items():
        look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=1.5", "facecolor": f"{colour}22"}
        ax.add_patch(FancyBboxPatch((left, 15), 26, 11, edgecolor=colour, **look))
        ax.text(left + 13, 20.5, words, ha="center", va="center", fontsize=9)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "color": style.BLACK, "linewidth": 1.2}
    for start, end, bend in (((17, 26.5), (83, 26.5), -0.09), ((83, 14.5), (17, 14.5), -0.09)):
        ax.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **arrow))
    drawn = f"draws architecture A with probability $p = 10^{{{turn.log_prob / math.log(10):.1f}}}$\n{sizes}"
    reward = f"reward R = {turn.reward:.2f}, baseline b = {turn.baseline:.2f}"
    gradient = f"moves by the gradient of log p, times R - b = {turn.reward - turn.baseline:+.2f}"
    ax.text(50, 33.5, drawn, ha="center", va="center", fontsize=8.5, color=style.GREY, linespacing=1.5)
    ax.text(50, 7.5, f"{reward}\n{gradient}", ha="center", va="center", fontsize=8.5, color=style.GREY, linespacing=1.5)
    return fig


@styled
def writing(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """ZL17 Figure 2: a network written token by token, a column a token, a square a choice, as dark as it is likely.

    A panel for each controller, by its words; tables are from `analysis.writing`, all of one token string. Framed is
    what was chosen.
    """
    first = next(iter(tables.values()))
    most = max(len(words) for words in first["words"])
    size = (max(7.2, 0.32 * len(first) + 1.2), 0.9 + 1.75 * len(tables))
    fig, panels = new_panels(size, title, len(tables), 1, sharex=True)
    shades = mpl.colormaps["Blues"]
    for ax, (name, table) in zip(panels[:, 0], tables.items(), strict=True):
        for column, (_, row) in enumerate(table.iterrows()):
            for choice, (word, chance) in enumerate(zip(row["words"], row["chances"], strict=True)):
                is_chosen = choice == row["token"]
                look: dict[str, Any] = {
                    "edgecolor": style.RED if is_chosen else "white",
                    "linewidth": 1.8 if is_chosen else 0.6,
                }
                square = Rectangle((column, choice), 0.94, 0.94, facecolor=shades(chance), **look)
                ax.add_patch(square).set_zorder(3 if is_chosen else 2)
                colour = "white" if chance > 0.6 else style.BLACK
                ax.text(
                    column + 0.47, choice + 0.45, word, ha="center", va="center", fontsize=7, color=colour, zorder=4
                )
        for layer, start in table.reset_index().groupby("layer")["index"].min().items():
            ax.text(start + 0.05, most + 0.15, f"layer {layer}", fontsize=7.5, color=style.GREY)
            ax.axvline(start - 0.03, color=style.GREY, linewidth=0.8 if start else 0)
        ax.set_title(name, fontsize=9, fontweight="normal")
        ax.set(xlim=(-0.1, len(table) + 0.05), ylim=(-0.1, most + 0.7), yticks=[])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
    short = {"filter height": "height", "filter width": "width", "number of filters": "filters"}
    labels = [
        short.get(place, place.replace("layer ", "reads ").replace(" is an input", "?")) for place in first["place"]
    ]
    panels[-1, 0].set_xticks(np.arange(len(first)) + 0.47, labels, rotation=90, fontsize=7)
    bar = fig.colorbar(ScalarMappable(Normalize(0, 1), shades), ax=list(panels[:, 0]), label="probability", aspect=30)
    bar.outline.set_visible(False)
    return fig


@styled
def again(from_seeds: pd.DataFrame, both: pd.DataFrame, title: str = "") -> Figure:
    """Networks trained once more, from `again`: from each seed, the best on average first; and for longer."""
    fig, ((spread, order),) = new_panels((7.2, 3.9), title, 1, 2, width_ratios=[3, 2])
    ranked = from_seeds.loc[from_seeds.mean(axis=1).sort_values().index]
    places = np.arange(1, len(ranked) + 1)
    for seed, marker, colour in zip(ranked, style.MARKERS, style.PALETTE, strict=False):
        look: dict[str, Any] = {"s": 20, "marker": marker, "color": colour, "alpha": 0.85, "linewidths": 0}
        spread.scatter(places, ranked[seed], label=f"seed {seed}", **look)
    spread.plot(places, ranked.mean(axis=1), color=style.BLACK, linewidth=1, label="mean", zorder=0)
    spread.set(xlabel="random networks, from best to worst", ylabel="validation error, percent")
    spread.xaxis.set_major_locator(MaxNLocator(integer=True))
    order.scatter(both["short"], both["longer"], s=20, color=style.PURPLE, alpha=0.85, linewidths=0)
    if both.empty:
        words: dict[str, Any] = {"ha": "center", "va": "center", "color": style.GREY}
        order.text(0.5, 0.5, "not recorded yet", transform=order.transAxes, **words)
        order.set(xticks=[], yticks=[])
    order.set(xlabel="error by the search, percent", ylabel="error, longer training, percent")
    style.legend_for_all(fig, 5)
    return fig


@styled
def compared(tested: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Test errors of networks side by side: a point a seed, a bar the mean, a line its bootstrap interval."""
    fig, ax = new_axes((7.2, 1.2 + 0.42 * len(tested)), "test error, percent", "", title)
    for place, (errors, colour) in enumerate(zip(tested.values(), style.PALETTE, strict=False)):
        mean, edges = float(np.mean(errors)), stats.interval(errors)
        if edges is not None:
            ax.plot(edges, [place, place], color=style.BLACK, linewidth=1.2, zorder=2)
        ax.plot([mean, mean], [place - 0.26, place + 0.26], color=style.BLACK, linewidth=2, zorder=3)
        ax.scatter(errors, np.full(len(errors), place), s=26, color=colour, linewidths=0, alpha=0.85, zorder=4)
    ax.set_yticks(range(len(tested)), list(tested))
    ax.set_ylim(len(tested) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    return fig


@styled
def connections(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """The probability of each connection: a panel for each controller, a square for each pair of layers.

    The tables are from `analysis.skip_probabilities`.
    """
    fig, (panels,) = new_panels((3.3 * len(tables) + 0.6, 4.2), title, 1, len(tables), sharey=True)
    for ax, (name, table) in zip(np.atleast_1d(panels), tables.items(), strict=True):
        image = ax.imshow(table, cmap="cividis", vmin=0, vmax=1, origin="lower", extent=_around(table), aspect="equal")
        for layer, chances in enumerate(table.to_numpy(), 1):
            for other, chance in enumerate(chances[: layer - 1], 1):
                colour = style.BLACK if chance > 0.55 else "white"
                ax.text(other, layer, f"{chance:.2f}", ha="center", va="center", fontsize=7, color=colour)
        # The first layer reads none, and the last is read by none.
        ax.set(xlabel="layer that is read", xlim=(0.5, len(table) - 0.5), ylim=(1.5, len(table) + 0.5))
        ax.set_title(name, fontsize=9, fontweight="normal")
        ax.grid(visible=False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    np.atleast_1d(panels)[0].set_ylabel("layer that reads")
    bar = fig.colorbar(image, ax=list(np.atleast_1d(panels)), shrink=0.8, label="probability")
    bar.outline.set_visible(False)
    return fig


def _around(table: pd.DataFrame) -> tuple[float, float, float, float]:
    """The edges of an image whose squares stand on whole numbers from 1 on."""
    return 0.5, table.shape[1] + 0.5, 0.5, table.shape[0] + 0.5


@styled
def habits(tables: Mapping[str, list[pd.DataFrame]], title: str = "") -> Figure:
    """How what is drawn changes in the course of searches: a line an arm, the mean over its searches, thin each one.

    The tables, a list for each arm by its words, are from `analysis.habits`.
    """
    shown = {
        "error": "mean error, percent",
        "skips": "connections chosen",
        "area": "pixels of a filter",
        "filters": "filters of a layer",
    }
    first = next(iter(tables.values()))[0]
    deepened = first.loc[first["layers"].diff() > 0, "samples"]
    fig, panels = new_panels((7.2, 5.2), title, 2, 2, sharex=True)
    for ax, (column, label) in zip(panels.flat, shown.items(), strict=True):
        for number, (name, searches) in enumerate(tables.items()):
            colour = style.PALETTE[number]
            means = pd.concat([_smooth(table, column) for table in searches], axis=1)
            ax.plot(means.index, means, color=colour, linewidth=0.6, alpha=0.45)
            ax.plot(
                means.index,
                means.mean(axis=1),
                color=colour,
                linewidth=2,
                marker=style.MARKERS[number],
                markersize=4,
                markevery=max(1, len(means) // 6),
                label=name if column == "error" else None,
            )
        for at in deepened:
            ax.axvline(at, color=style.BLACK, linewidth=0.8, linestyle=(0, (2, 2)))
        ax.set_ylabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if column == "skips":
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    for ax in panels[-1]:
        ax.set_xlabel("networks drawn" + (" (dashed: one layer more)" if len(deepened) else ""))
    style.legend_for_all(fig, 2)
    return fig


def _smooth(table: pd.DataFrame, column: str) -> pd.Series:
    """A column by samples, the mean of the last four steps."""
    return table.set_index("samples")[column].rolling(4, min_periods=1).mean()


@styled
def learning_curves(curves: pd.DataFrame, paper: Mapping[str, float], title: str = "") -> Figure:
    """Validation error by epoch, logarithmic, and dashed the paper's test error at the end.

    Columns of `curves`: name, epoch, valid_error; `paper` has the paper's by some of these names.
    """
    fig, ax = new_axes(style.WIDE, "epoch", "error, percent", title)
    for number, (name, part) in enumerate(curves.groupby("name", sort=False)):
        colour = style.PALETTE[number]
        ax.plot(part["epoch"], part["valid_error"], color=colour, linewidth=1.5, label=f"{name}, validation")
        if (theirs := paper.get(str(name))) is not None:
            ax.axhline(theirs, color=colour, linewidth=1, linestyle=(0, (5, 3)), label=f"{name}, the paper's test")
    style.log_scale(ax)
    style.legend_below(ax)
    return fig
