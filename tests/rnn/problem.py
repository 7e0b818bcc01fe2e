"""A layer, what goes into it and what comes out: for holding one backend against another."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

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
        device: str = "cpu",
    ) -> dict[str, Tensor]:
        """Values and gradients, by name, on the CPU."""
        rnn = copy.deepcopy(self.rnn).to(device, dtype)
        rnn.backend, rnn.product_dtype = backend, product_dtype
        leaves = {"x": self.x, **{f"{name}_0": part for name, part in zip(self.names, self.state, strict=True)}}
        leaves = {name: leaf.detach().clone().to(device, dtype).requires_grad_() for name, leaf in leaves.items()}
        state = State(**{name: leaves[f"{name}_0"] for name in self.names}, t=self.t)
        masks = torch.Generator(device).manual_seed(5)
        out, after = rnn(leaves["x"], state, lengths=lengths, generator=masks)
        values = dict(zip(["out", *self.names], [out, *after], strict=True))
        loss = sum((v * w.to(v)).sum() for v, w in zip(values.values(), self.weighting, strict=True))
        wanted = leaves | dict(rnn.named_parameters())
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad:  # a cell may read the position alone
            gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        found = {name: value.detach().cpu() for name, value in values.items()}
        for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
            found[f"d_{name}"] = (torch.zeros_like(leaf) if gradient is None else gradient).cpu()
        return found


def error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in the 2-norm, over what is finite in the exact numbers."""
    finite = exact.isfinite() & (exact.abs() < torch.finfo(torch.float32).max)
    found, exact = found.detach().double()[finite], exact.detach().double()[finite]
    if found.isnan().any():
        return math.inf
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


# --- random cells: how well can they be computed at all? -----------------------------------------------------


class Yardstick(NamedTuple):
    """What a backend's results for one dtype of products are held against.

    Random cells divide by what is nearly zero, take sines of thousands, and grow beyond all bounds. How well such a
    cell can be computed at all shows in the reference: it runs with the same products once more in float32, and once in
    float64 from inputs and weights that are off by one rounding to float32.
    """

    exact: dict[str, Tensor]
    """By the reference in float64."""
    reference: dict[str, Tensor]
    """By the reference in float32."""
    worst: float
    """The greater error of both runs, over all tensors: one tensor alone may be right by chance."""

    def errors(self, ours: dict[str, Tensor]) -> dict[str, float]:
        """The errors of a backend's results, by name."""
        return {name: error(ours[name], exact) for name, exact in self.exact.items()}

    def fits(self, ours: dict[str, Tensor], promised: float) -> bool:
        """Whether a backend stays within the promised error, or a small multiple of what the reference does."""
        return max(self.errors(ours).values()) <= max(promised, 8 * self.worst)


def yardsticks(
    problem: Problem, lengths: Tensor | None, product_dtypes: Iterable[torch.dtype]
) -> dict[torch.dtype, Yardstick]:
    """The yardsticks of those dtypes for which there is something to compare.

    There is not where the reference itself becomes infinite or NaN in other places for float32 than for float64, or for
    another sign of a zero that is divided by.
    """
    exact = problem.solve("reference", torch.float64, lengths=lengths)
    if not same_infinities(exact, _with_positive_zeros(problem, lengths)):
        return {}
    nearby = _rounded_otherwise(problem).solve("reference", torch.float64, lengths=lengths)
    found = {}
    for product_dtype in product_dtypes:
        reference = problem.solve("reference", torch.float32, product_dtype, lengths)
        if same_infinities(reference, exact):
            worst = max(error(other[name], exact[name]) for other in (reference, nearby) for name in exact)
            found[product_dtype] = Yardstick(exact, reference, worst)
    return found


def same_infinities(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether both are infinite in the same places, and NaN in the same."""
    return all(torch.equal(a[k].isnan(), b[k].isnan()) and torch.equal(a[k].isinf(), b[k].isinf()) for k in a)


def _rounded_otherwise(problem: Problem) -> Problem:
    """The same problem, its numbers off by as much as the next float32."""
    other, generator = copy.deepcopy(problem), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (other.x, *other.state, *other.rnn.parameters()):
            tensor.mul_(1 + 2**-23 * torch.empty_like(tensor).uniform_(-1, 1, generator=generator))
    return other


def _with_positive_zeros(problem: Problem, lengths: Tensor | None) -> dict[str, Tensor]:
    """The reference in float32, every zero that something is divided by being made +0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nr.rnn.interpreter.POINTWISE, "Div", lambda a, b: a / (b + 0.0))
        return problem.solve("reference", torch.float32, lengths=lengths)
