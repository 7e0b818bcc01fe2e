"""Compiled cells against hand-written equations and an independent evaluator, and what a layer promises its users."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import nasrepro as nr
from nasrepro.rnn import RNN, compile_cell, interpreter
from nasrepro.rnn.backend import LayerState, ProductWeights
from tests.rnn.equations import EQUATIONS
from tests.strategies import cells

H = 4


def _random(rnn: RNN, seed: int = 0) -> RNN:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.copy_(torch.empty(parameter.shape).normal_(generator=generator))
    return rnn


def _input(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", EQUATIONS)
def test_zoo_cells_equal_their_equations(name: str) -> None:
    rnn = _random(nr.RNN(nr.zoo[name], 5, H).double())
    count = sum(node.op == "MM" for node in rnn.cell.operators)
    weights = [rnn.layers[0].mm(number) for number in range(count)]
    x, weighting = _input(6, 3, 5), _input(6, 3, H, seed=2)
    ours, equations = x.clone().requires_grad_(), x.clone().requires_grad_()

    out, _ = rnn(ours)
    (out * weighting).sum().backward()
    gradients = [parameter.grad.clone() for parameter in rnn.parameters()]
    rnn.zero_grad()
    expected = EQUATIONS[name](equations, weights, H)
    (expected * weighting).sum().backward()

    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.grad, equations.grad, rtol=0, atol=1e-10)
    for gradient, parameter in zip(gradients, rnn.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=1e-10)


def _run_program(cell: nr.Cell, x: Tensor, **options: bool) -> tuple[Tensor, list[Tensor]]:
    """Outputs (T, B, H) of a program with weights drawn per MM, and the gradients of those, MM by MM."""
    program = compile_cell(cell, **options)
    generator = torch.Generator().manual_seed(3)
    count = sum(node.op == "MM" for node in cell.operators)
    matrices = [torch.randn(H, H, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]
    biases = [torch.randn(H, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]
    weights = [
        ProductWeights(torch.cat([matrices[m] for m in p.matrices]), torch.cat([biases[m] for m in p.matrices]))
        for p in program.products
    ]
    h = _input(x.shape[1], H, seed=5)
    out, _ = interpreter.run(program, weights, x, LayerState(h, h.clone(), x[0], 2))
    leaves = [*matrices, *biases]
    grads = torch.autograd.grad(out.sum(), leaves, allow_unused=True) if out.requires_grad else []
    return out, [torch.zeros(0) if grad is None else grad for grad in grads]


@given(cells(max_height=5))
@settings(max_examples=60)
def test_batched_hoisted_and_plain_programs_agree(cell: nr.Cell) -> None:
    x = _input(4, 2, H)
    expected, expected_grads = _run_program(cell, x, hoist=False, batch=False)
    for options in ({"hoist": True, "batch": True}, {"hoist": False, "batch": True}, {"hoist": True, "batch": False}):
        out, grads = _run_program(cell, x, **options)
        torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-8, equal_nan=True)
        torch.testing.assert_close(grads, expected_grads, rtol=1e-6, atol=1e-6, equal_nan=True)


@given(cells(max_height=5), st.integers(1, 5))
@settings(max_examples=60)
def test_a_sequence_in_pieces_gives_the_outputs_of_the_whole(cell: nr.Cell, cut: int) -> None:
    rnn = _random(nr.RNN(cell, H, H, num_layers=2).double())
    x = _input(6, 2, H)
    whole, end = rnn(x)
    first, state = rnn(x[:cut])
    second, end_of_pieces = rnn(x[cut:], state)
    # Products over fewer steps round otherwise, and a cell such as Sin of something that grows makes 1e-7 of 1e-16.
    # A state that is not handed on shows in the first digits.
    torch.testing.assert_close(torch.cat((first, second)), whole, rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(tuple(end_of_pieces), tuple(end), rtol=1e-6, atol=1e-6, equal_nan=True)
    assert end_of_pieces.t == end.t == 6


def test_products_are_batched_as_the_paper_says() -> None:
    # S17 appendix A.1: an LSTM's eight small products become two large ones, four matrices on x_t, four on h_{t-1}.
    program = compile_cell(nr.zoo["LSTM"])
    assert [(len(p.matrices), p.on_input) for p in program.products] == [(4, True), (4, False)]
    assert len(program.before) == 2  # stage 0 holds no operators on x alone; stage 1 is the product on x_t
    assert sum(len(s.products) for s in compile_cell(nr.zoo["LSTM"], batch=False).step) == 4


def test_a_cell_without_recurrent_products_keeps_none_in_the_loop() -> None:
    assert not any(stage.products for stage in compile_cell(nr.zoo["QRNN"]).step)


def test_last_layer_of_another_size_and_bc3_parameter_count() -> None:
    # S17: BC3 with 3 layers, embedding 400, hidden 1080 and the last layer as wide as the embedding has 24M parameters
    # on PTB (10,000 words) and 33M on WikiText-2 (33,278), embedding and softmax tied.
    with torch.device("meta"):
        rnn = nr.RNN(nr.zoo["BC3"], 400, 1080, num_layers=3, last_size=400)
    size = sum(parameter.numel() for parameter in rnn.parameters())
    assert round((size + 10_000 * 401) / 1e6) == 24
    assert round((size + 33_278 * 401) / 1e6) in (33, 34)
    small = nr.RNN(nr.zoo["BC3"], 5, 6, num_layers=3, last_size=3)
    out, state = small(torch.zeros(2, 4, 5))
    assert out.shape == (2, 4, 3)
    assert [h.shape for h in state.h] == [(4, 6), (4, 6), (4, 3)]
    again, _ = small(torch.zeros(2, 4, 5), state.detach())
    assert again.shape == out.shape


def test_raw_input_of_another_width_is_refused() -> None:
    with pytest.raises(nr.CellError, match=r"(?s)input_size must equal hidden_size \(got 3 and 4\).*MM\(x_t\)"):
        nr.RNN(nr.zoo["MT5"], 3, 4)
    nr.RNN("Tanh(Add(MM(Sigmoid(x_t)), MM(h_{t-1})))", 3, 4)(torch.zeros(2, 1, 3))  # under an MM any width will do


def test_a_cell_whose_memory_is_open_is_refused() -> None:
    with pytest.raises(nr.CellError, match=r"no \|k says what c_t is.*\n.*add one of \|"):
        nr.RNN("Tanh(Add(Mult(MM(c_{t-1}), MM(x_t)), MM(h_{t-1})))", 3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"weight_drop": -0.1}, "weight_drop must lie"),
        ({"backend": "fast"}, "unknown backend 'fast': choose from auto, reference"),
        ({"num_layers": 0}, "must be at least 1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nr.RNN(nr.zoo["GRU"], 4, 4, **arguments)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (torch.zeros(2, 3, 5), None, r"x must be \(T, B, 4\)"),
        (torch.zeros(0, 3, 4), None, "T, B >= 1"),
        (torch.zeros(2, 3, 4), torch.zeros(1, 2, 4), r"state.h must hold 1 layers, layer 0 of \(3, 4\)"),
        (torch.zeros(2, 3, 4), (torch.zeros(1, 3, 4),) * 2, r"state is \(h\), got 2 parts"),
    ],
)
def test_bad_inputs(x: Tensor, state: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nr.RNN(nr.zoo["GRU"], 4, 4)(x, state)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: nr.RNN(nr.zoo["GRU"], 2, 2, backend="fast" * 50_000),
        lambda: nr.RNN(nr.zoo["GRU"], 2, 2)(torch.zeros(2, 5000, 2), lengths=torch.full((5000,), 3)),
        lambda: nr.RNN(nr.zoo["GRU"], 2, 2)(torch.zeros(2, 1, 2), torch.zeros(5000, 1, 2)),
    ],
)
def test_errors_about_long_values_are_short(wrong) -> None:
    with pytest.raises(ValueError, match=r"backend|lengths|state") as caught:
        wrong()
    assert len(str(caught.value)) < 500


def test_hidden_dropout_never_touches_what_is_carried_elementwise() -> None:
    # h_t = (1 - f) h_{t-1} + f x_t with a gate shut by its bias: whatever is dropped at the products, h stays whole.
    rnn = nr.RNN("Gate3(x_t, h_{t-1}, Sigmoid(MM(h_{t-1})))", H, H, hidden_dropout=0.9).double()
    with torch.no_grad():
        rnn.layers[0].mm(0)[0].zero_()
        rnn.layers[0].mm(0)[1].fill_(-1000.0)
    h = _input(1, 3, H)
    out, _ = rnn.train()(torch.zeros(20, 3, H, dtype=torch.float64), h, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out[-1], h[0])


def test_hidden_dropout_masks_products_with_one_mask_per_sequence() -> None:
    rnn = nr.RNN("Add(MM(x_t), MM(h_{t-1}))", H, H, hidden_dropout=0.5, bias=False).double()
    x = _input(5, 3, H)
    out, _ = rnn(x, generator=torch.Generator().manual_seed(7))
    mask = torch.empty(3, H, dtype=torch.float64).bernoulli_(0.5, generator=torch.Generator().manual_seed(7)) * 2
    w, u = rnn.layers[0].mm(0)[0], rnn.layers[0].mm(1)[0]
    h = torch.zeros(3, H, dtype=torch.float64)
    for t in range(5):
        h = x[t] @ w.T + (h * mask) @ u.T
        torch.testing.assert_close(out[t], h)
    torch.testing.assert_close(rnn.eval()(x)[0][1], x[1] @ w.T + (x[0] @ w.T) @ u.T)


def test_weight_drop_hits_recurrent_matrices_only_and_only_in_training() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], H, H, weight_drop=0.5)
    generator = torch.Generator().manual_seed(0)
    on_x, on_h = rnn.layers[0].weights(0.5, generator)
    assert (on_x.weight != 0).all()
    assert 0.3 < (on_h.weight == 0).float().mean() < 0.7
    kept = on_h.weight != 0
    torch.testing.assert_close(on_h.weight[kept], 2 * rnn.layers[0].weight[1][kept])
    x = torch.randn(3, 2, H, generator=generator)
    plain = nr.RNN(nr.zoo["LSTM"], H, H)
    plain.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(rnn.eval()(x)[0], plain(x)[0])


def test_the_same_generator_seed_gives_the_same_run() -> None:
    def once() -> Tensor:
        rnn = nr.RNN(nr.zoo["BC3"], H, H, 2, dropout=0.3, generator=torch.Generator().manual_seed(1))
        return rnn(torch.ones(5, 2, H), generator=torch.Generator().manual_seed(2))[0]

    assert torch.equal(once(), once())


@pytest.mark.parametrize("name", nr.zoo)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_zoo_cell_runs_in_lower_precision(name: str, dtype: torch.dtype) -> None:
    _check_precision(name, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", nr.zoo)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_zoo_cell_runs_on_cuda(name: str, dtype: torch.dtype) -> None:
    _check_precision(name, dtype, "cuda")


def _check_precision(name: str, dtype: torch.dtype, device: str) -> None:
    rnn = nr.RNN(nr.zoo[name], 16, 16, generator=torch.Generator().manual_seed(0))
    x = torch.randn(6, 3, 16, generator=torch.Generator().manual_seed(1))
    exact = rnn.double()(x.double())[0]
    low, _ = rnn.to(device, dtype)(x.to(device, dtype))
    low.sum().backward()
    assert low.dtype == dtype
    error = (low.double().cpu() - exact).norm() / exact.norm()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in rnn.parameters())
