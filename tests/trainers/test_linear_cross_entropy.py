"""linear_cross_entropy is F.linear and F.cross_entropy, in value and gradients, for any sizes, types and threads."""

import threading
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from nasrepro import native
from nasrepro.native import NativeError
from nasrepro.trainers import linear_cross_entropy as module
from nasrepro.trainers.linear_cross_entropy import linear_cross_entropy

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor]


def inputs(rows: int, words: int, width: int, *, bias: bool = True, seed: int = 0, dtype=torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    features, weight = normal(rows, width), normal(words, width) * (2 / width**0.5)
    targets = torch.randint(words, (rows,), generator=generator)
    return (
        features.requires_grad_(),
        weight.requires_grad_(),
        normal(words).requires_grad_() if bias else None,
        targets,
    )


def by_torch(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(features, weight, bias), targets)


def in_double(given: Inputs) -> Inputs:
    features, weight, bias, targets = (None if tensor is None else tensor.detach() for tensor in given)
    doubles = [None if t is None else t.double() for t in (features, weight, bias)]
    for double, tensor in zip(doubles, given, strict=False):
        if double is not None:
            double.requires_grad_(tensor.requires_grad)
    return (*doubles, targets)


def gradients(loss: Tensor, given: Inputs) -> list[Tensor]:
    wanted = [tensor for tensor in given[:3] if tensor is not None and tensor.requires_grad]
    return list(torch.autograd.grad(loss, wanted))


def error(value: Tensor, expected: Tensor) -> float:
    """Relative in the 2-norm; of what should be 0, absolute."""
    size = expected.norm().item()
    return (value.double() - expected).norm().item() / (size or 1)


def check(given: Inputs, tolerance: float = 5e-6) -> None:
    """Loss and all gradients against float64 by torch."""
    loss, exact = linear_cross_entropy(*given), in_double(given)
    expected = by_torch(*exact)
    assert loss.shape == ()
    assert loss.dtype == given[0].dtype
    assert error(loss, expected) <= tolerance
    for gradient, wanted in zip(gradients(loss, given), gradients(expected, exact), strict=True):
        assert error(gradient, wanted) <= tolerance


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGIT_BYTES", 40_000)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without one: nothing compiled, nothing said."""

    def load(*_: object, **__: object) -> None:
        raise NativeError("no C compiler found")

    module._library.cache_clear()
    monkeypatch.setattr(native, "load", load)
    monkeypatch.setattr(module, "_failed", set())
    yield
    module._library.cache_clear()


# --- against torch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "words", "width"),
    [(1, 1, 1), (1, 7, 3), (17, 1, 5), (3, 50, 33), (700, 7, 13), (128, 1000, 65), (33, 1000, 1), (700, 1000, 20)],
)
def test_sizes(rows, words, width, bias):
    check(inputs(rows, words, width, bias=bias))


def test_large_vocabulary():
    check(inputs(350, 10_007, 37))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 500), st.integers(1, 70), st.booleans(), st.integers(1, 3))
@example(rows=32, words=448, width=32, bias=True, threads=3)
@example(rows=5, words=2, width=4, bias=True, threads=3)
def test_any_size_on_any_number_of_threads(rows, words, width, bias, threads):
    torch.set_num_threads(threads)
    check(inputs(rows, words, width, bias=bias))


@pytest.mark.parametrize("rows", [1, 7, 9, 61])
def test_chunks_of_rows(rows, small_chunks):
    check(inputs(rows, 1000, 21))


def test_chunks_hold_no_more_than_their_share():
    for rows, words in ((700, 10_000), (700, 33_278), (100_000, 33_278), (3, 100_000_000)):
        at_once = module._rows_at_once(rows, words, 4)
        assert at_once == 1 or at_once * words * 4 <= module._LOGIT_BYTES
        assert 1 <= at_once <= rows


def test_threads_agree_to_rounding():
    given = inputs(50, 3001, 40)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = linear_cross_entropy(*given)
        found.append([loss.detach(), *gradients(loss, given)])
    for one, two in zip(*found, strict=True):
        assert error(one, two.double()) < 1e-6


