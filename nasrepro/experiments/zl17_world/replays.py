"""Searches replayed where every reward is known, many of each kind, and what each kind is ahead of random search by."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from nasrepro.controllers import FixedSpace, PolicyGradientSettings, TokenAgentSettings
from nasrepro.datasets import Corpus
from nasrepro.datasets.nas_bench_macro import load_nas_bench_macro
from nasrepro.datasets.registry import MissingData
from nasrepro.hardware import device_name
from nasrepro.native.build import CORES
from nasrepro.report.papers import Entry
from nasrepro.report.stats import kendall, over_seeds, told
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.tabular import Pool, simulate_many
from nasrepro.search.token_table import (
    TableRuns,
    TokenTable,
    controller_runs,
    evolution_runs,
    nas_bench_macro_table,
    progress,
    random_runs,
)
from nasrepro.threads import torch_threads
from nasrepro.worlds import World

T = TypeVar("T")

RANDOM = "random search"
EVOLUTION = "regularised evolution"

TOP = (1, 5, 15)
"""Of how many best models ZL17's Figure 6 takes the mean."""


def replay(
    table: TokenTable, controllers: Mapping[str, PolicyGradientSettings], seeds: Sequence[int], samples: int
) -> tuple[dict[str, TableRuns], dict[str, float]]:
    """Searches of every kind, one for each seed, by its name: random search, evolution, and these controllers.

    Returns also how many seconds each kind took.
    """
    kinds: dict[str, Callable[[], TableRuns]] = {
        RANDOM: lambda: random_runs(table, seeds, samples),
        EVOLUTION: lambda: evolution_runs(table, seeds, samples),
        **{name: partial(_by_controller, table, each, seeds, samples) for name, each in controllers.items()},
    }
    found, seconds = {}, {}
    for name, run in kinds.items():
        start = time.perf_counter()
        found[name] = run()
        seconds[name] = time.perf_counter() - start
    return found, seconds


_TOGETHER = 50
"""Controllers that learn in step: of so many, what Python does between two steps is a small part."""


