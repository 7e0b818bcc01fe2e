"""ZL17's searches for cells, on tables whose answers can be worked out by hand, and what is recorded of them."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from nasrepro import notebook, profiles
from nasrepro.controllers import BaseB, PolicyGradientSettings, TokenAgent
from nasrepro.dsl import parse, zoo
from nasrepro.experiments import arms
from nasrepro.experiments.zl17_cells import EXPERIMENT, after_search, analysis
from nasrepro.experiments.zl17_cells.sizes import KNOWN, ON_WORDS, SIZES
from nasrepro.notebook import Run
from nasrepro.report import papers
from nasrepro.report.ledger import Finding, verdict
from nasrepro.report.stats import Estimate
from nasrepro.search.history import Search
from nasrepro.search.record import Evaluation, Proposal
from nasrepro.search.token_search import TokenSearchSettings

BASE_2 = BaseB(2)
EXAMPLE = papers.load()["zl17.fig5.example"].value
C = 80.0


def in_the_ledger(name, facts):
    """The ledger's word for a finding of a scaled-down run."""
    return verdict(papers.load()[name], Finding(name, scaled=True, budget_words="a test", **facts)).word


def evaluation(cell, seed, loss, parameters=10):
    """What came of a training: nan for a failure."""
    made = parse(cell) if isinstance(cell, str) else cell
    status, metrics = ("failed", {}) if math.isnan(loss) else ("ok", {"valid_ppl": loss})
    canonical = str(made.canonical())
    names = {"cell": str(made), "canonical": canonical, "hash": made.hash, "key": f"{made.hash} {seed}"}
    rest = {"task": "t", "version": 1, "settings": {}, "data": "", "reason": "", "device": "", "created": ""}
    return Evaluation(
        **names, **rest, seed=seed, status=status, metrics=metrics, curve=[], parameters=parameters, seconds=1.0
    )


def a_search(trained, numbers=None):
    """A search that tried these cells, by their losses."""
    evaluations = [evaluation(cell, 0, loss) for cell, loss in trained.items()]
    numbers = range(len(evaluations)) if numbers is None else numbers
    proposals = [
        Proposal(number, 0, "random", one.cell, None, one.key) for number, one in zip(numbers, evaluations, strict=True)
    ]
    return Search("id", {"search": {}}, {}, list(zip(proposals, evaluations, strict=True)))


# ---- what records hold


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The notebook's run under `course`, in which whatever would train is an error."""

    def never(*_args, **_more):
        raise AssertionError("a profile that only replays began to train")

    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path))
    for name in ("search", "evaluate", "Workers"):
        monkeypatch.setattr(notebook, name, never)
    return Run("10", profiles.load("course"), experiment=EXPERIMENT, device="cpu")


@pytest.mark.parametrize(("numbers", "whole"), [([0, 1, 2], 3), ([0, 1, 3], 2), ([1, 2, 3], 1), ([], 1)])
def test_a_search_ends_before_its_first_child_that_is_not_trained(numbers, whole):
    cells = ["Tanh(MM(x_t))", "Sigmoid(MM(x_t))", "ReLU(MM(x_t))"][: len(numbers)]
    found = a_search(dict.fromkeys(cells, 5.0), numbers)
    plan = TokenSearchSettings(cells=640)
    assert arms.recorded_plan(found, plan).cells == whole
    assert arms.recorded_plan(found, plan).identity() == plan.identity()


def test_a_course_replays_the_beginning_of_every_shipped_search_and_trains_nothing(course):
    searches = analysis.searches_as_recorded(course)
    sizes = SIZES["course"]
    assert set(searches) == {(arm, seed) for arm in sizes.arms for seed in sizes.seeds}
    for found in searches.values():
        assert [proposal.number for proposal, _ in found.trials] == list(range(len(found.trials)))
        assert 0 < len(found.trials) <= sizes.search.cells
    tables = arms.drawn(searches)
    assert min(arms.compared(tables).values()) == min(map(len, tables.values())) > 0


