"""What a recurrent layer carries from one piece of a sequence to the next."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Stack = Tensor | tuple[Tensor, ...]
"""One (layers, B, size) tensor where all layers are of one size, else a tuple of (B, size) tensors."""

_PARTS = ("h", "c", "x")


class State(tuple[Stack, ...]):
    """Everything a stack of layers looks back at, as the tuple of its parts: h, and c and x where the cell reads them.

    These are the parts that torch's layers give, and the others behind them: `out, (h, c) = rnn(x)` works for an LSTM,
    `out, (h,) = rnn(x)` for a GRU, and `state[0]` is h. By name, parts that the cell does not read are None. The
    timestep is not among the parts: tuple(state) begins its positional encoding anew.
    """

    h: Stack
    """The last outputs."""
    c: Stack | None
    """The long-term memories."""
    x: Stack | None
    """The last inputs of every layer."""
    t: int
    """How many steps were taken so far: where the positional encoding goes on."""

    def __new__(cls, h: Stack, c: Stack | None = None, x: Stack | None = None, t: int = 0) -> "State":
        """The state of these parts."""
        # As any tuple, torch builds a state anew by type(state)(parts): torch.fx from what it traced, DataParallel from
        # what it gathered. The parts have lost their names then, and are the plain tuple that torch's layers give.
        if isinstance(h, (list, Iterator)):
            return cast("State", tuple(h))
        state = super().__new__(cls, [part for part in (h, c, x) if part is not None])
        write = object.__setattr__
        write(state, "h", h)
        write(state, "c", c)
        write(state, "x", x)
        write(state, "t", t)
        return state

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a State is immutable: cannot set {name}; build another, State(h, c, x, t)")

    def __getnewargs__(self) -> tuple[Stack, Stack | None, Stack | None, int]:
        return self.h, self.c, self.x, self.t

    def __repr__(self) -> str:
        return f"State(h={self.h!r}, c={self.c!r}, x={self.x!r}, t={self.t})"

    def detach(self) -> "State":
        """The same state, cut off from the graph that computed it: for truncated backpropagation through time."""
        h, c, x = (None if part is None else _each(part, Tensor.detach) for part in (self.h, self.c, self.x))
        assert h is not None
        return State(h, c, x, self.t)


def _flatten(state: State) -> tuple[list[Any], tuple[list[str], int]]:
    names = [name for name in _PARTS if getattr(state, name) is not None]
    return [getattr(state, name) for name in names], (names, state.t)


def _unflatten(parts: Iterable[Any], context: tuple[list[str], int]) -> State:
    names, t = context
    return State(**dict(zip(names, parts, strict=True)), t=t)


# So that functions which return a state can be exported and transformed: torch looks for the tensors in it.
pytree.register_pytree_node(State, _flatten, _unflatten, serialized_type_name="nasrepro.rnn.State")


def join(parts: Sequence[Tensor]) -> Stack:
    """Per-layer tensors (B, size) -> (layers, B, size), or a tuple where the sizes differ."""
    if len(parts) == 1:
        return parts[0][None]
    same = all(part.shape == parts[0].shape for part in parts)
    return torch.stack(tuple(parts)) if same else tuple(parts)


def layers(stack: Stack) -> tuple[Tensor, ...]:
    """The per-layer tensors (B, size) of a stack."""
    return tuple(stack.unbind(0)) if isinstance(stack, Tensor) else stack


def _each(stack: Stack, function: Callable[[Tensor], Tensor]) -> Stack:
    return function(stack) if isinstance(stack, Tensor) else tuple(function(part) for part in stack)
