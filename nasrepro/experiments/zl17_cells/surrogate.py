"""ZL17's searches repeated on a surrogate, which tells the losses of children, to as many children as ZL17's.

Nobody trains twenty thousand children on two processor cores. But thousands are recorded, and S17's ranking function,
fitted to them, predicts the loss of others. What is found on such losses is a forecast, not a measurement: it decides
no finding, and it is called a surrogate wherever it is shown.

On predictions alone a search would be too easy: a real child's loss also depends on what the ranking function misses,
and on the seed. So that noise is put back. The loss of a cell is its prediction plus an error that was made on a
recorded cell; which one, chance decides among those whose predictions, made without having seen them, come closest.
Where that cell failed, this one fails.

Its limit: errors are known of cells like the recorded ones. A controller that learns for long writes others, for which
the ranking function may be worse, and whose predictions may lie below all that were ever measured (see `beyond`).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from tqdm.auto import tqdm

from nasrepro.controllers import SideBySide, Tokens, draw_tokens
from nasrepro.dsl import Cell, parse
from nasrepro.experiments.arms import Searches
from nasrepro.experiments.zl17_cells.sizes import ARMS, SurrogateSizes
from nasrepro.ranking import OperatorRidge, Ranker, cross_predict
from nasrepro.search.token_search import TokenSearchSettings

_ALIKE = 50
"""Recorded cells whose predictions come closest to a cell's: one of them lends its error."""