def test_what_is_not_recorded_is_left_out_of_a_course(course):
    sizes = SIZES["course"]
    assert arms.search_as_recorded(course, sizes.plan("random", seed=99)) is None
    assert analysis.evaluations_as_recorded(course, [parse("Sin(MM(x_t))")], [1, 2], sizes.task) == []
    words = [zoo[name] for name in ON_WORDS]
    found = analysis.evaluations_as_recorded(course, [*words, parse("Sin(MM(x_t))")], [1, 2, 3, 99], sizes.words_task)
    assert {one.hash for one in found} <= {cell.hash for cell in words}
    assert {one.seed for one in found} <= {1, 2, 3}
    assert len(found) >= 6


def test_the_share_of_the_papers_training():
    assert analysis.share_of_paper(SIZES["paper"].task, 15_000) == 1
    assert analysis.share_of_paper(SIZES["paper"].task, 1_500) == pytest.approx(0.1)
    course = SIZES["course"].task  # 100,000 characters, 2 epochs
    assert analysis.share_of_paper(course, 300) == pytest.approx(300 * 2 * 1e5 / (15_000 * 35 * 929_589))


# ---- tokens


def test_tokens_are_read_in_the_papers_blocks_and_words():
    tokens = analysis.tokens_of(BASE_2, EXAMPLE)
    read = analysis.read_tokens(BASE_2, tokens)
    assert list(read["block"].unique()) == [
        "Tree Index 0",
        "Tree Index 1",
        "Tree Index 2",
        "Cell Inject",
        "Cell Indices",
    ]
    assert (read.groupby("block").size() == 2).all()
    assert list(read["choice"]) == EXAMPLE.replace("ElemMult", "Mult").split()
    assert list(read["choices"]) == [2, 4] * 4 + [3, 3]
    assert analysis.paper_words(BASE_2, tokens) == EXAMPLE
    with pytest.raises(ValueError, match="Cosh"):
        analysis.tokens_of(BASE_2, EXAMPLE.replace("Tanh", "Cosh"))


def test_a_strings_chance_is_the_product_of_its_tokens():
    tokens = analysis.tokens_of(BASE_2, EXAMPLE)
    agents = {"one": TokenAgent(BASE_2, seed=1), "two": TokenAgent(BASE_2, seed=2)}
    table = analysis.chances(agents, tokens)
    assert table.shape == (10, 2)
    for name, agent in agents.items():
        assert table[name].prod() == pytest.approx(agent.log_probs([tokens]).exp().item(), rel=1e-5)


# ---- the baseline


def right(rewards, decay):
    """Every weight written out."""
    found = rewards[:1]
    for place in range(1, len(rewards)):
        weights = [decay**back for back in range(place)][::-1]
        found.append(sum(w * r for w, r in zip(weights, rewards[:place], strict=True)) / sum(weights))
    return found


def test_the_baseline_is_the_weighted_mean_of_earlier_rewards():
    rewards = [2.0, 1.0, 4.0, 0.5]
    settings = PolicyGradientSettings(baseline_decay=0.9)
    assert analysis.baselines(rewards, settings) == pytest.approx(right(rewards, 0.9))
    # A failure is measured too, and leaves no trace.
    with_failure = analysis.baselines([2.0, 1.0, None, 4.0, 0.5], settings)
    assert [*with_failure[:2], *with_failure[3:]] == pytest.approx(right(rewards, 0.9))
    assert with_failure[2] == with_failure[3]


def from_zero(rewards, decay):
    average, found = 0.0, []
    for reward in rewards:
        found.append(average)
        average = decay * average + (1 - decay) * reward
    return found


def own_reward_first(rewards, decay):
    return [right([*rewards[:place], rewards[place]], decay)[-1] if place == 0 else
            right([*rewards[: place + 1], 0.0], decay)[-1] for place in range(len(rewards))]  # fmt: skip


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (from_zero, "equal rewards"),
        (own_reward_first, "moves with reward"),
        (lambda rewards, _decay: right(rewards, 0.5), "decay 0"),
        (lambda rewards, decay: right(rewards, decay**2), "weights must sum"),
        (lambda rewards, decay: right(rewards, decay)[:-1], "as many baselines"),
    ],
)
def test_a_wrong_baseline_is_told_what_is_amiss(write, message):
    with pytest.raises(AssertionError, match=message):
        analysis.check_baseline(write)


