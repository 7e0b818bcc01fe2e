"""The figures of the language model's searches: their progress, and how well the ranking function predicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from nasrepro.report import style
from nasrepro.report.style import colours, legend_below, new_axes, styled


@styled
def search_progress(evaluations: pd.DataFrame, title: str = "", paper_ticks: Sequence[float] | None = None) -> Figure:
    """S17 Figure 3: log perplexity of every trained cell against its number in the search, old to new.

    `evaluations` has columns number, log_ppl, memory (True for a cell with a c_t), status ("ok" or "failed")
    and method. Failed cells stand as ticks along the top; the line is the best so far. `paper_ticks`, the
    labels of the paper's y axis, make the y axis span at least as much.
    """
    ok = evaluations[evaluations["status"] == "ok"].sort_values("number")
    fig, ax = new_axes(style.WIDE, "architecture number, in order of training", "validation log perplexity", title)
    methods = list(dict.fromkeys(evaluations["method"]))
    for colour, method in zip(colours(methods), methods, strict=True):
        # A single method has its kinds of cells in two colours, and needs no name.
        name, shades, line = (
            (f"{method}, ", (colour, colour), colour) if len(methods) > 1 else ("", (colour, style.ORANGE), style.BLACK)
        )
        found = ok[ok["method"] == method]
        for memory, marker, shade, words in (
            (False, "o", shades[0], "$h_t$ only"),
            (True, "^", shades[1], "with $c_t$"),
        ):
            part = found[found["memory"].astype(bool) == memory]
            if len(part):
                points: dict[str, Any] = {"s": 18, "marker": marker, "color": shade, "alpha": 0.65, "linewidths": 0}
                ax.scatter(part["number"], part["log_ppl"], label=f"{name}{words} ({len(part)})", **points)
        best = found["log_ppl"].cummin()
        ax.step(found["number"], best, where="post", color=line, linewidth=1.4, label=f"{name}best so far")
    style.failed_ticks(ax, evaluations.loc[evaluations["status"] != "ok", "number"].to_numpy(), height=0.97)
    if paper_ticks is not None:
        low, high = min(*paper_ticks, ok["log_ppl"].min()), max(*paper_ticks, ok["log_ppl"].max())
        ax.set_ylim(low - 0.03 * (high - low), high + 0.06 * (high - low))  # room for the failed ones on top
    perplexities = ax.secondary_yaxis("right")  # few people read nats
    perplexities.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.exp(value):,.0f}"))
    perplexities.set_ylabel("perplexity")
    legend_below(ax)
    return fig


@styled
def rank_scatter(
    pred: ArrayLike, true: ArrayLike, tau: float, tau_interval: tuple[float, float] | None = None, title: str = ""
) -> Figure:
    """Predicted against measured log perplexity of cells that the ranking function has not seen; shapes (n,) each."""
    predicted, measured = np.asarray(pred, dtype=float), np.asarray(true, dtype=float)
    fig, ax = new_axes((5.6, 5.0), "predicted log perplexity", "measured log perplexity", title)
    ax.scatter(predicted, measured, s=22, color=style.BLUE, alpha=0.6, linewidths=0)
    low, high = min(predicted.min(), measured.min()), max(predicted.max(), measured.max())
    ax.plot([low, high], [low, high], color=style.GREY, linewidth=1, linestyle=":", label="predicted = measured")
    spread = "" if tau_interval is None else f" [{tau_interval[0]:.2f}, {tau_interval[1]:.2f}]"
    ax.plot([], [], " ", label=f"Kendall's tau {tau:.2f}{spread}, n = {len(measured)}")
    ax.legend(loc="upper left")
    return fig
