"""The ranking function: it learns what counts cannot say, and depends on nothing but its inputs."""

import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, linregress

from nasrepro.controllers import draw_cells
from nasrepro.dsl import parse, zoo
from nasrepro.ranking import OperatorRidge, ProductCount, Ranker, RankerSettings, cross_predict
from nasrepro.ranking.ranker import favouring_weights

SMALL = RankerSettings(hidden=24, epochs=6, learning_rate=3e-3)


def random_cells(count, seed=0, memory=False):
    return draw_cells(count, random.Random(seed), memory=memory).cells


def has_residual_path(node):
    """Whether h_{t-1} reaches this node through sums and gates alone: a fact of structure, not of counts."""
    return node.op == "h_{t-1}" or (node.op in ("Add", "Gate3") and any(map(has_residual_path, node.args[:2])))


def structural_perplexities(cells, seed=0):
    rng = random.Random(seed)
    return [math.exp(5 - has_residual_path(cell.root) - (cell.root.op == "Tanh") + rng.gauss(0, 0.1)) for cell in cells]


@pytest.fixture(scope="module")
def fitted():
    cells = random_cells(40, memory=True)
    return Ranker(SMALL, seed=1).fit(cells, structural_perplexities(cells))


def test_it_learns_a_rule_of_structure_better_than_both_baselines():
    cells = random_cells(300)
    perplexities = structural_perplexities(cells)

    def tau(model):
        model.fit(cells[:150], perplexities[:150])
        return kendalltau(model.predict(cells[150:]), perplexities[150:]).statistic

    ranker, ridge, products = tau(Ranker(SMALL)), tau(OperatorRidge()), tau(ProductCount())
    assert ranker > ridge + 0.1
    assert ranker > products + 0.1


def test_predictions_do_not_depend_on_order_or_company(fitted):
    cells = random_cells(150, seed=5, memory=True)
    together = fitted.predict(cells)
    order = np.random.default_rng(0).permutation(len(cells))
    np.testing.assert_allclose(fitted.predict([cells[i] for i in order]), together[order], atol=1e-5)
    alone = np.concatenate([fitted.predict([cell]) for cell in cells[:20]])
    np.testing.assert_allclose(alone, together[:20], atol=1e-5)


def test_predictions_are_repeatable_and_the_global_generator_is_left_alone(fitted):
    cells = random_cells(40, memory=True)
    before = torch.get_rng_state()
    again = Ranker(SMALL, seed=1).fit(cells, structural_perplexities(cells))
    other = Ranker(SMALL, seed=2).fit(cells, structural_perplexities(cells))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(again.predict(cells), fitted.predict(cells))
    assert not np.allclose(other.predict(cells), fitted.predict(cells), atol=1e-3)


def test_an_ensemble_is_the_mean_of_its_members():
    cells = random_cells(30)
    perplexities = structural_perplexities(cells)
    settings = RankerSettings(hidden=8, epochs=1, ensemble=3)
    ranker = Ranker(settings).fit(cells, perplexities)
    together = ranker.predict(cells)
    members = []
    for network in list(ranker._networks):
        ranker._networks = [network]
        members.append(ranker.predict(cells))
    np.testing.assert_allclose(together, np.mean(members, axis=0), atol=1e-6)
    assert np.ptp(members, axis=0).max() > 1e-3


@pytest.mark.parametrize("target", ["log", "raw"])
def test_predictions_are_log_perplexities_whatever_the_target(target):
    cells = random_cells(32)
    perplexities = [90.0 if cell.root.op in ("Tanh", "Gate3", "Add") else 300.0 for cell in cells]
    settings = RankerSettings(hidden=16, epochs=30, learning_rate=1e-2, target=target, dropout=0.0, favour=0.0)
    predicted = Ranker(settings).fit(cells, perplexities).predict(cells)
    np.testing.assert_allclose(predicted, np.log(perplexities), atol=0.35)


def test_cells_like_those_that_failed_are_predicted_to_be_bad():
    cells = random_cells(80)
    perplexities = [None if cell.root.op == "ReLU" else 100.0 + cell.size for cell in cells]
    assert 5 < perplexities.count(None) < 40
    predicted = Ranker(SMALL).fit(cells, perplexities).predict(cells)
    failed = np.array([ppl is None for ppl in perplexities])
    assert predicted[failed].mean() > np.quantile(predicted[~failed], 0.75)


def test_low_perplexities_are_drawn_more_often():
    weights = favouring_weights(torch.tensor([3.0, 1.0, 2.0]), favour=2.0)
    np.testing.assert_allclose(weights / weights[2], [math.exp(-1), math.exp(1), 1.0])
    assert favouring_weights(torch.tensor([3.0, 1.0]), favour=0.0).tolist() == [1.0, 1.0]
    assert favouring_weights(torch.tensor([3.0]), favour=2.0).tolist() == [1.0]


def test_few_cells_are_enough_to_fit_and_none_to_predict():
    ranker = Ranker(SMALL).fit([zoo["GRU"]], [100.0])
    assert ranker.predict([zoo["GRU"]]) == pytest.approx(math.log(100), abs=1.0)
    assert ranker.predict([]).shape == (0,)


