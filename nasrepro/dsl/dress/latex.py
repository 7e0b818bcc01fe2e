"""A cell as equations, in the notation of S17's BC3 (section 4.1)."""

import re
from collections import Counter

from nasrepro.dsl.dress.equations import Term, equations
from nasrepro.dsl.expression import Expression

LETTERS = {"x_t": "W", "x_{t-1}": "W", "h_{t-1}": "U", "c_{t-1}": "X", "PosEnc": "P"}  # any other argument: V
FUNCTIONS = {
    "Sigmoid": r"\sigma",
    "Tanh": r"\tanh",
    "ReLU": r"\mathrm{relu}",
    "SeLU": r"\mathrm{selu}",
    "Sin": r"\sin",
    "Cos": r"\cos",
    "LayerNorm": r"\mathrm{LN}",
    "Max": r"\max",
}
LIMIT = 36  # signs on a line
LENGTHS = dict.fromkeys(FUNCTIONS, 5) | {"name": 2, "MM": 2, "Add": 1, "Sub": 1, "Mult": 1, "Div": 1, "Gate3": 8}
SUM, PRODUCT, ATOM = range(3)  # how tightly an expression holds together


def to_latex(cell: Expression) -> str:
    r"""The cell's equations as an `aligned` block, h_t last; MathJax renders it.

    Matrices are W on the input, U on h_{t-1}, X on c_{t-1}, P on the position p_t and V on inner values;
    superscripts name their equation and number them in it. Biases are left out, though every matrix has one.
    """
    named = equations(cell, LENGTHS, LIMIT)
    letters = Counter(_letter(term) for term in _matrices(named))
    lines = []
    for term in named:
        matrices = _superscripts(term, letters)
        lines.append(f"{_name(term.name or '')} &= {_write(term, matrices)[0]}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _matrices(named: list[Term]) -> list[Term]:
    return [term for equation in named for term in equation.body() if term.op == "MM"]


def _letter(matrix: Term) -> str:
    return "V" if matrix.args[0].name else LETTERS.get(matrix.args[0].op, "V")


def _superscripts(equation: Term, everywhere: Counter[str]) -> dict[int | None, str]:
    """Number of an MM -> its letter, with a superscript where the letter stands for several matrices."""
    matrices = _matrices([equation])
    here = Counter(map(_letter, matrices))
    index = {"c_t": "c", "h_t": "h"}.get(equation.name or "", _name(equation.name or ""))
    seen: Counter[str] = Counter()
    written: dict[int | None, str] = {}
    for matrix in matrices:
        letter = _letter(matrix)
        seen[letter] += 1
        number = f",{seen[letter]}" if here[letter] > 1 else ""
        written[matrix.matrix] = letter if everywhere[letter] == 1 else f"{letter}^{{{index}{number}}}"
    return written


def _write(term: Term, matrices: dict[int | None, str]) -> tuple[str, int]:
    """The right-hand side of a term, and how tightly it holds together."""

    def argument(arg: Term, tightness: int) -> str:
        text, holds = (_name(arg.name), ATOM) if arg.name else _write(arg, matrices)
        return text if holds >= tightness else _bracket(text)

    def arguments(*tightness: int) -> list[str]:
        return [argument(arg, needed) for arg, needed in zip(term.args, tightness, strict=True)]

    if not term.args:
        return "p_t" if term.op == "PosEnc" else term.op, ATOM
    if term.op == "MM":
        return f"{matrices[term.matrix]} {argument(term.args[0], ATOM)}", PRODUCT
    if term.op in ("Add", "Sub"):
        sign = "+" if term.op == "Add" else "-"
        return f" {sign} ".join(arguments(SUM, SUM if sign == "+" else PRODUCT)), SUM
    if term.op == "Mult":
        return r" \circ ".join(arguments(PRODUCT, PRODUCT)), PRODUCT
    if term.op == "Div":
        return "\\frac{{{}}}{{{}}}".format(*arguments(SUM, SUM)), ATOM
    if term.op == "Gate3":
        a, b, f = arguments(PRODUCT, PRODUCT, ATOM)
        return rf"{f} \circ {a} + (1 - {f}) \circ {b}", SUM
    return FUNCTIONS[term.op] + _bracket(", ".join(arguments(*[SUM] * len(term.args)))), ATOM


def _bracket(text: str) -> str:
    return rf"\left({text}\right)" if r"\frac" in text else f"({text})"


def _name(name: str) -> str:
    """z12 -> z_{12}; c_t stays."""
    return re.sub(r"(\d+)$", r"_{\1}", name)
