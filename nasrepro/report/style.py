"""One look for every figure: colours for the colour-blind too, one font, one grid, a legend out of the way."""

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

# Okabe & Ito 2008, "Color Universal Design"; the yellow is left out, too pale for lines on white.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
"""Writes numbers of a logarithmic axis as they are, and not as powers of ten."""

WIDE = (7.2, 4.0)  # inches; at 150 dpi about the 900 pixels of a notebook's column

SETTINGS = dict(mpl.rc_params_from_file(Path(__file__).with_name("look.mplstyle"), use_default_template=False))
SETTINGS["axes.prop_cycle"] = cycler(color=PALETTE)


@contextmanager
def look() -> Iterator[None]:
    """The project's look inside a `with` block; matplotlib's settings are put back after it."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(SETTINGS)  # type: ignore[arg-type, unused-ignore]
        yield


styled = look()
"""Decorates a function that draws, so that it does so in the project's look."""


def new_axes(size: tuple[float, float], x: str, y: str, title: str) -> tuple[Figure, Axes]:
    """A figure of `size` inches with one pair of labelled axes."""
    # A Figure of its own, not pyplot's: nothing to close, and a notebook shows it once.
    fig = Figure(figsize=size, layout="constrained")
    ax = fig.add_subplot()
    ax.set(xlabel=x, ylabel=y, title=title)
    return fig, ax


def new_panels(
    size: tuple[float, float], title: str, rows: int, columns: int, **shared: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure of `size` inches with axes (rows, columns) under one title; `shared` goes to `Figure.subplots`."""
    fig = Figure(figsize=size, layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fig, fig.subplots(rows, columns, squeeze=False, **shared)


def log_axis(axis: Axis) -> None:
    """Ticks of a logarithmic axis that spans a power of ten or two, with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_locator(NullLocator())


def log_scale(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers, between powers of ten too."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(PLAIN)
    ax.yaxis.set_minor_formatter(PLAIN)
    ax.yaxis.set_minor_locator(MaxNLocator(6))
    ax.tick_params(which="minor", labelsize=8)


def colours(names: Sized) -> list[str]:
    """A colour for each name, in the palette's order."""
    return [PALETTE[i % len(PALETTE)] for i in range(len(names))]


def legend_for_all(fig: Figure, columns: int, handles: Sequence[Any] = ()) -> None:
    """One legend for all panels, in a strip of its own at the bottom: of these handles, or of all that have a label."""
    found = [pair for ax in fig.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    by_label = {label: handle for handle, label in reversed(found)} if not handles else {}
    shown = list(handles) or [by_label[label] for label in dict.fromkeys(label for _, label in found)]
    strip = (0.16 + 0.2 * -(-len(shown) // columns)) / fig.get_figheight()
    fig.set_layout_engine("constrained", rect=(0, strip, 1, 1 - strip))
    # By coordinates: matplotlib moves other legends of a figure when it is saved "tight".
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 0), "bbox_transform": fig.transFigure}
    fig.legend(handles=shown, ncols=columns, fontsize=9, **place)


def legend_below(ax: Axes) -> None:
    """The legend under the axes, where it hides no point; the pad leaves room for tick and axis labels."""
    _, labels = ax.get_legend_handles_labels()
    if labels:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.2, ncols=min(3, len(labels)))


def failed_ticks(ax: Axes, places: NDArray[Any], height: float) -> None:
    """A tick for each failure, at `height` of the axes, 0 to 1; nothing where none has failed."""
    if len(places):
        line: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "marker": "|", "s": 26, "color": GREY}
        ax.scatter(places, np.full(len(places), height), label=f"failed ({len(places)})", **line)
        ax.margins(y=0.1)
