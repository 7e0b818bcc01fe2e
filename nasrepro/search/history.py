"""A search as it went, read from the rows of a record. Needs no torch, no data and no GPU."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasrepro.dsl import parse
from nasrepro.search.record import Evaluation, Proposal, Record, RecordError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Search:
    """What a search tried, and what came of it.

    Attributes:
        id: names the search in its record.
        settings: {"search": those of `search_identity`, "task": its name, version, settings and data hash}.
        steps: facts of each step, as `loop.propose_step` or `AgentSearch.propose_step` wrote them; in both, how many
            draws were `rejected` and why.
        trials: proposals with their evaluations, in the order of their numbers.
    """

    id: str
    settings: dict[str, Any]
    steps: dict[int, dict[str, Any]]
    trials: list[tuple[Proposal, Evaluation]]

    def __repr__(self) -> str:
        valid = [e.perplexity for _, e in self.trials if e.perplexity is not None]
        best = f", best perplexity {min(valid):.2f}" if valid else ""
        return f"Search({self.id!r}: {len(self.trials)} cells, {len(self.trials) - len(valid)} failed{best})"

    @property
    def rejected(self) -> Counter[str]:
        """How many random draws were thrown away before any training, by reason."""
        total: Counter[str] = Counter()
        for facts in self.steps.values():
            total.update(facts["rejected"])
        return total

    def frame(self) -> "pd.DataFrame":
        """One row per trained cell.

        Columns: number, step, how, method, cell, hash, memory (does it keep a c_t), predicted (log
        perplexity), status, reason, valid_ppl (nan for failures), the task's other metrics, parameters,
        seconds, key.
        """
        import pandas as pd  # here, because worker processes import this package and need no tables

        method = self.settings["search"]["method"]
        rows = [
            {
                "number": proposal.number,
                "step": proposal.step,
                "how": proposal.how,
                "method": method,
                "cell": evaluation.cell,
                "hash": evaluation.hash,
                "memory": parse(evaluation.cell).memory is not None,
                "predicted": proposal.predicted,
                "status": evaluation.status,
                "reason": evaluation.reason,
                **evaluation.metrics,
                "valid_ppl": evaluation.perplexity,
                "parameters": evaluation.parameters,
                "seconds": evaluation.seconds,
                "key": evaluation.key,
            }
            for proposal, evaluation in self.trials
        ]
        return pd.DataFrame(rows).astype({"predicted": float, "valid_ppl": float}) if rows else pd.DataFrame()


def replay(record: Record, search: str, cells: int | None = None) -> Search:
    """The search with this id as the record holds it, or its first `cells` cells. Nothing is trained or
    ranked.

    Raises RecordError for an id that the record does not hold.
    """
    known = record.searches()
    if search not in known:
        raise RecordError(f"{record!r} holds no search {search!r:.100}; it holds {', '.join(known) or 'none'}")
    trials = [
        (proposal, evaluation)
        for proposal in record.proposals(search)
        if (cells is None or proposal.number < cells) and (evaluation := record.get(proposal.key))
    ]
    return Search(search, known[search], record.steps(search), trials)
