"""The encoder of S17's ranking function: a TreeLSTM shaped like the cell that it reads (S17 section 3.2).

Equations: Tai, Socher & Manning 2015, "Improved Semantic Representations From Tree-Structured Long Short-Term
Memory Networks", section 3.1 (Child-Sum, equations 2-8) and section 3.2 (N-ary, equations 9-14).
"""

import torch
from torch import Tensor, nn

from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.ranking.batch import FIRST_OPERATOR, WIDTH, TreeBatch

# The state of a node is [h, c], one row of 2 * hidden numbers, so that one gather fetches both.


class ChildSumTreeLSTM(nn.Module):
    """A node from the sum of its children, for operators whose arguments may be swapped (Tai, eq. 2-8)."""

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.of_sum = _matrix(hidden, 3 * hidden, generator)  # U of i, o, u
        self.of_child = _matrix(hidden, hidden, generator)  # U of f

    def forward(self, operator: Tensor, children: Tensor) -> Tensor:
        """Operator's share of the gates (n, 4 hidden), children (n, k, 2 hidden) -> (n, 2 hidden)."""
        h, c = children.chunk(2, dim=-1)  # (n, k, hidden) each
        iou, f = operator.split([operator.shape[1] * 3 // 4, operator.shape[1] // 4], dim=1)
        i, o, u = (iou + h.sum(1) @ self.of_sum).chunk(3, dim=1)  # (n, hidden) each
        forget = torch.sigmoid(f.unsqueeze(1) + h @ self.of_child)  # (n, k, hidden): one gate per child
        return _state(i, o, u, (forget * c).sum(1))


class NaryTreeLSTM(nn.Module):
    """A node from its children by place, for operators whose order matters (Tai, eq. 9-14)."""

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        # One matrix holds U_l of i, o, u and U_kl of f: every gate looks at the children of all places.
        self.of_children = _matrix(WIDTH * hidden, (3 + WIDTH) * hidden, generator)

    def forward(self, operator: Tensor, children: Tensor) -> Tensor:
        """Operator's share of the gates (n, 4 hidden), children (n, WIDTH, 2 hidden) -> (n, 2 hidden)."""
        h, c = children.chunk(2, dim=-1)  # (n, WIDTH, hidden) each
        i, o, u, f = operator.chunk(4, dim=1)  # (n, hidden) each
        gates = torch.cat([i, o, u, *[f] * WIDTH], dim=1) + h.flatten(1) @ self.of_children
        i, o, u, *forget = gates.chunk(3 + WIDTH, dim=1)
        return _state(i, o, u, (torch.sigmoid(torch.stack(forget, dim=1)) * c).sum(1))


class TreeEncoder(nn.Module):
    """Encodes whole batches of cells, level by level.

    Operators have learned embeddings, the input x_j of Tai et al.; sources are learned states.
    """

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.sources = nn.Parameter(torch.randn(len(SOURCES), 2 * hidden, generator=generator))
        self.operators = nn.Parameter(torch.randn(len(OPERATORS), hidden, generator=generator))
        self.unordered_input = _matrix(hidden, 4 * hidden, generator)  # W of i, o, u, f
        self.ordered_input = _matrix(hidden, 4 * hidden, generator)
        self.unordered_bias = nn.Parameter(torch.zeros(4 * hidden))
        self.ordered_bias = nn.Parameter(torch.zeros(4 * hidden))
        self.unordered = ChildSumTreeLSTM(hidden, generator)
        self.ordered = NaryTreeLSTM(hidden, generator)

    def forward(self, batch: TreeBatch) -> Tensor:
        """The encodings h of the batch's roots, (cells, hidden)."""
        # W x + b is worked out once per operator, not once per node.
        inputs = (
            self.operators @ self.unordered_input + self.unordered_bias,  # (operators, 4 hidden)
            self.operators @ self.ordered_input + self.ordered_bias,
        )
        missing = self.sources.new_zeros(FIRST_OPERATOR - len(SOURCES), 2 * self.hidden)
        states = torch.cat([missing, self.sources])  # (slots so far, 2 hidden)
        for group in batch.groups:
            operator = inputs[group.ordered].index_select(0, group.operators)  # (n, 4 hidden)
            children = states.index_select(0, group.children.flatten()).unflatten(0, group.children.shape)
            update = self.ordered if group.ordered else self.unordered
            states = torch.cat([states, update(operator, children)])
        return states.index_select(0, batch.roots)[:, : self.hidden]


def _state(i: Tensor, o: Tensor, u: Tensor, kept: Tensor) -> Tensor:
    c = torch.sigmoid(i) * torch.tanh(u) + kept
    return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=1)


def _matrix(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    bound = rows**-0.5
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))
