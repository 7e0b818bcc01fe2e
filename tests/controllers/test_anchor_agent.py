"""The controller with anchor points against a plain loop, and its distribution and gradient against enumeration."""

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from nasrepro.controllers import PolicyGradientSettings, Reinforce, TokenAgentSettings
from nasrepro.controllers.anchor_agent import AnchorAgent
from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.controllers.reinforce import policy_loss
from tests.controllers.test_conv_space import ALL_TYPES, TINY, TYPED, every_string

SMALL = TokenAgentSettings(units=5, init=1.0)  # far from uniform, so that a mistake shows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


PLACES = {
    "conv": ["filter height", "filter width", "stride height", "stride width", "number of filters"],
    "max_pool": ["pool size", "pool stride"],
    "batch_norm": [],
    "contrast_norm": [],
}


def probability(agent, tokens):
    """The probability of one token string by the paper's equations, one scalar product after the other."""
    space, weights = agent.space, {name: value.detach() for name, value in agent.named_parameters()}
    names = [place.name for place in space.places]
    rows = [(place.name, k) for place in space.places for k in range(len(place.words))]
    cells = [torch.nn.LSTMCell(agent.settings.units, agent.settings.units) for _ in range(agent.settings.layers)]
    for number, cell in enumerate(cells):
        for name, value in cell.named_parameters():
            value.data = weights[f"lstm.{name}_l{number}"]
    states = [(torch.zeros(1, agent.settings.units),) * 2 for _ in cells]
    start = weights["embedding.weight"][-1]
    found, x, anchors, left = 1.0, start, [], list(tokens)

    def step(x):
        x = x[None]
        for number, cell in enumerate(cells):
            states[number] = cell(x, states[number])
            x = states[number][0]
        return x[0]

    def softmax(name):
        """Choose at a place, and feed the choice to the next step."""
        nonlocal found, x
        scores = weights["out.weight"] @ step(x) + weights["out.bias"]
        own = [score.exp().item() for score, (of, _) in zip(scores, rows, strict=True) if of == name]
        token = left.pop(0)
        found *= own[token] / sum(own)
        x = weights["embedding.weight"][rows.index((name, token))]
        return token

    depth = space.depth(tokens)
    with torch.no_grad():
        for layer in range(depth):
            kind = space.types[softmax("layer type") if "layer type" in names else 0]
            for name in PLACES[kind]:
                if name in names:
                    softmax(name)
            here = step(x)
            chosen = []
            for other in range(layer):
                inner = weights["previous.weight"] @ anchors[other] + weights["current.weight"] @ here
                yes = 1 / (1 + math.exp(-(weights["score.weight"][0] @ torch.tanh(inner)).item()))
                token = left.pop(0)
                found *= yes if token else 1 - yes
                chosen += [anchors[other]] if token else []
            x = torch.stack(chosen).mean(0) if chosen else start
            anchors.append(here)
        if "learning rate" in names:
            softmax("learning rate")
    assert not left
    return found


# ---- the network


def test_the_network_is_the_papers():
    agent = AnchorAgent(ConvSpace(), seed=3)
    assert (agent.lstm.num_layers, agent.lstm.hidden_size) == (2, 35)
    values = torch.cat([parameter.detach().flatten() for parameter in agent.parameters()])
    assert values.abs().max() <= 0.08
    assert values.std().item() == pytest.approx(0.08 / math.sqrt(3), rel=0.02)  # of a uniform distribution
    assert agent.previous.weight.shape == agent.current.weight.shape == (35, 35)
    assert agent.score.weight.shape == (1, 35)


