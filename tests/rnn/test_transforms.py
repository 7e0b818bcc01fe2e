"""What looks at a layer's operators instead of its numbers: tracers, exporters, torch.func, automatic precision."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import nasrepro as nr
from nasrepro.rnn import RNN, State
from tests.rnn.problem import error, needs_compiler

T, B, IN, H = 4, 3, 5, 6
ALL = "Tanh(Add(MM(x_{t-1}), Add(MM(PosEnc), Add(MM(h_{t-1}), MM(c_{t-1})))))|6"  # every source that a state keeps


def _input(seed: int = 0) -> Tensor:
    return torch.randn(T, B, IN, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def rnn() -> RNN:
    return nr.RNN(nr.zoo["LSTM"], IN, H, 2, generator=torch.Generator().manual_seed(0))


def _exact(rnn: RNN, x: Tensor) -> Tensor:
    """The outputs by the reference in float64, on numbers alone."""
    exact = copy.deepcopy(rnn).double()
    exact.backend = "reference"
    return exact(x.double())[0]


# --- tracers ------------------------------------------------------------------------------------------------


def test_fake_tensors_give_fake_tensors() -> None:
    with FakeTensorMode():
        for backend in ("auto", "fused"):
            rnn = nr.RNN(nr.zoo["LSTM"], IN, H, backend=backend)
            out, state = rnn(torch.randn(T, B, IN))
            out.sum().backward()
            assert isinstance(out, FakeTensor)
            assert (out.shape, state.h.shape) == ((T, B, H), (1, B, H))


def test_meta_tensors_give_meta_tensors() -> None:
    with torch.device("meta"):
        out, _ = nr.RNN(nr.zoo["LSTM"], IN, H)(torch.randn(T, B, IN), lengths=torch.ones(B, dtype=torch.int64))
    assert (out.device.type, out.shape) == ("meta", (T, B, H))


TRACERS = {
    "make_fx": lambda rnn, x: make_fx(rnn)(x),
    "make_fx before dispatch": lambda rnn, x: make_fx(rnn, pre_dispatch=True)(x),
    "torch.jit.trace": lambda rnn, x: torch.jit.trace(rnn, x),
    "torch.export": lambda rnn, x: torch.export.export(rnn, (x,), strict=False).module(),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TRACERS)
def test_what_was_traced_computes_with_the_input_that_it_is_given(rnn: RNN, name: str) -> None:
    traced = TRACERS[name](rnn, _input(0))
    out, (h, c) = traced(_input(1))
    expected, (expected_h, expected_c) = rnn(_input(1))
    for found, wanted in ((out, _exact(rnn, _input(1))), (out, expected), (h, expected_h), (c, expected_c)):
        torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("cell", ["LSTM", "GRU", ALL])
def test_an_exported_layer_takes_a_state_and_goes_on(cell: str) -> None:
    rnn = nr.RNN(nr.zoo.get(cell, cell), IN, H, 2, last_size=3)
    with torch.no_grad():
        _, state = rnn(_input(0))
        exported = torch.export.export(rnn, (_input(0), state), strict=False).module()
        _, other = rnn(_input(2))
        for before in (state, other):
            (out, after), (expected, expected_after) = exported(_input(1), before), rnn(_input(1), before)
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
            assert isinstance(after, State)
            torch.testing.assert_close(tuple(after), tuple(expected_after), rtol=1e-5, atol=1e-6)
            assert after.t == expected_after.t == 2 * T
    with pytest.raises((RuntimeError, ValueError)):  # it was traced for the timestep that state had
        exported(_input(1), rnn.initial_state(B))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["torch.jit.trace", "torch.export"])
def test_a_trace_refuses_sequences_of_another_length(rnn: RNN, name: str) -> None:
    traced = TRACERS[name](rnn, _input())
    for steps in (T - 1, T + 1):
        with pytest.raises((RuntimeError, AssertionError)):
            traced(torch.randn(steps, B, IN))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_state_can_be_used_by_name() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nr.RNN(ALL, IN, H)

        def forward(self, x: Tensor) -> Tensor:
            _, state = self.rnn(x)
            return self.rnn(x, state)[0] + state.c[0]

    model = Model()
    torch.testing.assert_close(torch.jit.trace(model, _input(0))(_input(1)), model(_input(1)))


@pytest.mark.skipif(torch.__version__ < (2, 8), reason="the compiler of old releases breaks the graph at a layer")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_one_graph_for_torch_compile(rnn: RNN) -> None:
    torch._dynamo.reset()
    out, state = torch.compile(rnn, backend="eager", fullgraph=True)(_input())
    torch.testing.assert_close(out.double(), _exact(rnn, _input()), rtol=1e-5, atol=1e-6)
    assert isinstance(state, State)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_says_what_to_do_instead(rnn: RNN) -> None:
    with pytest.raises(TypeError, match=r"torch\.export\.export.*torch\.jit\.trace"):
        torch.jit.script(nn.Sequential(rnn))


# --- torch.func and other derivatives -------------------------------------------------------------------------


def test_a_batch_of_inputs(rnn: RNN) -> None:
    inputs = torch.stack((_input(0), _input(1)))
    out, state = torch.func.vmap(rnn)(inputs)
    assert isinstance(state, State)
    for number in range(2):
        torch.testing.assert_close(out[number].double(), _exact(rnn, inputs[number]), rtol=1e-5, atol=1e-6)
    lengths = torch.tensor([[4, 1, 2], [1, 4, 3]])
    out, _ = torch.func.vmap(lambda x, n: rnn(x, lengths=n))(inputs, lengths)
    torch.testing.assert_close(out[1], rnn(inputs[1], lengths=lengths[1])[0])


def test_a_batch_of_weights(rnn: RNN) -> None:
    models = [copy.deepcopy(rnn), rnn]
    models[0].reset_parameters(torch.Generator().manual_seed(7))
    weights, buffers = torch.func.stack_module_state(models)
    x = _input()
    out = torch.func.vmap(lambda *given: torch.func.functional_call(rnn, given, (x,))[0])(weights, buffers)
    for number, model in enumerate(models):
        torch.testing.assert_close(out[number].double(), _exact(model, x), rtol=1e-5, atol=1e-6)


def _sum(rnn: RNN) -> Callable[[Tensor], Tensor]:
    return lambda x: (rnn(x)[0] ** 2).sum()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_derivatives_of_every_kind(rnn: RNN) -> None:
    x, tangent = _input(0).double(), _input(1).double()
    exact = copy.deepcopy(rnn).double()
    exact.backend = "reference"
    gradient = torch.autograd.functional.jacobian(_sum(exact), x)
    along = (gradient * tangent).sum()
    narrow, step = x.float(), tangent.float()
    assert error(torch.func.grad(_sum(rnn))(narrow), gradient) < 1e-5
    assert error(torch.func.jacrev(_sum(rnn))(narrow), gradient) < 1e-5
    assert error(torch.func.jvp(_sum(rnn), (narrow,), (step,))[1], along) < 1e-5
    with forward_ad.dual_level():
        dual = _sum(rnn)(forward_ad.make_dual(narrow, step))
        assert error(forward_ad.unpack_dual(dual).tangent, along) < 1e-5
    hessian = torch.autograd.functional.hvp(_sum(exact), x, tangent)[1]
    assert error(torch.func.jvp(torch.func.grad(_sum(rnn)), (narrow,), (step,))[1], hessian) < 1e-4


@needs_compiler
def test_batched_gradients_of_a_fused_cell_are_refused(rnn: RNN) -> None:
    def function(x: Tensor) -> Tensor:
        return rnn(x)[0].sum((0, 1))

    with pytest.raises(RuntimeError, match='take backend="reference"'):
        torch.autograd.functional.jacobian(function, _input(), vectorize=True)
    one_by_one = torch.autograd.functional.jacobian(function, _input())
    rnn.backend = "reference"
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(function, _input(), vectorize=True), one_by_one, rtol=1e-5, atol=1e-6
    )


def test_numbers_that_are_negated_or_zeroed_lazily(rnn: RNN) -> None:
    x = _input()
    torch.testing.assert_close(rnn(torch._neg_view(x))[0], rnn(-x)[0])
    torch.testing.assert_close(rnn(torch._efficientzerotensor((T, B, IN)))[0], rnn(torch.zeros(T, B, IN))[0])


def test_modes_that_count_see_the_operators(rnn: RNN) -> None:
    out, _ = rnn(_input().requires_grad_())
    with FlopCounterMode(display=False) as counter:
        rnn(_input())
    products = T * B * 4 * H * ((IN + H) + (H + H))
    assert counter.get_total_flops() == 2 * products
    with FlopCounterMode(display=False):
        out.sum().backward()  # of a call before it


# --- autocast ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nr.zoo)
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_every_zoo_cell_under_autocast(name: str, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    rnn = nr.RNN(nr.zoo[name], H, H, 2, backend=backend, generator=torch.Generator().manual_seed(0))
    x = torch.randn(T, B, H, generator=torch.Generator().manual_seed(1))
    exact, _ = rnn(x)
    exact_gradients = torch.autograd.grad(exact.sum(), list(rnn.parameters()))
    for given, state in (
        (x, None),
        (x, rnn.initial_state(B)),
        (x.to(dtype), None),
        (x.to(dtype), rnn.initial_state(B)),
    ):
        with torch.autocast("cpu", dtype=dtype):
            out, after = rnn(given, state)
            rnn(given, after)  # goes on from what it gave
        assert {out.dtype, *(part.dtype for part in after)} == {dtype}
        assert error(out, exact) < tolerance
        gradients = torch.autograd.grad(out.sum(), list(rnn.parameters()))
        assert all(error(*pair) < 2 * tolerance for pair in zip(gradients, exact_gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast_gives_the_types_that_torch_gives(dtype: torch.dtype) -> None:
    x = _input().to(dtype)
    module = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, expected_state = nn.LSTM(IN, H).to(module)(x)
        out, state = nr.RNN(nr.zoo["LSTM"], IN, H).to(module)(x)
    assert out.dtype == expected.dtype
    assert [part.dtype for part in state] == [part.dtype for part in expected_state]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_autocast_within_torch_compile_and_with_masks() -> None:
    rnn = nr.RNN(nr.zoo["GRU"], IN, H, 2, dropout=0.2, hidden_dropout=0.2, weight_drop=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = rnn(_input().bfloat16(), lengths=[4, 1, 2])
        assert out.isfinite().all()
        torch._dynamo.reset()
        compiled, _ = torch.compile(rnn.eval(), backend="eager")(_input())
    assert compiled.dtype == torch.bfloat16
    assert error(compiled, _exact(rnn, _input())) < 2e-2


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_without_autocast_types_are_not_mixed(backend: str) -> None:
    rnn = nr.RNN(nr.zoo["GRU"], IN, H, backend=backend).bfloat16()
    with pytest.raises(TypeError, match=r"the state is torch\.float32.*x is torch\.bfloat16.*convert"):
        rnn(_input().bfloat16(), torch.zeros(1, B, H))
    with pytest.raises(TypeError, match=r"a weight is torch\.bfloat16.*x is torch\.float32"):
        rnn(_input())
