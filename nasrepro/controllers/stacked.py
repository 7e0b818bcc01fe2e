"""The networks of many token controllers: drawing strings, and a step of each by what they earned.

Both kinds do the same, one by compiled C, the other by torch alone. A controller's objective is the mean over its
strings of advantage times log probability, plus the entropy's weight times the mean entropy of the string's places. A
step follows its gradient, shortened as `Reinforce` does, by Adam.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Protocol

import torch
from torch import Tensor, nn

from nasrepro.controllers.reinforce import PolicyGradientSettings
from nasrepro.controllers.token_agent import TokenAgentSettings, draw, entropies
from nasrepro.controllers.token_space import FixedSpace
from nasrepro.native.gemm import load_products
from nasrepro.native.scratch import scratch


class Networks(Protocol):
    """The networks of some controllers."""

    weights: dict[str, Tensor]
    """Those of `TokenAgent` by name, (controllers, ...)."""

    def draw(self, uniform: Tensor, /) -> Tensor:
        """What numbers in [0, 1) draw: (controllers, places, children) -> (controllers, children, places)."""

    def step(self, advantages: Tensor, /) -> None:
        """Make a step by the advantages of the strings that were drawn last, (controllers, children)."""


# ---- by compiled C


class StackedInC:
    """Controllers in compiled C, for float32 on the CPU. Raises NativeError where it cannot be compiled."""

    def __init__(
        self,
        space: FixedSpace,
        settings: TokenAgentSettings,
        learning: PolicyGradientSettings,
        alone: Sequence[dict[str, Tensor]],
    ) -> None:
        """`alone`: the weights that each `TokenAgent` begins with."""
        self._library = _library()
        self._learning, self._steps = learning, 0
        flat = torch.stack([torch.cat([part.flatten() for part in each.values()]) for each in alone])
        parts = flat.split([part.numel() for part in alone[0].values()], 1)
        self.weights = {
            name: part.unflatten(1, like.shape) for part, (name, like) in zip(parts, alone[0].items(), strict=True)
        }
        words = torch.tensor([len(place.words) for place in space.places])
        controllers, children, places = len(alone), learning.batch * learning.accumulate, len(space.places)
        self._tokens = torch.empty(controllers, children, places, dtype=torch.int64)
        call = _Call(controllers, children, places, settings.layers, settings.units, flat.shape[1], words.data_ptr())
        numbers, floats = self._library.tree_numbers(ctypes.byref(call)), self._library.state_floats(ctypes.byref(call))
        self._memory = {
            "words": words,
            "weights": flat,
            "means": torch.zeros_like(flat),
            "squares": torch.zeros_like(flat),
            "tokens": self._tokens,
            "trees": torch.empty(controllers, numbers, dtype=torch.int64),
            "states": torch.empty(controllers, floats),
        }
        for name, tensor in self._memory.items():
            setattr(call, name, tensor.data_ptr())
        call.entropy, call.longest, call.decays, call.tiny = learning.entropy, learning.clip, _DECAYS, _TINY
        self._call = call

    def draw(self, uniform: Tensor) -> Tensor:
        """See `Networks`."""
        uniform = uniform.contiguous()
        self._call.uniform = uniform.data_ptr()
        self._run("ask")
        return self._tokens.clone()

    def step(self, advantages: Tensor) -> None:
        """See `Networks`."""
        advantages = advantages.contiguous()
        self._steps += 1
        mean, square = (1 - decay**self._steps for decay in _DECAYS)  # Adam's corrections
        self._call.advantages = advantages.data_ptr()
        self._call.rate, self._call.unbiased = self._learning.learning_rate / mean, square**-0.5
        self._run("tell")

    def _run(self, name: str) -> None:
        with scratch(self._library.scratch_floats(ctypes.byref(self._call))) as self._call.scratch:
            getattr(self._library, name)(ctypes.byref(self._call))


_DECAYS, _TINY = (0.9, 0.999), 1e-8  # of Adam, as torch has them


class _Call(ctypes.Structure):  # in the order of controllers.c
    _fields_ = (
        *((name, ctypes.c_long) for name in ("controllers", "children", "places", "layers", "units", "parameters")),
        *((name, ctypes.c_void_p) for name in ("words", "weights", "means", "squares", "uniform", "tokens")),
        *((name, ctypes.c_void_p) for name in ("trees", "states", "advantages")),
        *((name, ctypes.c_float) for name in ("entropy", "longest", "rate", "unbiased")),
        ("decays", ctypes.c_float * 2),
        ("tiny", ctypes.c_float),
        ("scratch", ctypes.c_void_p),
    )


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = load_products('#include "controllers.c"\n', bfloat16=False)
    for name in ("tree_numbers", "state_floats", "scratch_floats"):
        getattr(library, name).restype = ctypes.c_long
    return library


# ---- by torch


class StackedInTorch:
    """Controllers by torch alone: products of stacked matrices."""

    def __init__(
        self,
        space: FixedSpace,
        settings: TokenAgentSettings,
        learning: PolicyGradientSettings,
        alone: Sequence[dict[str, Tensor]],
    ) -> None:
        """`alone`: the weights that each `TokenAgent` begins with."""
        self._space, self._settings, self._learning = space, settings, learning
        self.weights: dict[str, Tensor] = {
            name: nn.Parameter(torch.stack([each[name] for each in alone])) for name in alone[0]
        }
        self._optimiser = torch.optim.Adam(self.weights.values(), lr=learning.learning_rate)
        self._log_probs = self._entropies = torch.empty(0)
        self._layers: list[_Layer] = []

    def draw(self, uniform: Tensor) -> Tensor:
        """See `Networks`."""
        count, _, children = uniform.shape
        places = self._space.places
        self._layers = [
            _Layer([self.weights[f"lstm.{what}_l{layer}"] for what in _OF_A_LAYER], len(places), children)
            for layer in range(self._settings.layers)
        ]
        embedding = self.weights["embedding.weight"]  # (controllers, rows + 1, units)
        first_row, start = 0, embedding.shape[1] - 1
        rows = torch.full((count, children), start)
        tokens, picked, entropy = [], [], []
        for place, numbers in zip(places, uniform.unbind(1), strict=True):
            value = _rows_of(embedding, rows)  # (controllers, children, units)
            for layer in self._layers:
                value = layer.step(value)
            own = slice(first_row, first_row + len(place.words))
            out, bias = self.weights["out.weight"][:, own], self.weights["out.bias"][:, None, own]
            policy = torch.log_softmax(torch.baddbmm(bias, value, out.mT), -1)  # (controllers, children, words)
            tokens.append(draw(policy, numbers[..., None]))
            picked.append(policy.gather(2, tokens[-1][..., None])[..., 0])
            entropy.append(entropies(policy))
            rows = first_row + tokens[-1]
            first_row += len(place.words)
        self._log_probs, self._entropies = torch.stack(picked).sum(0), torch.stack(entropy).mean(0)
        return torch.stack(tokens, -1)

    def step(self, advantages: Tensor) -> None:
        """See `Networks`."""
        gains = advantages * self._log_probs + self._learning.entropy * self._entropies
        self._optimiser.zero_grad()
        (-gains.mean(1).sum()).backward()  # each controller's gradient is of its own mean alone
        for layer in self._layers:
            layer.backward()
        self._shorten()
        self._optimiser.step()

    def _shorten(self) -> None:
        """Limit the length of each controller's gradient."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]  # (controllers,) each
        share = (self._learning.clip / (reduce(torch.add, squares).sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(share.view(-1, *[1] * (gradient.dim() - 1)))


_OF_A_LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Layer:
    """A layer of every controller's LSTM while it runs over one batch of strings.

    Gradients of its weights are not summed step by step, which would cost more than all else: the steps' inputs and the
    gradients of their gates are kept, and multiplied once.
    """

    def __init__(self, weights: Sequence[Tensor], steps: int, children: int) -> None:
        self._weights = weights
        from_input, from_state, input_bias, state_bias = weights
        with torch.no_grad():
            self._matrix = torch.cat([from_input, from_state], 2).mT  # (controllers, 2 units, 4 units)
            bias = (input_bias + state_bias)[:, None].expand(-1, children, -1)  # (controllers, children, 4 units)
            self._biases = [bias.clone().requires_grad_() for _ in range(steps)]
        self._inputs: list[Tensor] = []
        self._hidden = self._memory = torch.zeros(len(from_input), children, from_state.shape[2])

    def step(self, value: Tensor) -> Tensor:
        """The next value of the layer: (controllers, children, units) both. Its gates are in torch's order."""
        inputs = torch.cat([value, self._hidden], -1)
        gates = torch.baddbmm(self._biases[len(self._inputs)], inputs, self._matrix)
        self._inputs.append(inputs.detach())
        take, keep, new, give = gates.chunk(4, -1)
        self._memory = keep.sigmoid() * self._memory + take.sigmoid() * new.tanh()
        self._hidden = give.sigmoid() * self._memory.tanh()
        return self._hidden

    def backward(self) -> None:
        """Give the weights their gradients, once those of the steps are known."""
        gates = torch.cat([bias.grad for bias in self._biases if bias.grad is not None], 1)
        both = gates.mT @ torch.cat(self._inputs, 1)  # (controllers, 4 units, 2 units)
        from_input, from_state, input_bias, state_bias = self._weights
        from_input.grad, from_state.grad = both.split(from_state.shape[2], 2)
        input_bias.grad, state_bias.grad = gates.sum(1), gates.sum(1)


def _rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Each controller's rows of its own table: (controllers, n, units), (controllers, children) -> (..., units)."""
    begins = table.shape[1] * torch.arange(len(table))[:, None]
    return nn.functional.embedding(begins + rows, table.flatten(0, 1))
