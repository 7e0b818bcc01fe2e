"""The figures of notebook 07: encoders held beside the paper's, what they carry, and what the decoder looks at."""

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from nasrepro.datasets.strings import refuse_string
from nasrepro.report import style
from nasrepro.report.style import colours, legend_below, new_axes, new_panels, styled

# How the drawing of Table 3 marks a seed, a mean, and what is printed in the paper.
_SEED: dict[str, Any] = {"s": 16, "color": style.BLUE, "alpha": 0.75, "linewidths": 0}
_MEAN: dict[str, Any] = {"color": style.BLUE, "linewidth": 2}
_PAPERS: dict[str, Any] = {"s": 34, "marker": "D", "facecolors": "none", "edgecolors": style.RED}

_MAP: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}


@styled
def encoders(
    panels: Mapping[str, tuple[pd.Series, pd.Series | None]], title: str = "", log: Collection[str] = ()
) -> Figure:
    """S17 Table 3 as a drawing: a row for each encoder in the order of the first panel, a panel for each measure.

    `panels` are by the label of an axis: our values, each with its cell as index, and the paper's by cell (None where
    it has none). Points are seeds, a bar is their mean, a diamond the paper's value. The dotted line goes through the
    mean of the first encoder, which the others are held against. Axes in `log` are logarithmic.
    """
    cells = list(dict.fromkeys(cell for ours, _ in panels.values() for cell in ours.index))
    fig, (axes,) = new_panels((7.2, 1.7 + 0.36 * len(cells)), title, 1, len(panels), sharey=True)
    for ax, (panel, (ours, paper)) in zip(axes, panels.items(), strict=True):
        means = ours.groupby(level=0).mean()
        for row, cell in enumerate(cells):
            values = ours[ours.index == cell].to_numpy()
            # Seeds stand one under the other, so that equal ones do not hide each other.
            ax.scatter(values, row + 0.18 * np.linspace(-1, 1, len(values)), **_SEED)
            if len(values):
                ax.vlines(means[cell], row - 0.32, row + 0.32, **_MEAN)
        known = pd.Series(dtype=float) if paper is None else paper[paper.index.isin(cells)]
        rows = [cells.index(cell) for cell in known.index]
        ax.scatter(known, rows, linewidths=1.4, **_PAPERS)
        if cells[0] in means:
            ax.axvline(means[cells[0]], color=style.GREY, linestyle=":", linewidth=1.2, zorder=0)
        if panel in log:
            _log_axis(ax)
        ax.set_xlabel(panel)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(cells)), cells)
    axes[0].set_ylim(len(cells) - 0.5, -0.5)  # the first row on top
    has_paper = any(paper is not None for _, paper in panels.values())
    marks = [
        axes[0].scatter([], [], label="ours, one seed", **_SEED),
        axes[0].vlines([], 0, 1, label="ours, mean", **_MEAN),
        *([axes[0].scatter([], [], label="S17, Table 3", **_PAPERS)] if has_paper else []),
        axes[0].plot([], [], color=style.GREY, linestyle=":", label=f"our {cells[0]}, mean")[0],
    ]
    style.legend_for_all(fig, 4, marks)
    return fig


@styled
def hidden_traces(traces: Mapping[str, ArrayLike], words: Sequence[str], title: str = "") -> Figure:
    """S17 Figure 5: the outputs of encoders over time on one input, a heat map for each.

    `traces` are (words, units) each. Units stand in the order of their mean, which changes no number; every map has its
    own scale, symmetric about 0.
    """
    columns = min(2, len(traces))
    lines = -(-len(traces) // columns)
    fig, axes = new_panels((7.2, 0.9 + 2.0 * lines), title, lines, columns, sharex=True)
    for ax, (name, trace) in zip(axes.flat, traces.items(), strict=False):
        units = np.asarray(trace, dtype=float).T  # (units, words)
        bound = float(np.abs(units).max()) or 1.0
        ordered = units[np.argsort(units.mean(axis=1))]
        _colour_bar(fig, ax, ax.imshow(ordered, cmap="RdBu_r", vmin=-bound, vmax=bound, **_MAP))
        ax.set_title(name)
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.grid(visible=False)
    for ax in axes.flat[len(traces) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("unit, by mean")
    return fig


@styled
def attention_maps(
    maps: Mapping[str, tuple[Sequence[str], ArrayLike]], source: Sequence[str], title: str = ""
) -> Figure:
    """Where the decoder looks: for each model the words that it wrote, and its attention (written, source words).

    Each row is a distribution over the source; darker is more, on one scale from 0 to the greatest weight of all.
    """
    greatest = max(float(np.asarray(weights).max()) for _, weights in maps.values())
    longest = max(len(written) for written, _ in maps.values())
    fig, (axes,) = new_panels((7.2, 1.6 + 0.21 * max(6, longest)), title, 1, len(maps))
    for ax, (name, (written, weights)) in zip(axes, maps.items(), strict=True):
        picture = ax.imshow(np.asarray(weights, dtype=float), cmap="Blues", vmin=0, vmax=greatest, **_MAP)
        ax.set_xticks(range(len(source)), source, rotation=90, fontsize=8)
        ax.set_yticks(range(len(written)), written, fontsize=8)
        ax.set_title(name)
        ax.set_xlabel("source word")
        ax.grid(visible=False)
    axes[0].set_ylabel("word written")
    _colour_bar(fig, list(axes), picture).set_label("attention", fontsize=9)
    return fig


@styled
def influence(left: Mapping[str, ArrayLike], title: str = "") -> Figure:
    """How long a word is remembered: what is left of a change of an encoder's output, against words since then.

    A line for each encoder: what is `left` at each word (words,), 1 at the first.
    """
    fig, ax = new_axes((7.2, 3.4), "words since the one that was exchanged", "share of the change that is left", title)
    for number, (colour, (name, shares)) in enumerate(zip(colours(left), left.items(), strict=True)):
        marker = style.MARKERS[number % len(style.MARKERS)]
        ax.plot(np.asarray(shares), color=colour, linewidth=1.8, marker=marker, markersize=4, label=name)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(ax)
    return fig


def marked(tokens: Sequence[str], reference: Sequence[str]) -> str:
    """A translation as text, with brackets around the words that are not where the reference has them.

    >>> marked("ein hund schläft im park .".split(), "ein hund liegt im park .".split())
    'ein hund [schläft] im park .'

    Raises TypeError for a string, whose letters would be compared.
    """
    for what, words in (("tokens", tokens), ("reference", reference)):
        refuse_string(words, what, "a list of tokens, such as sentence.split()")
    agreed = {
        place
        for block in SequenceMatcher(None, tokens, reference, autojunk=False).get_matching_blocks()
        for place in range(block.a, block.a + block.size)
    }
    return " ".join(word if place in agreed else f"[{word}]" for place, word in enumerate(tokens))


def _log_axis(ax: Axes) -> None:
    """A logarithmic x axis with plain numbers at a few places."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if high < 4 * low:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    else:
        digits = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5)
        ticks = [digit * 10.0**power for power in range(-2, 6) for digit in digits]
        ax.set_xticks([tick for tick in ticks if low <= tick <= high])
    ax.xaxis.set_major_formatter(style.PLAIN)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _colour_bar(fig: Figure, ax: Axes | list[Axes], picture: ScalarMappable) -> Colorbar:
    bar = fig.colorbar(picture, ax=ax, pad=0.02, aspect=18)
    bar.ax.tick_params(labelsize=8)
    bar.ax.grid(visible=False)
    return bar
