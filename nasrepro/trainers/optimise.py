"""What every trainer here needs of an optimiser: plain gradient descent with a clipped gradient."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def sgd_step(parameters: Iterable[nn.Parameter], learning_rate: float | Tensor, clip: float) -> Tensor:
    """One step of gradient descent with the gradient's global norm clipped to `clip`; gradients are cleared.

    A learning rate that changes while the step is replayed as a CUDA graph is a tensor (), on the weights' device.

    Returns the norm before clipping, (). A step whose norm is not finite changes nothing: the caller sees the norm
    and stops. On a GPU nothing waits for the norm.
    """
    weights: list[Tensor] = []
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            weights.append(parameter)
            gradients.append(parameter.grad)
            parameter.grad = None
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if norm.is_cuda:
        _step_by_tensors(weights, gradients, learning_rate * (clip / (norm + 1e-6)).clamp(max=1.0), norm)
    elif torch.isfinite(norm):
        scale = float(learning_rate) * min(1.0, clip / (norm.item() + 1e-6))
        torch._foreach_add_(weights, gradients, alpha=-scale)
    return norm


def _step_by_tensors(weights: list[Tensor], gradients: list[Tensor], rate: Tensor, norm: Tensor) -> None:
    """weights -= rate * gradients, if the norm () is finite: in one kernel, which reads rate () and norm by itself."""
    torch._fused_sgd_(
        weights,
        gradients,
        [],
        weight_decay=0.0,
        momentum=0.0,
        lr=rate.float(),
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=(~norm.isfinite()).float(),
    )
