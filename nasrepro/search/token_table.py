"""Searches where every token string's reward is known: what a controller can show, over hundreds of seeds.

One search on real children gives one number. Where a table holds the reward of every string of a space, a search costs
only its controller, and hundreds of them are computed side by side. So the controller is held against random search
with an interval, as ZL17's Figure 6 does with one run of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from nasrepro.controllers import FixedSpace, Place, PolicyGradientSettings, SideBySide, TokenAgentSettings
from nasrepro.datasets.nas_bench_macro import BLOCKS, LAYERS, NasBenchMacro


@dataclass(frozen=True)
class TokenTable:
    """What every token string of a space is worth. Strings are numbered as the digits of a number: the last is fastest.

    Raises ValueError where there are more or fewer rows than strings.
    """

    space: FixedSpace
    rewards: NDArray[np.float64]
    """What a controller is told of each string, one for each seed of its training, (strings, seeds); nan where it
    failed."""
    scores: NDArray[np.float64]
    """How good each string is, for reports, (strings,): the higher, the better."""

    def __post_init__(self) -> None:
        if (
            self.rewards.shape[:1] != (self.space.size,)
            or self.rewards.ndim != 2
            or len(self.scores) != self.space.size
        ):
            raise ValueError(
                f"a table of a space of {self.space.size} strings has as many rows of rewards and scores, got "
                f"{self.rewards.shape} and {self.scores.shape}"
            )

    def numbers(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of token strings: (..., tokens) -> (...)."""
        counts = [len(place.words) for place in self.space.places]
        return np.ravel_multi_index(tuple(np.moveaxis(tokens, -1, 0)), counts)


@dataclass(frozen=True)
class TableRuns:
    """Searches in a table, one for each seed."""

    seeds: tuple[int, ...]
    rewards: NDArray[np.float64]
    """What each sample earned, (seeds, samples); nan where its training failed."""
    scores: NDArray[np.float64]
    """How good it is, (seeds, samples)."""


def nas_bench_macro_table(bench: NasBenchMacro) -> TokenTable:
    """The published table as tokens: 8 of 3 choices. The reward is ZL17's of networks, the accuracy cubed; the score is
    the mean accuracy in percent."""
    space = FixedSpace(tuple(Place(f"block of layer {layer}", BLOCKS) for layer in range(LAYERS)))
    return TokenTable(space, (bench.accuracies / 100) ** 3, bench.accuracies.mean(1))


def controller_runs(
    table: TokenTable,
    seeds: Sequence[int],
    samples: int,
    learning: PolicyGradientSettings | None = None,
    agent: TokenAgentSettings | None = None,
) -> TableRuns:
    """Searches by ZL17's controller, each of so many samples or, where the last step needs more, some further.

    Each sample is told the reward of a seed of its training that is drawn for it, as a search would train it: so
    rewards have the noise of real ones. A run is the same whichever seeds are beside it, but for the last digits.
    """
    together = SideBySide(table.space, seeds, agent, learning)
    chance = [np.random.default_rng([seed, 1]) for seed in seeds]
    drawn: list[NDArray[np.int64]] = []
    rewards: list[NDArray[np.float64]] = []
    while len(drawn) * together.children < samples:
        drawn.append(table.numbers(together.ask().numpy()))
        rewards.append(_rewards(table, drawn[-1], chance))
        together.tell(torch.from_numpy(rewards[-1]))
    return TableRuns(tuple(seeds), np.concatenate(rewards, 1), table.scores[np.concatenate(drawn, 1)])


def random_runs(table: TokenTable, seeds: Sequence[int], samples: int) -> TableRuns:
    """Searches that draw tokens uniformly, each of so many samples, with the noise of `controller_runs`."""
    chance = [np.random.default_rng([seed, 2]) for seed in seeds]
    numbers = np.stack([each.integers(table.space.size, size=samples) for each in chance])
    return TableRuns(tuple(seeds), _rewards(table, numbers, chance), table.scores[numbers])


