"""Figures: what is drawn is what was measured, nothing is cut off, and no setting leaks out."""

import itertools

import numpy as np
import pandas as pd
import pytest

from nasrepro.report import figures, style
from tests.report.drawn import drawn

RUNS = pd.DataFrame(
    [
        {"budget": b, "seed": s, "method": m, "best": 6 - 0.1 * b + 0.05 * s}
        for m in ("ranked", "random")
        for s in range(3)
        for b in range(1, 6)
    ]
)
CURVES = pd.DataFrame(
    [
        {"name": n, "seed": s, "epoch": e, "valid_ppl": 300 / e + s}
        for n in ("LSTM", "BC3")
        for s in (0, 1)
        for e in (1, 2, 3)
    ]
)
LAYERS = pd.DataFrame(
    [
        {"H": h, "B": 2, "T": 3, "layer": name, "ratio": ratio, "ratio q1": 0.9 * ratio, "ratio q3": 1.1 * ratio}
        for h, ratios in (
            (8, {"reference": 1, "fast": 0.5, "slow": 2.0}),
            (16, {"reference": 1, "fast": 0.8, "slow": 3}),
        )
        for name, ratio in ratios.items()
    ]
)


def test_best_so_far_is_the_mean_of_seeds_with_a_band_from_three_seeds_on():
    fig = figures.best_so_far(RUNS)
    thick = [line for line in fig.axes[0].lines if line.get_linewidth() == 2]
    assert [line.get_label() for line in thick] == ["ranked, mean of 3 seeds", "random, mean of 3 seeds"]
    np.testing.assert_allclose(thick[0].get_ydata(), [6 - 0.1 * b + 0.05 for b in range(1, 6)])
    assert len(fig.axes[0].collections) == 2
    assert not figures.best_so_far(RUNS[RUNS["seed"] < 2]).axes[0].collections


def test_bars_are_ordered_and_none_is_said():
    fig = figures.failure_bars({"not finite": 3, "over 500": 9})
    assert [bar.get_width() for bar in fig.axes[0].patches] == [3, 9]  # the last one is on top
    assert [t.get_text() for t in figures.failure_bars({}).axes[0].texts] == ["none"]


def test_operator_groups_stand_side_by_side():
    frame = pd.DataFrame({"best": [0.5, 0.2], "all": [0.4, 0.3]}, index=["MM", "Add"])
    bars = figures.operator_counts(frame).axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.5, 0.2, 0.4, 0.3]
    spans = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars)
    assert all(first[1] <= second[0] + 1e-9 for first, second in itertools.pairwise(spans))


def test_training_curves_show_the_mean_of_seeds():
    fig = figures.training_curves(CURVES)
    line = next(line for line in fig.axes[0].lines if line.get_label() == "LSTM")
    np.testing.assert_allclose(line.get_ydata(), [300 / e + 0.5 for e in (1, 2, 3)])


def test_bars_over_a_reference_begin_at_1_and_end_at_the_median_ratio():
    ax = figures.over_reference(LAYERS, "reference").axes[0]
    assert [bar.get_x() + bar.get_width() for bar in ax.patches] == pytest.approx([0.5, 2.0, 0.8, 3.0])
    assert {bar.get_x() for bar in ax.patches} == {1}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["fast", "slow"]
    assert [text.get_text() for text in ax.texts] == ["0.50", "2.00", "0.80", "3.00"]


FIGURES = {
    "over_reference": lambda: figures.over_reference(LAYERS, "reference", "T"),
    "best_so_far": lambda: figures.best_so_far(RUNS, "T"),
    "failure_bars": lambda: figures.failure_bars(pd.Series({"not finite": 3}), "T"),
    "operator_counts": lambda: figures.operator_counts({"MM": 3.0}, "T"),
    "training_curves": lambda: figures.training_curves(CURVES, "T"),
    "pipeline": lambda: figures.pipeline([("a", 107.3)], "T"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_has_labels_and_leaves_no_trace(name):
    fig = drawn(FIGURES[name])
    ax = fig.axes[0]
    assert ax.get_title(loc="left") == "T" or ax.get_title() == "T"
    if name != "pipeline":
        assert ax.get_xlabel()
    width, _ = fig.get_size_inches() * 150
    assert width <= 1100


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.1."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_can_be_seen_on_white():
    for colour in style.PALETTE:
        assert 1.05 / (luminance(colour) + 0.05) > 2, f"{colour} is too pale for a line"
