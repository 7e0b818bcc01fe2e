"""Figures of notebook 14: what is drawn is what was counted and measured."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from nasrepro.experiments.zl17_transfer import analysis, figures
from nasrepro.experiments.zl17_transfer.sizes import COMPARED, SIZES
from nasrepro.trainers.forecast import MULTI30K, WMT14
from nasrepro.trainers.gnmt_translation import GnmtSettings

TABLES = {
    "here": analysis.costs(SIZES["course"].task.training, MULTI30K),
    "ZL17": analysis.costs(GnmtSettings(), WMT14),
}
RUNS = pd.DataFrame(
    {
        "seed": [1, 2, 3] * 2,
        "test_multi_bleu": [34.0, 34.0, 21.0, 34.0, 34.5, 33.0],
        "valid_ppl": [8.0, 8.1, 15.0, 9.0, 9.1, 9.2],
        "stuck": [False, False, True, False, False, False],
    },
    index=pd.Index(np.repeat(COMPARED, 3), name="cell"),
)
PAIRS = pd.DataFrame({"gain": [0.0, 0.5, 12.0, -0.6], "stuck": [False, False, True, False]}, index=[1, 2, 3, 4])


def points(fig: Figure, panel: int = 0) -> list[tuple[float, float]]:
    """Everything that is scattered in a panel, to three decimals."""
    clouds = [c for c in fig.axes[panel].collections if isinstance(c, PathCollection)]
    return [(round(float(x), 3), round(float(y), 3)) for c in clouds for x, y in np.asarray(c.get_offsets())]


def test_bars_of_a_model_add_up_to_what_it_multiplies() -> None:
    fig = figures.costs(TABLES, "T")
    assert [ax.get_title(loc="left") for ax in fig.axes] == list(TABLES)
    for ax, table in zip(fig.axes, TABLES.values(), strict=True):
        ends = [bar.get_x() + bar.get_width() for bar in ax.patches[-len(table) :]]
        assert ends == pytest.approx(table["together"].tolist())
        assert ax.lines[0].get_xdata() == pytest.approx([table["together"].iloc[0]] * 2), "the LSTM's"
        assert [label.get_text() for label in ax.get_yticklabels()] == table["model"].tolist()
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(analysis.PARTS)


def test_the_legend_overlaps_no_axis() -> None:
    for fig in (figures.costs(TABLES), figures.by_seed({"BLEU": (RUNS, "test_multi_bleu")})):
        fig.draw_without_rendering()
        (legend,) = fig.legends
        top = legend.get_window_extent().y1
        assert all(ax.get_tightbbox().y0 >= top for ax in fig.axes)


def test_every_training_has_a_line_and_stuck_ones_are_dashed_and_named() -> None:
    rows = [(name, seed, epoch, 20.0 / epoch) for name in COMPARED for seed in (2, 1) for epoch in (1, 2)]
    curves = pd.DataFrame(rows, columns=["cell", "seed", "epoch", "valid_ppl"])
    stuck = pd.Series({("LSTM", 2): True, ("LSTM", 1): False, ("NASCell", 1): False, ("NASCell", 2): False})
    ax = figures.curves(curves, stuck, "T").axes[0]
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert len(lines) == 4
    assert [line.get_linestyle() for line in lines].count("--") == 1
    assert [text.get_text() for text in ax.texts] == ["LSTM, seed 2"]
    assert {to_hex(line.get_color()).upper() for line in lines} == set(figures.COLOURS.values())
    assert ax.get_yscale() == "log"
    none = figures.curves(curves, stuck & False).axes[0]
    assert "got stuck" not in {text.get_text() for text in none.get_legend().get_texts()}


def test_by_seed_shows_both_cells_of_each_seed_and_their_means() -> None:
    fig = figures.by_seed({"BLEU": (RUNS, "test_multi_bleu"), "perplexity": (RUNS, "valid_ppl")}, "T")
    drawn = points(fig)
    assert {(34.0, -0.12), (34.0, 0.12), (21.0, 1.88), (33.0, 2.12)} <= set(drawn)
    means = RUNS.groupby("cell")["test_multi_bleu"].mean()
    assert {(round(means[name], 3), 3.0) for name in COMPARED} <= set(drawn)
    clouds = [c for c in fig.axes[0].collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    hollow = [tuple(np.asarray(c.get_offsets())[0]) for c in clouds if to_hex(c.get_facecolor()[0]) == "#ffffff"]
    assert hollow == [(21.0, 1.88)], "the one that got stuck"
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["seed 1", "seed 2", "seed 3", "mean"]


def test_a_cell_that_failed_from_a_seed_leaves_the_other_alone() -> None:
    fig = figures.by_seed({"BLEU": (RUNS.iloc[1:], "test_multi_bleu")})
    assert (34.0, 0.12) in points(fig)
    assert (34.0, -0.12) not in points(fig)


def test_gains_shows_all_seeds_above_those_that_did_not_get_stuck_and_the_papers() -> None:
    ax = figures.gains(PAIRS, 0.5, "T").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "all seeds", "without stuck ones\n(exploratory)", "ZL17, WMT'14",
    ]  # fmt: skip
    assert [text.get_text() for text in ax.texts] == ["+2.98", "-0.03", "+0.5"]
    assert {(2.975, 0.0), (round(-0.1 / 3, 3), 1.0), (0.5, 2.0)} <= set(points(ax.figure))
    bands = [line for line in ax.lines if line.get_linewidth() == 5]
    assert [list(line.get_ydata()) for line in bands] == [[0, 0], [1, 1]]


def test_without_stuck_seeds_there_is_nothing_exploratory_and_two_seeds_have_no_band() -> None:
    ax = figures.gains(PAIRS.iloc[:2], 0.5).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all seeds", "ZL17, WMT'14"]
    assert not [line for line in ax.lines if line.get_linewidth() == 5]
