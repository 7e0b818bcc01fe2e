"""The figures of ZL17's search: what is drawn is what the tables hold; nothing leaks out."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from nasrepro.controllers import CONTROL_1, BaseB
from nasrepro.dsl import zoo
from nasrepro.experiments import arms, arms_figures
from nasrepro.experiments.zl17_cells import analysis, figures
from nasrepro.report import papers
from tests.report.drawn import drawn

BASE_2 = BaseB(2)
EXAMPLE = analysis.tokens_of(BASE_2, papers.load()["zl17.fig5.example"].value)
NASCELL = BaseB().tokens(zoo["NASCell"])
MAX_SIN = CONTROL_1.tokens(zoo["MaxSin"])
CHANCES = pd.DataFrame({"before": np.full(34, 0.3), "after": np.full(34, 0.6)})
LOSSES = pd.DataFrame({1: [5.0, 7.0, np.nan, 6.0], 2: [5.5, 6.5, 9.0, np.nan], 3: [5.2, 7.2, np.nan, 6.1]})
NAMES = {"paper's rate": "at the paper's rate", "scaled rate": "at a scaled rate", "random": "random search"}
RNG = np.random.default_rng(0)
PROGRESS = arms.progress(
    {
        (arm, seed): pd.DataFrame({"loss": RNG.uniform(5, 9, 60), "hash": list(map(str, range(60)))})
        for arm in NAMES
        for seed in (1, 2, 3)
    },
    failed=20.0,
)
LEADS = arms.leads(PROGRESS)
ONE_SEED = arms.leads(PROGRESS[PROGRESS["seed"] == 1])
CELLS = pd.DataFrame({"name": ["LSTM", "LSTM", "NASCell"], "seed": [1, 2, 1], "valid_ppl": [6.0, 7.0, np.nan]})

FIGURES = {
    "construction": lambda: figures.construction(BASE_2, EXAMPLE, "T"),
    "labelled_tree": lambda: figures.labelled_tree(BaseB(), NASCELL, "T"),
    "odd_base": lambda: figures.labelled_tree(BaseB(3), (0,) * 14, "T"),
    "one_leaf": lambda: figures.labelled_tree(BaseB(1), (0,) * 6, "T"),
    "token_chances": lambda: figures.token_chances(analysis.read_tokens(BaseB(), NASCELL), CHANCES, "T"),
    "rewards": lambda: figures.rewards([1.0, None, 2.0], [1.0, 1.0, 1.5], "T"),
    "only_failures": lambda: figures.rewards([None, None], [0.0, 0.0], "T"),
    "noise": lambda: figures.noise(LOSSES, "T"),
    "one_seed_of_noise": lambda: figures.noise(LOSSES[[1]], "T"),
    "progress": lambda: arms_figures.progress(PROGRESS, NAMES, "perplexity", "T"),
    "leads": lambda: arms_figures.leads(LEADS, NAMES, "perplexity", "T"),
    "leads_of_one_seed": lambda: arms_figures.leads(ONE_SEED, NAMES, "perplexity", "T"),
    "cells": lambda: figures.cells({"characters": CELLS, "words": CELLS[:0]}, "T"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_has_a_title_and_leaves_no_trace(name):
    fig = drawn(FIGURES[name])
    assert "T" in [fig.get_suptitle(), *(text.get_text() for text in fig.texts)]
    assert fig.get_figwidth() * 150 <= 1100


def written(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


@pytest.mark.parametrize(("space", "tokens"), [(BASE_2, EXAMPLE), (BaseB(), NASCELL), (CONTROL_1, MAX_SIN)])
def test_a_labelled_tree_says_every_choice(space, tokens):
    texts = written(figures.labelled_tree(space, tokens))
    choices = list(analysis.read_tokens(space, tokens)["choice"])[:-2]
    assert sorted(text for text in texts if text in {*space.combinations, *space.activations}) == sorted(choices)
    assert texts.count("$c_t$") == texts.count("$c_{t-1}$") == texts.count("$h_t$") == 1
    assert texts.count("$x_t$ $h_{t-1}$") == space.base


def test_labels_of_a_tree_do_not_cover_each_other():
    fig = figures.labelled_tree(CONTROL_1, MAX_SIN)
    fig.canvas.draw()
    boxes = [text.get_window_extent() for text in fig.axes[0].texts]
    clashes = [(i, j) for i, one in enumerate(boxes) for j, other in enumerate(boxes[:i]) if one.overlaps(other)]
    assert not clashes


def test_memory_enters_and_leaves_at_the_nodes_of_the_cell_indices():
    """In the worked example c_t leaves node 1, on the right; c_{t-1} comes in above node 0, on the left."""
    fig = figures.construction(BASE_2, EXAMPLE)
    at = {text.get_text(): text.get_position() for text in fig.axes[2].texts}
    assert at["$c_{t-1}$"][0] < 1 < at["$c_t$"][0]
    assert at["$c_{t-1}$"][1] > at["$c_t$"][1]
    assert {"$c_t$: 1", "$c_{t-1}$: 0"} <= set(written(fig))


def test_chances_stand_over_their_tokens_before_what_is_uniform():
    fig = figures.token_chances(analysis.read_tokens(BaseB(), NASCELL), CHANCES)
    lines = {line.get_label(): list(line.get_ydata()) for line in fig.axes[0].lines}
    assert lines["after"] == [0.6] * 34
    assert [bar.get_height() for bar in fig.axes[0].patches] == [0.5, 0.25] * 16 + [1 / 15] * 2
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()][-2:] == ["12", "8"]


def test_noise_draws_every_training_that_learned_and_counts_those_that_failed():
    spread = figures.noise(LOSSES).axes[0]
    points = {
        str(part.get_label()): part.get_offsets() for part in spread.collections if isinstance(part, PathCollection)
    }
    assert [len(points[f"seed {seed}"]) for seed in (1, 2, 3)] == [4, 4, 4]
    assert "failed (3)" in points
    # From best to worst: the first row, the last, the second, and the one that learned once.
    assert np.asarray(points["seed 2"])[:, 1][[0, 2, 3]].tolist() == [5.5, 6.5, 9.0]


def test_leads_are_the_tables_and_arms_keep_their_colour():
    fig, other = (
        draw(table, NAMES, "perplexity")
        for draw, table in ((arms_figures.leads, LEADS), (arms_figures.progress, PROGRESS))
    )
    best = LEADS[(LEADS["statistic"] == "top1") & (LEADS["arm"] == "scaled rate")]
    line = next(line for line in fig.axes[0].lines if line.get_label() == NAMES["scaled rate"])
    assert list(line.get_ydata()) == best["lead"].tolist()
    same = next(line for line in other.axes[0].lines if line.get_label() == NAMES["scaled rate"])
    assert line.get_color() == same.get_color()


def test_a_panel_without_trainings_says_so():
    fig = figures.cells({"characters": CELLS, "words": CELLS[:0]})
    assert "not recorded yet" in written(fig)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["LSTM", "NASCell"]


@pytest.mark.parametrize("word", ["children", "networks"])
def test_axes_call_what_is_trained_as_captions_do(word: str) -> None:
    """Children where cells are searched for, networks where images are looked at."""
    drawn_by = arms_figures.progress(PROGRESS, NAMES, "error", children=word)
    assert {ax.get_xlabel() for ax in drawn_by.axes} == {word}
    assert {ax.get_xlabel() for ax in arms_figures.leads(LEADS, NAMES, "error", children=word).axes} == {"", word}
    assert f"after 60 {word}: " in arms.leads_told(LEADS, NAMES, "error", children=word)
