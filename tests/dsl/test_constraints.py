"""S17's constraints, against the paper's own cells and against cells that break one rule each."""

import math
import re

import pytest
from hypothesis import given

from nasrepro.dsl import parse, zoo
from nasrepro.dsl.constraints import (
    check_words,
    gate_has_a_choice,
    gate_is_sigmoid,
    has_memory_place,
    language_model_rules,
    matrix_on_source,
    max_height,
    max_size,
    min_height,
    must_use,
    no_repeated_operator,
    no_stacked_activations,
    only_words,
    translation_priors,
    uses_activation,
    uses_matrix,
    violations,
    words,
)
from tests.strategies import cells

OPEN = "Tanh(Add(MM(x_t), MM(h_{t-1})))"


@pytest.mark.parametrize("name", ["TanhRNN", "LSTM", "GRU", "BC3"])
def test_the_language_model_search_can_reach(name):
    assert violations(zoo[name], language_model_rules()) == {}


def test_counting_sources_admits_the_gru_but_not_the_paper_s_best_cell():
    # S17 allows 21 nodes, "as many as a GRU": a GRU has 21 with sources, BC3 has 27.
    rules = language_model_rules(count_sources=True)
    assert violations(zoo["GRU"], rules) == {}
    assert violations(zoo["BC3"], rules) == {"too large": "27 nodes, at most 21 allowed"}


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("Tanh(MM(x_t))", "source missing", "does not use h_{t-1}"),
        ("Tanh(MM(c_{t-1}))|0", "source missing", "does not use x_t and h_{t-1}"),
        (f"Sin({OPEN})", "word not allowed", "uses Sin"),
        (f"Max(PosEnc, Sin({OPEN}))", "word not allowed", "uses Max, PosEnc, Sin"),
        (
            "Gate3(x_t, h_{t-1}, Tanh(x_t))",
            "gate not sigmoid",
            "the gate of Gate3 is Tanh(x_t), not a Sigmoid",
        ),
        ("Gate3(x_t, h_{t-1}, x_t)", "gate not sigmoid", "the gate of Gate3 is x_t, not a Sigmoid"),
        (f"Tanh({OPEN})", "operator under itself", "Tanh directly under Tanh"),
        ("Add(x_t, Add(h_{t-1}, x_t))", "operator under itself", "Add directly under Add"),
        (f"{'MM(Tanh(' * 4}MM(h_{{t-1}}){'))' * 4}", "too high", "height 9, at most 8 allowed"),
        ("Add(MM(x_t), Mult(c_{t-1}, MM(h_{t-1})))", None, None),  # a place for c_t is left to choose
        ("Add(MM(c_{t-1}), Add(x_t, h_{t-1}))", "no place for c_t", "no subgraph can serve as c_t"),
    ],
)
def test_each_rule_says_why(text, name, reason):
    found = violations(parse(text), language_model_rules())
    assert (found == {}) if name is None else (found[name] == reason)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("Tanh(MM(x_t))", "too low", "height 2, at least 3 needed"),
        (f"{'MM(Tanh(' * 6}x_t{'))' * 6}", "too high", "height 12, at most 11 allowed"),
        ("Tanh(Add(MM(x_t), x_{t-1}))", "source missing", "does not use h_{t-1}"),
        ("Tanh(Add(LayerNorm(x_t), h_{t-1}))", "no matrix", "has no MM"),
        ("LayerNorm(Add(MM(x_t), h_{t-1}))", "no activation", "has no activation function"),
        ("LayerNorm(LayerNorm(Tanh(MM(x_t))))", "operator under itself", "LayerNorm directly under LayerNorm"),
        ("MM(SeLU(Cos(MM(x_t))))", "activation under activation", "Cos directly under SeLU"),
        ("Gate3(MM(x_t), MM(x_t), h_{t-1})", "gate without a choice", "a Gate3 mixes MM(x_t) with itself"),
        ("MM(Tanh(x_t))", "matrix not on a source", "MM is applied to Tanh(x_t), not a source"),
        (f"Add(MM(c_{{t-1}}), Tanh({OPEN}))", "no place for c_t", "no subgraph can serve as c_t"),
        ("Gate3(MM(x_t), h_{t-1}, Tanh(MM(x_t)))", None, None),  # the gate's value may be anything, and like another
        ("Gate3(Add(x_t, h_{t-1}), Add(h_{t-1}, x_t), Sin(MM(x_t)))", None, None),  # differ as they are written
    ],
)
def test_each_prior_says_why(text, name, reason):
    found = violations(parse(text), translation_priors())
    assert (found == {}) if name is None else (found[name] == reason)


