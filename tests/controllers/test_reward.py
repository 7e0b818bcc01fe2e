"""The reward against the values that S17's formula gives by hand."""

import math
from itertools import pairwise

import pytest

from nasrepro.controllers import reward


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (0, 140.99),
        (2, 66.83),
        (4, 40.82),
        (5, 35.03),
        (5.64, 32.59),
        (6.05, 31.40),
        (10, 26.57),
        (20, 24.00),
        (50, 18.0),
        (140, 0),
    ],
)
def test_the_formula(loss, expected):
    assert reward(loss) == pytest.approx(expected, abs=0.006)


def test_a_lower_loss_is_always_worth_more():
    values = [reward(loss / 10) for loss in range(1400)]
    assert all(earlier > later for earlier, later in pairwise(values))


@pytest.mark.parametrize("loss", [140.1, 1e6, math.inf, math.nan])
def test_hopeless_and_failed_cells_are_worth_nothing(loss):
    assert reward(loss) == 0


def test_a_negative_loss_is_refused():
    with pytest.raises(ValueError, match="negative"):
        reward(-0.1)