def test_the_same_every_time():
    given = inputs(50, 3001, 40)
    torch.set_num_threads(2)
    first, second = (gradients(linear_cross_entropy(*given), given) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_large_logits():
    # Whole numbers, so that float32 has the same logits as float64, up to +-10^4; some rows' words are close together.
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(-20, 21, (40, 25), generator=generator).float()
    weight = torch.randint(-20, 21, (999, 25), generator=generator).float()
    features[::2] = (features[::2] / 8).round()
    features[::4, 1:] = 0
    bias = torch.randint(-3, 4, (999,), generator=generator).float()
    bias[:3] = torch.tensor([1e4, 1e4 - 1, -1e4])
    targets = torch.randint(999, (40,), generator=generator)
    targets[::3] = F.linear(features, weight, bias).argmax(1)[::3]
    check((features.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets))


def test_all_digits_where_the_model_is_sure():
    features, weight = torch.zeros(3, 2), torch.zeros(5, 2)
    bias = torch.tensor([30.0, 5.0, 4.0, 3.0, -2.0])  # the others' probabilities add up to 2e-11
    check((features, weight, bias.requires_grad_(), torch.zeros(3, dtype=torch.int64)))


# --- bfloat16 products ---------------------------------------------------------------------------------------


def rounded(tensor: Tensor) -> Tensor:
    return tensor.detach().bfloat16().double()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("words", "width"), [(7, 3), (500, 65), (1000, 200)])
def test_bfloat16_products_round_what_they_multiply_and_nothing_else(words, width, compiled, small_chunks, monkeypatch):
    monkeypatch.setattr(module, "_failed", set() if compiled else {True})
    rows = 64  # a power of two: it is the same to round before or after the division by it
    given = inputs(rows, words, width)
    features, weight, bias, targets = given
    logits = rounded(features) @ rounded(weight).T + bias.detach().double()
    d_logits = (logits.softmax(1) - F.one_hot(targets, words)) / rows
    expected = [rounded(d_logits) @ rounded(weight), rounded(d_logits).T @ rounded(features), d_logits.sum(0)]

    loss = linear_cross_entropy(*given, product_dtype=torch.bfloat16)
    assert error(loss, F.cross_entropy(logits, targets)) < 1e-6
    exact = in_double(given)
    unrounded = gradients(by_torch(*exact), exact)
    for gradient, wanted, near in zip(gradients(loss, given), expected, unrounded, strict=True):
        assert error(gradient, wanted) < 1e-4  # single numbers lie so close between two bfloat16 that either may be
        assert error(gradient, near) < 2e-2


def test_other_product_types_are_refused():
    with pytest.raises(ValueError, match=r"product_dtype must be .*bfloat16, got torch.float16"):
        linear_cross_entropy(*inputs(5, 7, 3), product_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"features are torch.float64: bfloat16 products are for float32"):
        linear_cross_entropy(*inputs(5, 7, 3, dtype=torch.float64), product_dtype=torch.bfloat16)


