"""A layer, what goes into it and what comes out: for holding one backend against another."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import nasrepro as nr
from nasrepro.dsl import Cell
from nasrepro.native import NativeError, build
from nasrepro.rnn import State

FLOAT32, BFLOAT16 = 5e-6, 2e-2  # relative errors promised for products in either
FLOOR = 1e-30  # what is smaller counts as zero: gradients that vanish further have left the range of float32

MIXED = (
    "Gate3(Div(LayerNorm(MM(x_t)), Sigmoid(MM(h_{t-1}))), Max(Tanh(MM(x_{t-1})), h_{t-1}), "
    "Sigmoid(Add(MM(c_{t-1}), MM(PosEnc))))|4"
)
"""Everything that is placed differently: normalisations, x_{t-1}, c_{t-1}, positions, a maximum, a division."""


def _compiles() -> bool:
    try:
        build._compiler()
    except NativeError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _compiles(), reason="no C compiler on this machine")


class Problem:
    """A layer, what goes into it, and what its results are weighted with: the same numbers for every backend."""

    def __init__(self, cell: Cell | str, inputs: int, hidden: int, B: int, T: int, seed: int = 0, **options) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rnn = nr.RNN(cell, inputs, hidden, backend="fused", generator=generator, **options)
        self.T, self.B, self.t = T, B, 3
        self.x = torch.randn(T, B, inputs, generator=generator)
        zeros = self.rnn.initial_state(B)
        self.names = [name for name in ("h", "c", "x") if getattr(zeros, name) is not None]
        self.state = [torch.randn(part.shape, generator=generator) / 2 for part in zeros]
        width = self.rnn.layers[-1].hidden_size
        self.weighting = [torch.randn(T, B, width, generator=generator)]
        self.weighting += [torch.randn(part.shape, generator=generator) for part in zeros]

    def solve(
        self,
        backend: str,
        dtype: torch.dtype,
        product_dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Values and gradients, by name."""
        rnn = copy.deepcopy(self.rnn).to(dtype)
        rnn.backend, rnn.product_dtype = backend, product_dtype
        leaves = {"x": self.x, **{f"{name}_0": part for name, part in zip(self.names, self.state, strict=True)}}
        leaves = {name: leaf.detach().clone().to(dtype).requires_grad_() for name, leaf in leaves.items()}
        state = State(**{name: leaves[f"{name}_0"] for name in self.names}, t=self.t)
        masks = torch.Generator().manual_seed(5)
        out, after = rnn(leaves["x"], state, lengths=lengths, generator=masks)
        values = dict(zip(["out", *self.names], [out, *after], strict=True))
        loss = sum((v * w.to(dtype)).sum() for v, w in zip(values.values(), self.weighting, strict=True))
        wanted = leaves | dict(rnn.named_parameters())
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad:  # a cell may read the position alone
            gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        found = {name: value.detach() for name, value in values.items()}
        for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
            found[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        return found


def error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in the 2-norm, over what is finite in the exact numbers."""
    finite = exact.isfinite() & (exact.abs() < torch.finfo(torch.float32).max)
    found, exact = found.detach().double()[finite], exact.detach().double()[finite]
    return (
        float((found - exact).norm() / exact.norm().clamp_min(FLOOR))
        if float(found.norm()) > FLOOR
        else (float(exact.norm() > FLOOR))
    )


def assert_exact(problem: Problem, tolerance: float = FLOAT32, lengths: Tensor | None = None) -> None:
    ours = problem.solve("fused", torch.float32, lengths=lengths)
    exact = problem.solve("reference", torch.float64, lengths=lengths)
    errors = {name: error(ours[name], exact[name]) for name in exact}
    assert max(errors.values()) <= tolerance, errors
