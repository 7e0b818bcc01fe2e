"""ZL17's space of cells against what the paper says of it, and against cells known from elsewhere."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasrepro.controllers.base_b import CONTROL_1, BaseB
from nasrepro.controllers.token_space import draw_tokens
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.ranking import Ranker, RankerSettings
from nasrepro.rnn import RNN
from tests.controllers.token_spaces import every_string

BASE_8 = BaseB()


def test_the_worked_example_of_section_3_5():
    """Add Tanh, ElemMult ReLU, ElemMult Sigmoid, Add ReLU, then c_t from node 1 and c_{t-1} into node 0."""
    space = BaseB(2)
    words = ("Add", "Tanh", "Mult", "ReLU", "Mult", "Sigmoid", "Add", "ReLU", "1", "0")
    tokens = tuple(place.words.index(word) for place, word in zip(space.places, words, strict=True))
    first = "ReLU(Add(Tanh(Add(MM(x_t), MM(h_{t-1}))), c_{t-1}))"
    memory = "Mult(MM(x_t), MM(h_{t-1}))"
    cell = space.cell(tokens)
    assert cell.root.text == f"Sigmoid(Mult({first}, ReLU({memory})))"
    assert cell.memory is not None
    assert cell.operators[cell.memory].text == memory
    assert space.tokens(cell) == tokens
    # The other product of the tree, of the same kind, is not what c_t is.
    assert cell.memory != cell.operators.index(cell.root.args[0])


def test_the_size_that_the_paper_quotes():
    assert len(BASE_8.places) == 34
    assert BASE_8.size == 8**16 * 15**2 == pytest.approx(6e16, rel=0.06)
    assert CONTROL_1.size == 15**16 * 15**2
    assert set(CONTROL_1.combinations) - set(BASE_8.combinations) == {"Max"}
    assert set(CONTROL_1.activations) - set(BASE_8.activations) == {"Sin"}


def test_nas_cell_is_a_string_of_base_8():
    """From the equations of TensorFlow's NASCell, leaves l0 to l7, then m0 to m3, two nodes above them and h_t."""
    labels = (
        "Add Sigmoid  Add ReLU  Add Sigmoid  Mult ReLU  Add Tanh  Add Sigmoid  Add Tanh  Add Sigmoid  "
        "Mult Tanh  Add Tanh  Mult Tanh  Add Sigmoid  Mult identity  Add Tanh  Mult Tanh  Add Tanh  12 8"
    )
    words = labels.split()
    tokens = tuple(place.words.index(word) for place, word in zip(BASE_8.places, words, strict=True))
    assert BASE_8.cell(tokens) == zoo["NASCell"]
    assert BASE_8.tokens(zoo["NASCell"]) == tokens


@pytest.mark.parametrize(("space", "name"), [(BASE_8, "NASCell"), (CONTROL_1, "NASCell"), (CONTROL_1, "MaxSin")])
def test_found_cells_go_to_tokens_and_back(space, name):
    cell = zoo[name]
    for form in (cell, cell.canonical()):
        assert space.cell(space.tokens(form)).hash == cell.hash
    assert space.cell(space.tokens(cell)) == cell


def test_base_2_whole():
    """As counted independently: 36,864 strings are 18,688 cells."""
    space = BaseB(2)
    strings = every_string(space)
    assert len(strings) == space.size == 36_864
    found = set()
    for tokens in strings:
        cell = space.cell(tokens)
        assert space.tokens(cell) == tokens
        found.add(str(cell.canonical()))
    assert len(found) == 18_688


