"""Dropout from an explicit generator, so that a seeded run gives the same masks in any process."""

import torch
from torch import Tensor


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: float, generator: torch.Generator | None) -> Tensor:
    """A mask of that shape: 0 with probability `rate`, else 1 / (1 - rate), of `like`'s dtype and device."""
    keep = 1 - rate
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(keep, generator=generator).div_(keep)


def dropout(x: Tensor, rate: float, generator: torch.Generator | None, shared_steps: bool = False) -> Tensor:
    """x with elements dropped at `rate`; `shared_steps` keeps one mask for all of dimension 0 (variational dropout)."""
    shape = (1, *x.shape[1:]) if shared_steps else tuple(x.shape)
    return x * dropout_mask(x, shape, rate, generator)
