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
from nasrepro.experiments import arms
from nasrepro.experiments.zl17_convnets import EXPERIMENT, again, analysis, figures, table_1
from nasrepro.experiments.zl17_convnets.sizes import SIZES, Comparison
from nasrepro.report import stats
from nasrepro.search import Record, replay
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.record import Evaluation
from nasrepro.trainers.images import ImageSettings
from nasrepro.trainers.outcome import Outcome

RECORDS = Path(__file__).parents[2] / "results" / "records"
SPACE = ConvSpace((1, 3), (1, 3), filters=(4, 8))
NIGHT = SIZES["night"].table
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
    assert "Figure 7's network and its controls" in words


def test_an_arm_differs_from_the_search_in_its_method_and_rate_alone():
    sizes = SIZES["course"].searches[0]
    scaled, control = sizes.plan("scaled rate", 2), sizes.plan("random", 2)
    assert scaled.reinforce.learning_rate == 3.5e-3
    assert sizes.plan("paper's rate", 2).reinforce.learning_rate == 6e-4
    assert (scaled.seed, control.method, control.space) == (2, "random", sizes.search.space)


def test_a_divisor_thins_every_layer_and_keeps_connections():
    thin = SIZES["quick"].table.network("Figure 7")
    assert [layer.filters for layer in thin.layers] == [
        max(1, round(layer.filters / 8)) for layer in zoo["Figure 7"].layers
    ]
    assert thin.connections == zoo["Figure 7"].connections
    assert SIZES["night"].table.network("Figure 7") == zoo["Figure 7"]


def test_rows_are_made_seed_by_seed_so_that_as_many_are_whole_as_there_is_time_for():
    chosen = Comparison(SIZES["smoke"].task, ("Figure 7", "Figure 7, no skips"), (1, 2), words="W")
    assert [*chosen.rows()] == [
        "W: Figure 7, seed 1", "W: Figure 7, no skips, seed 1", "W: Figure 7, seed 2", "W: Figure 7, no skips, seed 2",
    ]  # fmt: skip
    assert [job.seed for job in chosen.rows((2,)).values()] == [2, 2]


def test_the_sample_is_what_random_search_trains_first():
    record = Record.load(RECORDS / "cifar10-convnets.jsonl.gz")
    chosen = SIZES["course"].searches[1]
    (name,) = (name for name, found in record.searches().items() if found["search"]["method"] == "random")
    trained = [evaluation.hash for _, evaluation in replay(record, name).trials]
    assert [net.hash for net in chosen.sample(30)] == trained[:30]


# ---- notebook 08


def test_a_string_is_read_layer_by_layer():
    net = ConvNet((Layer("conv", (), 1, 3, filters=8), Layer("conv", (1,), 3, 1, filters=4)))
    read = analysis.read_tokens(SPACE, SPACE.tokens(net))
    assert read["layer"].tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert read["choice"].tolist() == ["1", "3", "8", "3", "1", "4", "yes"]
    assert read["place"].iloc[-1] == "layer 1 is an input"


def test_a_string_with_types_of_layers_and_a_rate_is_read_too():
    space = ConvSpace(types=("conv", "max_pool"), learning_rates=(0.1, 0.01))
    pool = Layer("max_pool", (1,), 2, 2, 2, 2)
    net = ConvNet((Layer("conv", (), 3, 5, filters=24), pool), learning_rate=0.01)
    tokens = space.tokens(net)
    read = analysis.read_tokens(space, tokens)
    assert read["token"].tolist() == list(tokens)
    assert read["choice"].tolist()[:4] == ["conv", "3", "5", "24"]
    assert read["choice"].tolist()[4:6] == ["max_pool", "2"]
    assert read.iloc[-1][["layer", "place", "choice"]].tolist() == [2, "learning rate", "0.01"]
    agent = AnchorAgent(space, TokenAgentSettings(units=5, init=1.0), seed=1)
    written = analysis.writing(agent, tokens)
    assert [*map(len, written["words"])] == [*map(len, written["chances"])]


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


