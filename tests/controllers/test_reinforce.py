"""REINFORCE against the exact gradient of an enumerated space, and what it learns."""

import io
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasrepro.controllers import (
    AgentSettings,
    PolicyGradientSettings,
    Reinforce,
    ReinforceSettings,
    TreeAgent,
    ready_batches,
)
from nasrepro.controllers.reinforce import policy_loss
from nasrepro.dsl import parse
from nasrepro.settings import origins
from tests.controllers.test_tree_agent import every_tree

TINY = AgentSettings(words=("MM", "Add", "x_t", "h_{t-1}"), width=4, policy=3, max_height=2)
PLAIN = ReinforceSettings(scale=False, limit=math.inf, clip=math.inf)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def matrices(tree):
    return float(tree.text.count("MM"))


def gradients(agent, loss):
    agent.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in agent.parameters()]


# ---- the gradient


@pytest.mark.parametrize("baseline", [0.0, 0.7, -40.0])
def test_the_expected_step_is_the_gradient_of_the_expected_reward(baseline):
    agent = TreeAgent(TINY, seed=1).double()
    trees = every_tree(TINY.words, 2)
    rewards = torch.tensor([matrices(tree) + 0.3 * tree.size for tree in trees], dtype=torch.float64)
    exact = gradients(agent, -(agent.log_probs(trees).exp() * rewards).sum())

    log_probs = agent.log_probs(trees)
    steps = torch.stack([policy_loss(log_probs[k : k + 1], rewards[k : k + 1] - baseline) for k in range(len(trees))])
    expected = gradients(agent, (log_probs.exp().detach() * steps).sum())
    for found, wanted in zip(expected, exact, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_an_update_descends_that_gradient():
    agent = TreeAgent(TINY, seed=2).double()
    trees = [parse(text).root for text in ("Add(x_t, MM(h_{t-1}))", "MM(x_t)", "Add(x_t, x_t)")]
    learner = Reinforce(agent, replace(PLAIN, learning_rate=0.0))
    learner.update(trees, [1.0, 2.0, 3.0])  # sets the baseline to 2
    learner.update(trees, [5.0, 2.0, 0.0])
    found = [parameter.grad.clone() for parameter in agent.parameters()]
    first, _, last = agent.log_probs(trees)
    wanted = gradients(agent, -(3 * first - 2 * last) / 3)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def test_encoder_and_policy_learn_together():
    agent = TreeAgent(TINY, seed=2)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    Reinforce(agent).update([parse("Add(x_t, MM(h_{t-1}))").root, parse("MM(x_t)").root], [1.0, 2.0])
    same = {name for name, value in agent.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"chooser.weight_hh"}  # that LSTM makes one step, from zero


# ---- baseline and scale


def test_the_baseline_is_the_corrected_moving_average_before_the_batch():
    learner = Reinforce(TreeAgent(TINY), ReinforceSettings(baseline_decay=0.8, learning_rate=0.0))
    trees = [parse("MM(x_t)").root, parse("MM(h_{t-1})").root]
    facts = [learner.update(trees, rewards) for rewards in ([10.0, 20.0], [30.0, 30.0], [0.0, 2.0])]
    # By hand: means 15, 30, 1; the first batch has only its own.
    second = (0.8 * 0.2 * 15 + 0.2 * 30) / (0.8 * 0.2 + 0.2)
    assert [each["baseline"] for each in facts] == pytest.approx([15, 15, second])
    # Mean squares about the baseline: 25, 225, and those of 0 and 2.
    last = (second**2 + (second - 2) ** 2) / 2
    weights = [0.2 * 0.8**age for age in range(3)]
    scales = [
        5,
        math.sqrt((weights[1] * 25 + weights[0] * 225) / sum(weights[:2])),
        math.sqrt((weights[2] * 25 + weights[1] * 225 + weights[0] * last) / sum(weights)),
    ]
    assert [each["scale"] for each in facts] == pytest.approx(scales)
    assert [each["advantage"] for each in facts] == pytest.approx([0, 15 / scales[1], (1 - second) / scales[2]])
    assert [each["updates"] for each in facts] == [1, 2, 3]


def test_a_failure_counts_as_its_reward_but_not_for_the_baseline():
    settings = ReinforceSettings(scale=False, limit=50.0, failed=-10.0, learning_rate=0.0)
    learner = Reinforce(TreeAgent(TINY), settings)
    trees = [parse("MM(x_t)").root, parse("MM(h_{t-1})").root]
    first = learner.update(trees, [30.0, None])
    assert (first["baseline"], first["reward"], first["advantage"]) == (30, 10, -20)
    second = learner.update(trees, [None, None])
    assert (second["baseline"], second["advantage"]) == pytest.approx((30, -40))
    assert Reinforce(TreeAgent(TINY)).update(trees, [None, None])["baseline"] == 0


def test_advantages_and_gradients_are_limited():
    agent = TreeAgent(TINY)
    learner = Reinforce(agent, ReinforceSettings(scale=False, limit=2.0, clip=0.01, learning_rate=0.0))
    trees = [parse("MM(x_t)").root, parse("Add(x_t, x_t)").root]
    facts = learner.update(trees, [1000.0, 0.0])
    assert facts["advantage"] == 0  # +2 and -2
    assert facts["grad_norm"] > 0.01
    norm = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in agent.parameters()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_equal_rewards_teach_nothing():
    learner = Reinforce(TreeAgent(TINY))
    facts = learner.update([parse("MM(x_t)").root], [7.0])
    assert facts["grad_norm"] == facts["advantage"] == 0
    assert facts["scale"] == 1


# ---- learning


def test_it_learns_to_please_a_reward_that_counts_matrices():
    agent = TreeAgent(replace(TINY, width=16, policy=16, max_height=3, max_nodes=6), seed=3)
    learner = Reinforce(agent, ReinforceSettings(learning_rate=1e-2))
    draws = generator(4)
    rewards = []
    for _ in range(150):
        trees = [drawn.tree for drawn in agent.sample(4, draws)]
        rewards.append(learner.update(trees, [matrices(tree) for tree in trees])["reward"])
    # At most 4 fit: an Add over two pairs of them is three edges high.
    assert sum(rewards[:20]) / 20 < 2.5
    assert sum(rewards[-20:]) / 20 > 3


def test_an_entropy_bonus_keeps_the_policy_open():
    trees = [parse("MM(x_t)").root]

    def entropy_after(bonus):
        agent = TreeAgent(TINY, seed=5)
        with torch.no_grad():
            agent.out.bias[0] = 2.0
        learner = Reinforce(agent, ReinforceSettings(entropy=bonus, learning_rate=1e-2))
        for _ in range(20):
            learner.update(trees, [1.0])
        return agent.evaluate(trees)[1].item()

    assert entropy_after(1.0) > entropy_after(0.0) + 0.1


def test_a_restored_learner_goes_on_identically():
    def step(learner, draws):
        trees = [drawn.tree for drawn in learner.agent.sample(4, draws)]
        return trees, learner.update(trees, [matrices(tree) for tree in trees])

    learner, draws = Reinforce(TreeAgent(TINY, seed=6)), generator(7)
    for _ in range(3):
        step(learner, draws)
    file = io.BytesIO()
    torch.save({"learner": learner.state_dict(), "draws": draws.get_state()}, file)
    wanted = [step(learner, draws) for _ in range(3)]

    file.seek(0)
    content = torch.load(file, weights_only=True)
    other, draws = Reinforce(TreeAgent(TINY, seed=8)), generator(9)
    other.load_state_dict(content["learner"])
    draws.set_state(content["draws"])
    assert [step(other, draws) for _ in range(3)] == wanted


# ---- gradients that are accumulated


def two_batches(learner):
    trees = [parse(text).root for text in ("Add(x_t, MM(h_{t-1}))", "MM(x_t)", "Add(x_t, x_t)")]
    return [learner.update(trees, rewards) for rewards in ([1.0, 2.0, 3.0], [9.0, 0.0, 1.0])]


def test_a_step_is_made_by_the_mean_of_accumulated_gradients():
    """Against two learners that make no step: one sees both batches, each gradient by itself."""
    agent, still = TreeAgent(TINY, seed=2).double(), TreeAgent(TINY, seed=2).double()
    before = [parameter.clone() for parameter in agent.parameters()]
    alone = Reinforce(still, replace(PLAIN, learning_rate=0.0))
    trees = [parse(text).root for text in ("Add(x_t, MM(h_{t-1}))", "MM(x_t)", "Add(x_t, x_t)")]
    gradients_alone = []
    for rewards in ([1.0, 2.0, 3.0], [9.0, 0.0, 1.0]):
        alone.update(trees, rewards)
        gradients_alone.append([parameter.grad.clone() for parameter in still.parameters()])

    learner = Reinforce(agent, replace(PLAIN, learning_rate=0.1), accumulate=2)
    learner.update(trees, [1.0, 2.0, 3.0])
    assert all(map(torch.equal, agent.parameters(), before)), "the first batch makes no step"
    facts = learner.update(trees, [9.0, 0.0, 1.0])
    for parameter, first, second in zip(agent.parameters(), *gradients_alone, strict=True):
        torch.testing.assert_close(parameter.grad, (first + second) / 2)
    assert not all(map(torch.equal, agent.parameters(), before))
    assert facts["updates"] == 2
    norm = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in agent.parameters()))
    assert facts["grad_norm"] == pytest.approx(norm)


