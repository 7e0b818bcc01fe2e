"""Ways to search, called arms, held against random search: ZL17's Figure 6, for any kind of candidate.

`searches` are by their arm and seed. Losses are the task's own: perplexities, or errors in percent; whatever is said of
them holds for every loss. What is drawn, trained and judged is called a *child*.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike

from nasrepro.profiles import Profile
from nasrepro.report import stats
from nasrepro.search import token_table
from nasrepro.search.history import Search
from nasrepro.search.plan import SearchPlan
from nasrepro.search.token_search import samples
from nasrepro.trainers.outcome import NotebookTask

Facts = dict[str, Any]
"""What decides a finding of the ledger, as `Run.finding` takes it."""
Searches = Mapping[tuple[str, int], Search]
Ends = Mapping[tuple[str, str], stats.Estimate]
"""Leads over random search, by arm and statistic."""

WINDOW = 32
"""Children of the window whose mean says what a controller draws now."""
TOP = (1, 5, 15)
"""Of how many best models ZL17's Figure 6 takes the mean."""
STATISTICS = {**{f"top{k}": f"best {k}" if k > 1 else "best" for k in TOP}, "window": f"last {WINDOW}"}
"""What a search is judged by, by column of `progress`, in words: mean losses."""

# ---- searches in records


class ArmPlan(SearchPlan[Any], Protocol):
    """A plan of which the beginning is a plan too."""

    def until(self, budget: int, /) -> Self:
        """The same search, ending after so many candidates."""


Plan = TypeVar("Plan", bound=ArmPlan)


class Run(Protocol):
    """What is asked of the notebook's run (see `nasrepro.notebook.Run`)."""

    sizes: Any
    profile: Profile
    fresh: bool

    def search(self, plan: Any, task: Any = ..., workers: int = ..., /) -> Search:
        """Replay a search, or make it."""

    def shipped_search(self, plan: Any, task: Any = ..., /) -> Search | None:
        """A search in the shipped record."""


def recorded_plan(search: Search, plan: Plan) -> Plan:
    """The plan of the search up to its first child that is not trained yet, so that nothing of it is left to train."""
    numbers = [proposal.number for proposal, _ in search.trials]
    gap = next((place for place, number in enumerate(numbers) if place != number), len(numbers))
    return plan.until(max(1, min(gap, plan.budget)))


def search_as_recorded(run: Run, plan: Plan, task: NotebookTask[Any] | None = None) -> Search | None:
    """A search by this plan, on the run's task or another one.

    A profile that only replays takes of it what is recorded, None where nothing is.
    """
    if run.fresh or not run.profile.only_replays:
        return run.search(plan, task, run.sizes.workers)
    shipped = run.shipped_search(plan, task)
    return run.search(recorded_plan(shipped, plan), task) if shipped is not None and shipped.trials else None


def not_recorded(what: str) -> str:
    """What stands in place of trainings that no record holds."""
    return f"**{what}: not recorded yet.** `FRESH = True` trains it here, with all else."


# ---- children


def drawn(searches: Searches) -> dict[tuple[str, int], pd.DataFrame]:
    """The children of each search in the order of their drawing (see `token_search.samples`)."""
    return {key: samples(search) for key, search in searches.items()}


def compared(tables: Mapping[tuple[str, int], pd.DataFrame], against: str = "random") -> dict[str, int]:
    """After how many children each arm is compared with random search: as many as every search of the two has."""
    shortest: dict[str, int] = {}
    for (arm, _), table in tables.items():
        shortest[arm] = min(len(table), shortest.get(arm, len(table)))
    return {arm: min(count, shortest.get(against, count)) for arm, count in shortest.items()}


def counts(tables: Mapping[tuple[str, int], pd.DataFrame], words: Mapping[str, str], planned: int) -> pd.DataFrame:
    """How far each search has come, from `drawn`: its children, distinct ones, the share that failed."""
    rows = [
        [words[arm], seed, len(table), table["hash"].nunique(), table["loss"].isna().mean(), planned]
        for (arm, seed), table in tables.items()
    ]
    return pd.DataFrame(rows, columns=["search", "seed", "children", "distinct", "failed", "planned"])


def as_tokens(text: str) -> tuple[int, ...]:
    """A token string as `samples` writes it."""
    return tuple(map(int, text.split()))


def best_tokens(children: pd.DataFrame) -> tuple[int, ...]:
    """The string of the child with the lowest loss, from `samples`; the first one where all failed."""
    return as_tokens(children["tokens"].iloc[int(children["loss"].fillna(np.inf).argmin())])


# ---- statistics


def progress(tables: Mapping[tuple[str, int], pd.DataFrame], failed: float) -> pd.DataFrame:
    """ZL17's statistics of each search after so many children, up to where its arm is `compared`, from `drawn`.

    Columns: arm, seed, samples, and those of `STATISTICS`, mean validation losses: of the best 1, 5 and 15 so far
    and of the last 32, where a child that failed counts as `failed`.
    """
    ends = compared(tables)
    most = max(ends.values())
    counts = sorted({*np.geomspace(min(max(TOP), most), most, 60).round().astype(int).tolist(), *ends.values()})
    parts = []
    for arm, end in ends.items():
        losses = {seed: table["loss"].to_numpy()[:end] for (name, seed), table in tables.items() if name == arm}
        given = np.stack([*losses.values()])  # (seeds, end)
        at = [count for count in counts if count <= end]
        scores = -np.where(np.isnan(given), failed, given)
        runs = token_table.TableRuns(tuple(losses), -given, scores)
        part = token_table.progress(runs, at, WINDOW, TOP)
        parts.append(part.assign(arm=arm, **{name: -part[name] for name in STATISTICS}).drop(columns="best"))
    return pd.concat(parts, ignore_index=True)