def test_a_string_is_written_with_the_controllers_probabilities():
    agent = AnchorAgent(SPACE, TokenAgentSettings(units=5, init=1.0), seed=1)
    tokens = SPACE.draw(3, random.Random(0))
    written = analysis.writing(agent, tokens)
    assert written["chances"].tolist() == agent.choices(tokens)
    likely = np.prod([chances[token] for chances, token in zip(written["chances"], written["token"], strict=True)])
    assert np.log(likely) == pytest.approx(agent.evaluate([tokens])[0].item(), abs=1e-5)
    assert [*map(len, written["words"])] == [*map(len, written["chances"])]


def test_the_first_turn_of_the_loop_is_that_of_its_best_network():
    agent = AnchorAgent(SPACE, seed=1)
    strings = [SPACE.draw(2, random.Random(seed)) for seed in range(9)]
    losses = [50.0, 20.0, np.nan, 30.0, 40.0, 60.0, 70.0, 80.0, 1.0]  # a step has eight
    table = pd.DataFrame({"step": [0] * 8 + [1], "tokens": [" ".join(map(str, each)) for each in strings]})
    turn = analysis.first_turn(table.assign(loss=losses), agent, PLAN)
    assert (turn.tokens, turn.error) == (strings[1], 20.0)
    assert turn.reward == pytest.approx(0.8**3)
    assert turn.baseline == pytest.approx(np.mean([(1 - x / 100) ** 3 for x in losses[:8] if x == x]))
    assert turn.log_prob == pytest.approx(-7 * np.log(2), abs=0.1)  # seven tokens of two choices, nothing learned


# ---- networks trained once more


def test_noise_is_told_apart_from_networks():
    rng = np.random.default_rng(0)
    own = rng.normal(60, 3, size=(4000, 1))
    table = pd.DataFrame(own + rng.normal(0, 1, size=(4000, 3)))
    parts = stats.parts_of_variance(table)
    assert parts["within"] == pytest.approx(1, rel=0.03)
    assert parts["between"] == pytest.approx(3, rel=0.03)
    assert parts["share"] == pytest.approx(0.9, rel=0.02)
    found = again.noise(table.head(60))
    assert 0 < found["low"] < found["tau"] < found["high"] < 1
    assert np.isnan(again.noise(table.head(3))["tau"])


def test_networks_that_lack_a_seed_are_left_out_and_a_failure_counts():
    chosen = SIZES["smoke"].searches[0]
    nets, record = chosen.sample(4), Record()
    for net, error in zip(nets, (10.0, 20.0, None, 40.0), strict=True):
        for seed in (0, 1)[: 1 if error == 20.0 else 2]:
            outcome = Outcome("failed", "x") if error is None else Outcome("ok", metrics={"valid_error": error + seed})
            record.put(Evaluation.of(chosen.task, net, seed, outcome))
    record.put(Evaluation.of(chosen.again.longer, nets[3], 1, Outcome("ok", metrics={"valid_error": 5.0})))
    run = again.OfRecord(record)
    from_seeds, both = again.from_seeds(run, chosen), again.for_longer(run, chosen)
    assert from_seeds.to_numpy().tolist() == [[10.0, 11.0], [90.0, 90.0], [40.0, 41.0]]
    assert both.to_dict("index") == {nets[3].hash: {"short": 40.0, "longer": 5.0}}
    nothing = again.OfRecord(Record())
    assert len(again.for_longer(nothing, chosen)) == 0
    assert "too few" in again.noise_told(again.from_seeds(nothing, chosen), chosen.task)
    assert "too few" in again.noise_told(from_seeds, chosen.task)
    assert "too few" in again.longer_told(both, chosen)


def test_a_longer_training_that_keeps_the_order_has_tau_1():
    chosen = SIZES["course"].searches[1]
    both = pd.DataFrame({"short": np.arange(60.0, 70.0), "longer": np.arange(50.0, 60.0)})
    assert again.longer_tau(both).value == pytest.approx(1)
    assert "trained 4 times as long" in again.longer_told(both, chosen)
    assert "not shown" not in again.longer_told(both, chosen)
    mixed = both.assign(longer=[55.0, 51.0, 58.0, 50.0, 57.0, 52.0, 59.0, 54.0, 53.0, 56.0])
    assert "it is not shown that the order of so short a training lasts" in again.longer_told(mixed, chosen)