def test_a_learner_restored_between_two_steps_goes_on_identically():
    learner = Reinforce(TreeAgent(TINY, seed=6), accumulate=3)
    two_batches(learner)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    wanted = two_batches(learner)
    file.seek(0)
    other = Reinforce(TreeAgent(TINY, seed=8), accumulate=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert two_batches(other) == wanted
    for found, expected in zip(other.agent.parameters(), learner.agent.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_zl17s_settings_are_its_formula():
    settings = PolicyGradientSettings()
    assert (settings.learning_rate, settings.batch, settings.accumulate) == (5e-4, 1, 10)
    assert {origin.paper for origin in origins(settings).values()} == {"ZL17"}
    assert origins(settings)["baseline_decay"].status == "guessed"
    learner = Reinforce(TreeAgent(TINY), replace(settings, learning_rate=0.0))
    trees = [parse("MM(x_t)").root, parse("MM(h_{t-1})").root]
    learner.update(trees, [10.0, 20.0])
    assert learner.update(trees, [1000.0, 15.0])["advantage"] == (1000 - 15 + 0) / 2


# ---- batches


def results(letters):
    """g is a good result, f a failure; all are told apart by their trees."""
    names = ["MM(x_t)", "Tanh(x_t)", "ReLU(x_t)", "Sin(x_t)", "Cos(x_t)", "SeLU(x_t)", "LayerNorm(x_t)"]
    return [
        (parse(names[k % len(names)]).root, None if letter == "f" else float(k)) for k, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("letters", "batches", "waiting"),
    [
        ("", [], []),
        ("ggg", [], [0, 1, 2]),
        ("gggg", [[0, 1, 2, 3]], []),
        ("ggfg", [[0, 1, 2, 3]], []),
        ("fgf", [], [0, 1]),
        ("ffggg", [[0, 2, 3, 4]], []),
        ("gggfff", [[0, 1, 2, 3]], [4]),
        ("ggggfggf", [[0, 1, 2, 3]], [4, 5, 6]),
        ("ffffffff", [], [0]),
    ],
)
def test_batches_by_hand(letters, batches, waiting):
    given_results = results(letters)
    found, left = ready_batches(given_results)
    assert found == [[given_results[k] for k in batch] for batch in batches]
    assert left == [given_results[k] for k in waiting]


@given(letters=st.text("gggf", max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_batches_keep_s17s_rule_however_the_results_come_in(letters, cuts):
    everything = results(letters)
    batches, waiting = ready_batches(everything)
    for batch in batches:
        failures = sum(reward is None for _, reward in batch)
        assert len(batch) >= 4
        assert failures <= 1
        assert len(batch) - failures >= 3

    edges = sorted({0, len(everything), *(cut for cut in cuts if cut < len(everything))})
    piecewise, left = [], []
    for start, end in pairwise(edges):
        ready, left = ready_batches([*left, *everything[start:end]])
        piecewise += ready
    assert (piecewise, left) == (batches, waiting)
    good = [result for result in everything if result[1] is not None]
    assert [result for batch in [*batches, waiting] for result in batch if result[1] is not None] == good


# ---- errors


@pytest.mark.parametrize(
    ("count", "rewards", "message"),
    [
        (2, [1.0], "2 draws, but 1 rewards"),
        (0, [], "0 draws"),
        (1, [math.nan], "finite"),
        (1, [math.inf], "finite"),
    ],
)
def test_updates_that_teach_nothing_are_refused(count, rewards, message):
    with pytest.raises(ValueError, match=message):
        Reinforce(TreeAgent(TINY)).update([parse("MM(x_t)").root] * count, rewards)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"baseline_decay": 1.0}, "baseline_decay"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"entropy": -1.0}, "entropy"),
        ({"limit": 0.0}, "limit"),
        ({"clip": 0.0}, "clip"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ReinforceSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"accumulate": 0}])