@given(base=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_every_string_of_every_base_goes_there_and_back(base, seed):
    space = BaseB(base, CONTROL_1.combinations, CONTROL_1.activations)
    tokens = draw_tokens(space, random.Random(seed))
    cell = space.cell(tokens)
    assert space.tokens(cell) == tokens
    assert parse(str(cell)) == cell
    assert cell.is_runnable
    assert space.cell(space.tokens(cell.canonical())).hash == cell.hash


@pytest.mark.parametrize("base", [1, 2, 3, 5, 8, 16])
def test_a_tree_has_every_leaf_once(base):
    space = BaseB(base)
    under: dict[int, list[int]] = {leaf: [leaf] for leaf in range(base)}
    for node, (left, right) in enumerate(space.inputs, start=base):
        under[node] = under[left] + under[right]
    assert sorted(under[space.nodes - 1]) == list(range(base))
    assert len(space.places) == 2 * (2 * base - 1) + 2 + 2


def test_the_tree_of_base_8_is_that_of_figure_8():
    assert BASE_8.inputs == ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13))


def test_the_cells_serve_wherever_others_do():
    """Fused kernels, ranking function, drawing, JSON: c_t above, below and beside where c_{t-1} comes in."""
    rng, space = random.Random(2), BaseB(2)
    cells = [space.cell((*draw_tokens(space, rng)[:-2], *indices)) for indices in [(1, 0), (0, 0), (2, 1), (1, 2)]]
    cells.append(CONTROL_1.cell(draw_tokens(CONTROL_1, rng)))
    for cell in cells:
        layers = [RNN(cell, 5, 6, bias=False, backend=backend) for backend in ("reference", "fused")]
        layers[1].load_state_dict(layers[0].state_dict())
        x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
        plain, fused = (layer(x)[0] for layer in layers)
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)
        assert Cell.from_json(cell.to_json()) == cell
        assert cell.to_svg().startswith("<svg")
    ranker = Ranker(RankerSettings(hidden=4, epochs=1), seed=0).fit(cells, [100.0 + len(str(cell)) for cell in cells])
    assert len(ranker.predict(cells)) == len(cells)


# ---- errors


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((0,) * 33, r"too short: after 33 tokens the node that takes c_\{t-1\} in is missing"),
        ((0,) * 35, "too long"),
        ((*[0] * 5, 4, *[0] * 28), "token 5 is 4, but the activation of node 2 is one of 4 choices"),
        ((*[0] * 32, 15, 0), "token 32 is 15, but the node that gives c_t is one of 15 choices, 0 to 14"),
        ((*[0] * 33, -1), r"token 33 is -1, but the node that takes c_\{t-1\} in is one of 15"),
    ],
)
def test_what_is_no_token_string(tokens, message):
    with pytest.raises(ValueError, match=message):
        BASE_8.cell(tokens)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (zoo["LSTM"], "other nodes"),
        (zoo["MaxSin"], "other nodes"),  # base 8, but without its max
        (zoo["TanhRNN"], "other nodes"),
        (Cell(zoo["NASCell"].root, 23), r"before its activation, one of \|2, \|6, "),
        (Cell(zoo["NASCell"].root), "before its activation"),
        (parse("Tanh(Add(MM(x_t), MM(x_t)))"), "other nodes"),
    ],
)
def test_what_is_no_cell_of_the_space(cell, message):
    with pytest.raises(ValueError, match=message):
        BASE_8.tokens(cell)


@pytest.mark.parametrize(
    "text", ["Tanh(Add(MM(x_t), MM(h_{t-1})))", "Add(c_{t-1}, Add(c_{t-1}, Add(MM(x_t), MM(h_{t-1}))))|0"]
)
def test_the_memory_comes_in_once(text):
    with pytest.raises(ValueError, match="does not come in once"):
        BaseB(1).tokens(parse(text))


def test_a_space_without_identity_holds_no_cell_that_needs_it():
    with pytest.raises(ValueError, match="other nodes"):
        BaseB(8, activations=("Tanh", "Sigmoid", "ReLU")).tokens(zoo["NASCell"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base": 0}, "base is the number of leaves"),
        ({"combinations": ()}, "combinations is a tuple of some of"),
        ({"combinations": ("Add", "Add")}, "each once"),
        ({"combinations": ("Sub",)}, "combinations"),
        ({"activations": ("Tanh", "MM")}, "activations"),
        ({"activations": "Tanh"}, "activations"),
    ],
)
def test_spaces_that_are_none(wrong, message):
    with pytest.raises(ValueError, match=message):
        BaseB(**wrong)