@pytest.mark.parametrize(("low", "word"), [(0.5, "same direction"), (-0.5, "not reproduced")])
def test_the_claim_on_policy_gradient_is_judged_by_the_ledgers_rules(low, word):
    ends = {("scaled rate", name): stats.Estimate(1.0, low, 2.0) for name in arms.STATISTICS}
    assert f"**{word}**" in analysis.claim_told(ends, "scaled rate", 5, "digits")


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
    written = figures.writing({"before": analysis.writing(agent, SPACE.draw(3, random.Random(0)))}, "T")
    assert [tick.get_text() for tick in written.axes[0].get_xticklabels()][-3:] == ["filters", "reads 1?", "reads 2?"]
    once_more = figures.again(pd.DataFrame({0: [1.0, 2.0], 1: [1.5, 2.5]}), pd.DataFrame({"short": [], "longer": []}))
    assert [text.get_text() for text in once_more.axes[1].texts] == ["not recorded yet"]
    drawn = figures.habits({"ours": [steps], "random": [steps]}, "T")
    assert [ax.get_ylabel() for ax in drawn.axes][:2] == ["mean error, percent", "connections chosen"]


# ---- notebook 09


@pytest.fixture(scope="module")
def shipped():
    return table_1.recorded(Record.load(RECORDS / "cifar10-figure-7.jsonl.gz"), NIGHT)


def test_the_shipped_record_holds_figure_7_and_the_hash_of_its_text(shipped):
    assert zoo["Figure 7"].hash == "1a7e036a73440c08"
    ours = table_1.errors(shipped, NIGHT)
    assert [*ours.index] == ["Figure 7", "Figure 7, no skips"]
    assert ours["epochs"].tolist() == [110, 110]
    assert ours["parameters"].tolist() == [4_201_630, 809_134]  # the maps that a GPU adds are not the network's
    # One public re-make stopped at an accuracy of 90.35 %; without skips it is worse, in the paper too.
    assert ours["test error"]["Figure 7"] < 100 - 90.35 < ours["test error"]["Figure 7, no skips"]


def test_learning_curves_end_at_the_error_that_counts(shipped):
    curves = table_1.curves(shipped, NIGHT)
    last = curves[curves["epoch"] > 105].groupby("name")["valid_error"].min()
    ours = table_1.errors(shipped, NIGHT)
    assert last.to_dict() == pytest.approx(ours["validation error"].to_dict())
    assert set(curves["learning_rate"].round(6)) == {0.1, 0.01, 0.001}


def test_table_1_is_the_papers_with_ours_under_the_same_network(shipped, seeds):
    ours = [(NIGHT, table_1.errors(shipped, NIGHT)), (SMALL, table_1.errors(seeds, SMALL))]
    whole = table_1.table(ours)
    papers, own = whole[whole["by"] == "the paper"].set_index("model"), whole[whole["by"] == "ours"]
    v1 = papers.loc["NAS v1 no stride or pooling"]
    assert (v1["depth"], v1["parameters"], v1["error"]) == (15, 4.2, 5.5)
    assert papers.loc["NAS v3 max pooling + more filters", "error"] == papers["error"].nsmallest(2).iloc[-1] == 3.65
    assert papers.loc["Figure 7, no skips", "error"] == 7.97
    assert len(papers) == 23 + 2
    place = whole.index[whole["model"] == "NAS v1 no stride or pooling"]
    assert (whole["by"][place].tolist(), [*place]) == (["the paper", "ours", "ours"], [*range(place[0], place[0] + 3)])
    assert own[["budget", "data", "device"]].ne("").all(axis=None)
    assert own.set_index(["model", "seeds"])["low"].notna().tolist() == [False, True, False, True]
    assert own["data"].unique().tolist() == ["cifar10", "cifar10 at 16 x 16"]


def test_what_is_missing_is_called_not_attempted(shipped):
    told = table_1.order_told(table_1.errors(shipped, NIGHT))
    assert "Figure 7, all skips: not attempted (5.56 % in the paper)" in told
    assert "1 seed a network" in told


