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
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if torch.isfinite(norm):
        scale = learning_rate * min(1.0, clip / (norm.item() + 1e-6))
        torch._foreach_add_(parameters, gradients, alpha=-scale)
    for parameter in parameters:
        parameter.grad = None
    return norm
