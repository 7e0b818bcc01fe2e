"""What a search by S17's agent shows: the numbers of notebook 06, worked out from the search's trees and cells.

`drawn` is the table of a search's trees (`agent_search.trees`), `cells` that of its cells (`Search.frame`). A function
that decides a finding of the ledger answers with the finding's facts, as `Run.finding` takes them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from nasrepro.controllers import TreeAgent, is_well_formed, ready_batches
from nasrepro.dsl import Cell, Node, parse
from nasrepro.dsl.constraints import Rule, violations, words
from nasrepro.dsl.operators import OPERATORS
from nasrepro.experiments.s17_translation.sizes import LONG, share_of_translation
from nasrepro.report import papers, stats
from nasrepro.rnn import RNN
from nasrepro.search.agent_search import AgentSearchSettings, reasons, trees, updates
from nasrepro.search.history import Search
from nasrepro.trainers.translation import TranslationTask

Facts = dict[str, Any]

ANY_PRIOR = "any of these"
"""The last row of `broken_shares`."""

KEEPS = "Gate3(MM(x_t), h_{t-1}, Sigmoid(MM(h_{t-1})))"
"""A tree that keeps all priors of the pre-training (S17 section 4.2)."""

BREAKS = {
    "Gate3(MM(x_t), Tanh(h_{t-1}), h_{t-1})": "1. from h_t to the deepest source 3 to 11 edges",
    "Tanh(Sub(MM(x_t), MM(x_{t-1})))": "2. uses x_t and h_{t-1}, a matrix and an activation",
    "Mult(LayerNorm(Tanh(x_t)), h_{t-1})": "2. uses x_t and h_{t-1}, a matrix and an activation",
    "Tanh(Add(MM(x_t), Add(MM(h_{t-1}), x_t)))": "3. no operator directly under itself",
    "Tanh(Sigmoid(Add(MM(x_t), MM(h_{t-1}))))": "4. no activation directly under an activation",
    "Gate3(MM(x_t), MM(x_t), Sigmoid(MM(h_{t-1})))": "5. a gate mixes two different values",
    "Tanh(Add(MM(x_t), MM(Tanh(h_{t-1}))))": "6. matrices stand on sources",
    "Gate3(Sigmoid(MM(x_t)), h_{t-1}, c_{t-1})": "(ours) a place for c_t where c_{t-1} is read",
}
"""Trees that break one prior each, and which."""


# ---- what the agent would write


def chances(agent: TreeAgent, tree: Node) -> pd.DataFrame:
    """The agent's probabilities before each word of a tree: a row for each, top down, and a column for every word.

    Raises ValueError for a tree that the agent's settings do not allow.
    """
    with torch.inference_mode():
        policy = agent.policy(agent.decisions([tree]).slots).exp()  # (words of the tree, words)
    return pd.DataFrame(policy.numpy(), columns=list(agent.settings.words))


def draw(agent: TreeAgent, count: int, explore: bool = False) -> list[Node]:
    """The same `count` trees every time, by the agent's policy; with `explore`, epsilon draws some of their words."""
    return [one.tree for one in agent.sample(count, torch.Generator().manual_seed(1), explore)]


def broken_shares(kinds: Mapping[str, Sequence[Node]], rules: Sequence[Rule]) -> pd.DataFrame:
    """The share of trees that break each rule, and of those that break any: a row for each, a column for each kind."""

    def shares(trees: Sequence[Node]) -> dict[str, float]:
        broken = [violations(Cell(tree), rules) for tree in trees]
        each = {rule.name: float(np.mean([rule.name in reasons for reasons in broken])) for rule in rules}
        return {**each, ANY_PRIOR: float(np.mean([bool(reasons) for reasons in broken]))}

    return pd.DataFrame({kind: shares(trees) for kind, trees in kinds.items()}).rename_axis("prior broken")


# ---- the words of its trees


def word_counts(trees: Iterable[str], known: Sequence[str]) -> pd.DataFrame:
    """How often each of the `known` words stands in each tree: a row for each tree, a column for each word."""
    counted = [Counter(node.op for node in parse(text).root.walk()) for text in trees]
    return pd.DataFrame([[count[word] for word in known] for count in counted], columns=list(known))


