"""Every table that must know an operator or a source knows it, and agrees with the others on what it is.

A new row in `nasrepro.dsl.operators` fails here once for each place that does not give it a meaning yet.
"""

import ast
import re
from pathlib import Path

import pytest
import torch

from nasrepro.dsl import Cell, Node, parse
from nasrepro.dsl.canonical import _can_negate, _parts
from nasrepro.dsl.dress import latex, pytorch
from nasrepro.dsl.dress.equations import equations
from nasrepro.dsl.dress.svg import COLOURS, kind_of
from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.native import INCLUDE
from nasrepro.ranking.batch import OPERATOR_NUMBER, ORDERED, SOURCE_SLOT, WIDTH
from nasrepro.rnn import RNN, compile_cell
from nasrepro.rnn.fused import plan
from nasrepro.rnn.interpreter import POINTWISE

# What is no elementwise function: a matrix product, and what needs the whole row.
NOT_ELEMENTWISE = {"MM", "LayerNorm"}
ELEMENTWISE = [name for name in OPERATORS if name not in NOT_ELEMENTWISE]
COMPUTED = [name for name in OPERATORS if name != "MM"]

every_operator = pytest.mark.parametrize("name", OPERATORS)
every_source = pytest.mark.parametrize("name", SOURCES)


def applied(name: str) -> Cell:
    """A cell that is this operator, on matrices of the output's width."""
    return Cell(Node(name, tuple(Node("MM", (Node("h_{t-1}"),)) for _ in range(OPERATORS[name].arity))))


def arguments(name: str) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(3, 8, generator=draws, dtype=torch.float64) for _ in range(OPERATORS[name].arity)]


def functions_in_c() -> dict[str, int]:
    """Name -> number of arguments of what functions.h defines."""
    text = (INCLUDE / "functions.h").read_text(encoding="utf-8")
    return {name: taken.count(",") + 1 for name, taken in re.findall(r"^INLINE vec (\w+)\((.*?)\)", text, re.MULTILINE)}


def functions_in_triton() -> dict[str, int]:
    """Name -> number of arguments of what triton_functions.py defines; importing it would need Triton."""
    tree = ast.parse(Path(plan.__file__).with_name("triton_functions.py").read_text(encoding="utf-8"))
    return {node.name: len(node.args.args) for node in tree.body if isinstance(node, ast.FunctionDef)}


def called(text: str) -> dict[str, int]:
    """Name -> number of arguments of the functions that a plan's text calls."""
    calls = [node for node in ast.walk(ast.parse(re.sub(r"[{}]", "", text))) if isinstance(node, ast.Call)]
    return {ast.unparse(call.func): len(call.args) for call in calls}


# --- what the tables say of it ------------------------------------------------------------------------------------


@every_operator
def test_its_usage_shows_a_call_that_parses(name):
    call = re.match(rf"{name}\(([a-z, ]+)\)", OPERATORS[name].usage)
    assert call, "a usage begins with a call, such as Add(a, b)"
    assert len(call[1].split(", ")) == OPERATORS[name].arity
    cell = parse(re.sub(r"\b[abf]\b", "x_t", call[0]))
    assert cell.root.op == name


@pytest.mark.parametrize("name", COMPUTED)
def test_its_flags_are_true_of_what_is_computed(name):
    given = arguments(name)
    value = POINTWISE[name](*given)
    if len(given) == 2:
        assert torch.equal(value, POINTWISE[name](*given[::-1])) == OPERATORS[name].commutative
    if len(given) == 1:
        is_odd = torch.allclose(POINTWISE[name](-given[0]), -value)
        assert _can_negate(_parts(applied(name))) == is_odd
    assert OPERATORS[name].activation == (len(given) == 1 and name not in NOT_ELEMENTWISE)


@every_operator
def test_the_ranking_function_knows_it(name):
    operator = OPERATORS[name]
    assert sorted(OPERATOR_NUMBER.values()) == list(range(len(OPERATORS)))
    assert name in OPERATOR_NUMBER
    assert (name in ORDERED) == (operator.arity > 1 and not operator.commutative)
    assert operator.arity <= WIDTH


# --- how it is shown ----------------------------------------------------------------------------------------------


@every_operator
def test_it_can_be_shown_in_every_dress(name):
    cell = applied(name)
    assert kind_of(cell.root) in COLOURS
    assert f">{name}<" in cell.to_svg()
    assert f'("{name}")' in cell.to_mermaid()
    assert name in latex.LENGTHS
    assert name in pytorch.LENGTHS
    assert equations(cell, latex.LENGTHS, latex.LIMIT)[-1].name == "h_t"
    assert f"{name}(" not in cell.to_latex()
    assert Cell.from_json(cell.to_json()) == cell


@every_operator
def test_its_torch_source_computes_what_the_layer_does(name):
    cell = applied(name)
    generator = torch.Generator().manual_seed(0)
    # In float64: by what is nearly zero, Div divides so that sums in another order show in float32.
    rnn = RNN(cell, 5, 5, bias=True, backend="reference", generator=generator).double()
    module = {}
    exec(cell.to_pytorch("Written"), module)
    written = module["Written"](5, 5).double()
    for number in range(OPERATORS[name].arity if name != "MM" else 2):
        weight, bias = rnn.layers[0].mm(number)
        written.get_submodule(f"mm{number}").load_state_dict({"weight": weight, "bias": bias})
    x = torch.randn(4, 2, 5, dtype=torch.float64, generator=generator)
    state = torch.rand(1, 2, 5, dtype=torch.float64, generator=generator)
    ours, _ = rnn(x, state)
    theirs, _ = written(x, {"h": state[0]})
    torch.testing.assert_close(ours, theirs)


# --- how it is computed -------------------------------------------------------------------------------------------


@every_operator
def test_the_reference_computes_it(name):
    assert (name in POINTWISE) == (name in COMPUTED)
    compile_cell(applied(name))


@every_operator
def test_the_fused_plan_computes_it_forward_and_backward(name):
    assert (name in plan.RULES) == (name in ELEMENTWISE)
    plan.plan_cell(applied(name))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_its_texts_call_what_c_and_triton_define(name):
    assert len(plan.RULES[name]) == 1 + OPERATORS[name].arity
    for text in plan.RULES[name]:
        for function, count in called(text).items():
            assert functions_in_c().get(function) == count, f"functions.h lacks {function} of {count} arguments"
            assert functions_in_triton().get(function) == count, f"triton_functions.py lacks {function}"


@every_source
def test_every_table_knows_the_source(name):
    assert name in plan.SOURCE_SPACES
    assert name in pytorch.SOURCES
    assert name in latex.LETTERS
    assert name in SOURCE_SLOT
    cell = parse(f"Tanh(MM({name}))" + ("|1" if name == "c_{t-1}" else ""))
    compile(cell.to_pytorch(), "written", "exec")
    assert kind_of(Node(name)) in COLOURS
    assert all(parse(f"MM({spelling})") == parse(f"MM({name})") for spelling in SOURCES[name].spellings)
    x = torch.randn(3, 2, 4)
    assert RNN(cell, 4, 4, backend="reference")(x)[0].shape == (3, 2, 4)
