"""What decides the findings on S17's language model: hand-made tables whose answers can be worked out on paper."""

import math

import numpy as np
import pandas as pd
import pytest

from nasrepro.experiments.s17_language_model import analysis
from nasrepro.ranking import RankerSettings
from nasrepro.report import papers
from nasrepro.report.ledger import Finding, verdict

# ---- clipping


def runs(exploded_free: list[bool], exploded_clipped: list[bool]) -> pd.DataFrame:
    """Runs of one cell, seed by seed, without and with clipping."""
    return pd.DataFrame(
        [
            {"seed": seed, "clipped": clipped, "exploded": exploded}
            for clipped, all_seeds in ((False, exploded_free), (True, exploded_clipped))
            for seed, exploded in enumerate(all_seeds)
        ]
    )


def test_clipping_saves_the_runs_that_explode_only_without_it():
    found = analysis.clipping(runs([True, True, True, False], [False, True, False, False]))
    assert (found["value"], found["seeds"], found["supports"]) == (0.5, 4, True)
    assert 0 <= found["interval"][0] < 0.5 < found["interval"][1] <= 1
    assert found["reason"] == "clipping keeps the ReLU RNN from exploding"


def test_an_explosion_that_clipping_causes_counts_against_it():
    found = analysis.clipping(runs([True, False, False], [False, True, True]))
    assert found["value"] == pytest.approx(-1 / 3)
    assert not found["supports"]
    assert found["reason"].startswith("at this size")


@pytest.mark.parametrize("exploded", [True, False])
def test_where_clipping_changes_nothing_it_saves_nobody(exploded: bool):
    found = analysis.clipping(runs([exploded] * 3, [exploded] * 3))
    assert (found["value"], found["interval"], found["supports"]) == (0, (0, 0), False)


def test_one_seed_has_a_value_and_no_interval():
    found = analysis.clipping(runs([True], [False]))
    assert (found["value"], found["interval"], found["seeds"]) == (1, None, 1)


def test_the_order_of_runs_does_not_matter():
    table = runs([True, False, True], [False, False, True])
    assert analysis.clipping(table[::-1]) == analysis.clipping(table)


# ---- ranking


LOSSES = [10.0, 20.0, 30.0, None]
TREES = ["a", "b", "c", "d"]
# In order; its exact reverse; one pair of the three wrong (tau 1/3); failures are told by the first alone.
PREDICTIONS = {
    analysis.RANKER: [[1, 2, 3, 4]],
    analysis.PRODUCTS: [[3, 2, 1, 0]],
    f"{analysis.PRODUCTS}, failures kept": [[1, 3, 2, 0]],
    analysis.RIDGE: [[1, 2, 3, 0]],
}


@pytest.fixture(scope="module")
def quality() -> pd.DataFrame:
    return analysis.ranking_quality(PREDICTIONS, LOSSES, TREES)


def test_tau_is_the_share_of_pairs_in_order_less_the_share_out_of_order(quality):
    learn = quality[quality["cells"] == analysis.LEARN].set_index("model")
    assert (learn["n"] == 3).all()
    assert learn["tau"].tolist() == pytest.approx([1, -1, 1 / 3, 1])
    assert learn["gain"].tolist()[1:] == pytest.approx([2, 2 / 3, 0])
    assert math.isnan(learn["gain"][analysis.RANKER])


def test_a_failed_cell_is_worse_than_all_that_learned(quality):
    everyone = quality[quality["cells"] == analysis.ALL].set_index("model")
    assert (everyone["n"] == 4).all()
    # Six pairs; the failed cell adds three, all in order or all out of order.
    assert everyone["tau"].tolist() == pytest.approx([1, -1, (2 - 4) / 6, (3 - 3) / 6])


def test_taus_are_means_over_partitions_and_intervals_hold_them(quality):
    both = analysis.ranking_quality({"m": [[1, 2, 3, 4], [3, 2, 1, 4]]}, LOSSES, TREES)
    assert both["tau"].tolist() == pytest.approx([0, (6 / 6 + 0 / 6) / 2])
    assert (quality["tau low"] <= quality["tau"]).all()
    assert (quality["tau"] <= quality["tau high"]).all()


def test_a_prediction_that_orders_nothing_has_a_tau_of_0():
    assert analysis.ranking_quality({"m": [[5, 5, 5, 5]]}, LOSSES, TREES)["tau"].tolist() == [0, 0]


def test_cells_of_one_tree_are_resampled_together():
    """With a single group every resample is the whole set, so the interval has no width."""
    one_tree = analysis.ranking_quality({"m": [[1, 3, 2, 4]]}, LOSSES, ["a"] * 4)
    assert (one_tree["tau low"] == one_tree["tau high"]).all()


@pytest.mark.parametrize("losses", [[], [None, None], [3.0, None]])
def test_where_hardly_a_cell_learned_there_is_no_order(losses):
    predictions = {"m": [list(range(len(losses)))]}
    with pytest.raises(ValueError, match=f"of {len(losses)} cells learned"):
        analysis.ranking_quality(predictions, losses, TREES[: len(losses)])


