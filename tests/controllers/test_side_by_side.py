"""Controllers side by side are what each would be alone."""

import time
from dataclasses import replace

import pytest
import torch

from nasrepro.controllers import (
    BaseB,
    FixedSpace,
    Place,
    PolicyGradientSettings,
    Reinforce,
    SideBySide,
    TokenAgent,
    TokenAgentSettings,
    side_by_side,
    stacked,
)
from nasrepro.native import NativeError
from tests.controllers.token_spaces import PAIRS
from tests.rnn.problem import needs_compiler

LEARNING = PolicyGradientSettings(learning_rate=1e-2, batch=2, accumulate=2)
EVERYTHING = replace(LEARNING, scale=True, limit=1.0, clip=0.05, entropy=0.1, failed=-1.0)


def reward(tokens):
    """Of one string; None where its training fails."""
    return None if tokens[0] == tokens[-1] == 1 else float(sum(tokens)) ** 2


def as_tensor(rewards):
    return torch.tensor([[float("nan") if each is None else each for each in run] for run in rewards])


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize("learning", [LEARNING, EVERYTHING])
@pytest.mark.parametrize(("space", "layers"), [(BaseB(2).strings, 2), (PAIRS, 1), (PAIRS, 3)])
def test_each_draws_and_learns_as_it_would_alone(space, layers, learning, compiled):
    settings, seeds = TokenAgentSettings(units=7, layers=layers, init=0.5), (3, 4, 9)
    together = SideBySide(space, seeds, settings, learning, compiled)
    alone = [Reinforce(TokenAgent(space, settings, seed), learning, accumulate=2) for seed in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(15):
        tokens = together.ask()
        rewards = [[reward(string) for string in run] for run in tokens.tolist()]
        together.tell(as_tensor(rewards))
        for run, given, learner, generator in zip(tokens, rewards, alone, generators, strict=True):
            drawn = [each.tokens for each in learner.agent.sample(4, generator)]
            assert drawn == [tuple(string) for string in run.tolist()]
            for first in (0, 2):
                learner.update(drawn[first : first + 2], given[first : first + 2])
    for name, weights in together.weights.items():
        for run, learner in zip(weights, alone, strict=True):
            torch.testing.assert_close(run, dict(learner.agent.named_parameters())[name], rtol=1e-3, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("base", [2, 8])
def test_compiled_code_makes_the_steps_that_torch_makes(base):
    learning = PolicyGradientSettings(learning_rate=1e-2, entropy=0.01, clip=0.1)
    both = [SideBySide(BaseB(base).strings, range(3), None, learning, compiled) for compiled in (True, False)]
    assert isinstance(both[0]._networks, stacked.StackedInC)
    for _ in range(10):
        first, second = (together.ask() for together in both)
        assert torch.equal(first, second)
        for together in both:
            together.tell(first.double().mean(-1))
    for name, weights in both[0].weights.items():
        torch.testing.assert_close(weights, both[1].weights[name].detach(), rtol=1e-3, atol=1e-4)


def test_without_a_compiler_torch_takes_over_and_says_so_once(monkeypatch):
    def refuse(*_, **__):
        raise NativeError("no C compiler found")

    monkeypatch.setattr(stacked, "load_products", refuse)
    monkeypatch.setattr(side_by_side, "_failed", [])
    stacked._library.cache_clear()
    with pytest.warns(RuntimeWarning, match="slower: no C compiler found"):
        slow = SideBySide(PAIRS, [1], learning=LEARNING)
    assert slow.ask().shape == (1, 4, 2)
    SideBySide(PAIRS, [1], learning=LEARNING)
    stacked._library.cache_clear()


def test_a_run_does_not_depend_on_those_beside_it():
    def strings(*seeds):
        together, drawn = SideBySide(PAIRS, seeds, learning=LEARNING), []
        for _ in range(10):
            drawn.append(together.ask())
            together.tell(as_tensor([map(reward, run) for run in drawn[-1].tolist()]))
        return torch.stack(drawn, 1)

    assert torch.equal(strings(5, 6, 7)[1], strings(6)[0])
    assert not torch.equal(strings(5)[0], strings(6)[0])


def test_all_of_them_find_the_best_string():
    space = FixedSpace(tuple(Place(f"token {number}", ("a", "b", "c")) for number in range(6)))
    best = torch.tensor([2, 0, 1, 1, 0, 2])
    together = SideBySide(space, range(10), learning=replace(LEARNING, batch=8, accumulate=1))
    for _ in range(150):
        tokens = together.ask()
        together.tell((tokens == best).double().mean(-1))
    assert (together.ask() == best).all(-1).double().mean() > 0.8


def test_one_controller_draws_and_learns_from_20_000_strings_in_a_minute_at_most():
    together = SideBySide(BaseB(2).strings, [1], learning=replace(LEARNING, batch=8, accumulate=1))
    seconds = []
    for _ in range(30):
        start = time.process_time()  # of this process, and the least: other work on the machine is not our speed
        tokens = together.ask()
        together.tell(tokens.sum(-1).double())
        seconds.append(time.process_time() - start)
    assert min(seconds) * 20_000 / 8 < 60


def test_rewards_must_be_finite_or_failures():
    together = SideBySide(PAIRS, [1], learning=LEARNING)
    together.ask()
    with pytest.raises(ValueError, match="finite"):
        together.tell(torch.full((1, 4), float("inf")))


def test_rewards_are_told_once_for_each_string():
    together = SideBySide(PAIRS, [1], learning=LEARNING)
    with pytest.raises(ValueError, match="ask, then tell one for each"):
        together.tell(torch.zeros(1, 4))
    together.ask()
    with pytest.raises(ValueError, match=r"rewards \(1, 3\) for strings \(1, 4\)"):
        together.tell(torch.zeros(1, 3))
    together.tell(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="ask, then tell one for each"):
        together.tell(torch.zeros(1, 4))
