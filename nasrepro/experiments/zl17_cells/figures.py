"""The figures of ZL17's search for cells: functions from tables to matplotlib figures, as in `report.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nasrepro.controllers import BaseB
from nasrepro.controllers.base_b import IDENTITY
from nasrepro.dsl.dress.svg import COLOURS
from nasrepro.experiments.zl17_cells.analysis import read_tokens
from nasrepro.experiments.zl17_cells.surrogate import Surrogate
from nasrepro.report import style
from nasrepro.report.style import new_panels, styled

_BOX = (0.8, 0.34)
"""Width and height of a box, where leaves stand 1 apart."""
_LEVEL = 2.1
"""From a node to the one above it: room for two boxes, and for two more where c_{t-1} comes in."""
_PALE = "#EEEEEE"


# ---- a cell as a tree that is labelled


@styled
def construction(space: BaseB, tokens: Sequence[int], title: str = "") -> Figure:
    """ZL17 Figure 5: the tree of the space, what a controller chose for it block by block, and what that computes."""
    fig = Figure(figsize=(7.2, 4.3))
    fig.set_layout_engine("none")  # panels stand where they are put
    fig.text(0.01, 0.965, title, fontsize=11, fontweight="bold", va="top")
    places = {"the tree": (0.0, 0.25), "the tokens, in blocks": (0.26, 0.34), "the cell": (0.62, 0.37)}
    tree, blocks, cell = (fig.add_axes((left, 0.03, width, 0.8)) for left, width in places.values())
    for ax, words in zip((tree, blocks, cell), places, strict=True):
        ax.set_title(words, fontsize=9, fontweight="normal", loc="center")
    _bare_tree(tree, space)
    _blocks(blocks, read_tokens(space, tokens))
    _labelled(cell, space, tokens)
    return fig


@styled
def labelled_tree(space: BaseB, tokens: Sequence[int], title: str = "") -> Figure:
    """What a token string computes, from the leaves up: each node's combination and, on it, its activation.

    Where c_{t-1} comes in, another pair of boxes stands on the node's; c_t is what leaves a node under its activation.
    """
    fig = Figure(figsize=(7.2, 1.2 + 0.95 * (_depths(space)[-1] + 1)))
    fig.set_layout_engine("none")
    fig.text(0.01, 0.98, title, fontsize=11, fontweight="bold", va="top")
    _labelled(fig.add_axes((0.01, 0.01, 0.98, 0.9)), space, tokens)
    return fig


def _depths(space: BaseB) -> list[int]:
    """How far above the leaves each node stands."""
    found = [0] * space.base
    for left, right in space.inputs:
        found.append(1 + max(found[left], found[right]))
    return found


def _middles(space: BaseB) -> list[float]:
    """Where each node stands from left to right: over the middle of its inputs."""
    found = [float(leaf) for leaf in range(space.base)]
    for left, right in space.inputs:
        found.append((found[left] + found[right]) / 2)
    return found


def _bare_tree(ax: Axes, space: BaseB) -> None:
    """The nodes with their numbers."""
    xs, ys = _middles(space), [1.6 * depth for depth in _depths(space)]
    for node, inputs in enumerate(space.inputs, start=space.base):
        for below in inputs:
            ax.plot([xs[below], xs[node]], [ys[below], ys[node]], color=style.GREY, linewidth=1, zorder=1)
    for node, (x, y) in enumerate(zip(xs, ys, strict=True)):
        circle: dict[str, Any] = {"boxstyle": "circle,pad=0.5", "facecolor": "white", "edgecolor": style.BLACK}
        ax.text(x, y, str(node), ha="center", va="center", fontsize=10, bbox=circle, zorder=2)
        if node < space.base:
            ax.text(x, y - 0.8, "$x_t$  $h_{t-1}$", ha="center", va="center", fontsize=9)
            ax.plot([x, x], [y, y - 0.6], color=style.GREY, linewidth=1, zorder=1)
    ax.text(xs[-1], ys[-1] + 0.75, "$h_t$", ha="center", va="center", fontsize=10)
    ax.plot([xs[-1]] * 2, [ys[-1], ys[-1] + 0.55], color=style.GREY, linewidth=1, zorder=1)
    ax.set(xlim=(-0.7, space.base - 0.3), ylim=(-1.3, ys[-1] + 1.2))
    ax.axis("off")


def _blocks(ax: Axes, read: pd.DataFrame) -> None:
    """A row for each block: its two tokens."""
    blocks = read.groupby("block", sort=False)
    for row, (name, part) in enumerate(blocks):
        ax.text(0.0, -row, str(name), ha="left", va="center", fontsize=8.5)
        for column, choice in enumerate(part["choice"]):
            if name == "Cell Indices":
                choice, kind = f"{('$c_t$', '$c_{t-1}$')[column]}: {choice}", ("white", style.BLACK)
            else:
                kind = _kind(choice, column)
            _box(ax, 1.55 + 1.0 * column, -row, choice, kind, (0.95, 0.5))
    ax.set(xlim=(-0.05, 3.1), ylim=(-len(blocks) + 0.3, 0.7))
    ax.axis("off")


def _labelled(ax: Axes, space: BaseB, tokens: Sequence[int]) -> None:
    """Every node as its combination under its activation; see `labelled_tree`."""
    choices = list(read_tokens(space, tokens)["choice"])
    *labels, inject = zip(choices[:-2:2], choices[1:-2:2], strict=True)
    gives, takes = tokens[-2:]
    xs, ys = _middles(space), [_LEVEL * depth for depth in _depths(space)]
    wide, high = _BOX
    tops = [y + high * (3.9 if node == takes else 1.5) for node, y in enumerate(ys)]  # where the value leaves
    line: dict[str, Any] = {"color": style.GREY, "linewidth": 1, "zorder": 1}
    for node, inputs in enumerate(space.inputs, start=space.base):
        for below, side in zip(inputs, (-0.2, 0.2), strict=True):
            ax.plot([xs[below], xs[node] + side], [tops[below], ys[node] - high / 2], **line)
    for node, (x, y, label) in enumerate(zip(xs, ys, labels, strict=True)):
        for step, choice in enumerate(label):
            _box(ax, x, y + high * step, choice, _kind(choice, step), _BOX)
        ax.text(x - wide / 2 - 0.02, y + high / 2, str(node), ha="right", va="center", fontsize=7, color=style.GREY)
        if node < space.base:
            ax.text(x, y - 0.75, "$x_t$ $h_{t-1}$", ha="center", va="center", fontsize=8)
            for side in (-0.2, 0.2):
                ax.plot([x + side, x + side], [y - 0.55, y - high / 2], **line)
        if node == takes:
            for step, choice in enumerate(inject):
                _box(ax, x, y + high * (2.4 + step), choice, _kind(choice, step), _BOX, edge=style.RED)
            ax.plot([x, x], [y + high * 1.5, y + high * 1.9], **line)
            _memory(ax, x + wide / 2, y + high * 2.4, "$c_{t-1}$", -1)
        if node == gives:
            _memory(ax, x + wide / 2, y + high * 0.5, "$c_t$", 1)
    ax.plot([xs[-1]] * 2, [tops[-1], tops[-1] + 0.35], **line)
    ax.text(xs[-1], tops[-1] + 0.55, "$h_t$", ha="center", va="center", fontsize=10)
    ax.set(xlim=(-0.65, space.base - 0.15), ylim=(-1.1, tops[-1] + 0.9))
    ax.axis("off")


def _memory(ax: Axes, x: float, y: float, words: str, way: int) -> None:
    """c_t leaves to the right of a box, way 1, or c_{t-1} comes in from there, way -1."""
    ends = [(x, y), (x + 0.16, y)][::way]
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": style.RED, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    ax.annotate("", ends[1], ends[0], arrowprops=arrow, zorder=4)
    ax.text(x + 0.18, y, words, ha="left", va="center", fontsize=9, color=style.RED, zorder=4)


def _box(
    ax: Axes, x: float, y: float, text: str, kind: tuple[str, str], size: tuple[float, float], edge: str = style.GREY
) -> None:
    wide, high = size
    shape: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": kind[0], "edgecolor": edge}
    ax.add_patch(FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, linewidth=0.9, zorder=2, **shape))
    ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=kind[1], zorder=3)


def _kind(choice: str, step: int) -> tuple[str, str]:
    """Fill and ink of a combination, step 0, or an activation, step 1."""
    return (_PALE, style.GREY) if choice == IDENTITY else COLOURS["activation" if step else "combine"]


# ---- the controller


@styled
def token_chances(read: pd.DataFrame, chances: pd.DataFrame, title: str = "") -> Figure:
    """How likely a controller finds each token of a string, at several moments: a mark for each moment.

    `read` is from `analysis.read_tokens`, `chances` from `analysis.chances`. Bars show tokens that are drawn uniformly.
    """
    fig, ((ax,),) = new_panels((7.2, 3.9), title, 1, 1)
    numbers = np.arange(len(read))
    ax.bar(numbers, 1 / read["choices"], 0.9, color="#DDDDDD", label="drawn uniformly")
    for moment, marker, colour, size in zip(chances, style.MARKERS, style.PALETTE, (8, 5.5, 4.5, 4), strict=False):
        ax.plot(numbers, chances[moment], marker, color=colour, markersize=size, label=str(moment))
    ax.set_xticks(numbers, read["choice"], rotation=90, fontsize=7)
    starts = np.flatnonzero((read["block"] != read["block"].shift()).to_numpy())
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="#BBBBBB", linewidth=0.6)
    ax.set(xlim=(-0.6, len(read) - 0.4), xlabel="token, in the controller's order", ylabel="probability")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="x", visible=False)
    style.legend_for_all(fig, 4)
    return fig


@styled
def rewards(rewards: Sequence[float | None], baselines: Sequence[float], title: str = "") -> Figure:
    """The reward of every child in the order of drawing, and the baseline that it was measured against."""
    fig, ((ax,),) = new_panels(style.WIDE, title, 1, 1)
    values = np.array([np.nan if reward is None else reward for reward in rewards], dtype=float)
    numbers, learned = np.arange(1, len(values) + 1), np.isfinite(values)
    label = f"a child's reward ({learned.sum()})"
    ax.scatter(numbers[learned], values[learned], s=16, color=style.BLUE, alpha=0.75, linewidths=0, label=label)
    ax.plot(numbers, baselines, color=style.RED, linewidth=1.6, label="baseline, before that child")
    style.failed_ticks(ax, numbers[~learned], height=0.03)
    ax.set(xlabel="child, in order of drawing", ylabel="reward")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend_for_all(fig, 3)
    return fig


# ---- the noise of a child


@styled
def noise(losses: pd.DataFrame, title: str = "") -> Figure:
    """Cells from best to worst, each from every seed; and the order of one seed against that of the others.

    `losses` is from `analysis.by_seed`. Failures stand as ticks above.
    """
    fig, ((spread, order),) = new_panels((7.2, 3.9), title, 1, 2, width_ratios=[3, 2])
    ranked = losses.loc[losses.median(axis=1).sort_values(na_position="last").index]
    first = ranked.columns[0]
    failed = [place for place, row in enumerate(ranked.isna().to_numpy(), start=1) for missing in row if missing]
    for seed, marker, colour in zip(ranked, style.MARKERS, style.PALETTE, strict=False):
        points: dict[str, Any] = {"s": 14, "marker": marker, "color": colour, "alpha": 0.8, "linewidths": 0}
        spread.scatter(np.arange(1, len(ranked) + 1), ranked[seed], label=f"seed {seed}", **points)
        if seed != first:
            order.scatter(ranked[first], ranked[seed], **points)
    style.failed_ticks(spread, np.array(failed), height=0.97)
    spread.set(xlabel="random cells, from best to worst", ylabel="validation perplexity", xlim=(0.3, len(ranked) + 0.7))
    spread.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(both := ranked.dropna()):
        ends = [float(both.to_numpy().min()), float(both.to_numpy().max())]
        order.plot(ends, ends, color=style.BLACK, linestyle=(0, (5, 3)), linewidth=0.8, zorder=0)
    for ax in (spread, order):
        ax.ticklabel_format(axis="y", useOffset=False)
    order.set(xlabel=f"perplexity from seed {first}", ylabel="perplexity from another seed")
    style.legend_for_all(fig, 5)
    return fig


# ---- the searches


@styled
def predictions(surrogate: Surrogate, title: str = "") -> Figure:
    """The recorded loss of cells, over the prediction of a ranking function that has not seen them; ticks: failed."""
    fig, ax = style.new_axes((4.6, 4.3), "perplexity predicted by a ranking function", "recorded perplexity", title)
    predicted, measured = np.exp(surrogate.predicted), np.exp(surrogate.measured)
    ax.scatter(predicted, measured, s=9, color=style.BLUE, alpha=0.35, linewidths=0, label="a cell")
    ends = [np.nanmin(measured), np.nanmax(measured)]
    ax.plot(ends, ends, color=style.BLACK, linestyle=(0, (5, 3)), linewidth=0.9, label="equal")
    style.failed_ticks(ax, predicted[np.isnan(measured)], height=0.97)
    ax.set(xscale="log", yscale="log")
    style.log_axis(ax.xaxis)
    style.log_axis(ax.yaxis)
    style.legend_below(ax)
    return fig


# ---- known cells


@styled
def cells(panels: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Known cells from several seeds: a panel for each task, by its words; points are seeds, bars their mean.

    The tables are from `after_search.cells_by_seed`; a panel whose table is empty says that nothing is recorded.
    """
    names = list(dict.fromkeys(name for table in panels.values() for name in table["name"]))
    fig, (axes,) = new_panels((7.2, 1.5 + 0.34 * max(3, len(names))), title, 1, len(panels), sharey=True)
    for ax, (what, table) in zip(axes, panels.items(), strict=True):
        for row, name in enumerate(names):
            values = table.loc[table["name"] == name, "valid_ppl"].dropna()
            ax.scatter(values, np.full(len(values), row), s=22, color=style.BLUE, alpha=0.7, linewidths=0, zorder=3)
            ax.plot([values.mean()] * 2, [row - 0.28, row + 0.28], color=style.RED, linewidth=2, zorder=4)
        if table.empty:
            ax.text(0.5, 0.5, "not recorded yet", transform=ax.transAxes, ha="center", va="center", color=style.GREY)
            ax.set_xticks([])
        ax.set_title(what, fontsize=9, fontweight="normal")
        ax.set(xlabel="validation perplexity", ylim=(len(names) - 0.4, -0.6))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(names)), names)
    return fig
