"""Drawing a figure in a test."""

import io
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def drawn(make: Callable[[], Figure]) -> Figure:
    """The figure, drawn in full; matplotlib's settings and open figures must be as before."""
    settings, opened = dict(mpl.rcParams), plt.get_fignums()
    fig = make()
    fig.savefig(io.BytesIO(), format="png", dpi=60)
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == opened
    return fig
