"""How an agent learns from rewards: REINFORCE through all of its network together (S17 section 3.1, ZL17 section 3.3).

Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning". S17 states
the method, epsilon and which results make a batch, and no more. ZL17 states the formula, and that the baseline is a
moving average.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from nasrepro.settings import origin
from nasrepro.threads import torch_threads

Result = tuple[Any, float | None]
"""What an agent drew and its reward, None where its training failed."""


class Policy(Protocol):
    """What REINFORCE asks of an agent: a torch module that says how likely it was to draw what it drew."""

    def evaluate(self, drawn: Sequence[Any], /) -> tuple[Tensor, Tensor]:
        """Log probability of each, (drawn,), and the policy's entropy in nats, mean over all decisions, ()."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As torch.nn.Module."""

    def state_dict(self) -> dict[str, Any]:
        """As torch.nn.Module."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """As torch.nn.Module."""


Agent = TypeVar("Agent", bound=Policy)


@dataclass(frozen=True)
class ReinforceSettings:
    """How rewards become steps. Raises ValueError for numbers that make no step."""

    learning_rate: float = field(default=1e-3, metadata=origin("guessed", "3.1"))
    """Of Adam, which the paper does not name either."""
    baseline_decay: float = field(default=0.9, metadata=origin("guessed", "3.1"))
    """The baseline is a moving average of rewards, which keeps this share of its past at each update."""
    scale: bool = field(default=True, metadata=origin("guessed", "3.1"))
    """Divide reward minus baseline by its moving standard deviation: rewards lie within a few units of each other, and
    how many depends on the data."""
    limit: float = field(default=3.0, metadata=origin("guessed", "3.1"))
    """Scaled advantages stop at plus and minus this: one hopeless cell would outweigh its whole batch."""
    failed: float = field(default=0.0, metadata=origin("guessed", "C.1"))
    """Reward of a cell whose training failed: that of the worst loss. It does not enter the baseline."""
    entropy: float = field(default=0.0, metadata=origin("guessed", "3.1"))
    """Weight of the policy's entropy in the objective, to keep it from settling early. The paper mentions none."""
    clip: float = field(default=1.0, metadata=origin("guessed", "3.1"))
    """Longest gradient; a longer one is shortened."""

    def __post_init__(self) -> None:
        if not 0 <= self.baseline_decay < 1:
            raise ValueError(f"baseline_decay must be at least 0 and less than 1, got {self.baseline_decay}")
        if self.learning_rate < 0 or self.entropy < 0 or self.limit <= 0 or self.clip <= 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} and entropy={self.entropy} must not be negative, "
                f"limit={self.limit} and clip={self.clip} must be positive"
            )


