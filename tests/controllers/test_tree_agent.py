"""The agent against a plain recursion over partial trees, and its distribution against enumeration."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nasrepro.controllers import AgentSettings, TreeAgent
from nasrepro.dsl import Node, parse, zoo
from nasrepro.dsl.operators import OPERATORS

SMALL = AgentSettings(width=6, policy=5, max_nodes=25)
TINY = AgentSettings(words=("Add", "Tanh", "x_t", "h_{t-1}"), width=4, policy=3, max_height=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def every_tree(words, height, root=True):
    """All trees over these words of at most this height."""
    trees = [] if root else [Node(word) for word in words if word not in OPERATORS]
    if height > 0:
        below = every_tree(words, height - 1, root=False)
        for word in words:
            if word in OPERATORS:
                trees += [Node(word, args) for args in itertools.product(below, repeat=OPERATORS[word].arity)]
    return trees


# ---- the encoding


def lstm(cell, x, h, c):
    """One step, as the textbooks write it. x, h, c (width,)."""
    gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def encode(agent, tree):
    """The result of a partial tree: a list of its word, "T" or "E", and then its children, such lists themselves."""
    number = [*agent.settings.words, "T", "E"].index(tree[0])
    h = c = torch.zeros(agent.settings.width, dtype=torch.float64)
    for x in [agent.embedding.weight[number], *(encode(agent, child) for child in tree[1:])]:
        h, c = lstm(agent.encoder, x, h, c)
    return h


def legal_words(limits, depth, operators):
    """What may be drawn so far below h_t, with so many operators in the tree."""
    if depth == 0:
        return [word for word in limits.words if word in OPERATORS]
    if depth == limits.max_height or operators == limits.max_nodes:
        return [word for word in limits.words if word not in OPERATORS]
    return list(limits.words)


def by_recursion(agent, tree):
    """Log probability of a tree, (), and the entropy of each choice, (words of the tree,), slot after slot."""
    root = ["T"]
    log_prob, entropies, operators = 0.0, [], 0

    def choose(slot, node, depth):
        nonlocal log_prob, operators
        encoding = encode(agent, root)
        zero = torch.zeros(agent.settings.policy, dtype=torch.float64)
        hidden, _ = lstm(agent.chooser, torch.relu(agent.into_chooser(encoding)), zero, zero)
        legal = legal_words(agent.settings, depth, operators)
        scores = agent.out(hidden)[[agent.settings.words.index(word) for word in legal]]
        policy = scores - scores.exp().sum().log()
        log_prob = log_prob + policy[legal.index(node.op)]
        entropies.append(-(policy.exp() * policy).sum())
        operators += node.op in OPERATORS
        slot[:] = [node.op, *(["E"] for _ in node.args)]
        for child, arg in zip(slot[1:], node.args, strict=True):
            child[:] = ["T"]
            choose(child, arg, depth + 1)

    choose(root, tree, 0)
    return log_prob, torch.stack(entropies)


@pytest.mark.parametrize("name", ["MT1", "MT2", "MT3", "MT4", "MT5", "GRU"])
def test_log_probabilities_against_a_plain_recursion(name):
    agent = TreeAgent(SMALL, seed=1).double()
    others = [drawn.tree for drawn in agent.sample(5, generator())]
    trees = [others[0], zoo[name].root, *others[1:]]
    expected, entropies = zip(*(by_recursion(agent, tree) for tree in trees), strict=True)
    found, entropy = agent.evaluate(trees)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entropy, torch.cat(entropies).mean(), rtol=1e-10, atol=1e-10)


def test_gradients_against_a_plain_recursion():
    agent = TreeAgent(SMALL, seed=2).double()
    trees = [zoo["MT1"].root, zoo["BC3"].root]
    agent.log_probs(trees).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in agent.named_parameters()}
    agent.zero_grad()
    sum(by_recursion(agent, tree)[0] for tree in trees).backward()
    for name, parameter in agent.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-10)


# ---- the distribution


def test_probabilities_of_all_trees_sum_to_one():
    agent = TreeAgent(TINY, seed=3).double()
    trees = every_tree(TINY.words, 2)
    # By hand: below h_t stand 2 sources, 2 Tanhs and 4 Adds; Add takes two of these eight, Tanh one.
    assert len(trees) == 8 * 8 + 8
    assert agent.log_probs(trees).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_probabilities_sum_to_one_where_the_number_of_nodes_is_limited():
    limited = AgentSettings(words=("Add", "Tanh", "x_t"), width=4, policy=3, max_height=3, max_nodes=3)
    agent = TreeAgent(limited, seed=3).double()
    trees = [tree for tree in every_tree(limited.words, 3) if tree.size <= 3]
    assert agent.log_probs(trees).exp().sum().item() == pytest.approx(1, abs=1e-9)


def chances(agent, epsilon):
    """Text -> probability of all trees of a tiny space, from the policy's probabilities of trees that begin alike."""
    trees = {tuple(top_down(tree)): tree for tree in every_tree(agent.settings.words, agent.settings.max_height)}
    mass = Counter()
    for steps, chance in zip(trees, agent.log_probs([*trees.values()]).exp().tolist(), strict=True):
        for length in range(len(steps) + 1):
            mass[steps[:length]] += chance
    found = {}
    for steps, tree in trees.items():
        found[tree.text] = 1.0
        for k, (_, depth) in enumerate(steps):
            policy = mass[steps[: k + 1]] / mass[steps[:k]]
            uniform = 1 / len(legal_words(agent.settings, depth, 0))
            found[tree.text] *= (1 - epsilon) * policy + epsilon * uniform
    return found


