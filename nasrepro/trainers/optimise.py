"""A step of training: the clipped gradient, and plain descent or one of torch's optimisers to follow it."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from nasrepro.rnn.recording import RecordedFunction

Model = TypeVar("Model", bound=nn.Module)


class GradientStep(Generic[Model]):
    """One step of gradient descent on a batch; on a GPU replayed as a CUDA graph, one for each size of batches.

    What a step reads and changes besides the batch stays where it is, so that a graph of one step is a graph of all.
    `clip` bounds the gradient's global norm; `generator` draws the dropout masks, on the model's device; `recorded` is
    False where not all steps of a size do the same work.
    """

    descend: Callable[..., tuple[Tensor]]
    """A trainer's own work on the tensors of a batch; it ends with `update`, and returns what that returns."""

    def __init__(self, model: Model, clip: float, generator: torch.Generator, recorded: bool = True) -> None:
        self.model = model
        self.clip = clip
        self.generator = generator
        self.parameters = list(model.parameters())
        self.learning_rate = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        self._step = RecordedFunction(self.descend, [generator]) if recorded else self.descend

    def __call__(self, *batch: Tensor) -> tuple[float, float]:
        """A step: the batch's mean loss in nats, and the gradient's norm."""
        (numbers,) = self._step(*batch)
        nats, norm = numbers.tolist()  # all that a step waits for where a GPU works
        return nats, norm

    def over(self, batches: Iterable[tuple[Sequence[Tensor], int]]) -> tuple[float, bool]:
        """A step on each batch, given with the number of its predictions, until loss or gradient is not finite.

        Returns: the mean loss of all predictions in nats, infinite where it ended early; and whether all was finite.
        """
        total, predictions = 0.0, 0
        for batch, count in batches:
            nats, norm = self(*batch)
            if not (math.isfinite(nats) and math.isfinite(norm)):
                return math.inf, False
            total += nats * count
            predictions += count
        return total / predictions, True

    def update(self, loss: Tensor, objective: Tensor) -> tuple[Tensor]:
        """Descend the gradient of the objective (): the loss () and the gradient's norm, in one tensor (2,)."""
        for parameter in self.parameters:  # a recording that failed may have left gradients that were never computed
            parameter.grad = None
        objective.backward()
        norm = sgd_step(self.parameters, self.learning_rate, self.clip)
        return (torch.stack((loss.detach(), norm)),)


class OptimiserStep(GradientStep[Model]):
    """A step whose clipped gradient one of torch's optimisers descends: the one that is in `optimiser` at the time.

    On a GPU the gradient is replayed as a CUDA graph, and what is done with it is launched: so optimisers that follow
    each other share their graphs, which take longer to record than a short training takes.
    """

    optimiser: torch.optim.Optimizer

    def __call__(self, *batch: Tensor) -> tuple[float, float]:
        """A step: the batch's mean loss in nats, and the gradient's norm. One that is not finite changes nothing."""
        nats, norm = super().__call__(*batch)
        if math.isfinite(nats) and math.isfinite(norm):
            self.optimiser.step()
        return nats, norm

    def update(self, loss: Tensor, objective: Tensor) -> tuple[Tensor]:
        """Leave the clipped gradient of the objective () to the optimiser: the loss () and the norm before, (2,)."""
        for parameter in self.parameters:
            if not parameter.is_cuda:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()  # where a graph writes it
        objective.backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (self.clip / (norm + 1e-6)).clamp(max=1.0))
        return (torch.stack((loss.detach(), norm)),)


@torch.no_grad()
def sgd_step(parameters: Iterable[nn.Parameter], learning_rate: float | Tensor, clip: float) -> Tensor:
    """One step of gradient descent with the gradient's global norm clipped to `clip`; gradients are cleared.

    A learning rate that changes while the step is replayed as a CUDA graph is a tensor (), on the weights' device.
    Returns the norm before clipping, (). A step whose norm is not finite changes nothing: the caller sees the norm and
    stops. On a GPU nothing waits for the norm.
    """
    weights: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for weight in weights:
        weight.grad = None
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if norm.is_cuda:
        _step_by_tensors(weights, gradients, learning_rate * (clip / (norm + 1e-6)).clamp(max=1.0), norm)
    elif torch.isfinite(norm):
        scale = float(learning_rate) * min(1.0, clip / (norm.item() + 1e-6))
        torch._foreach_add_(weights, gradients, alpha=-scale)
    return norm


def _step_by_tensors(weights: list[Tensor], gradients: list[Tensor], rate: Tensor, norm: Tensor) -> None:
    """weights -= rate * gradients, if the norm () is finite: in one kernel, which reads rate () and norm by itself."""
    plain: Any = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False}
    skip = (~norm.isfinite()).float()
    torch._fused_sgd_(weights, gradients, [], **plain, lr=rate.float(), is_first_step=False, found_inf=skip)
