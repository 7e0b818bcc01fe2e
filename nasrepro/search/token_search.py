"""ZL17's search: a controller writes token strings, what they describe is trained, and it learns from the rewards.

Here is the plan of such a search, and of random search in the same space, ZL17's second control (section 4.2);
`loop.search` runs it. ZL17's 400 controllers worked at once, and the shared one made a step whenever ten gradients had
come, some of them from strings that an older one had drawn. Here a step of the search draws the children of one step of
the controller, all of them by the controller as it is, so that a search can be repeated.

As in every search, a step depends on the results of the steps before it and on nothing else: the controller is what the
rewards so far make of it, and a search that goes on works it out again, at some milliseconds a gradient.

>>> from nasrepro.search.plan import ByHand
>>> by_hand = ByHand(TokenSearchSettings(cells=15, seed=1))
>>> len(by_hand.ask())  # cells to train; then by_hand.tell([...]) their perplexities, and ask again
10
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar

import torch

from nasrepro.controllers import (
    BaseB,
    Policy,
    PolicyGradientSettings,
    Reinforce,
    TokenAgent,
    TokenAgentSettings,
    Tokens,
    draw_tokens,
)
from nasrepro.dsl import Cell
from nasrepro.search.archive import dumps
from nasrepro.search.history import Search
from nasrepro.search.plan import Choice, History, Keep, Propose, Step, make_anew
from nasrepro.trainers.outcome import C, Candidate
from nasrepro.trainers.settings import origin, use_declared_types

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TokenSearchSettings:
    """How a search for a recurrent cell by ZL17's controller goes. Each setting of ZL17's carries its origin.

    Raises ValueError for numbers that make no search.
    """

    method: Literal["controller", "random"] = field(
        default="controller",
        metadata=origin("stated", "4.2", "how random search drew: guessed, uniformly", paper="ZL17"),
    )
    """Train what the controller draws, or strings whose tokens are drawn uniformly: ZL17's control."""
    cells: int = field(
        default=15_000, metadata=origin("stated", "4.2", "Figure 6 goes on to 20,800 models", paper="ZL17")
    )
    """Cells to train. Raising it later continues the same search."""
    c: float = field(default=80.0, metadata=origin("stated", "4.2", paper="ZL17"))
    """The reward is c over the square of the validation perplexity."""
    patience: int = 50
    """A search ends after so many steps in a row that drew no new cell: the controller repeats itself. The record
    answers for its cells, and it has learned from their rewards each time. Raising it later continues the same search.
    Ours."""
    seed: int = 0
    """Of the controller's first weights, and everything drawn."""
    child_seed: int = field(default=0, metadata=origin("inferred", "4.2", paper="ZL17"))
    """Of every training. One seed per cell: ZL17 mentions no repetition."""
    space: BaseB = field(default_factory=BaseB)
    """The cells to choose from."""
    agent: TokenAgentSettings = field(default_factory=TokenAgentSettings)
    """The controller."""
    reinforce: PolicyGradientSettings = field(default_factory=PolicyGradientSettings)
    """How it learns from rewards."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        if self.method not in ("controller", "random"):
            raise ValueError(f"method is 'controller' or 'random', got {self.method!r:.100}")
        if min(self.cells, self.patience) < 1 or self.c <= 0:
            raise ValueError(
                f"cells={self.cells} and patience={self.patience} must be 1 or more, c={self.c} must be positive"
            )

    @property
    def step(self) -> int:
        """Token strings drawn in a step of the search: the children of one step of the controller."""
        return self.reinforce.batch * self.reinforce.accumulate

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one: everything but when to end. Random search has no controller to name."""
        unused = ["cells", "patience"]
        if self.method == "random":
            unused += ["agent", "reinforce", "c"]
        chosen = {name: value for name, value in asdict(self).items() if name not in unused}
        return chosen if self.method == "controller" else {**chosen, "step": self.step}

    @property
    def budget(self) -> int:
        """Cells to train."""
        return self.cells

    def until(self, budget: int) -> Self:
        """The same search, ending after so many cells."""
        return replace(self, cells=budget)

    def proposer(self, _keep: Keep = make_anew, /) -> Propose[Cell]:
        """The controller learns while its search goes on; random search does not."""
        return proposer(self)

    # ---- what `TokenPlan` asks

    def controller(self, seed: int) -> TokenAgent:
        """ZL17's, over the space's tokens."""
        return TokenAgent(self.space, self.agent, seed)

    def draw(self, controller: TokenAgent, step: int, generator: torch.Generator) -> list[Tokens]:  # noqa: ARG002
        """As many strings as a step has."""
        return [one.tokens for one in controller.sample(self.step, generator)]

    def draw_uniformly(self, step: int, rng: random.Random) -> list[Tokens]:  # noqa: ARG002
        """As many strings as a step has."""
        return [draw_tokens(self.space, rng) for _ in range(self.step)]

    def candidate(self, tokens: Tokens) -> Cell:
        """The cell that a token string describes."""
        return self.space.cell(tokens)

    def reward(self, loss: float) -> float:
        """ZL17's, of a recurrent cell (section 4.2)."""
        return self.c / loss**2


Described = TypeVar("Described", bound=Candidate, covariant=True)
"""The kind of candidate that token strings describe."""