def test_seeds_and_global_random_numbers():
    before = torch.get_rng_state()
    first, again, other = (AnchorAgent(TINY, seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    AnchorAgent(TINY).sample(3, 4, generator())
    assert torch.equal(torch.get_rng_state(), before)


# ---- the distribution


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("space", [TINY, TYPED, ALL_TYPES], ids=["convolutions", "types and rates", "all types"])
def test_probabilities_against_a_plain_loop(layers, depth, space):
    agent = AnchorAgent(space, TokenAgentSettings(units=5, init=1.0, layers=layers), seed=2)
    strings = [one.tokens for one in agent.sample(6, depth, generator())]
    expected = [probability(agent, tokens) for tokens in strings]
    assert agent.evaluate(strings)[0].exp().tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "space",
    [
        TINY,
        ConvSpace((3,), (1, 3), (1, 2), (4, 8)),
        ConvSpace((1, 3), (3,), skips=False),
        TYPED,
        ALL_TYPES,
        ConvSpace((3,), (3,), filters=(4, 8), learning_rates=(0.1, 0.2)),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_probabilities_of_all_strings_sum_to_one(space, depth):
    agent = AnchorAgent(space, SMALL, seed=1)
    total = agent.evaluate(every_string(space, depth))[0].exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


def test_three_layers_sum_to_one_too():
    space = ConvSpace(heights=(3,), widths=(3,), filters=(4, 8))
    agent = AnchorAgent(space, SMALL, seed=1)
    assert agent.evaluate(every_string(space, 3))[0].exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("space", [TINY, ConvSpace((1, 3), (3,), filters=(4,), types=("conv", "batch_norm"))])
def test_the_entropy_of_tokens_adds_up_to_that_of_strings(space):
    agent = AnchorAgent(space, SMALL, seed=1)
    strings = every_string(space, 2)
    probabilities = agent.evaluate(strings)[0].exp()
    by_tokens = sum(p * agent.evaluate([s])[1] * len(s) for p, s in zip(probabilities, strings, strict=True))
    assert by_tokens.item() == pytest.approx(-(probabilities * probabilities.log()).sum().item(), rel=1e-4)


@pytest.mark.parametrize(("space", "depth"), [(TINY, 2), (TYPED, 1), (TYPED, 2)])
def test_strings_are_drawn_with_their_probabilities(space, depth):
    agent = AnchorAgent(space, SMALL, seed=1)
    strings, draws = every_string(space, depth), 4000
    counted = Counter(one.tokens for one in agent.sample(draws, depth, generator(5)))
    expected = agent.evaluate(strings)[0].exp().detach().double()
    kept = expected * draws >= 5
    seen = torch.tensor([float(counted[tokens]) for tokens in strings])
    observed = [*seen[kept].tolist(), seen[~kept].sum().item()]
    wanted = [*(expected[kept] * draws).tolist(), (expected[~kept].sum() * draws).item()]
    scaled = [each * sum(observed) / sum(wanted) for each in wanted]
    assert chisquare([o for o, w in zip(observed, scaled, strict=True) if w], [w for w in scaled if w]).pvalue > 1e-3


def test_the_expected_number_of_skips_is_the_sum_of_the_sigmoids():
    """Of layer 2 by enumeration of all strings: what came before weighs each sigmoid by its probability."""
    agent = AnchorAgent(TINY, SMALL, seed=4)
    strings = every_string(TINY, 2)
    probabilities = agent.evaluate(strings)[0].exp().detach()
    chosen = sum(p.item() * tokens[-1] for p, tokens in zip(probabilities, strings, strict=True))
    sigmoids = sum(p.item() * agent.choices(tokens)[-1][1] for p, tokens in zip(probabilities, strings, strict=True))
    assert chosen == pytest.approx(sigmoids, abs=1e-5)
    assert 0.05 < chosen < 0.95


def test_choices_multiply_to_the_probability_of_the_string():
    agent = AnchorAgent(TINY, SMALL, seed=1)
    (one,) = agent.sample(1, 5, generator(2))
    choices = agent.choices(one.tokens)
    assert [len(each) for each in choices[:3]] == [2, 1, 2]
    assert all(sum(each) == pytest.approx(1, abs=1e-5) for each in choices)
    picked = math.prod(each[token] for each, token in zip(choices, one.tokens, strict=True))
    assert math.log(picked) == pytest.approx(one.log_prob, rel=1e-4)


def test_strings_of_several_depths_are_evaluated_in_their_order():
    agent = AnchorAgent(TINY, SMALL, seed=1)
    strings = [agent.sample(1, depth, generator(depth))[0].tokens for depth in (3, 1, 2, 3)]
    together, entropy = agent.evaluate(strings)
    alone = [agent.evaluate([tokens]) for tokens in strings]
    assert together.tolist() == pytest.approx([each[0].item() for each in alone], rel=1e-5)
    tokens = sum(map(len, strings))
    mean = sum(each[1].item() * len(string) for each, string in zip(alone, strings, strict=True)) / tokens
    assert entropy.item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("space", [ConvSpace(), TYPED, ALL_TYPES])
def test_a_drawn_log_probability_is_that_of_evaluation(space):
    agent = AnchorAgent(space, SMALL, seed=1)
    drawn = agent.sample(5, 8, generator(1))
    expected = agent.evaluate([one.tokens for one in drawn])[0].tolist()
    assert [one.log_prob for one in drawn] == pytest.approx(expected, rel=1e-4)


# ---- learning


def reward(tokens):
    """Large where the second layer reads the first and has the larger filters."""
    return 1.0 + 2.0 * tokens[-1] + tokens[-2] - 0.5 * tokens[0]


@pytest.mark.parametrize("baseline", [0.0, 1.7])
@pytest.mark.parametrize("space", [TINY, TYPED], ids=["convolutions", "types and rates"])
def test_the_expected_step_is_the_gradient_of_the_expected_reward(baseline, space):
    """REINFORCE over all strings of two layers, each by its probability, is the gradient of the exact expectation."""
    agent = AnchorAgent(space, SMALL, seed=1)
    strings = every_string(space, 2)
    rewards = torch.tensor([reward(tokens) for tokens in strings])

    def gradients(loss):
        agent.zero_grad()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in agent.parameters()])

    exact = gradients(-(agent.evaluate(strings)[0].exp() * rewards).sum())
    log_probs = agent.evaluate(strings)[0]
    weighed = log_probs.detach().exp() * (rewards - baseline) * len(strings)
    assert torch.allclose(gradients(policy_loss(log_probs, weighed)), exact, atol=1e-5)
    assert exact.abs().max() > 0.01


def test_it_learns_connections_and_sizes_that_are_rewarded():
    agent = AnchorAgent(TINY, seed=0)
    learner = Reinforce(agent, PolicyGradientSettings(learning_rate=0.02, batch=8, accumulate=1))
    draws = generator(0)
    for _ in range(120):
        drawn = [one.tokens for one in agent.sample(8, 2, draws)]
        learner.update(drawn, [reward(tokens) for tokens in drawn])
    best = agent.sample(50, 2, draws)
    assert sum(reward(one.tokens) for one in best) / 50 > 3.7  # the best string has 4, a uniform draw 2.25 on average


def test_what_is_not_of_the_space_is_refused():
    with pytest.raises(ValueError, match="no whole number of layers"):
        AnchorAgent(TINY).evaluate([(0, 0)])


# ---- types of layers, and the learning rate


def test_choices_of_a_string_are_those_of_the_places_that_it_has():
    agent = AnchorAgent(TYPED, SMALL, seed=1)
    tokens = (2, *(0, 1, 0, 1, 1), *(1, 1, 0, 1), 0)  # a normalisation, a convolution that reads it, a pool; the rate
    choices = agent.choices(tokens)
    assert [len(each) for each in choices] == [3, 3, 2, 1, 2, 2, 3, 2, 2, 2, 2]
    picked = math.prod(each[token] for each, token in zip(choices, tokens, strict=True))
    assert picked == pytest.approx(probability(agent, tokens), rel=1e-4)


def test_strings_of_other_types_beside_it_change_no_probability():
    agent = AnchorAgent(TYPED, SMALL, seed=1)
    strings = [one.tokens for one in agent.sample(12, 3, generator(4))]
    assert len({*map(len, strings)}) > 3
    together = agent.evaluate(strings)[0].tolist()
    alone = [agent.evaluate([tokens])[0].item() for tokens in strings]
    assert together == pytest.approx(alone, rel=1e-5)


def test_it_learns_a_type_and_a_rate_that_are_rewarded():
    """Two layers of which one pools, and the second rate."""
    agent = AnchorAgent(TYPED, seed=0)
    learner = Reinforce(agent, PolicyGradientSettings(learning_rate=0.02, batch=8, accumulate=1))
    draws = generator(0)

    def worth(tokens):
        net = TYPED.network(tokens)
        return sum(layer.type == "max_pool" for layer in net.layers) + (net.learning_rate == 0.02)

    for _ in range(120):
        drawn = [one.tokens for one in agent.sample(8, 2, draws)]
        learner.update(drawn, [float(worth(tokens)) for tokens in drawn])
    last = agent.sample(50, 2, draws)
    assert sum(worth(one.tokens) for one in last) / 50 > 2.7  # of 3; a uniform draw has 7/6 on average
