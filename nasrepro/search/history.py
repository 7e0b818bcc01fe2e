"""A search as it went, read from the rows of a record. Needs no torch, no data and no GPU."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasrepro.search.archive import dumps
from nasrepro.search.plan import SearchPlan
from nasrepro.search.record import Evaluation, Proposal, Record, RecordError
from nasrepro.trainers.outcome import PERPLEXITY, Loss, TaskIdentity

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Search:
    """What a search tried, and what came of it."""

    id: str  # names the search in its record
    settings: dict[str, Any]  # "search": the plan's identity, "task": name, version, settings and data hash, and "loss"
    steps: dict[int, dict[str, Any]]  # facts of each step, as the plan told them (see `plan.Step`)
    trials: list[tuple[Proposal, Evaluation]]  # in the order of the proposals' numbers

    def __repr__(self) -> str:
        valid = [loss for loss in self.losses.values() if loss is not None]
        best = f", best {self.loss.words} {min(valid):.2f}" if valid else ""
        return f"Search({self.id!r}: {len(self.trials)} candidates, {len(self.trials) - len(valid)} failed{best})"

    @property
    def loss(self) -> Loss:
        """Which metric the search made small. Records that do not say it are S17's."""
        return Loss(**self.settings["loss"]) if "loss" in self.settings else PERPLEXITY

    @property
    def losses(self) -> dict[str, float | None]:
        """The loss of each candidate by its hash, None where training failed."""
        return {evaluation.hash: self.loss.of(evaluation) for _, evaluation in self.trials}

    @property
    def rejected(self) -> Counter[str]:
        """How many draws were thrown away before any training, by reason; none where the plan does not tell it."""
        total: Counter[str] = Counter()
        for facts in self.steps.values():
            total.update(facts.get("rejected", {}))
        return total

    def frame(self) -> "pd.DataFrame":
        """One row per candidate that was tried.

        Columns: number, step, how, method, cell (the candidate's text), hash, predicted, status, reason, the task's
        metrics, of which its loss is nan for failures, the same once more as loss, parameters, seconds, key.
        """
        import pandas as pd  # here, because worker processes import this package and need no tables

        method, loss = self.settings["search"]["method"], self.loss
        rows = []
        for proposal, evaluation in self.trials:
            row = {name: getattr(proposal, name) for name in ("number", "step", "how")} | {"method": method}
            row |= {"cell": evaluation.cell, "hash": evaluation.hash, "predicted": proposal.predicted}
            row |= {"status": evaluation.status, "reason": evaluation.reason, **evaluation.metrics}
            row |= {loss.metric: loss.of(evaluation), "loss": loss.of(evaluation)}
            rows.append(row | {name: getattr(evaluation, name) for name in ("parameters", "seconds", "key")})
        floats = {"predicted": float, loss.metric: float, "loss": float}
        return pd.DataFrame(rows).astype(floats) if rows else pd.DataFrame()


def replay(record: Record, search: str, budget: int | None = None) -> Search:
    """A search as the record holds it, or its first `budget` candidates. Raises RecordError for an unknown id."""
    known = record.searches()
    if search not in known:
        raise RecordError(f"{record!r} holds no search {search!r:.100}; it holds {', '.join(known) or 'none'}")
    trials = [
        (proposal, evaluation)
        for proposal in record.proposals(search)
        if (budget is None or proposal.number < budget) and (evaluation := record.get(proposal.key))
    ]
    return Search(search, known[search], record.steps(search), trials)


def recorded_search(record: Record, task: TaskIdentity, plan: SearchPlan[Any]) -> Search | None:
    """The search by this plan and task, on whatever data: so it can be asked where the data is not. None without it."""
    wanted = {
        "search": plan.identity(),
        "task": {"name": task.name, "version": task.version, "settings": task.settings},
    }
    text = dumps(wanted)
    for name, known in record.searches().items():
        if dumps(_without_data(known)) == text:
            return replay(record, name, plan.budget)
    return None


def has_ended(search: Search, plan: SearchPlan[Any]) -> bool:
    """Whether nothing of a search is left to train: its budget is spent, or it has found nothing new for too long."""
    proposed = {proposal.step for proposal, _ in search.trials}
    last = sorted(search.steps)[-plan.patience :]
    return len(search.trials) >= plan.budget or (len(last) == plan.patience and proposed.isdisjoint(last))


def _without_data(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A search's identity, as a record gives it, but for the hash of its data."""
    task = {name: value for name, value in identity["task"].items() if name != "data"}
    return {"search": identity["search"], "task": task}