# --- what is not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["features", "weight", "bias"])
def test_what_is_not_finite_comes_out_as_in_torch(value, place):
    given = inputs(20, 700, 9)
    with torch.no_grad():
        {"features": given[0], "weight": given[1], "bias": given[2]}[place][3] = value
    loss, expected = linear_cross_entropy(*given), by_torch(*given)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    for gradient, wanted in zip(gradients(loss, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(gradient, wanted, equal_nan=True)


def test_words_ruled_out_by_their_bias():
    features, weight, _, targets = inputs(20, 700, 9)
    bias = torch.zeros(700)
    bias[:500] = float("-inf")  # whole blocks of words among them
    given = features, weight, bias, targets % 200 + 500
    loss, expected = linear_cross_entropy(*given), by_torch(*given)
    torch.testing.assert_close(loss, expected)
    for gradient, wanted in zip(gradients(loss, given[:2]), gradients(expected, given[:2]), strict=True):
        torch.testing.assert_close(gradient, wanted)


# --- autograd ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wanted", ["features", "weight", "bias", "features bias"])
def test_only_wanted_gradients(wanted, dtype):
    given = inputs(20, 300, 9, dtype=dtype)
    for name, tensor in zip(("features", "weight", "bias"), given, strict=False):
        tensor.requires_grad_(name in wanted)
    loss = linear_cross_entropy(*given)
    assert loss.requires_grad
    loss.backward()
    exact = in_double(given)
    by_torch(*exact).backward()
    for tensor, reference in zip(given[:3], exact[:3], strict=True):
        assert (tensor.grad is not None) == tensor.requires_grad
        if tensor.requires_grad:
            assert error(tensor.grad, reference.grad) < 5e-6


def test_nothing_wants_a_gradient():
    given = tuple(tensor.detach() for tensor in inputs(20, 300, 9))
    loss = linear_cross_entropy(*given)
    assert not loss.requires_grad
    assert error(loss, by_torch(*in_double(given))) < 5e-6


def test_without_gradients():
    given = inputs(60, 1000, 20)
    with torch.no_grad():
        loss = linear_cross_entropy(*given)
    assert not loss.requires_grad
    assert error(loss, by_torch(*in_double(given))) < 5e-6


def test_without_gradients_in_chunks(small_chunks):
    given = inputs(60, 1000, 20)
    with torch.no_grad():
        assert error(linear_cross_entropy(*given), by_torch(*in_double(given))) < 5e-6


def test_tied_weights():
    _, weight, bias, _ = inputs(1, 60, 12)
    tokens = torch.arange(30) % 20
    targets = (tokens * 7 + 1) % 60

    def gradient(decode: Callable[..., Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        decode(F.embedding(tokens, weight).tanh(), weight, bias, targets).backward()
        return weight.grad

    exact = in_double((weight, weight, bias, targets))
    assert error(gradient(linear_cross_entropy, weight, bias), gradient(by_torch, exact[1], exact[2])) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_something_behind_the_loss(dtype):
    given, exact = inputs(20, 300, 9, dtype=dtype), in_double(inputs(20, 300, 9, dtype=dtype))
    found, expected = (decode(*tensors) ** 2 for decode, tensors in ((linear_cross_entropy, given), (by_torch, exact)))
    for gradient, wanted in zip(gradients(found, given), gradients(expected, exact), strict=True):
        assert error(gradient, wanted) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_again(dtype):
    given = inputs(20, 300, 9, dtype=dtype)
    loss = linear_cross_entropy(*given)
    loss.backward(retain_graph=True)
    once = given[1].grad.clone()
    (3 * loss).backward()
    torch.testing.assert_close(given[1].grad, 4 * once)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_double_backward_is_refused():
    given = inputs(5, 7, 3)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        linear_cross_entropy(*given).backward(create_graph=True)


def test_gradients_are_handed_over_without_a_copy():
    given = inputs(20, 300, 9)
    seen = []
    given[1].register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    linear_cross_entropy(*given).backward()
    assert seen == [given[1].grad.data_ptr()]


def test_rows_that_do_not_lie_together():
    features, weight, bias, targets = inputs(20, 301, 10)
    views = lambda f, w, b: (f.T.contiguous().T[::2], w[1::3, ::1].T.contiguous().T, b[1::3])  # noqa: E731
    given = (features, weight, bias, targets[::2] % 100)
    exact = in_double(given)
    loss = linear_cross_entropy(*views(*given[:3]), given[3])
    expected = by_torch(*views(*exact[:3]), exact[3])
    assert error(loss, expected) < 5e-6
    for gradient, wanted in zip(gradients(loss, given), gradients(expected, exact), strict=True):
        assert error(gradient, wanted) < 5e-6


def test_two_python_threads_at_once():
    torch.set_num_threads(2)  # each of them has two more at work
    problems = [inputs(40, 900, 30, seed=seed) for seed in range(2)]
    expected = [gradients(linear_cross_entropy(*given), given) for given in problems]
    wrong = []

    def work(number: int) -> None:
        torch.set_num_threads(2)
        for _ in range(20):
            found = gradients(linear_cross_entropy(*problems[number]), problems[number])
            wrong.extend(not torch.equal(*pair) for pair in zip(found, expected[number], strict=True))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 2 * 20 * 3
    assert not any(wrong)


# --- what looks at operators instead of numbers --------------------------------------------------------------


def test_fake_tensors_give_fake_tensors():
    with FakeTensorMode():
        given = torch.randn(6, 3, requires_grad=True), torch.randn(7, 3), None, torch.zeros(6, dtype=torch.int64)
        loss = linear_cross_entropy(*given)
        loss.backward()
    assert isinstance(loss, FakeTensor)
    assert given[0].grad.shape == (6, 3)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("trace", [make_fx, lambda function: lambda *given: torch.jit.trace(function, given)])
def test_what_was_traced_computes_with_the_input_that_it_is_given(trace):
    first, second = (tuple(t.detach() for t in inputs(20, 30, 9, seed=seed)) for seed in range(2))
    traced = trace(lambda *given: linear_cross_entropy(*given))(*first)
    torch.testing.assert_close(traced(*second), by_torch(*second))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_derivatives_by_torch_func():
    features, weight, bias, targets = (t.detach() for t in inputs(20, 30, 9))
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian):
        found = transform(lambda b: linear_cross_entropy(features, weight, b, targets))(bias)
        torch.testing.assert_close(found, transform(lambda b: by_torch(features, weight, b, targets))(bias))
    losses = torch.func.vmap(linear_cross_entropy, (0, None, None, None))(
        torch.stack((features, -features)), weight, bias, targets
    )
    expected = torch.stack([by_torch(f, weight, bias, targets) for f in (features, -features)])
    torch.testing.assert_close(losses, expected)


def test_batched_gradients():
    given = inputs(20, 30, 9)
    loss, expected = linear_cross_entropy(*given), by_torch(*given)
    batch = torch.tensor([1.0, 3.0])
    found, wanted = (torch.autograd.grad(value, given[:3], batch, is_grads_batched=True) for value in (loss, expected))
    for gradient, by_others in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, by_others)


def test_numbers_that_are_negated_lazily():
    features, weight, bias, targets = (t.detach() for t in inputs(20, 30, 9))
    found = linear_cross_entropy(torch._neg_view(features), weight, bias, targets)
    torch.testing.assert_close(found, by_torch(-features, weight, bias, targets))


@pytest.mark.parametrize("product_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype, product_dtype):
    features, weight, bias, targets = inputs(20, 30, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(features.to(dtype), weight, bias, targets, product_dtype=product_dtype)
        expected = by_torch(features.to(dtype), weight, bias, targets)
    torch.testing.assert_close(found, expected)
    given = (features, weight, bias, targets)
    for gradient, wanted in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(gradient, wanted)


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", [-100, -1, 7])
def test_targets_outside_the_vocabulary(target, dtype):
    features, weight, bias, targets = inputs(5, 7, 3, dtype=dtype)
    targets[2] = target
    with pytest.raises(IndexError, match=f"target {target} is outside the vocabulary of 7 words"):
        linear_cross_entropy(features, weight, bias, targets)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({0: torch.zeros(5, 2, 3)}, r"features are \(5, 2, 3\)"),
        ({0: torch.zeros(0, 3)}, r"features are \(0, 3\)"),
        ({1: torch.zeros(7, 4)}, r"weight is \(7, 4\).*\(words, 3\)"),
        ({1: torch.zeros(7, 3).double()}, r"weight is torch.float64 on cpu, but features are torch.float32"),
        ({2: torch.zeros(6)}, r"bias is \(6,\).*\(7,\)"),
        ({3: torch.zeros(4, dtype=torch.int64)}, r"targets are \(4,\) of torch.int64.*\(5,\)"),
        ({3: torch.zeros(5)}, r"targets are \(5,\) of torch.float32"),
        ({3: torch.zeros(5, dtype=torch.int64, device="meta")}, "targets are on meta, but features on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(changed, match):
    given = [changed.get(position, tensor) for position, tensor in enumerate(inputs(5, 7, 3))]
    with pytest.raises(ValueError, match=match):
        linear_cross_entropy(*given)


# --- by torch, where there is no C -------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_other_types_go_through_torch_without_a_warning(bias, small_chunks):
    check(inputs(61, 500, 9, bias=bias, dtype=torch.float64), tolerance=1e-12)


def test_gradients_by_differences(small_chunks):
    features, weight, bias, targets = inputs(7, 11, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda *given: linear_cross_entropy(*given, targets), (features, weight, bias))


def test_bfloat16():
    given = inputs(61, 500, 9, dtype=torch.bfloat16)
    check(given, tolerance=2e-2)


def test_without_a_compiler(no_compiler, small_chunks):
    given = inputs(61, 500, 9)
    with pytest.warns(RuntimeWarning, match="no C compiler found"):
        linear_cross_entropy(*given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    ("dtype", "product_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)],
)
def test_on_a_gpu(dtype, product_dtype, monkeypatch):
    monkeypatch.setattr(module, "_LOGIT_BYTES", 2**20)
    given = tuple(t.detach().cuda().requires_grad_(t.is_floating_point()) for t in inputs(300, 3000, 65, dtype=dtype))
    exact = in_double(given)
    try:
        with warnings.catch_warnings():  # torch says once that this mode is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        loss = linear_cross_entropy(*given, product_dtype=product_dtype)
        found = gradients(loss, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = by_torch(*exact)
    tolerance = 5e-6 if dtype == product_dtype == torch.float32 else 2e-2
    assert error(loss, expected) <= tolerance
    for gradient, wanted in zip(found, gradients(expected, exact), strict=True):
        assert error(gradient, wanted) <= tolerance