def test_the_exercise_says_whether_it_is_done():
    assert "not yet done" in analysis.check_baseline(lambda _rewards, _decay: None)
    assert "done: " in analysis.check_baseline(right)


def test_the_first_step_of_a_search():
    plan = TokenSearchSettings(space=BASE_2)
    children = pd.DataFrame({"tokens": ["0 1 1 3 1 2 0 3 1 0", "0 0 0 0 0 0 0 0 0 0"], "loss": [np.nan, 4.0]})
    agent = TokenAgent(BASE_2, seed=1)
    step = analysis.first_step(children, agent, plan)
    assert step["tokens"].iloc[0] == analysis.tokens_of(BASE_2, EXAMPLE)
    assert step["reward"].iloc[1] == C / 4**2
    assert step["advantage"].tolist() == [0.0, 0.0]  # of a failure before all others, and of the first reward
    assert arms.best_tokens(children) == (0,) * 10
    assert arms.best_tokens(children.assign(loss=np.nan)) == step["tokens"].iloc[0]


# ---- what a child's loss is worth


def test_losses_by_seed_leave_out_cells_that_lack_one():
    found = analysis.by_seed(
        [
            evaluation("Tanh(MM(x_t))", 1, 5.0),
            evaluation("Tanh(MM(x_t))", 2, math.nan),
            evaluation("ReLU(MM(x_t))", 1, 6.0),
        ]
    )
    assert list(found.index) == ["Tanh(MM(x_t))"]
    assert found[1].tolist() == [5.0]
    assert found[2].isna().all()
    assert analysis.failing(found) == {"from every seed": 0, "from some": 1, "from none": 0}


def test_noise_finds_the_variances_that_a_table_was_made_with():
    rng = np.random.default_rng(0)
    cells = rng.normal(2.0, 0.3, (800, 1))
    losses = pd.DataFrame(np.exp(cells + rng.normal(0, 0.1, (800, 3))), columns=[1, 2, 3])
    found = analysis.noise(losses, C).iloc[0]
    assert found["low"] < found["tau"] < found["high"]
    assert found["within"] == pytest.approx(0.1, rel=0.08)
    assert found["between"] == pytest.approx(0.3, rel=0.08)
    assert found["share"] == pytest.approx(0.9, abs=0.02)
    # For two normal variables of correlation r Kendall's tau is 2/pi arcsin(r) (Greiner).
    assert found["tau"] == pytest.approx(2 / np.pi * np.arcsin(0.9), abs=0.04)


def test_seeds_that_agree_and_failures_that_earn_nothing():
    losses = pd.DataFrame({1: [5.0, 6.0, 7.0, 8.0, np.nan], 2: [5.0, 6.0, 7.0, 8.0, np.nan]})
    table = analysis.noise(losses, C)
    assert table["cells"].tolist() == [4, 5]
    assert table["within"].tolist() == [0, 0]
    assert table["tau"].tolist() == pytest.approx([1, 1])
    assert "**100%** is the cell" in analysis.noise_told(losses, C)
    assert "mostly the cell's" in analysis.noise_told(losses, C)


def test_the_spread_of_good_cells_is_not_that_of_bad_ones():
    good, bad = [[5.0, 5.0 * 1.02]] * 4, [[9.0, 9.0 * 2]] * 4
    losses = pd.DataFrame([*bad, *good, [np.nan, 4.0]], columns=[1, 2])
    assert analysis.spread_of_good(losses) == pytest.approx(np.log(1.02) / 2**0.5)
    assert np.isnan(analysis.spread_of_good(losses[:3]))
    assert np.isnan(analysis.spread_of_good(analysis.by_seed([])))


def test_of_few_cells_or_none_nothing_is_said():
    few = pd.DataFrame({1: [5.0, np.nan], 2: [5.0, 6.0]})
    assert analysis.noise(few, C)["tau"].isna().all()
    assert "too few" in analysis.noise_told(few, C)
    none = analysis.by_seed([])
    assert len(none) == 0
    assert analysis.noise(none, C)["cells"].tolist() == [0, 0]


# ---- the searches


def children_of(*losses):
    return pd.DataFrame({"loss": losses, "hash": [str(number) for number in range(len(losses))]})


