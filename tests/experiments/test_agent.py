"""The agent's search, on tables whose answers can be worked out by hand."""

import random

import numpy as np
import pandas as pd
import pytest
import torch

from nasrepro.controllers import AgentSettings, TreeAgent, draw_well_formed
from nasrepro.dsl import parse, zoo
from nasrepro.dsl.constraints import has_memory_place, must_use, no_repeated_operator, translation_priors
from nasrepro.experiments.s17_translation import agent
from nasrepro.experiments.s17_translation.sizes import SIZES
from nasrepro.report import papers
from nasrepro.report.ledger import Finding, verdict
from nasrepro.rnn import RNN
from nasrepro.search.agent_search import placements

WORDS = ("Tanh", "Add", "Sin", "x_t", "h_{t-1}", "PosEnc")  # Sin and PosEnc are extended words
SETTINGS = AgentSettings(words=WORDS, width=6, policy=6, max_height=4, max_nodes=6)
TREE = parse("Add(Tanh(x_t), Sin(h_{t-1}))").root


def in_the_ledger(name, facts, **spent):
    """The ledger's word for a finding of a scaled-down run."""
    return verdict(papers.load()[name], Finding(name, scaled=True, budget_words="a test", **facts, **spent)).word


# ---- what the agent would write


def test_a_trees_chance_is_the_product_of_the_chances_of_its_words():
    network = TreeAgent(SETTINGS, seed=3)
    table = agent.chances(network, TREE)
    assert list(table.columns) == list(WORDS)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    written = ["Add", "Tanh", "x_t", "Sin", "h_{t-1}"]
    product = np.prod([table.loc[number, word] for number, word in enumerate(written)])
    assert product == pytest.approx(network.log_probs([TREE]).exp().item(), rel=1e-4)
    assert (table.loc[0, ["x_t", "h_{t-1}", "PosEnc"]] == 0).all()  # a source alone is no cell
    assert (table.loc[1, ["x_t", "h_{t-1}", "PosEnc"]] > 0).all()


def test_a_tree_that_the_agent_cannot_grow_has_no_chances():
    with pytest.raises(ValueError, match="cannot grow Tanh"):
        agent.chances(TreeAgent(SETTINGS), parse("Tanh(c_{t-1})").root)


def test_draws_are_the_same_every_time_and_explore_only_when_asked():
    network = TreeAgent(SETTINGS, seed=3)
    assert agent.draw(network, 20) == agent.draw(network, 20)
    by_epsilon = TreeAgent(AgentSettings(**{**vars(SETTINGS), "epsilon": 1.0}), seed=3)
    assert agent.draw(by_epsilon, 20) == agent.draw(network, 20)
    drawn = agent.draw(by_epsilon, 600, explore=True)
    roots = pd.Series([tree.op for tree in drawn]).value_counts(normalize=True)
    assert roots.to_dict() == pytest.approx({"Tanh": 1 / 3, "Add": 1 / 3, "Sin": 1 / 3}, abs=0.07)


def test_shares_of_broken_rules():
    rules = (must_use("x_t", "h_{t-1}"), no_repeated_operator(), has_memory_place())
    texts = {
        "half": ["Add(x_t, h_{t-1})", "Tanh(x_t)", "Tanh(Tanh(x_t))", "Add(x_t, MM(h_{t-1}))"],
        "none": ["Add(x_t, h_{t-1})"],
    }
    table = agent.broken_shares({name: [parse(text).root for text in some] for name, some in texts.items()}, rules)
    assert table["half"].to_dict() == {
        "source missing": 0.5,
        "operator under itself": 0.25,
        "no place for c_t": 0.0,
        agent.ANY_PRIOR: 0.5,  # less than the sum: one tree breaks two
    }
    assert (table["none"] == 0).all()


def test_what_the_priors_draw_breaks_none_of_them():
    drawn = [draw_well_formed(random.Random(seed)) for seed in range(10)]
    assert (agent.broken_shares({"drawn": drawn}, translation_priors())["drawn"] == 0).all()


