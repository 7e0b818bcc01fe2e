"""One representative for all the ways of writing the same cell (S17 appendix A.2-A.3).

Three rewrites, applied bottom-up:

1. The arguments of Add, Mult and Max are sorted by their text.
2. The first two arguments of Gate3 are sorted too, where its gate can be turned over by a change of weights:
   f a + (1 - f) b with f = sigmoid(z) equals g b + (1 - g) a with g = sigmoid(-z), and -z is reached by negating the
   weights under z. A gate such as Sigmoid(h_{t-1}) has no weights to negate, so there the order means something.
3. Add(MM(s), MM(s)) is MM(s): two matrices on one value sum to one. The same holds for Sub.

So a canonical cell computes the same functions as the original, with other weights. `CanonicalForm.products` says
which: tests use it to carry weights over and compare outputs.

A node whose value is c_t is never negated nor merged away, since its value is looked at. Sorting moves nodes, so |k is
re-derived at the end.
"""

from dataclasses import dataclass, field

from nasrepro.dsl.expression import Expression, Node
from nasrepro.dsl.operators import OPERATORS


@dataclass(slots=True)
class _Part:
    """A node under rewriting. `terms` are the (original MM, sign) pairs of an MM."""

    op: str
    args: list["_Part"]
    node: Node
    """The node as it was. It is used again where rewriting left it as it was: a new one costs more."""
    text: str
    is_memory: bool = False
    holds_memory: bool = False
    terms: list[tuple[int, int]] = field(default_factory=list)

    def order(self) -> tuple[str, bool]:
        # Twins by text may differ in which holds c_t; that one goes first, so that twins swapped come out alike.
        return self.text, not self.holds_memory


def rewritten(expression: Expression) -> tuple[Node, int | None, tuple[tuple[tuple[int, int], ...], ...]]:
    """Root and memory of the canonical cell, and how its matrices arise from the original's (`CanonicalForm`)."""
    return _freeze(_rewrite(_parts(expression)))


def _parts(expression: Expression) -> _Part:
    operators = matrices = 0

    def build(node: Node) -> _Part:
        nonlocal operators, matrices
        part = _Part(node.op, [build(arg) for arg in node.args], node, node.text)
        if node.op == "MM":
            part.terms = [(matrices, 1)]
            matrices += 1
        if node.args:
            part.is_memory = operators == expression.memory
            part.holds_memory = part.is_memory or any(arg.holds_memory for arg in part.args)
            operators += 1
        return part

    return build(expression.root)


def _rewrite(part: _Part) -> _Part:
    if not part.args:
        return part
    part.args = [_rewrite(arg) for arg in part.args]
    if part.op in ("Add", "Sub") and _mergeable(*part.args):
        return _merge(part)
    if part.op == "Gate3" and part.args[1].order() < part.args[0].order():
        gate = part.args[2]
        if gate.op == "Sigmoid" and not gate.is_memory and _can_negate(gate.args[0]):
            _negate(gate.args[0])
            part.args[:2] = part.args[1::-1]
    elif OPERATORS[part.op].commutative:
        part.args.sort(key=_Part.order)
    if any(arg.text != was.text for arg, was in zip(part.args, part.node.args, strict=True)):
        part.text = f"{part.op}({', '.join(arg.text for arg in part.args)})"
    return part


def _mergeable(a: _Part, b: _Part) -> bool:
    """Two matrices on one and the same value: the values are the same only if no matrix stands inside them."""
    return (
        a.op == b.op == "MM"
        and a.text == b.text
        and "MM(" not in a.args[0].text
        and not (a.holds_memory or b.holds_memory)
    )


def _merge(part: _Part) -> _Part:
    first, second = part.args
    sign = 1 if part.op == "Add" else -1
    terms = sorted(first.terms + [(i, s * sign) for i, s in second.terms])
    return _Part("MM", first.args, first.node, first.text, part.is_memory, part.is_memory, terms)


def _can_negate(part: _Part) -> bool:
    """Whether some choice of signs on the matrices below turns the part's value into its negative."""
    if part.is_memory:
        return False
    if part.op == "MM":
        return True
    if part.op in ("Add", "Sub"):
        return all(map(_can_negate, part.args))
    if part.op in ("Mult", "Div"):
        return any(map(_can_negate, part.args))
    return part.op in ("Tanh", "Sin", "LayerNorm") and _can_negate(part.args[0])  # odd functions


def _negate(part: _Part) -> None:
    if part.op == "MM":
        part.terms = [(i, -sign) for i, sign in part.terms]
    elif part.op in ("Mult", "Div"):
        _negate(next(arg for arg in part.args if _can_negate(arg)))
    else:
        for arg in part.args:
            _negate(arg)


def _freeze(root: _Part) -> tuple[Node, int | None, tuple[tuple[tuple[int, int], ...], ...]]:
    memory: int | None = None
    operators = 0
    products: list[tuple[tuple[int, int], ...]] = []

    def build(part: _Part) -> Node:
        nonlocal memory, operators
        args = [build(arg) for arg in part.args]
        if part.op == "MM":
            products.append(tuple(part.terms))
        if part.args:
            memory = operators if part.is_memory else memory
            operators += 1
        return part.node if part.text == part.node.text else Node(part.op, tuple(args))

    return build(root), memory, tuple(products)