def evolution_runs(
    table: TokenTable, seeds: Sequence[int], samples: int, population: int = 100, tournament: int = 25
) -> TableRuns:
    """Searches by regularised evolution (Real et al. 2019, algorithm 1), with the noise of `controller_runs`.

    The first strings are drawn uniformly. For each later one, `tournament` strings are drawn, with repetition, from the
    `population` youngest ones; the best of them, failures being worse than all else, is the parent, and its child has
    one token changed, whichever to whichever other. The two numbers are those of Real et al., section 4. A run is the
    same whichever seeds are beside it. Raises ValueError for numbers below 1 and for a space with nothing to change.
    """
    if min(population, tournament) < 1:
        raise ValueError(f"population={population} and tournament={tournament} must be 1 or more")
    counts = np.array([len(place.words) for place in table.space.places])
    is_free = np.flatnonzero(counts > 1)  # places where there is something to change
    if not len(is_free):
        raise ValueError("evolution changes one token, but no place of this space has two words")
    chance = [np.random.default_rng([seed, 3]) for seed in seeds]
    first = min(population, samples)
    # Children lie by sample first, so that those of one population are neighbours in memory.
    numbers = np.empty((samples, len(seeds)), dtype=np.int64)
    rewards = np.empty((samples, len(seeds)))
    numbers[:first] = np.stack([each.integers(table.space.size, size=first) for each in chance], 1)
    rewards[:first] = _rewards(table, numbers[:first].T, chance).T
    fitness = np.full_like(rewards, -np.inf)
    fitness[:first] = np.nan_to_num(rewards[:first], nan=-np.inf)
    below = np.append(np.cumprod(counts[::-1])[-2::-1], 1)  # (places,) what a token counts in a string's number
    runs = np.arange(len(seeds))
    for begin in range(first, samples, _BLOCK):
        children = np.arange(begin, min(begin + _BLOCK, samples))
        # Chance does not depend on what was found, so it is worked out for many children at once.
        drawn = np.stack([each.random((len(children), tournament + 3)) for each in chance], 2)  # (children, ..., seeds)
        place = is_free[(drawn[:, 0] * len(is_free)).astype(np.int64)]  # (children, seeds), as are the next two
        other = 1 + (drawn[:, 1] * (counts[place] - 1)).astype(np.int64)
        trained_from = (drawn[:, 2] * table.rewards.shape[1]).astype(np.int64)
        rivals = (children - first)[:, None, None] + (drawn[:, 3:] * first).astype(np.int64)  # of the youngest
        worth, choices = below[place], counts[place]
        for at, child in enumerate(children):
            best = fitness[rivals[at], runs].argmax(0)  # (seeds,)
            parent = numbers[rivals[at, best, runs], runs]
            token = parent // worth[at] % choices[at]
            numbers[child] = parent + ((token + other[at]) % choices[at] - token) * worth[at]
            rewards[child] = table.rewards[numbers[child], trained_from[at]]
            fitness[child] = np.nan_to_num(rewards[child], nan=-np.inf)
    rewards, numbers = np.ascontiguousarray(rewards.T), np.ascontiguousarray(numbers.T)
    return TableRuns(tuple(seeds), rewards, table.scores[numbers])


_BLOCK = 256  # children of each run whose chance is drawn at once


def _rewards(
    table: TokenTable, numbers: NDArray[np.int64], chance: Sequence[np.random.Generator]
) -> NDArray[np.float64]:
    """A reward for each string of each run, from a seed of its training that the run's own chance picks."""
    seeds = np.stack([each.integers(table.rewards.shape[1], size=numbers.shape[1]) for each in chance])
    return table.rewards[numbers, seeds]


def progress(runs: TableRuns, at: Sequence[int], window: int = 32, top: Sequence[int] = (1, 5, 15)) -> pd.DataFrame:
    """How far each run has come after so many samples: columns seed, samples, window, best, top1, top5, ...

    `window` is the mean score of the last samples: of so many, or of all where there are fewer. `best` is the score of
    the one that earned the highest reward so far, which is all that a search knows. `top5` is the mean score of the
    five with the best scores so far, as in ZL17's Figure 6: repeated draws count each time, as its models do.

    A table lists fewer samples before more. Raises ValueError for a number of samples that the runs do not have.
    """
    if not at or not 0 < min(at) <= max(at) <= runs.scores.shape[1]:
        raise ValueError(f"at names numbers of samples from 1 to {runs.scores.shape[1]}, got {list(at)}")
    tables, before = [], 0
    leaders = np.full((len(runs.seeds), max(top, default=1)), -np.inf)  # the best scores so far, from the best down
    earned, best = np.full(len(runs.seeds), -np.inf), runs.scores[:, 0]  # the highest reward, and what is worth so much
    for count in sorted({*at}):
        scores, rewards = runs.scores[:, before:count], np.nan_to_num(runs.rewards[:, before:count], nan=-np.inf)
        first = rewards.argmax(1)[:, None]
        is_better = np.take_along_axis(rewards, first, 1)[:, 0] > earned
        best = np.where(is_better, np.take_along_axis(scores, first, 1)[:, 0], best)
        earned = np.maximum(earned, rewards.max(1))
        leaders = -_lowest(-np.concatenate([leaders, scores], 1), leaders.shape[1])
        before = count
        window_mean = runs.scores[:, max(0, count - window) : count].mean(1)
        table = pd.DataFrame({"seed": runs.seeds, "samples": count, "window": window_mean, "best": best})
        for number in top:
            table[f"top{number}"] = leaders[:, : min(number, count)].mean(1)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _lowest(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """So many of the lowest values of each row, in their order."""
    return np.sort(np.partition(values, count - 1, axis=1)[:, :count], axis=1)
