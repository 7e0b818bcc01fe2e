"""The surrogate of ZL17's searches: its noise, its quality, and searches on it, against answers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score

from nasrepro.controllers import BaseB, PolicyGradientSettings
from nasrepro.dsl import parse
from nasrepro.experiments.zl17_cells import analysis, figures, surrogate
from nasrepro.experiments.zl17_cells.sizes import SurrogateSizes
from nasrepro.experiments.zl17_cells.surrogate import Surrogate
from nasrepro.ranking import RankerSettings
from nasrepro.search.token_search import TokenSearchSettings

LEARNED = "Sigmoid"
FEW = SurrogateSizes(samples=30, seeds=2, folds=2, ranker=RankerSettings(hidden=4, updates=3, held_out=0.0))


class CountsSigmoids:
    """Stands in for a ranking function: the more sigmoids, the lower the loss."""

    settings = RankerSettings()

    def predict(self, cells):
        return np.array([3.0 - 0.2 * str(cell).count(LEARNED) for cell in cells])


def stand_in(measured=None, bound=1e9):
    """A surrogate of a hundred cells, predicted from 1 to 3."""
    predicted = np.linspace(1.0, 3.0, 100)
    return Surrogate(CountsSigmoids(), predicted, predicted if measured is None else measured, bound)


def test_each_loss_has_the_error_of_a_recorded_cell_of_like_prediction():
    errors = np.random.default_rng(0).normal(size=100)
    errors[[40, 60, 99]] = np.nan  # these failed
    found = stand_in(np.linspace(1.0, 3.0, 100) + errors)
    cell = parse("Sigmoid(Sigmoid(Sigmoid(Sigmoid(Sigmoid(MM(x_t))))))")  # predicted 2, right in the middle
    losses = found.losses([cell] * 50, (np.arange(50) + 0.5) / 50)  # every lender once
    expected = np.exp(2.0 + errors[25:75])
    np.testing.assert_allclose(np.sort(losses), np.sort(expected))
    assert np.isnan(losses).sum() == 2
    at_the_edge = found.losses([parse("MM(x_t)")] * 50, (np.arange(50) + 0.5) / 50)  # predicted 3: none is higher
    np.testing.assert_allclose(np.sort(at_the_edge), np.sort(np.exp(3.0 + errors[50:])))


def test_a_loss_above_the_bound_is_a_failure():
    cells = [parse("MM(x_t)"), parse("Sigmoid(Sigmoid(Sigmoid(Sigmoid(Sigmoid(MM(x_t))))))")]
    losses = stand_in(bound=10.0).losses(cells, [0.0, 0.0])
    assert np.isnan(losses).tolist() == [True, False]  # exp(3) and exp(2)


PLAN = TokenSearchSettings(
    cells=10, space=BaseB(2), reinforce=PolicyGradientSettings(learning_rate=0.03), c=np.exp(2.0) ** 2
)


def test_policy_gradient_learns_on_the_surrogate_and_random_search_does_not():
    tables = surrogate.carry_on(stand_in(), PLAN, [1, 2, 3], 800)
    uniform = surrogate.carry_on(stand_in(), replace(PLAN, method="random"), [1, 2, 3], 800)
    for seed in (1, 2, 3):
        assert len(tables[seed]) == len(uniform[seed]) == 800
        # Two of three nodes and the injection may be sigmoids: the best cells have four, the loss of exp(2.2).
        assert tables[seed]["loss"][-100:].mean() < np.exp(2.4) < uniform[seed]["loss"][-100:].mean()


def test_a_string_keeps_its_loss_within_a_search_and_has_another_in_the_next():
    rng = np.random.default_rng(0)
    noisy = stand_in(np.linspace(1.0, 3.0, 100) + 0.3 * rng.normal(size=100))
    plan = replace(PLAN, method="random", space=BaseB(1))  # 64 strings
    tables = surrogate.carry_on(noisy, plan, [1, 2], 400)
    assert all(table["loss"].nunique() <= plan.space.size for table in tables.values())
    alone = surrogate.carry_on(noisy, plan, [2], 400)
    assert alone[2]["loss"].equals(tables[2]["loss"])  # whichever search is beside it
    assert not tables[1]["loss"].equals(tables[2]["loss"])


def test_the_quality_of_predictions_is_what_scipy_and_scikit_learn_say():
    rng = np.random.default_rng(1)
    cells = list({cell.hash: cell for cell in _cells(60)}.values())
    losses = [None if rng.random() < 0.2 else float(np.exp(rng.normal(2, 0.3))) for _ in cells]
    fitted = surrogate.fit(cells, losses, FEW, 1e9)
    found = surrogate.quality(fitted, cells, losses, FEW.folds).set_index("model")
    learned = np.isfinite(fitted.measured)
    row = found.loc["ranking function"]
    assert row["tau"] == pytest.approx(kendalltau(fitted.predicted[learned], fitted.measured[learned]).statistic)
    assert row["failed"] == pytest.approx(roc_auc_score(~learned, fitted.predicted))
    assert row["error"] == pytest.approx(np.std(fitted.measured[learned], ddof=0), rel=0.5)  # it has learned nothing
    assert np.diff(fitted.predicted).min() >= 0
    assert sorted(fitted.measured[learned]) == pytest.approx(sorted(np.log([one for one in losses if one])))
    assert len(figures.predictions(fitted).axes[0].collections[0].get_offsets()) == len(cells)


def _cells(number):
    rng = np.random.default_rng(0)
    space = BaseB(2)
    counts = [len(place.words) for place in space.places]
    return [space.cell(tuple(int(rng.integers(count)) for count in counts)) for _ in range(number)]


def test_searches_on_the_surrogate_are_drawn_beside_those_on_children():
    plans = {"scaled rate": PLAN, "random": replace(PLAN, method="random")}
    tables = surrogate.searches(stand_in(), plans, FEW)
    assert {(arm, seed) for arm, seed in tables} == {(arm, seed) for arm in plans for seed in (1, 2)}
    leading = analysis.leads(analysis.progress(tables, 100.0))
    fig = figures.leads(leading, {"scaled rate": "ours", "random": "random search"}, "A title", leading)
    styles = [line.get_linestyle() for line in fig.axes[0].get_lines() if len(line.get_xdata()) > 2]
    assert styles == ["-", "--"]
    assert fig.axes[0].get_xscale() == "log"
