"""The random generator: what it grows, how often, and that it stops."""

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nasrepro.controllers import Grower, GrowthSettings, draw_cells
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.dsl.constraints import language_model_rules, violations, words

TINY = GrowthSettings(words=("Add", "x_t", "h_{t-1}"), max_height=1, patience=300)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    memory=st.booleans(),
    max_nodes=st.integers(3, 21),
    max_height=st.integers(3, 8),
    count_sources=st.booleans(),
)
def test_every_proposal_obeys_the_rules(seed, memory, max_nodes, max_height, count_sources):
    growth = GrowthSettings(max_nodes=max_nodes, max_height=max_height, count_sources=count_sources, patience=500)
    drawn = draw_cells(20, random.Random(seed), growth, memory)

    assert len({cell.hash for cell in drawn.cells}) == len(drawn.cells) <= 20
    assert drawn.exhausted == (len(drawn.cells) < 20)
    for cell in drawn.cells:
        assert cell.canonical() == cell
        assert not violations(cell, language_model_rules(max_nodes, max_height, count_sources))
        assert cell.is_runnable
        assert memory or "c_{t-1}" not in cell.sources


def test_the_same_seed_gives_the_same_cells_and_another_seed_others():
    def hashes(seed):
        return [cell.hash for cell in draw_cells(50, random.Random(seed), memory=True).cells]

    assert hashes(1) == hashes(1)
    assert hashes(1) != hashes(2)


def test_cells_seen_before_are_not_proposed_again():
    first = draw_cells(200, random.Random(3)).cells
    again = draw_cells(200, random.Random(3), seen={cell.hash for cell in first})
    assert not {cell.hash for cell in first} & {cell.hash for cell in again.cells}
    assert again.rejected["duplicate"] >= 200


def test_a_tree_that_reads_the_memory_gives_a_cell_for_each_place_of_it():
    cells = draw_cells(400, random.Random(0), memory=True).cells
    places: dict[str, set[str]] = {}
    for cell in cells[:-20]:  # the last tree may be cut short by the count
        places.setdefault(cell.root.text, set()).add(str(cell))
    with_memory = [cell for cell in cells[:-20] if cell.memory is not None]
    assert len(with_memory) > 100
    for cell in with_memory:
        wanted = {str(other.canonical()) for other in Cell(cell.root).memory_candidates()}
        assert wanted <= set(map(str, cells))


def test_every_word_of_the_core_language_is_used():
    cells = draw_cells(300, random.Random(0), memory=True).cells
    assert {node.op for cell in cells for node in cell.root.walk()} == set(words("core"))


# ---- how often each tree is drawn, against the exact probabilities of a space small enough to list


def chances(vocabulary, weights, parent, height):
    """Text -> probability for a slot with `height` edges left, by enumeration."""
    arity = {"Add": 2, "Tanh": 1, "Sigmoid": 1, "Gate3": 3, "x_t": 0, "h_{t-1}": 0}
    needs = {"Gate3": 2, "x_t": 0, "h_{t-1}": 0}
    legal = [
        word for word in vocabulary if word != parent and needs.get(word, 1) <= height and (parent or arity[word] > 0)
    ]
    total = sum(weights.get(word, 1) for word in legal)
    found = Counter()
    for word in legal:
        below = chances(vocabulary, weights, word, height - 1) if arity[word] else {}
        slots = [below] * arity[word]
        if word == "Gate3":
            under = chances(vocabulary, weights, "Sigmoid", height - 2)
            slots[2] = {f"Sigmoid({text})": chance for text, chance in under.items()}
        for choice in itertools.product(*(slot.items() for slot in slots)):
            text = f"{word}({', '.join(text for text, _ in choice)})" if choice else word
            chance = math.prod(chance for _, chance in choice)
            found[text] += chance * weights.get(word, 1) / total
    return found