def top_down(node, depth=0):
    yield node.op, depth
    for arg in node.args:
        yield from top_down(arg, depth + 1)


@pytest.mark.parametrize(("epsilon", "explore"), [(0.5, True), (0.5, False), (1.0, True)])
def test_trees_are_drawn_as_often_as_their_probabilities_say(epsilon, explore):
    agent = TreeAgent(replace(TINY, epsilon=epsilon), seed=4)
    with torch.no_grad():
        agent.out.bias.copy_(torch.tensor([1.0, -1.0, 2.0, 0.0]))  # far from uniform, so that epsilon shows
    exact = chances(agent, epsilon if explore else 0.0)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)

    drawn = agent.sample(5000, generator(5), explore)
    counts = Counter(each.tree.text for each in drawn)
    often = [text for text, chance in exact.items() if chance * 5000 >= 5]
    observed, expected = [counts[text] for text in often], [5000 * exact[text] for text in often]
    if sum(expected) < 4999:  # all seldom trees together
        observed, expected = [*observed, 5000 - sum(observed)], [*expected, 5000 - sum(expected)]
    assert chisquare(observed, [value * 5000 / sum(expected) for value in expected]).pvalue > 1e-3
    words = sum(1 for each in drawn for _ in each.tree.walk())
    assert sum(each.explored for each in drawn) / words == pytest.approx(epsilon if explore else 0, abs=0.02)


def test_what_sampling_says_of_itself_is_what_log_probs_says():
    agent = TreeAgent(SMALL, seed=5)
    drawn = agent.sample(30, generator(1))
    found = agent.log_probs([each.tree for each in drawn])
    torch.testing.assert_close(found, torch.tensor([each.log_prob for each in drawn]), rtol=1e-4, atol=1e-4)


def test_the_same_generator_gives_the_same_trees_whatever_torch_drew_before():
    torch.manual_seed(1)
    first = TreeAgent(SMALL, seed=6).sample(20, generator(7))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    agent = TreeAgent(SMALL, seed=6)
    assert agent.sample(20, generator(7)) == first
    assert agent.sample(20, generator(8)) != first
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), max_height=st.integers(1, 6), max_nodes=st.integers(1, 12))
def test_limits_hold_for_any_weights(seed, max_height, max_nodes):
    limits = AgentSettings(width=3, policy=3, epsilon=0.5, max_height=max_height, max_nodes=max_nodes)
    agent = TreeAgent(limits, seed)
    with torch.no_grad():
        agent.out.bias.copy_(6 * torch.randn(len(limits.words), generator=generator(seed)))
    for drawn in agent.sample(8, generator(seed)):
        assert 1 <= drawn.tree.size <= max_nodes
        assert 1 <= drawn.tree.height <= max_height
        assert drawn.tree == parse(drawn.tree.text).root


def test_no_trees_can_be_drawn():
    assert TreeAgent(SMALL).sample(0, generator()) == []


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    agent = TreeAgent(SMALL, seed=6)
    drawn = agent.sample(10, generator(7))
    assert torch.get_num_threads() == before
    torch.set_num_threads(1)
    try:
        assert agent.sample(10, generator(7)) == drawn
    finally:
        torch.set_num_threads(before)


def test_a_tree_alone_is_as_likely_as_among_others():
    agent = TreeAgent(SMALL, seed=8).double()
    trees = [each.tree for each in agent.sample(10, generator(9))]
    alone = torch.cat([agent.log_probs([tree]) for tree in trees])
    torch.testing.assert_close(agent.log_probs(trees), alone, rtol=1e-10, atol=1e-10)


# ---- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Tanh(Tanh(Tanh(x_t)))", "Tanh is not legal 2 edges below h_t"),
        ("Tanh(Sub(x_t, x_t))", "Sub is not legal 1 edges below h_t"),
        ("Tanh(PosEnc)", "PosEnc is not legal"),
    ],
)
def test_trees_that_the_settings_exclude_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        TreeAgent(TINY).log_probs([parse(text).root])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": ("Foo", "x_t")}, "unknown words"),
        ({"words": "MM"}, "words is the string 'MM', whose letters would be taken: pass a tuple"),
        ({"words": ("Tanh", "Tanh", "x_t")}, "once each"),
        ({"words": ("Tanh",)}, "a source"),
        ({"words": ("x_t",)}, "an operator"),
        ({"width": 0}, "width"),
        ({"max_height": 0}, "max_height"),
        ({"epsilon": 1.5}, "epsilon"),
    ],
)
def test_settings_that_grow_nothing_are_refused(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        AgentSettings(**wrong)
