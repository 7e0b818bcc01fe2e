"""The encoder of S17's ranking function: a TreeLSTM shaped like the cell that it reads (S17 section 3.2).

Equations: Tai, Socher & Manning 2015, "Improved Semantic Representations From Tree-Structured Long Short-Term
Memory Networks", section 3.1 (Child-Sum, equations 2-8) and section 3.2 (N-ary, equations 9-14).

A batch is some thirty groups of a few nodes each. Compiled C goes over them for float32 on the CPU; torch does
otherwise, and where C cannot be compiled, several times slower.
"""

import ctypes
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nasrepro import native
from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.native import NativeError
from nasrepro.native.gemm import load_products
from nasrepro.native.scratch import scratch
from nasrepro.ranking.batch import FIRST_OPERATOR, WIDTH, Group, TreeBatch

_failed: list[NativeError] = []  # why C could not be compiled, which is not tried again


class TreeEncoder(nn.Module):
    """Encodes whole batches of cells, level by level.

    Operators have learned embeddings, the input x_j of Tai et al.; sources are learned states. Operators whose
    arguments may be swapped sum their children (Child-Sum); the others tell them by place (N-ary).
    """

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.sources = nn.Parameter(torch.randn(len(SOURCES), 2 * hidden, generator=generator))  # h and c of each
        self.operators = nn.Parameter(torch.randn(len(OPERATORS), hidden, generator=generator))
        self.unordered_input = _matrix(hidden, 4 * hidden, generator)  # W of i, o, u, f
        self.ordered_input = _matrix(hidden, 4 * hidden, generator)
        self.unordered_bias = nn.Parameter(torch.zeros(4 * hidden))
        self.ordered_bias = nn.Parameter(torch.zeros(4 * hidden))
        self.of_child = _matrix(hidden, 4 * hidden, generator)  # U of i, o, u, f
        # One matrix holds U_l of i, o, u and U_kl of f: every gate looks at the children of all places.
        self.of_children = _matrix(WIDTH * hidden, (3 + WIDTH) * hidden, generator)

    def forward(self, batch: TreeBatch) -> Tensor:
        """The encodings h of the batch's roots, (cells, hidden)."""
        # W x + b is worked out once per operator, not once per node.
        unordered = self.operators @ self.unordered_input + self.unordered_bias  # (operators, 4 hidden)
        ordered = self.operators @ self.ordered_input + self.ordered_bias  # (operators, 4 hidden)
        missing = self.sources.new_zeros(FIRST_OPERATOR - len(SOURCES), 2 * self.hidden)
        leaves = torch.cat([missing, self.sources])  # (FIRST_OPERATOR, 2 hidden)
        tensors = (leaves, unordered, ordered, self.of_child, self.of_children)
        if leaves.dtype == torch.float32 and native.readable(*tensors) and _compiles():
            encoded: Tensor = _Encode.apply(batch, *tensors)  # type: ignore[no-untyped-call]
            return encoded
        return encode(batch, *tensors)


def encode(
    batch: TreeBatch, leaves: Tensor, unordered: Tensor, ordered: Tensor, of_child: Tensor, of_children: Tensor
) -> Tensor:
    """The encodings (cells, hidden), by torch alone.

    Args:
        leaves: (FIRST_OPERATOR, 2 hidden) h and c of the slots that no operator computes.
        unordered, ordered: (operators, 4 hidden) W x + b of each operator, for the gates i, o, u, f.
        of_child, of_children: (hidden, 4 hidden) and (WIDTH hidden, (3 + WIDTH) hidden), the matrices U.
    """
    states, hidden = leaves, len(of_child)  # (slots so far, 2 hidden), so that one gather fetches h and c
    for group in batch.groups:
        children = states.index_select(0, group.children.flatten()).unflatten(0, group.children.shape)
        h, c = children.chunk(2, dim=-1)  # (n, children, hidden) each
        by = _by_place(group, ordered, h, of_children) if group.ordered else _by_sum(group, unordered, h, of_child)
        i, o, u, forget = by  # (n, hidden) each; forget (n, children, hidden): one gate per child
        c_new = torch.sigmoid(i) * torch.tanh(u) + (torch.sigmoid(forget) * c).sum(1)
        states = torch.cat([states, torch.cat([torch.sigmoid(o) * torch.tanh(c_new), c_new], dim=1)])
    return states.index_select(0, batch.roots)[:, :hidden]


