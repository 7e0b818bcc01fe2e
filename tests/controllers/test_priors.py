"""The six priors: what obeys them, what is drawn from them, and what the agent learns of them."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasrepro.controllers import (
    AgentSettings,
    PriorSettings,
    TreeAgent,
    draw_well_formed,
    is_well_formed,
    pretrain,
    well_formed_share,
)
from nasrepro.controllers.priors import _breaks_a_prior
from nasrepro.controllers.tree_agent import Growing, top_down
from nasrepro.dsl import Cell, zoo
from nasrepro.dsl.constraints import translation_priors, violations, words
from tests.strategies import nodes

BOTH = words("core", "extended")
FEW = PriorSettings(words=("MM", "Tanh", "Sigmoid", "Gate3", "Add", "x_t", "h_{t-1}"), largest=7)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- drawing


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), smallest=st.integers(4, 25), spread=st.integers(0, 10))
def test_what_is_drawn_obeys_the_priors_and_the_size(seed, smallest, spread):
    limits = PriorSettings(smallest=smallest, largest=smallest + spread)
    tree = draw_well_formed(random.Random(seed), limits)
    assert not violations(Cell(tree), translation_priors())
    assert smallest <= tree.size <= smallest + spread


def test_draws_vary_in_everything():
    rng = random.Random(0)
    trees = [draw_well_formed(rng) for _ in range(600)]
    assert len({tree.text for tree in trees}) > 590
    used = Counter(node.op for tree in trees for node in tree.walk())
    assert set(used) == set(BOTH)
    assert min(used.values()) > 30
    sizes = Counter(tree.size for tree in trees)
    assert set(sizes) >= set(range(5, 21))
    assert sorted(tree.size for tree in trees)[300] in range(9, 14)  # of the smaller of two from 5 to 25: 11
    assert {tree.height for tree in trees} == set(range(3, 12))


def test_the_same_seed_draws_the_same():
    assert draw_well_formed(random.Random(3)) == draw_well_formed(random.Random(3))
    assert draw_well_formed(random.Random(3)) != draw_well_formed(random.Random(4))


def test_small_spaces_are_drawn_whole():
    # By hand: a Tanh and an Add are needed and an MM over a source; only these two orders are three high.
    limits = PriorSettings(words=("MM", "Tanh", "Add", "x_t", "h_{t-1}"), smallest=3, largest=3)
    rng = random.Random(0)
    found = {draw_well_formed(rng, limits).text for _ in range(200)}
    wanted = set()
    for a, b in [("x_t", "h_{t-1}"), ("h_{t-1}", "x_t")]:
        wanted |= {f"Tanh(Add(MM({a}), {b}))", f"Tanh(Add({b}, MM({a})))"}
        wanted |= {f"Add(Tanh(MM({a})), {b})", f"Add({b}, Tanh(MM({a})))"}
    assert found == wanted


def test_an_empty_space_is_an_error():
    with pytest.raises(ValueError, match="no tree that obeys the priors"):
        draw_well_formed(random.Random(0), PriorSettings(words=("Tanh", "Add", "x_t", "h_{t-1}")))


# ---- the printed cells


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("MT1", set()),
        ("MT2", set()),
        ("MT3", {"operator under itself", "activation under activation", "matrix not on a source"}),
        ("MT4", {"operator under itself", "matrix not on a source"}),
        ("MT5", {"matrix not on a source"}),
        ("GRU", set()),
        ("BC3", {"matrix not on a source"}),
    ],
)
def test_which_priors_the_printed_cells_break(name, broken):
    assert set(violations(zoo[name], translation_priors())) == broken


# ---- what breaks a prior, word by word


@settings(max_examples=300)
@given(tree=nodes(BOTH, max_height=6, min_height=1))
def test_a_tree_is_well_formed_if_no_word_of_it_breaks_a_prior(tree):
    growing = Growing()
    broken = []
    for word in top_down(tree):
        broken.append(_breaks_a_prior(growing, word))
        growing.put(word)
    assert growing.tree == tree
    assert any(broken) != is_well_formed(tree)


# ---- pre-training


def test_pretraining_raises_the_share_of_well_formed_trees():
    agent = TreeAgent(AgentSettings(words=FEW.words, width=32, policy=32, max_nodes=12), seed=0)
    few = PriorSettings(words=FEW.words, largest=FEW.largest, batch=16, batches=12, updates=150)
    facts = pretrain(agent, few, generator(1), looks=2, count=20)
    assert facts["updates"] == [0, 75, 150]
    assert facts["share"][0] < 0.1
    assert facts["nats"][2] < facts["nats"][1]
    assert facts["faults"][2] < facts["faults"][1] < 5
    assert well_formed_share(agent, 100, generator(2)) > 0.2
    assert len({each.tree.text for each in agent.sample(100, generator(2))}) > 60  # it did not settle on a few trees


def test_pretraining_is_repeatable_and_follows_its_generator():
    few = PriorSettings(words=FEW.words, largest=5, batch=2, batches=2, updates=3)

    def facts(seed):
        agent = TreeAgent(AgentSettings(words=FEW.words, width=4, policy=4, max_nodes=8))
        return pretrain(agent, few, generator(seed), looks=1, count=5)

    assert facts(1) == facts(1)
    assert facts(1)["nats"] != facts(2)["nats"]


def test_priors_that_the_agent_cannot_grow_are_refused():
    with pytest.raises(ValueError, match="the agent cannot grow"):
        pretrain(TreeAgent(AgentSettings(words=("Tanh", "x_t", "h_{t-1}"), width=4)), FEW, generator())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": ("Foo",)}, "unknown words"),
        ({"weights": {"Foo": 1.0}}, "unknown words"),
        ({"weights": {"MM": -1.0}}, "negative"),
        ({"weights": {"MM": float("nan")}}, "NaN"),
        ({"words": ("MM", "MM", "Tanh", "x_t", "h_{t-1}")}, "once each"),
        ({"smallest": 6, "largest": 5}, "sizes"),
        ({"smallest": 0}, "sizes"),
        ({"batch": 0}, "batch"),
        ({"batches": 0}, "batches"),
        ({"updates": 0}, "updates"),
    ],
)
def test_settings_that_draw_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PriorSettings(**wrong)
