"""The fused CUDA backend against the reference in float64: run by test_fused_cuda.py, in a process of its own.

On a GPU, or, with TRITON_INTERPRET=1, on the CPU in Triton's interpreter.
"""

import os
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nasrepro as nr
from nasrepro.rnn import fused, interpreter
from nasrepro.rnn.backend import LayerState, Options, ProductWeights
from nasrepro.rnn.fused import cuda
from nasrepro.rnn.layer import RNNLayer
from nasrepro.rnn.program import compile_cell
from tests.rnn.problem import Problem, same_infinities, yardsticks
from tests.strategies import cells

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

NORMS = "Tanh(Add(LayerNorm(Add(MM(x_t), MM(h_{t-1}))), MM(LayerNorm(Mult(h_{t-1}, Sin(MM(x_{t-1})))))))"
QUOTIENTS = "Tanh(Add(Div(MM(h_{t-1}), x_t), Mult(MM(Div(x_{t-1}, x_t)), MM(Div(c_{t-1}, x_t)))))|6"
EARLY = "Tanh(Add(MM(h_{t-1}), Add(LayerNorm(Div(x_{t-1}, x_t)), Div(MM(x_t), x_t))))"
"""Both infinite, or NaN, wherever the input is zero."""
FP32, BF16 = 5e-6, 2e-2  # relative errors that we promise

# numpy, which stands for the GPU in the interpreter, warns where a GPU just gives infinity or NaN.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in .*:RuntimeWarning")


