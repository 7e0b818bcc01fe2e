"""Our step of gradient descent is torch's own SGD behind torch's own clipping."""

import math

import pytest
import torch
from torch import nn

from nasrepro.trainers.optimise import sgd_step

SHAPES = [(3, 4), (5,), (2, 3, 2)]


def parameters(seed: int, scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in SHAPES:
        parameter = nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator))
        parameter.grad = scale * torch.randn(shape, dtype=torch.float64, generator=generator)
        found.append(parameter)
    return found


@pytest.mark.parametrize("scale", [10.0, 1e-3])  # with the gradient clipped, and not
@pytest.mark.parametrize("learning_rate", [20.0, 0.3])
def test_a_step_equals_torch(scale: float, learning_rate: float) -> None:
    ours, theirs = parameters(1, scale), parameters(1, scale)
    optimiser = torch.optim.SGD(theirs, lr=learning_rate)
    expected = nn.utils.clip_grad_norm_(theirs, 0.075)
    optimiser.step()
    norm = sgd_step(ours, learning_rate, 0.075)
    assert (expected.item() > 0.075) == (scale > 1)
    torch.testing.assert_close(norm, expected, rtol=1e-12, atol=0)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.data, their.data, rtol=1e-12, atol=1e-12)
        assert our.grad is None


def test_a_step_is_never_longer_than_clip_times_learning_rate() -> None:
    ours, before = parameters(2, 1e6), parameters(2, 1e6)
    sgd_step(ours, 20.0, 0.075)
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(ours, before, strict=True)))
    assert moved == pytest.approx(20.0 * 0.075, rel=1e-6)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    ours, before = parameters(3, 1.0), parameters(3, 1.0)
    assert ours[1].grad is not None
    ours[1].grad[2] = bad
    assert not math.isfinite(sgd_step(ours, 20.0, 0.075).item())
    for our, old in zip(ours, before, strict=True):
        assert torch.equal(our, old)
        assert our.grad is None


def test_a_parameter_without_gradient_stays() -> None:
    ours = parameters(4, 1.0)
    frozen = nn.Parameter(torch.ones(3))
    sgd_step([*ours, frozen], 20.0, 0.075)
    assert torch.equal(frozen, torch.ones(3))
