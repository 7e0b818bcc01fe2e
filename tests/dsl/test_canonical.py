"""The canonical form: the same function, one representative, whatever the way of writing."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nasrepro.dsl import Cell, Node, canonical_form, parse, zoo
from nasrepro.dsl.operators import OPERATORS
from tests.dsl.evaluator import run_cell
from tests.strategies import cells

SIZE = 3  # of input and hidden state alike, so that every cell runs


def random_inputs(seed, steps=3, batch=2):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(steps, batch, SIZE)), *(rng.normal(size=(batch, SIZE)) for _ in range(3))]


def random_matrices(seed, cell):
    rng = np.random.default_rng(seed)
    count = sum(node.op == "MM" for node in cell.operators)
    return [(rng.normal(size=(SIZE, SIZE)), rng.normal(size=SIZE)) for _ in range(count)]


def carried_over(products, matrices):
    """The weights of the canonical cell, as `CanonicalForm.products` spells them out."""
    return [tuple(sum(sign * matrices[i][part] for i, sign in terms) for part in (0, 1)) for terms in products]


@st.composite
def rewritable(draw):
    """Cells in which the rewrites find work: gates under matrices, and several matrices on one source."""
    source = st.sampled_from(["h_{t-1}", "c_{t-1}"])
    products = st.builds("{}(MM({}), MM({}))".format, st.sampled_from(["Add", "Sub", "Mult"]), source, source)
    part = st.one_of(source, products, st.builds("Tanh({})".format, products))
    gate = st.builds("Sigmoid({})".format, part)
    root = parse(draw(st.builds("Gate3({}, {}, {})".format, part, part, gate))).root
    return Cell(root, draw(st.integers(0, root.size - 1)) if "c_{t-1}" in root.text else None)


@given(cells() | rewritable(), st.integers(0, 2**32))
def test_the_canonical_cell_computes_the_same_function(cell, seed):
    matrices = random_matrices(seed, cell)
    expected, largest = run_cell(cell, matrices, *random_inputs(seed))
    assume(np.isfinite(largest) and largest < 1e3)  # or rounding errors grow without bounds
    form = canonical_form(cell)
    found, _ = run_cell(form.cell, carried_over(form.products, matrices), *random_inputs(seed))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(cells() | rewritable())
def test_twice_is_once(cell):
    assert cell.canonical().canonical() == cell.canonical()


@given(cells())
def test_arguments_are_sorted(cell):
    for node in cell.canonical().operators:
        if OPERATORS[node.op].commutative:
            texts = [arg.text for arg in node.args]
            assert texts == sorted(texts)


def swapped(cell, swaps):
    """The cell with the arguments of commutative operators exchanged where `swaps` says so."""

    def visit(node, start):
        """The rewritten subtree, and the former numbers of its operators in their new order."""
        starts = [start + sum(arg.size for arg in node.args[:i]) for i in range(len(node.args))]
        parts = [visit(arg, first) for arg, first in zip(node.args, starts, strict=True)]
        if node.args and OPERATORS[node.op].commutative and next(swaps):
            parts.reverse()
        numbers = [number for part in parts for number in part[1]]
        return Node(node.op, tuple(part[0] for part in parts)), numbers + [start + node.size - 1] * bool(node.args)

    root, numbers = visit(cell.root, 0)
    return Cell(root, None if cell.memory is None else numbers.index(cell.memory))


@given(cells(words=("MM", "Tanh", "Add", "Mult", "Max", "Gate3", "Sub", "x_t", "c_{t-1}")), st.randoms())
def test_swapping_arguments_of_commutative_operators_keeps_the_hash(cell, random):
    coins = iter(lambda: random.random() < 0.5, None)
    assert swapped(cell, coins).hash == cell.hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # a gate under a matrix can be turned over
        ("Gate3(x_t, h_{t-1}, Sigmoid(MM(x_t)))", "Gate3(h_{t-1}, x_t, Sigmoid(MM(x_t)))"),
        ("Gate3(x, hm1, Sigmoid(Add(MM(x), MM(hm1))))", "Gate3(hm1, x, Sigmoid(Add(MM(hm1), MM(x))))"),
        ("Gate3(x, hm1, Sigmoid(Sin(Mult(hm1, MM(x)))))", "Gate3(hm1, x, Sigmoid(Sin(Mult(MM(x), hm1))))"),
        # several matrices on one source are one
        ("Add(MM(x_t), MM(x_t))", "MM(x_t)"),
        ("Sub(MM(x_t), MM(x_t))", "MM(x_t)"),
        ("Add(Add(MM(x_t), MM(x_t)), Sub(MM(x_t), MM(x_t)))", "MM(x_t)"),
        ("Add(MM(Add(x_t, h_{t-1})), MM(Add(h_{t-1}, x_t)))", "MM(Add(h_{t-1}, x_t))"),
        # |k follows its operator
        ("Add(MM(c_{t-1}), Tanh(x_t))|1", "Add(Tanh(x_t), MM(c_{t-1}))|0"),
        ("Add(MM(c_{t-1}), MM(c_{t-1}))|0", "Add(MM(c_{t-1}), MM(c_{t-1}))|1"),
    ],
)
def test_equivalent_cells_share_a_hash(one, other):
    assert parse(one).hash == parse(other).hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Sub(x_t, h_{t-1})", "Sub(h_{t-1}, x_t)"),
        ("Div(x_t, h_{t-1})", "Div(h_{t-1}, x_t)"),
        # no weights to negate under these gates
        ("Gate3(x_t, h_{t-1}, Sigmoid(x_t))", "Gate3(h_{t-1}, x_t, Sigmoid(x_t))"),
        ("Gate3(x_t, h_{t-1}, Sigmoid(ReLU(MM(x_t))))", "Gate3(h_{t-1}, x_t, Sigmoid(ReLU(MM(x_t))))"),
        ("Gate3(x_t, h_{t-1}, MM(x_t))", "Gate3(h_{t-1}, x_t, MM(x_t))"),
        ("Gate3(x_t, h_{t-1}, x_t)", "Gate3(h_{t-1}, x_t, x_t)"),
        # the gate's matrix is c_t: its sign is seen
        ("Gate3(x, cm1, Sigmoid(MM(x)))|0", "Gate3(cm1, x, Sigmoid(MM(x)))|0"),
        # two different values inside, or one that is looked at
        ("Add(MM(MM(x_t)), MM(MM(x_t)))", "MM(MM(x_t))"),
        ("Add(MM(c_{t-1}), MM(c_{t-1}))|0", "MM(c_{t-1})|0"),
        ("Mult(MM(x_t), MM(x_t))", "MM(x_t)"),
        ("Max(MM(x_t), MM(x_t))", "MM(x_t)"),
        ("Tanh(MM(c_{t-1}))|0", "Tanh(MM(c_{t-1}))|1"),
        ("Tanh(MM(c_{t-1}))|0", "Tanh(MM(c_{t-1}))"),
    ],
)
def test_different_cells_have_different_hashes(one, other):
    assert parse(one).hash != parse(other).hash


@pytest.mark.parametrize("text", ["Add(MM(c_{t-1}), MM(c_{t-1}))|0", "Sub(MM(c_{t-1}), MM(c_{t-1}))|1"])
def test_a_matrix_whose_value_is_the_memory_is_not_merged(text):
    assert parse(text).canonical() == parse(text)


def test_products_say_where_each_matrix_came_from():
    form = canonical_form(parse("Gate3(x_t, Add(MM(x_t), MM(x_t)), Sigmoid(Add(MM(x_t), MM(h_{t-1}))))"))
    assert str(form.cell) == "Gate3(MM(x_t), x_t, Sigmoid(Add(MM(h_{t-1}), MM(x_t))))"
    assert form.products == (((0, 1), (1, 1)), ((3, -1),), ((2, -1),))


def test_memory_is_found_again_after_sorting():
    canonical = zoo["BC3"].canonical()
    assert canonical.memory is not None
    assert canonical.operators[canonical.memory].op == "Tanh"  # S17, equation 3: c_t = tanh(...)


def test_no_two_cells_of_the_zoo_are_the_same():
    assert len({cell.hash for cell in zoo.values()}) == len(zoo)