@dataclass(frozen=True)
class Surrogate:
    """What stands in for training: a ranking function, and the errors that such a one makes."""

    ranker: Ranker
    """Fitted to all recorded cells."""
    predicted: NDArray[np.float64]
    """Log perplexity of each recorded cell by a ranking function that has not seen it, (cells,), the lowest first."""
    measured: NDArray[np.float64]
    """Their recorded log perplexity, (cells,), nan where the training failed."""
    bound: float
    """The perplexity above which a child fails."""

    def losses(self, cells: Sequence[Cell], chance: Sequence[float]) -> NDArray[np.float64]:
        """Validation perplexities of cells, (cells,), nan for those that fail.

        `chance`, a number from 0 to below 1 for each, decides which recorded cell lends its error.
        """
        predicted = self.ranker.predict(cells)
        alike = min(_ALIKE, len(self.predicted))
        first = np.clip(np.searchsorted(self.predicted, predicted) - alike // 2, 0, len(self.predicted) - alike)
        lender = first + (np.asarray(chance) * alike).astype(np.int64)
        found = np.exp(predicted + self.measured[lender] - self.predicted[lender])
        return np.where(found > self.bound, np.nan, found)


def trained(searches: Searches) -> tuple[list[Cell], list[float | None]]:
    """The distinct cells of all searches in the paper's main space, and their losses, None for those that failed."""
    found = {
        one.hash: (parse(one.cell), search.loss.of(one))
        for (arm, _), search in searches.items()
        for _, one in search.trials
        if ARMS[arm].space is None
    }
    return [cell for cell, _ in found.values()], [loss for _, loss in found.values()]


def fit(cells: Sequence[Cell], losses: Sequence[float | None], sizes: SurrogateSizes, bound: float) -> Surrogate:
    """A surrogate of recorded cells and their validation perplexities, None for those that failed.

    `bound` is the perplexity above which a child fails. Raises ValueError for too few cells (see `cross_predict`).
    """
    predicted = cross_predict(lambda seed: Ranker(sizes.ranker, seed), cells, losses, sizes.folds)
    order = np.argsort(predicted, kind="stable")
    measured = np.log([np.nan if loss is None else loss for loss in losses])
    return Surrogate(Ranker(sizes.ranker).fit(cells, losses), predicted[order], measured[order], bound)


def quality(surrogate: Surrogate, cells: Sequence[Cell], losses: Sequence[float | None], folds: int) -> pd.DataFrame:
    """How well models that have not seen them predict recorded cells: a row for each kind of model.

    Columns: model; tau, Kendall's, over cells that learned; tau_better, over their better half; error, the root mean
    square in log perplexity; told_apart, the share of pairs of a cell that failed and one that learned in which the
    first is predicted to be worse. A linear model of how often each operator occurs stands beside the ranking function.
    nan where there are too few cells.
    """
    margin = surrogate.ranker.settings.failure_margin
    by_counts = cross_predict(lambda _: OperatorRidge(margin), cells, losses, folds)
    measured = np.log([np.nan if loss is None else loss for loss in losses])
    models = {
        "ranking function": (surrogate.predicted, surrogate.measured),
        "counts of operators": (by_counts, measured),
    }
    return pd.DataFrame([{"model": name, **_quality(*model)} for name, model in models.items()])


def _quality(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> dict[str, float]:
    learned = np.isfinite(measured)
    better = learned & (measured <= np.nanmedian(measured))
    worse = predicted[~learned][:, None] > predicted[learned]  # (failed, learned)
    return {
        "tau": kendalltau(predicted[learned], measured[learned]).statistic,
        "tau_better": kendalltau(predicted[better], measured[better]).statistic,
        "error": float(np.sqrt(np.mean((predicted - measured)[learned] ** 2))),
        "told_apart": float(worse.mean()) if worse.size else np.nan,
    }


def beyond(surrogate: Surrogate, found: Mapping[tuple[str, int], pd.DataFrame]) -> dict[str, float]:
    """How far searches on a surrogate go where nothing was measured.

    `recorded`, the lowest recorded perplexity; `lowest`, the lowest that a search found; and `share`, the share of
    children that are lower than the lowest recorded one.
    """
    recorded = float(np.exp(np.nanmin(surrogate.measured)))
    losses = np.concatenate([table["loss"].to_numpy() for table in found.values()])
    return {"recorded": recorded, "lowest": float(np.nanmin(losses)), "share": float((losses < recorded).mean())}


def told(surrogate: Surrogate, found: Mapping[tuple[str, int], pd.DataFrame]) -> str:
    """`beyond`, for people."""
    facts = beyond(surrogate, found)
    return (
        f"The lowest perplexity that these searches find is {facts['lowest']:.2f}, the lowest recorded one "
        f"{facts['recorded']:.2f}. **{facts['share']:.1%}** of their children are said to be better than any that was "
        "ever trained: there the surrogate is a guess."
    )


def searches(
    surrogate: Surrogate, plans: Mapping[str, TokenSearchSettings], sizes: SurrogateSizes
) -> dict[tuple[str, int], pd.DataFrame]:
    """Searches of several arms on the surrogate, by arm and seed (see `repeat`)."""
    seeds = range(1, 1 + sizes.seeds)
    return {
        (arm, seed): table
        for arm, plan in plans.items()
        for seed, table in repeat(surrogate, plan, seeds, sizes.samples).items()
    }


def repeat(
    surrogate: Surrogate, plan: TokenSearchSettings, seeds: Sequence[int], samples: int
) -> dict[int, pd.DataFrame]:
    """Searches as `plan` says, one for each seed, to so many children, all of them on the surrogate.

    By seed, the table's column `loss` holds the children's perplexities in the order of drawing, nan for failures. A
    cell that a search draws again has the same loss again. The searches of all seeds are computed side by side.
    """
    draw, learn = _searchers(plan, seeds)
    hash_of: dict[Tokens, str] = {}
    known: dict[tuple[int, str], float] = {}  # by seed and the cell's hash
    children: list[NDArray[np.float64]] = []
    with tqdm(total=len(seeds) * samples, unit="child", desc=f"{plan.method} on the surrogate", leave=False) as bar:
        while len(children) * plan.step < samples:
            drawn = draw()
            cells = {tokens: plan.space.cell(tokens) for tokens in {*chain(*drawn)} if tokens not in hash_of}
            hash_of.update({tokens: cell.hash for tokens, cell in cells.items()})
            keys = [[(seed, hash_of[tokens]) for tokens in row] for seed, row in zip(seeds, drawn, strict=True)]
            new = {key: one for key, one in zip(chain(*keys), chain(*drawn), strict=True) if key not in known}
            if new:
                to_judge = [cells.get(tokens) or plan.space.cell(tokens) for tokens in new.values()]
                chance = [random.Random(str(key)).random() for key in new]
                known.update(zip(new, surrogate.losses(to_judge, chance).tolist(), strict=True))
            losses = np.array([[known[key] for key in row] for row in keys])  # (seeds, step)
            learn(plan.c / losses**2)
            children.append(losses)
            bar.update(losses.size)
    whole = np.concatenate(children, 1)[:, :samples]  # (seeds, samples)
    return {seed: pd.DataFrame({"loss": row}) for seed, row in zip(seeds, whole, strict=True)}


def _searchers(
    plan: TokenSearchSettings, seeds: Sequence[int]
) -> tuple[Callable[[], list[list[Tokens]]], Callable[[NDArray[np.float64]], Any]]:
    """How the next strings of every search are drawn, and how the searches learn from rewards, (seeds, strings)."""
    if plan.method == "random":
        chance = [random.Random(seed) for seed in seeds]
        return lambda: [[draw_tokens(plan.space, each) for _ in range(plan.step)] for each in chance], lambda _: None
    together = SideBySide(plan.space.strings, seeds, plan.agent, plan.reinforce)
    return (
        lambda: [[tuple(tokens) for tokens in row] for row in together.ask().tolist()],
        lambda rewards: together.tell(torch.from_numpy(rewards)),
    )
