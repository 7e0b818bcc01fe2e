"""The batched encoder against a plain recursion over one tree, written from Tai et al. 2015.

Double precision goes by torch, single by compiled C.
"""

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasrepro.controllers import draw_cells
from nasrepro.dsl import Cell, CellError, Node, parse, zoo
from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.native import NativeError
from nasrepro.ranking import tree_lstm
from nasrepro.ranking.batch import Forest, tree_batch
from nasrepro.ranking.tree_lstm import TreeEncoder
from tests.rnn.problem import needs_compiler
from tests.strategies import cells

HIDDEN = 5


def new_encoder(seed=0, hidden=HIDDEN):
    generator = torch.Generator().manual_seed(seed)
    encoder = TreeEncoder(hidden, generator).double()
    with torch.no_grad():  # biases start at zero: without other values their places would go untested
        for bias in (encoder.unordered_bias, encoder.ordered_bias):
            bias.copy_(torch.randn(4 * hidden, generator=generator, dtype=torch.float64))
    return encoder


def recursive_encoding(encoder, cell, unroll):
    """h of the root, (hidden,), node by node."""
    hidden = encoder.hidden

    def weights(kind):
        matrix, bias = getattr(encoder, f"{kind}_input"), getattr(encoder, f"{kind}_bias")
        w = dict(zip("iouf", matrix.split(hidden, dim=1), strict=True))
        b = dict(zip("iouf", bias.split(hidden), strict=True))
        return w, b

    def child_sum(x, children):  # Tai et al., equations 2-8
        w, b = weights("unordered")
        u = dict(zip("iouf", encoder.of_child.split(hidden, dim=1), strict=True))
        h_sum = sum(h for h, _ in children)
        i = torch.sigmoid(x @ w["i"] + h_sum @ u["i"] + b["i"])
        o = torch.sigmoid(x @ w["o"] + h_sum @ u["o"] + b["o"])
        new = torch.tanh(x @ w["u"] + h_sum @ u["u"] + b["u"])
        c = i * new
        for h_k, c_k in children:
            c = c + torch.sigmoid(x @ w["f"] + h_k @ u["f"] + b["f"]) * c_k
        return o * torch.tanh(c), c

    def n_ary(x, children):  # Tai et al., equations 9-14
        w, b = weights("ordered")
        # Row block l of the matrix reads child l; column blocks are i, o, u and one f for each child k.
        blocks = [rows.split(hidden, dim=1) for rows in encoder.of_children.split(hidden)]

        def gate(name, column):
            return x @ w[name] + sum(h @ blocks[place][column] for place, (h, _) in enumerate(children)) + b[name]

        c = torch.sigmoid(gate("i", 0)) * torch.tanh(gate("u", 2))
        for k, (_, c_k) in enumerate(children):
            c = c + torch.sigmoid(gate("f", 3 + k)) * c_k
        return torch.sigmoid(gate("o", 1)) * torch.tanh(c), c

    def encode(node: Node, sources):
        if node.is_source:
            return sources[node.op]
        x = encoder.operators[list(OPERATORS).index(node.op)]
        children = [encode(arg, sources) for arg in node.args]
        return (n_ary if node.op in ("Gate3", "Sub", "Div") else child_sum)(x, children)

    sources = {name: (row[:hidden], row[hidden:]) for name, row in zip(SOURCES, encoder.sources, strict=True)}
    for _ in range(unroll):
        earlier = encode(cell.root, sources)
        if cell.memory is not None:
            memory = encode(cell.operators[cell.memory], sources)
            sources = {**sources, "c_{t-1}": memory}
        sources = {**sources, "h_{t-1}": earlier}
    return encode(cell.root, sources)[0]


@settings(max_examples=40)
@given(st.lists(cells(max_height=5), min_size=1, max_size=6), st.integers(0, 2))
def test_batches_equal_the_plain_recursion(batch, unroll):
    encoder = new_encoder()
    expected = torch.stack([recursive_encoding(encoder, cell, unroll) for cell in batch])
    torch.testing.assert_close(encoder(tree_batch(batch, unroll)), expected, rtol=1e-12, atol=1e-12)


BATCH = [zoo["BC3"], zoo["LSTM"], zoo["GRU"], zoo["MT3"], parse("Sub(Div(x, hm1), Max(Add(hm1, hm1), xm1))")]


