"""Figures of notebook 07: what is drawn is what was measured, and marks say where a translation differs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from nasrepro.experiments.s17_translation import figures

CELLS = ("LSTM", "BC3", "MT5")
PPL, BLEU = "validation perplexity", "test BLEU"
PERPLEXITIES, SCORES = (
    pd.Series([value + 0.3 * seed - row for row in range(3) for seed in (1, 2, 3)], index=[*np.repeat(CELLS, 3)])
    for value in (9.0, 20.0)
)
PAPER = pd.Series([34.0, 35.0, 36.0, 37.0], index=[*CELLS, "not drawn"])
WORDS = ["the", "tired", "clown", "is", "washing", "a", "goat", "."]


def points(fig: Figure, panel: int) -> set[tuple[float, float]]:
    """Everything that is scattered in a panel, to three decimals."""
    clouds = [c for c in fig.axes[panel].collections if isinstance(c, PathCollection)]
    return {(round(float(x), 3), round(float(y), 3)) for c in clouds for x, y in np.asarray(c.get_offsets())}


def test_encoders_has_a_point_for_each_seed_and_a_diamond_for_each_number_of_the_paper():
    fig = figures.encoders({PPL: (PERPLEXITIES, None), BLEU: (SCORES, PAPER)}, "T", log=[PPL])
    seeds = {
        (round(value, 3), round(row + offset, 3))
        for row, cell in enumerate(CELLS)
        for value, offset in zip(SCORES[cell], (-0.18, 0.0, 0.18), strict=True)
    }
    assert points(fig, 1) == seeds | {(34.0, 0.0), (35.0, 1.0), (36.0, 2.0)}
    assert len(points(fig, 0)) == 9, "the paper has no perplexity here, so there is no diamond"
    assert [ax.get_xlabel() for ax in fig.axes] == [PPL, BLEU]
    assert [ax.get_xscale() for ax in fig.axes] == ["log", "linear"]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(CELLS)
    bottom, top = fig.axes[0].get_ylim()
    assert bottom > top, "the first encoder stands on top"


def test_encoders_leaves_out_what_a_panel_does_not_have():
    fig = figures.encoders({PPL: (PERPLEXITIES, None), BLEU: (SCORES.drop("BC3"), None)})
    assert {row for _, row in points(fig, 1)}.isdisjoint({0.82, 1.0, 1.18})
    assert "S17, Table 3" not in {text.get_text() for text in fig.legends[0].get_texts()}
    without_first = figures.encoders({PPL: (PERPLEXITIES, None), BLEU: (SCORES.drop("LSTM"), None)})
    assert len(points(without_first, 1)) == 6


def test_the_legend_of_encoders_overlaps_no_axis():
    fig = figures.encoders({PPL: (PERPLEXITIES, None), BLEU: (SCORES, PAPER)})
    fig.draw_without_rendering()
    (legend,) = fig.legends
    top = legend.get_window_extent().y1
    assert all(ax.get_tightbbox().y0 >= top for ax in fig.axes)


@pytest.mark.parametrize("cells", [("LSTM",), ("LSTM", "BC3", "MT5"), ("LSTM", "BC3", "MT4", "MT5")])
def test_hidden_traces_shows_every_unit_once_on_a_scale_about_zero(cells):
    rng = np.random.default_rng(0)
    traces = {cell: rng.normal(size=(len(WORDS), 5)) for cell in cells}
    fig = figures.hidden_traces(traces, WORDS, "T")
    maps = {ax.get_title(loc="left"): ax.images[0] for ax in fig.axes if ax.images}
    assert list(maps) == list(cells)
    for cell, trace in traces.items():
        drawn = np.asarray(maps[cell].get_array())  # (units, words)
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, trace.T))
        assert (np.diff(drawn.mean(axis=1)) >= 0).all()
        low, high = maps[cell].get_clim()
        assert -low == high == np.abs(trace).max()


def test_hidden_traces_of_zeros_can_be_drawn():
    fig = figures.hidden_traces({"LSTM": np.zeros((len(WORDS), 3))}, WORDS)
    fig.draw_without_rendering()


def test_attention_maps_shows_the_weights_on_one_scale_with_both_sentences():
    rng = np.random.default_rng(0)
    written = {"LSTM": ["ein", "clown", "</s>"], "MT5": ["</s>"]}
    maps = {name: (words, rng.dirichlet(np.ones(len(WORDS)), len(words))) for name, words in written.items()}
    greatest = max(weights.max() for _, weights in maps.values())
    fig = figures.attention_maps(maps, WORDS, "T")
    for ax, (words, weights) in zip(fig.axes, maps.values(), strict=False):
        np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), weights)
        assert ax.images[0].get_clim() == (0, greatest)
        assert [label.get_text() for label in ax.get_yticklabels()] == words
        assert [label.get_text() for label in ax.get_xticklabels()] == WORDS


def test_influence_draws_a_line_for_each_encoder():
    lines = figures.influence({cell: [1.0, 0.5 - 0.1 * row] for row, cell in enumerate(CELLS)}).axes[0].lines
    assert [line.get_label() for line in lines] == list(CELLS)
    assert [list(line.get_xydata()[1]) for line in lines] == [[1.0, 0.5], [1.0, 0.4], [1.0, 0.3]]


sentences = st.lists(st.sampled_from(["ein", "clown", "wäscht", "eine", "ziege", "."]), max_size=8)


@given(sentences, sentences)
def test_marks_take_nothing_away_and_what_is_unmarked_is_a_part_of_the_reference(tokens, reference):
    marked = figures.marked(tokens, reference).split()
    assert [word.strip("[]") for word in marked] == tokens
    rest = iter(reference)
    assert all(word in rest for word in marked if not word.startswith("[")), "unmarked words follow each other in it"


def test_a_translation_that_is_the_reference_has_no_marks():
    assert figures.marked(WORDS, WORDS) == " ".join(WORDS)
    assert figures.marked(["hund"], ["ziege"]) == "[hund]"
    with pytest.raises(TypeError, match="reference is the string"):
        figures.marked(["hund"], "ein hund")
