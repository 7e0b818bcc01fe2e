"""What ZL17's search for recurrent cells shows: the numbers of notebook 10, worked out from its searches and trainings.

`searches` are by their arm (of `sizes.ARMS`) and seed. A function that decides a finding of the ledger answers with the
finding's facts, as `Run.finding` takes them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from nasrepro.controllers import BaseB, PolicyGradientSettings, TokenAgent
from nasrepro.controllers.reinforce import Advantages
from nasrepro.dsl import Cell
from nasrepro.experiments import arms
from nasrepro.experiments.arms import Facts, difference
from nasrepro.experiments.zl17_cells.sizes import CellsSizes
from nasrepro.report import papers, stats
from nasrepro.search.history import Search
from nasrepro.search.record import Evaluation
from nasrepro.search.token_search import TokenSearchSettings
from nasrepro.trainers.language_model import LanguageModelTask
from nasrepro.trainers.outcome import PERPLEXITY

PTB_WORDS = 929_589
"""Words of Penn Treebank's training text, known without the data."""


# ---- what records hold


class Run(arms.Run, Protocol):
    """What is asked of the notebook's run (see `nasrepro.notebook.Run`)."""

    def recorded(self, task: LanguageModelTask, /) -> list[Evaluation]:
        """What is recorded of a task."""

    def evaluations(
        self, cells: Sequence[Cell], seeds: Sequence[int], task: LanguageModelTask, workers: int = ..., /
    ) -> list[Evaluation]:
        """Replay trainings, or make them."""


def searches_as_recorded(run: Run) -> dict[tuple[str, int], Search]:
    """All searches of the run's size, by arm and seed, but for those of which nothing is recorded."""
    sizes: CellsSizes = run.sizes
    keys = [(arm, seed) for arm in sizes.arms for seed in sizes.seeds]
    found = {(arm, seed): arms.search_as_recorded(run, sizes.plan(arm, seed)) for arm, seed in keys}
    return {key: search for key, search in found.items() if search is not None}


def evaluations_as_recorded(
    run: Run, cells: Sequence[Cell], seeds: Sequence[int], task: LanguageModelTask
) -> list[Evaluation]:
    """Evaluations of cells from seeds. A profile that only replays takes those that are recorded, perhaps none."""
    if run.fresh or not run.profile.only_replays:
        return run.evaluations(cells, seeds, task, run.sizes.workers)
    known = {(one.hash, one.seed) for one in run.recorded(task)}
    by_seeds: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        by_seeds.setdefault(tuple(seed for seed in seeds if (cell.hash, seed) in known), []).append(cell)
    return [one for here, some in by_seeds.items() if here for one in run.evaluations(some, here, task)]


def share_of_paper(task: LanguageModelTask, children: int) -> float:
    """The share of ZL17's training that so many children by a task are: tokens read, over those of its 15,000 cells.

    Tokens of the small runs are characters, and their models smaller, so even this flatters them.
    """
    training, cells = task.training, papers.load()["zl17.search.ptb"].value
    paper = float(cells or 0) * _PAPER_EPOCHS * PTB_WORDS
    return min(1.0, children * training.epochs * (training.train_tokens or PTB_WORDS) / paper)


_PAPER_EPOCHS = 35
"""Of a child in ZL17 (section 4.2)."""


# ---- tokens


def read_tokens(space: BaseB, tokens: Sequence[int]) -> pd.DataFrame:
    """A token string place by place. Columns: block, place, choices (how many), token, choice (what it stands for)."""
    rows = [
        [block(space, number), place.name, len(place.words), token, place.words[token]]
        for number, (place, token) in enumerate(zip(space.places, tokens, strict=True))
    ]
    return pd.DataFrame(rows, columns=["block", "place", "choices", "token", "choice"])


def block(space: BaseB, number: int) -> str:
    """To which block of ZL17's Figure 5 a token belongs, by its number."""
    if number >= 2 * space.nodes:
        return "Cell Inject" if number < 2 * space.nodes + 2 else "Cell Indices"
    return f"Tree Index {number // 2}"


def tokens_of(space: BaseB, words: str) -> tuple[int, ...]:
    """The token string that ZL17 writes in these words. Raises ValueError for a word that is no choice at its place."""
    ours = [_OURS.get(word, word) for word in words.split()]
    for place, word in zip(space.places, ours, strict=True):
        if word not in place.words:
            raise ValueError(f"{word!r:.100} is no choice for the {place.name}: choose from {', '.join(place.words)}")
    return tuple(place.words.index(word) for place, word in zip(space.places, ours, strict=True))


def paper_words(space: BaseB, tokens: Sequence[int]) -> str:
    """A token string in ZL17's words, which `tokens_of` reads."""
    theirs = {ours: word for word, ours in _OURS.items()}
    return " ".join(theirs.get(choice, choice) for choice in read_tokens(space, tokens)["choice"])


_OURS = {"ElemMult": "Mult"}
"""The language's words for those of ZL17's Figure 5, where they differ."""