def shares_by_step(counts: pd.DataFrame, steps: pd.Series) -> pd.DataFrame:
    """Each word's share of all words of a step, from `word_counts`: a row for each step, summing to 1."""
    by_step = counts.groupby(steps).sum()
    return by_step.div(by_step.sum(axis=1), axis=0)


def extended_share(counts: pd.DataFrame) -> pd.Series:
    """The share of S17's extended words among the words of each tree, from `word_counts`."""
    return counts[[word for word in counts if word in words("extended")]].sum(axis=1) / counts.sum(axis=1)


def extended_later(steps: pd.Series, shares: pd.Series) -> Facts:
    """Whether extended words come later: how the steps of trees and their `extended_share` go together."""
    return _direction(
        stats.kendall_interval([steps], shares),
        unit="Kendall's tau of step and share of extended words",
        reason="interval over the trees of one search",
    )


# ---- what its trees earn


def with_failures(drawn: pd.DataFrame, worth: float) -> pd.DataFrame:
    """The trees with two more columns: failed, whether none of a tree's cells could be trained to the end, and earned,
    its reward, or what a failure is `worth`."""
    return drawn.assign(failed=drawn["reward"].isna(), earned=drawn["reward"].fillna(worth))


def by_exploration(drawn: pd.DataFrame) -> pd.DataFrame:
    """Trees of the policy alone and those with a word by epsilon, a row for each, from `with_failures`.

    Columns: trees, failed (their share), reward (mean), best (lowest loss).
    """
    kind = np.where(drawn["explored"] > 0, "explored", "policy alone")
    return (
        drawn.assign(kind=kind)
        .groupby("kind")
        .agg(trees=("tree", "count"), failed=("failed", "mean"), reward=("earned", "mean"), best=("loss", "min"))
    )


# ---- its cells


def carries(node: Node) -> bool:
    """Whether x_t or h_{t-1} reaches this node unchanged but for sums and gates."""
    if node.is_source:
        return node.op in ("x_t", "h_{t-1}")
    ways = {"Add": node.args, "Gate3": node.args[:2]}
    return any(carries(arg) for arg in ways.get(node.op, ()))


def is_blind(cell: Cell) -> bool:
    """Whether a layer of the cell with random weights gives the same outputs for two random inputs."""
    rnn = RNN(cell, 8, 8, backend="reference", generator=torch.Generator().manual_seed(0))
    texts = torch.randn(2, 5, 1, 8, generator=torch.Generator().manual_seed(1))  # (texts, T, B, hidden)
    with torch.no_grad():
        first, second = (rnn(text)[0] for text in texts)
    return torch.equal(first, second)


def judged(cells: pd.DataFrame, bar: float) -> pd.DataFrame:
    """The cells with four more columns: tree, carries, blind, and better.

    Cells of one tree differ in their c_t. Better are those with a loss below `bar` that are not blind; a cell that
    failed has none.
    """
    parsed = [parse(text) for text in cells["cell"]]
    table = cells.assign(
        tree=[cell.root.text for cell in parsed],
        carries=np.array([carries(cell.root) for cell in parsed], dtype=bool),
        blind=np.array([is_blind(cell) for cell in parsed], dtype=bool),
    )
    return table.assign(better=(table["loss"] < bar) & ~table["blind"])


def architectures(cells: pd.DataFrame) -> Facts:
    """How many cells the search trained."""
    return {"value": len(cells), "unit": "architectures", "reason": "a smaller search, by choice"}


def better_count(cells: pd.DataFrame) -> Facts:
    """How many cells are better, from `judged`."""
    return {
        "value": int(cells["better"].sum()),
        "unit": "architectures",
        "reason": "by validation perplexity, without blind cells; grows with the search, so the share is what compares",
    }


def better_share(cells: pd.DataFrame) -> Facts:
    """The share of better cells, from `judged`."""
    return {
        "value": float(cells["better"].mean()),
        "interval": stats.interval(cells["better"]),
        "unit": "share",
        "supports": bool(cells["better"].any()),
        "reason": "by validation perplexity, not test BLEU, without blind cells; interval over the cells of one search",
    }


