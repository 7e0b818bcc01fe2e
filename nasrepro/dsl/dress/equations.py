"""A cell cut into named equations, as a person would write it down: where LaTeX and PyTorch source start.

Names go to c_t, to gates (a Gate3's third argument, a Sigmoid of three operators or more), to the large
arguments of Gate3, and to whatever else keeps a line from growing too long.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nasrepro.dsl.expression import Expression, Node

LARGE = 3  # operators


@dataclass(slots=True, eq=False)
class Term:
    """One node of the cell. `name` is set where it has an equation of its own; `matrix` numbers the MMs."""

    op: str
    args: list["Term"]
    size: int
    matrix: int | None = None
    name: str | None = None

    def walk(self) -> Iterator["Term"]:
        """All terms below and this one, in post-order."""
        for arg in self.args:
            yield from arg.walk()
        yield self

    def body(self) -> Iterator["Term"]:
        """The terms of this term's own equation, in post-order, down to the named ones."""
        for arg in self.args:
            if arg.name is None:
                yield from arg.body()
        yield self


def equations(cell: Expression, lengths: Mapping[str, int], limit: int) -> list[Term]:
    """The terms that get a name, in the order in which they can be computed, h_t last.

    `lengths` says how long an operator's own signs are when written ("name": a name or source). No equation
    grows longer than `limit`, unless one operator on names alone is. Where c_t is h_t, the last is h_t = c_t.
    """
    root = _terms(cell)
    last = root
    if root.name == "c_t":
        last = Term("c_t", [], 0)
    last.name = "h_t"
    _name_gates(root, has_memory=cell.memory is not None)
    for term in root.walk():
        if term.op == "Gate3":
            for arg in term.args[:2]:
                if arg.size >= LARGE:
                    arg.name = arg.name or "z"
        _shorten(term, lengths, limit)
    _number([term for term in root.walk() if term.name == "z"], "z")
    named = [term for term in root.walk() if term.name is not None]
    return named if last is root else [*named, last]


def _terms(cell: Expression) -> Term:
    operators = matrices = 0

    def build(node: Node) -> Term:
        nonlocal operators, matrices
        term = Term(node.op, [build(arg) for arg in node.args], node.size)
        if node.op == "MM":
            term.matrix = matrices
            matrices += 1
        if node.args:
            term.name = "c_t" if operators == cell.memory else None
            operators += 1
        return term

    return build(cell.root)


def _name_gates(root: Term, has_memory: bool) -> None:
    thirds = [term.args[2] for term in root.walk() if term.op == "Gate3"]
    gates = [
        term
        for term in root.walk()
        if term.args and not term.name
        if term in thirds or (term.op == "Sigmoid" and term.size >= LARGE)
    ]
    # The gate that makes h_t is an output gate beside a memory, as in an LSTM; without one it forgets.
    last, others = ("o", "firu") if has_memory else ("f", "riuo")
    if len(gates) > len(others):
        _number(gates, "f")
        return
    final = [gate for gate in gates if gate in root.args][-1:]
    for letter, gate in zip(others, [gate for gate in gates if gate not in final], strict=False):
        gate.name = letter
    for gate in final:
        gate.name = last


def _number(terms: list[Term], letter: str) -> None:
    for number, term in enumerate(terms, start=1):
        term.name = letter if len(terms) == 1 else f"{letter}{number}"


def _shorten(term: Term, lengths: Mapping[str, int], limit: int) -> None:
    """Give names to parts of the term until its equation is within the limit."""

    def length(term: Term) -> int:
        if not term.args:
            return lengths["name"]
        return lengths[term.op] + sum(lengths["name"] if arg.name else length(arg) for arg in term.args)

    while length(term) > limit:
        # h_t = tanh(z) would be a poor line: look down the chain of single arguments to where the term forks.
        fork = term
        while len(fork.args) == 1 and _unnamed(fork):
            fork = fork.args[0]
        parts = _unnamed(fork) or _unnamed(term)
        if not parts:
            return
        max(parts, key=length).name = "z"


def _unnamed(term: Term) -> list[Term]:
    return [arg for arg in term.args if arg.args and not arg.name]
