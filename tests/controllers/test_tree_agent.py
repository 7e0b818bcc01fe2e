"""The agent against a plain recursion over partial trees, and its distribution against enumeration."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nasrepro.controllers import AgentSettings, TreeAgent
from nasrepro.dsl import Node, parse, zoo
from nasrepro.dsl.operators import OPERATORS

SMALL = AgentSettings(width=6, policy=5)
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
    """The result of a partial tree: nested tuples of a word, "T" or "E", and then the children."""
    number = [*agent.settings.words, "T", "E"].index(tree[0])
    h = c = torch.zeros(agent.settings.width, dtype=torch.float64)
    for x in [agent.embedding.weight[number], *(encode(agent, child) for child in tree[1:])]:
        h, c = lstm(agent.encoder, x, h, c)
    return h


def legal_words(names, depth, operators, max_height, max_nodes):
    if depth == 0:
        return [name for name in names if name in OPERATORS]
    if depth == max_height or operators == max_nodes:
        return [name for name in names if name not in OPERATORS]
    return list(names)


def log_prob(agent, tree, choose=None):
    """Log probability of a tree, word by word; and all words' entropies."""
    words = agent.settings.words
    total, entropies = 0.0, []
    whole = ["T"]
    operators = 0

    def step(node, depth, holder, place):
        nonlocal total, operators
        freeze = lambda part: part if isinstance(part, str) else tuple(map(freeze, part))  # noqa: E731
        partial = freeze(whole[0])
        encoding = encode(agent, (partial,) if isinstance(partial, str) else _leaves(partial))
        h = torch.zeros(agent.settings.policy, dtype=torch.float64)
        hidden, _ = lstm(agent.chooser, torch.relu(agent.into_chooser(encoding)), h, h)
        legal = legal_words(words, depth, operators, agent.settings.max_height, agent.settings.max_nodes)
        scores = agent.out(hidden)[[words.index(word) for word in legal]]
        policy = scores - scores.exp().sum().log()
        total = total + policy[legal.index(node.op)]
        entropies.append(-(policy.exp() * policy).sum())
        operators += node.op in OPERATORS
        holder[place] = [node.op] + ["E"] * len(node.args) if node.args else node.op
        for k, arg in enumerate(node.args, start=1):
            holder[place][k] = "T"
            step(arg, depth + 1, holder[place], k)

    step(tree, 0, whole, 0)
    return total, torch.stack(entropies)


def _leaves(partial):
    """Strings as one-element tuples."""
    return (partial[0], *((child,) if isinstance(child, str) else _leaves(child) for child in partial[1:]))


@pytest.mark.parametrize("name", ["MT1", "MT2", "MT3", "MT4", "MT5", "GRU"])
def test_log_probabilities_against_a_plain_recursion(name):
    agent = TreeAgent(SMALL, seed=1).double()
    others = [drawn.tree for drawn in agent.sample(5, generator())]
    trees = [others[0], zoo[name].root, *others[1:]]
    expected, entropies = zip(*(log_prob(agent, tree) for tree in trees), strict=True)
    found, entropy = agent.evaluate(trees)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entropy, torch.cat(entropies).mean(), rtol=1e-10, atol=1e-10)


def test_gradients_against_a_plain_recursion():
    agent = TreeAgent(SMALL, seed=2).double()
    trees = [zoo["MT1"].root, zoo["BC3"].root]
    agent.log_probs(trees).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in agent.named_parameters()}
    agent.zero_grad()
    sum(log_prob(agent, tree)[0] for tree in trees).backward()
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


@pytest.mark.parametrize("explore", [True, False])
def test_trees_are_drawn_as_often_as_their_probabilities_say(explore):
    tiny = AgentSettings(words=("Add", "Tanh", "x_t", "h_{t-1}"), width=4, policy=3, max_height=2, epsilon=0.5)
    agent = TreeAgent(tiny, seed=4)
    with torch.no_grad():
        agent.out.bias.copy_(torch.tensor([1.0, -1.0, 2.0, 0.0]))  # far from uniform, so that epsilon shows
    exact = {}
    for tree in every_tree(tiny.words, 2):
        exact[tree.text] = math.exp(mixed_log_prob(agent, tree, tiny.epsilon if explore else 0.0))
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    drawn = agent.sample(5000, generator(5), explore)
    counts = Counter(each.tree.text for each in drawn)
    often = [text for text, chance in exact.items() if chance * 5000 >= 5]
    observed = [counts[text] for text in often]
    expected = [5000 * exact[text] for text in often]
    rest = 5000 - sum(expected)
    assert chisquare([*observed, 5000 - sum(observed)], [*expected, rest]).pvalue > 1e-3
    words = sum(sum(1 for _ in each.tree.walk()) for each in drawn)
    assert sum(each.explored for each in drawn) / words == pytest.approx(0.5 if explore else 0, abs=0.02)


def mixed_log_prob(agent, tree, epsilon):
    """Of the tree under (1 - epsilon) policy + epsilon uniform, from the probabilities of trees that begin alike."""
    words = agent.settings.words
    total = 0.0
    steps = list(top_down(tree))
    for k, (word, depth) in enumerate(steps):
        legal = legal_words(words, depth, 0, agent.settings.max_height, -1)
        chance = mass(agent, steps[: k + 1]) / mass(agent, steps[:k])
        total += math.log((1 - epsilon) * chance + epsilon / len(legal) * (word in legal))
    return total


def mass(agent, beginning, _cache={}):  # noqa: B006
    """Probability under the policy of all trees that begin with these words."""
    if id(agent) not in _cache:
        trees = every_tree(agent.settings.words, agent.settings.max_height)
        _cache.clear()
        _cache[id(agent)] = list(
            zip(map(list, map(top_down, trees)), agent.log_probs(trees).exp().tolist(), strict=True)
        )
    return sum(chance for steps, chance in _cache[id(agent)] if steps[: len(beginning)] == beginning)


def top_down(node, depth=0):
    yield node.op, depth
    for arg in node.args:
        yield from top_down(arg, depth + 1)


def test_what_sampling_says_of_itself_is_what_log_probs_says():
    agent = TreeAgent(seed=5)
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


def test_no_trees_have_no_probabilities():
    agent = TreeAgent(SMALL)
    assert agent.sample(0, generator()) == []


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
        ({"words": ("Tanh", "Tanh", "x_t")}, "twice"),
        ({"words": ("Tanh",)}, "a source"),
        ({"words": ("x_t",)}, "an operator"),
        ({"width": 0}, "width"),
        ({"max_height": 0}, "max_height"),
        ({"epsilon": 1.5}, "epsilon"),
    ],
)
def test_settings_that_grow_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AgentSettings(**wrong)