def residual(cells: pd.DataFrame) -> Facts:
    """Whether cells that carry a source rank higher, from `judged`; cells of one tree are resampled together."""
    return _direction(
        stats.kendall_interval([cells["carries"]], -_ranks(cells), groups=list(cells["tree"])),
        unit="Kendall's tau of rank and carrying x_t or h_{t-1}",
        reason="cells in which x_t or h_{t-1} reaches h_t through sums and gates alone rank higher; "
        "interval over trees",
    )


def carrying_shares(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells the best tenth has, and the others, and which share of them carries a source, from `judged`."""
    best = _ranks(cells) <= max(1, len(cells) // 10)
    groups = {"best tenth": cells.loc[best, "carries"], "others": cells.loc[~best, "carries"]}
    rows = {name: {"cells": len(part), "carry x_t or h_{t-1}": part.mean()} for name, part in groups.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")


def occurrence(cells: pd.DataFrame) -> pd.DataFrame:
    """The share of cells in which each operator of S17's occurs, from `judged`: of the better ones, and of the others.

    A row for each operator; the columns' names say how many cells there are. Among no cells none occurs.
    """
    names = [word for word in words("core", "extended") if word in OPERATORS]
    occurs = word_counts(cells["cell"], names).set_axis(cells.index) > 0
    groups = {"cells better than the LSTM": cells["better"], "all other cells": ~cells["better"]}
    return pd.DataFrame({f"{name} ({some.sum()})": occurs[some].mean() for name, some in groups.items()}).fillna(0.0)


def all_operators(occurring: pd.DataFrame) -> Facts:
    """How many operators occur in a better cell, from `occurrence`."""
    missing = list(occurring.index[occurring.iloc[:, 0] == 0])
    return {
        "value": len(occurring) - len(missing),
        "unit": f"operators of {len(occurring)}",
        "supports": not missing,
        "reason": f"missing: {', '.join(missing)}" if missing else "by validation perplexity, without blind cells",
    }


def _ranks(cells: pd.DataFrame) -> pd.Series:
    """1 for the best; cells that failed tie at the end."""
    return cells["loss"].rank(na_option="bottom")


def _direction(tau: stats.Estimate, unit: str, reason: str) -> Facts:
    """A claim that two things go together holds where the interval lies above zero, and fails where below."""
    edges = (tau.low, tau.high)
    supports = stats.told(edges, True, False, None)
    return {"value": tau.value, "interval": edges, "unit": unit, "supports": supports, "against": 0.0, "reason": reason}


# ---- the agent against chance: several searches, by their method and seed


def best_so_far(searches: Mapping[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """Log loss of the best cell so far, after each cell of each search; nan before the first that did not fail.

    `searches` are their cells. Columns: method, seed, budget (cells so far), best.
    """
    tables = []
    for (method, seed), cells in searches.items():
        best = np.log(cells["loss"].cummin().ffill())
        tables.append(pd.DataFrame({"method": method, "seed": seed, "budget": cells["number"] + 1, "best": best}))
    return pd.concat(tables)


def best_within(progress: pd.DataFrame, budget: int) -> pd.DataFrame:
    """The best of so many cells, from `best_so_far`: a row for each seed from which all methods found one, a column for
    each method."""
    spent = progress[progress["budget"] <= budget]
    return spent.groupby(["method", "seed"])["best"].min().unstack("method").dropna()


def thirds(drawn: pd.DataFrame) -> pd.Series:
    """What changes from the first third of a search's trees to the last, from `with_failures`."""
    size = max(1, len(drawn) // 3)
    measured = pd.DataFrame(
        {
            "mean reward": drawn["earned"],
            "share of trees that failed": drawn["failed"].astype(float),
            "share of well-formed trees": [float(is_well_formed(parse(text).root)) for text in drawn["tree"]],
        }
    )
    return measured.tail(size).mean() - measured.head(size).mean()


def changes(searches: Mapping[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """Each method's mean change between `thirds`, and its interval over seeds: nan for fewer than three.

    `searches` are their trees, from `with_failures`. A row for each method and measure; columns: change, low, high.
    """
    single = pd.DataFrame({key: thirds(drawn) for key, drawn in searches.items()}).T
    rows = {
        (method, measure): [values.mean(), *(stats.interval(values) or (np.nan, np.nan))]
        for method, part in single.groupby(level=0)
        for measure, values in part.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["change", "low", "high"])
    return table.set_axis(pd.MultiIndex.from_tuples(rows, names=["method", "measure"]))


# ---- searches long enough to learn, by what draws their trees and their seed


class LongSearch(NamedTuple):
    """A search of a thousand trees, as far as it is recorded."""

    trees: pd.DataFrame  # from `with_failures`, and of each tree the reason why it failed, and whether it is blind
    updates: int  # that its agent has made
    cells: int = 0  # that it has trained
    planned: int = 0  # that it was to train
    devices: frozenset[str] = frozenset()


LongSearches = Mapping[tuple[str, int], LongSearch]


class _Run(Protocol):
    """What is asked of the notebook's run (see `nasrepro.notebook.Run`)."""

    sizes: Any

    def shipped_search(self, plan: AgentSearchSettings, task: TranslationTask, /) -> Search | None:
        """A search in the shipped record."""


def recorded_longs(run: _Run) -> dict[tuple[str, int], LongSearch]:
    """The long searches in the shipped record, which a notebook has no time for."""
    found = {}
    for key, (task, plan) in run.sizes.longs().items():
        search = run.shipped_search(plan, task)
        if search is not None and len(drawn := trees(search)):
            learned = drawn.loc[drawn["reward"].notna(), "tree"]
            blind = {tree for tree in learned.unique() if is_blind(parse(tree))}
            drawn = drawn.assign(reason=reasons(search), blind=drawn["tree"].isin(blind))
            made = with_failures(drawn, plan.reinforce.failed)
            devices = frozenset(one.device for _, one in search.trials if one.device)
            found[key] = LongSearch(made, len(updates(search)), len(search.trials), plan.cells, devices)
    return found


def why_failed(searches: LongSearches) -> pd.DataFrame:
    """Of how many trees of each search training failed, and why: a row a search, a column a reason, most first."""
    rows = {
        f"{kind}, seed {seed}": {"trees": len(drawn), "learned": int((~drawn["failed"]).sum())}
        | drawn.loc[drawn["failed"], "reason"].value_counts().to_dict()
        for (kind, seed), (drawn, *_) in searches.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(0).astype(int).rename_axis("search")


def batches(searches: LongSearches) -> pd.DataFrame:
    """What the agent of each search learned from: a row for each that has made updates.

    Columns: trees, failed (their share), updates, trees an update, failures (how many), learned from (how many of them
    stood in a batch), and share (of those in all that it learned from). A failure that came while another waited
    with it for a batch is never learned from (see `ready_batches`).
    """
    rows = {}
    for (kind, seed), one in searches.items():
        if one.updates:
            results = [(None, None if failed else 1.0) for failed in one.trees["failed"]]
            made = [result for batch in ready_batches(results)[0] for result in batch]
            failures, inside = int(one.trees["failed"].sum()), sum(reward is None for _, reward in made)
            count = len(one.trees)
            numbers = [count, failures / count, one.updates, count / one.updates, failures, inside]
            rows[f"{kind}, seed {seed}"] = [*numbers, inside / max(1, len(made))]
    columns = ["trees", "failed", "updates", "trees an update", "failures", "learned from", "share"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("search")


_FIRST = 200


def what_priors_change(searches: LongSearches, first: int = _FIRST) -> pd.DataFrame:
    """How the first trees of each search fare that keep all priors, and how those that break one: a row a search.

    Columns: trees, keep (the share that keeps all), and of either kind the share that failed (nan where there is none),
    the share of trees that cannot be trained at all, and updates (that the first trees made). An agent writes its
    first trees as its pre-training left it, or, without, as its fresh weights do; the random generator keeps all.
    """
    rows = {}
    for (kind, seed), one in searches.items():
        drawn = one.trees.head(first)
        keeps = np.array([is_well_formed(parse(tree).root) for tree in drawn["tree"]], dtype=bool)
        failed, results = drawn["failed"], [(None, None if lost else 1.0) for lost in drawn["failed"]]
        rows[f"{kind}, seed {seed}"] = {
            "trees": len(drawn),
            "keep all priors": keeps.mean(),
            "failed, of those that do": failed[keeps].mean(),
            "failed, of the others": failed[~keeps].mean(),
            "not trained at all": (drawn["cells"] == 0).mean(),
            "updates": len(ready_batches(results)[0]) if one.updates else 0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("search")


def priors_told(changed: pd.DataFrame) -> str:
    """What pre-training on the priors changes, from `what_priors_change`, for people: means over seeds of each kind."""
    means = changed.groupby([str(name).rpartition(", seed ")[0] for name in changed.index], sort=False).mean()
    if not {LONG[0], LONG[-1]} <= {*means.index}:
        return ""
    begun, fresh = means.loc[LONG[0]], means.loc[LONG[-1]]
    return (
        f"With its pre-training the agent keeps all priors in **{begun['keep all priors']:.0%}** of its first "
        f"{begun['trees']:.0f} trees, without in **{fresh['keep all priors']:.0%}**, where "
        f"{fresh['not trained at all']:.0%} cannot be trained at all (with: {begun['not trained at all']:.0%}). Trees "
        f"that keep the priors fail in {begun['failed, of those that do']:.0%} of all cases, those that break one in "
        f"{begun['failed, of the others']:.0%}, without pre-training in {fresh['failed, of the others']:.0%}. So these "
        f"trees make **{begun['updates']:.0f}** updates with pre-training and **{fresh['updates']:.0f}** without: an "
        "agent that begins without hardly ever learns."
    )


_WINDOW = 100


def by_window(searches: LongSearches, size: int = _WINDOW) -> pd.DataFrame:
    """What the trees of each search are like, in windows of so many; the last, if not full, is left out.

    Columns: kind, seed, trees (drawn by the window's end), reward (mean), and shares of trees that failed and that are
    blind, and of extended words.
    """
    rows = []
    for (kind, seed), (drawn, *_) in searches.items():
        extended = extended_share(word_counts(drawn["tree"], _ALL_WORDS))
        measures = drawn[["earned", "failed", "blind"]].astype(float).assign(extended=extended)
        for end in range(size, len(drawn) + 1, size):
            means = measures.iloc[end - size : end].mean().rename({"earned": "reward"})
            rows.append({"kind": kind, "seed": seed, "trees": end, **means.to_dict()})
    return pd.DataFrame(rows, columns=["kind", "seed", "trees", "reward", "failed", "blind", "extended"])


def learns(drawn: pd.DataFrame) -> stats.Estimate:
    """Whether the rewards of one search, from `with_failures`, rise: Kendall's tau of a tree's step and its reward.

    The interval is over the steps of this one search: trees of one step come from one policy.
    """
    return stats.kendall_interval([drawn["step"]], drawn["earned"], groups=list(drawn["step"]))


def long_words(searches: LongSearches, task: TranslationTask) -> str:
    """How long each of them is, and what it trains, for captions."""
    spans = [f"{kind}, seed {seed}: {len(one.trees):,} trees" for (kind, seed), one in searches.items()]
    return "; ".join([*spans, task.words()])


def long_told(searches: LongSearches, planned: Iterable[tuple[str, int]] = ()) -> str:
    """What became of the rewards of each search, in a line each; of one without two windows, nothing.

    Searches that have not come to their end are said so, and those that are planned, by kind and seed, and not
    recorded, are named.
    """
    windows = by_window(searches)
    lines = [] if searches else ["No long search is recorded for this profile; see `course`."]
    for (kind, seed), (drawn, steps, *_) in searches.items():
        ends = windows[(windows["kind"] == kind) & (windows["seed"] == seed)]
        if len(ends) > 1:
            lines += _long_line(f"{kind}, seed {seed}", drawn, steps, ends)
    begun = [
        f"{kind}, seed {seed} ({one.cells:,} of {one.planned:,} cells)"
        for (kind, seed), one in searches.items()
        if one.cells < one.planned
    ]
    missing = [f"{kind}, seed {seed}" for kind, seed in planned if searches and (kind, seed) not in searches]
    for state, names in {"Begun and not finished": begun, "Planned and not recorded": missing}.items():
        lines += [f"\n{state}: {'; '.join(names)}."] if names else []
    return "\n".join(lines)


def long_findings(searches: LongSearches) -> dict[str, Facts]:
    """What the long searches by the agent as S17 has it say of Figures 4 and 6, by the paper's entry: none where none
    is recorded.

    The direction in which the share of extended words goes is that of every search, or none: its interval is over the
    searches, so there is none for fewer than three.
    """
    own = {f"seed {seed}": one for (kind, seed), one in searches.items() if kind == LONG[0]}
    if not own:
        return {}
    shares = {name: extended_share(word_counts(one.trees["tree"], _ALL_WORDS)) for name, one in own.items()}
    taus = {
        name: stats.kendall_interval([one.trees["step"]], shares[name], groups=list(one.trees["step"]))
        for name, one in own.items()
    }
    ways = {stats.told((tau.low, tau.high), True, False, None) for tau in taus.values()}
    spoken = [f"{name}: {tau.value:+.2f} ({tau.low:+.2f} to {tau.high:+.2f})" for name, tau in taus.items()]
    values = [tau.value for tau in taus.values()]
    not_recovered = "the paper's values were not recovered; mean over the trees of each search"
    return {
        "s17.mt.extended_later": {
            "value": float(np.mean(values)),
            "interval": stats.interval(values),
            "unit": "Kendall's tau of step and share of extended words",
            "seeds": len(own),
            "supports": ways.pop() if len(ways) == 1 else None,
            "against": 0.0,
            "reason": f"mean over the long searches; each, with its interval over steps: {'; '.join(spoken)}",
        },
        "s17.fig4": {
            "value": float(np.mean([share.mean() for share in shares.values()])),
            "unit": "share of extended words",
            "seeds": len(own),
            "reason": not_recovered,
        },
        "s17.fig6": {
            "value": float(np.mean([one.trees["earned"].mean() for one in own.values()])),
            "unit": "mean reward",
            "seeds": len(own),
            "reason": not_recovered,
        },
    }


def long_spent(searches: LongSearches, task: TranslationTask) -> dict[str, Any]:
    """What the agent's long searches took, each for itself, beside S17's search: as `Run.finding` takes it."""
    own = {key: one for key, one in searches.items() if key[0] == LONG[0]}
    paper = papers.load()["s17.search.mt.architectures"].value
    return {
        "budget": share_of_translation(task, min(one.cells for one in own.values()), of=int(paper or 0)),
        "budget_words": long_words(own, task),
        "data": task.data_words,
        "device": ", ".join(sorted(set().union(*(one.devices for one in own.values())))),
    }


_ALL_WORDS = words("core", "extended")


def _long_line(name: str, drawn: pd.DataFrame, steps: int, ends: pd.DataFrame) -> list[str]:
    """What became of one search; `ends` are its windows."""
    first, last, tau = ends.iloc[0], ends.iloc[-1], learns(drawn)
    way = stats.told((tau.low, tau.high), "rises", "falls", "shows no direction")
    changes = [("failures", "failed"), ("blind trees", "blind"), ("extended words", "extended")]
    shares = ", ".join(f"{words} {first[column]:.0%} to {last[column]:.0%}" for words, column in changes)
    line = (
        f"- **{name}**, {steps} updates: the reward {way} (Kendall's tau of step and reward {tau.value:+.2f}, 95% "
        f"interval over steps {tau.low:+.2f} to {tau.high:+.2f}). From the first hundred trees to the last: mean "
        f"reward {first['reward']:.1f} to {last['reward']:.1f}, {shares}; lowest perplexity {drawn['loss'].min():.1f}."
    )
    if way != "falls" or last["reward"] >= first["reward"]:
        return [line]
    learned = drawn[~drawn["failed"]]
    often = learned["tree"].value_counts()
    collapse = (
        f"    It has **collapsed**. The best of these hundreds earned {ends['reward'].max():.1f} on average. The tree "
        f"that learned most often is `{often.index[0]}`, {often.iloc[0]:,} times of {len(learned):,}; of all that "
        f"learned, {learned['blind'].mean():.0%} are blind. Of its {int(drawn['failed'].sum()):,} failures at most "
        f"{steps:,} were learned from, one in each update."
    )
    return [line, collapse]
