"""What every trainer here needs of an optimiser: plain gradient descent with a clipped gradient."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def sgd_step(parameters: Iterable[nn.Parameter], learning_rate: float, clip: float) -> Tensor:
    """One step of gradient descent with the gradient's global norm clipped to `clip`; gradients are cleared.

    Returns the norm before clipping, (). A step whose norm is not finite changes nothing: the caller sees the norm
    and stops.
    """
    weights: list[Tensor] = []
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            weights.append(parameter)
            gradients.append(parameter.grad)
            parameter.grad = None
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if torch.isfinite(norm):
        scale = learning_rate * min(1.0, clip / (norm.item() + 1e-6))
        torch._foreach_add_(weights, gradients, alpha=-scale)
    return norm
