"""Many trees -> index tensors, grouped so that one call computes a whole level of all trees at once.

A node's encoding depends on its text and on what h_{t-1} and c_{t-1} stand for, on nothing else. So nodes are
numbered once per such triple and shared: between the trees of a batch, between the two passes of the
unrolling, and between the cells that differ only in where c_t is read off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasrepro.dsl import Cell, CellError, Node
from nasrepro.dsl.operators import OPERATORS, SOURCES

OPERATOR_NUMBER = {name: number for number, name in enumerate(OPERATORS)}
ORDERED = frozenset({"Gate3", "Sub", "Div"})
"""Operators whose arguments have places; the others treat theirs as a set (S17 section 3.2)."""
WIDTH = 3
"""Children of an ordered operator at most."""

# Slot 0 is the missing child, whose state is zero; the sources follow; then the operators, level by level.
MISSING = 0
SOURCE_SLOT = {name: 1 + number for number, name in enumerate(SOURCES)}
FIRST_OPERATOR = 1 + len(SOURCES)


@dataclass(frozen=True)
class Group:
    """Nodes that can be computed together: of one level, all ordered or all unordered."""

    ordered: bool
    operators: Tensor  # (n,) numbers of their operators
    children: Tensor  # (n, 2), or (n, WIDTH) if ordered: slots, MISSING where an operator takes fewer


@dataclass(frozen=True)
class TreeBatch:
    """The schedule for a batch of cells: its nodes, group after group in the order in which to compute them.

    The nodes' states fill the slots from FIRST_OPERATOR on.
    """

    ordered: Tensor  # (groups,) 1 or 0
    sizes: Tensor  # (groups,) nodes of each
    operators: Tensor  # (nodes,) numbers of their operators
    children: Tensor  # (nodes, WIDTH) slots, MISSING where an operator takes fewer
    roots: Tensor  # (cells,) slots

    @property
    def groups(self) -> list[Group]:
        """The nodes by group."""
        sizes = self.sizes.tolist()
        parts = zip(self.ordered.tolist(), self.operators.split(sizes), self.children.split(sizes), strict=True)
        return [Group(bool(is_ordered), of, at if is_ordered else at[:, :2]) for is_ordered, of, at in parts]


def tree_batch(cells: Sequence[Cell], unroll: int = 1) -> TreeBatch:
    """The schedule that encodes these cells; see `Forest`."""
    return Forest(cells, unroll).batch()


class Forest:
    """Cells whose nodes are numbered once, so that a batch of any of them takes no walk over their trees.

    With `unroll` = 1, h_{t-1} stands for the encoding of the same tree one step earlier, whose leaves are
    h_{t-2} and c_{t-2}, and c_{t-1} for that of its memory node (S17 section 3.2). x_t and x_{t-1} are not shifted.

    Raises CellError where a cell reads c_{t-1} but does not say what c_t is.
    """

    def __init__(self, cells: Sequence[Cell], unroll: int = 1) -> None:
        graph = _Graph()
        roots = [graph.place_cell(cell, unroll) for cell in cells]
        self.unroll = unroll
        self._place = {(cell.root.text, cell.memory): place for place, cell in enumerate(cells)}
        self._roots = np.array(roots, dtype=np.int64)  # (cells,) slots
        self._needs: dict[int, NDArray[np.int64]] = {}  # by cell, once it was asked for: (its nodes,) slots
        self._operators = np.array(graph.operators, dtype=np.int64)  # (slots,)
        self._children = np.array(graph.children, dtype=np.int64)  # (slots, WIDTH)
        self._kind = 2 * np.array(graph.level, dtype=np.int64) + np.array(graph.ordered)  # (slots,)

    def members(self, cells: Sequence[Cell]) -> list[int] | None:
        """The places of these cells in the forest; None unless all of them stand in it."""
        found = [self._place.get((cell.root.text, cell.memory), -1) for cell in cells]
        return None if -1 in found else found

    def batch(self, members: Sequence[int] | None = None) -> TreeBatch:
        """The schedule that encodes the cells at these places, or all: by level, unordered before ordered operators."""
        needed = np.full(len(self._kind), members is None)
        needed[:FIRST_OPERATOR] = False
        for member in members or ():
            needed[self._needed(member)] = True
        slots = np.flatnonzero(needed)  # (nodes,)
        slots = slots[np.argsort(self._kind[slots], kind="stable")]
        new = np.arange(len(self._kind), dtype=np.int64)  # old slot -> new slot
        new[slots] = np.arange(FIRST_OPERATOR, FIRST_OPERATOR + len(slots))
        kinds = self._kind[slots]
        edges = np.flatnonzero(np.diff(kinds, prepend=-1, append=-1))  # where a group begins, and the end
        roots = new[self._roots if members is None else self._roots[list(members)]]
        fields = (kinds[edges[:-1]] % 2, np.diff(edges), self._operators[slots], new[self._children[slots]])
        return TreeBatch(*map(torch.from_numpy, (*fields, roots)))

    def _needed(self, member: int) -> NDArray[np.int64]:
        """The slots of all operators that a cell's encoding depends on."""
        if member not in self._needs:
            found, open_ends = set(), [int(self._roots[member])]
            while open_ends:
                slot = open_ends.pop()
                if slot >= FIRST_OPERATOR and slot not in found:
                    found.add(slot)
                    open_ends.extend(self._children[slot].tolist())
            self._needs[member] = np.array(sorted(found), dtype=np.int64)
        return self._needs[member]


class _Graph:
    """Numbered nodes while a forest is being built. Its lists have an entry for every slot, sources among them."""

    def __init__(self) -> None:
        self.number: dict[tuple[str, int, int], int] = {}
        self.operators: list[int] = [0] * FIRST_OPERATOR
        self.children: list[tuple[int, ...]] = [(MISSING,) * WIDTH] * FIRST_OPERATOR
        self.level: list[int] = [0] * FIRST_OPERATOR
        self.ordered: list[bool] = [False] * FIRST_OPERATOR

    def place_cell(self, cell: Cell, unroll: int) -> int:
        if not cell.is_runnable:
            raise CellError(
                f"{cell} reads c_{{t-1}} but does not say what c_t is", hint="rank its cell.memory_candidates()"
            )
        h, c = SOURCE_SLOT["h_{t-1}"], SOURCE_SLOT["c_{t-1}"]
        for _ in range(unroll):
            # The memory node lies inside the tree, so placing it finds the number it has already.
            earlier = self.place(cell.root, h, c)
            c = c if cell.memory is None else self.place(cell.operators[cell.memory], h, c)
            h = earlier
        return self.place(cell.root, h, c)

    def place(self, node: Node, h: int, c: int) -> int:
        """The slot of a node, given the slots that h_{t-1} and c_{t-1} stand for."""
        if node.is_source:
            return h if node.op == "h_{t-1}" else c if node.op == "c_{t-1}" else SOURCE_SLOT[node.op]
        key = (node.text, h if "h_{t-1}" in node.text else 0, c if "c_{t-1}" in node.text else 0)
        slot = self.number.get(key)
        if slot is None:
            children = tuple(self.place(arg, h, c) for arg in node.args)
            slot = self.number[key] = len(self.level)
            self.operators.append(OPERATOR_NUMBER[node.op])
            self.children.append(children + (MISSING,) * (WIDTH - len(children)))
            self.level.append(1 + max(self.level[child] for child in children))
            self.ordered.append(node.op in ORDERED)
        return slot