def _by_sum(group: Group, unordered: Tensor, h: Tensor, of_child: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums in the gates i, o, u, f of nodes whose arguments may be swapped (Tai, eq. 3-6)."""
    i, o, u, f = unordered.index_select(0, group.operators).chunk(4, dim=1)  # (n, hidden) each
    of_i, of_o, of_u, of_f = of_child.chunk(4, dim=1)  # (hidden, hidden) each
    total = h.sum(1)  # (n, hidden)
    return i + total @ of_i, o + total @ of_o, u + total @ of_u, f.unsqueeze(1) + h @ of_f


def _by_place(group: Group, ordered: Tensor, h: Tensor, of_children: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums in the gates i, o, u, f of nodes whose order matters (Tai, eq. 9-12)."""
    i, o, u, f = ordered.index_select(0, group.operators).chunk(4, dim=1)  # (n, hidden) each
    of_i, of_o, of_u, *of_f = (h.flatten(1) @ of_children).chunk(3 + WIDTH, dim=1)
    return i + of_i, o + of_o, u + of_u, f.unsqueeze(1) + torch.stack(of_f, dim=1)


class _Encode(torch.autograd.Function):
    """`encode` in compiled C, forward and back. In between weights must stay as they are: autograd does not watch."""

    @staticmethod
    def forward(ctx: Any, batch: TreeBatch, *tensors: Tensor) -> Tensor:
        leaves, *weights = (tensor.detach().contiguous() for tensor in tensors)
        hidden, keeps = len(weights[2]), any(ctx.needs_input_grad)
        sizes, ordered = batch.sizes, batch.sizes * batch.ordered
        nodes, most = len(batch.operators), int(sizes.max()) if len(sizes) else 0
        rows, readers = (nodes, int(ordered.sum())) if keeps else (most, most)
        made = [
            leaves.new_empty(count, width * hidden)
            for count, width in (
                *((FIRST_OPERATOR + nodes, width) for width in (1, 1, 4)),  # h, c, share
                (rows, 3 + WIDTH), (rows, 1), (readers, WIDTH),  # gates, tanh(c), what the ordered read
            )
        ]  # fmt: skip
        h, c = made[:2]
        h[:FIRST_OPERATOR], c[:FIRST_OPERATOR] = leaves.chunk(2, dim=1)
        _call("encode", batch, keeps, [*weights, *made])
        ctx.batch, ctx.known = batch, [*weights, *made] if keeps else []
        return h.index_select(0, batch.roots)

    @staticmethod
    def backward(ctx: Any, of_roots: Tensor) -> tuple[Tensor | None, ...]:
        native.refuse_second_derivative("the ranking function", "tree_lstm.encode")
        unordered, ordered, _, of_children, h, c, share, *_, read = ctx.known
        d_h, d_c, d_share, d_unordered, d_ordered = map(torch.zeros_like, (h, c, share, unordered, ordered))
        d_gates = h.new_empty(len(read), of_children.shape[1])
        d_h.index_add_(0, ctx.batch.roots, of_roots)
        _call("encode_back", ctx.batch, True, [*ctx.known, d_h, d_c, d_share, d_gates, d_unordered, d_ordered])
        d_leaves = torch.cat([d_h[:FIRST_OPERATOR], d_c[:FIRST_OPERATOR]], dim=1)
        of_ordered = (d_ordered, read.T @ d_gates) if len(read) else (None, None)  # nothing, where there are none
        return None, d_leaves, d_unordered, of_ordered[0], h.T @ d_share, of_ordered[1]


class _Call(ctypes.Structure):  # in the order of tree_lstm.c
    _fields_ = (
        *((name, ctypes.c_long) for name in ("groups", "leaves", "hidden", "keeps")),
        *((name, ctypes.c_void_p) for name in ("ordered", "sizes", "operators", "children")),
        *((name, ctypes.c_void_p) for name in ("unordered_input", "ordered_input", "of_child", "of_children")),
        *((name, ctypes.c_void_p) for name in ("h", "c", "share", "gates", "squashed", "read")),
        *((name, ctypes.c_void_p) for name in ("d_h", "d_c", "d_share", "d_gates", "d_unordered", "d_ordered")),
        ("scratch", ctypes.c_void_p),
    )


def _call(name: str, batch: TreeBatch, keeps: bool, tensors: list[Tensor]) -> None:
    schedule = (batch.ordered, batch.sizes, batch.operators, batch.children)
    addresses = [tensor.data_ptr() for tensor in (*schedule, *tensors)]
    call = _Call(len(batch.sizes), FIRST_OPERATOR, len(tensors[2]), keeps, *addresses)
    library = _library()
    with scratch(library.scratch_floats(ctypes.byref(call))) as call.scratch:
        getattr(library, name)(ctypes.byref(call))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = load_products('#include "tree_lstm.c"\n', bfloat16=False)
    library.scratch_floats.restype = ctypes.c_long
    return library


def _compiles() -> bool:
    if not _failed:
        try:
            _library()
        except NativeError as error:
            _failed.append(error)
            warning = f"the ranking function runs without compiled code, slower: {error}"
            warnings.warn(warning, RuntimeWarning, stacklevel=3)
    return not _failed


def _matrix(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    bound = rows**-0.5
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator))
