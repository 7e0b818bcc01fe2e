"""What a search is: a pure function from the trials so far to what is tried next.

A plan reads nothing and writes nothing. `loop.search` does both for it; `ByHand` steps it without either:

>>> from nasrepro.search.ranked_search import SearchSettings
>>> by_hand = ByHand(SearchSettings(method="random", cells=5, step=2, sampled=1, candidates=20))
>>> while cells := by_hand.ask():
...     by_hand.tell([float(cell.size) for cell in cells])  # or any other loss; None where training failed
>>> len(by_hand.history.trials), list(by_hand.history.steps)
(5, [0, 1, 2])
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol

from nasrepro.search.archive import dumps
from nasrepro.trainers.outcome import C


@dataclass(frozen=True)
class Trial(Generic[C]):
    """A candidate that was tried."""

    candidate: C
    loss: float | None  # the lower, the better; None where training failed


@dataclass(frozen=True)
class History(Generic[C]):
    """All that a plan may know: what its earlier steps tried, and the facts that it told about them."""

    trials: Sequence[Trial[C]] = ()  # in the order in which they were proposed
    steps: Mapping[int, dict[str, Any]] = field(default_factory=dict)  # facts by step, as JSON gives them back

    @cached_property
    def losses(self) -> dict[str, float | None]:
        """The loss of each candidate by its hash."""
        return {trial.candidate.hash: trial.loss for trial in self.trials}

    def after(self, step: int, facts: dict[str, Any], trials: Iterable[Trial[C]]) -> "History[C]":
        """This history and one more step."""
        return History([*self.trials, *trials], {**self.steps, step: facts})


@dataclass(frozen=True)
class Choice(Generic[C]):
    """A candidate that a plan chose to try next."""

    candidate: C
    how: str
    """Why this one, in a word: "random"; or, by the ranking function, "best" or "sampled"; or, by the agent, "agent",
    and "explored" where epsilon drew a word of the tree."""
    predicted: float | None = None
    """What was predicted for it, such as its log perplexity; None where nothing was."""


@dataclass(frozen=True)
class Step(Generic[C]):
    """What a plan tries next."""

    choices: list[Choice[C]]
    """Distinct, and none of them tried before; none at all where the step has found nothing new."""
    facts: dict[str, Any]
    """How they were found, JSON-able: `rejected` counts by reason the draws that were thrown away; the rest is the
    plan's own. Infinity and nan are allowed."""


Propose = Callable[[History[C], int], Step[C]]
"""From the history up to a step, and its number, to that step. Equal histories give equal steps."""


Keep = Callable[[str, Callable[[], dict[str, Any]], Callable[[Any], bool]], dict[str, Any]]
"""How a plan keeps what takes long to work out, without reading or writing: it asks for it by `keep(name, make, fits)`,
and gets what `make` makes, tensors and numbers by name: now, or in an earlier run, if what is left of that `fits`."""


def make_anew(_name: str, make: Callable[[], dict[str, Any]], _fits: Callable[[Any], bool], /) -> dict[str, Any]:
    """A `Keep` that keeps nothing."""
    return make()


class SearchPlan(Protocol[C]):
    """Which search it is, and how it goes on."""

    @property
    def budget(self) -> int:
        """Candidates to try."""

    @property
    def patience(self) -> int:
        """The search ends after so many steps in a row that found nothing new."""

    @property
    def child_seed(self) -> int:
        """The seed of every training."""

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one, JSON-able: `method`, a word for tables, and all that decides what is
        proposed. Budget and patience, which may be raised later, are not among it."""

    def proposer(self, keep: Keep = make_anew, /) -> Propose[C]:
        """The plan at the beginning of one search. It may remember what it made of one history for a longer one."""


class ByHand(Generic[C]):
    """A search step by step: ask what to try, try it, tell what came of it. Nothing is read or written."""

    def __init__(self, plan: SearchPlan[C]) -> None:
        self.plan = plan
        self.history: History[C] = History()  # of the steps that were told
        self._propose = plan.proposer()
        self._step: Step[C]
        self._asked: list[Choice[C]] = []
        self._fruitless = 0

    def ask(self) -> list[C]:
        """The candidates to try next, the same ones until their losses are told; none when the search has ended."""
        while not self._asked and len(self.history.trials) < self.plan.budget and self._fruitless < self.plan.patience:
            self._step = self._propose(self.history, len(self.history.steps))
            self._asked = self._step.choices[: self.plan.budget - len(self.history.trials)]
            self._fruitless = 0 if self._asked else self._fruitless + 1
            if not self._asked:
                self._note([])
        return [choice.candidate for choice in self._asked]

    def tell(self, losses: Sequence[float | None]) -> None:
        """What came of the candidates, in their order, None for failures. Raises ValueError unless each has a loss."""
        if len(losses) != len(self._asked) or not losses:
            raise ValueError(f"{len(losses)} losses for {len(self._asked)} candidates: ask, then tell one for each")
        self._note(losses)

    def _note(self, losses: Sequence[float | None]) -> None:
        trials = [Trial(choice.candidate, loss) for choice, loss in zip(self._asked, losses, strict=True)]
        facts = json.loads(dumps(self._step.facts))  # as a record gives them back
        self.history = self.history.after(len(self.history.steps), facts, trials)
        self._asked = []