TABLES = {
    ("scaled rate", 1): children_of(*[8.0, 4.0, np.nan, 6.0] * 5),
    ("scaled rate", 2): children_of(*[5.0] * 18),
    ("random", 1): children_of(*[9.0] * 25),
    ("random", 2): children_of(*[7.0, 10.0] * 10),
}


def test_progress_is_taken_over_as_many_children_as_all_searches_of_an_arm_and_random_ones_have():
    assert arms.compared(TABLES) == {"scaled rate": 18, "random": 20}
    table = arms.progress(TABLES, failed=20.0)
    ends = table.groupby("arm")["samples"].agg(["min", "max"])
    assert ends.loc["scaled rate"].tolist() == [15, 18]
    assert ends.loc["random"].tolist() == [15, 20]
    leading = arms.leads(table)
    assert set(leading[leading["arm"] == "scaled rate"]["samples"]) <= set(table["samples"])
    assert arms.at_the_end(leading)["scaled rate", "top1"].value == 8 - 4.5
    last = table[table["samples"] == 18].set_index(["arm", "seed"])
    # 18 children: 8 four times and once more, 4 as often, four failures, 6 four times.
    assert last.loc[("scaled rate", 1), "top1"] == 4
    assert last.loc[("scaled rate", 1), "top5"] == 4
    assert last.loc[("scaled rate", 1), "top15"] == pytest.approx((5 * 4 + 4 * 6 + 5 * 8 + 20) / 15)
    assert last.loc[("scaled rate", 1), "window"] == pytest.approx((5 * 4 + 4 * 6 + 5 * 8 + 4 * 20) / 18)
    assert last.loc[("random", 2), "window"] == pytest.approx(8.5)
    ends = arms.final(table, {"scaled rate": "S", "random": "R"}).set_index("search")
    assert ends.loc["R", ["children", "best"]].tolist() == [20, 8]
    counted = arms.counts(TABLES, {"scaled rate": "S", "random": "R"}, planned=30)
    assert counted["failed"].tolist() == pytest.approx([0.25, 0, 0, 0])
    assert counted["children"].tolist() == [20, 18, 25, 20]


def test_what_is_compared_says_whether_the_searches_came_to_their_end():
    whole, part = (analysis.compared_told("a budget", children, 300) for children in (300, 150))
    assert "planned" not in whole
    assert "planned for 300" in part
    assert "In the paper: 15,000 children" in whole


def test_a_few_children_are_enough_for_progress():
    table = arms.progress({("random", 1): children_of(5.0, 6.0)}, failed=20.0)
    assert table["samples"].tolist() == [2]
    assert table["top15"].tolist() == [5.5]


def test_the_difference_of_two_kinds_of_search_is_welchs():
    """By the textbook: standard error from both variances, degrees of freedom by Welch and Satterthwaite."""
    ours, theirs = np.array([6.1, 6.4, 6.2]), np.array([6.6, 6.5, 7.3, 6.9])
    parts = [sample.var(ddof=1) / len(sample) for sample in (ours, theirs)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(s) - 1) for part, s in zip(parts, (ours, theirs), strict=True))
    reach = scipy.stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
    value, edges = arms.difference(ours, theirs)
    assert value == pytest.approx(ours.mean() - theirs.mean())
    assert edges == pytest.approx((value - reach, value + reach))
    assert arms.difference([1.0, 2.0], [1.0, 2.0, 3.0]) == (-0.5, None)
    assert arms.difference([1.0] * 3, [0.5] * 3) == (0.5, (0.5, 0.5))


def searched(**best):
    """`progress` of searches by their best, seed by seed."""
    parts = [
        pd.DataFrame({"arm": arm.replace("_", " "), "seed": range(len(values)), "samples": 300, "top1": values})
        for arm, values in best.items()
    ]
    table = pd.concat(parts)
    return table.assign(top5=table["top1"] + 1, top15=table["top1"] + 2, window=12.0)