class TokenPlan(Protocol[Described]):
    """What a search for token strings is told by its settings."""

    @property
    def method(self) -> str:
        """How strings are drawn: "controller" or "random"."""

    @property
    def seed(self) -> int:
        """Of the controller's first weights, and everything drawn."""

    @property
    def reinforce(self) -> PolicyGradientSettings:
        """How the controller learns from rewards."""

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one."""

    def controller(self, seed: int, /) -> Policy:
        """A controller that has learned nothing yet."""

    def draw(self, controller: Any, step: int, generator: torch.Generator, /) -> list[Tokens]:
        """The strings of a step of the search, by the controller."""

    def draw_uniformly(self, step: int, rng: random.Random, /) -> list[Tokens]:
        """The strings of a step of random search."""

    def candidate(self, tokens: Tokens, /) -> Described:
        """What a token string describes."""

    def reward(self, loss: float, /) -> float:
        """What the controller is given for a candidate of that loss."""


class TokenSearch(Generic[C]):
    """The plan of one search by a controller. What it has learned is remembered for longer histories."""

    def __init__(self, plan: TokenPlan[C]) -> None:
        self.plan = plan
        seed = random.Random(f"{plan.seed}/controller").getrandbits(31)  # text seeds are hashed alike everywhere
        self.agent: Any = plan.controller(seed)
        self._reinforce = Reinforce(self.agent, plan.reinforce, plan.reinforce.accumulate)
        self.updates: list[dict[str, float | int]] = []
        """Facts of the step of the controller that each step of the search brought: of its last gradient."""

    def propose(self, history: History[C], step: int) -> Step[C]:
        """Learn from all earlier steps, draw token strings, and choose those candidates that were not tried yet.

        Facts: `strings`, all that were drawn, with the hashes of what they describe, under "cell"; `rejected`, how many
        of them bring nothing to train; and `update`, what `Reinforce.update` told of the step before.
        """
        self.catch_up(history, step)
        generator = torch.Generator().manual_seed(random.Random(f"{self.plan.seed}/{step}").getrandbits(31))
        drawn = self.plan.draw(self.agent, step, generator)
        # What the results of this step will bring is told with the next: only then are they known.
        return _choose(drawn, self.plan, history, {"update": self.updates[-1]} if step else {})

    def catch_up(self, history: "History[C] | Search", step: int) -> None:
        """Learn from all steps before this one that it has not learned from yet."""
        losses, batch = history.losses, self.plan.reinforce.batch
        for facts in [history.steps[earlier] for earlier in range(len(self.updates), step)]:
            strings = [string["tokens"] for string in facts["strings"]]
            found = [losses[string["cell"]] for string in facts["strings"]]
            rewards = [None if loss is None else self.plan.reward(loss) for loss in found]
            for first in range(0, len(strings), batch):
                update = self._reinforce.update(strings[first : first + batch], rewards[first : first + batch])
            self.updates.append(update)


def proposer(plan: TokenPlan[C]) -> Propose[C]:
    """The controller learns while its search goes on; random search does not."""
    return partial(propose_random, plan) if plan.method == "random" else TokenSearch(plan).propose


def propose_random(plan: TokenPlan[C], history: History[C], step: int) -> Step[C]:
    """`TokenSearch.propose` with tokens drawn uniformly, which needs no controller and tells nothing of one."""
    rng = random.Random(f"{plan.seed}/{step}")
    return _choose(plan.draw_uniformly(step, rng), plan, history, {})


def _choose(drawn: Sequence[Tokens], plan: TokenPlan[C], history: History[C], learned: dict[str, Any]) -> Step[C]:
    """The new candidates of token strings. One that was tried is not trained again: its loss is known."""
    strings: list[dict[str, Any]] = []
    new: dict[str, C] = {}
    for tokens in drawn:
        candidate = plan.candidate(tokens)
        strings.append({"tokens": tokens, "cell": candidate.hash})
        if candidate.hash not in history.losses:
            new.setdefault(candidate.hash, candidate)
    rejected = Counter(duplicate=len(drawn) - len(new))
    return Step(
        [Choice(one, plan.method) for one in new.values()], {**learned, "strings": strings, "rejected": rejected}
    )


# ---- what came of a search


def samples(search: Search) -> "pd.DataFrame":
    """One row per token string of a search by a controller, or its random control, in the order of their drawing.

    Columns: step, tokens (text, a space between two), hash of its cell, loss (nan where training failed). A cell that
    is drawn again has a row each time, as in ZL17's count of models. The table ends before the first string whose cell
    is not trained yet.
    """
    import pandas as pd  # here, because a search needs no tables

    losses = search.losses
    drawn = ((step, string) for step, facts in search.steps.items() for string in facts["strings"])
    rows = [
        [step, " ".join(map(str, string["tokens"])), string["cell"], losses[string["cell"]]]
        for step, string in takewhile(lambda pair: pair[1]["cell"] in losses, drawn)
    ]
    return pd.DataFrame(rows, columns=["step", "tokens", "hash", "loss"]).astype({"loss": float})


def updates(search: Search) -> "pd.DataFrame":
    """One row per step of the controller: step and sample, how many steps and strings had been drawn, and its facts.

    The facts are those that `Reinforce.update` returns, of the step's last gradient. Those after the last step of the
    search are written with the next one only; until then `trained_controller` has them.
    """
    import pandas as pd

    rows: list[dict[str, float]] = []
    drawn = 0
    for step, facts in search.steps.items():
        rows += [{"step": step, "sample": drawn, **facts["update"]}] if "update" in facts else []
        drawn += len(facts["strings"])
    return pd.DataFrame(rows)


def trained_controller(search: Search, settings: TokenPlan[C]) -> TokenSearch[C]:
    """The controller after all whole steps of a search in a record: they are made once more.

    Raises ValueError where the search ran under other settings, or without a controller.
    """
    if settings.method != "controller" or dumps(settings.identity()) != dumps(search.settings["search"]):
        raise ValueError(
            f"{search!r} is no search by a controller under these settings, but {search.settings['search']}"
        )
    losses = search.losses
    known = [all(string["cell"] in losses for string in facts["strings"]) for facts in search.steps.values()]
    learner = TokenSearch(settings)
    learner.catch_up(search, [*known, False].index(False))
    return learner
