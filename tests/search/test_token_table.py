"""Searches in tables, and the controller held against a published one."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from nasrepro.controllers import FixedSpace, Place, PolicyGradientSettings
from nasrepro.search.token_table import (
    TableRuns,
    TokenTable,
    controller_runs,
    evolution_runs,
    progress,
    random_runs,
)

SPACE = FixedSpace((Place("first", ("a", "b")), Place("second", ("a", "b", "c")), Place("third", ("a", "b"))))
SCORES = np.arange(12.0)
NOISE = np.array([-0.25, 0.0, 0.25])
TABLE = TokenTable(SPACE, SCORES[:, None] + NOISE, SCORES)
LEARNING = PolicyGradientSettings(learning_rate=0.01, batch=4, accumulate=2)


# ---- tables


def test_strings_are_numbered_as_digits() -> None:
    strings = np.array([*product(range(2), range(3), range(2))])
    assert TABLE.numbers(strings).tolist() == [*range(12)]
    assert TABLE.numbers(strings.reshape(3, 4, 3)).shape == (3, 4)


@pytest.mark.parametrize(("rewards", "scores"), [((11, 3), 12), ((12, 3), 11), ((12,), 12), ((0, 3), 0)])
def test_a_table_has_a_row_for_each_string(rewards: tuple[int, ...], scores: int) -> None:
    with pytest.raises(ValueError, match="a space of 12 strings"):
        TokenTable(SPACE, np.zeros(rewards), np.zeros(scores))


def test_samples_earn_what_the_table_says() -> None:
    runs: list[Callable[[], TableRuns]] = [
        lambda: controller_runs(TABLE, range(4), 200, LEARNING),
        lambda: random_runs(TABLE, range(4), 200),
    ]
    for run in runs:
        found = run()
        assert found.rewards.shape == found.scores.shape == (4, 200)
        # Every one of the three trainings is drawn about as often, whichever string it is.
        noise, counts = np.unique(found.rewards - found.scores, return_counts=True)
        assert noise.tolist() == NOISE.tolist()
        assert counts.min() > 200
        assert np.array_equal(found.rewards, run().rewards)


def test_random_search_is_uniform() -> None:
    scores = random_runs(TABLE, range(50), 240).scores
    counts = np.unique(scores, return_counts=True)[1]
    assert len(counts) == 12
    assert abs(counts - 1000).max() < 150


def test_failures_are_drawn_and_learned_from() -> None:
    rewards = TABLE.rewards.copy()
    rewards[::2] = np.nan  # those that end with the first choice
    found = controller_runs(TokenTable(SPACE, rewards, SCORES), range(3), 800, LEARNING)
    failed = np.isnan(found.rewards)
    assert failed[:, :80].mean() > 0.3
    assert failed[:, -80:].mean() < 0.1
    assert not (progress(found, [800]).best % 2 == 0).any()


# ---- progress


def test_progress_by_hand() -> None:
    rewards = np.array([[1.0, np.nan, 3.5, 2.0, 3.0]])
    runs = TableRuns((7,), rewards, np.array([[1.0, 9.0, 3.0, 2.0, 4.0]]))
    table = progress(runs, [1, 2, 5], window=2, top=(1, 3))
    assert table.seed.tolist() == [7, 7, 7]
    assert table.samples.tolist() == [1, 2, 5]
    assert table.window.tolist() == [1.0, 5.0, 3.0]
    assert table.best.tolist() == [1.0, 1.0, 3.0]
    assert table.top1.tolist() == [1.0, 9.0, 9.0]
    assert table.top3.tolist() == [1.0, 5.0, pytest.approx((9 + 4 + 3) / 3)]


@pytest.mark.parametrize("at", [[], [0], [6]])
def test_progress_is_asked_for_at_samples_that_there_are(at: list[int]) -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        progress(TableRuns((7,), np.zeros((1, 5)), np.zeros((1, 5))), at)


# ---- evolution


def changed(first: int, second: int) -> int:
    """How many tokens differ between two strings of SPACE, by their numbers."""
    digits = [np.unravel_index(number, (2, 3, 2)) for number in (first, second)]
    return sum(int(a != b) for a, b in zip(*digits, strict=True))


def test_a_child_is_the_best_of_the_youngest_with_one_token_changed() -> None:
    # So many are drawn that the best of the population is always among them.
    found = evolution_runs(TABLE, range(4), 60, population=6, tournament=300)
    for run, rewards in zip(found.scores.astype(int), found.rewards, strict=True):
        for child in range(6, 60):
            young = slice(child - 6, child)
            parent = run[young][rewards[young].argmax()]
            assert changed(parent, run[child]) == 1


def test_every_change_of_a_token_is_as_likely_as_another() -> None:
    walks = evolution_runs(TokenTable(SPACE, SCORES[:, None], SCORES), range(40), 1_000, population=1, tournament=1)
    numbers = walks.scores.astype(int)
    before, after = np.unravel_index(numbers[:, :-1], (2, 3, 2)), np.unravel_index(numbers[:, 1:], (2, 3, 2))
    moves = [np.mean(b != a) for b, a in zip(before, after, strict=True)]
    assert moves == pytest.approx([1 / 3] * 3, abs=0.02)  # each place
    steps = (after[1] - before[1])[after[1] != before[1]] % 3
    assert np.mean(steps == 1) == pytest.approx(0.5, abs=0.02)  # each other word


def test_a_search_by_evolution_is_the_same_whichever_are_beside_it() -> None:
    together, alone = evolution_runs(TABLE, range(3), 200), evolution_runs(TABLE, [2], 200)
    assert np.array_equal(together.rewards[2], alone.rewards[0])
    assert evolution_runs(TABLE, [0, 1], 7, population=10).scores.shape == (2, 7)


def test_failures_have_no_children_where_others_could() -> None:
    rewards = TABLE.rewards.copy()
    rewards[:6] = np.nan
    found = evolution_runs(TokenTable(SPACE, rewards, SCORES), range(5), 400, population=10, tournament=300)
    for run in range(5):
        for child in range(10, 400):
            young = slice(child - 10, child)
            if not np.isnan(found.rewards[run, young]).all():
                best = found.scores[run, young][np.nanargmax(found.rewards[run, young])]
                assert changed(int(best), int(found.scores[run, child])) == 1


@pytest.mark.parametrize("numbers", [{"population": 0}, {"tournament": 0}])
def test_numbers_that_make_no_evolution_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        evolution_runs(TABLE, [0], 5, **numbers)