def chances(agents: Mapping[str, TokenAgent], tokens: Sequence[int]) -> pd.DataFrame:
    """How likely each agent finds each token of a string, given the tokens before: a row a token, a column an agent."""
    return pd.DataFrame(
        {
            name: [choices[token] for choices, token in zip(agent.choices(tokens), tokens, strict=True)]
            for name, agent in agents.items()
        }
    )


# ---- the baseline, by hand


def rewards_of(losses: Iterable[float], c: float) -> list[float | None]:
    """ZL17's rewards of children by their perplexities; None where training failed (nan)."""
    return [None if np.isnan(loss) else c / loss**2 for loss in losses]


def baselines(rewards: Sequence[float | None], settings: PolicyGradientSettings) -> list[float]:
    """What the controller measures each reward of a search against, as they come one by one."""
    advantages = Advantages(settings)
    return [advantages.of([reward])[1]["baseline"] for reward in rewards]


def check_baseline(write: Callable[[list[float], float], Sequence[float] | None]) -> str:
    """Whether a reader's `write(rewards, decay)` gives the baseline of each reward: a word for the reader.

    Raises AssertionError, which says what is amiss, where it does not. None says that it is not written yet.
    """
    rewards = [2.0, 1.0, 4.0, 4.0, 0.5, 3.0]
    if write(list(rewards), 0.9) is None:
        return "Exercise not yet done: my_baselines returns None."

    def written(values: Sequence[float], decay: float = 0.9) -> list[float]:
        found = list(write(list(values), decay) or [])
        assert len(found) == len(values), f"{len(values)} rewards need as many baselines, got {len(found)}"
        return found

    np.testing.assert_allclose(written([3.0] * 6), 3.0, err_msg="of equal rewards the baseline is that reward")
    for place in range(1, len(rewards)):
        changed = [*rewards[:place], rewards[place] + 1.0, *rewards[place + 1 :]]
        same = np.allclose(written(changed)[: place + 1], written(rewards)[: place + 1])
        assert same, f"baseline {place} moves with reward {place} or a later one: then the gradient is biased"
    np.testing.assert_allclose(written(rewards, 0.0)[1:], rewards[:-1], err_msg="decay 0 remembers the last one alone")
    ours = baselines(rewards, PolicyGradientSettings(baseline_decay=0.9))
    np.testing.assert_allclose(written(rewards), ours, rtol=1e-6, err_msg="weights must sum to 1 from the beginning")
    return "Exercise done: this is the baseline of the searches."


def first_step(children: pd.DataFrame, agent: TokenAgent, plan: TokenSearchSettings) -> pd.DataFrame:
    """What the fresh controller drew in a search's first step, and what it is told, from `samples`: a row a child.

    Columns: log probability, perplexity, reward (nan for failures), baseline (before it), advantage, tokens (a tuple).
    """
    step = children.head(plan.step)
    tokens = [arms.as_tokens(text) for text in step["tokens"]]
    rewards = rewards_of(step["loss"], plan.c)
    table = pd.DataFrame({"log probability": agent.log_probs(tokens).tolist(), "perplexity": step["loss"]})
    table["reward"] = np.array(rewards, dtype=float)
    table["baseline"] = baselines(rewards, plan.reinforce)
    table["advantage"] = table["reward"].fillna(plan.reinforce.failed) - table["baseline"]
    table["tokens"] = pd.Series(tokens, table.index, dtype=object)
    return table.rename_axis("child")


# ---- what a child's loss is worth