def gradients(encoder, encodings):
    direction = torch.randn(len(BATCH), encoder.hidden, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((encodings * direction).sum(), list(encoder.parameters()))


def test_gradients_equal_those_of_the_plain_recursion():
    encoder = new_encoder()
    expected = gradients(encoder, torch.stack([recursive_encoding(encoder, cell, 1) for cell in BATCH]))
    for ours, theirs in zip(gradients(encoder, encoder(tree_batch(BATCH, 1))), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("hidden", [1, 5, 16, 37])
def test_compiled_code_equals_the_plain_recursion_and_its_gradients(hidden):
    exact = new_encoder(hidden=hidden)
    compiled = copy.deepcopy(exact).float()
    expected = torch.stack([recursive_encoding(exact, cell, 1) for cell in BATCH])
    found = compiled(tree_batch(BATCH, 1))
    assert "_Encode" in type(found.grad_fn).__name__
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():  # where nothing is kept for a way back
        torch.testing.assert_close(compiled(tree_batch(BATCH, 1)), found.detach(), rtol=0, atol=0)
    for ours, theirs in zip(gradients(compiled, found), gradients(exact, expected), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_weights_that_no_node_of_a_batch_uses_have_no_gradient():
    """Adam then leaves them and their averages alone, as with torch's own operators."""
    encoder = new_encoder().float()
    encoder(tree_batch([parse("Tanh(Add(MM(x), MM(hm1)))")])).sum().backward()
    idle = {name for name, weight in encoder.named_parameters() if weight.grad is None}
    assert idle == {"ordered_input", "ordered_bias", "of_children"}


@needs_compiler
def test_without_a_compiler_torch_takes_over_and_says_so_once(monkeypatch):
    def refuse(*_, **__):
        raise NativeError("no C compiler found")

    encoder, batch = new_encoder().float(), tree_batch(BATCH)
    compiled = encoder(batch)
    monkeypatch.setattr(tree_lstm, "load_products", refuse)
    monkeypatch.setattr(tree_lstm, "_failed", [])
    tree_lstm._library.cache_clear()
    with pytest.warns(RuntimeWarning, match="slower: no C compiler found"):
        slow = encoder(batch)
    assert "_Encode" not in type(slow.grad_fn).__name__
    torch.testing.assert_close(slow, compiled, rtol=1e-5, atol=1e-6)
    encoder(batch)
    tree_lstm._library.cache_clear()


@needs_compiler
def test_compiled_code_refuses_a_second_derivative():
    encoder = new_encoder().float()
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(encoder(tree_batch(BATCH)).sum(), encoder.of_child, create_graph=True)


def test_a_forest_encodes_any_of_its_cells_as_a_batch_of_them_alone():
    cells = draw_cells(30, random.Random(3), memory=True).cells
    forest, encoder = Forest(cells), new_encoder()
    assert forest.members(cells[5:8]) == [5, 6, 7]
    assert forest.members([cells[0], zoo["LSTM"]]) is None
    for members in ([7], [3, 3, 28, 0], list(range(30))):
        alone = tree_batch([cells[i] for i in members])
        found = forest.batch(members)
        assert len(found.operators) == len(alone.operators)
        torch.testing.assert_close(encoder(found), encoder(alone), rtol=1e-12, atol=1e-12)


def encoding(cell, unroll=1):
    return new_encoder()(tree_batch([parse(cell)], unroll))[0]


def test_unrolling_changes_h_and_c_and_nothing_else():
    for cell in ("Tanh(Add(MM(x), xm1))", "Gate3(x, xm1, Sigmoid(PosEnc))"):
        assert torch.equal(encoding(cell, 0), encoding(cell, 1))
    for cell in ("Tanh(Add(MM(x), MM(hm1)))", "Tanh(Add(MM(x), Tanh(MM(cm1))))|2"):
        assert not torch.allclose(encoding(cell, 0), encoding(cell, 1))


def test_where_the_memory_is_read_off_shows_in_the_unrolled_step_alone():
    one, other = "Tanh(Add(MM(hm1), Tanh(Mult(cm1, x))))|1", "Tanh(Add(MM(hm1), Tanh(Mult(cm1, x))))|2"
    assert torch.equal(encoding(one, 0), encoding(other, 0))
    assert not torch.allclose(encoding(one, 1), encoding(other, 1))


def test_order_matters_to_ordered_operators_alone():
    for a, b in [("Add(x, MM(hm1))", "Add(MM(hm1), x)"), ("Max(x, hm1)", "Max(hm1, x)")]:
        torch.testing.assert_close(encoding(a), encoding(b), rtol=1e-12, atol=1e-12)
    for a, b in [
        ("Sub(x, hm1)", "Sub(hm1, x)"),
        ("Div(x, hm1)", "Div(hm1, x)"),
        ("Gate3(x, hm1, Sigmoid(x))", "Gate3(hm1, x, Sigmoid(x))"),
    ]:
        assert not torch.allclose(encoding(a), encoding(b))


def test_a_subtree_that_occurs_twice_is_computed_once():
    alone = tree_batch([zoo["LSTM"]])
    twice = tree_batch([zoo["LSTM"], zoo["LSTM"]])
    nodes = [len(batch.operators) for batch in (alone, twice)]
    assert nodes[0] == nodes[1] < 2 * zoo["LSTM"].size


def test_a_cell_whose_memory_is_open_is_refused():
    with pytest.raises(CellError, match="memory_candidates"):
        tree_batch([Cell(zoo["LSTM"].root)])
