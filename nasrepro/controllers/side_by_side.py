"""Many token controllers that learn side by side, each alone, computed together.

One search says little, and the networks are so small that a processor spends its time on everything but arithmetic. So
compiled C goes over them; torch does otherwise, stacked, where C cannot be compiled, several times slower. Each is what
`TokenAgent` and `Reinforce` would be with its seed: the same weights, the same draws, the same steps.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasrepro.controllers.reinforce import PolicyGradientSettings
from nasrepro.controllers.stacked import Networks, StackedInC, StackedInTorch
from nasrepro.controllers.token_agent import TokenAgent, TokenAgentSettings
from nasrepro.controllers.token_space import FixedSpace
from nasrepro.native import NativeError
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
        compiled: bool = True,
    ) -> None:
        """`compiled`: by compiled C, where it can be had."""
        self.space = space
        self.settings = settings or TokenAgentSettings()
        self.learning = learning or PolicyGradientSettings()
        self.children = self.learning.batch * self.learning.accumulate
        """Token strings of one step of a controller."""
        alone = [TokenAgent(space, self.settings, seed).state_dict() for seed in seeds]
        self._networks = _networks(space, self.settings, self.learning, alone, compiled)
        self.weights = self._networks.weights
        """Those of `TokenAgent` by name, (controllers, ...)."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._advantages = _Advantages(self.learning, len(alone))
        self._is_asked = False

    @torch_threads(1)
    def ask(self) -> Tensor:
        """The token strings that each controller draws next, (controllers, children, tokens).

        What they teach is worked out from the very pass that drew them: the controllers do not change in between.
        """
        shape = len(self.space.places), self.children
        uniform = torch.stack([torch.rand(*shape, generator=each) for each in self._generators])
        self._is_asked = True
        return self._networks.draw(uniform)

    @torch_threads(1)
    def tell(self, rewards: Tensor) -> None:
        """Let each controller make a step by the rewards of its strings, (controllers, children).

        nan where training failed. As in `Reinforce`, the baseline moves on with every batch. Raises ValueError where
        there is not one reward for each string that was asked for, or a reward is infinite.
        """
        strings = (len(self._generators), self.children) if self._is_asked else (0,)
        if rewards.shape != strings:
            raise ValueError(f"rewards {tuple(rewards.shape)} for strings {strings}: ask, then tell one for each")
        if rewards.isinf().any():
            raise ValueError("rewards must be finite, nan where training failed")
        batches = np.split(rewards.double().numpy(), self.learning.accumulate, 1)
        advantages = np.concatenate([self._advantages.of(batch) for batch in batches], 1)
        self._networks.step(torch.from_numpy(advantages).float())
        self._is_asked = False


class _Average:
    """`reinforce.Average` of many."""

    def __init__(self, decay: float, count: int) -> None:
        self.decay = decay
        self.total, self.weight = np.zeros(count), np.zeros(count)

    def add(self, values: NDArray[np.float64], where: NDArray[np.bool_]) -> None:
        self.total = np.where(where, self.decay * self.total + (1 - self.decay) * values, self.total)
        self.weight = np.where(where, self.decay * self.weight + (1 - self.decay), self.weight)

    def value(self, otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(self.weight > 0, self.total / np.where(self.weight > 0, self.weight, 1), otherwise)


class _Advantages:
    """`reinforce.Advantages` of many controllers at once: one by one would take as long as all that is compiled."""

    def __init__(self, settings: PolicyGradientSettings, count: int) -> None:
        self.settings = settings
        self._baseline = _Average(settings.baseline_decay, count)
        self._variance = _Average(settings.baseline_decay, count)

    def of(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """The advantages of a batch of each, (controllers, batch) both; nan where training failed."""
        failed = np.isnan(rewards)
        good = (~failed).sum(1)  # (controllers,)
        mean = np.where(failed, 0.0, rewards).sum(1) / np.maximum(good, 1)
        baseline = self._baseline.value(mean)
        squares = np.where(failed, 0.0, (rewards - baseline[:, None]) ** 2).sum(1) / np.maximum(good, 1)
        self._variance.add(squares, good > 0)
        self._baseline.add(mean, good > 0)
        ahead = np.where(failed, self.settings.failed, rewards) - baseline[:, None]
        if self.settings.scale:
            deviation = np.sqrt(self._variance.value(np.zeros(len(rewards))))
            ahead /= np.where(deviation > 0, deviation, 1.0)[:, None]
        return ahead if math.isinf(self.settings.limit) else ahead.clip(-self.settings.limit, self.settings.limit)


_failed: list[NativeError] = []  # why C could not be compiled, which is not tried again


def _networks(
    space: FixedSpace,
    settings: TokenAgentSettings,
    learning: PolicyGradientSettings,
    alone: list[dict[str, Tensor]],
    compiled: bool,
) -> Networks:
    if compiled and not _failed:
        try:
            return StackedInC(space, settings, learning, alone)
        except NativeError as error:
            _failed.append(error)
            warning = f"controllers side by side run without compiled code, slower: {error}"
            warnings.warn(warning, RuntimeWarning, stacklevel=4)
    return StackedInTorch(space, settings, learning, alone)
