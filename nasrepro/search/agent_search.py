"""S17's search by the agent: draw trees, train their cells, learn from the rewards, draw again (S17 sections 3.1, 4.2).

Here is the plan of such a search; `loop.search` runs it. As in every search, a step depends on the results of the steps
before it and on nothing else: the agent is what its pre-training and the rewards so far make of it, and a search that
goes on works it out again. The updates take seconds. The pre-training takes a minute, so what it made is kept.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from nasrepro.controllers import (
    AgentSettings,
    PriorSettings,
    Reinforce,
    ReinforceSettings,
    Result,
    TreeAgent,
    draw_well_formed,
    pretrain,
    ready_batches,
    reward,
)
from nasrepro.dsl import Cell, Node, parse
from nasrepro.dsl.constraints import has_memory_place, must_use
from nasrepro.search.archive import dumps
from nasrepro.search.history import Search
from nasrepro.search.loop import kept_beside
from nasrepro.search.plan import Choice, History, Keep, Propose, Step, make_anew
from nasrepro.search.record import Record
from nasrepro.threads import torch_threads
from nasrepro.trainers.settings import origin, use_declared_types

if TYPE_CHECKING:
    import pandas as pd

_DEMANDS = (must_use("x_t", "h_{t-1}"), has_memory_place())
"""What a tree must have to be trained at all. All else that the priors ask for is the agent's to give up."""

_HIGHEST = 11
"""Edges between h_t and a source in a tree that the priors draw, at most (S17 section 4.2)."""


@dataclass(frozen=True)
class AgentSearchSettings:
    """How a search by the agent goes. Each setting of S17's carries its origin (`settings.origins`).

    Raises ValueError for numbers that make no search, or an agent that could not learn the priors.
    """

    method: Literal["agent", "random"] = field(default="agent", metadata=origin("stated", "3.1"))
    """Train what the agent draws, or what the random generator draws with which it was pre-trained: S17's missing
    control."""
    cells: int = field(default=3450, metadata=origin("stated", "4.2"))
    """Cells to train; of one tree there are as many as places for c_t. Raising it later continues the same search."""
    step: int = field(default=8, metadata=origin("guessed", "C.1"))
    """Trees drawn between two rounds of updates. S17 trained up to 28 cells at once and updated whenever four results
    had come; a fixed number makes a search repeatable."""
    patience: int = 50
    """A search ends after so many steps in a row that drew no new cell: the agent repeats itself. The record answers
    for its cells, and it has learned from their rewards each time. Raising it later continues the same search. Ours."""
    seed: int = 0
    """Of the agent's first weights, its pre-training, and everything drawn."""
    child_seed: int = field(default=0, metadata=origin("inferred", "4.2"))
    """Of every training. One seed per cell: S17 mentions no repetition."""
    agent: AgentSettings = field(default_factory=AgentSettings)
    """The agent."""
    reinforce: ReinforceSettings = field(default_factory=ReinforceSettings)
    """How it learns from rewards."""
    priors: PriorSettings = field(default_factory=PriorSettings)
    """The random generator, and the pre-training on it."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        if self.method not in ("agent", "random"):
            raise ValueError(f"method is 'agent' or 'random', got {self.method!r:.100}")
        if min(self.cells, self.step, self.patience) < 1:
            raise ValueError(
                f"cells={self.cells}, step={self.step} and patience={self.patience} must be 1 or more: a search trains "
                "cells in steps of some trees, and ends after some steps without a new cell"
            )
        if self.method == "random":  # which has no agent to learn them
            return
        unknown = sorted({*self.priors.words} - {*self.agent.words})
        if unknown:
            raise ValueError(f"the priors draw {unknown}, which are not among the agent's words; name them in both")
        height = min(self.priors.largest, _HIGHEST)
        if self.priors.largest > self.agent.max_nodes or height > self.agent.max_height:
            raise ValueError(
                f"the priors draw trees of up to {self.priors.largest} operators and height {height}, the agent grows "
                f"{self.agent.max_nodes} operators and height {self.agent.max_height} at most; lower priors.largest, "
                "or raise agent.max_nodes and agent.max_height"
            )

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one: everything but when to end. Random search has no agent to name."""
        chosen = asdict(self)
        unused = ["cells", "patience"]
        if self.method == "random":
            unused += ["agent", "reinforce"]
            chosen["priors"] = {name: chosen["priors"][name] for name in ("words", "smallest", "largest", "weights")}
        return {name: value for name, value in chosen.items() if name not in unused}

    @property
    def budget(self) -> int:
        """Cells to train."""
        return self.cells

    def proposer(self, keep: Keep = make_anew, /) -> Propose[Cell]:
        """The agent learns while its search goes on; the random generator does not."""
        return partial(propose_random, self) if self.method == "random" else AgentSearch(self, keep).propose