def difference(first: ArrayLike, second: ArrayLike) -> tuple[float, stats.Interval | None]:
    """Mean of first less mean of second, and Welch's 95% interval of it; None for fewer than three of either.

    A controller and random search from one seed share nothing, so they are not paired. With three of each, resampling
    (`stats.interval`) would exclude zero too often: three differences of pure chance have one sign in a quarter of all
    cases.
    """
    ours, theirs = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    value = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 3:
        return value, None
    if np.ptp(ours) == np.ptp(theirs) == 0:
        return value, (value, value)
    found = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return value, (float(found.low), float(found.high))


def leads(progress: pd.DataFrame, against: str = "random") -> pd.DataFrame:
    """How much better than random search each other arm is, as in ZL17's Figure 6, from `progress`.

    Columns: arm, samples, statistic, lead (in the loss), low and high (Welch's interval over seeds, nan for few).
    """
    rows = []
    reference = progress[progress["arm"] == against]
    for (arm, count), part in progress[progress["arm"] != against].groupby(["arm", "samples"], sort=False):
        random = reference[reference["samples"] == count]
        for name in STATISTICS:
            lead, edges = difference(random[name], part[name])
            rows.append([arm, count, name, lead, *(edges or (np.nan, np.nan))])
    return pd.DataFrame(rows, columns=["arm", "samples", "statistic", "lead", "low", "high"])


def at_the_end(leading: pd.DataFrame) -> Ends:
    """The leads after all children that are compared, by arm and statistic, from `leads`."""
    last = ends_table(leading)
    keys = zip(last["arm"], last["statistic"], strict=True)
    return dict(zip(keys, map(stats.Estimate, last["lead"], last["low"], last["high"]), strict=True))


def ends_table(leading: pd.DataFrame) -> pd.DataFrame:
    """The rows of `leads` after all children that are compared: columns as there."""
    return leading[leading["samples"] == leading.groupby("arm")["samples"].transform("max")].reset_index(drop=True)


def final(progress: pd.DataFrame, words: Mapping[str, str]) -> pd.DataFrame:
    """Each arm's statistics after all children that are compared, means over seeds: a row an arm.

    Columns: search (its words), children (how many), and those of `STATISTICS` by their words.
    """
    last = progress[progress["samples"] == progress.groupby("arm")["samples"].transform("max")]
    means = last.groupby("arm", sort=False)[["samples", *STATISTICS]].mean().astype({"samples": int})
    named = means.rename(index=dict(words), columns={**STATISTICS, "samples": "children"})
    return named.rename_axis("search").reset_index()


def told(ends: Ends, arm: str) -> str:
    """An arm's leads in words, from `at_the_end`: each with its interval, and what that shows."""
    spoken = []
    for statistic, words in STATISTICS.items():
        lead = ends[arm, statistic]
        shown = stats.told((lead.low, lead.high), "ahead", "behind", "no difference shown")
        edges = "no interval" if np.isnan(lead.low) else f"{lead.low:+.2f} to {lead.high:+.2f}"
        spoken.append(f"{words} {lead.value:+.2f} ({edges}: {shown})")
    return "; ".join(spoken)


def leads_told(
    leading: pd.DataFrame, words: Mapping[str, str], unit: str, most: float = math.inf, children: str = "children"
) -> str:
    """The leads of every arm after as many children as there are, or `most`, from `leads`, as a list for people.

    `unit` says what the loss is called, `children` what those are called that were trained.
    """
    leading = leading[leading["samples"] <= most]
    ends = at_the_end(leading)
    lines = [
        f"- **{words[str(arm)]}**, after {count:,} {children}: {told(ends, str(arm))}."
        for arm, count in leading.groupby("arm", sort=False)["samples"].max().items()
    ]
    return f"Lead over random search, in {unit}:\n\n" + "\n".join(lines)


# ---- findings


def lead_facts(ends: Ends, arm: str, statistic: str, seeds: int, words: str, unit: str = "perplexity") -> Facts:
    """What one of `at_the_end` says of ZL17's Figure 6; `words` tell whose controller, `unit` what the loss is."""
    lead = ends[arm, statistic]
    return {
        "value": lead.value,
        "interval": None if np.isnan(lead.low) else (lead.low, lead.high),
        "unit": unit,
        "seeds": seeds,
        "supports": True if lead.value > 0 else stats.told((lead.low, lead.high), True, False, None),
        "reason": f"{words}; Welch's interval over seeds",
    }


def children_facts(children: int, planned: int) -> Facts:
    """How many children of each search are compared."""
    reason = f"of {planned} planned for each search; a smaller search, by choice"
    return {"value": children, "unit": "architectures", "reason": reason}


def wins(ends: Ends, arm: str, seeds: int, words: str, unit: str = "perplexity") -> Facts:
    """Whether policy gradient beats random search, for the best and for the means of the best: by its weakest lead."""
    best = [f"top{k}" for k in TOP]
    weakest = min(best, key=lambda name: (ends[arm, name].low, ends[arm, name].value))
    if np.isnan(ends[arm, weakest].low):
        weakest = min(best, key=lambda name: ends[arm, name].value)
    words = (
        f"{words}; the weakest of the leads of the best {', '.join(map(str, TOP))}, that of the {STATISTICS[weakest]}"
    )
    return lead_facts(ends, arm, weakest, seeds, words, unit)