def test_who_is_ahead_of_random_search():
    ends = arms.at_the_end(arms.leads(searched(scaled_rate=[6.0, 6.1, 6.2], random=[7.0, 7.1, 7.3])))
    assert ends["scaled rate", "top1"].value == pytest.approx(1.0333, abs=1e-4)
    facts = arms.lead_facts(ends, "scaled rate", "top1", 3, "ours")
    assert in_the_ledger("zl17.fig6.top1", facts) == "same direction"
    won = arms.wins(ends, "scaled rate", 3, "ours")
    assert "**Yes: ours.**" in analysis.winners_told({"ours": won}, 300)
    assert in_the_ledger("zl17.random.policy_gradient_wins", won) == "same direction"
    said = arms.told(ends, "scaled rate")
    assert said.count("ahead") == 3
    assert "last 32 +0.00 (+0.00 to +0.00: no difference shown)" in said


def test_fewer_children_than_the_papers_reproduce_no_number_of_them():
    assert in_the_ledger("zl17.search.ptb", arms.children_facts(300, 640)) == "not reproduced"


def test_a_lead_that_chance_explains_is_none():
    ends = arms.at_the_end(arms.leads(searched(scaled_rate=[6.0, 7.2, 6.2], random=[7.0, 7.1, 6.1])))
    won = arms.wins(ends, "scaled rate", 3, "ours")
    assert "**No: 300 children do not show it, at either rate.**" in analysis.winners_told({"a": won, "b": won}, 300)
    assert in_the_ledger("zl17.random.policy_gradient_wins", won) == "not reproduced"
    behind = {("a", "top1"): Estimate(-1, -2, -0.5), ("b", "top1"): Estimate(-1, -2, 0.5)}
    assert [arms.lead_facts(behind, arm, "top1", 3, "x")["supports"] for arm in "ab"] == [False, None]
    single = arms.at_the_end(arms.leads(searched(scaled_rate=[6.0], random=[7.0])))
    facts = arms.wins(single, "scaled rate", 1, "ours")
    assert facts["interval"] is None
    assert in_the_ledger("zl17.fig6.top1", arms.lead_facts(single, "scaled rate", "top1", 1, "x")) == ("not reproduced")
    assert "no interval" in arms.told(single, "scaled rate")


def test_the_weakest_lead_speaks_for_all():
    ends = {
        ("a", "top1"): Estimate(3, 2, 4),
        ("a", "top5"): Estimate(1, -1, 3),
        ("a", "top15"): Estimate(0.5, 0.4, 0.6),
    }
    assert arms.wins(ends, "a", 3, "ours")["value"] == 1
    unknown = {key: Estimate(one.value, np.nan, np.nan) for key, one in ends.items()}
    assert arms.wins(unknown, "a", 1, "ours")["value"] == 0.5


@pytest.mark.parametrize(
    ("larger", "spread", "word"),
    [
        ([6.0, 6.01, 6.02], 0.05, "same direction"),
        ([6.6, 6.61, 6.62], 0.05, "not reproduced"),
        ([5.0, 6.01, 7.02], 0.05, "not reproduced"),
        ([6.0, 6.01, 6.02], np.nan, "not reproduced"),
    ],
)
def test_comparable_is_within_the_noise_of_a_child(larger, spread, word):
    table = searched(scaled_rate=[6.0, 6.01, 6.02], larger_space=larger)
    facts = analysis.comparable(table, "larger space", "scaled rate", np.float64(spread))
    json.dumps(facts)  # as the ledger writes them
    assert in_the_ledger("zl17.max_sin.comparable", facts) == word
    said = analysis.comparable_told(facts)
    assert f"**{facts['value']:+.3f}**" in said
    assert ("not known yet" if np.isnan(spread) else f"{spread:.3f}") in said


# ---- known cells, and those that were found


def test_known_cells_over_their_seeds():
    names = {zoo[name].hash: name for name in KNOWN}
    trained = after_search.cells_by_seed(
        [evaluation(zoo["NASCell"], 1, 7.0, 20), *(evaluation(zoo["LSTM"], seed, 6.0 + seed) for seed in (2, 1, 3)),
         evaluation(zoo["NASCell"], 2, math.nan, 20)], names)  # fmt: skip
    assert trained["name"].tolist() == ["LSTM"] * 3 + ["NASCell"] * 2
    assert trained["valid_ppl"][:4].tolist() == [7.0, 8.0, 9.0, 7.0]
    table = after_search.over_seeds(trained)
    assert table.loc["LSTM", "mean"] == 8
    assert table.loc["LSTM", "low"] < 8 < table.loc["LSTM", "high"]
    assert table.loc["NASCell", ["parameters", "seeds", "failed", "mean"]].tolist() == [20, 2, 1, 7]
    assert np.isnan(table.loc["NASCell", "low"])
    assert after_search.over_seeds(after_search.cells_by_seed([], names)).empty


