"""The ranking function: it learns what counts cannot say, and depends on nothing but its inputs."""

import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, linregress

from nasrepro.controllers import draw_cells
from nasrepro.dsl import parse, zoo
from nasrepro.ranking import OperatorRidge, ProductCount, Ranker, RankerSettings, cross_predict, training
from nasrepro.ranking.batch import Forest
from nasrepro.ranking.targets import Targets
from nasrepro.ranking.training import favouring_weights

SMALL = RankerSettings(hidden=24, updates=60, held_out=0.0, learning_rate=3e-3)


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
    settings = RankerSettings(hidden=8, updates=2, target="log", ensemble=3)
    ranker = Ranker(settings).fit(cells, perplexities)
    together = ranker.predict(cells)
    members = []
    for network in list(ranker._networks):
        ranker._networks = [network]
        members.append(ranker.predict(cells))
    np.testing.assert_allclose(together, np.mean(members, axis=0), atol=1e-6)
    assert np.ptp(members, axis=0).max() > 1e-3


@pytest.mark.parametrize("target", ["rank", "log", "raw"])
def test_predictions_are_log_perplexities_whatever_the_target(target):
    cells = random_cells(32)
    perplexities = [90.0 if cell.root.op in ("Tanh", "Gate3", "Add") else 300.0 for cell in cells]
    learning = {"updates": 80, "held_out": 0.0, "learning_rate": 1e-2, "dropout": 0.0, "favour": 0.0}
    settings = RankerSettings(hidden=16, target=target, **learning)
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


def test_by_epochs_a_fit_is_as_it_was_before_training_was_set_by_updates():
    """Shipped searches were made so: every epoch as many cells as there are, all of them, and the last weights."""
    cells = random_cells(40)
    perplexities = structural_perplexities(cells)
    by_epochs = RankerSettings(hidden=8, epochs=4, target="log")
    by_hand = RankerSettings(hidden=8, updates=4 * math.ceil(40 / 16), held_out=0.0, average=0.0, target="log")
    found = [Ranker(one).fit(cells, perplexities).predict(cells) for one in (by_epochs, by_hand)]
    np.testing.assert_array_equal(*found)


def test_the_identity_names_what_training_depends_on_and_by_epochs_what_it_named_before():
    """The names that the shipped search bears; `tests/search/test_plan.py` holds it to its id."""
    assert RankerSettings(epochs=25, target="log").identity() == {
        "hidden": 128, "batch": 16, "weight_decay": 1e-4, "dropout": 0.2, "unroll": 1, "learning_rate": 1e-3,
        "epochs": 25, "target": "log", "favour": 1.0, "failure_margin": 0.5, "ensemble": 1,
    }  # fmt: skip
    assert RankerSettings().identity().keys() >= {"updates", "fewest", "held_out", "patience", "average", "target"}
    assert "epochs" not in RankerSettings().identity()


def made_updates(monkeypatch, held_out, **given):
    """How many updates each network of one fit got, to noise without a rule; and on which members."""
    made = []

    class Spy(training.Training):
        def __init__(self, settings, forest, members, targets, generator):
            super().__init__(settings, forest, members, targets, generator)
            made.append(self)

    monkeypatch.setattr(training, "Training", Spy)
    cells = random_cells(200, memory=True)  # of some 50 trees
    rng = random.Random(0)
    settings = RankerSettings(hidden=8, held_out=held_out, learning_rate=3e-2, **given)
    Ranker(settings).fit(cells, [math.exp(rng.gauss(0, 1)) for _ in cells])
    return cells, made


def test_training_ends_by_cells_that_were_held_out_and_then_learns_from_all(monkeypatch):
    given = {"updates": 1000, "fewest": 50, "patience": 100}
    cells, (judged, final) = made_updates(monkeypatch, 0.25, **given)
    assert len(final.members) == len(cells)
    seen = set(judged.members.tolist())
    unseen = set(range(len(cells))) - seen
    assert 0.15 < len(unseen) / len(cells) < 0.35
    assert not {cells[i].root for i in seen} & {cells[i].root for i in unseen}, "one tree on both sides"
    assert 50 <= final.updates < 1000, "noise cannot be learned for long"
    assert judged.updates == final.updates + 100, "its patience"


