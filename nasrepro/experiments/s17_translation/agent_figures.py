"""The figures of the agent's search: functions from tables to matplotlib figures, as in `report.figures`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nasrepro.controllers import reward
from nasrepro.controllers.tree_agent import top_down
from nasrepro.dsl import Cell, Node
from nasrepro.dsl.dress.svg import COLOURS, TOP, kind_of, lay_out
from nasrepro.report import style
from nasrepro.report.style import colours, legend_below, new_axes, new_panels, styled

_SHOWN = 5
"""Words that get a bar of their own at each decision."""
_COLUMNS = 3
"""Decisions side by side."""


# ---- a cell, word by word


@styled
def decisions(tree: Node, chances: pd.DataFrame, before: pd.DataFrame | None = None, title: str = "") -> Figure:
    """S17 Figure 2 as the agent sees it: the tree before each word, and how likely the agent finds the words.

    `chances` has one row per word of the tree, from h_t down and left to right, and one column per word of the
    language; `before` the same of the agent before it learned, drawn as ticks.

    Raises ValueError for tables of another length.
    """
    words = list(top_down(tree))
    for table in (chances, before):
        if table is not None and len(table) != len(words):
            raise ValueError(f"{tree.text} has {len(words)} words, but the table has {len(table)} rows")
    rows = -(-len(words) // _COLUMNS)
    high = 0.4 + 0.22 * tree.height  # of a tree, in inches
    panel = high + 1.45  # the tree, and 0.95 of bars with room for their scale
    width, height = 7.2, 0.75 + rows * panel
    fig = Figure(figsize=(width, height))
    fig.set_layout_engine("none")  # panels stand where they are put
    fig.text(0.0, 1 - 0.08 / height, title, fontsize=11, fontweight="bold", va="top")
    for number, word in enumerate(words):
        row, column = divmod(number, _COLUMNS)
        left, top = 2.4 * column, height - 0.45 - row * panel  # of the panel

        def axes(x: float, y: float, wide: float, high: float, left: float = left, top: float = top) -> Axes:
            return fig.add_axes(((left + x) / width, (top - y - high) / height, wide / width, high / height))

        _partial_tree(axes(0.05, 0.1, 2.3, high), tree, number)
        bars = axes(0.78, high + 0.15, 1.45, 0.95)
        _word_bars(bars, chances.iloc[number], word, None if before is None else before.iloc[number])
        bars.set_xlabel("probability" if number + _COLUMNS >= len(words) else "", fontsize=7, labelpad=1)
    handles: list[Artist] = [
        Patch(color=style.RED, label="the word that was drawn"),
        Patch(color=style.BLUE, label="other words"),
        Line2D([], [], color=style.BLACK, marker="|", linestyle="", markersize=8, label="before it learned"),
    ]
    # Anchored to the figure itself: what is printed below it widens the saved picture, not the figure.
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 0), "bbox_transform": fig.transFigure}
    fig.legend(handles=handles[: 2 if before is None else 3], ncols=3, fontsize=8, **place)
    return fig


def _partial_tree(ax: Axes, tree: Node, placed: int) -> None:
    """The first `placed` nodes of a tree, the slot to fill next in orange, and the slots to come dashed."""
    root, width, height = lay_out(Cell(tree))
    boxes = list(root.walk())
    shown = {root}
    for parent in boxes[:placed]:
        shown.update(parent.args)
        for arg in parent.args:
            ax.plot([parent.x, arg.x], [parent.y, arg.y], color="#AAAAAA", linewidth=0.8, zorder=1)
    for number, place in enumerate(boxes):
        if place not in shown:
            continue  # its parent is not there yet, so it is not even a slot
        fill, ink = COLOURS[kind_of(place.node)] if number < placed else ("white", style.BLACK)
        edge, line = (style.RED, 1.6) if number == placed else (style.GREY, 0.6)
        text = place.node.op if number < placed else "T" if number == placed else "  "
        box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": edge, "linewidth": line}
        box["linestyle"] = "-" if number <= placed else ":"
        ax.text(place.x, place.y, _as_math(text), ha="center", va="center", fontsize=6, color=ink, bbox=box, zorder=2)
    ax.set(xlim=(0, width), ylim=(height, TOP))  # nothing stands in the room for h_t
    ax.axis("off")
    ax.set_title(f"word {placed + 1}", fontsize=8, fontweight="normal")


def _word_bars(ax: Axes, chances: pd.Series, chosen: str, before: pd.Series | None) -> None:
    """The likeliest words and the chosen one as bars, the rest together."""
    likeliest = [str(word) for word in chances.nlargest(_SHOWN).index]
    words = likeliest if chosen in likeliest else [*likeliest[:-1], chosen]
    rest = f"{len(chances) - len(words)} others"
    shown = {**{word: float(chances[word]) for word in words}, rest: float(chances.drop(words).sum())}
    rows = range(len(shown))
    shades = [style.RED if word == chosen else "#BBBBBB" if word == rest else style.BLUE for word in shown]
    ax.barh(rows, list(shown.values()), 0.75, color=shades)
    end = (max(shown[chosen], 0 if before is None else before[chosen]), words.index(chosen))  # clear of the tick
    aside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7}
    ax.annotate(f"{shown[chosen]:.0%}", end, (5, 0), color=style.RED, **aside)
    if before is not None:
        earlier = [*(float(before[word]) for word in words), float(before.drop(words).sum())]
        ax.scatter(earlier, rows, marker="|", s=36, color=style.BLACK, linewidths=1.1, zorder=3)
    ax.set_yticks(rows, [_as_math(word) for word in shown], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1])
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="y", visible=False)


def _as_math(word: str) -> str:
    """h_{t-1} and the like with their index lowered."""
    return f"${word}$" if "_" in word else word


# ---- the reward


@styled
def reward_curve(checks: Mapping[float, float], losses: Sequence[float] = (), title: str = "") -> Figure:
    """S17's reward against the loss, from 0 to 140 and near the losses of a search's cells.

    `checks` are rewards worked out from the printed formula, by loss.
    """
    curve = pd.DataFrame({"loss": np.linspace(0, 140, 1401)})
    curve["reward"] = curve["loss"].map(reward)
    fig, ((whole, near),) = new_panels((7.2, 3.6), title, 1, 2)
    for ax in (whole, near):
        ax.plot(curve["loss"], curve["reward"], color=style.BLUE, linewidth=1.8, label="reward")
        ax.set(xlabel="loss: validation perplexity", ylabel="reward")
    whole.scatter([*checks], [*checks.values()], color=style.BLACK, s=26, zorder=3, label="by the printed formula")
    if len(losses):
        low, high = float(np.min(losses)), float(np.max(losses))
        whole.axvspan(low, high, color=style.ORANGE, alpha=0.25, linewidth=0, label=f"cells here ({len(losses)})")
        reached = np.interp(losses, curve["loss"], curve["reward"])
        near.scatter(losses, reached, color=style.ORANGE, s=20, alpha=0.7, linewidths=0, zorder=3)
        room = 0.08 * (high - low) + 0.01 * high
        near.set_xlim(max(0.0, low - room), high + room)
        seen = curve[curve["loss"].between(*near.get_xlim())]["reward"]
        if len(seen) > 1:
            near.set_ylim(float(seen.min()), float(seen.max()))
    near.set_title("where the cells lie", fontsize=9, fontweight="normal")
    whole.legend(loc="upper right")
    return fig


# ---- what pre-training does


@styled
def pretraining(looks: pd.DataFrame, reference: float, title: str = "") -> Figure:
    """The share of well-formed trees among the agent's, during its pre-training.

    `looks` has columns updates and share; `reference` is the share among trees of words drawn uniformly.
    """
    fig, ax = new_axes((7.2, 3.4), "updates of the pre-training", "well-formed trees", title)
    ax.plot(looks["updates"], looks["share"], color=style.BLUE, marker="o", markersize=5, label="the agent's draws")
    ax.axhline(reference, color=style.BLACK, linestyle=(0, (5, 3)), linewidth=1, label="words drawn uniformly")
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(ax)
    return fig


# ---- what the search draws


@styled
def word_shares(shares: pd.DataFrame, late: Collection[str], title: str = "") -> Figure:
    """S17 Figure 4: the share of each word in the trees of each step, and of all words of `late` together.

    `shares` has a row per step and a column per word, the rows summing to 1; words of `late`, S17's extended ones,
    stand below a line.
    """
    core, extended = ([word for word in shares.columns if (word in late) == is_late] for is_late in (False, True))
    words = core + extended
    heights = [0.22 * len(words), 1.3]
    fig, ((above,), (below,)) = new_panels((7.2, 1.9 + heights[0]), title, 2, 1, sharex=True, height_ratios=heights)
    steps = np.asarray(shares.index, dtype=float)
    edges = np.append(steps, steps[-1] + 1) - 0.5
    image = above.pcolormesh(edges, np.arange(len(words) + 1) - 0.5, shares[words].T, cmap=_SHADES, vmin=0)
    above.set_yticks(range(len(words)), [_as_math(word) for word in words], fontsize=8)
    for label, word in zip(above.get_yticklabels(), words, strict=True):
        label.set_color(style.RED if word in extended else style.BLACK)
    above.invert_yaxis()
    above.axhline(len(core) - 0.5, color=style.BLACK, linewidth=1.2)
    above.grid(visible=False)
    fig.colorbar(image, ax=above, format=PercentFormatter(1.0, decimals=0), label="share of the step's words", pad=0.02)
    together = shares[extended].sum(axis=1)
    below.plot(steps, together, color=style.RED, marker="o", markersize=4)
    below.set(xlabel="step of the search", ylabel="extended words", ylim=(0, max(0.05, 1.15 * together.max())))
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


_SHADES = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", style.SKY, style.BLUE, "#00263B"])
"""From light to dark, so that it reads in grey too."""


@styled
def rewards(trees: pd.DataFrame, updates: pd.DataFrame | None = None, window: int = 8, title: str = "") -> Figure:
    """S17 Figure 6: the reward of every tree in the order in which they were drawn, with the running mean of
    those that did not fail.

    `trees` has columns reward (nan for a failure) and explored (words that epsilon drew); `updates` has columns tree
    (a place between trees) and baseline, what the agent measured rewards against; it may be empty. Failures stand as
    ticks below.
    """
    fig, ax = new_axes(style.WIDE, "tree number, in order of drawing", "reward", title)
    numbers, values = np.arange(len(trees)), trees["reward"].to_numpy(dtype=float)
    explored, valid = trees["explored"].to_numpy() > 0, np.isfinite(values)
    for chosen, marker, colour, words in (
        (~explored, "o", style.BLUE, "exploitation: the policy alone"),
        (explored, "^", style.ORANGE, "exploration: epsilon drew a word"),
    ):
        some = chosen & valid
        points: dict[str, Any] = {"s": 20, "marker": marker, "color": colour, "alpha": 0.75, "linewidths": 0}
        ax.scatter(numbers[some], values[some], label=f"{words} ({some.sum()})", **points)
    running = pd.Series(values[valid]).rolling(window, min_periods=1).mean()
    ax.plot(numbers[valid], running, color=style.BLACK, linewidth=1.6, label=f"running mean of {window} trees")
    if updates is not None and len(updates):
        ax.plot(updates["tree"], updates["baseline"], ".--", color=style.RED, linewidth=1.3, label="baseline")
    style.failed_ticks(ax, numbers[~valid], height=0.03)
    ax.set_xlim(-1, len(trees))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(ax)
    return fig


@styled
def long_searches(windows: pd.DataFrame, title: str = "") -> Figure:
    """How the trees of searches change, from `agent.by_window`: a panel for each measure, a line for each search."""
    panels = {
        "reward": "mean reward",
        "failed": "share of trees that failed",
        "blind": "share of blind trees",
        "extended": "share of extended words",
    }
    fig, axes = new_panels((7.2, 5.6), title, 2, 2, sharex=True)
    kinds = windows.groupby("kind", sort=False)
    for ax, (column, words) in zip(axes.flat, panels.items(), strict=True):
        for colour, (kind, part) in zip(colours(kinds), kinds, strict=True):
            for number, (_, line) in enumerate(part.groupby("seed")):
                ax.plot(line["trees"], line[column], ".-", color=colour, label=None if number else kind, alpha=0.8)
        ax.set(ylabel=words, xscale="log")  # one search may draw many times as many trees as another
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_formatter(style.PLAIN)
    for ax in axes[-1]:
        ax.set_xlabel("trees drawn")
    style.legend_for_all(fig, columns=2)
    return fig


@styled
def beside_reference(cells: pd.DataFrame, reference: Sequence[float], name: str = "LSTM", title: str = "") -> Figure:
    """Every cell's perplexity from best to worst, beside a cell that is known: left of its line are the better ones.

    `cells` has columns valid_ppl (nan for failures, which are not drawn) and kind, which gives the colours;
    `reference` are the known cell's perplexities, one for each seed.
    """
    fig, ax = new_axes(style.WIDE, "cells, from best to worst", "validation perplexity", title)
    order = cells.dropna(subset="valid_ppl").sort_values("valid_ppl", kind="stable").reset_index(drop=True)
    kinds = order.groupby("kind", sort=True)
    for (kind, part), marker, colour in zip(kinds, style.MARKERS, style.PALETTE, strict=False):
        points: dict[str, Any] = {"s": 20, "marker": marker, "color": colour, "linewidths": 0}
        ax.scatter(part.index + 1, part["valid_ppl"], label=f"{kind} ({len(part)})", **points)
    middle = float(np.mean(reference))
    ax.axhline(middle, color=style.BLACK, linestyle=(0, (5, 3)), linewidth=1.2, label=f"{name}: {middle:.1f}")
    if len(reference) > 1:
        low, high = min(reference), max(reference)
        ax.axhspan(low, high, color=style.BLACK, alpha=0.1, linewidth=0, label="range of its seeds")
    style.log_scale(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(ax)
    return fig