class Case:
    """One layer with weights, inputs and a state drawn in float64, to be run by any backend in any dtype."""

    def __init__(self, cell: nr.Cell, steps: int, batch: int, inputs: int, hidden: int, bias: bool = True) -> None:
        self.program = compile_cell(cell)
        generator = torch.Generator().manual_seed(0)
        layer = RNNLayer(self.program, inputs, hidden, bias, generator)
        self.weights = [parameter.detach().double() for parameter in layer.weight]
        self.biases = [parameter.detach().double() for parameter in layer.bias]
        self.x = self.draw(steps, batch, inputs)
        self.h = self.draw(batch, hidden)
        self.c = self.draw(batch, hidden) if self.program.memory is not None else None
        self.last_x = self.draw(batch, inputs) if "x_{t-1}" in cell.sources else None
        self.mask: Tensor | None = None
        self.lengths: Tensor | None = None

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))

    def run(
        self,
        backend,
        dtype: torch.dtype,
        device: str,
        product_dtype: torch.dtype = torch.float32,
        wanted: tuple[str, ...] = ("",),
    ) -> dict[str, Tensor]:
        """Outputs, last states, and the gradients of inputs whose names begin so, by name, in float64 on the CPU."""

        def there(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, dtype)

        x, h, c, last_x = map(there, (self.x, self.h, self.c, self.last_x))
        weights, biases = [there(w) for w in self.weights], [there(b) for b in self.biases]
        leaves = {"x": x, "h": h, "c": c, "last x": last_x}
        leaves |= {f"weight {n}": w for n, w in enumerate(weights)} | {f"bias {n}": b for n, b in enumerate(biases)}
        leaves = {n: leaf.requires_grad_() for n, leaf in leaves.items() if leaf is not None and n.startswith(wanted)}
        options = Options(
            None if self.mask is None else self.mask.to(device, dtype),
            None if self.lengths is None else self.lengths.to(device),
            product_dtype,
        )
        pairs = [ProductWeights(w, biases[n] if biases else None) for n, w in enumerate(weights)]
        out, state = backend(self.program, pairs, x, LayerState(h, c, last_x, 3), options)
        results = {"out": out, "h": state.h} | ({} if state.c is None else {"c": state.c})
        loss = sum((value * self.draw(*value.shape).to(device, dtype)).sum() for value in results.values())
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:  # a cell may read the position alone
            gradients = torch.autograd.grad(loss, leaves.values(), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            results[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        return {name: value.detach().double().cpu() for name, value in results.items()}

    def check(self, tolerance: float = FP32, product_dtype: torch.dtype = torch.float32) -> None:
        exact = self.run(interpreter.run, torch.float64, "cpu")
        found = self.run(cuda.run, torch.float32, DEVICE, product_dtype)
        assert exact.keys() == found.keys()
        for name, value in exact.items():
            error = (found[name] - value).norm() / value.norm().clamp_min(1e-30)
            # A gradient that is zero but for rounding (under LayerNorm) has no relative error.
            assert error <= tolerance or (found[name] - value).norm() < 1e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", nr.zoo)
def test_every_zoo_cell(name: str) -> None:
    Case(nr.zoo[name], steps=2, batch=3, inputs=7, hidden=7).check()


@pytest.mark.parametrize("text", [str(nr.zoo["GRU"]), str(nr.zoo["BC3"]), NORMS])
def test_with_a_mask_and_lengths(text: str) -> None:
    case = Case(nr.parse(text), steps=3, batch=3, inputs=5, hidden=5)
    case.mask = case.draw(3, 5).gt(-0.5).double() / 0.7
    case.lengths = torch.tensor([2, 3, 1])
    case.check()


@pytest.mark.parametrize("name", ["GRU", "QRNN"])
def test_products_in_bfloat16(name: str) -> None:
    Case(nr.zoo[name], steps=2, batch=3, inputs=9, hidden=9).check(BF16, torch.bfloat16)


@pytest.mark.parametrize(("steps", "batch", "inputs", "hidden"), [(1, 1, 1, 1), (2, 1, 4, 133), (1, 33, 130, 3)])
def test_odd_sizes(steps: int, batch: int, inputs: int, hidden: int) -> None:
    Case(nr.zoo["LSTM"], steps, batch, inputs, hidden).check()


def test_without_biases() -> None:
    Case(nr.zoo["MGU"], 2, 2, 4, 4, bias=False).check()


def test_a_cell_that_reads_the_position_alone() -> None:
    Case(nr.parse("Sigmoid(PosEnc)"), 2, 2, 4, 4).check()


@given(cells(max_height=5), st.none() | st.lists(st.integers(1, 3), min_size=2, max_size=2))
@settings(
    # On a GPU kernels are compiled for every cell.
    max_examples=20 if INTERPRETED else 10,
    phases=set(Phase) if INTERPRETED else set(Phase) - {Phase.shrink},
    derandomize=True,
    suppress_health_check=[
        HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
    ],
)  # fmt: skip
def test_random_cells(monkeypatch: pytest.MonkeyPatch, cell: nr.Cell, lengths: list[int] | None) -> None:
    monkeypatch.setitem(fused._BY_DEVICE, DEVICE, cuda)
    problem = Problem(cell, inputs=5, hidden=5, B=2, T=2 if lengths is None else max(lengths))
    ends = None if lengths is None else torch.tensor(lengths)
    found = yardsticks(problem, ends, [torch.float32])
    assume(found)
    ours = problem.solve("fused", torch.float32, lengths=ends, device=DEVICE)
    yardstick = found[torch.float32]
    assert yardstick.fits(ours, FP32), (yardstick.errors(ours), yardstick.worst)
    # Where a sequence has ended, the reference multiplies gradients of zero by infinity, which we do not.
    assert lengths is not None or same_infinities(ours, yardstick.reference)


@pytest.mark.parametrize("text", [NORMS, "Add(LayerNorm(x_t), Mult(MM(x_{t-1}), MM(h_{t-1})))"])
def test_gradients_of_weights_alone(text: str) -> None:
    case = Case(nr.parse(text), steps=2, batch=2, inputs=4, hidden=4)
    whole = case.run(cuda.run, torch.float32, DEVICE)
    part = case.run(cuda.run, torch.float32, DEVICE, wanted=("weight 1", "bias 0"))
    assert sum(name.startswith("gradient") for name in part) == 2
    assert all(torch.equal(value, whole[name]) for name, value in part.items())


SPECIAL = [0.0, -0.0, 1e-30, -1e-8, 0.3, -0.3, 5.0, -5.0, 20.0, -20.0, 88.0, -95.0, 1e4, -1e4, 3e7]
ENDS = [float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "ReLU", "SeLU", "Sin", "Cos"])
def test_functions_and_slopes_from_zero_to_infinity(op: str) -> None:
    values = torch.tensor(SPECIAL + ENDS)
    out, gradient = _elementwise(cuda.run, f"{op}(x_t)", values, DEVICE)
    expected, expected_gradient = _elementwise(interpreter.run, f"{op}(x_t)", values.double(), "cpu")
    torch.testing.assert_close(out, expected, rtol=4e-7, atol=4e-7, equal_nan=True)
    known = ~expected.isnan()  # where the value is NaN, no slope is right
    torch.testing.assert_close(gradient[known], expected_gradient[known], rtol=1e-6, atol=4e-7)
    tiny = torch.tensor([1e-6, -1e-6, 1e-20])
    if op in {"Tanh", "SeLU", "Sin"}:  # functions through zero keep all their digits there
        torch.testing.assert_close(
            _elementwise(cuda.run, f"{op}(x_t)", tiny, DEVICE)[0],
            _elementwise(interpreter.run, f"{op}(x_t)", tiny.double(), "cpu")[0],
            rtol=4e-7,
            atol=0,
        )


@pytest.mark.parametrize("op", ["Max", "Div", "Sub", "Mult"])
def test_operators_of_two_values_from_zero_to_infinity(op: str) -> None:
    pairs = torch.tensor([(a, b) for a in SPECIAL + ENDS for b in (0.3, -2.0, *ENDS)])
    values = pairs.T.contiguous()  # two steps: x_{t-1} is the first in the second
    out, gradient = _elementwise(cuda.run, f"{op}(x_{{t-1}}, x_t)", values, DEVICE)
    # In float32 too, because some results are infinite there.
    expected, expected_gradient = _elementwise(interpreter.run, f"{op}(x_{{t-1}}, x_t)", values, "cpu")
    torch.testing.assert_close(out, expected, rtol=4e-7, atol=1e-37, equal_nan=True)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-37, equal_nan=True)


