"""Many token controllers that learn side by side, each alone, computed together.

One search says little, and the networks are so small that a processor spends its time on everything but arithmetic. A
hundred of them, stacked, take some ten times as long as one. Each is what `TokenAgent` and `Reinforce` would be with
its seed: the same weights, the same draws, the same steps.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from nasrepro.controllers.reinforce import Advantages, PolicyGradientSettings
from nasrepro.controllers.token_agent import TokenAgent, TokenAgentSettings, draw, entropies
from nasrepro.controllers.token_space import FixedSpace
from nasrepro.threads import torch_threads


class SideBySide:
    """A controller for each seed, to be stepped by `ask` and `tell`. All of their strings have the same places.

    Raises ValueError for a space without choices.
    """

    def __init__(
        self,
        space: FixedSpace,
        seeds: Sequence[int],
        settings: TokenAgentSettings | None = None,
        learning: PolicyGradientSettings | None = None,
    ) -> None:
        self.space = space
        self.settings = settings or TokenAgentSettings()
        self.learning = learning or PolicyGradientSettings()
        self.children = self.learning.batch * self.learning.accumulate
        """Token strings of one step of a controller."""
        alone = [TokenAgent(space, self.settings, seed).state_dict() for seed in seeds]
        self.weights = {name: nn.Parameter(torch.stack([each[name] for each in alone])) for name in alone[0]}
        """Those of `TokenAgent` by name, (controllers, ...)."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._advantages = [Advantages(self.learning) for _ in seeds]
        self._optimiser = torch.optim.Adam(self.weights.values(), lr=self.learning.learning_rate)
        self._log_probs = self._entropies = torch.empty(0)
        self._layers: list[_Layer] = []

    @torch_threads(1)
    def ask(self) -> Tensor:
        """The token strings that each controller draws next, (controllers, children, tokens).

        What they teach is worked out from the very pass that drew them: the controllers do not change in between.
        """
        count, children, places = len(self._generators), self.children, self.space.places
        uniform = torch.stack([torch.rand(len(places), children, generator=each) for each in self._generators])
        self._layers = [
            _Layer([self.weights[f"lstm.{what}_l{layer}"] for what in _OF_A_LAYER], len(places), children)
            for layer in range(self.settings.layers)
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

    @torch_threads(1)
    def tell(self, rewards: Tensor) -> None:
        """Let each controller make a step by the rewards of its strings, (controllers, children).

        nan where training failed. As in `Reinforce`, the baseline moves on with every batch. Raises ValueError where
        there is not one reward for each string that was asked for, or a reward is infinite.
        """
        if rewards.shape != self._log_probs.shape:
            raise ValueError(
                f"rewards {tuple(rewards.shape)} for strings {tuple(self._log_probs.shape)}: "
                "ask, then tell one for each"
            )
        measured = [
            [value for batch in run.split(self.learning.batch) for value in advantages.of(_or_none(batch))[0]]
            for run, advantages in zip(rewards, self._advantages, strict=True)
        ]
        gains = torch.tensor(measured) * self._log_probs + self.learning.entropy * self._entropies
        self._optimiser.zero_grad()
        (-gains.mean(1).sum()).backward()  # each controller's gradient is of its own mean alone
        for layer in self._layers:
            layer.backward()
        self._shorten()
        self._optimiser.step()
        self._log_probs = self._entropies = torch.empty(0)

    def _shorten(self) -> None:
        """Limit the length of each controller's gradient."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]  # (controllers,) each
        share = (self.learning.clip / (reduce(torch.add, squares).sqrt() + 1e-6)).clamp(max=1.0)
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


def _or_none(rewards: Tensor) -> list[float | None]:
    return [None if reward != reward else reward for reward in rewards.tolist()]
