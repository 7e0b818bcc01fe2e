"""S17's search by the agent: draw trees, train their cells, learn from the rewards, draw again (S17 sections 3.1, 4.2).

Here is what such a search proposes; `loop.search` runs it. As in every search, a step depends on the results of the
steps before it and on nothing else: the agent is what its pre-training and all rewards in the record have made of it,
so it could always be worked out again. That takes minutes, so the agent is also kept in a file beside the record.
"""

import pickle
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
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
from nasrepro.files import write_atomically
from nasrepro.search.archive import dumps
from nasrepro.search.history import Search, replay
from nasrepro.search.record import Proposal, Record, evaluation_key
from nasrepro.search.workers import torch_threads
from nasrepro.trainers.outcome import Task

if TYPE_CHECKING:
    import pandas as pd

_DEMANDS = (must_use("x_t", "h_{t-1}"), has_memory_place())
"""What a tree must have to be trained at all. All else that the priors ask for is the agent's to give up."""

_HIGHEST = 11
"""Edges between h_t and a source in a tree that the priors draw, at most (S17 section 4.2)."""


@dataclass(frozen=True)
class AgentSearchSettings:
    """How a search by the agent goes. "Stated" settings are S17's, in its sections 3.1 and 4.2 and appendix C.1.

    Raises ValueError for numbers that make no search, or an agent that could not learn the priors.
    """

    method: Literal["agent", "random"] = "agent"
    """Train what the agent draws (stated), or what the random generator draws with which it was pre-trained: S17's
    missing control."""
    cells: int = 3450
    """Cells to train; of one tree there are as many as places for c_t. Stated. Raising it later continues the same
    search."""
    step: int = 8
    """Trees drawn between two rounds of updates. S17 trained up to 28 cells at once and updated whenever four results
    had come; a fixed number makes a search repeatable. Guessed."""
    patience: int = 50
    """A search ends after so many steps in a row that drew no new cell: the agent repeats itself. The record answers
    for its cells, and it has learned from their rewards each time. Raising it later continues the same search. Ours."""
    seed: int = 0
    """Of the agent's first weights, its pre-training, and everything drawn."""
    child_seed: int = 0
    """Of every training. One seed per cell: inferred, S17 mentions no repetition."""
    agent: AgentSettings = field(default_factory=AgentSettings)
    """The agent."""
    reinforce: ReinforceSettings = field(default_factory=ReinforceSettings)
    """How it learns from rewards."""
    priors: PriorSettings = field(default_factory=PriorSettings)
    """The random generator, and the pre-training on it."""

    def __post_init__(self) -> None:
        if self.method not in ("agent", "random"):
            raise ValueError(f"method is 'agent' or 'random', got {self.method!r}")
        if min(self.cells, self.step, self.patience) < 1:
            raise ValueError(
                f"cells={self.cells}, step={self.step} and patience={self.patience} must be 1 or more: a search trains "
                "cells in steps of some trees, and ends after some steps without a new cell"
            )
        if self.method == "agent":
            self._check_priors()

    def _check_priors(self) -> None:
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
            for name in ("updates", "batch", "learning_rate"):
                del chosen["priors"][name]
        return {name: value for name, value in chosen.items() if name not in unused}


class Learner:
    """The agent of one search, and how far it has learned.

    Attributes:
        reinforce: agent, optimiser and baseline.
        pretraining: what `pretrain` returned.
        steps: steps of the search learned from so far.
        updates: facts of the updates made after the last of them.
        waiting: results that make no batch yet.
    """

    def __init__(self, name: str, settings: AgentSearchSettings) -> None:
        self._rng = random.Random(f"{settings.seed}/agent")
        self._settings = settings
        agent = TreeAgent(settings.agent, self._rng.getrandbits(31))
        self.reinforce = Reinforce(agent, settings.reinforce)
        self.pretraining: dict[str, Any] = {}
        self.steps = 0
        self.updates: list[dict[str, float | int]] = []
        self.waiting: list[Result] = []
        self._history = name
        """Equal for learners that have learned the same things: a hash over the search's name and all results."""

    def catch_up(self, search: Search, step: int, snapshot: Path | None) -> None:
        """Learn from all steps before this one that it has not learned from yet.

        `snapshot` is read where it spares work, and written; one that is damaged or of other results is passed over.
        """
        if not self.pretraining and not (snapshot and self._load(snapshot, search, step)):
            generator = torch.Generator().manual_seed(self._rng.getrandbits(31))
            self.pretraining = pretrain(self.reinforce.agent, self._settings.priors, generator)
        while self.steps < step:
            results = _results(search, self.steps)
            batches, self.waiting = ready_batches([*self.waiting, *results])
            self.updates = [
                self.reinforce.update([tree for tree, _ in batch], [value for _, value in batch]) for batch in batches
            ]
            self._history = _extended(self._history, results)
            self.steps += 1
        if snapshot:
            self._save(snapshot)

    def _save(self, path: Path) -> None:
        content = {
            "history": self._history,
            "steps": self.steps,
            "reinforce": self.reinforce.state_dict(),
            "pretraining": self.pretraining,
            "updates": self.updates,
            "waiting": [(tree.text, value) for tree, value in self.waiting],
        }
        write_atomically(path, lambda temporary: torch.save(content, temporary))

    def _load(self, path: Path, search: Search, step: int) -> bool:
        if not path.exists():
            return False
        try:
            content = torch.load(path, weights_only=True)
            steps, found = content["steps"], content["history"]
        except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError):
            return False
        history = self._history
        for earlier in range(min(steps, step)):
            history = _extended(history, _results(search, earlier))
        if steps > step or found != history:
            return False
        self._history, self.steps = history, steps
        self.reinforce.load_state_dict(content["reinforce"])
        self.pretraining, self.updates = content["pretraining"], content["updates"]
        self.waiting = [(parse(text).root, value) for text, value in content["waiting"]]
        return True


