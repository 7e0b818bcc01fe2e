"""The token controller against torch's own LSTM, and its distribution and gradient against enumeration."""

import math
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from nasrepro.controllers import (
    BaseB,
    FixedSpace,
    Place,
    PolicyGradientSettings,
    Reinforce,
    TokenAgent,
    TokenAgentSettings,
)
from nasrepro.controllers.reinforce import policy_loss
from nasrepro.controllers.token_agent import draw
from nasrepro.settings import origins
from tests.controllers.token_spaces import LAYERS, PAIRS, every_string

SMALL = TokenAgentSettings(units=5, init=1.0)  # far from uniform, so that a mistake shows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(agent, loss):
    agent.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in agent.parameters()]


# ---- the network


def test_the_network_is_the_papers():
    agent = TokenAgent(BaseB(), seed=3)
    assert (agent.lstm.num_layers, agent.lstm.hidden_size) == (2, 35)
    values = torch.cat([parameter.detach().flatten() for parameter in agent.parameters()])
    assert values.abs().max() <= 0.08
    assert values.std().item() == pytest.approx(0.08 / math.sqrt(3), rel=0.02)  # of a uniform distribution
    assert {origin.paper for origin in origins(agent.settings).values()} == {"ZL17"}
    # A softmax for each token: 15 nodes and cell inject with 2 and 4 choices, two indices of 15.
    assert agent.out.out_features == 16 * (2 + 4) + 2 * 15


