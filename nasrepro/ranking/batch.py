"""Many trees -> index tensors, grouped so that one call computes a whole level of all trees at once.

A node's encoding depends on its text and on what h_{t-1} and c_{t-1} stand for, on nothing else. So nodes are
numbered once per such triple and shared: between the trees of a batch, between the two passes of the
unrolling, and between the cells that differ only in where c_t is read off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
    """The schedule for a batch of cells: groups in the order in which to compute them, and each cell's root.

    The states of the groups' nodes, one after another, fill the slots from FIRST_OPERATOR on.
    """

    groups: list[Group]
    roots: Tensor  # (cells,) slots


def tree_batch(cells: Sequence[Cell], unroll: int = 1) -> TreeBatch:
    """The schedule that encodes these cells (S17 section 3.2).

    With `unroll` = 1, h_{t-1} stands for the encoding of the same tree one step earlier, whose leaves are
    h_{t-2} and c_{t-2}, and c_{t-1} for that of its memory node. x_t and x_{t-1} are not shifted.

    Raises CellError where a cell reads c_{t-1} but does not say what c_t is.
    """
    graph = _Graph()
    return graph.schedule([graph.place_cell(cell, unroll) for cell in cells])


class _Graph:
    """Numbered nodes while a batch is being built."""

    def __init__(self) -> None:
        self.number: dict[tuple[str, int, int], int] = {}
        self.operators: list[int] = []
        self.children: list[tuple[int, ...]] = []
        self.level: list[int] = [0] * FIRST_OPERATOR
        self.ordered: list[bool] = []

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

    def schedule(self, roots: list[int]) -> TreeBatch:
        """Renumber the slots by level, unordered operators before ordered ones within a level."""
        operators = torch.tensor(self.operators, dtype=torch.long)  # (nodes,)
        children = torch.tensor(self.children, dtype=torch.long).reshape(-1, WIDTH)  # (nodes, WIDTH)
        level = torch.tensor(self.level[FIRST_OPERATOR:], dtype=torch.long)  # (nodes,)
        kind = 2 * level + torch.tensor(self.ordered, dtype=torch.long)  # (nodes,)
        order = torch.argsort(kind, stable=True)
        slot = torch.arange(len(self.level))  # old slot -> new slot
        slot[FIRST_OPERATOR + order] = torch.arange(FIRST_OPERATOR, len(self.level))
        kinds, sizes = torch.unique_consecutive(kind[order], return_counts=True)
        groups = [
            Group(bool(of % 2), operators[members], slot[children[members, : WIDTH if of % 2 else 2]])
            for of, members in zip(kinds.tolist(), order.split(sizes.tolist()), strict=True)
        ]
        return TreeBatch(groups, slot[torch.tensor(roots, dtype=torch.long)])