class AgentSearch:
    """Proposes the steps of one search, and writes them to its record."""

    def __init__(self, name: str, task: Task, settings: AgentSearchSettings, record: Record) -> None:
        self.name = name
        self.task = task
        self.settings = settings
        self.record = record
        self._learner = Learner(name, settings) if settings.method == "agent" else None

    def propose_step(self, step: int) -> None:
        """Learn from all earlier steps, draw trees, and write those of their cells that the search does not have yet.

        The facts of a step are `trees`, all that were drawn, with the hashes of their cells; `rejected`, how many of
        them bring nothing to train, by reason; and of the agent `updates`, made since the step before, and in step 0
        `pretraining`.
        """
        search = replay(self.record, self.name)
        drawn, facts = self._draw(search, step)
        trees: list[dict[str, Any]] = []
        rejected: Counter[str] = Counter()
        proposals: list[Proposal] = []
        seen = {evaluation.hash for _, evaluation in search.trials}
        for tree, explored in drawn:
            cells, refused = placements(tree)
            trees.append({"tree": tree.text, "explored": explored, "cells": [cell.hash for cell in cells]})
            new = {cell.hash: cell for cell in cells if cell.hash not in seen}
            seen.update(new)
            if not new:
                rejected[refused or "duplicate"] += 1
            how = "random" if self._learner is None else "explored" if explored else "agent"
            for cell in new.values():
                key = evaluation_key(self.task, cell, self.settings.child_seed)
                proposals.append(Proposal(len(search.trials) + len(proposals), step, how, str(cell), None, key))
        self.record.propose(self.name, step, proposals, {**facts, "trees": trees, "rejected": rejected})

    def _draw(self, search: Search, step: int) -> tuple[list[tuple[Node, int]], dict[str, Any]]:
        """Trees, each with how many of its words epsilon drew, and the facts about the agent."""
        rng = random.Random(f"{self.settings.seed}/{step}")  # text seeds are hashed alike everywhere
        if self._learner is None:
            return [(draw_well_formed(rng, self.settings.priors), 0) for _ in range(self.settings.step)], {}
        with torch_threads(1):  # more threads change the last digits
            self._learner.catch_up(search, step, snapshot_path(self.record, self.name))
            generator = torch.Generator().manual_seed(rng.getrandbits(31))
            drawn = self._learner.reinforce.agent.sample(self.settings.step, generator)
        facts: dict[str, Any] = {"updates": self._learner.updates}
        if step == 0:
            facts["pretraining"] = self._learner.pretraining
        return [(one.tree, one.explored) for one in drawn], facts


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


def snapshot_path(record: Record, name: str) -> Path | None:
    """Where the agent of a search is kept: beside its record; None for a record in memory."""
    return None if record.path is None else record.path.with_name(f"{record.path.name}.{name}.agent")


# ---- what came of a search


def trees(search: Search) -> "pd.DataFrame":
    """One row per tree of an agent's search, or its random control, in the order in which they were drawn.

    Columns: step, tree, explored (words that epsilon drew), cells (places of c_t, 0 where it cannot be trained), loss
    and reward of the best of them, nan where all failed. Trees whose cells are not all trained yet are left out.
    """
    import pandas as pd  # here, because worker processes import this module's neighbours and need no tables

    losses = _losses(search)
    rows = []
    for step, facts in search.steps.items():
        for drawn in facts["trees"]:
            if losses.keys() >= {*drawn["cells"]}:
                loss = _loss(drawn, losses)
                rows.append(
                    {**drawn, "step": step, "cells": len(drawn["cells"]), "loss": loss, "reward": _reward(loss)}
                )
    columns = ["step", "tree", "explored", "cells", "loss", "reward"]
    return pd.DataFrame(rows, columns=columns).astype({"loss": float, "reward": float})


def trained_agent(search: Search, settings: AgentSearchSettings, record: Record) -> Learner:
    """The agent after all whole steps of a search in the record; its `updates` are those that no step has written yet.

    Raises ValueError where the search ran under other settings, or without an agent.
    """
    if settings.method != "agent" or dumps(settings.identity()) != dumps(search.settings["search"]):
        raise ValueError(
            f"{search!r} is no search by an agent under these settings; it has {search.settings['search']}"
        )
    losses = _losses(search)
    whole = sum(all(losses.keys() >= {*tree["cells"]} for tree in facts["trees"]) for facts in search.steps.values())
    learner = Learner(search.id, settings)
    with torch_threads(1):
        learner.catch_up(search, whole, snapshot_path(record, search.id))
    return learner


def _results(search: Search, step: int) -> list[Result]:
    """What a step taught: its trees and their rewards, in the order in which they were drawn."""
    losses = _losses(search)
    return [(parse(drawn["tree"]).root, _reward(_loss(drawn, losses))) for drawn in search.steps[step]["trees"]]


def _losses(search: Search) -> dict[str, float | None]:
    """Validation perplexity of each cell by its hash, None where training failed."""
    return {evaluation.hash: evaluation.perplexity for _, evaluation in search.trials}


def _loss(drawn: Mapping[str, Any], losses: Mapping[str, float | None]) -> float | None:
    """The lowest loss among a tree's cells: the best result counts (S17 appendix C.1). None where all failed."""
    return min((loss for cell in drawn["cells"] if (loss := losses[cell]) is not None), default=None)


def _reward(loss: float | None) -> float | None:
    return None if loss is None else reward(loss)


def _extended(history: str, results: list[Result]) -> str:
    return sha256(dumps([history, [(tree.text, value) for tree, value in results]]).encode()).hexdigest()