def test_without_held_out_cells_or_with_too_few_all_updates_are_made(monkeypatch):
    cells, (only,) = made_updates(monkeypatch, 0.0, updates=30, fewest=10)
    assert (len(only.members), only.updates) == (len(cells), 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_FEWEST_HELD_OUT", 1000)
        _, made = made_updates(patch, 0.25, updates=30, fewest=10)
    assert [one.updates for one in made] == [30]


def test_averaged_weights_are_the_mean_at_first_and_then_fade_geometrically(monkeypatch):
    cells = random_cells(20)
    settings = RankerSettings(hidden=4, average=0.75)
    forest, targets = Forest(cells), torch.linspace(-1, 1, 20)
    trained = training.Training(settings, forest, range(20), targets, torch.Generator().manual_seed(0))
    history = []
    for _ in range(8):
        trained.update()
        history.append(trained.network.weight.detach().clone())
    # The first four weigh alike; from then on each new one weighs 1/4 and the rest 3/4.
    expected = torch.stack(history[:4]).mean(0)
    for new in history[4:]:
        expected = 0.75 * expected + 0.25 * new
    torch.testing.assert_close(trained.averaged.weight.detach(), expected)


def test_a_shared_forest_changes_nothing_but_the_time():
    cells = random_cells(60, memory=True)
    perplexities = structural_perplexities(cells)
    shared = Ranker(SMALL, seed=3, forest=Forest(cells)).fit(cells[20:], perplexities[20:])
    own = Ranker(SMALL, seed=3).fit(cells[20:], perplexities[20:])
    np.testing.assert_allclose(shared.predict(cells), own.predict(cells), atol=1e-3)
    strangers = random_cells(5, seed=9)
    np.testing.assert_allclose(shared.predict(strangers), own.predict(strangers), atol=1e-3)
    with pytest.raises(ValueError, match="unrolled 0 times, the settings say 1"):
        Ranker(SMALL, forest=Forest(cells, unroll=0))


# ---- targets


def test_places_are_told_as_the_log_perplexities_that_hold_them():
    targets = Targets.of([40.0, 10.0, None, 20.0, 1e9], "rank", failure_margin=0.5)
    places = targets.values * targets.scale + targets.centre
    np.testing.assert_allclose(places[[1, 3, 0, 4]], [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(places[2], 1 + 0.5 * np.std([0, 1 / 3, 2 / 3, 1]))
    told = targets.log_perplexity(targets.values)
    logs = np.log([10.0, 20.0, 40.0, 1e9])
    np.testing.assert_allclose(told[[1, 3, 0, 4]], logs)
    np.testing.assert_allclose(told[2], logs[-1] + 0.5 * logs.std(), err_msg="as the target log puts a failure")


def test_an_outlier_moves_no_place():
    tame, wild = (Targets.of([10.0, 20.0, worst], "rank", 0.5).values for worst in (30.0, 1e12))
    np.testing.assert_array_equal(tame, wild)


@pytest.mark.parametrize("target", ["rank", "log", "raw"])
@pytest.mark.parametrize("perplexities", [[50.0], [50.0, 50.0, None], [30.0, 30.0, 30.0, 90.0, None, 45.0, 90.0]])
def test_log_perplexities_keep_the_order_of_predictions(target, perplexities):
    targets = Targets.of(perplexities, target, 0.5)
    assert np.isfinite(targets.values).all()
    told = targets.log_perplexity(np.linspace(-3, 3, 61))
    assert np.isfinite(told).all()
    steps = np.diff(told)
    assert (steps >= 0).all() if target == "raw" else (steps > 0).all()  # raw ends at a perplexity of 1


def test_few_cells_are_enough_to_fit_and_none_to_predict():
    ranker = Ranker(SMALL).fit([zoo["GRU"]], [100.0])
    assert ranker.predict([zoo["GRU"]]) == pytest.approx(math.log(100), abs=1.0)
    assert ranker.predict([]).shape == (0,)


@pytest.mark.parametrize("perplexities", [[None, None], [math.nan, math.inf]])
def test_nothing_to_learn_from_is_an_error(perplexities):
    with pytest.raises(ValueError, match="none of the 2 cells"):
        Ranker(SMALL).fit([zoo["GRU"], zoo["BC3"]], perplexities)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": "square"}, "target is one of rank, log, raw, got 'square'"),
        ({"updates": 0}, "updates=0"),
        ({"epochs": -1}, "epochs=-1 not below 0"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"fewest": -1}, "fewest=-1"),
        ({"ensemble": 0}, "ensemble=0"),
        ({"hidden": 0}, "hidden=0"),
        ({"average": -0.1}, "average=-0.1"),
    ],
)
def test_settings_that_train_nothing_are_an_error(given, words):
    with pytest.raises(ValueError, match=words):
        RankerSettings(**given)


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
