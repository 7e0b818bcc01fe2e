"""The agent's figures: what is drawn is what was drawn, likely and earned; nothing leaks out."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure

from nasrepro.dsl import parse
from nasrepro.dsl.constraints import words
from nasrepro.experiments.s17_translation import agent_figures
from nasrepro.report import style
from tests.report.drawn import drawn

RNG = np.random.default_rng(0)
WORDS = list(words("core", "extended"))
TREE = parse("Gate3(MM(x_t), x_t, Sigmoid(MM(h_{t-1})))").root
WRITTEN = ["Gate3", "MM", "x_t", "x_t", "Sigmoid", "MM", "h_{t-1}"]
CHANCES = pd.DataFrame(RNG.dirichlet(np.ones(len(WORDS)), len(WRITTEN)), columns=WORDS)
BEFORE = pd.DataFrame(np.full(CHANCES.shape, 1 / len(WORDS)), columns=WORDS)
SHARES = pd.DataFrame(RNG.dirichlet(np.ones(len(WORDS)), 4), columns=WORDS)
TREES = pd.DataFrame({"reward": [20.0, np.nan, 22.0, 24.0, np.nan, 27.0], "explored": [0, 0, 1, 0, 2, 3]})
BASELINE = pd.DataFrame({"tree": [2, 4], "baseline": [20.0, 21.5]})
CELLS = pd.DataFrame({"valid_ppl": [30.0, 10.0, np.nan, 20.0], "kind": ["carries", "not", "not", "carries"]})


def points(fig: Figure, label: str) -> set[tuple[float, float]]:
    """The points of the scatters whose label begins so."""
    found = (part for ax in fig.axes for part in ax.collections if isinstance(part, PathCollection))
    named = [part for part in found if str(part.get_label()).startswith(label)]
    assert named, f"nothing is labelled {label!r}"
    return {(float(x), float(y)) for part in named for x, y in np.asarray(part.get_offsets())}


def line(fig: Figure, label: str) -> tuple[list[float], list[float]]:
    """The coordinates of the line with this label."""
    (found,) = (part for ax in fig.axes for part in ax.lines if str(part.get_label()).startswith(label))
    return list(found.get_xdata()), list(found.get_ydata())


def test_before_each_word_stand_the_words_before_it_and_one_slot_to_fill():
    fig = agent_figures.decisions(TREE, CHANCES)
    trees = fig.axes[::2]
    assert len(trees) == len(WRITTEN)
    open_slots = [0, 2, 2, 1, 0, 0, 0]  # counted by hand: those to come after the target
    for number, ax in enumerate(trees):
        texts = [text.get_text().strip("$") for text in ax.texts]
        assert [text for text in texts if text != "T" and text.strip()] == WRITTEN[:number]
        assert texts.count("T") == 1
        assert sum(not text.strip() for text in texts) == open_slots[number]
        assert ax.get_title(loc="left") == f"word {number + 1}"


def test_words_of_a_tree_do_not_cover_each_other():
    left, right = "Mult(LayerNorm(MM(h_{t-1})), PosEnc)", "Gate3(MM(x_t), Sub(MM(x_t), c_{t-1}), Sigmoid(MM(h_{t-1})))"
    tree = parse(f"Tanh(Add({left}, {right}))").root
    chances = pd.DataFrame(np.full((17, len(WORDS)), 1 / len(WORDS)), columns=WORDS)
    whole = drawn(lambda: agent_figures.decisions(tree, chances)).axes[-2]
    boxes = [text.get_bbox_patch().get_window_extent() for text in whole.texts]
    assert len(boxes) == 17
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_bars_are_probabilities_and_the_word_that_was_drawn_stands_out():
    fig = agent_figures.decisions(TREE, CHANCES, BEFORE)
    for number, ax in enumerate(fig.axes[1::2]):
        bars = {label.get_text().strip("$"): bar for label, bar in zip(ax.get_yticklabels(), ax.patches, strict=True)}
        assert sum(bar.get_width() for bar in bars.values()) == pytest.approx(1)
        chosen = WRITTEN[number]
        assert bars[chosen].get_width() == pytest.approx(CHANCES.loc[number, chosen])
        red = [word for word, bar in bars.items() if mpl.colors.same_color(bar.get_facecolor(), style.RED)]
        assert red == [chosen]
        assert CHANCES.loc[number].idxmax() in bars
        ticks = np.asarray(ax.collections[0].get_offsets())[:, 0]
        np.testing.assert_allclose(ticks, [*[1 / len(WORDS)] * 5, 1 - 5 / len(WORDS)])


def test_a_table_of_another_tree_is_refused():
    with pytest.raises(ValueError, match="7 words, but the table has 6 rows"):
        agent_figures.decisions(TREE, CHANCES[:-1])
    with pytest.raises(ValueError, match="7 words, but the table has 1 rows"):
        agent_figures.decisions(TREE, CHANCES, BEFORE[:1])


def test_the_reward_has_its_checks_and_shows_the_cells_near_by():
    checks = {0.0: 140.99, 140.0: 0.0}
    fig = agent_figures.reward_curve(checks, [50.0, 60.0])
    assert points(fig, "by the printed formula") == set(checks.items())
    low, high = fig.axes[1].get_xlim()
    assert low < 50 < 60 < high < 70
    cells = np.asarray(fig.axes[1].collections[-1].get_offsets())
    np.testing.assert_allclose(cells, [[50, 18], [60, 16]])  # 0.2 for each perplexity below 140; nothing is steep here
    assert not agent_figures.reward_curve(checks).axes[1].collections


def test_pretraining_shows_every_look_beside_the_share_of_chance():
    fig = agent_figures.pretraining(pd.DataFrame({"updates": [0, 50, 100], "share": [0.02, 0.4, 0.7]}), 0.03)
    assert line(fig, "the agent") == ([0, 50, 100], [0.02, 0.4, 0.7])
    assert set(line(fig, "words drawn uniformly")[1]) == {0.03}


def test_shares_stand_in_their_squares_core_words_above_extended_ones():
    late = words("extended")
    fig = agent_figures.word_shares(SHARES, late)
    above, below = fig.axes[:2]
    (mesh,) = (part for part in above.collections if isinstance(part, QuadMesh))
    rows = [label.get_text().strip("$") for label in above.get_yticklabels()]
    assert rows == [word for word in WORDS if word not in late] + list(late)
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(len(rows), -1), SHARES[rows].T)
    assert above.lines[0].get_ydata()[0] == len(WORDS) - len(late) - 0.5
    np.testing.assert_allclose(
        below.lines[0].get_ydata(), [sum(row[word] for word in late) for _, row in SHARES.iterrows()]
    )


def test_rewards_tell_exploration_from_exploitation_and_count_failures():
    fig = agent_figures.rewards(TREES, BASELINE, window=3)
    assert points(fig, "exploitation") == {(0, 20), (3, 24)}
    assert points(fig, "exploration") == {(2, 22), (5, 27)}
    assert {x for x, _ in points(fig, "failed (2)")} == {1, 4}
    assert line(fig, "baseline") == ([2, 4], [20, 21.5])
    numbers, means = line(fig, "running mean of 3 trees")
    assert numbers == [0, 2, 3, 5]
    np.testing.assert_allclose(means, [20, (20 + 22) / 2, (20 + 22 + 24) / 3, (22 + 24 + 27) / 3])


def test_cells_stand_in_the_order_of_their_perplexity_beside_the_reference():
    fig = agent_figures.beside_reference(CELLS, [14.0, 16.0, 18.0], "LSTM")
    assert points(fig, "carries (2)") == {(2, 20), (3, 30)}
    assert points(fig, "not (1)") == {(1, 10)}
    assert set(line(fig, "LSTM: 16.0")[1]) == {16}
    (band,) = (patch for patch in fig.axes[0].patches if patch.get_label() == "range of its seeds")
    assert (band.get_y(), band.get_y() + band.get_height()) == (14, 18)


FIGURES = {
    "decisions": lambda: agent_figures.decisions(TREE, CHANCES, BEFORE, "T"),
    "one_word": lambda: agent_figures.decisions(parse("Tanh(x_t)").root, CHANCES[:2], title="T"),
    "reward_curve": lambda: agent_figures.reward_curve({0.0: 141.0}, [5.0], "T"),
    "pretraining": lambda: agent_figures.pretraining(pd.DataFrame({"updates": [0, 9], "share": [0, 1]}), 0.1, "T"),
    "word_shares": lambda: agent_figures.word_shares(SHARES, words("extended"), "T"),
    "one_step": lambda: agent_figures.word_shares(SHARES[:1], words("extended"), "T"),
    "rewards": lambda: agent_figures.rewards(TREES, BASELINE, title="T"),
    "only_failures": lambda: agent_figures.rewards(TREES.assign(reward=np.nan), title="T"),
    "beside_reference": lambda: agent_figures.beside_reference(CELLS, [16.0], title="T"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_has_a_title_and_leaves_no_trace(name):
    fig = drawn(FIGURES[name])
    titles = [fig.get_suptitle(), fig.axes[0].get_title(loc="left"), *(text.get_text() for text in fig.texts)]
    assert "T" in titles
    assert any(ax.get_xlabel() for ax in fig.axes)
    assert fig.get_figwidth() * 150 <= 1100


def test_long_searches_have_a_line_each_and_a_name_for_each_kind() -> None:
    row = {"reward": 1.0, "failed": 0.5, "extended": 0.2, "blind": 0.9}
    searches = [("agent", 1), ("agent", 2), ("random", 1)]
    windows = pd.DataFrame(
        [{"kind": kind, "seed": seed, "trees": trees, **row} for kind, seed in searches for trees in (100, 200)]
    )
    fig = agent_figures.long_searches(windows)
    assert [len(ax.get_lines()) for ax in fig.axes] == [3] * 4
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["agent", "random"]
