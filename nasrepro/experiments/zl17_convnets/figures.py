"""The figures of ZL17's convolutional half: functions from tables to matplotlib figures, as in `report.figures`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nasrepro.report import style
from nasrepro.report.style import new_axes, new_panels, styled


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
