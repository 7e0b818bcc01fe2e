"""Statistics against textbook formulas and brute force."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nasrepro.report import stats


def test_interval_of_a_large_normal_sample_is_close_to_students():
    sample = np.random.default_rng(1).normal(5, 2, 400)
    low, high = scipy.stats.t.interval(0.95, len(sample) - 1, sample.mean(), scipy.stats.sem(sample))
    assert stats.interval(sample) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_bca_moves_the_interval_towards_the_long_tail():
    sample = np.random.default_rng(5).lognormal(0, 1.2, 12)
    means = np.random.default_rng(6).choice(sample, (20_000, len(sample))).mean(axis=1)
    percentile = np.quantile(means, [0.025, 0.975])
    assert (np.array(stats.interval(sample)) > percentile).all()


def test_a_wider_level_gives_a_wider_interval():
    sample = np.random.default_rng(2).exponential(1, 12)
    narrow, wide = stats.interval(sample, 0.5), stats.interval(sample, 0.99)
    assert wide[0] < narrow[0] < sample.mean() < narrow[1] < wide[1]


def test_an_interval_is_the_same_for_the_same_seed_and_leaves_the_global_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    sample = [1.0, 2.0, 4.0, 8.0]
    assert stats.interval(sample, seed=3) == stats.interval(sample, seed=3)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_few_or_equal_values():
    assert stats.interval([1.0, 2.0]) is None
    assert stats.interval([]) is None
    assert stats.interval([2.5] * 4) == (2.5, 2.5)


def test_a_sample_where_bca_has_no_value_still_gets_an_interval():
    low, high = stats.interval([0.0, 0.0, 0.0, 1.0])
    assert 0 <= low < high <= 1


def test_failed_seeds_are_not_swallowed():
    with pytest.raises(ValueError, match="failed seeds"):
        stats.interval([1.0, 2.0, float("inf")])


def test_what_a_finding_says_of_seeds_is_their_mean_its_interval_and_how_many_there_are() -> None:
    found = stats.over_seeds([1.0, 2.0, 6.0])
    assert (found["value"], found["interval"], found["seeds"]) == (3, stats.interval([1.0, 2.0, 6.0]), 3)
    assert stats.over_seeds([1.0, 2.0]) == {"value": 1.5, "interval": None, "seeds": 2}


def test_paired_difference_removes_what_the_pairs_share():
    shared = np.random.default_rng(4).normal(0, 100, 8)
    offsets = np.array([0.9, 1.0, 1.1, 1.0, 0.95, 1.05, 1.0, 1.0])
    mean, (low, high) = stats.paired_difference(list(shared + offsets), list(shared))
    assert mean == pytest.approx(1.0)
    assert 0.9 < low < 1 < high < 1.1
    with pytest.raises(ValueError, match="got 2 and 1"):
        stats.paired_difference([1, 2], [1])


@pytest.mark.parametrize(
    ("interval", "answer"),
    [
        ((0.1, 2.0), "above"),
        ((-2.0, -0.1), "below"),
        ((-1.0, 1.0), "neither"),
        ((0.0, 1.0), "neither"),  # touches zero
        ((-1.0, 0.0), "neither"),
        ((0.0, 0.0), "neither"),
        ((0.5, 0.5), "above"),  # all values equal
        (None, "neither"),
        ((float("nan"), float("nan")), "neither"),
    ],
)
def test_an_interval_tells_on_which_side_of_zero_it_lies(interval, answer):
    assert stats.told(interval, "above", "below", "neither") == answer


def test_what_too_few_values_tell_is_nothing():
    assert stats.told(stats.interval([3.0, 4.0]), True, False, None) is None
    assert stats.told(stats.interval([3.0, 4.0, 5.0]), True, False, None) is True
    assert stats.told(stats.interval([-3.0, -4.0, -5.0]), True, False, None) is False


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=12))
def test_kendall_is_the_count_of_pairs(pairs):
    pred, true = zip(*pairs, strict=True)
    if len(set(pred)) == 1 or len(set(true)) == 1:
        with pytest.raises(ValueError, match="not all equal"):
            stats.kendall(pred, true)
        return
    agreement, pred_pairs, true_pairs = 0, 0, 0
    for i, j in itertools.combinations(range(len(pairs)), 2):
        a, b = np.sign(pred[i] - pred[j]), np.sign(true[i] - true[j])
        agreement, pred_pairs, true_pairs = agreement + a * b, pred_pairs + a * a, true_pairs + b * b
    assert stats.kendall(pred, true) == pytest.approx(agreement / (pred_pairs * true_pairs) ** 0.5)


def test_kendall_interval_of_one_prediction_is_scipys_tau_and_holds_the_truth() -> None:
    # For a bivariate normal of correlation rho, tau is 2 / pi * arcsin(rho) (Greiner's relation).
    rng = np.random.default_rng(0)
    true = rng.normal(size=300)
    predicted = 0.6 * true + 0.8 * rng.normal(size=300)
    found = stats.kendall_interval([predicted], true)
    assert found.value == pytest.approx(scipy.stats.kendalltau(predicted, true).statistic)
    assert found.low < 2 / np.pi * np.arcsin(0.6) < found.high
    assert found.high - found.low < 0.2


def test_kendall_interval_against_rivals_is_paired() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=100)
    predicted = true + rng.normal(size=100)
    same = stats.kendall_interval([predicted], true, [predicted])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert stats.kendall_interval([predicted], true, [-predicted]).low > 0
    nothing = stats.kendall_interval([predicted], true, [np.zeros(100)])
    assert nothing.value == pytest.approx(stats.kendall_interval([predicted], true).value)