def test_seeds_and_global_random_numbers():
    before = torch.get_rng_state()
    first, again, other = (TokenAgent(PAIRS, seed=seed).out.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    TokenAgent(PAIRS).sample(3, generator())
    assert torch.equal(torch.get_rng_state(), before)


def by_hand(agent, tokens):
    """Log probability of each token and entropy of its softmax, one step after the other, by torch's LSTM cells."""
    space, units = agent.space, agent.settings.units
    cells = []
    for layer in range(agent.settings.layers):
        cell = torch.nn.LSTMCell(units, units, dtype=torch.float64)
        cell.load_state_dict({name.removesuffix(f"_l{layer}"): value for name, value in agent.lstm.state_dict().items()
                              if name.endswith(f"_l{layer}")})  # fmt: skip
        cells.append(cell)
    states = [(torch.zeros(units).double(), torch.zeros(units).double()) for _ in cells]
    value, log_probs, entropy = agent.embedding.weight[-1], [], []
    for number, token in enumerate(tokens):
        for layer, cell in enumerate(cells):
            states[layer] = cell(value, states[layer])
            value = states[layer][0]
        place = space.next_place(tokens[:number])
        first = sum(len(each.words) for each in space.places[:place])
        scores = agent.out(value)[first : first + len(space.places[place].words)]
        policy = torch.softmax(scores, 0)
        log_probs.append(policy[token].log())
        entropy.append(-(policy * policy.log()).sum())
        value = agent.embedding.weight[first + token]
    return torch.stack(log_probs), torch.stack(entropy)


@pytest.mark.parametrize(("space", "layers"), [(PAIRS, 2), (LAYERS, 2), (LAYERS, 1), (BaseB(2), 3)])
def test_log_probabilities_and_entropy_against_a_plain_loop(space, layers):
    agent = TokenAgent(space, replace(SMALL, layers=layers), seed=1).double()
    strings = every_string(space)[:: max(1, len(every_string(space)) // 20)]
    expected = [by_hand(agent, tokens) for tokens in strings]
    found, entropy = agent.evaluate(strings)
    torch.testing.assert_close(found, torch.stack([each.sum() for each, _ in expected]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entropy, torch.cat([each for _, each in expected]).mean(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("space", [PAIRS, LAYERS, BaseB(2)])
def test_choices_are_the_probabilities_of_a_plain_loop(space):
    agent = TokenAgent(space, SMALL, seed=1).double()
    for tokens in every_string(space)[:: max(1, len(every_string(space)) // 10)]:
        choices = agent.choices(tokens)
        places = [space.places[space.next_place(tokens[:number])] for number in range(len(tokens))]
        assert [len(found) for found in choices] == [len(place.words) for place in places]
        assert [sum(found) for found in choices] == pytest.approx([1.0] * len(tokens), abs=1e-12)
        picked = [found[token] for found, token in zip(choices, tokens, strict=True)]
        assert picked == pytest.approx(by_hand(agent, tokens)[0].exp().tolist(), rel=1e-10)
    with pytest.raises(ValueError, match="too short"):
        agent.choices(())


# ---- the distribution


@pytest.mark.parametrize("space", [PAIRS, LAYERS])
def test_probabilities_of_all_strings_sum_to_one(space):
    agent = TokenAgent(space, SMALL, seed=2).double()
    assert agent.log_probs(every_string(space)).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("space", [PAIRS, LAYERS])
def test_the_entropy_of_choices_adds_up_to_that_of_strings(space):
    """The chain rule: the mean of the entropies of a string's choices is the entropy of the distribution over all."""
    agent = TokenAgent(space, SMALL, seed=3).double()
    strings = every_string(space)
    log_probs = agent.log_probs(strings)
    of_choices = sum(
        log_prob.exp() * agent.evaluate([tokens])[1] * len(tokens)
        for tokens, log_prob in zip(strings, log_probs, strict=True)
    )
    torch.testing.assert_close(of_choices, -(log_probs.exp() * log_probs).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("space", [PAIRS, LAYERS])
def test_strings_are_drawn_with_their_probabilities(space):
    agent = TokenAgent(space, SMALL, seed=4)
    strings = every_string(space)
    drawn = Counter(each.tokens for each in agent.sample(4000, generator(5)))
    assert {*drawn} <= {*strings}
    expected = 4000 * agent.log_probs(strings).detach().double().exp()
    expected *= 4000 / expected.sum()
    assert chisquare([drawn[tokens] for tokens in strings], expected.tolist()).pvalue > 1e-4


@pytest.mark.parametrize("space", [BaseB(), LAYERS])
def test_a_drawn_log_probability_is_that_of_teacher_forcing(space):
    for agent in (TokenAgent(space, seed=5), TokenAgent(space, replace(SMALL, units=35), seed=5)):
        drawn = agent.sample(20, generator(6))
        forced = agent.log_probs([each.tokens for each in drawn]).tolist()
        assert [each.log_prob for each in drawn] == pytest.approx(forced, rel=1e-6)
        agent.double()
        drawn = agent.sample(20, generator(6))
        forced = agent.log_probs([each.tokens for each in drawn]).tolist()
        assert [each.log_prob for each in drawn] == pytest.approx(forced, rel=0, abs=1e-9)


def test_a_draw_depends_on_its_generator_alone():
    agent = TokenAgent(LAYERS, SMALL)
    assert agent.sample(30, generator(1)) == agent.sample(30, generator(1))
    assert agent.sample(30, generator(1)) != agent.sample(30, generator(2))


def test_the_ends_of_the_uniform_numbers_draw_what_is_possible():
    scores = torch.randn(5000, 8, generator=generator(3))
    scores[:, :2] = scores[:, -3:] = -torch.inf  # the rows of other places
    policy = torch.log_softmax(scores, 1)
    assert (draw(policy, torch.zeros(5000, 1)) == 2).all()
    assert (draw(policy, torch.full((5000, 1), 1 - 2.0**-24)) == 4).all()


# ---- the gradient


@pytest.mark.parametrize("baseline", [0.0, 0.7, -40.0])
@pytest.mark.parametrize("space", [PAIRS, LAYERS])
def test_the_expected_step_is_the_gradient_of_the_expected_reward(space, baseline):
    agent = TokenAgent(space, SMALL, seed=6).double()
    strings = every_string(space)
    rewards = torch.tensor([float(sum(tokens)) ** 2 for tokens in strings], dtype=torch.float64)
    exact = gradients(agent, -(agent.log_probs(strings).exp() * rewards).sum())

    log_probs = agent.log_probs(strings)
    steps = torch.stack([policy_loss(log_probs[k : k + 1], rewards[k : k + 1] - baseline) for k in range(len(strings))])
    expected = gradients(agent, (log_probs.exp().detach() * steps).sum())
    for found, wanted in zip(expected, exact, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def test_draws_estimate_that_gradient():
    """The mean of many batches' gradients, as `Reinforce` makes them, against the exact one."""
    agent = TokenAgent(PAIRS, SMALL, seed=7).double()
    strings = every_string(PAIRS)
    rewards = {tokens: float(tokens == (2, 1)) for tokens in strings}
    given = torch.tensor([*rewards.values()], dtype=torch.float64)
    exact = torch.cat([each.flatten() for each in gradients(agent, -(agent.log_probs(strings).exp() * given).sum())])

    draws, batches = generator(8), 400
    learner = Reinforce(agent, PolicyGradientSettings(learning_rate=0.0), accumulate=batches)
    for _ in range(batches):
        drawn = [each.tokens for each in agent.sample(50, draws)]
        learner.update(drawn, [rewards[tokens] for tokens in drawn])
    found = torch.cat([parameter.grad.flatten() for parameter in agent.parameters()])
    assert torch.cosine_similarity(found, exact, dim=0) > 0.99
    assert found.norm().item() == pytest.approx(exact.norm().item(), rel=0.1)


# ---- learning


def test_it_finds_the_best_string_of_a_synthetic_reward():
    """One of 6,561 strings is best, and every token of it that is right helps a little."""
    space = FixedSpace(tuple(Place(f"token {number}", ("a", "b", "c")) for number in range(8)))
    best = (2, 0, 1, 1, 0, 2, 2, 0)
    agent, draws = TokenAgent(space, seed=9), generator(10)
    learner = Reinforce(agent, PolicyGradientSettings(learning_rate=1e-2))
    for _ in range(150):
        drawn = [each.tokens for each in agent.sample(8, draws)]
        learner.update(drawn, [sum(map(int.__eq__, tokens, best)) / 8 for tokens in drawn])
    probabilities = agent.log_probs([best]).exp()
    assert probabilities.item() > 0.9


def test_what_comes_before_decides_what_comes_next():
    """Equal tokens are rewarded, whatever they are: a softmax that did not know the first one would earn a half."""
    space = FixedSpace((Place("first", ("a", "b")), Place("second", ("a", "b"))))
    agent, draws = TokenAgent(space, seed=11), generator(12)
    learner = Reinforce(agent, PolicyGradientSettings(learning_rate=2e-2, entropy=0.05))
    for _ in range(200):
        drawn = [each.tokens for each in agent.sample(8, draws)]
        learner.update(drawn, [float(first == second) for first, second in drawn])
    both = agent.log_probs([(0, 0), (1, 1)]).exp()
    assert both.sum() > 0.9
    assert both.min() > 0.1


# ---- speed


def test_an_update_of_eight_strings_of_34_tokens_takes_20_ms_at_most():
    agent = TokenAgent(BaseB(), seed=1)
    drawn = [each.tokens for each in agent.sample(8, generator())]
    learner = Reinforce(agent, PolicyGradientSettings())
    seconds = []
    for _ in range(30):
        start = time.process_time()  # of this process, and the least: other work on the machine is not our speed
        learner.update(drawn, [float(number) for number in range(8)])
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.02


# ---- errors


@pytest.mark.parametrize(
    ("tokens", "message"),
    [((0,), "too short"), ((0, 0, 0), "too long"), ((0, 2), "token 1 is 2, but the size is one of 2 choices")],
)
def test_what_is_not_of_the_space_is_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        TokenAgent(PAIRS, SMALL).log_probs([(0, 0), tokens])


def test_a_space_without_choices_is_refused():
    with pytest.raises(ValueError, match="no choices for the size"):
        TokenAgent(FixedSpace((Place("colour", ("red",)), Place("size", ()))))


@pytest.mark.parametrize("wrong", [{"units": 0}, {"layers": 0}, {"init": 0.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        TokenAgentSettings(**wrong)


def test_to_work_out_no_string_is_refused():
    with pytest.raises(ValueError, match="there is no token string to work out"):
        TokenAgent(PAIRS, SMALL).log_probs([])