def test_wrong_settings_of_zl17s_are_refused(wrong):
    with pytest.raises(ValueError, match="must be 1 or more"):
        PolicyGradientSettings(**wrong)
    with pytest.raises(ValueError, match="accumulate=0 must be 1 or more"):
        Reinforce(TreeAgent(TINY), accumulate=0)


class Tokens(torch.nn.Module):
    """A policy over pairs of three tokens, drawn independently: no tree anywhere."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(3))

    def evaluate(self, drawn):
        logs = self.logits.log_softmax(0)
        return torch.stack([logs[first] + logs[second] for first, second in drawn]), -(logs.exp() * logs).sum()


def test_what_is_learned_from_need_not_be_trees():
    learner = Reinforce(Tokens(), replace(PLAIN, learning_rate=0.1))
    draws = [(0, 0), (1, 2), (2, 2)]
    for _ in range(100):
        facts = learner.update(draws, [0.0, 0.0, 1.0])
    assert learner.agent.logits.argmax() == 2
    assert facts["entropy"] < math.log(3)

    other = Reinforce(Tokens(), replace(PLAIN, learning_rate=0.1))
    other.load_state_dict(learner.state_dict())
    assert other.update(draws, [1.0, 0.0, 0.0]) == learner.update(draws, [1.0, 0.0, 0.0])
