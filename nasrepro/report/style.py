"""One look for every figure: colours that the colour-blind can tell apart, one font, one grid."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes

# Okabe & Ito 2008, "Color Universal Design"; the yellow is left out, too pale for lines on white.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#000000",
)
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"

WIDE = (7.2, 4.0)  # inches; at 150 dpi about the 900 pixels of a notebook's column
TALL = (7.2, 5.2)

SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same letters
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",  # letters as outlines: the same on machines without the font
}


@contextmanager
def look() -> Iterator[None]:
    """The project's look inside a `with` block; matplotlib's settings are put back after it."""
    with mpl.rc_context(), sns.axes_style("whitegrid"):
        mpl.rcParams.update(SETTINGS)  # type: ignore[arg-type, unused-ignore]
        yield


def paper_line(ax: Axes, value: float, label: str = "paper") -> None:
    """Draw the paper's value as a dashed horizontal line, with its label at the right end, above the line."""
    ax.axhline(value, color=BLACK, linestyle=(0, (5, 3)), linewidth=1.0, zorder=1)
    ax.annotate(
        f"{label}: {value:g}",
        xy=(1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=BLACK,
    )
