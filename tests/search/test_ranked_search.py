"""Ranked and random search do what S17 states."""

import random
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from nasrepro.controllers import GrowthSettings
from nasrepro.dsl import Cell, parse
from nasrepro.ranking import Ranker
from nasrepro.search import Record, Search, ranked_search
from nasrepro.search.ranked_search import SearchSettings, select
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, fake_perplexity
from tests.search.test_loop import run


@pytest.fixture(scope="module")
def history() -> Search:
    return run(Record())


def test_the_defaults_are_the_papers() -> None:
    """S17 sections 3.2 and 4.1: 28 best and 4 sampled of 50,000, memory after 750, 21 nodes, height 8."""
    settings = SearchSettings()
    assert (settings.step - settings.sampled, settings.sampled, settings.candidates) == (28, 4, 50_000)
    assert settings.memory_after == 750
    assert (settings.growth.max_nodes, settings.growth.max_height) == (21, 8)


def test_every_step_has_best_and_sampled_cells_but_the_first(history: Search) -> None:
    frame = history.frame()
    assert frame.number.tolist() == list(range(33))
    assert frame.step.tolist() == [number // 8 for number in range(33)]
    assert frame.how.tolist() == (["random"] * 8 + 3 * (["best"] * 6 + ["sampled"] * 2) + ["best"])
    assert frame.hash.is_unique
    assert frame.predicted.isna().tolist() == [number < 8 for number in range(33)]
    for _, step in frame[frame.step > 0].groupby("step"):
        best = step[step.how == "best"].predicted
        assert best.is_monotonic_increasing
        assert (step[step.how == "sampled"].predicted >= best.max()).all()


def test_values_are_the_tasks(history: Search) -> None:
    frame = history.frame()
    failed = frame.status == "failed"
    assert 0 < failed.sum() < 33
    assert (frame[failed].reason == "exploded").all()
    assert frame[failed].valid_ppl.isna().all()
    expected = [fake_perplexity(parse(cell), 0) for cell in frame[~failed].cell]
    assert frame[~failed].valid_ppl.tolist() == expected
    assert (frame[~failed].reason == "").all()


def test_memory_comes_after_enough_valid_cells_without(history: Search) -> None:
    frame = history.frame()
    for step in frame.step.unique():
        earlier = frame[frame.step < step]
        valid = int((~has_memory(earlier) & (earlier.status == "ok")).sum())
        assert history.steps[step]["memory"] == (valid >= 10)
    assert has_memory(frame).any()
    assert not has_memory(frame[~frame.step.map(lambda step: history.steps[step]["memory"])]).any()


def has_memory(frame: pd.DataFrame) -> "pd.Series[bool]":
    return frame.cell.map(lambda text: parse(text).memory is not None).astype(bool)


def test_the_ranking_function_learns_from_all_earlier_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons: list[tuple[list[Cell], list[float | None]]] = []

    class Spy(Ranker):
        def fit(self, cells: Any, perplexities: Any, progress: bool = False) -> Ranker:
            lessons.append((list(cells), list(perplexities)))
            return super().fit(cells, perplexities, progress)

    monkeypatch.setattr(ranked_search, "Ranker", Spy)
    frame = run(Record()).frame()
    assert len(lessons) == 4
    for step, (cells, perplexities) in enumerate(lessons, start=1):
        earlier = frame[frame.step < step]
        assert [str(cell) for cell in cells] == earlier.cell.tolist()
        assert [None if np.isnan(v) else v for v in earlier.valid_ppl] == perplexities
        assert None in perplexities


def test_random_search_only_draws_and_begins_like_ranked_search(history: Search) -> None:
    control = run(Record(), method="random").frame()
    assert set(control.how) == {"random"}
    assert control.predicted.isna().all()
    assert len(control) == 33
    assert control.cell.tolist()[:8] == history.frame().cell.tolist()[:8]


def test_seeds_differ_and_child_seeds_change_values_but_not_the_first_cells(history: Search) -> None:
    other, child = run(Record(), seed=1, cells=8), run(Record(), child_seed=1, cells=8)
    first = history.frame()[:8]
    assert other.id != child.id != history.id
    assert other.frame().cell.tolist() != first.cell.tolist()
    assert child.frame().cell.tolist() == first.cell.tolist()
    assert child.frame().valid_ppl.dropna().tolist() != first.valid_ppl.dropna().tolist()


def test_a_search_ends_when_the_generator_finds_nothing_new() -> None:
    growth = GrowthSettings(words=("MM", "Add", "x_t", "h_{t-1}"), max_height=2, patience=300)
    found = run(Record(), growth=growth)
    # All cells of height 2 that read both sources, up to the order of Add's arguments.
    texts = ["Add(x, hm1)", "Add(MM(x), hm1)", "Add(x, MM(hm1))", "Add(MM(x), MM(hm1))", "MM(Add(x, hm1))"]
    expected = {parse(text).hash for text in texts}
    assert set(found.frame().hash) == expected
    assert found.steps[0]["exhausted"]


def test_without_a_valid_cell_there_is_nothing_to_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTask, "evaluate", lambda *_: Outcome("failed", "exploded"))
    assert set(run(Record(), cells=24).frame().how) == {"random"}


def test_rejected_draws_are_counted_by_reason(history: Search) -> None:
    total: Counter[str] = Counter()
    for facts in history.steps.values():
        total.update(facts["rejected"])
    assert history.rejected == total
    assert total["too large"] > 0


def test_sampling_without_replacement_has_the_right_probabilities() -> None:
    """Against the definition: one after the other, each with its weight's share of what is left."""
    predicted, settings = (
        np.array([0.0, 1.0, 1.5, 2.0, 2.5]),
        SearchSettings(step=3, sampled=2, temperature=0.7),
    )
    weights = np.exp(-predicted[1:] / 0.7)
    expected = {
        (i, j): weights[i] / weights.sum() * weights[j] / (weights.sum() - weights[i])
        for i, j in permutations(range(4), 2)
    }
    rng, draws = random.Random(1), 4000
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(draws):
        chosen = select(predicted, settings, rng)
        assert chosen[0] == (0, "best")
        counts[tuple(index - 1 for index, how in chosen if how == "sampled")] += 1
    observed = [counts[pair] for pair in expected]
    assert sum(observed) == draws
    assert chisquare(observed, [draws * share for share in expected.values()]).pvalue > 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"cells": 0},
        {"step": 0},
        {"sampled": 33},
        {"sampled": -1},
        {"memory_after": -1},
        {"candidates": 31},
        {"temperature": 0.0},
        {"method": "bayesian"},
    ],
)
def test_settings_that_make_no_search(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchSettings(**wrong)
