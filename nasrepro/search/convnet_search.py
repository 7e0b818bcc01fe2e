"""ZL17's search for convolutional networks, and random search in the same space: settings of `token_search` (4.1)."""

import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import torch

from nasrepro.controllers import PolicyGradientSettings, TokenAgentSettings, Tokens
from nasrepro.controllers.anchor_agent import AnchorAgent
from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.convnet import ConvNet
from nasrepro.search.plan import Keep, Propose, make_anew
from nasrepro.search.token_search import proposer
from nasrepro.trainers.settings import origin, require_counts, use_declared_types


def _reinforce() -> PolicyGradientSettings:
    """The controller's steps for convolutional networks: a batch of 8 and a rate of 6e-4 (section 4.1)."""
    return PolicyGradientSettings(learning_rate=6e-4, batch=8, accumulate=1)


@dataclass(frozen=True)
class ConvNetSearchSettings:
    """How a search for a convolutional network by ZL17's controller goes. Each setting of ZL17's carries its origin.

    Raises ValueError for numbers that make no search.
    """

    method: Literal["controller", "random"] = field(
        default="controller", metadata=origin("stated", "4.1", "random search: our control", paper="ZL17")
    )
    """Train what the controller draws, or strings whose tokens are drawn uniformly."""
    networks: int = field(default=12_800, metadata=origin("stated", "4.1", paper="ZL17"))
    """Networks to train. Raising it later continues the same search."""
    first_depth: int = field(default=6, metadata=origin("stated", "4.1", paper="ZL17"))
    """Layers of the first networks."""
    deeper_by: int = field(default=2, metadata=origin("stated", "4.1", paper="ZL17"))
    """How many layers more later networks have, each time."""
    deeper_every: int = field(default=1600, metadata=origin("stated", "4.1", paper="ZL17"))
    """After how many samples."""
    power: float = field(default=3.0, metadata=origin("stated", "4.1", paper="ZL17"))
    """The reward is the accuracy, a share, to this power."""
    patience: int = 50
    """A search ends after so many steps in a row that drew no new network. Ours."""
    seed: int = 0
    """Of the controller's first weights, and everything drawn."""
    child_seed: int = field(default=0, metadata=origin("inferred", "4.1", paper="ZL17"))
    """Of every training. One seed per network: ZL17 mentions no repetition."""
    space: ConvSpace = field(default_factory=ConvSpace)
    """The networks to choose from."""
    agent: TokenAgentSettings = field(default_factory=TokenAgentSettings)
    """The controller."""
    reinforce: PolicyGradientSettings = field(default_factory=_reinforce)
    """How it learns from rewards."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        if self.method not in ("controller", "random"):
            raise ValueError(f"method is 'controller' or 'random', got {self.method!r:.100}")
        require_counts(self, "networks", "patience", "first_depth", "deeper_every")
        if self.deeper_by < 0 or self.power <= 0:
            raise ValueError(f"deeper_by={self.deeper_by} must not be negative, power={self.power} must be positive")

    @property
    def step(self) -> int:
        """Token strings drawn in a step of the search: the children of one step of the controller."""
        return self.reinforce.batch * self.reinforce.accumulate

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one: everything but when to end. Random search has no controller to name."""
        unused = ["networks", "patience"]
        if self.method == "random":
            unused += ["agent", "reinforce", "power"]
        whole = {**asdict(self), "space": self.space.identity()}
        chosen = {name: value for name, value in whole.items() if name not in unused}
        return chosen if self.method == "controller" else {**chosen, "step": self.step}

    @property
    def budget(self) -> int:
        """Networks to train."""
        return self.networks

    def until(self, budget: int) -> Self:
        """The same search, ending after so many networks."""
        return replace(self, networks=budget)

    def proposer(self, _keep: Keep = make_anew, /) -> Propose[ConvNet]:
        """The controller learns while its search goes on; random search does not."""
        return proposer(self)

    def depth(self, step: int) -> int:
        """Layers of the networks that a step draws, by the schedule."""
        return self.first_depth + self.deeper_by * (step * self.step // self.deeper_every)

    # ---- what `TokenPlan` asks

    def controller(self, seed: int) -> AnchorAgent:
        """ZL17's, with anchor points."""
        return AnchorAgent(self.space, self.agent, seed)

    def draw(self, controller: AnchorAgent, step: int, generator: torch.Generator) -> list[Tokens]:
        """As many strings as a step has, of the depth that is its."""
        return [one.tokens for one in controller.sample(self.step, self.depth(step), generator)]

    def draw_uniformly(self, step: int, rng: random.Random) -> list[Tokens]:
        """As many strings as a step has, of the depth that is its."""
        return [self.space.draw(self.depth(step), rng) for _ in range(self.step)]

    def candidate(self, tokens: Tokens) -> ConvNet:
        """The network that a token string describes."""
        return self.space.network(tokens)

    def reward(self, loss: float) -> float:
        """Of a network whose validation error is `loss` percent."""
        return (1 - loss / 100) ** self.power