@pytest.mark.parametrize("perplexities", [[None, None], [math.nan, math.inf]])
def test_nothing_to_learn_from_is_an_error(perplexities):
    with pytest.raises(ValueError, match="none of the 2 cells"):
        Ranker(SMALL).fit([zoo["GRU"], zoo["BC3"]], perplexities)


def test_misuse_is_an_error():
    with pytest.raises(RuntimeError, match="fit"):
        Ranker().predict([zoo["GRU"]])
    with pytest.raises(ValueError, match="2 cells, but 1"):
        Ranker().fit([zoo["GRU"], zoo["BC3"]], [100.0])


# ---- baselines


def test_product_count_is_a_regression_on_the_number_of_matrices():
    cells = random_cells(40)
    perplexities = structural_perplexities(cells)
    counts = [str(cell).count("MM(") for cell in cells]
    line = linregress(counts, np.log(perplexities))
    predicted = ProductCount().fit(cells, [*perplexities]).predict(cells)
    np.testing.assert_allclose(predicted, line.intercept + line.slope * np.array(counts), rtol=1e-9)


def test_product_count_takes_its_sign_from_the_training_set():
    few, many = parse("Tanh(Add(MM(x), hm1))"), parse("Tanh(Add(MM(x), MM(hm1)))")
    for ppl, better in [([100.0, 90.0], many), ([90.0, 100.0], few)]:
        predicted = ProductCount().fit([few, many], ppl).predict([few, many])
        assert [few, many][int(predicted.argmin())] == better


def test_ridge_recovers_a_rule_of_counts():
    cells = random_cells(300)
    logs = [5 - 0.1 * str(cell).count("MM(") + 0.2 * str(cell).count("ReLU(") for cell in cells]
    ridge = OperatorRidge().fit(cells[:200], [math.exp(log) for log in logs[:200]])
    np.testing.assert_allclose(ridge.predict(cells[200:]), logs[200:], atol=1e-3)


def test_baselines_leave_failed_cells_out():
    cells = random_cells(30)
    perplexities = structural_perplexities(cells)
    for make in (ProductCount, OperatorRidge):
        without = make().fit(cells[:20], perplexities[:20]).predict(cells)
        failed = make().fit(cells, [*perplexities[:20], *[None] * 10]).predict(cells)
        np.testing.assert_allclose(failed, without)


# ---- validation


class Memoriser:
    """Predicts what it was told, and notes which cells it saw when."""

    calls: list[tuple[set[str], set[str]]]

    def __init__(self, truth, sign=1.0, calls=None):
        self.truth, self.sign, self.calls = truth, sign, calls if calls is not None else []

    def fit(self, cells, perplexities):
        self.trained = {cell.hash for cell in cells}

    def predict(self, cells):
        self.calls.append((self.trained, {cell.hash for cell in cells}))
        return np.array([self.sign * self.truth[cell.hash] for cell in cells])


def test_every_cell_is_predicted_once_by_a_model_that_has_not_seen_it():
    cells = random_cells(30)
    written_twice = [*cells, *cells[:10]]
    truth = {cell.hash: float(place) for place, cell in enumerate(cells)}
    perplexities = [None if cell in cells[:5] else truth[cell.hash] for cell in written_twice]
    calls = []
    predicted = cross_predict(lambda seed: Memoriser(truth, calls=calls), written_twice, perplexities, folds=3)
    assert predicted.tolist() == [truth[cell.hash] for cell in written_twice]
    assert sorted(key for _, tested in calls for key in tested) == sorted(truth)
    for trained, tested in calls:
        assert not trained & tested


def test_the_same_seed_gives_every_model_the_same_folds():
    cells = random_cells(30)
    truth = {cell.hash: 1.0 for cell in cells}
    folds = []
    for sign in (1.0, -1.0):
        calls = []
        cross_predict(lambda _, sign=sign, calls=calls: Memoriser(truth, sign, calls), cells, [1.0] * 30, folds=4)
        folds.append([tested for _, tested in calls])
    assert folds[0] == folds[1]


def test_too_few_cells_for_the_folds_are_an_error():
    with pytest.raises(ValueError, match="do not make 5 folds"):
        cross_predict(lambda _: ProductCount(), random_cells(9), [100.0] * 9, folds=5)


def test_baselines_may_learn_from_failures_as_from_cells_a_little_worse_than_the_worst():
    cells = random_cells(60)
    perplexities = [float(10 + 3 * sum(node.op == "MM" for node in cell.operators)) for cell in cells]
    broken = [None if "ReLU" in str(cell) else ppl for cell, ppl in zip(cells, perplexities, strict=True)]
    worst = max(ppl for ppl in broken if ppl is not None)
    spread = np.log([ppl for ppl in broken if ppl is not None]).std()
    imputed = [float(worst * np.exp(0.5 * spread)) if ppl is None else ppl for ppl in broken]
    for make in (ProductCount, OperatorRidge):
        np.testing.assert_allclose(
            make(failure_margin=0.5).fit(cells, broken).predict(cells), make().fit(cells, imputed).predict(cells)
        )
