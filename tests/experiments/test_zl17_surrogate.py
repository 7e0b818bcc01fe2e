"""The surrogate of ZL17's searches: its noise, its quality, and searches on it, against answers worked out by hand."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score

from nasrepro.controllers import BaseB, PolicyGradientSettings, draw_tokens
from nasrepro.dsl import parse
from nasrepro.experiments import arms, arms_figures
from nasrepro.experiments.zl17_cells import figures, surrogate
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
    tables = surrogate.repeat(stand_in(), PLAN, [1, 2, 3], 800)
    uniform = surrogate.repeat(stand_in(), replace(PLAN, method="random"), [1, 2, 3], 800)
    for seed in (1, 2, 3):
        assert len(tables[seed]) == len(uniform[seed]) == 800
        # All three nodes and the injection may be sigmoids: the best cells have four, the loss of exp(2.2).
        assert tables[seed]["loss"][-100:].mean() < np.exp(2.4) < uniform[seed]["loss"][-100:].mean()


def test_a_cell_keeps_its_loss_within_a_search_and_has_another_in_the_next():
    rng = np.random.default_rng(0)
    noisy = stand_in(np.linspace(1.0, 3.0, 100) + 0.3 * rng.normal(size=100))
    space = BaseB(2, activations=("Tanh", "Sigmoid"))  # strings with leaves swapped are one cell
    plan = replace(PLAN, method="random", space=space)
    tables = surrogate.repeat(noisy, plan, [1, 2], 1_000)
    alone = surrogate.repeat(noisy, plan, [2], 1_000)
    assert alone[2]["loss"].equals(tables[2]["loss"])  # whichever search is beside it
    assert not tables[1]["loss"].equals(tables[2]["loss"])
    chance = random.Random(1)
    strings = [draw_tokens(space, chance) for _ in range(1_000)]  # what the first search draws
    by_cell = pd.DataFrame({"cell": [space.cell(one).hash for one in strings], "loss": tables[1]["loss"]})
    assert by_cell["cell"].nunique() < len({*strings})
    assert (by_cell.groupby("cell")["loss"].nunique() == 1).all()
    assert by_cell["loss"].nunique() > 100


def test_children_are_counted_that_are_better_than_any_recorded_one():
    tables = {("random", 1): pd.DataFrame({"loss": [np.exp(0.5), np.exp(2.0), np.nan, 50.0]})}
    found = surrogate.beyond(stand_in(), tables)  # recorded from exp(1) on
    assert found == pytest.approx({"recorded": np.exp(1.0), "lowest": np.exp(0.5), "share": 0.25})
    assert "**25.0%** of their children" in surrogate.told(stand_in(), tables)


def a_search(losses):
    """A search that tried these cells; nan for failures."""
    tried = [SimpleNamespace(cell=text, hash=parse(text).hash, value=value) for text, value in losses.items()]
    loss = SimpleNamespace(of=lambda one: None if np.isnan(one.value) else one.value)
    return SimpleNamespace(trials=[(None, one) for one in tried], loss=loss)


def test_the_surrogate_is_fitted_to_each_cell_of_the_main_space_once():
    cells = ["Tanh(MM(x_t))", "Sigmoid(MM(x_t))", "Sin(MM(x_t))"]
    searches = {
        ("random", 1): a_search({cells[0]: 5.0, cells[1]: np.nan}),
        ("scaled rate", 1): a_search({cells[0]: 5.0}),
        ("larger space", 1): a_search({cells[2]: 4.0}),
    }
    assert surrogate.trained(searches) == ([parse(cells[0]), parse(cells[1])], [5.0, None])


def test_each_recorded_cell_is_predicted_by_a_model_that_has_not_seen_it(monkeypatch):
    seen = []

    class Remembers(CountsSigmoids):
        def __init__(self, *_settings):
            self.cells = set()

        def fit(self, cells, _losses):
            self.cells = {cell.hash for cell in cells}
            return self

        def predict(self, cells):
            seen.extend(cell.hash in self.cells for cell in cells)
            return super().predict(cells)

    monkeypatch.setattr(surrogate, "Ranker", Remembers)
    cells = list({cell.hash: cell for cell in _cells(30)}.values())
    surrogate.fit(cells, [5.0] * len(cells), FEW, 1e9)
    assert seen == [False] * len(cells)


def test_the_quality_of_predictions_is_what_scipy_and_scikit_learn_say():
    rng = np.random.default_rng(1)
    cells = list({cell.hash: cell for cell in _cells(60)}.values())
    losses = [None if rng.random() < 0.2 else float(np.exp(rng.normal(2, 0.3))) for _ in cells]
    fitted = surrogate.fit(cells, losses, FEW, 1e9)
    found = surrogate.quality(fitted, cells, losses, FEW.folds).set_index("model")
    learned = np.isfinite(fitted.measured)
    row = found.loc["ranking function"]
    assert row["tau"] == pytest.approx(kendalltau(fitted.predicted[learned], fitted.measured[learned]).statistic)
    assert row["told_apart"] == pytest.approx(roc_auc_score(~learned, fitted.predicted))
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
    leading = arms.leads(arms.progress(tables, 100.0))
    fig = arms_figures.leads(
        leading, {"scaled rate": "ours", "random": "random search"}, "perplexity", "A title", leading
    )
    styles = [line.get_linestyle() for line in fig.axes[0].get_lines() if len(line.get_xdata()) > 2]
    assert styles == ["-", "--"]
    assert fig.axes[0].get_xscale() == "log"