# ---- the words of its trees


def test_words_are_counted_by_tree_and_shared_out_by_step():
    counts = agent.word_counts(["Add(Sin(x_t), x_t)", "Tanh(h_{t-1})", "Tanh(PosEnc)"], WORDS)
    assert counts.to_numpy().tolist() == [[0, 1, 1, 2, 0, 0], [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]]
    assert agent.extended_share(counts).tolist() == [1 / 4, 0, 1 / 2]
    shares = agent.shares_by_step(counts, pd.Series([0, 0, 7]))
    assert list(shares.index) == [0, 7]
    assert shares.loc[0].tolist() == [1 / 6, 1 / 6, 1 / 6, 2 / 6, 1 / 6, 0]
    assert shares.loc[7].tolist() == [1 / 2, 0, 0, 0, 0, 1 / 2]


def test_an_agent_without_extended_words_has_none():
    assert agent.extended_share(agent.word_counts(["Tanh(x_t)"], ["Tanh", "x_t"])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("share", "supports", "word"),
    [
        (np.linspace(0, 1, 30), True, "same direction"),
        (np.linspace(1, 0, 30), False, "not reproduced"),
        (np.full(30, 0.25), None, "not reproduced"),
    ],
)
def test_extended_words_come_later_where_their_share_grows(share, supports, word):
    facts = agent.extended_later(pd.Series(np.arange(30)), pd.Series(share))
    assert facts["supports"] is supports
    assert facts["value"] == pytest.approx({True: 1, False: -1, None: 0}[supports])
    assert in_the_ledger("s17.mt.extended_later", facts) == word


# ---- what its trees earn

DRAWN = pd.DataFrame(
    {
        "tree": ["Tanh(x_t)", "Sin(x_t)", "Tanh(h_{t-1})", "Sin(h_{t-1})", "Tanh(PosEnc)"],
        "explored": [0, 2, 0, 1, 0],
        "loss": [50.0, np.nan, 60.0, 40.0, np.nan],
        "reward": [18.0, np.nan, 16.0, 20.0, np.nan],
    }
)


def test_a_failure_earns_what_it_counts():
    table = agent.with_failures(DRAWN, -1.0)
    assert table["earned"].tolist() == [18, -1, 16, 20, -1]
    assert table["failed"].tolist() == [False, True, False, False, True]
    assert "earned" not in DRAWN


def test_trees_with_a_word_by_epsilon_stand_apart():
    table = agent.by_exploration(agent.with_failures(DRAWN, 0.0))
    assert table.loc["explored"].to_dict() == {"trees": 2, "failed": 0.5, "reward": 10.0, "best": 40.0}
    assert table.loc["policy alone"].to_dict() == pytest.approx(
        {"trees": 3, "failed": 1 / 3, "reward": 34 / 3, "best": 50.0}
    )


# ---- its cells


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Add(x_t, Tanh(MM(h_{t-1})))", True),
        ("Add(Tanh(MM(x_t)), Add(MM(x_t), h_{t-1}))", True),  # through two sums
        ("Gate3(h_{t-1}, Tanh(MM(x_t)), Sigmoid(MM(x_t)))", True),
        ("Gate3(Tanh(MM(x_t)), Add(x_t, MM(h_{t-1})), Sigmoid(MM(x_t)))", True),
        ("Gate3(Tanh(MM(x_t)), MM(h_{t-1}), h_{t-1})", False),  # the gate's value is not mixed in
        ("Add(x_{t-1}, MM(h_{t-1}))", False),  # only x_t and h_{t-1} count
        ("Add(c_{t-1}, PosEnc)", False),
        ("Sub(h_{t-1}, MM(x_t))", False),
        ("Tanh(Add(x_t, h_{t-1}))", False),
        ("Mult(h_{t-1}, Add(x_t, MM(x_t)))", False),
        ("MM(x_t)", False),
    ],
)
def test_a_cell_carries_a_source_through_sums_and_gates_alone(text, answer):
    assert agent.carries(parse(text).root) is answer


