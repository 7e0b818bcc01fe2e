"""What a recurrent layer carries from one piece of a sequence to the next."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import _pytree as fx_pytree
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

    def __new__(
        cls,
        h: Stack | Sequence[Tensor],
        c: Stack | Sequence[Tensor] | None = None,
        x: Stack | Sequence[Tensor] | None = None,
        t: int | None = None,
    ) -> "State":
        """The state of these parts after `t` steps, 0 where it is not given.

        What is given alone and is no tensor holds all parts, and comes back as a plain tuple of them; so where h alone
        is a tuple, of layers of different sizes, give `t` too.
        """
        # As any tuple, torch builds a state anew by type(state)(parts): torch.fx from what it traced, DataParallel from
        # what it gathered. The parts have lost their names then, and are the plain tuple that torch's layers give.
        if c is None and x is None and t is None and isinstance(h, (list, tuple, Iterator)):
            return cast("State", tuple(h))
        parts = [tuple(part) if isinstance(part, (list, Iterator)) else part for part in (h, c, x)]
        state = super().__new__(cls, [cast("Stack", part) for part in parts if part is not None])
        for name, value in zip((*_PARTS, "t"), (*parts, t or 0), strict=True):
            object.__setattr__(state, name, value)
        return state

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a State is immutable: cannot set {name}; build another, State(h, c, x, t)")

    def __getnewargs__(self) -> tuple[Stack, Stack | None, Stack | None, int]:
        return self.h, self.c, self.x, self.t

    def __repr__(self) -> str:
        return f"State(h={self.h!r}, c={self.c!r}, x={self.x!r}, t={self.t})"

    def replace(self, **parts: Any) -> "State":
        """The same state but for the parts that are named: state.replace(t=0)."""
        return State(**{"h": self.h, "c": self.c, "x": self.x, "t": self.t, **parts})

    __replace__ = replace  # for Python's copy.replace

    def detach(self) -> "State":
        """The same state, cut off from the graph that computed it: for truncated backpropagation through time."""
        h, c, x = (None if part is None else _each(part, Tensor.detach) for part in (self.h, self.c, self.x))
        assert h is not None
        return State(h, c, x, self.t)


def _flatten(state: State) -> tuple[list[Any], tuple[list[str], int]]:
    names = [name for name in _PARTS if getattr(state, name) is not None]
    return [getattr(state, name) for name in names], (names, state.t)


def _flatten_with_keys(state: State) -> tuple[list[tuple[Any, Any]], tuple[list[str], int]]:
    parts, (names, t) = _flatten(state)
    return [(pytree.GetAttrKey(name), part) for name, part in zip(names, parts, strict=True)], (names, t)


def _unflatten(parts: Iterable[Any], context: tuple[list[str], int]) -> State:
    names, t = context
    return State(**dict(zip(names, parts, strict=True)), t=t)


# So that functions which take or return a state can be exported and transformed: torch looks for the tensors in it.
pytree.register_pytree_node(
    State, _flatten, _unflatten, serialized_type_name="nasrepro.rnn.State", flatten_with_keys_fn=_flatten_with_keys
)
fx_pytree.register_pytree_flatten_spec(State, lambda state, _: _flatten(state)[0])  # torch 2.3 asks for it beside that

# So that torch.load reads a state without weights_only=False; torch 2.3 has no such list, there save tuple(state).
if hasattr(torch.serialization, "add_safe_globals"):
    torch.serialization.add_safe_globals([State])


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