def test_the_ranking_function_is_judged_by_its_own_tau(quality):
    found = analysis.predicts(quality)
    assert (found["value"], found["supports"]) == (1, True)
    assert found["interval"][0] <= 1 <= found["interval"][1]
    wrong = analysis.ranking_quality({analysis.RANKER: [[3, 2, 1, 0]]}, LOSSES, TREES)
    assert not analysis.predicts(wrong)["supports"]


def test_it_has_to_beat_the_stronger_variant_of_a_baseline(quality):
    products = analysis.beats(quality, analysis.PRODUCTS)
    assert (products["value"], products["supports"]) == (pytest.approx(2 / 3), True)
    assert "number of MMs, failures kept" in products["reason"]
    ridge = analysis.beats(quality, analysis.RIDGE)
    assert (ridge["value"], ridge["interval"], ridge["supports"]) == (0, (0, 0), False)


def test_both_baselines_come_with_and_without_failures():
    names = list(analysis.predictors(RankerSettings()))
    assert names[0] == analysis.RANKER
    for baseline in (analysis.PRODUCTS, analysis.RIDGE):
        assert [name for name in names if name.startswith(baseline)] == [baseline, f"{baseline}, failures kept"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 25}, "25 epochs"),
        ({"updates": 200, "held_out": 0.0}, "200 updates"),
        ({"updates": 200, "fewest": 200}, "200 updates"),
        ({"updates": 900, "fewest": 100}, "100 to 900 updates, as cells that it does not learn from tell"),
    ],
)
def test_it_is_told_how_long_a_ranking_function_is_trained(given, words):
    assert analysis.training_words(RankerSettings(**given)) == words


# ---- searches


def ends(random: list[float], ranked: list[float]) -> pd.DataFrame:
    """Simulated searches of two cells; the first cell of each is the worst there is."""
    return pd.DataFrame(
        [
            {"method": method, "seed": seed, "budget": budget, "best": best if budget == 2 else 99.0}
            for method, bests in (("random", random), ("ranked", ranked))
            for seed, best in enumerate(bests)
            for budget in (1, 2)
        ]
    )


def test_ranked_search_is_ahead_by_the_mean_difference_of_the_ends_paired_by_seed():
    found = analysis.ranked_ahead(ends(np.exp([3.0, 2.0, 4.0]), np.exp([1.0, 2.0, 3.0])))
    assert (found["value"], found["seeds"], found["supports"]) == (pytest.approx(1), 3, True)
    assert -1e-9 <= found["interval"][0] < 1 < found["interval"][1] <= 2 + 1e-9
    assert "at 2 cells" in found["reason"]
    assert not analysis.ranked_ahead(ends([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]))["supports"]


def test_a_search_that_found_nothing_leaves_its_pair_out():
    found = analysis.ranked_ahead(ends(np.exp([3.0, np.nan, 4.0]), np.exp([1.0, 2.0, 3.0])))
    assert (found["value"], found["seeds"], found["interval"]) == (pytest.approx(1.5), 2, None)


def test_where_all_searches_failed_nothing_can_be_said():
    found = analysis.ranked_ahead(ends([np.nan], [np.nan]))
    assert (found["value"], found["interval"], found["supports"]) == (None, None, None)
    known = papers.load()["s17.rank.beats_random"]
    assert verdict(known, Finding(known.id, **found)).word == "not reproduced"


CELLS = pd.DataFrame(
    {
        "cell": ["Tanh(x_t)", "Tanh(h_{t-1})", "Sin(x_t)", "Tanh(Tanh(x_t))", "Sin(Sin(Sin(x_t)))"],
        "loss": [10.0, 20.0, 40.0, 5.0, np.nan],
        "memory": [False, False, False, True, True],
    }
)


def test_kinds_of_memory_leave_failures_out():
    kinds = analysis.by_memory(CELLS)
    assert kinds.loc["h_t only"].to_dict() == {"count": 3, "min": 10, "median": 20}
    assert kinds.loc["with c_t"].to_dict() == {"count": 1, "min": 5, "median": 5}
    found = analysis.memory_helps(kinds)
    assert found["value"] == pytest.approx(math.log(2))
    assert found["supports"] is None


def test_a_kind_in_which_all_failed_is_missing_and_no_cells_make_no_kinds():
    assert list(analysis.by_memory(CELLS[CELLS["loss"] != 5.0]).index) == ["h_t only"]
    assert analysis.by_memory(CELLS[:0]).empty


def test_shares_of_words_are_taken_within_each_group():
    shares = analysis.word_shares(CELLS)
    # Four cells learn: the best two are Tanh(Tanh(x_t)) and Tanh(x_t), five words.
    assert shares["best quarter"].to_dict() == {"Tanh": 0.6, "x_t": 0.4, "h_{t-1}": 0.0, "Sin": 0.0}
    assert shares["others that learn"][["Tanh", "h_{t-1}", "Sin", "x_t"]].tolist() == [0.25] * 4
    assert shares["failed"][["Sin", "x_t"]].tolist() == [0.75, 0.25]
    assert shares["best quarter"].is_monotonic_decreasing


def test_groups_without_cells_have_no_words():
    assert analysis.word_shares(CELLS[:0]).empty
    failed = analysis.word_shares(CELLS[4:])
    assert failed["best quarter"].tolist() == [0, 0]
    assert failed["failed"].sum() == 1