def test_findings_say_value_unit_and_seeds(shipped):
    ours = table_1.errors(shipped, NIGHT)
    facts = table_1.error_facts(ours, "Figure 7", on_cifar=True)
    assert (facts["unit"], facts["seeds"], facts["interval"]) == ("% error", 1, None)
    assert facts["supports"] is False  # 8.04 against 5.50, tolerance 0.3
    assert table_1.error_facts(ours, "Figure 7", on_cifar=False)["supports"] is None
    skips = table_1.difference_facts(shipped, NIGHT, "Figure 7, no skips")
    assert (skips["supports"], skips["interval"], skips["seeds"]) == (True, None, 1)
    assert skips["value"] == pytest.approx(ours["test error"]["Figure 7, no skips"] - facts["value"])


@pytest.fixture(scope="module")
def seeds(shipped):
    """Three seeds of two networks, 0.1 points apart."""
    return {
        SMALL.row(name, seed): replace(
            one, metrics={**one.metrics, "test_error": one.metrics["test_error"] + seed / 10}
        )
        for name in SMALL.names
        for seed in SMALL.seeds
        for one in [shipped[NIGHT.row(name, 1)]]
    }


SMALL = Comparison(replace(NIGHT.task, side=16), ("Figure 7", "Figure 7, no skips"), (1, 2, 3), words="small")


def test_three_seeds_give_an_interval(seeds):
    skips = table_1.difference_facts(seeds, SMALL, "Figure 7, no skips")
    assert skips["value"] == pytest.approx(11.25 - 8.04)
    # Welch's interval of two samples of three with variance 0.01 each: four degrees of freedom.
    half = 2.7764451 * np.sqrt(2 * 0.01 / 3)
    assert skips["interval"] == pytest.approx((skips["value"] - half, skips["value"] + half))
    assert table_1.errors(seeds, SMALL)["seeds"].tolist() == [3, 3]


def test_differences_are_judged_by_the_ledgers_rules_and_one_seed_decides_nothing(shipped, seeds):
    assert table_1.differences(seeds, SMALL)["verdict"].to_dict() == {"Figure 7, no skips": "same direction"}
    assert table_1.differences(shipped, NIGHT)["verdict"].to_dict() == {"Figure 7, no skips": "not reproduced"}
    both = [(NIGHT, shipped), (SMALL, seeds)]
    assert table_1.evidence(both, "Figure 7, no skips") is SMALL
    assert table_1.evidence(both[:1], "Figure 7, no skips") is NIGHT
    assert table_1.evidence(both, "Figure 7, all skips") is None


def test_the_order_shows_only_as_a_whole(seeds):
    apart = table_1.differences(seeds, SMALL)
    assert "**Not as a whole.**" in table_1.order_shown(apart)
    assert "Figure 7, all skips: not attempted" in table_1.order_shown(apart)
    row = apart.loc["Figure 7, no skips"]
    assert "**Yes.**" in table_1.order_shown(pd.DataFrame(dict.fromkeys(table_1.DIFFERENCES, row)).T)
    level = row.copy()
    level["shown"] = "no difference shown"
    mixed = pd.DataFrame({"Figure 7, no skips": row, "Figure 7, all skips": level}).T
    assert "**Not as a whole.**" in table_1.order_shown(mixed)


def test_the_public_remake_is_told_from_the_record(shipped):
    told = table_1.remake_told(shipped, NIGHT)
    curve = shipped[NIGHT.row("Figure 7", 1)].curve
    before = min(point["valid_error"] for point in curve if point["learning_rate"] == 0.1)
    assert "90.35 % accuracy" in told
    assert f"below {before:.1f} %" in told
    assert f"divided it is {next(p for p in curve if p['learning_rate'] < 0.1)['valid_error']:.1f} %" in told
    assert table_1.remake_told({}, NIGHT) == ""


def test_the_recipe_is_told_from_the_settings():
    paper, digits = (analysis.recipe_told(SIZES[profile].task) for profile in ("paper", "quick"))
    assert "half of them mirrored" in paper
    assert "the best of the last 5 epochs" in paper
    assert "mirrored" not in digits
    assert analysis.share_of_training(SIZES["paper"].task) == 1.0
    assert analysis.share_of_training(SIZES["night"].task) == pytest.approx(110 / 300)