@pytest.mark.parametrize(
    ("vocabulary", "weights", "height", "trees"),
    [
        (("Add", "Tanh", "x_t", "h_{t-1}"), {}, 2, 22),
        (("Add", "Tanh", "x_t", "h_{t-1}"), {"Tanh": 3, "x_t": 0.5}, 2, 22),
        (("Gate3", "Sigmoid", "x_t", "h_{t-1}"), {}, 2, 34),
    ],
    ids=["uniform", "weighted", "gates"],
)
def test_words_are_drawn_as_often_as_the_settings_say(vocabulary, weights, height, trees):
    exact = chances(vocabulary, weights, None, height)
    # By hand: Add of two among 2 sources and 2 Tanhs, 16, and Tanh of 2 sources or 4 Adds, 6; Gate3 of two
    # among 2 sources and 2 Sigmoids, with 2 gates, 32, and Sigmoid of a source, 2.
    assert len(exact) == trees
    assert sum(exact.values()) == pytest.approx(1)

    grower = Grower(GrowthSettings(words=vocabulary, weights=weights, max_height=height))
    rng = random.Random(7)
    drawn = Counter(grower.grow(rng).text for _ in range(10_000))
    assert set(drawn) <= set(exact)
    observed = [drawn[text] for text in exact]
    expected = [10_000 * chance for chance in exact.values()]
    assert chisquare(observed, expected).pvalue > 1e-3


# ---- the end of a space


def test_it_stops_when_the_space_is_exhausted():
    # Of the four trees of height one, two use both sources, and they are the same cell.
    drawn = draw_cells(10, random.Random(0), TINY)
    assert [str(cell) for cell in drawn.cells] == ["Add(h_{t-1}, x_t)"]
    assert drawn.exhausted
    assert drawn.rejected["duplicate"] + drawn.rejected["source missing"] >= TINY.patience


def test_it_stops_when_everything_has_been_seen():
    drawn = draw_cells(10, random.Random(0), TINY, seen={parse("Add(x_t, h_{t-1})").hash})
    assert drawn.cells == []
    assert drawn.exhausted


def test_asking_for_none_is_no_exhaustion():
    drawn = draw_cells(0, random.Random(0))
    assert drawn.cells == []
    assert not drawn.exhausted


def test_a_merge_that_brings_an_operator_under_itself_is_refused():
    growth = GrowthSettings(words=("MM", "Add", "x_t", "h_{t-1}"), max_height=4, patience=2_000)
    drawn = draw_cells(10_000, random.Random(0), growth)
    assert all("MM(MM(" not in str(cell) for cell in drawn.cells)
    assert drawn.rejected["operator under itself"] > 0  # MM(Add(MM(s), MM(s))) is MM(MM(s))


# ---- settings


def test_the_default_space_holds_s17s_best_cell():
    assert not violations(zoo["BC3"], GrowthSettings().rules())
    assert violations(zoo["BC3"], GrowthSettings(count_sources=True).rules())  # 27 nodes then


def test_other_words_can_be_asked_for():
    growth = GrowthSettings(words=(*words("core", "extended"),))
    used = {node.op for cell in draw_cells(300, random.Random(0), growth).cells for node in cell.root.walk()}
    assert {"Sub", "Div", "Sin", "Cos", "LayerNorm", "SeLU", "PosEnc"} <= used


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": ("Tanh", "Foo", "x_t", "h_{t-1}")}, "unknown words"),
        ({"words": ("Tanh", "x_t")}, "h_{t-1}"),
        ({"words": ("Gate3", "x_t", "h_{t-1}")}, "Sigmoid"),
        ({"weights": {"MM": -1.0}}, "negative"),
        ({"weights": {"MM": float("inf")}}, "infinite"),
        ({"words": ("Tanh", "MM", "MM", "x_t", "h_{t-1}")}, "once each"),
        ({"weights": {"x_t": 0.0}}, "x_t"),
        ({"max_height": 0}, "max_height"),
        ({"patience": 0}, "patience"),
    ],
)
def test_settings_that_no_cell_could_obey_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        GrowthSettings(**wrong)