def test_gates_outside_zero_to_one_are_torchs_lerp() -> None:
    gates = [-3.0, -0.5, -0.4, 0.0, 0.3, 0.5, 0.7, 1.0, 2.0, *ENDS]
    pairs = torch.tensor([(a, f) for a in SPECIAL + ENDS for f in gates])
    values = pairs.T.contiguous()
    out, gradient = _elementwise(cuda.run, "Gate3(x_{t-1}, Cos(x_{t-1}), x_t)", values, DEVICE)
    a, f = values.clone().requires_grad_()
    expected = torch.lerp(a.cos(), a, f)
    torch.testing.assert_close(out[1, 0], expected.detach().double(), rtol=4e-7, atol=1e-6, equal_nan=True)
    known = expected.isfinite()  # elsewhere no slope is right
    slopes = torch.autograd.grad(expected[known].sum(), f)[0].double()
    torch.testing.assert_close(gradient[1, 0][known], slopes[known], rtol=1e-6, atol=1e-6)


def _elementwise(backend, text: str, values: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """Values and slopes of a cell without matrices; one unit for each of the values."""
    x = values.reshape(-1, 1, values.shape[-1]).to(device).requires_grad_()
    cell = nr.parse(text)
    state = LayerState(torch.zeros_like(x[0]), None, torch.ones_like(x[0]), 0)
    out, _ = backend(compile_cell(cell), [], x, state, Options())
    out.sum().backward()
    return out.detach().double().cpu(), x.grad.double().cpu()


def test_large_values_reach_infinity_as_in_the_reference() -> None:
    case = Case(nr.parse("Add(Mult(MM(x_t), MM(x_t)), MM(h_{t-1}))"), steps=2, batch=2, inputs=3, hidden=3)
    case.x[1, 1] *= 1e30
    found = case.run(cuda.run, torch.float32, DEVICE)["out"]
    expected = case.run(interpreter.run, torch.float32, "cpu")["out"]
    assert torch.equal(found.isinf(), expected.isinf())
    assert found.isinf().any()
    assert found[:, 0].isfinite().all()


@pytest.mark.parametrize(("text", "padding"), [(NORMS, 3e38), (QUOTIENTS, 0.0), (QUOTIENTS, -0.0), (EARLY, 0.0)])
def test_padding_changes_nothing(text: str, padding: float) -> None:
    case = Case(nr.parse(text), steps=3, batch=2, inputs=4, hidden=4)
    case.lengths = torch.tensor([3, 1])
    whole = case.run(cuda.run, torch.float32, DEVICE)
    case.x[1:, 1] = padding
    padded = case.run(cuda.run, torch.float32, DEVICE)
    assert all(value.isfinite().all() for value in padded.values())
    assert (padded["gradient of x"][1:, 1] == 0).all()
    for name, value in whole.items():
        assert torch.equal(padded[name], value) or name == "last x", name


@pytest.mark.parametrize("replayed", [False, True])
def test_two_calls_before_their_backward_passes(replayed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(nr.zoo["TanhRNN"], steps=2, batch=2, inputs=4, hidden=4)
    weights = [w.to(DEVICE, torch.float32).requires_grad_() for w in case.weights]

    def outputs(x: Tensor) -> Tensor:
        state = LayerState(case.h.to(x), None, None, 0)
        return cuda.run(case.program, [ProductWeights(weight, None) for weight in weights], x, state, Options())[0]

    inputs = [scale * case.x.float().to(DEVICE) for scale in (1, 2)]
    alone = [torch.autograd.grad(outputs(x).sum(), weights) for x in inputs]
    if replayed:
        _replay_all(monkeypatch)
    outs = [outputs(x) for x in inputs]
    together = [torch.autograd.grad(out.sum(), weights, retain_graph=True) for out in outs]
    again = [torch.autograd.grad(out.sum(), weights) for out in outs]
    for expected, *found in zip(alone, together, again, strict=True):
        assert all(torch.equal(e, f) for gradients in found for e, f in zip(expected, gradients, strict=True))


def test_replays_take_in_everything_that_a_call_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> list[dict[str, Tensor]]:
        return [case.run(cuda.run, torch.float32, DEVICE, torch.bfloat16) for case in cases]

    cases = [Case(nr.zoo["MGU"], steps=2, batch=2, inputs=4, hidden=4) for _ in range(2)]
    for scale, case in enumerate(cases, 1):
        case.x, case.h, case.mask, case.lengths = (
            scale * case.x,
            scale * case.h,
            case.x[0] + scale,
            torch.tensor([scale, 2]),
        )
        case.weights, case.biases = [scale * w for w in case.weights], [scale * b for b in case.biases]
    expected = results()
    _replay_all(monkeypatch)
    for found, wanted in zip(results(), expected, strict=True):
        assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def _replay_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one set of tensors serve all calls, as it does for CUDA graphs, without recording any."""
    made: list[cuda._Replay] = []

    def find(*arguments) -> cuda._Replay:
        made[:] = made or [cuda._Replay(*arguments)]
        return made[0]

    monkeypatch.setattr(cuda, "Recording", lambda work, device: work)
    monkeypatch.setattr(cuda.replays, "find", find)