def moves_with_its_input(cell):
    """Whether any output of a random layer has a derivative by its input: a cell that is blind has none."""
    rnn = RNN(cell, 6, 6, backend="reference", generator=torch.Generator().manual_seed(5))
    text = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(6), requires_grad=True)
    outputs, _ = rnn(text)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(7))
    if not outputs.requires_grad:
        return False
    (gradient,) = torch.autograd.grad((weights * outputs).sum(), text, allow_unused=True)
    return gradient is not None and bool(gradient.abs().sum() != 0)


@pytest.mark.parametrize(
    ("text", "blind"),
    [
        ("Tanh(Mult(MM(x_t), h_{t-1}))", True),  # zero times anything
        ("Mult(MM(x_t), Sub(h_{t-1}, h_{t-1}))", True),
        ("Mult(x_t, Sin(h_{t-1}))", True),
        ("Mult(MM(x_t), LayerNorm(h_{t-1}))", True),
        ("Sub(MM(h_{t-1}), PosEnc)", True),  # changes from step to step, and reads nothing
        ("Mult(MM(x_t), Cos(h_{t-1}))", False),  # cos(0) = 1
        ("Add(Mult(MM(x_t), h_{t-1}), MM(h_{t-1}))", False),  # the bias moves h off zero
        ("Mult(x_{t-1}, MM(h_{t-1}))", False),
    ],
)
def test_a_cell_is_blind_where_its_output_cannot_leave_zero(text, blind):
    assert agent.is_blind(parse(text)) is blind
    assert moves_with_its_input(parse(text)) is not blind


def test_blind_cells_are_those_without_a_derivative():
    cells = [cell for seed in range(40) for cell in placements(draw_well_formed(random.Random(seed)))[0]]
    blind = [agent.is_blind(cell) for cell in cells]
    assert blind == [not moves_with_its_input(cell) for cell in cells]
    assert any(blind)


def test_all_cells_of_the_zoo_see_what_they_read():
    assert not any(agent.is_blind(cell) for cell in zoo.values())


MEMORY = "Add(MM(x_t), Tanh(Mult(MM(h_{t-1}), c_{t-1})))"


def judged(**losses):
    texts = {
        "plain": "Tanh(Add(MM(x_t), MM(h_{t-1})))",
        "residual": "Add(x_t, Tanh(MM(h_{t-1})))",
        "blind": "Tanh(Mult(MM(x_t), h_{t-1}))",
        "memory": f"{MEMORY}|3",
        "other_place": f"{MEMORY}|2",
    }
    cells = pd.DataFrame({"cell": [texts[name] for name in losses], "loss": [*losses.values()]}, index=[*losses])
    return agent.judged(cells.astype({"loss": float}), bar=50.0)


def test_better_is_below_the_bar_and_not_blind():
    cells = judged(plain=49.0, residual=50.0, blind=10.0, memory=np.nan, other_place=20.0)
    assert cells["better"].to_dict() == {
        "plain": True,
        "residual": False,  # as good is not better
        "blind": False,
        "memory": False,  # failed
        "other_place": True,
    }
    assert cells["carries"].tolist() == [False, True, False, False, False]
    assert cells["blind"].tolist() == [False, False, True, False, False]
    assert cells.loc[["memory", "other_place"], "tree"].tolist() == [MEMORY, MEMORY]


def test_of_no_cells_none_is_better():
    cells = judged()
    assert list(cells.columns) == ["cell", "loss", "tree", "carries", "blind", "better"]
    assert agent.architectures(cells)["value"] == agent.better_count(cells)["value"] == 0


