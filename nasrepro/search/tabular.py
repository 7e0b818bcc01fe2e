"""Searches in a pool of cells that were all evaluated before: the same choices, no training.

One search gives one number, and nobody trains a thousand cells fifty times. In a recorded pool a search costs only its
rankings, so that ranked and random search can be compared over many seeds, with an interval: what S17 never did.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from nasrepro.dsl import Cell, parse
from nasrepro.ranking import Ranker
from nasrepro.ranking.batch import Forest
from nasrepro.ranking.validation import Predictor
from nasrepro.search.ranked_search import SearchSettings, select

Evaluated = pd.DataFrame | Sequence[tuple[Cell | str, float | None]]


class Pool:
    """Distinct cells and what became of them, made ready once for many searches.

    Raises ValueError for an empty pool.
    """

    def __init__(self, evaluated: Evaluated) -> None:
        """(cell, validation perplexity or None for a failure) pairs, or a table with columns `cell` and `loss` such as
        `Search.frame()`. Of equal cells the first counts."""
        pairs: Iterable[tuple[Cell | str, float | None]] = (
            zip(evaluated["cell"], evaluated["loss"], strict=True) if isinstance(evaluated, pd.DataFrame) else evaluated
        )
        first: dict[str, tuple[Cell, float | None]] = {}
        for given, loss in pairs:
            cell = given if isinstance(given, Cell) else parse(str(given))
            first.setdefault(cell.hash, (cell, float(loss) if loss is not None and math.isfinite(loss) else None))
        if not first:
            raise ValueError("the pool is empty: there is nothing to search in")
        self.cells = [cell for cell, _ in first.values()]
        self.losses = [loss for _, loss in first.values()]
        self.forest = lru_cache(maxsize=1)(lambda unroll: Forest(self.cells, unroll))
        """The cells' trees, by the number of steps that are unrolled, numbered at the first call."""


def simulate(
    pool: Pool | Evaluated, settings: SearchSettings, make_ranker: Callable[[int], Predictor] | None = None
) -> pd.DataFrame:
    """Search a pool, and see how good the best cell is after so many evaluations.

    Each step chooses among the cells of the pool not chosen yet, as `propose_cells` chooses among new cells; every cell
    is admitted from the beginning. With one `settings.seed`, all methods begin with the same cells.

    Args:
        pool: the cells, see `Pool`.
        settings: method, cells (the budget), step, sampled, temperature, candidates, seed, ranker are used.
        make_ranker: another predictor in place of the ranking function, made from a seed.

    Returns one row per cell: number, step, how, cell, predicted, loss (nan for a failure), best (lowest so far).
    Raises ValueError for an empty pool.
    """
    pool = pool if isinstance(pool, Pool) else Pool(pool)
    cells, losses = pool.cells, pool.losses
    budget = min(settings.cells, len(cells))
    left = list(range(len(cells)))
    rows: list[dict[str, object]] = []
    known: list[int] = []
    for step in range(math.ceil(budget / settings.step)):
        rng = random.Random(f"{settings.seed}/{step}")
        is_ranked = settings.method == "ranked" and any(losses[i] is not None for i in known)
        drawn = rng.sample(left, min(settings.candidates if is_ranked else settings.step, len(left)))
        chosen: list[tuple[int, str, float]]
        if is_ranked:
            seed = rng.getrandbits(31)
            ranker = make_ranker(seed) if make_ranker else _ranker(pool, settings, seed)
            ranker.fit([cells[i] for i in known], [losses[i] for i in known])
            predicted = ranker.predict([cells[i] for i in drawn])
            chosen = [(drawn[j], how, float(predicted[j])) for j, how in select(predicted, settings, rng)]
        else:
            chosen = [(i, "random", math.nan) for i in drawn]
        for i, how, value in chosen:
            rows.append({"step": step, "how": how, "cell": str(cells[i]), "predicted": value})
            rows[-1]["loss"] = math.nan if losses[i] is None else losses[i]
            known.append(i)
        left = sorted(set(left) - set(known))
    frame = pd.DataFrame(rows[:budget]).rename_axis("number").reset_index()
    frame["best"] = np.fmin.accumulate(frame["loss"].to_numpy(dtype=float))
    return frame


def _ranker(pool: Pool, settings: SearchSettings, seed: int) -> Ranker:
    return Ranker(settings.ranker, seed, pool.forest(settings.ranker.unroll))


def simulate_many(pool: Pool | Evaluated, variants: Mapping[str, SearchSettings], seeds: Iterable[int]) -> pd.DataFrame:
    """Searches of several kinds in one pool, one for every seed: columns method, seed, budget, best.

    `best` is the lowest perplexity among the first `budget` cells, nan while all have failed. Searches with
    one seed begin with the same cells, so differences between methods are taken seed by seed."""
    pool = pool if isinstance(pool, Pool) else Pool(pool)
    seeds = list(seeds)
    frames = [
        simulate(pool, replace(settings, seed=seed)).assign(method=method, seed=seed)
        for method, settings in variants.items()
        for seed in seeds
    ]
    runs = pd.concat(frames, ignore_index=True).assign(budget=lambda frame: frame["number"] + 1)
    return runs[["method", "seed", "budget", "best"]]
