"""ZL17's space of recurrent cells: a tree with b leaves, each of its nodes labelled by a controller (ZL17 section 3.5).

Every leaf combines W x_t and U h_{t-1}, with matrices of its own; every node above combines the values of two nodes.
The nodes are numbered from the leaves up, level by level and left to right, so that node 2b - 2 is h_t. A node has a
combination of two inputs, and an activation of the result. Two choices bring the memory in: at one node (the second
"cell index") its value and c_{t-1} are combined and activated once more ("cell inject"); and c_t is what another node
(the first "cell index") holds before its activation.

The tokens of base 8 are 34: combination and activation of each of 15 nodes, then those of cell inject, then the two
cell indices.

>>> space = BaseB(2)  # the paper's worked example
>>> str(space.cell((0, 1, 1, 3, 1, 2, 0, 3, 1, 0)))
'Sigmoid(Mult(ReLU(Add(Tanh(Add(MM(x_t), MM(h_{t-1}))), c_{t-1})), ReLU(Mult(MM(x_t), MM(h_{t-1})))))|8'
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from nasrepro.controllers.token_space import FixedSpace, Place, Tokens, places_of
from nasrepro.dsl import Cell, Node
from nasrepro.dsl.operators import OPERATORS
from nasrepro.settings import origin

IDENTITY = "identity"
"""The activation that leaves a value as it is. The language needs no word for it."""

_LEAF = (Node("MM", (Node("x_t"),)), Node("MM", (Node("h_{t-1}"),)))
_MEMORY = Node("c_{t-1}")


@dataclass(frozen=True)
class BaseB:
    """The space of one base, one set of combinations and one of activations; a `TokenSpace` of cells.

    Raises ValueError for a base below 1, an empty set, one that names a word twice, or a word that is no combination
    or activation of the language.
    """

    base: int = field(default=8, metadata=origin("stated", "4.2", paper="ZL17"))
    """Leaves of the tree."""
    combinations: tuple[str, ...] = field(default=("Add", "Mult"), metadata=origin("stated", "4.2", paper="ZL17"))
    """Operators of two inputs whose order means nothing."""
    activations: tuple[str, ...] = field(
        default=(IDENTITY, "Tanh", "Sigmoid", "ReLU"), metadata=origin("stated", "4.2", paper="ZL17")
    )
    """Activation functions, and "identity"."""

    def __post_init__(self) -> None:
        if self.base < 1:
            raise ValueError(f"base is the number of leaves, 1 or more, got {self.base}")
        combining = {name for name, operator in OPERATORS.items() if operator.commutative}
        activating = {IDENTITY, *(name for name, operator in OPERATORS.items() if operator.activation)}
        for what, words, known in (
            ("combinations", self.combinations, combining),
            ("activations", self.activations, activating),
        ):
            if not words or len({*words}) < len(words) or not known >= {*words}:
                raise ValueError(f"{what} is a tuple of some of {sorted(known)}, each once, got {words!r:.100}")

    @property
    def nodes(self) -> int:
        """Nodes of the tree, leaves among them."""
        return 2 * self.base - 1

    @cached_property
    def inputs(self) -> tuple[tuple[int, int], ...]:
        """The two nodes whose values each node above the leaves combines, in the order of the nodes."""
        # Neighbours of one level are paired; where their number is odd, the last waits for the level above.
        waiting = list(range(self.base))
        pairs = []
        for node in range(self.base, self.nodes):
            pairs.append((waiting.pop(0), waiting.pop(0)))
            waiting.append(node)
        return tuple(pairs)

    @cached_property
    def strings(self) -> FixedSpace:
        """The space of the token strings."""
        labelled = [f"node {node}" for node in range(self.nodes)] + ["cell inject"]
        indices = tuple(map(str, range(self.nodes)))
        return FixedSpace(
            (
                *(
                    Place(f"{what} of {where}", words)
                    for where in labelled
                    for what, words in (("combination", self.combinations), ("activation", self.activations))
                ),
                Place("node that gives c_t", indices),
                Place("node that takes c_{t-1} in", indices),
            )
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """Of every token, in the paper's order."""
        return self.strings.places

    @property
    def size(self) -> int:
        """How many token strings there are."""
        return self.strings.size

    def next_place(self, tokens: Sequence[int], /) -> int | None:
        """All strings have all places."""
        return self.strings.next_place(tokens)

    # ---- tokens to a cell, and back

    def cell(self, tokens: Sequence[int]) -> Cell:
        """The cell that a token string describes. Raises ValueError for a string that is not of the space."""
        words = [self.places[place].words[token] for place, token in zip(places_of(self, tokens), tokens, strict=True)]
        *labels, inject = zip(words[:-2:2], words[1:-2:2], strict=True)
        gives, takes = tokens[-2:]
        combined: list[Node] = []
        values: list[Node] = []
        for node, (combination, activation) in enumerate(labels):
            args = _LEAF if node < self.base else tuple(values[below] for below in self.inputs[node - self.base])
            combined.append(Node(combination, args))
            value = _activated(activation, combined[node])
            values.append(_activated(inject[1], Node(inject[0], (value, _MEMORY))) if node == takes else value)
        # How many operators stand before all those of a node, in post-order.
        first = {self.nodes - 1: 0}
        for node in range(self.nodes - 1, self.base - 1, -1):
            left, right = self.inputs[node - self.base]
            first[left], first[right] = first[node], first[node] + values[left].size
        return Cell(values[-1], first[gives] + combined[gives].size - 1)

    def tokens(self, cell: Cell) -> Tokens:
        """A token string that describes this cell, whichever way the arguments of its operators are ordered.

        Of a cell that `cell` made it is the string of which it was made; of other cells, one whose cell is equivalent.
        Raises ValueError for a cell that the space does not hold.
        """
        reading = self._read(cell.root, self.nodes - 1, 0)
        if reading is None or len(reading.injects) != 1:
            raise ValueError(
                f"{cell!r:.300} is no cell of {self}: its tree has other nodes, or c_{{t-1}} does not come in once"
            )
        if cell.memory not in reading.combined:
            raise ValueError(
                f"{cell!r:.300} is no cell of {self}: c_t must be what a node holds before its activation, "
                f"one of |{', |'.join(map(str, sorted(reading.combined)))}"
            )
        ((takes, inject),) = reading.injects.items()
        words = [word for node in range(self.nodes) for word in reading.labels[node]]
        words += [*inject, str(reading.combined[cell.memory]), str(takes)]
        return tuple(place.words.index(word) for place, word in zip(self.places, words, strict=True))

    def _read(self, value: Node, node: int, first: int) -> "_Reading | None":
        """The labels of a node and all below it that compute this value; None where there are none.

        `first` operators stand before the value in post-order. c_{t-1} is no operator, so it moves no numbers.
        """
        injects: dict[int, tuple[str, str]] = {}
        label, combined = self._label(value)
        if label and _MEMORY in combined.args:
            injects[node] = label
            label, combined = self._label(combined.args[combined.args[0] == _MEMORY])
        if label is None:
            return None
        here = _Reading({node: label}, injects, {first + combined.size - 1: node})
        if node < self.base:
            return here if {*combined.args} == {*_LEAF} else None
        left, right = combined.args
        for inputs in (self.inputs[node - self.base], self.inputs[node - self.base][::-1]):
            below = self._read(left, inputs[0], first)
            beside = self._read(right, inputs[1], first + left.size) if below else None
            if below and beside:
                return here.joined(below).joined(beside)
        return None

    def _label(self, value: Node) -> tuple[tuple[str, str] | None, Node]:
        """Combination and activation that a value ends with, None where they are not the space's; and what the
        activation is applied to."""
        activation, combined = (value.op, value.args[0]) if value.op in self.activations else (IDENTITY, value)
        known = combined.op in self.combinations and activation in self.activations
        return (combined.op, activation) if known else None, combined


CONTROL_1 = BaseB(
    combinations=("Add", "Mult", "Max"),
    activations=(IDENTITY, "Tanh", "Sigmoid", "ReLU", "Sin"),
)
"""The larger space of ZL17's first control experiment, with max and sin (section 4.2)."""


@dataclass(frozen=True)
class _Reading:
    """What was read off a tree."""

    labels: dict[int, tuple[str, str]]
    """Combination and activation by node."""
    injects: dict[int, tuple[str, str]]
    """Those that take c_{t-1} in, by node."""
    combined: dict[int, int]
    """Which node's value before activation an operator computes, by its number in post-order."""

    def joined(self, other: "_Reading") -> "_Reading":
        """Both."""
        return _Reading(self.labels | other.labels, self.injects | other.injects, self.combined | other.combined)


def _activated(activation: str, node: Node) -> Node:
    return node if activation == IDENTITY else Node(activation, (node,))
