"""Cells as values: the numbers that S17 prints, equality, hashing, pickling, JSON, immutability."""

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given

import nasrepro as nr
from nasrepro.dsl import Cell, CellError, Node, parse, zoo
from nasrepro.rnn import compile_cell
from tests.strategies import cells

EXAMPLE = parse("Mult(Sigmoid(MM(x_t)), Tanh(Add(MM(h_{t-1}), Mult(MM(c_{t-1}), MM(x_t)))))")  # S17, section 2.3

SHAPES = {  # operators, sources, height: counted by hand from the printed cells
    "TanhRNN": (4, 2, 3),
    "GRU": (14, 7, 7),
    "BC3": (18, 9, 7),
    "LSTM": (21, 9, 7),
    "MGU": (14, 7, 8),
    "QRNN": (14, 7, 5),
    "NASCell": (47, 17, 10),
    "MT1": (5, 4, 3),
    "MT2": (5, 3, 3),
    "MT3": (25, 11, 11),
    "MT4": (17, 5, 11),
    "MT5": (5, 3, 4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_and_heights_of_known_cells(name):
    operators, sources, height = SHAPES[name]
    cell = zoo[name]
    assert (cell.size, cell.full_size - cell.size, cell.height) == (operators, sources, height)


def test_memory_candidates_are_those_that_the_paper_prints():
    assert [cell.memory for cell in EXAMPLE.memory_candidates()] == [5, 6, 7]
    assert [cell.root for cell in EXAMPLE.memory_candidates()] == [EXAMPLE.root] * 3


def test_numbers_name_operators_in_post_order():
    names = ["MM", "Sigmoid", "MM", "MM", "MM", "Mult", "Add", "Tanh", "Mult"]
    assert [node.op for node in EXAMPLE.operators] == names
    assert zoo["BC3"].operators[12].text.startswith("Tanh(Gate3(MM(x_t), Mult(")  # S17, equation 3


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("Tanh(MM(x_t))", []),  # nothing reads c_{t-1}
        ("Tanh(c_{t-1})", []),  # only h_t itself contains it
        ("Tanh(MM(c_{t-1}))", []),  # MM(c_{t-1}) has two nodes, one too few
        ("Tanh(Tanh(MM(c_{t-1})))", [1]),
        ("Tanh(Add(x_t, c_{t-1}))", [0]),
    ],
)
def test_memory_candidates_at_the_edges(text, candidates):
    assert [cell.memory for cell in parse(text).memory_candidates()] == candidates


@given(cells())
def test_memory_candidates_follow_their_definition(cell):
    found = {candidate.memory for candidate in cell.memory_candidates()}
    for number, node in enumerate(cell.operators):
        inside = [below.op for below in node.walk()]
        assert (number in found) == ("c_{t-1}" in inside and len(inside) >= 3 and node is not cell.root)


def test_sources_and_whether_it_runs():
    assert EXAMPLE.sources == {"x_t", "h_{t-1}", "c_{t-1}"}
    assert not EXAMPLE.is_runnable
    assert EXAMPLE.memory_candidates()[0].is_runnable
    assert zoo["GRU"].is_runnable


# ---- values


def test_equal_by_what_they_say():
    one, same = parse("Tanh(MM(cm1))|0"), parse("Tanh( MM(c_{t-1}) ) | 0")
    assert one == same
    assert hash(one) == hash(same)
    assert one != parse("Tanh(MM(cm1))|1")
    assert one != parse("Tanh(MM(cm1))")
    assert one != "Tanh(MM(c_{t-1}))|0"
    assert len({one, same}) == 1


@given(cells())
def test_copies_are_equal(cell):
    for twin in (pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell), Cell.from_json(cell.to_json())):
        assert twin == cell
        assert twin.hash == cell.hash


def test_nothing_can_be_changed():
    cell = parse("Tanh(MM(x_t))")
    cell.hash  # noqa: B018  (fills the cache)
    for thing, name in (
        (cell, "memory"),
        (cell, "root"),
        (cell, "hash"),
        (cell.root, "op"),
        (cell.root, "args"),
    ):
        with pytest.raises(AttributeError, match=f"immutable: cannot set {name}"):
            setattr(thing, name, None)


def test_the_hash_is_the_same_in_every_process():
    program = "import nasrepro as nr; print([cell.hash for cell in nr.zoo.values()])"

    def hashes(seed):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    assert hashes("1") == hashes("2") == str([cell.hash for cell in zoo.values()])


def test_the_hash_is_what_records_hold():
    # Shipped records are keyed by it: if this changes, they can no longer be found.
    assert zoo["TanhRNN"].canonical() == parse("Tanh(Add(MM(h_{t-1}), MM(x_t)))")
    assert zoo["TanhRNN"].hash == "c513cf7422aadc1d"


# ---- JSON and construction


