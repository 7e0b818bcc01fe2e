"""Which tensors compiled code may read: plain memory in a plain call, and nothing else that torch calls a tensor."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from nasrepro.native import in_memory, readable

X = torch.ones(2, 3)


class Subclass(torch.Tensor):
    """A user's own kind of tensor."""


def test_plain_memory_is_readable_however_it_is_computed_with() -> None:
    plain = (X, nn.Parameter(X.clone()), X.t(), X.double(), X.clone().requires_grad_() * 2, None)
    assert readable(*plain)
    with torch.no_grad():
        assert readable(*plain)
    with torch.inference_mode():
        assert readable(*plain, torch.ones(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert readable(*plain)
    with torch.device("meta"):
        assert readable(*plain)
    with FakeTensorMode():
        torch.ones(3)
    assert readable(*plain)  # what is over is over


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(
    "make",
    [
        lambda: X.to("meta"),
        lambda: X.to_sparse(),
        lambda: X.to_sparse_csr(),
        lambda: X.as_subclass(Subclass),
        lambda: torch._neg_view(X),
        lambda: torch.complex(X, X).conj().imag,
        lambda: torch._efficientzerotensor((2, 3)),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        lambda: FakeTensorMode().from_tensor(X),
    ],
)
def test_other_tensors_are_not(make: Callable[[], Tensor]) -> None:
    assert not readable(make())
    assert not in_memory(X, make())


def _seen_while(trace: Callable[[Callable[[Tensor], Tensor]], object]) -> list[bool]:
    """What `readable` says of a tensor that has nothing to do with what is going on."""
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(readable(X))
        return (x * x).sum()

    trace(function)
    return seen


@pytest.mark.parametrize(
    "trace",
    [
        lambda function: make_fx(function)(X),
        lambda function: make_fx(function, pre_dispatch=True)(X),
        lambda function: torch.jit.trace(function, X, check_trace=False),
        lambda function: torch.func.grad(function)(X),
        lambda function: torch.func.vmap(function)(X),
        lambda function: torch.func.jvp(function, (X,), (X,)),
        lambda function: torch.func.functionalize(function)(X),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_readable_while_operators_are_looked_at(trace: Callable[..., object]) -> None:
    assert _seen_while(trace) == [False]
    assert readable(X)


def test_modes() -> None:
    for mode in (FakeTensorMode(), FlopCounterMode(display=False), forward_ad.dual_level()):
        with mode:
            assert not readable(X)
    assert readable(X)


def test_asking_makes_a_handful_of_calls() -> None:
    """One for each tensor and some ten in all, for it is asked in every call of a layer."""

    def calls(tensors: int) -> int:
        given = [nn.Parameter(X.clone()) for _ in range(tensors)]
        events: list[str] = []
        sys.setprofile(lambda _, event, __: events.append(event))
        try:
            readable(*given)
        finally:
            sys.setprofile(None)
        return sum(event in ("call", "c_call") for event in events)

    assert calls(8) - calls(0) <= 2 * 8
    assert calls(0) <= 20
