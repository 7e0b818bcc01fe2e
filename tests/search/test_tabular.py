"""Searching a recorded pool: every cell once, the best so far by definition, and known expectations."""

import random

import numpy as np
import pandas as pd
import pytest

from nasrepro.controllers import draw_cells
from nasrepro.dsl import Cell, zoo
from nasrepro.ranking import ProductCount, RankerSettings
from nasrepro.search import tabular
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.tabular import Pool, simulate, simulate_many
from tests.search.fakes import fake_perplexity

CELLS = draw_cells(120, random.Random(0)).cells
POOL = [(cell, None if i % 10 == 0 else fake_perplexity(cell, 0)) for i, cell in enumerate(CELLS)]
SETTINGS = SearchSettings(cells=30, step=16, sampled=4, candidates=1000, ranker=RankerSettings(hidden=8, updates=3))


class Oracle:
    """Knows the truth."""

    def fit(self, cells: list[Cell], perplexities: list[float | None]) -> None:
        pass

    def predict(self, cells: list[Cell]) -> np.ndarray:
        return np.log([fake_perplexity(cell, 0) for cell in cells])


@pytest.mark.parametrize("method", ["random", "ranked"])
def test_the_table_is_a_search_in_the_pool(method: str) -> None:
    frame = simulate(POOL, SearchSettings(**{**vars(SETTINGS), "method": method}))
    assert frame.number.tolist() == list(range(30))
    assert frame.step.tolist() == [number // 16 for number in range(30)]
    assert frame.cell.is_unique
    truth = {str(cell): ppl for cell, ppl in POOL}
    for row in frame.itertuples():
        assert truth[row.cell] == (None if np.isnan(row.loss) else row.loss)
        seen = frame.loss[: row.Index + 1].dropna()
        assert row.best == seen.min() if len(seen) else np.isnan(row.best)


def test_methods_begin_with_the_same_cells_and_seeds_differ() -> None:
    ranked = simulate(POOL, SETTINGS)
    control = simulate(POOL, SearchSettings(**{**vars(SETTINGS), "method": "random"}))
    other = simulate(POOL, SearchSettings(**{**vars(SETTINGS), "seed": 1}))
    assert ranked.cell[:16].tolist() == control.cell[:16].tolist()
    assert ranked.cell[:16].tolist() != other.cell[:16].tolist()
    assert ranked.equals(simulate(POOL, SETTINGS))


def test_an_oracle_finds_the_best_in_its_first_ranked_step() -> None:
    frame = simulate(POOL, SETTINGS, make_ranker=lambda _: Oracle())
    best = min(ppl for _, ppl in POOL if ppl is not None)
    assert frame.best[16:].tolist() == [best] * 14


def test_random_search_finds_what_drawing_without_replacement_finds() -> None:
    """The chance that n draws of N hold the best cell is n / N: 30 / 60 here."""
    pool = [(cell, fake_perplexity(cell, 0)) for cell in CELLS[:60]]
    best = min(ppl for _, ppl in pool)
    hits = sum(
        simulate(pool, SearchSettings(method="random", cells=30, step=15, seed=seed, candidates=60)).best.iloc[-1]
        == best
        for seed in range(200)
    )
    assert 74 <= hits <= 126  # binomial(200, 1/2): outside with probability 2e-4; the seeds are fixed


def test_a_predictor_that_fits_the_pool_beats_random_search() -> None:
    def final(method: str, seed: int) -> float:
        settings = SearchSettings(method=method, cells=32, step=16, sampled=2, seed=seed, candidates=120)  # type: ignore[arg-type]
        return float(simulate(POOL, settings, make_ranker=lambda _: ProductCount()).best.iloc[-1])

    ranked, control = ([final(method, seed) for seed in range(12)] for method in ("ranked", "random"))
    assert np.mean(ranked) < np.mean(control)


def test_a_table_and_pairs_give_the_same_search() -> None:
    table = pd.DataFrame({"cell": [str(cell) for cell, _ in POOL], "loss": [ppl for _, ppl in POOL]})
    assert simulate(table, SETTINGS).equals(simulate(POOL, SETTINGS))


def test_equal_cells_count_once_and_a_small_pool_is_used_up() -> None:
    frame = simulate([(zoo["GRU"], 90.0), (zoo["LSTM"], None), (zoo["GRU"], 80.0)], SETTINGS)
    assert sorted(frame.cell) == sorted([str(zoo["GRU"]), str(zoo["LSTM"])])
    assert frame.best.iloc[-1] == 90.0


def test_a_pool_is_made_ready_once_and_searches_in_it_are_those_in_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    class Spy(tabular.Forest):
        def __init__(self, cells: list[Cell], unroll: int) -> None:
            built.append(len(cells))
            super().__init__(cells, unroll)

    monkeypatch.setattr(tabular, "Forest", Spy)
    pool = Pool(POOL)
    again = [simulate(pool, SETTINGS) for _ in range(2)]
    assert built == [len(CELLS)]
    assert again[0].equals(again[1])
    assert again[0].cell.tolist() == simulate(POOL, SETTINGS).cell.tolist()


def test_random_search_needs_no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular, "Forest", None)
    simulate(POOL, SearchSettings(**{**vars(SETTINGS), "method": "random"}))


def test_an_empty_pool() -> None:
    for empty in ([], pd.DataFrame({"cell": [], "loss": []})):
        with pytest.raises(ValueError, match="pool is empty"):
            simulate(empty, SETTINGS)


def test_many_searches_are_the_single_ones_side_by_side() -> None:
    control = SearchSettings(**{**vars(SETTINGS), "method": "random"})
    runs = simulate_many(POOL, {"ranked": SETTINGS, "random": control}, seeds=(0, 3))
    one = simulate(POOL, SearchSettings(**{**vars(control), "seed": 3}))
    found = runs.query("method == 'random' and seed == 3")
    assert found.budget.tolist() == list(range(1, 31))
    np.testing.assert_array_equal(found.best, one.best)
    assert len(runs) == 4 * 30
