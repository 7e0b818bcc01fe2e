"""Our step of gradient descent is torch's own SGD behind torch's own clipping."""

import math

import pytest
import torch
from torch import nn

from nasrepro.trainers.optimise import _step_by_tensors, sgd_step
from tests.rnn.fake_gpu import tensors_look_like_a_gpus

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


# --- as on a GPU, where the processor reads neither norm nor scale -------------------------------------------

fused_on_processors = pytest.mark.skipif(torch.__version__ < (2, 4), reason="torch's fused SGD is for GPUs alone here")


@fused_on_processors
@pytest.mark.parametrize("rate", [2.0, 0.003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_by_tensors_is_the_plain_formula(rate: float, dtype: torch.dtype) -> None:
    weights = [parameter.detach().float() for parameter in parameters(5, 1.0)]
    gradients = [parameter.detach().float() for parameter in parameters(6, 1.0)]
    expected = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    _step_by_tensors(weights, gradients, torch.tensor(rate, dtype=dtype), torch.tensor(3.0))
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-6)


@fused_on_processors
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_step_by_tensors_whose_norm_is_not_finite_changes_nothing(bad: float) -> None:
    weights, before = ([parameter.detach() for parameter in parameters(5, 1.0)] for _ in range(2))
    gradients = [torch.full_like(weight, bad) for weight in weights]
    _step_by_tensors(weights, gradients, torch.tensor(bad), torch.tensor(bad))
    assert all(map(torch.equal, weights, before))


@fused_on_processors
@pytest.mark.parametrize("scale", [10.0, 1e-3])  # with the gradient clipped, and not
@pytest.mark.parametrize("tensor", [False, True])
def test_a_step_on_a_gpu_equals_torch(scale: float, tensor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = parameters(1, scale), parameters(1, scale)
    optimiser = torch.optim.SGD(theirs, lr=0.3)
    expected = nn.utils.clip_grad_norm_(theirs, 0.075)
    optimiser.step()
    tensors_look_like_a_gpus(monkeypatch)
    norm = sgd_step(ours, torch.tensor(0.3, dtype=torch.float64) if tensor else 0.3, 0.075)
    torch.testing.assert_close(norm, expected, rtol=1e-12, atol=0)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.data, their.data, rtol=1e-6, atol=1e-6)
        assert our.grad is None