def by_seed(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """The validation perplexity of each cell from each seed: a row a cell (its text), a column a seed.

    nan where training failed. Cells that lack a seed which others have are left out.
    """
    rows = [(one.cell, one.seed, one.status, PERPLEXITY.of(one)) for one in evaluations]
    table = pd.DataFrame(rows, columns=["cell", "seed", "status", "loss"]).astype({"loss": float})
    is_whole = table.pivot(index="cell", columns="seed", values="status").notna().all(axis=1)
    return table.pivot(index="cell", columns="seed", values="loss")[is_whole]


def noise(losses: pd.DataFrame, c: float) -> pd.DataFrame:
    """How far seeds of one cell lie apart, and how far cells, from `by_seed`.

    A row for log perplexity, of cells that learned from every seed, and one for the reward, where a failure earns 0.
    Columns: cells, within (standard deviation over seeds of one cell), between (over cells, of what is their own),
    share (of a training's variance that the cell accounts for), tau (Kendall's, of the order that the first seed gives
    and those of the others), low and high (its bootstrap interval over cells). nan where there are too few cells.
    """
    kinds: dict[str, pd.DataFrame] = {
        "log perplexity, cells that learned": losses.dropna().apply(np.log),
        "reward, a failure earns 0": (c / losses**2).fillna(0.0),
    }
    return pd.DataFrame([_spread(table) for table in kinds.values()], index=pd.Index(kinds))


def _spread(table: pd.DataFrame) -> dict[str, float]:
    """A row of `noise`: the parts of variance in a balanced layout with one random factor, and Kendall's tau."""
    cells, seeds = table.shape
    found = dict.fromkeys(("within", "between", "share", "tau", "low", "high"), np.nan)
    if cells >= _FEWEST and seeds > 1:
        found |= stats.parts_of_variance(table)
        tau = stats.kendall_interval([table[seed] for seed in table.columns[1:]], table.iloc[:, 0])
        found |= {"tau": tau.value, "low": tau.low, "high": tau.high}
    return {"cells": cells, **found}


_FEWEST = 4
"""Cells from which on an order is spoken of."""


def spread_of_good(losses: pd.DataFrame) -> float:
    """Standard deviation of log perplexity over seeds of a good cell: of the better half of those that learned.

    `losses` is from `by_seed`; nan where there are too few cells. Bad cells vary more, and would excuse more.
    """
    learned = losses.dropna().apply(np.log)
    level = learned.mean(axis=1)
    return _spread(learned[level <= level.median()])["within"]


def failing(losses: pd.DataFrame) -> dict[str, int]:
    """How many cells fail from every seed, from some of them and from none, from `by_seed`."""
    failed = losses.isna()
    every, none = int(failed.all(axis=1).sum()), int((~failed.any(axis=1)).sum())
    return {"from every seed": every, "from some": len(losses) - every - none, "from none": none}


def noise_told(losses: pd.DataFrame, c: float) -> str:
    """What `failing` and `noise` say, for people."""
    failed = failing(losses)
    by_log, by_reward = (row for _, row in noise(losses, c).iterrows())
    said = (
        f"Of {len(losses)} random cells {failed['from every seed']} fail from every seed and "
        f"{failed['from some']} from some only. "
    )
    if np.isnan(by_log["within"]):
        return said + f"Only {by_log['cells']:.0f} learned from every seed: too few to tell chance from cells."
    return said + (
        f"Seeds of a cell that learns differ by **{by_log['within']:.1%}** in perplexity, cells by "
        f"**{by_log['between']:.1%}**. Of what makes rewards differ **{by_reward['share']:.0%}** is the cell. "
        f"Kendall's tau of two seeds' orders is {by_reward['tau']:.2f}: they agree on about "
        f"{(1 + by_reward['tau']) / 2:.0%} of pairs. A reward is here "
        + ("mostly the cell's doing." if by_reward["share"] > 0.5 else "chance as much as the cell's doing, or more.")
    )


# ---- the searches


def compared_told(budget: str, children: int, planned: int) -> str:
    """What is compared, of which budget, beside the paper's, for people."""
    paper = papers.load()["zl17.search.ptb"].value
    unfinished = f" That is the beginning of searches that were planned for {planned}." if children < planned else ""
    return (
        f"Compared are **{budget}**.{unfinished} In the paper: {paper:,} children of two layers, some 20 million "
        f"parameters, {_PAPER_EPOCHS} epochs over the words of Penn Treebank."
    )


def winners_told(won: Mapping[str, Facts], children: int) -> str:
    """Which controllers win, from `wins` by their names, for people; beside it what ZL17's own curve shows."""
    theirs = pd.DataFrame(papers.load()["zl17.fig6"].series).set_index("models")["top1"]
    ahead = [name for name, facts in won.items() if stats.told(facts["interval"], True, False, False)]
    rates = ", at either rate" if len(won) > 1 else ""
    said = f"**Yes: {', '.join(ahead)}.**" if ahead else f"**No: {children} children do not show it{rates}.**"
    return (
        f"Does policy gradient win at this budget, by ZL17's own measure, the best 1, 5 and 15? {said} The paper's own "
        f"curve stands at {theirs[400]:+.1f} for the best child after 400 models and at {theirs[20800]:+.1f} after "
        "20,800."
    )


def comparable(progress: pd.DataFrame, larger: str, smaller: str, spread: float) -> Facts:
    """Whether a search with more functions ends no worse than one without, but for the noise of a child.

    `spread` is that noise in log perplexity (`spread_of_good`), nan where it is not known.
    """
    both = progress[progress["arm"].isin([larger, smaller])]
    last = both[both["samples"] == both.groupby("arm")["samples"].max().min()]
    best = {arm: np.log(last.loc[last["arm"] == arm, "top1"]) for arm in (larger, smaller)}
    value, edges = difference(best[larger], best[smaller])
    known = bool(np.isfinite(spread))
    margin = f"{spread:.3f}, by which seeds of a good cell differ" if known else "not known yet"
    return {
        "value": value,
        "interval": edges,
        "unit": "log perplexity of the best, more with max and sin",
        "seeds": len(best[larger]),
        "supports": bool(value < spread) if known else None,
        "against": spread if known else None,
        "reason": f"ZL17 gives no value; comparable is below a margin of ours, the noise of a child: {margin}",
    }


def comparable_told(facts: Facts) -> str:
    """What `comparable` says, for people."""
    low, high = facts["interval"] or (math.nan, math.nan)
    margin = "not known yet" if facts["against"] is None else f"{facts['against']:.3f}"
    return (
        f"With more functions the best child's log perplexity is higher by **{facts['value']:+.3f}** (95% interval "
        f"{low:+.3f} to {high:+.3f}, {facts['seeds']} searches of each kind). Comparable is what lies below the "
        f"difference of seeds of one good cell, {margin}."
    )