def _by_controller(
    table: TokenTable, learning: PolicyGradientSettings, seeds: Sequence[int], samples: int
) -> TableRuns:
    """As `controller_runs`, shared out among the processor's cores, and cut to so many samples."""
    groups = CORES * -(-len(seeds) // (CORES * _TOGETHER))  # equally many for every core
    parts = _shared_out(partial(controller_runs, table, samples=samples, learning=learning), seeds, groups)
    return TableRuns(
        tuple(seeds),
        np.concatenate([part.rewards[:, :samples] for part in parts]),
        np.concatenate([part.scores[:, :samples] for part in parts]),
    )


def _shared_out(search: Callable[[list[int]], T], seeds: Sequence[int], groups: int = CORES) -> list[T]:
    """What a function of some seeds answers for groups of them, on all cores."""
    shares = [part.tolist() for part in np.array_split(seeds, min(groups, len(seeds)))]
    with torch_threads(1), ThreadPoolExecutor(CORES) as pool:  # compiled code and torch let go of Python
        return [*pool.map(search, shares)]


def ranked_and_random(pool: Pool, ranked: SearchSettings, seeds: Sequence[int]) -> tuple[pd.DataFrame, float]:
    """S17's searches in a pool of cells and as many random ones, see `simulate_many`; and the seconds they took."""
    variants = {"ranked": ranked, "random": replace(ranked, method="random")}
    start = time.perf_counter()
    pool.forest(ranked.ranker.unroll)  # once for all
    parts = _shared_out(partial(simulate_many, pool, variants), seeds)
    return pd.concat(parts, ignore_index=True), time.perf_counter() - start


# ---- what it costs


def cost(method: str, searches: int, samples: int, seconds: float) -> dict[str, Any]:
    """A row of a table of what replayed searches took here; per search in milliseconds."""
    per_search = 1_000 * seconds / searches
    return {
        "method": method,
        "searches": searches,
        "samples": samples,
        "seconds": seconds,
        "milliseconds": per_search,
        "device": device_name(),
    }


def costs_told(costs: pd.DataFrame) -> str:
    """What a table of costs says, for people."""
    parts = [
        f"{row['method']}: {row['searches']} searches to {row['samples']:,} in {row['seconds']:.3g} s, "
        f"{_rounded(row['milliseconds'])} ms each"
        for row in costs.to_dict("records")
    ]
    return f"{'; '.join(parts)} ({costs['device'].iloc[0]})"


def _rounded(value: float) -> str:
    """A number with three significant digits, never as a power of ten: 1,690."""
    return f"{float(f'{value:.3g}'):,g}"


def arithmetic(space: FixedSpace, samples: int, agent: TokenAgentSettings | None = None) -> float:
    """Multiplications and additions of a controller's search, if each string were worked out for itself.

    Those of its matrices, for each token once to draw it and twice to learn from it.
    """
    agent = agent or TokenAgentSettings()
    lstm = len(space.places) * agent.layers * 8 * agent.units**2
    softmax = sum(len(place.words) for place in space.places) * agent.units
    return 3.0 * 2.0 * samples * (lstm + softmax)


def arithmetic_told(space: FixedSpace, samples: int, searches: int, seconds: Mapping[str, float]) -> str:
    """How fast the controllers' searches were computed, for people: from the seconds that all of a kind took."""
    alone = arithmetic(space, samples) / 1e9
    rates = [f"the **{name}** made {searches * alone / took:,.0f} billion a second" for name, took in seconds.items()]
    return (
        f"One controller's search is {alone:,.1f} billion multiplications and additions, if each string is worked out "
        f"for itself: {', '.join(rates)}. Not all had to be made: strings that begin alike share the states of their "
        "beginnings, the more, the surer a controller is of them."
    )


def published_table() -> TokenTable | None:
    """NAS-Bench-Macro as tokens; None where it is neither on this machine nor to be fetched here."""
    try:
        return nas_bench_macro_table(load_nas_bench_macro())
    except MissingData:
        return None


def milestones(samples: int, count: int = 40) -> list[int]:
    """Some numbers of samples, closer together at the beginning, the last of them all."""
    return sorted({max(1, samples * number**2 // count**2) for number in range(1, count + 1)})


def leads(runs: Mapping[str, TableRuns], at: Sequence[int]) -> pd.DataFrame:
    """By how much each kind of search is ahead of random search after so many samples (ZL17, Figure 6).

    Columns: method, samples, of ("best 1", "best 5", "best 15": their mean score; "window": the mean score of the last
    samples), lead (mean over seeds of the difference of scores), low and high (95% by the normal distribution).
    """
    told_of = {f"best {number}": f"top{number}" for number in TOP} | {"window": "window"}
    tables = {name: progress(of, at, top=TOP).set_index(["samples", "seed"]) for name, of in runs.items()}
    rows = []
    for name in [name for name in runs if name != RANDOM]:
        for of, column in told_of.items():
            ahead = (tables[name][column] - tables[RANDOM][column]).groupby("samples").agg(["mean", "sem"])
            reach = 1.96 * ahead["sem"]
            facts = {"lead": ahead["mean"], "low": ahead["mean"] - reach, "high": ahead["mean"] + reach}
            rows.append(pd.DataFrame({"method": name, "of": of, **facts}).reset_index())
    return pd.concat(rows, ignore_index=True)


def verdicts(found: pd.DataFrame, at: Sequence[int]) -> pd.DataFrame:
    """Whether each kind of search is ahead of random search, by its best five, after so many samples: a row for each
    kind, a column for each number, of words."""
    rows = found[(found["of"] == "best 5") & found["samples"].isin(at)]
    words = [
        f"{told((low, high), 'ahead', 'behind', 'level')} ({lead:+.2f})"
        for low, high, lead in rows[["low", "high", "lead"]].to_numpy(dtype=float).tolist()
    ]
    return rows.assign(words=words).pivot_table(
        index="method", columns="samples", values="words", aggfunc="first", sort=False
    )


def lead_at_the_end(runs: Mapping[str, TableRuns], method: str, best: int) -> dict[str, Any]:
    """Value, interval and seeds of a kind's lead over random search by its best models, after all samples."""
    samples = runs[method].scores.shape[1]
    ends = {name: progress(runs[name], [samples], top=TOP)[f"top{best}"].to_numpy() for name in (method, RANDOM)}
    return over_seeds(ends[method] - ends[RANDOM])


def of_paper(entry: Entry) -> pd.DataFrame:
    """The curves of ZL17's Figure 6, as recovered from its drawing, in the columns of `leads`."""
    series = pd.DataFrame(entry.series).rename(columns={"models": "samples"})
    lines = series.rename(columns={f"top{number}": f"best {number}" for number in TOP})
    return lines.melt("samples", var_name="of", value_name="lead")


def seen(table: TokenTable, samples: int) -> float:
    """The share of all token strings that so many uniform samples have seen, on average."""
    return 1 - (1 - 1 / table.space.size) ** samples


def looks_until(runs: TableRuns, score: float) -> np.ndarray:
    """How many samples each search took until one was as good as this score, (seeds,); inf where none was."""
    reached = runs.scores >= score
    return np.where(reached.any(1), 1.0 + reached.argmax(1), math.inf)


# ---- what the world itself tells


def frequencies_alone(text: Corpus) -> float:
    """The perplexity, on the validation text, of letters drawn by how frequent each is in the training text."""
    counts = 1.0 + np.bincount(text.train.numpy(), minlength=len(text.vocab))  # one more, so that none is impossible
    return float(np.exp(-np.log(counts / counts.sum())[text.valid.numpy()].mean()))


def agreement(world: World) -> pd.DataFrame:
    """How far an order of cells can be trusted: Kendall's tau between seeds, and between the two lengths of training.

    A row for each pair of orders: what is compared, tau of all cells that learned, and of the better half of them.
    """
    losses = world.seed_losses
    pairs = {
        "one seed and another": (losses[:, 0], losses[:, 1]),
        "a short training and one ten times as long": (losses[: len(world.long_losses), 0], world.long_losses),
    }
    rows = []
    for words, (first, second) in pairs.items():
        known = np.isfinite(first) & np.isfinite(second)
        better = known & (first <= np.median(first[known]))
        rows.append(
            {
                "orders": words,
                "cells": int(known.sum()),
                "tau": kendall(first[known], second[known]),
                "tau, better half": kendall(first[better], second[better]),
            }
        )
    return pd.DataFrame(rows)


def noise(world: World) -> tuple[float, float]:
    """The standard deviation of the log perplexity over seeds: its median over cells, and its root mean square.

    Cells that failed from any of the seeds are left out.
    """
    logs = np.log(world.seed_losses.astype(np.float64))
    variances = logs[np.isfinite(logs).all(1)].var(1, ddof=1)
    return float(np.sqrt(np.median(variances))), float(np.sqrt(variances.mean()))