def test_the_share_of_better_cells():
    cells = judged(plain=49.0, residual=60.0, blind=10.0, other_place=20.0)
    facts = agent.better_share(cells)
    assert (facts["value"], facts["supports"], agent.better_count(cells)["value"]) == (0.5, True, 2)
    low, high = facts["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert agent.architectures(cells)["value"] == 4


def test_where_no_cell_is_better_the_claim_is_contradicted():
    facts = agent.better_share(judged(plain=51.0, residual=np.nan, blind=10.0))
    assert (facts["value"], facts["interval"], facts["supports"]) == (0.0, (0.0, 0.0), False)
    assert in_the_ledger("s17.search.mt.better_share", facts) == "not reproduced"


def ranked(carries, losses, trees=None):
    names = [f"tree {number}" for number in range(len(losses))]
    return pd.DataFrame({"carries": carries, "loss": losses, "tree": trees or names})


def test_carrying_helps_where_those_cells_have_the_lower_losses():
    losses = [*np.linspace(10, 20, 12), *[np.nan] * 4]  # failed cells tie at the end
    first = agent.residual(ranked([True] * 8 + [False] * 8, losses))
    assert first["supports"] is True
    assert in_the_ledger("s17.mt.residual", first) == "same direction"
    last = agent.residual(ranked([False] * 8 + [True] * 8, losses))
    assert last["supports"] is False
    assert last["value"] == pytest.approx(-first["value"])


def test_cells_that_all_carry_show_nothing():
    facts = agent.residual(ranked([True] * 6, [3.0, 1.0, 2.0, 5.0, 4.0, 6.0]))
    assert (facts["value"], facts["interval"], facts["supports"]) == (0.0, (0.0, 0.0), None)


def test_cells_of_one_tree_are_one_case():
    carries, losses = [True, True, False, False], [1.0, 2.0, 3.0, 4.0]
    one_tree = agent.residual(ranked(carries, losses, ["the same"] * 4))
    assert one_tree["interval"] == (one_tree["value"], one_tree["value"])  # to resample one tree changes nothing
    low, high = agent.residual(ranked(carries, losses))["interval"]
    assert low < high


def test_the_best_tenth_and_the_others():
    cells = ranked([False, True, True] + [False] * 25 + [True], [*range(28, 0, -1), np.nan])
    table = agent.carrying_shares(cells)
    assert table.loc["best tenth"].to_dict() == {"cells": 2, "carry x_t or h_{t-1}": 0.0}
    assert table.loc["others"].to_dict() == {"cells": 27, "carry x_t or h_{t-1}": 3 / 27}
    few = agent.carrying_shares(ranked([True, False, False], [1.0, 2.0, 3.0]))
    assert few["cells"].tolist() == [1, 2]  # one at least
    assert few["carry x_t or h_{t-1}"].tolist() == [1.0, 0.0]


def test_operators_of_better_cells_and_of_the_others():
    cells = judged(plain=40.0, residual=45.0, blind=10.0)
    table = agent.occurrence(cells)
    assert list(table.columns) == ["cells better than the LSTM (2)", "all other cells (1)"]
    better, others = table.iloc[:, 0], table.iloc[:, 1]
    assert better[better > 0].to_dict() == {"MM": 1.0, "Tanh": 1.0, "Add": 1.0}  # MM twice in a cell occurs once
    assert others[others > 0].to_dict() == {"MM": 1.0, "Tanh": 1.0, "Mult": 1.0}
    facts = agent.all_operators(table)
    assert (facts["value"], facts["unit"], facts["supports"]) == (
        3,
        "operators of 13",
        False,
    )  # 7 core, 6 extended
    assert "Mult" in facts["reason"]
    assert "Add" not in facts["reason"]


def test_all_operators_occur_only_if_none_is_missing():
    table = pd.DataFrame({"better": [0.1, 1.0], "others": [0.0, 0.0]}, index=["MM", "Sin"])
    assert agent.all_operators(table)["supports"] is True
    assert agent.all_operators(table.assign(better=0.0))["value"] == 0


def test_where_no_cell_is_better_no_operator_occurs_in_one():
    table = agent.occurrence(judged(plain=60.0))
    assert (table["cells better than the LSTM (0)"] == 0).all()
    assert agent.all_operators(table)["value"] == 0


# ---- the agent against chance


def cells_of(*losses):
    return pd.DataFrame({"number": range(len(losses)), "loss": np.array(losses, dtype=float)})


def test_the_best_so_far_never_gets_worse_and_failures_do_not_count():
    progress = agent.best_so_far({("agent", 3): cells_of(np.nan, 50, 70, np.nan, 20), ("random", 3): cells_of(30)})
    best = progress.set_index(["method", "seed", "budget"])["best"]
    assert np.isnan(best["agent", 3, 1])
    assert np.exp(best["agent", 3][1:]).tolist() == pytest.approx([50, 50, 50, 20])
    assert np.exp(best["random", 3, 1]) == pytest.approx(30)


def test_searches_are_compared_after_the_same_number_of_cells_from_the_same_seed():
    progress = agent.best_so_far(
        {
            ("agent", 1): cells_of(50, 40, 10),  # what comes after the second cell came too late
            ("random", 1): cells_of(60, 45),
            ("agent", 2): cells_of(30),
            ("random", 2): cells_of(np.nan, np.nan, 5),  # nothing within the budget: the pair is left out
        }
    )
    table = agent.best_within(progress, 2)
    assert list(table.index) == [1]
    assert np.exp(table.loc[1]).to_dict() == pytest.approx({"agent": 40, "random": 45})


def trees_of(*rewards, tree="Tanh(Add(MM(x_t), MM(h_{t-1})))"):
    rewards = np.array(rewards, dtype=float)
    return agent.with_failures(pd.DataFrame({"tree": [tree] * len(rewards), "reward": rewards}), 0.0)


def test_thirds_compare_the_last_trees_with_the_first():
    drawn = trees_of(1, 2, np.nan, 9, 9, 9, 9, 4, 5, 6)  # ten trees: a third are three, the middle does not count
    drawn.loc[[0, 1], "tree"] = "Tanh(Tanh(x_t))"
    change = agent.thirds(drawn)
    assert change.to_dict() == pytest.approx(
        {"mean reward": 5 - 1, "share of trees that failed": -1 / 3, "share of well-formed trees": 2 / 3}
    )


def test_a_search_that_stays_the_same_changes_nothing_nor_does_one_of_a_single_tree():
    assert (agent.thirds(trees_of(*[7] * 9)) == 0).all()
    assert (agent.thirds(trees_of(3)) == 0).all()


def test_changes_have_an_interval_from_three_seeds_on():
    searches = {("agent", seed): trees_of(1, 1, 1 + seed) for seed in (1, 2, 3)}
    searches |= {("random", seed): trees_of(4, 4, 4) for seed in (1, 2)}
    table = agent.changes(searches)
    learned = table.loc[("agent", "mean reward")]
    assert learned["change"] == pytest.approx(2)
    assert 1 <= learned["low"] < 2 < learned["high"] <= 3
    assert table.loc[("random", "mean reward"), "change"] == 0
    assert table.loc["random"][["low", "high"]].isna().all(axis=None)


# ---- searches long enough to learn


def test_windows_say_what_their_trees_are_like() -> None:
    trees = ["Tanh(x_t)", "Tanh(x_t)", "Cos(x_t)", "Sub(x_t, Sin(x_t))", "Tanh(x_t)"]
    rewards = [1.0, np.nan, 3, 5, 9]
    drawn = pd.DataFrame(
        {"tree": trees, "step": range(5), "reward": rewards, "blind": [False, False, True, False, True]}
    )
    found = agent.by_window({("agent", 7): agent.LongSearch(agent.with_failures(drawn, 0.5), updates=1)}, size=2)
    assert found["trees"].tolist() == [2, 4]  # the fifth tree fills no window
    assert found["reward"].tolist() == [(1 + 0.5) / 2, (3 + 5) / 2]
    assert found["failed"].tolist() == [0.5, 0.0]
    assert found["blind"].tolist() == [0.0, 0.5]
    assert found["extended"].tolist() == [0.0, (1 / 2 + 2 / 4) / 2]  # Cos of two words; Sub and Sin of four
    assert {*found["kind"], *found["seed"]} == {"agent", 7}
    assert agent.by_window({}).empty


@pytest.mark.parametrize(("rewards", "rises"), [(range(30), True), (range(30, 0, -1), False)])
def test_a_search_learns_whose_rewards_rise(rewards: range, rises: bool) -> None:
    drawn = pd.DataFrame({"step": range(30), "earned": [float(value) for value in rewards]})
    found = agent.learns(drawn)
    assert (found.low > 0, found.high < 0) == (rises, not rises)


def test_trees_of_one_step_count_as_one_in_the_interval_of_what_a_search_learns() -> None:
    steps = np.repeat(np.arange(20), 10)  # ten trees of a step are alike, so there are twenty cases and not two hundred
    earned = np.random.default_rng(0).normal(size=20)[steps]
    apart = agent.learns(pd.DataFrame({"step": np.arange(200), "earned": earned}))
    together = agent.learns(pd.DataFrame({"step": steps, "earned": earned}))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def long_search(rewards: list[float], tree: list[str], updates: int = 12) -> agent.LongSearch:
    """A search of these rewards, nan for failures; the tree Tanh(x_t) is blind."""
    drawn = pd.DataFrame({"tree": tree, "step": range(len(tree)), "reward": rewards, "loss": 30.0})
    return agent.LongSearch(agent.with_failures(drawn.assign(blind=drawn["tree"] == "Tanh(x_t)"), 0.0), updates)


def test_what_is_told_of_a_long_search_are_its_first_and_its_last_hundred_trees():
    rewards = [np.nan] * 50 + [1.0] * 50 + [4.0] * 100
    told = agent.long_told({("agent", 1): long_search(rewards, ["Tanh(x_t)"] * 200)})
    assert "**agent, seed 1**, 12 updates: the reward rises" in told
    assert "mean reward 0.5 to 4.0, failures 50% to 0%, blind trees 100% to 100%, extended words 0% to 0%" in told
    assert "lowest perplexity 30.0." in told
    assert "collapsed" not in told
    assert agent.long_told({}) == "No long search is recorded for this profile; see `course`."


def test_a_search_has_collapsed_whose_rewards_fall_below_those_it_began_with():
    trees = ["MM(x_t)"] * 40 + ["Tanh(x_t)"] * 60 + ["x"] * 100
    fell = long_search([4.0] * 100 + [1.0] * 50 + [np.nan] * 50, trees)
    told = agent.long_told({("agent", 1): fell}, [("agent", 1), ("agent", 2)])
    assert (
        "collapsed**. The best of these hundreds earned 4.0 on average. The tree that learned most often is `" in told
    )
    assert "`Tanh(x_t)`, 60 times of 150; of all that learned, 40% are blind. Of its 50 failures at most 12" in told
    assert "Planned and not recorded: agent, seed 2." in told
    mild = long_search([4.0] * 100 + [4.5] * 95 + [np.nan] * 5, trees)  # more failures, and yet it earns more
    assert "collapsed" not in agent.long_told({("agent", 1): mild})


def test_failures_are_counted_by_their_reasons():
    drawn = pd.DataFrame({"reason": ["", "a", "b", "b", ""], "reward": [1.0, np.nan, np.nan, np.nan, 2.0]})
    found = agent.why_failed({("agent", 1): agent.LongSearch(agent.with_failures(drawn, 0.0), 1)})
    assert found.loc["agent, seed 1"].to_dict() == {"trees": 5, "learned": 2, "b": 2, "a": 1}


def searches_of(failed: list[bool], updates: int = 1, kind: str = "agent", trees: list[str] | None = None):
    rewards = [np.nan if one else 5.0 for one in failed]
    drawn = pd.DataFrame({"tree": trees or [KEEPS] * len(failed), "step": range(len(failed)), "reward": rewards})
    drawn["cells"] = [0 if tree == "Tanh(x_t)" else 1 for tree in drawn["tree"]]
    drawn["blind"] = False
    return {(kind, 1): agent.LongSearch(agent.with_failures(drawn, 0.0), updates, cells=7, planned=9)}


KEEPS = "Gate3(MM(x_t), h_{t-1}, Sigmoid(MM(h_{t-1})))"


def test_a_batch_takes_one_failure_and_the_others_are_lost():
    # Two failures wait for three results that learned: the second is dropped. Then a batch of four without any.
    failed = [True, True, False, False, False, False, False, False, False, True]
    row = agent.batches(searches_of(failed, updates=2)).loc["agent, seed 1"]
    assert row[["trees", "failures", "learned from", "updates"]].tolist() == [10, 3, 1, 2]
    assert row["share"] == 1 / 8
    assert row["trees an update"] == 5
    assert agent.batches(searches_of(failed, updates=0, kind="random")).empty


def test_trees_that_keep_the_priors_are_told_from_those_that_break_one():
    trees = [KEEPS, KEEPS, "Tanh(x_t)", "Tanh(Tanh(Add(MM(x_t), MM(h_{t-1}))))", KEEPS]
    found = agent.what_priors_change(searches_of([False, True, True, False, False], trees=trees), first=4)
    row = found.loc["agent, seed 1"]
    assert row.tolist() == [4, 0.5, 0.5, 0.5, 0.25, 0]
    fresh = searches_of([True] * 4, kind="agent without pre-training", trees=["Tanh(x_t)"] * 4)
    told = agent.priors_told(pd.concat([found, agent.what_priors_change(fresh, first=4)]))
    assert "keeps all priors in **50%** of its first 4 trees, without in **0%**, where 100% cannot be trained" in told
    assert agent.priors_told(found) == "", "there is nothing beside it"


def test_a_long_search_that_is_not_finished_is_said_so():
    told = agent.long_told(searches_of([False] * 4))
    assert "Begun and not finished: agent, seed 1 (7 of 9 cells)." in told


CORE, EXTENDED = "Tanh(Add(MM(x_t), MM(h_{t-1})))", "Sin(Sub(Cos(x_t), Sin(h_{t-1})))"


@pytest.mark.parametrize(
    ("orders", "supports"),
    [([1, 1], True), ([-1, -1], False), ([1, -1], None), ([1, 1, 1], True)],
)
def test_the_direction_of_extended_words_is_that_of_every_long_search(orders: list[int], supports: bool | None):
    searches = {}
    for seed, order in enumerate(orders):
        (one,) = searches_of([False] * 40, trees=([CORE] * 20 + [EXTENDED] * 20)[::order]).values()
        searches["agent", seed] = one
        searches["random", seed] = searches_of([False] * 4, trees=[CORE] * 4)["agent", 1]
    found = agent.long_findings(searches)
    later = found["s17.mt.extended_later"]
    assert later["supports"] is supports
    assert np.sign(round(later["value"], 9)) == np.sign(sum(orders))
    assert (later["interval"] is None) == (len(orders) < 3), "over searches, so from three on"
    assert found["s17.fig4"]["seeds"] == found["s17.fig6"]["seeds"] == len(orders)
    assert found["s17.fig6"]["value"] == 5.0
    spent = agent.long_spent(searches, SIZES["course"].long_task)
    assert "agent, seed 0: 40 trees" in spent["budget_words"]
    assert "random" not in spent["budget_words"]
    for name, facts in found.items():
        Finding(name, **facts, **spent)


def test_without_a_long_search_nothing_rests_on_it():
    assert agent.long_findings({}) == {}
    assert agent.long_findings({("random", 1): searches_of([False] * 4)["agent", 1]}) == {}