@dataclass
class Learner:
    """The agent of a search, and what it has learned from."""

    reinforce: Reinforce[TreeAgent]  # agent, optimiser and baseline
    pretraining: dict[str, Any]  # what `pretrain` returned
    updates: list[list[dict[str, float | int]]] = field(default_factory=list)  # their facts, by step of the search
    waiting: list[Result] = field(default_factory=list)  # results that make no batch yet

    @classmethod
    @torch_threads(1)  # more threads change the last digits
    def begin(cls, history: "History[Cell] | Search", settings: AgentSearchSettings, keep: Keep) -> "Learner":
        """The pre-trained agent, before any reward.

        What was kept of it serves if it is the one with which the search began: equal to the last digit of the facts
        about its pre-training, which step 0 tells.
        """
        rng = random.Random(f"{settings.seed}/agent")  # text seeds are hashed alike everywhere
        agent = TreeAgent(settings.agent, rng.getrandbits(31))

        def make() -> dict[str, Any]:
            facts = pretrain(agent, settings.priors, torch.Generator().manual_seed(rng.getrandbits(31)))
            return {"facts": facts, "agent": agent.state_dict()}

        def fits(content: Any) -> bool:
            told = history.steps[0]["pretraining"] if 0 in history.steps else None
            if not isinstance(content, dict) or told is None or content.get("facts") != told:
                return False
            shapes = {name: weight.shape for name, weight in agent.state_dict().items()}
            return shapes == {name: weight.shape for name, weight in content.get("agent", {}).items()}

        content = keep("pretrained", make, fits)
        agent.load_state_dict(content["agent"])
        return cls(Reinforce(agent, settings.reinforce), dict(content["facts"]))

    @torch_threads(1)
    def catch_up(self, history: "History[Cell] | Search", step: int) -> None:
        """Learn from all steps before this one that it has not learned from yet."""
        losses = history.losses
        for facts in [history.steps[earlier] for earlier in range(len(self.updates), step)]:
            results = [(parse(drawn["tree"]).root, _reward(_best(drawn, losses)[0])) for drawn in facts["trees"]]
            batches, self.waiting = ready_batches([*self.waiting, *results])
            self.updates.append(
                [self.reinforce.update([tree for tree, _ in batch], [value for _, value in batch]) for batch in batches]
            )