@given(cells())
def test_priors_against_their_definitions(cell):
    activations = {"Sigmoid", "Tanh", "ReLU", "Sin", "Cos", "SeLU"}
    pairs = [(node.op, arg) for node in cell.operators for arg in node.args]
    used = {node.op for node in cell.operators}
    stacked = any(op in activations and arg.op in activations for op, arg in pairs)
    assert (no_stacked_activations().check(cell) is None) == (not stacked)
    assert (uses_matrix().check(cell) is None) == ("MM" in used)
    assert (uses_activation().check(cell) is None) == bool(used & activations)
    assert (matrix_on_source().check(cell) is None) == all(arg.is_source for op, arg in pairs if op == "MM")
    mixed = [{str(node.args[0]), str(node.args[1])} for node in cell.operators if node.op == "Gate3"]
    assert (gate_has_a_choice().check(cell) is None) == all(len(values) == 2 for values in mixed)


@given(cells())
def test_limits_hold_exactly_at_the_limit(cell):
    assert min_height(cell.height).check(cell) is None
    assert min_height(cell.height + 1).check(cell) is not None
    assert max_size(cell.size).check(cell) is None
    assert max_size(cell.size - 1).check(cell) is not None
    assert max_size(cell.full_size, count_sources=True).check(cell) is None
    assert max_size(cell.full_size - 1, count_sources=True).check(cell) is not None
    assert max_height(cell.height).check(cell) is None
    assert max_height(cell.height - 1).check(cell) is not None


@given(cells())
def test_rules_against_their_definitions(cell):
    pairs = [(node, arg) for node in cell.operators for arg in node.args]
    assert (no_repeated_operator().check(cell) is None) == all(node.op != arg.op for node, arg in pairs)
    gates = [node.args[2].op for node in cell.operators if node.op == "Gate3"]
    assert (gate_is_sigmoid().check(cell) is None) == (set(gates) <= {"Sigmoid"})
    assert (must_use("x_t", "PosEnc").check(cell) is None) == (cell.sources >= {"x_t", "PosEnc"})
    used = {node.op for node in cell.root.walk()}
    assert (only_words(words("core")).check(cell) is None) == (used <= set(words("core")))
    if cell.memory is not None:
        place = cell.operators[cell.memory]
        allowed = "c_{t-1}" in place.text and len(list(place.walk())) >= 3 and cell.memory < cell.size - 1
        assert (has_memory_place().check(cell) is None) == allowed


def test_words_are_the_paper_s_two_sets():
    core = {"MM", "Sigmoid", "Tanh", "ReLU", "Add", "Mult", "Gate3", "x_t", "x_{t-1}", "h_{t-1}", "c_{t-1}"}
    assert set(words("core")) == core
    assert set(words("extended")) == {"Sub", "Div", "Sin", "Cos", "LayerNorm", "SeLU", "PosEnc"}
    assert set(words("zl17")) == {"Max"}


def test_one_word_is_no_list_of_words():
    with pytest.raises(TypeError, match=r"pass \['Tanh'\]"):
        only_words("Tanh")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: only_words(["Tanh", "Foo"]), "unknown words ['Foo']"),
        (lambda: must_use("x_t", "h_t"), "unknown sources ['h_t']"),
        (lambda: must_use("Tanh"), "unknown sources ['Tanh']"),
        (lambda: words("core", "extra"), "unknown groups ['extra']"),
        (lambda: check_words(["x_t"], {"Foo": 1.0}), "unknown words ['Foo']"),
        (lambda: check_words(["x_t", "MM", "x_t"]), "['x_t'] stand more often"),
        (lambda: check_words(["x_t"], {"x_t": -1.0, "MM": 1.0}), "{'x_t': -1.0}"),
        (lambda: check_words(["x_t"], {"x_t": math.nan}), "{'x_t': nan}"),
    ],
)
def test_a_mistyped_word_is_refused_wherever_words_are_chosen(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()
