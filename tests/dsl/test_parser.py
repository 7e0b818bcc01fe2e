"""The parser: what it reads, what it refuses, and whether its errors point at the right place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasrepro.dsl import Cell, CellError, parse
from tests.strategies import cells, nodes

TANH_RNN = "Tanh(Add(MM(x_t), MM(h_{t-1})))"

VALID = [  # text, the same cell in its one printed form
    (TANH_RNN, TANH_RNN),
    ("Tanh(Add(MM(x),MM(hm1)))", TANH_RNN),
    ("Tanh(Add(MM(Var('x')), MM(Var('hm1'))))", TANH_RNN),
    ('Tanh(Add(MM(Var("x")), MM( Var( "hm1" ) )))', TANH_RNN),
    ("  Tanh (\n  Add( MM( x_t ) ,\tMM(h_{t-1}) ) )\n", TANH_RNN),
    ("x", "x_t"),
    ("xm1", "x_{t-1}"),
    ("hm1", "h_{t-1}"),
    ("cm1", "c_{t-1}"),
    ("fixed_posenc", "PosEnc"),
    ("Var('x')", "x_t"),
    ("Var('xm1')", "x_{t-1}"),
    ("Var('hm1')", "h_{t-1}"),
    ("Var('cm1')", "c_{t-1}"),
    ("Var('fixed_posenc')", "PosEnc"),
    ("Sub(x_t, Div(Sin(x), Cos(x)))", "Sub(x_t, Div(Sin(x_t), Cos(x_t)))"),
    ("Max(LayerNorm(x), SeLU(ReLU(x)))", "Max(LayerNorm(x_t), SeLU(ReLU(x_t)))"),
    ("Gate3(PosEnc, x_{t-1}, Sigmoid(MM(c_{t-1})))|0", "Gate3(PosEnc, x_{t-1}, Sigmoid(MM(c_{t-1})))|0"),
    ("Tanh(MM(cm1)) | 1", "Tanh(MM(c_{t-1}))|1"),
    ("Tanh(MM(cm1))|00", "Tanh(MM(c_{t-1}))|0"),
    ("Tanh(MM(cm1))", "Tanh(MM(c_{t-1}))"),
]

INVALID = [  # text, part of the message, the column of the first caret
    # nothing there
    ("", "text is empty", 0),
    (" \n ", "text is empty", 0),
    # words that do not exist
    ("Foo(x_t)", "unknown operator Foo", 0),
    ("tanh(x_t)", "did you mean Tanh?", 0),
    ("Tanh(Sigmod(x_t))", "did you mean Sigmoid?", 5),
    ("GATE3(x_t, x_t, x_t)", "did you mean Gate3?", 0),
    ("Tanh(y)", "sources: x_t x_{t-1} h_{t-1} c_{t-1} PosEnc", 5),
    ("Tanh(h)", "did you mean h_{t-1}?", 5),
    ("Tanh(h_t)", "did you mean h_{t-1}?", 5),
    ("Tanh(c_t)", "did you mean c_{t-1}?", 5),
    ("Tanh(h_{t+1})", "did you mean h_{t-1}?", 5),
    ("Tanh(x_{t-2})", "did you mean x_{t-1}?", 5),
    ("Tanh(posenc)", "did you mean PosEnc?", 5),
    ("Tanh(MM(Var('y')))", "unknown source Var('y')", 8),
    ("Var(x)", "unknown operator Var", 0),
    ("MM{x_t}", "unknown source MM{x_t}", 0),
    # sources as other notations write them
    ("Tanh(x_{t})", "did you mean x_t?", 5),
    ("Tanh(x_{ t })", "did you mean x_t?", 5),
    ("Tanh(xt)", "did you mean x_t?", 5),
    ("Tanh(X_t)", "did you mean x_t?", 5),
    ("Tanh(x_{ t - 1 })", "did you mean x_{t-1}?", 5),
    ("Tanh(x_{t+1})", "a cell sees no later input than x_t: did you mean x_t or x_{t-1}?", 5),
    ("Tanh(h_{t})", "did you mean h_{t-1}?", 5),
    ("Tanh(ht)", "did you mean h_{t-1}?", 5),
    ("Tanh(h{t-1})", "did you mean h_{t-1}?", 5),
    ("Tanh(H_{T-1})", "did you mean h_{t-1}?", 5),
    ("Tanh(c{t})", "did you mean c_{t-1}?", 5),
    ("Tanh(h_prev)", "did you mean h_{t-1}?", 5),
    ("Tanh(hidden)", "did you mean h_{t-1}?", 5),
    ("Tanh(h_t-1)", "a time index stands in braces, as in h_{t-1}", 8),
    ("Tanh(h_(t-1))", "a time index stands in braces, as in h_{t-1}", 9),
    ("Tanh(h[t-1])", "a time index stands in braces, as in h_{t-1}", 6),
    ("Tanh(x_[t])", "a time index stands in braces, as in h_{t-1}", 7),
    ("Tanh(x^{t-1})", "a time index stands in braces, as in h_{t-1}", 6),
    # operators as other notations write them
    ("\\tanh(x_t)", "names are written without a backslash", 0),
    ("Linear(x_t)", "did you mean MM?", 0),
    ("Tanh(W(x_t))", "did you mean MM?", 5),
    ("Mul(x_t, x_t)", "did you mean Mult?", 0),
    ("sigma(x_t)", "did you mean Sigmoid?", 0),
    ("x_t ⊙ x_t", "Mult(a, b)", 4),
    ("Tanh(W*x_t)", "W a is MM(a)", 6),
    ("h_t = Tanh(x_t)", "a cell is one expression, that of h_t", 4),
    ("Sub(1, x_t)", "the language has no constants", 4),
    ("(1-f)", "parentheses stand only around an operator's arguments", 0),
    # the wrong number of arguments
    ("Tanh()", "Tanh takes 1 argument, got 0", 0),
    ("Tanh(x_t, h_{t-1})", "Tanh takes 1 argument, got 2", 0),
    ("Tanh(Add(x_t))", "Add takes 2 arguments, got 1", 5),
    ("Add(x_t, h_{t-1}, x_t)", "Add takes 2 arguments, got 3", 0),
    ("Gate3(x_t)", "Gate3 takes 3 arguments, got 1", 0),
    ("Tanh(MM(Gate3(x_t, h_{t-1})))", "Gate3 takes 3 arguments, got 2", 8),
    ("Gate3(x_t, x_t, x_t, x_t)", "Gate3 takes 3 arguments, got 4", 0),
    ("Tanh(\n  MM(x_t),\n  x_t)", "Tanh takes 1 argument, got 2", 0),
    ("Tanh", "Tanh is an operator and needs its arguments", 0),
    ("Add(MM, x_t)", "MM is an operator and needs its arguments", 4),
    ("x_t(h_{t-1})", "x_t is a source and takes no arguments", 0),
    ("Tanh(h_{t-1}(x_t))", "h_{t-1} is a source and takes no arguments", 5),
    ("PosEnc()", "PosEnc is a source and takes no arguments", 0),
    # brackets and commas
    ("MM(x_t", "1 closing parenthesis missing", 6),
    ("Tanh(Add(x_t, x_t  ", "2 closing parenthesis missing", 17),
    ("MM(x_t))", "one closing parenthesis too many", 7),
    ("MM x_t", "unexpected 'x_t'", 3),
    ("MM(x_t) MM(x_t)", "unexpected 'MM'", 8),
    ("Add(x_t h_{t-1})", "is a comma missing before it?", 8),
    ("Add(x_t,)", "an argument is missing before it", 8),
    ("Add(,x_t)", "an argument is missing before it", 4),
    ("Add(x_t,,x_t)", "an argument is missing before it", 8),
    (",", "unexpected ','", 0),
    ("()", "unexpected '('", 0),
    ("(x_t)", "unexpected '('", 0),
    ("Var('x')(x_t)", "unexpected '('", 8),
    ("MM[x_t]", "arguments stand in round parentheses", 2),
    ("MM<x_t>", "arguments stand in round parentheses", 2),
    ("Tanh(h_{t-1)", "arguments stand in round parentheses", 7),
    # other notations
    ("x_t + h_{t-1}", "Add(a, b), Mult(a, b)", 4),
    ("Tanh(x_t * x_t)", "arithmetic is written with operators", 9),
    ("Sub(x_t - x_t)", "arithmetic is written with operators", 8),
    ("x_t / x_t", "arithmetic is written with operators", 4),
    ("h_t-1", "unexpected '-1'", 3),
    ("Add(x_t, 3)", "numbers stand only after |", 9),
    ("MM('x')", "unexpected character", 3),
    ("Tanh(x_t);", "unexpected character ';'", 9),
    ("Tanh(x_t) # comment", "unexpected character '#'", 10),
    ("σ(x_t)", "unexpected character 'σ'", 0),
    ("σ(x_t)", "did you mean Sigmoid?", 0),
    ("Tanh(x_t)\x00", "unexpected character", 9),
    # |k
    ("MM(c_{t-1})|1", "|1 is out of range: the cell has 1 operators, numbered 0 to 0", 12),
    ("MM(c_{t-1})|-1", "|-1 is out of range", 12),
    ("Tanh(MM(c_{t-1}))|" + "9" * 5000, "9 is out of range: the cell has 2 operators", 18),
    ("c_{t-1}|0", "the cell has no operators", 8),
    ("MM(x_t)|0", "nothing in the cell reads c_{t-1}", 8),
    ("MM(c_{t-1})|", "the text ends too early", 12),
    ("MM(c_{t-1})|a", "unexpected 'a'", 12),
    ("MM(c_{t-1})|0|0", "|k comes once, after the whole cell", 13),
    ("MM(c_{t-1})||0", "|k comes once, after the whole cell", 12),
    ("MM(c_{t-1}|0)", "|k comes once, after the whole cell", 10),
    ("MM(c_{t-1})0", "numbers stand only after |", 11),
    ("MM(c_{t-1})|0.5", "unexpected character '.'", 13),
    ("|0", "unexpected '|'", 0),
    # too high for the recursions that walk over cells
    ("Tanh(" * 201 + "x_t" + ")" * 201, "higher than 200", 5 * 201),
]


@pytest.mark.parametrize(("text", "printed"), VALID)
def test_reads_every_spelling(text, printed):
    assert str(parse(text)) == printed


@pytest.mark.parametrize(("text", "fragment", "column"), INVALID, ids=[repr(row[0])[:40] for row in INVALID])
def test_refuses_and_points_at_the_place(text, fragment, column):
    with pytest.raises(CellError) as caught:
        parse(text)
    message = str(caught.value)
    assert fragment in message
    _, shown, carets = message.split("\n")[:3]
    if len(text) > 240:  # what is shown is what lies around the place
        assert shown[carets.index("^")] == text[column]
        assert len(shown) <= 250
    else:  # the text, indented, on one line
        assert carets.index("^") - 4 == column
        assert len(shown) == len(text) + 4


def test_the_whole_message():
    with pytest.raises(CellError) as caught:
        parse("Tanh(Gate3(x_t, h_{t-1}))")
    assert str(caught.value).split("\n") == [
        "Gate3 takes 3 arguments, got 2",
        "    Tanh(Gate3(x_t, h_{t-1}))",
        "         ^^^^^",
        "hint: Gate3(a, b, f) = f * a + (1 - f) * b, f the gate's value itself",
    ]


MANY = 100_000


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("(" * MANY, 0),
        ("Tanh(" * MANY + "x_t", 5 * MANY + 3),
        ("Tanh(x_t" + " " * MANY + "x_t)", MANY + 8),
        ("y" * MANY, 0),
        ("y" * MANY + "(x_t)", 0),
        ("Tanh(x_{" + " " * MANY + "})", 5),
        ("MM(c_{t-1})|" + "9" * MANY, 12),
    ],
)
def test_a_long_text_is_shown_around_the_place(text: str, column: int) -> None:
    with pytest.raises(CellError) as caught:
        parse(text)
    message = str(caught.value)
    assert len(message) < 1500
    _, shown, carets = message.split("\n")[:3]
    at = carets.index("^")
    assert len(carets) <= max(len(shown), at + 1)
    assert text[:column].endswith(shown[4:at].lstrip("."))
    assert text[column:].startswith(shown[at:].rstrip("."))


@pytest.mark.parametrize("value", [None, 3, b"x_t", ["x_t"], parse("x_t")])
def test_refuses_what_is_not_text(value):
    with pytest.raises(CellError, match=f"written as text, got {type(value).__name__}"):
        parse(value)


def test_reads_the_highest_tree_allowed():
    assert parse("Tanh(" * 200 + "x_t" + ")" * 200).height == 200


@given(cells())
def test_printed_cells_read_back(cell):
    assert parse(str(cell)) == cell


@given(nodes())
def test_cells_whose_memory_is_open_read_back(root):
    assert parse(str(Cell(root))) == Cell(root)


@given(cells(), st.data())
def test_spaces_between_words_change_nothing(cell, data):
    text = str(cell)
    for sign in "(),|":
        text = text.replace(sign, data.draw(st.sampled_from(["{}", " {}", "{} ", "\n{}\t"])).format(sign))
    assert parse(text) == cell


@given(st.text(alphabet="MATanhdGte3(),|_{}-1 xhc'", max_size=30))
def test_any_text_is_a_cell_or_a_cell_error(text):
    try:
        cell = parse(text)
    except CellError:
        return
    assert parse(str(cell)) == cell