class AgentSearch:
    """The plan of one search by the agent. What the agent has learned is remembered for longer histories."""

    def __init__(self, settings: AgentSearchSettings, keep: Keep) -> None:
        self.settings = settings
        self._keep = keep
        self._learner: Learner | None = None

    def propose(self, history: History[Cell], step: int) -> Step[Cell]:
        """Learn from all earlier steps, draw trees, and choose those of their cells that were not tried yet.

        Facts: `trees`, all that were drawn, with the hashes of their cells; `rejected`, how many of them bring nothing
        to train, by reason; and of the agent `updates`, which the step before brought, or `pretraining` in step 0.
        """
        self._learner = self._learner or Learner.begin(history, self.settings, self._keep)
        self._learner.catch_up(history, step)
        rng = random.Random(f"{self.settings.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        with torch_threads(1):
            drawn = self._learner.reinforce.agent.sample(self.settings.step, generator)
        # What the results of this step will bring is told with the next: only then are they known.
        learned = {"updates": self._learner.updates[-1]} if step else {"pretraining": self._learner.pretraining}
        return _choose([(one.tree, one.explored) for one in drawn], "agent", history, learned)


def propose_random(settings: AgentSearchSettings, history: History[Cell], step: int) -> Step[Cell]:
    """`AgentSearch.propose` with trees from the random generator, which needs no agent and tells nothing of one."""
    rng = random.Random(f"{settings.seed}/{step}")
    return _choose([(draw_well_formed(rng, settings.priors), 0) for _ in range(settings.step)], "random", history, {})


def _choose(
    drawn: Sequence[tuple[Node, int]], method: str, history: History[Cell], learned: dict[str, Any]
) -> Step[Cell]:
    """The new cells of trees, each of these with how many of its words epsilon drew."""
    trees: list[dict[str, Any]] = []
    rejected: Counter[str] = Counter()
    choices: list[Choice[Cell]] = []
    seen = {*history.losses}
    for tree, explored in drawn:
        cells, refused = placements(tree)
        trees.append({"tree": tree.text, "explored": explored, "cells": [cell.hash for cell in cells]})
        new = {cell.hash: cell for cell in cells if cell.hash not in seen}
        seen.update(new)
        if not new:
            rejected[refused or "duplicate"] += 1
        choices += [Choice(cell, "explored" if explored else method) for cell in new.values()]
    return Step(choices, {**learned, "trees": trees, "rejected": rejected})


def placements(tree: Node) -> tuple[list[Cell], str]:
    """The cells to train for a tree: it alone, or one for each place of c_t where it reads c_{t-1} (S17 appendix C.1).

    Where there is none, the second value says why: the name of a rule. Such a tree counts as a failed training, for
    nothing else would tell the agent that it cannot be used (guessed).
    """
    cell = Cell(tree)
    for rule in _DEMANDS:
        if rule.check(cell) is not None:
            return [], rule.name
    return [cell] if cell.is_runnable else cell.memory_candidates(), ""


# ---- what came of a search


def trees(search: Search) -> "pd.DataFrame":
    """One row per tree of an agent's search, or its random control, in the order in which they were drawn.

    Columns: step, tree, explored (words that epsilon drew), cells (places of c_t; 0 where it cannot be trained), and of
    the best of them loss and reward, nan where all failed, and hash, "" there. The table ends before the first tree
    whose cells are not all trained yet.
    """
    import pandas as pd  # here, because a search needs no tables

    losses = search.losses
    columns = ["step", "tree", "explored", "cells", "loss", "reward", "hash"]
    rows = []
    for step, drawn in ((step, drawn) for step, facts in search.steps.items() for drawn in facts["trees"]):
        if not losses.keys() >= {*drawn["cells"]}:
            break
        loss, cell = _best(drawn, losses)
        rows.append([step, drawn["tree"], drawn["explored"], len(drawn["cells"]), loss, _reward(loss), cell])
    return pd.DataFrame(rows, columns=columns).astype({"loss": float, "reward": float})


def reasons(search: Search) -> list[str]:
    """Why each of the `trees` of a search failed, in the same order; "" where one of its cells learned.

    A tree that has no cell to train has the name of the rule that it breaks.
    """
    why = {evaluation.hash: evaluation.reason for _, evaluation in search.trials}
    found = []
    for drawn in (drawn for facts in search.steps.values() for drawn in facts["trees"]):
        if not why.keys() >= {*drawn["cells"]}:
            break
        every = [why[cell] for cell in drawn["cells"]] or [placements(parse(drawn["tree"]).root)[1]]
        found.append("" if "" in every else every[0])
    return found


def updates(search: Search) -> "pd.DataFrame":
    """One row per update of the agent: step and tree, how many steps and trees had been drawn, and the update's facts.

    The facts are those that `Reinforce.update` returns. Those after the last step are written with the next one only,
    until then `trained_agent` has them.
    """
    import pandas as pd

    rows: list[dict[str, float]] = []
    drawn = 0
    for step, facts in search.steps.items():
        rows += [{"step": step, "tree": drawn, **update} for update in facts.get("updates", [])]
        drawn += len(facts["trees"])
    return pd.DataFrame(rows)


def pretrained_agent(search: Search, settings: AgentSearchSettings, record: Record) -> Learner:
    """The agent with which a search in the record began."""
    return Learner.begin(search, settings, kept_beside(record, search.id))


def trained_agent(search: Search, settings: AgentSearchSettings, record: Record) -> Learner:
    """The agent after all whole steps of a search in the record, all its updates among it: they are made once more.

    Raises ValueError where the search ran under other settings, or without an agent.
    """
    if settings.method != "agent" or dumps(settings.identity()) != dumps(search.settings["search"]):
        raise ValueError(f"{search!r} is no search by an agent under these settings, but {search.settings['search']}")
    losses = search.losses
    known = [all(losses.keys() >= {*drawn["cells"]} for drawn in facts["trees"]) for facts in search.steps.values()]
    learner = pretrained_agent(search, settings, record)
    learner.catch_up(search, [*known, False].index(False))
    return learner


def _best(drawn: Mapping[str, Any], losses: Mapping[str, float | None]) -> tuple[float | None, str]:
    """The lowest loss among a tree's cells, and the hash of that cell: the best result counts (S17 appendix C.1)."""
    valid = [(loss, cell) for cell in drawn["cells"] if (loss := losses[cell]) is not None]
    return min(valid, default=(None, ""))


def _reward(loss: float | None) -> float | None:
    return None if loss is None else reward(loss)
