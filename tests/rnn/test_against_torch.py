"""The zoo's classics equal torch's own modules, in value and in every gradient, to 1e-10 in float64."""

import pytest
import torch
from torch import Tensor, nn

import nasrepro as nr
from nasrepro.rnn import RNN

T, B, IN, H, LAYERS = 6, 3, 5, 4, 2
TOLERANCE = 1e-10


def _copy(ours: RNN, torch_rnn: nn.RNNBase, rows: list[int], signs: list[int]) -> None:
    """Copy torch's stacked weights into the cell's MMs.

    MM 2k and 2k + 1 are a pair (on x, on h), in this cell's order; `rows[k]` is where torch stacks that pair, and
    `signs[k]` is -1 for a gate that torch writes as one minus ours.
    """
    for number, layer in enumerate(ours.layers):
        for mm in range(2 * len(rows)):
            row, sign = rows[mm // 2], signs[mm // 2]
            kind = "ih" if _on_x(ours, mm) else "hh"
            where = slice(row * H, (row + 1) * H)
            weight, bias = layer.mm(mm)
            with torch.no_grad():
                weight.copy_(sign * getattr(torch_rnn, f"weight_{kind}_l{number}")[where])
                bias.copy_(sign * getattr(torch_rnn, f"bias_{kind}_l{number}")[where])


def _on_x(ours: RNN, mm: int) -> bool:
    matrices = [node for node in ours.cell.operators if node.op == "MM"]
    return matrices[mm].args[0].op == "x_t"


# Pairs in post-order. torch stacks an LSTM's gates as i, f, g, o and a GRU's as r, z, n; its z is one minus ours.
CASES = {
    "TanhRNN": (nn.RNN, [0], [1]),
    "LSTM": (nn.LSTM, [3, 1, 0, 2], [1, 1, 1, 1]),
    "GRU": (nn.GRU, [2, 0, 1], [1, 1, -1]),
}


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_state_equal_torch(name: str) -> None:
    module, rows, signs = CASES[name]
    generator = torch.Generator().manual_seed(1)
    torch_rnn = module(IN, H, LAYERS).double()
    ours = nr.RNN(nr.zoo[name], IN, H, LAYERS).double()
    for parameter in torch_rnn.parameters():
        nn.init.normal_(parameter, generator=generator)
    _copy(ours, torch_rnn, rows, signs)
    x = torch.randn(T, B, IN, dtype=torch.float64, generator=generator).requires_grad_()
    h0 = torch.randn(LAYERS, B, H, dtype=torch.float64, generator=generator).requires_grad_()
    c0 = torch.randn(LAYERS, B, H, dtype=torch.float64, generator=generator).requires_grad_()
    state = (h0, c0) if name == "LSTM" else h0
    weighting = torch.randn(T, B, H, dtype=torch.float64, generator=generator)

    expected, expected_state = torch_rnn(x, state)
    expected_grads = _gradients(expected, weighting, x, h0, c0, torch_rnn.parameters())
    out, out_state = ours(x, state)
    grads = _gradients(out, weighting, x, h0, c0, ours.parameters())

    torch.testing.assert_close(out, expected, rtol=0, atol=TOLERANCE)
    expected_parts = expected_state if name == "LSTM" else (expected_state,)
    for part, expected_part in zip(out_state, expected_parts, strict=True):
        torch.testing.assert_close(part, expected_part, rtol=0, atol=TOLERANCE)
    for key in ("x", "h0", "c0"):
        torch.testing.assert_close(grads[key], expected_grads[key], rtol=0, atol=TOLERANCE)
    # The weights' gradients: step both models by them and see that they still agree.
    with torch.no_grad():
        for parameter in (*torch_rnn.parameters(), *ours.parameters()):
            parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(ours(x, state)[0], torch_rnn(x, state)[0], rtol=0, atol=TOLERANCE)


def _gradients(out: Tensor, weighting: Tensor, x: Tensor, h0: Tensor, c0: Tensor, parameters) -> dict[str, Tensor]:
    (out * weighting).sum().backward()
    grads = {"x": x.grad, "h0": h0.grad, "c0": c0.grad}
    for leaf in (x, h0, c0):
        leaf.grad = None
    return grads


@pytest.mark.parametrize("name", ["TanhRNN", "LSTM", "GRU"])
def test_shapes_and_unbatched_input_as_torch(name: str) -> None:
    torch_rnn = CASES[name][0](IN, H, LAYERS)
    ours = nr.RNN(nr.zoo[name], IN, H, LAYERS)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in torch_rnn.parameters())
    for shape in [(T, B, IN), (T, IN)]:
        out, state = ours(torch.zeros(shape))
        expected, expected_state = torch_rnn(torch.zeros(shape))
        assert out.shape == expected.shape
        expected_parts = expected_state if name == "LSTM" else (expected_state,)
        assert [part.shape for part in state] == [part.shape for part in expected_parts]
        out, _ = ours(torch.zeros(shape), tuple(state))
        assert out.shape == expected.shape


@pytest.mark.parametrize("name", CASES)
def test_steps_by_hand_equal_torch_over_the_sequence(name: str) -> None:
    module, rows, signs = CASES[name]
    torch_rnn, ours = module(IN, H, LAYERS).double(), nr.RNN(nr.zoo[name], IN, H, LAYERS).double()
    _copy(ours, torch_rnn, rows, signs)
    x = torch.randn(T, B, IN, dtype=torch.float64)
    state, outs = ours.initial_state(B), []
    for x_t in x:
        out, state = ours.step(x_t, state)
        assert out.shape == (B, H)
        outs.append(out)
    expected, expected_state = torch_rnn(x)
    torch.testing.assert_close(torch.stack(outs), expected, rtol=0, atol=TOLERANCE)
    for part, expected_part in zip(state, expected_state if name == "LSTM" else (expected_state,), strict=True):
        torch.testing.assert_close(part, expected_part, rtol=0, atol=TOLERANCE)
    torch.stack(outs).sum().backward()
    found = [parameter.grad for parameter in ours.parameters()]
    ours.zero_grad()
    ours(x)[0].sum().backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in ours.parameters()])


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("text", ["Tanh(Add(MM(x_{t-1}), Mult(PosEnc, MM(h_{t-1}))))", "Add(MM(x_t), c_{t-1})|1"])
def test_a_step_carries_all_that_a_cell_looks_back_at(text: str, backend: str) -> None:
    ours = nr.RNN(text, IN, H, 2, last_size=IN, backend=backend, batch_first=True)
    x = torch.randn(B, T, IN)
    state, outs = None, []
    for t in range(T):
        out, state = ours.step(x[:, t], state)
        outs.append(out)
    expected, expected_state = ours(x)
    torch.testing.assert_close(torch.stack(outs, 1), expected)
    assert state.t == expected_state.t == T
    torch.testing.assert_close(state.h, expected_state.h)


@pytest.mark.parametrize("shape", [(IN,), (1, B, IN), (B, IN + 1), (0, IN)])
def test_a_step_takes_one_input_for_each_sequence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x of one step must be \(B, 5\)"):
        nr.RNN(nr.zoo["GRU"], IN, H).step(torch.zeros(shape))