def test_json_holds_text_and_tree():
    assert json.loads(parse("Tanh(Add(MM(cm1), x))|0").to_json()) == {
        "format": 1,
        "hash": parse("Tanh(Add(MM(cm1), x))|0").hash,
        "cell": "Tanh(Add(MM(c_{t-1}), x_t))|0",
        "tree": ["Tanh", ["Add", ["MM", ["c_{t-1}"]], ["x_t"]]],
        "memory": 0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a cell's JSON"),
        ("[]", "not a cell's JSON"),
        ("{}", "not a cell's JSON"),
        ('{"tree": [], "memory": null}', "not a cell's JSON"),
        ('{"tree": ["x_t"]}', "not a cell's JSON"),
        ('{"tree": ["Foo", ["x_t"]], "memory": null}', "unknown operator or source 'Foo'"),
        ('{"tree": ["Add", ["x_t"]], "memory": null}', "Add takes 2 arguments, got 1"),
        ('{"tree": ["MM", ["c_{t-1}"]], "memory": 1}', "out of range"),
        ('{"tree": ["MM", ["c_{t-1}"]], "memory": "0"}', "memory is the number of an operator, or None; got '0'"),
        ('{"tree": ["MM", ["c_{t-1}"]], "memory": 0.0}', "memory is the number of an operator, or None; got 0.0"),
        ('{"tree": ["MM", ["c_{t-1}"]], "memory": false}', "memory is the number of an operator, or None; got False"),
        ('{"tree": ["MM", ["c_{t-1}"]], "memory": %s}' % ("9" * 5000), "not a cell's JSON"),
        ('{"tree": ["MM", ["x_t"]], "memory": null, "cell": "MM(h_{t-1})"}', "contradicts itself: .* the cell 'MM"),
        ('{"tree": ["MM", ["x_t"]], "memory": null, "hash": "c513cf7422aadc1d"}', "contradicts itself: .* the hash"),
        ('{"tree": %s, "memory": null}' % ('["Tanh", ' * 201 + '["x_t"]' + "]" * 201), "higher than 200 operators"),
        ('{"tree": %s, "memory": null}' % ("[" * 200_000), "not a cell's JSON"),
        ('{"tree": ["MM", ["x_t"]], "memory": 0}', "nothing in MM"),
    ],
)
def test_refuses_json_that_is_no_cell(text, message):
    with pytest.raises(CellError, match=message):
        Cell.from_json(text)


def test_nodes_check_their_arguments():
    x = Node("x_t")
    with pytest.raises(CellError, match="Gate3 takes 3 arguments, got 2"):
        Node("Gate3", (x, x))
    with pytest.raises(CellError, match="x_t takes 0 arguments, got 1"):
        Node("x_t", (x,))
    with pytest.raises(CellError, match="unknown operator or source 'xm1'"):
        Node("xm1")
    with pytest.raises(CellError, match="out of range"):
        Cell(Node("MM", (Node("c_{t-1}"),)), 1)


def test_a_cell_built_by_hand_may_be_as_high_as_one_that_is_read():
    root = Node("x_t")
    for _ in range(200):
        root = Node("Tanh", (root,))
    assert Cell.from_json(Cell(root).to_json()) == parse(str(Cell(root)))
    with pytest.raises(CellError, match="higher than 200 operators"):
        Cell(Node("Tanh", (root,)))


def test_shows_itself():
    cell = parse("Tanh(MM(x_t))")
    assert repr(cell) == "Cell('Tanh(MM(x_t))')"
    assert cell._repr_svg_() == cell.to_svg()
    assert cell._repr_latex_() == f"$${cell.to_latex()}$$"
    assert cell.to_svg() in cell._repr_html_()
    assert "Tanh(MM(x_t))" in cell._repr_html_()


def test_the_language_alone_does_not_import_torch():
    program = "import sys, nasrepro as nr; nr.zoo['BC3'].to_pytorch(); assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_public_names():
    assert (nr.parse, nr.Cell, nr.CellError, nr.zoo) == (parse, Cell, CellError, zoo)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda long: Node(long),
        lambda long: Cell.from_json(json.dumps({"tree": [long], "memory": None})),
        lambda long: Cell.from_json(json.dumps({"tree": ["Tanh", ["x_t"]], "memory": None, "cell": long})),
        lambda long: Cell.from_json(long),
        lambda long: Cell(parse("Tanh(x_t)").root, long),
        lambda long: parse("Tanh(x_t)").to_pytorch(long + "-"),
        lambda long: zoo[long],
        lambda long: compile_cell(parse(f"{'Tanh(' * 190}Add(c_{{t-1}}, x_t){')' * 190}")),
    ],
)
def test_errors_about_long_values_are_short(wrong):
    with pytest.raises((CellError, KeyError)) as caught:
        wrong("LSTM" * 50_000)
    assert 20 < len(str(caught.value)) < 1500