@pytest.mark.parametrize(
    ("nas", "said"), [([9.0, 9.1, 9.2], "the LSTM is better"), ([6.0, 6.1, 6.2], "NASCell is better"),
                      ([7.0], "too few seeds"), ([], "nothing to compare")]
)  # fmt: skip
def test_what_is_said_of_the_cells_on_words(nas, said):
    rows = [("LSTM", 7.0), ("LSTM", 7.1), ("LSTM", 7.2), *(("NASCell", loss) for loss in nas)]
    assert said in after_search.on_words_told(pd.DataFrame(rows, columns=["name", "valid_ppl"]))


def test_the_best_cells_and_the_searches_that_found_them():
    good, bad = "Tanh(MM(x_t))", "ReLU(MM(x_t))"
    searches = {
        ("paper's rate", 1): a_search({bad: 7.0, good: 6.0}),
        ("scaled rate", 1): a_search({good: 6.0}),
        ("scaled rate", 2): a_search({bad: 5.0}),
        ("random", 1): a_search({bad: math.nan}),
    }
    champions = after_search.best_found(searches)
    assert {key: loss for key, (_, loss) in champions.items()} == {
        ("paper's rate", 1): 6.0,
        ("scaled rate", 1): 6.0,
        ("scaled rate", 2): 5.0,
    }
    names = after_search.found_by(champions)
    assert names == {parse(good).hash: "paper's rate 1; scaled rate 1", parse(bad).hash: "scaled rate 2"}
    assert after_search.best_by_arm(searches) == {"paper's rate": parse(good), "scaled rate": parse(bad)}
    trained = after_search.cells_by_seed([evaluation(good, 1, 6.5), evaluation(good, 2, 6.7)], names)
    table = after_search.fallen_back(trained, champions)
    assert (table["mean"] - table["chosen"]).tolist() == pytest.approx([0.6])
    assert after_search.fallen_back(trained[:0], champions).empty
    assert after_search.fallen_told(table[:0]).startswith("**The best cells from more seeds: not recorded yet")


def test_what_is_told_of_the_best_cells_is_how_far_they_fall_back_and_what_they_cost():
    rows = {"LSTM": [7.0, math.nan, 100], "a": [6.5, 6.4, 2_000], "b": [7.2, 7.0, 2_000], "c": [6.6, 6.3, 2_000]}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "chosen", "parameters"])
    told = after_search.fallen_told(table)
    assert "fall back by **+0.20** perplexity on average (95% interval over cells +0.1" in told
    assert "reach 6.50 to 7.20, the LSTM 7.00: 2 of 3 are better. But they have 2,000 parameters" in told
    assert "the LSTM 100," in told


def test_the_grid_shows_what_is_recorded():
    sizes = SIZES["smoke"]
    (first, task), _ = sizes.grid.tasks(sizes.task).items()
    ours = parse("Tanh(MM(x_t))")

    def evaluations(cells, seeds, asked, _workers):
        assert (cells, list(seeds)) == ([zoo["LSTM"], ours], [1])
        return [evaluation(zoo["LSTM"], 1, 6.0), evaluation(ours, 1, math.nan)] if asked == task else []

    run = SimpleNamespace(sizes=sizes, fresh=True, profile=None, evaluations=evaluations)
    table = after_search.grid_as_recorded(run, {"random": ours}, {"random": "random search"})
    assert list(table.index) == [first]
    assert table.loc[first, "LSTM"] == 6
    assert np.isnan(table.loc[first, "random search"])
    assert f"- **LSTM**: 6.00, at {first}" in after_search.grid_told(table)
    run.sizes = SIZES["quick"]
    assert after_search.grid_as_recorded(run, {}, {}).empty