@dataclass(frozen=True)
class PolicyGradientSettings(ReinforceSettings):
    """How rewards become steps of ZL17's controller: by its formula as it stands, with nothing scaled or cut off."""

    learning_rate: float = field(default=5e-4, metadata=origin("stated", "4.2", paper="ZL17"))
    """Of Adam, for recurrent cells; for convolutional networks it is 6e-4 (section 4.1)."""
    baseline_decay: float = field(default=0.9, metadata=origin("guessed", "3.3", paper="ZL17"))
    """The baseline is an exponential moving average of rewards, which keeps this share of its past with each batch."""
    scale: bool = field(default=False, metadata=origin("inferred", "3.3", paper="ZL17"))
    """The formula has the reward minus the baseline, divided by nothing."""
    limit: float = field(default=math.inf, metadata=origin("inferred", "3.3", paper="ZL17"))
    """The formula cuts nothing off."""
    failed: float = field(default=0.0, metadata=origin("inferred", "4.2", paper="ZL17"))
    """Reward of a child whose training failed: that of an infinite perplexity."""
    entropy: float = field(default=0.0, metadata=origin("inferred", "3.3", paper="ZL17"))
    """The paper mentions no bonus for the policy's entropy."""
    clip: float = field(default=math.inf, metadata=origin("inferred", "4.1", paper="ZL17"))
    """The paper mentions no limit for the gradient."""
    batch: int = field(default=1, metadata=origin("stated", "4.2", paper="ZL17"))
    """Children of which one gradient is the mean: the paper's m, 8 for convolutional networks (section 4.1)."""
    accumulate: int = field(
        default=10, metadata=origin("stated", "4.2", "whether their sum or mean: guessed, the mean", paper="ZL17")
    )
    """Gradients that make one step of the optimiser; 1 for convolutional networks (section 4.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch, self.accumulate) < 1:
            raise ValueError(f"batch={self.batch} and accumulate={self.accumulate} must be 1 or more")


@dataclass
class Average:
    """A moving average without the pull towards zero of its beginning (as Adam corrects its moments)."""

    decay: float
    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)

    def value(self, otherwise: float) -> float:
        """The average, or `otherwise` while there is none."""
        return self.total / self.weight if self.weight else otherwise


class Advantages:
    """How much better than the baseline each reward is: what REINFORCE weighs log probabilities by."""

    def __init__(self, settings: ReinforceSettings) -> None:
        self.settings = settings
        self._baseline = Average(settings.baseline_decay)
        self._variance = Average(settings.baseline_decay)

    def of(self, rewards: Sequence[float | None]) -> tuple[list[float], dict[str, float]]:
        """The advantages of a batch, whose rewards then enter the averages; None where training failed.

        The baseline is the average before this batch, so that no draw is measured against its own reward; the first
        batch has none but its own mean.

        Returns also what they were measured by: baseline, scale; and reward, the batch's mean, failures among it.
        Raises ValueError where a reward is not finite.
        """
        given = [self.settings.failed if reward is None else reward for reward in rewards]
        if not all(map(math.isfinite, given)):
            raise ValueError(f"rewards must be finite, None where training failed; got {list(rewards)}")
        baseline, scale = self._measure([reward for reward in rewards if reward is not None])
        limit = self.settings.limit
        advantages = [min(max((reward - baseline) / scale, -limit), limit) for reward in given]
        return advantages, {"baseline": baseline, "scale": scale, "reward": sum(given) / len(given)}

    def _measure(self, rewards: list[float]) -> tuple[float, float]:
        """Baseline and scale for these rewards, which then enter both averages."""
        if not rewards:
            return self._baseline.value(0.0), self._scale()
        mean = sum(rewards) / len(rewards)
        baseline = self._baseline.value(mean)
        # Here the batch counts at once: unlike the mean, the scale of a first reward far off tells how far it is.
        self._variance.add(sum((reward - baseline) ** 2 for reward in rewards) / len(rewards))
        self._baseline.add(mean)
        return baseline, self._scale()

    def _scale(self) -> float:
        return math.sqrt(self._variance.value(0.0)) or 1.0 if self.settings.scale else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Both averages."""
        return {"baseline": asdict(self._baseline), "variance": asdict(self._variance)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._baseline = Average(**state["baseline"])
        self._variance = Average(**state["variance"])


class Reinforce(Generic[Agent]):
    """Optimiser and baseline around an agent.

    The optimiser makes a step for each batch, or with `accumulate` one for so many, by the mean of their gradients.
    Raises ValueError where that is less than one.
    """

    def __init__(self, agent: Agent, settings: ReinforceSettings | None = None, accumulate: int = 1) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate} must be 1 or more: a step takes one gradient at least")
        self.agent = agent
        self.settings = settings or ReinforceSettings()
        self.accumulate = accumulate
        self.updates = 0
        self._optimiser = torch.optim.Adam(agent.parameters(), lr=self.settings.learning_rate)
        self._advantages = Advantages(self.settings)

    @torch_threads(1)
    def update(self, drawn: Sequence[Any], rewards: Sequence[float | None]) -> dict[str, float | int]:
        """Learn from one batch, to make what was rewarded above the baseline more likely, and the rest less.

        `rewards` are None where training failed. What epsilon drew is learned from like all else, without weighing that
        the policy would have drawn it more seldom (guessed).

        Returns what happened: updates, batches so far; loss; baseline and scale (see `Advantages.of`); reward and
        advantage, means over the batch; grad_norm, of all that was accumulated since the last step, before it was
        shortened; entropy, nats per decision; log_prob, mean per draw before the step.

        Raises ValueError where draws and rewards differ in number, are none, or a reward is not finite.
        """
        if len(drawn) != len(rewards) or not drawn:
            raise ValueError(f"{len(drawn)} draws, but {len(rewards)} rewards; an update takes one or more of both")
        by_draw, measured = self._advantages.of(rewards)
        advantages = torch.tensor(by_draw)  # (drawn,)

        log_probs, entropy = self.agent.evaluate(drawn)  # (drawn,), ()
        loss = policy_loss(log_probs, advantages) - self.settings.entropy * entropy
        if self.updates % self.accumulate == 0:
            self._optimiser.zero_grad()
        (loss / self.accumulate).backward()
        self.updates += 1
        is_step = self.updates % self.accumulate == 0
        norm = torch.nn.utils.clip_grad_norm_(self.agent.parameters(), self.settings.clip if is_step else math.inf)
        if is_step:
            self._optimiser.step()
        return {
            "updates": self.updates,
            "loss": loss.item(),
            **measured,
            "advantage": advantages.mean().item(),
            "grad_norm": norm.item(),
            "entropy": entropy.item(),
            "log_prob": log_probs.mean().item(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that another `Reinforce` needs to go on identically, the agent's weights included."""
        return {
            "agent": self.agent.state_dict(),
            "gradients": [parameter.grad for parameter in self.agent.parameters()],
            "optimiser": self._optimiser.state_dict(),
            **self._advantages.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.agent.load_state_dict(state["agent"])
        for parameter, gradient in zip(self.agent.parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        self._optimiser.load_state_dict(state["optimiser"])
        self._advantages.load_state_dict(state)
        self.updates = state["updates"]


def policy_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-mean(advantage * log probability), to be made small: (drawn,), (drawn,) -> (). Its gradient is REINFORCE's."""
    return -(advantages * log_probs).mean()


def ready_batches(results: Sequence[Result], size: int = 4, good: int = 3) -> tuple[list[list[Result]], list[Result]]:
    """Batches that can be learned from now, in order of arrival, and the results that wait for more.

    S17 states batches of at least four results, at least three of them good and at most one failed. Ours are as small
    as that allows: four good ones, or three and a failure (guessed). A second failure, while the batch still waits, is
    never learned from; if such were kept, a run of failures would be learned from long after it ended (guessed).

    What waits can be handed in again before later results: the batches are the same as if all had come at once.
    """
    batches: list[list[Result]] = []
    waiting: list[Result] = []
    for result in results:
        failures = sum(reward is None for _, reward in waiting)
        if result[1] is None and failures == size - good:
            continue
        waiting.append(result)
        if len(waiting) == size:
            batches.append(waiting)
            waiting = []
    return batches, waiting
