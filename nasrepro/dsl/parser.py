"""Text -> Cell, with errors that point at the place (grammar in `cell.lark`)."""

import re
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import NoReturn

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from nasrepro.dsl.cell import Cell
from nasrepro.dsl.errors import CellError
from nasrepro.dsl.expression import MAX_HEIGHT, Node
from nasrepro.dsl.operators import OPERATORS, SOURCES, SPELLINGS

_GRAMMAR = Lark(files("nasrepro.dsl").joinpath("cell.lark").read_text("utf-8"), parser="lalr", propagate_positions=True)
_NAMES = [*OPERATORS, *SPELLINGS]

# What people write for a source: x_{t}, ht, h{t-1}, c_t-1, h_{t+1}. The letter, the step, and how far from it.
_INDEXED = re.compile(r"([xhc])_?(?:t|\{\s*t\s*([+-]\s*\d+)?\s*\})?", re.IGNORECASE)
_OTHER_WORDS = {
    **dict.fromkeys(("input", "inputs"), "x_t"),
    **dict.fromkeys(("x_prev", "prev_x"), "x_{t-1}"),
    **dict.fromkeys(("hidden", "state", "h_prev", "prev_h", "hx"), "h_{t-1}"),
    **dict.fromkeys(("memory", "cell", "c_prev", "prev_c", "cx"), "c_{t-1}"),
    **dict.fromkeys(("linear", "dense", "fc", "matmul", "w", "u"), "MM"),
    **dict.fromkeys(("mul", "multiply", "times", "prod", "hadamard"), "Mult"),
    **dict.fromkeys(("plus", "sum"), "Add"),
    **dict.fromkeys(("minus", "subtract"), "Sub"),
    **dict.fromkeys(("sigma", "logistic"), "Sigmoid"),
}
"""Words of other notations -> ours."""


def parse(text: str) -> Cell:
    """The cell that a line of the language writes (S17 section 2).

    >>> parse("Tanh(Add(MM(x), MM(hm1)))")
    Cell('Tanh(Add(MM(x_t), MM(h_{t-1})))')

    Raises CellError with a caret under the offending place.
    """
    if not isinstance(text, str):
        raise CellError(f"a cell is written as text, got {type(text).__name__}", hint="parse('Tanh(MM(x_t))')")
    if not text.strip():
        raise CellError(
            "a cell's text is empty", text, hint="the smallest useful cell is Tanh(Add(MM(x_t), MM(h_{t-1})))"
        )
    return _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> Cell:
    try:
        tree = _GRAMMAR.parse(text)
    except UnexpectedInput as error:
        _explain(text, error)
    root = _node(tree.children[0], text, height=0)
    memory = None
    if len(tree.children) == 2:
        memory = _memory(tree.children[1], root, text)
    return Cell(root, memory)


def _node(tree: Tree[Token] | Token, text: str, height: int) -> Node:
    assert isinstance(tree, Tree)
    name = tree.children[0]
    assert isinstance(name, Token)
    if height > MAX_HEIGHT:
        _fail(f"the cell is higher than {MAX_HEIGHT} operators", text, name)
    if tree.data == "source":
        return _source(name, text)
    operator = OPERATORS.get(name)
    arguments = tree.children[1:]
    if operator is None:
        if name in SPELLINGS:
            _fail(f"{name} is a source and takes no arguments", text, name, f"write {SPELLINGS[name]}, or MM({name})")
        _fail(f"unknown operator {name}", text, name, _suggest(name, list(OPERATORS)))
    if len(arguments) != operator.arity:
        plural = "argument" if operator.arity == 1 else "arguments"
        _fail(f"{name} takes {operator.arity} {plural}, got {len(arguments)}", text, name, operator.usage)
    return Node(str(name), tuple(_node(argument, text, height + 1) for argument in arguments))


def _source(name: Token, text: str) -> Node:
    spelling = name.replace('"', "'").replace(" ", "") if name.startswith("Var") else str(name)
    if spelling in OPERATORS:
        _fail(f"{name} is an operator and needs its arguments", text, name, OPERATORS[spelling].usage)
    if spelling not in SPELLINGS:
        _fail(f"unknown source {name}", text, name, _suggest(spelling, _NAMES))
    return Node(SPELLINGS[spelling])


