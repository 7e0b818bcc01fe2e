"""What a backend is: a function that runs one layer over a sequence, what it is given, and what it returns.

`interpreter.run` is the reference; `fused.run` and, behind it, `fused.cpu.run` and `fused.cuda.run` are held to it.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nasrepro.native import readable
from nasrepro.rnn.program import Program


class ProductWeights(NamedTuple):
    """Weights of one product: its matrices stacked (n * hidden, in), its biases (n * hidden,) or None."""

    weight: Tensor
    bias: Tensor | None


class LayerState(NamedTuple):
    """The state of one layer: h (B, hidden), c (B, hidden) or None, the last x (B, input) or None, the timestep."""

    h: Tensor
    c: Tensor | None
    x: Tensor | None
    t: int


class Options(NamedTuple):
    """What may be different from call to call."""

    h_mask: Tensor | None = None
    """(B, hidden): multiplies what enters a matrix product and depends on h_{t-1} with no matrix in between, at every
    step the same: variational dropout as dropped columns of the matrix (Gal & Ghahramani 2016). Elementwise uses of
    h_{t-1} see it whole, since dropping it there would destroy the state that it carries (S17 appendix B.3). For
    MM(h_{t-1}) that is the paper's placement; for MM of a function of h_{t-1} it is our reading."""
    lengths: Tensor | None = None
    """(B,), int64: steps of each sequence; after them its outputs are 0 and its h and c stay."""
    product_dtype: torch.dtype = torch.float32
    """bfloat16 rounds what enters matrix products, which add up in the dtype of x. float32 leaves it as it is."""


DEFAULTS = Options()

Backend = Callable[[Program, Sequence[ProductWeights], Tensor, LayerState, Options], tuple[Tensor, LayerState]]
"""(program, weights of `program.products` in that order, x (T, B, input), state, options)
-> out (T, B, hidden), and the state after it."""


def last_inputs(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The last input of each sequence: x (T, B, input) -> (B, input)."""
    # a copy in either case: the input may be a buffer that is filled anew
    return x[-1].clone() if lengths is None else x[lengths - 1, torch.arange(x.shape[1], device=x.device)]


def positions(start: int, length: int, size: int, like: Tensor) -> Tensor:
    """Sinusoidal encodings of timesteps start ... start + length - 1: (length, 1, size) (Vaswani et al. 2017, 3.5).

    Even units hold sines, odd units cosines, of wavelengths from 2 pi to 10,000 * 2 pi.
    """
    if like.is_cuda and readable(like):
        return _positions_on(like.device, like.dtype, start, length, size)
    return _positions(start, length, size).to(like)


@lru_cache(maxsize=256)
def _positions_on(device: torch.device, dtype: torch.dtype, start: int, length: int, size: int) -> Tensor:
    """Kept on a GPU, since a CUDA graph can hold no copy from the CPU."""
    with torch.inference_mode(False):
        return _positions(start, length, size).to(device, dtype)


def _positions(start: int, length: int, size: int) -> Tensor:
    # On the CPU, whatever device torch would choose: not every one has float64.
    t = torch.arange(start, start + length, dtype=torch.float64, device="cpu")[:, None, None]  # (T, 1, 1)
    unit = torch.arange(size, dtype=torch.float64, device="cpu")
    angle = t * torch.exp(-math.log(10_000.0) * (unit - unit % 2) / size)  # (T, 1, size)
    return torch.where(unit % 2 == 0, angle.sin(), angle.cos())
