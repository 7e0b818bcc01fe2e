"""What a recurrent layer carries from one piece of a sequence to the next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Stack = Tensor | tuple[Tensor, ...]
"""One (layers, B, size) tensor where all layers are of one size, else a tuple of (B, size) tensors."""


@dataclass(frozen=True)
class State:
    """Everything a stack of layers looks back at; fields that the cell does not read are None.

    Unpacks to the parts that torch's layers give, and the others behind them: `out, (h, c) = rnn(x)` works for an
    LSTM, `out, (h,) = rnn(x)` for a GRU. The timestep is not among them.
    """

    h: Stack
    """The last outputs."""
    c: Stack | None = None
    """The long-term memories."""
    x: Stack | None = None
    """The last inputs of every layer."""
    t: int = 0
    """How many steps were taken so far: where the positional encoding goes on."""

    def __iter__(self) -> Iterator[Stack]:
        return (part for part in (self.h, self.c, self.x) if part is not None)

    def detach(self) -> "State":
        """The same state, cut off from the graph that computed it: for truncated backpropagation through time."""
        parts = (None if part is None else _each(part, Tensor.detach) for part in (self.h, self.c, self.x))
        h, c, x = parts
        assert h is not None
        return State(h, c, x, self.t)


def join(parts: Sequence[Tensor]) -> Stack:
    """Per-layer tensors (B, size) -> (layers, B, size), or a tuple where the sizes differ."""
    if len(parts) == 1:
        return parts[0][None]
    same = all(part.shape == parts[0].shape for part in parts)
    return torch.stack(tuple(parts)) if same else tuple(parts)


def layers(stack: Stack) -> tuple[Tensor, ...]:
    """The per-layer tensors (B, size) of a stack."""
    return tuple(stack.unbind(0)) if isinstance(stack, Tensor) else stack


def _each(stack: Stack, function: object) -> Stack:
    assert callable(function)
    return function(stack) if isinstance(stack, Tensor) else tuple(function(part) for part in stack)
