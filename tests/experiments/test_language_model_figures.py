"""Figures of the language model's searches: what is drawn is what was measured, and nothing is cut off."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from nasrepro.experiments.s17_language_model import figures
from tests.report.drawn import drawn

RNG = np.random.default_rng(0)
N = 40
EVALUATIONS = pd.DataFrame(
    {
        "number": RNG.permutation(N),
        "log_ppl": RNG.normal(5, 0.3, N),
        "memory": RNG.random(N) < 0.4,
        "status": np.where(RNG.random(N) < 0.2, "failed", "ok"),
        "method": "ranked",
    }
)
EVALUATIONS.loc[EVALUATIONS["status"] == "failed", "log_ppl"] = np.nan


def offsets(fig: Figure) -> set[tuple[float, float]]:
    """The points of all scatters that are drawn in data coordinates."""
    ax = fig.axes[0]
    clouds = [c for c in ax.collections if isinstance(c, PathCollection) and c.get_offset_transform() == ax.transData]
    return {(float(x), float(y)) for c in clouds for x, y in np.asarray(c.get_offsets())}


def test_search_progress_draws_every_trained_cell_and_a_running_best():
    ok = EVALUATIONS[EVALUATIONS["status"] == "ok"]
    fig = figures.search_progress(EVALUATIONS, "T", paper_ticks=[4.9, 5.0, 5.1])
    assert offsets(fig) == set(zip(ok["number"].astype(float), ok["log_ppl"], strict=True))
    best = fig.axes[0].lines[0].get_ydata()
    assert (np.diff(best) <= 0).all()
    assert best[-1] == ok["log_ppl"].min()
    low, high = fig.axes[0].get_ylim()
    assert low < min(4.9, ok["log_ppl"].min())
    assert max(5.1, ok["log_ppl"].max()) < high
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert f"failed ({N - len(ok)})" in labels
    assert f"with $c_t$ ({ok['memory'].sum()})" in labels


def test_rank_scatter_says_tau_and_n():
    fig = figures.rank_scatter([1, 2, 3], [2, 1, 3], 1 / 3, (-0.2, 0.8))
    texts = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert "Kendall's tau 0.33 [-0.20, 0.80], n = 3" in texts
    assert offsets(fig) == {(1, 2), (2, 1), (3, 3)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: figures.search_progress(EVALUATIONS, "T"),
        lambda: figures.search_progress(pd.concat([EVALUATIONS, EVALUATIONS.assign(method="random")]), "T"),
        lambda: figures.rank_scatter([1, 2], [1, 2], 1.0, title="T"),
    ],
)
def test_every_figure_draws_has_labels_and_leaves_no_trace(make):
    fig = drawn(make)
    assert fig.axes[0].get_title(loc="left") == "T"
    assert fig.axes[0].get_xlabel()
    assert fig.get_size_inches()[0] * 150 <= 1100
