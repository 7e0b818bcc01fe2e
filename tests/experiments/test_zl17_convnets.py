"""ZL17's convolutional half: what is trained at every size, its tables, figures and exercises."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nasrepro.controllers import TokenAgentSettings
from nasrepro.controllers.anchor_agent import AnchorAgent
from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.convnet import ConvNet, Layer, zoo
from nasrepro.experiments.zl17_convnets import EXPERIMENT, analysis, figures, table_1
from nasrepro.experiments.zl17_convnets.sizes import COMPARED, SIZES
from nasrepro.search import Record
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.held_out import HeldOut
from nasrepro.trainers.images import ImageSettings

RECORDS = Path(__file__).parents[2] / "results" / "records"
SPACE = ConvSpace((1, 3), (1, 3), filters=(4, 8))
PLAN = ConvNetSearchSettings(space=SPACE, first_depth=2)


# ---- sizes


def test_the_paper_profile_is_the_papers():
    paper = SIZES["paper"]
    assert paper.task.training == ImageSettings(epochs=300)
    assert paper.searches[0].plan("paper's rate", 1) == ConvNetSearchSettings(seed=1)
    assert analysis.share_of_paper(paper.searches[0].task, paper.searches[0].search.networks) == 1.0
    assert paper.divisor == 1


def test_shares_grow_from_profile_to_profile():
    shares = [
        max(analysis.share_of_paper(each.task, each.search.networks) for each in SIZES[profile].searches)
        for profile in ("smoke", "quick", "course", "night", "paper")
    ]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-2] < 0.01


@pytest.mark.parametrize("profile", SIZES)
def test_words_of_trainings_tell_them_apart(profile):
    words = [each.words for each in EXPERIMENT.trainings(SIZES[profile])]
    assert len({*words}) == len(words)
    assert words[-1] == "Figure 7's network and its controls"


def test_an_arm_differs_from_the_search_in_its_method_and_rate_alone():
    sizes = SIZES["course"].searches[0]
    scaled, control = sizes.plan("scaled rate", 2), sizes.plan("random", 2)
    assert scaled.reinforce.learning_rate == 3.5e-3
    assert sizes.plan("paper's rate", 2).reinforce.learning_rate == 6e-4
    assert (scaled.seed, control.method, control.space) == (2, "random", sizes.search.space)


def test_a_divisor_thins_every_layer_and_keeps_connections():
    thin = network("Figure 7", SIZES["quick"])
    assert [layer.filters for layer in thin.layers] == [
        max(1, round(layer.filters / 8)) for layer in zoo["Figure 7"].layers
    ]
    assert thin.connections == zoo["Figure 7"].connections
    assert network("Figure 7", SIZES["night"]) == zoo["Figure 7"]


# ---- notebook 08


def test_a_string_is_read_layer_by_layer():
    net = ConvNet((Layer("conv", (), 1, 3, filters=8), Layer("conv", (1,), 3, 1, filters=4)))
    read = analysis.read_tokens(SPACE, SPACE.tokens(net))
    assert read["layer"].tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert read["choice"].tolist() == ["1", "3", "8", "3", "1", "4", "yes"]
    assert read["place"].iloc[-1] == "layer 1 is an input"


def test_the_probabilities_of_connections_are_the_controllers():
    agent = AnchorAgent(SPACE, TokenAgentSettings(units=5, init=1.0), seed=1)
    tokens = SPACE.draw(3, random.Random(0))
    table = analysis.skip_probabilities(agent, tokens)
    choices = agent.choices(tokens)  # three sizes a layer; after those of layer 2 one connection, of layer 3 two
    assert table.loc[2, 1] == choices[6][1]
    assert table.loc[3].tolist()[:2] == [choices[10][1], choices[11][1]]
    assert table.isna().sum().sum() == 9 - 3


def test_habits_are_means_over_the_networks_of_a_step():
    one = ConvNet((Layer("conv", (), 3, 3, filters=4), Layer("conv", (1,), 1, 1, filters=8)))
    other = ConvNet((Layer("conv", (), 1, 3, filters=8), Layer("conv", (), 1, 3, filters=8)))
    strings = [" ".join(map(str, SPACE.tokens(net))) for net in (one, other)]
    table = pd.DataFrame({"step": [0, 0], "tokens": strings, "hash": ["a", "b"], "loss": [20.0, np.nan]})
    (found,) = analysis.habits(table, PLAN).to_dict("records")
    assert found == {"samples": 8, "layers": 2, "skips": 0.5, "area": 4.0, "filters": 7.0, "error": 55.0}


def right(chosen):
    reads = [inputs or (0,) for inputs in chosen]
    used = {i for inputs in reads for i in inputs}
    return reads, tuple(n for n in range(1, len(chosen) + 1) if n not in used)


def test_the_exercise_on_rules():
    assert "not yet done" in analysis.check_rules(lambda _: None)
    assert "Exercise done" in analysis.check_rules(right)
    with pytest.raises(AssertionError, match="reads the image"):
        analysis.check_rules(lambda chosen: ([*chosen], right(chosen)[1]))
    with pytest.raises(AssertionError, match="the classifier reads"):
        analysis.check_rules(lambda chosen: (right(chosen)[0], (len(chosen),)))


def test_the_exercise_on_weights():
    def solution(layers, reads):
        maps = [3, *(filters for *_, filters in layers)]
        return sum(h * w * n * sum(maps[i] for i in of) for (h, w, n), of in zip(layers, reads, strict=True))

    assert "not yet done" in table_1.check_weights(lambda *_: None)
    assert "4,199,868" in table_1.check_weights(solution)
    with pytest.raises(AssertionError, match="a skip"):
        table_1.check_weights(lambda layers, reads: solution(layers, [of[-1:] for of in reads]))


def test_figures_name_their_axes():
    agent = AnchorAgent(SPACE, seed=1)
    table = analysis.skip_probabilities(agent, SPACE.draw(3, random.Random(0)))
    fig = figures.connections({"before": table, "after": table}, "T")
    assert [ax.get_xlabel() for ax in fig.axes[:2]] == ["layer that is read"] * 2
    assert {text.get_text() for text in fig.axes[0].texts} <= {"0.49", "0.50", "0.51"}  # nothing learned yet
    steps = pd.DataFrame(
        {"samples": [8, 16], "layers": [2, 3], "skips": [0.4, 0.6], "area": [4.0, 5.0], "filters": [6.0, 7.0],
         "error": [50.0, 40.0]}
    )  # fmt: skip
    drawn = figures.habits({"ours": [steps], "random": [steps]}, "T")
    assert [ax.get_ylabel() for ax in drawn.axes][:2] == ["mean error, percent", "connections chosen"]


# ---- notebook 09


@pytest.fixture(scope="module")
def shipped():
    record = Record.load(RECORDS / "cifar10-figure-7.jsonl.gz")
    sizes = SIZES["night"]
    by_job = {(one.hash, one.seed): one for one in record.evaluations() if one.is_by(HeldOut(sizes.task))}
    jobs = {row(name, seed): (network(name, sizes).hash, seed) for name in COMPARED for seed in sizes.seeds}
    return {name: by_job[job] for name, job in jobs.items() if job in by_job}


def test_the_shipped_record_holds_figure_7_and_the_hash_of_its_text(shipped):
    assert zoo["Figure 7"].hash == "1a7e036a73440c08"
    ours = table_1.errors(shipped, SIZES["night"])
    assert [*ours.index] == ["Figure 7", "Figure 7, no skips"]
    assert ours["epochs"].tolist() == [110, 110]
    assert ours["parameters"].tolist() == [4_201_630, 809_134]  # the maps that a GPU adds are not the network's
    # One public re-make stopped at an accuracy of 90.35 %; without skips it is worse, in the paper too.
    assert ours["test error"]["Figure 7"] < 100 - 90.35 < ours["test error"]["Figure 7, no skips"]


def test_learning_curves_end_at_the_error_that_counts(shipped):
    curves = table_1.curves(shipped, SIZES["night"])
    last = curves[curves["epoch"] > 105].groupby("name")["valid_error"].min()
    ours = table_1.errors(shipped, SIZES["night"])
    assert last.to_dict() == pytest.approx(ours["validation error"].to_dict())
    assert set(curves["learning_rate"].round(6)) == {0.1, 0.01, 0.001}


def test_table_1_is_the_papers_with_ours_in_one_row(shipped):
    whole = table_1.table(table_1.errors(shipped, SIZES["night"])).set_index("model")
    v1 = whole.loc["NAS v1 no stride or pooling"]
    assert (v1["depth"], v1["parameters"], v1["error"]) == (15, 4.2, 5.5)
    assert whole["ours"].notna().sum() == 1
    assert whole.loc["NAS v3 max pooling + more filters", "error"] == whole["error"].nsmallest(2).iloc[-1] == 3.65
    assert len(whole) == 23


def test_what_is_missing_is_called_not_attempted(shipped):
    told = table_1.order_told(table_1.errors(shipped, SIZES["night"]))
    assert "Figure 7, all skips: not attempted (5.56 % in the paper)" in told
    assert "1 seed a network" in told


def test_findings_say_value_unit_and_seeds(shipped):
    ours = table_1.errors(shipped, SIZES["night"])
    facts = table_1.error_facts(ours, "Figure 7", on_cifar=True)
    assert (facts["unit"], facts["seeds"], facts["interval"]) == ("% error", 1, None)
    assert facts["supports"] is False  # 8.04 against 5.50, tolerance 0.3
    assert table_1.error_facts(ours, "Figure 7", on_cifar=False)["supports"] is None
    skips = table_1.skips_facts(shipped, SIZES["night"])
    assert (skips["supports"], skips["interval"], skips["seeds"]) == (True, None, 1)
    assert skips["value"] == pytest.approx(ours["test error"]["Figure 7, no skips"] - facts["value"])


def test_three_seeds_give_an_interval(shipped):
    sizes = replace(SIZES["night"], seeds=(1, 2, 3))
    found = {
        row(name, seed): replace(one, metrics={**one.metrics, "test_error": one.metrics["test_error"] + seed / 10})
        for name in ("Figure 7", "Figure 7, no skips")
        for seed in sizes.seeds
        for one in [shipped[row(name, 1)]]
    }
    skips = table_1.skips_facts(found, sizes)
    low, high = skips["interval"]
    assert 0 < low < skips["value"] < high
    assert table_1.errors(found, sizes)["seeds"].tolist() == [3, 3]


def test_the_recipe_is_told_from_the_settings():
    paper, digits = (analysis.recipe_told(SIZES[profile].task) for profile in ("paper", "quick"))
    assert "half of them mirrored" in paper
    assert "the best of the last 5 epochs" in paper
    assert "mirrored" not in digits
    assert analysis.share_of_training(SIZES["paper"].task) == 1.0
    assert analysis.share_of_training(SIZES["night"].task) == pytest.approx(110 / 300)