def _memory(token: Tree[Token] | Token, root: Node, text: str) -> int:
    assert isinstance(token, Token)
    count = Cell(root).size
    try:
        index = int(token)
    except ValueError:  # Python reads no more than some thousand digits
        index = count
    if not 0 <= index < count:
        _fail(
            f"|{token} is out of range: the cell has {count} operators, numbered 0 to {count - 1}" if count else
            f"|{token} is out of range: the cell has no operators",
            text, token, "operators are numbered in post-order, sources are not counted; c_t is that operator's value",
        )  # fmt: skip
    if "c_{t-1}" not in Cell(root).sources:
        _fail(
            f"|{index} says what c_t is, but nothing in the cell reads c_{{t-1}}", text, token,
            f"drop |{index}, or use c_{{t-1}} in the cell",
        )  # fmt: skip
    return index


def _fail(problem: str, text: str, token: Token, hint: str | None = None) -> NoReturn:
    raise CellError(problem, text, token.start_pos or 0, token.end_pos, hint)


def _suggest(name: str, known: list[str]) -> str:
    source = _INDEXED.fullmatch(name)
    if source and source[1].lower() == "x" and "+" in (source[2] or ""):
        return "a cell sees no later input than x_t: did you mean x_t or x_{t-1}?"
    if source:
        now = source[1].lower() == "x" and source[2] is None
        return f"did you mean {'x_t' if now else source[1].lower() + '_{t-1}'}?"
    lower = {word.lower(): word for word in known}
    close = get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if name.lower() in _OTHER_WORDS:
        return f"did you mean {_OTHER_WORDS[name.lower()]}?"
    if close:
        return f"did you mean {lower[close[0]]}?"
    return f"operators: {' '.join(OPERATORS)}; sources: {' '.join(SOURCES)}"


def _explain(text: str, error: UnexpectedInput) -> NoReturn:
    """Say a grammar error in the language's own words."""
    end = len(text.rstrip())
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream
        assert at is not None
        raise CellError(f"unexpected character {text[at]!r}", text, at, hint=_character_hint(text, at)) from None
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        missing = text.count("(") - text.count(")")
        hint = f"{missing} closing parenthesis missing" if missing > 0 else "an argument or an index is missing here"
        raise CellError("the text ends too early", text, end, hint=hint) from None
    assert isinstance(error, UnexpectedToken)
    token = error.token
    advice = _UNEXPECTED.get(token.type)
    if token.type == "RPAR" and text.count(")") > text.count("("):
        advice = "one closing parenthesis too many"
    elif token.type == "INDEX" and re.search(r"\b([xhc]|[xhc]?_?\(?t)$", text[: token.start_pos]):
        advice = _INDEX_HINT
    raise CellError(f"unexpected {str(token)!r}", text, token.start_pos or 0, token.end_pos, advice) from None


_INDEX_HINT = "a time index stands in braces, as in h_{t-1}"
_UNEXPECTED = {
    **dict.fromkeys(("COMMA", "RPAR"), "an argument is missing before it"),
    **dict.fromkeys(("NAME", "VAR"), "is a comma missing before it?"),
    "LPAR": "parentheses stand only around an operator's arguments",
    "VBAR": "|k comes once, after the whole cell",
    "INDEX": "the language has no constants: numbers stand only after |, at the end",
}
"""What to say of a token that cannot stand where it does."""
_CHARACTERS = {
    "\\": "names are written without a backslash, as in Tanh(x_t)",
    "[{<": "arguments stand in round parentheses",
    "+*-/⊙∘×·@": "arithmetic is written with operators: Add(a, b), Mult(a, b), Sub(a, b), Div(a, b); W a is MM(a)",
    "σς": "did you mean Sigmoid?",
    "=": "a cell is one expression, that of h_t: leave out names and =",
}
"""And of characters."""


def _character_hint(text: str, at: int) -> str:
    if text[at] == "[" and re.search(r"\b[xhc]_?$", text[:at]):
        return _INDEX_HINT
    known = (hint for characters, hint in _CHARACTERS.items() if text[at] in characters)
    return next(known, f"names hold letters, digits and _; {_INDEX_HINT}")
