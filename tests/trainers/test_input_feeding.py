"""The decoder's time loop, against one made of torch's own modules and differentiated by autograd."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from nasrepro.trainers.input_feeding import Context, DecoderState, DecoderWeights, unroll

F64 = torch.float64


def lstm_cell(extra: Tensor, below: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """torch.nn.LSTMCell, called with our weights; what is added to its sums comes in beside its input."""
    H = h.shape[1]
    module = nn.LSTMCell(5 * H, H, bias=False, dtype=F64)
    into = torch.cat((torch.eye(4 * H, dtype=F64), weight[:, :H]), dim=1)  # (4H, 5H)
    weights = {"weight_ih": into, "weight_hh": weight[:, H:]}
    return torch.func.functional_call(module, weights, (torch.cat((extra, below), dim=1), (h, c)))


class Problem:
    """Random weights, sentences and states; the loss is a random weighting of the features."""

    def __init__(self, T: int, B: int, S: int, H: int, L: int, dropout: bool, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=F64, generator=generator).requires_grad_()

        self.early = draw(T, B, 4 * H)
        self.recurrent = [draw(4 * H, 2 * H) for _ in range(L)]
        self.bias = [draw(4 * H) for _ in range(L - 1)]
        self.attention = draw(H, 2 * H)
        self.values, self.keys = draw(B, S, H), draw(B, S, H)
        self.h, self.c, self.feed = draw(L, B, H), draw(L, B, H), draw(B, H)
        lengths = torch.randint(1, S + 1, (B,), generator=generator)
        self.padding = torch.arange(S) >= lengths[:, None]  # (B, S)
        keep = torch.rand(T, L, B, H, dtype=F64, generator=generator) < 0.7
        self.masks = keep / 0.7 if dropout else None
        self.direction = torch.randn(T, B, H, dtype=F64, generator=generator)

    @property
    def inputs(self) -> list[Tensor]:
        parts = [self.early, *self.recurrent, *self.bias, self.attention]
        return [*parts, self.values, self.keys, self.h, self.c, self.feed]

    def ours(self, bptt: int) -> tuple[Tensor, Tensor, DecoderState]:
        weights = DecoderWeights(tuple(self.recurrent), tuple(self.bias), self.attention)
        context = Context(self.values, self.keys, self.padding)
        return unroll(self.early, weights, context, DecoderState(self.h, self.c, self.feed), self.masks, bptt)

    def torchs(self, bptt: int) -> tuple[Tensor, Tensor, DecoderState]:
        """The same with torch.nn.LSTMCell's function, softmax over sentences cut to their lengths, and autograd."""
        h, c, feed = list(self.h), list(self.c), self.feed
        features, attention = [], []
        H = feed.shape[1]
        for t in range(len(self.early)):
            if t and t % bptt == 0:
                h, c, feed = [part.detach() for part in h], [part.detach() for part in c], feed.detach()
            below = feed
            for layer, weight in enumerate(self.recurrent):
                extra = self.early[t] if layer == 0 else self.bias[layer - 1].expand(len(feed), -1)
                h[layer], c[layer] = lstm_cell(extra, below, h[layer], c[layer], weight)
                last = layer == len(self.recurrent) - 1
                below = h[layer] if last or self.masks is None else h[layer] * self.masks[t, layer]
            rows, shares = [], []
            for b, gone in enumerate(self.padding):
                length = int((~gone).sum())
                share = torch.softmax(self.keys[b, :length] @ h[-1][b], dim=0)
                rows.append(share @ self.values[b, :length])
                shares.append(torch.cat((share, share.new_zeros(int(gone.sum())))))
            feed = torch.tanh(torch.cat((torch.stack(rows), h[-1]), dim=1) @ self.attention.t())
            assert feed.shape[1] == H
            feed = feed if self.masks is None else feed * self.masks[t, -1]
            features.append(feed)
            attention.append(torch.stack(shares))
        return torch.stack(features), torch.stack(attention), DecoderState(torch.stack(h), torch.stack(c), feed)

    def gradients(self, features: Tensor) -> Sequence[Tensor]:
        found = torch.autograd.grad((features * self.direction).sum(), self.inputs, allow_unused=True)
        return [torch.zeros_like(part) if g is None else g for part, g in zip(self.inputs, found, strict=True)]


SIZES = [(1, 1, 1, 1, 1), (1, 3, 4, 2, 2), (7, 3, 5, 4, 2), (6, 2, 3, 3, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("bptt", [100, 3, 1])
def test_values_and_gradients_are_those_of_torchs_modules(
    size: tuple[int, int, int, int, int], dropout: bool, bptt: int
) -> None:
    problem = Problem(*size, dropout=dropout)
    features, attention, state = problem.ours(bptt)
    wanted, wanted_attention, wanted_state = problem.torchs(bptt)
    torch.testing.assert_close(features, wanted)
    torch.testing.assert_close(attention, wanted_attention)
    for part, right in zip(state, wanted_state, strict=True):
        torch.testing.assert_close(part, right)
    for found, right in zip(problem.gradients(features), problem.gradients(wanted), strict=True):
        torch.testing.assert_close(found, right)


def test_padding_is_never_looked_at() -> None:
    problem = Problem(4, 3, 5, 4, 2, dropout=False)
    _, attention, _ = problem.ours(100)
    assert (attention[:, problem.padding] == 0).all()
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, 3, dtype=F64))
    with torch.no_grad():
        before = problem.ours(100)[0]
        problem.values[problem.padding] = 1e6
        problem.keys[problem.padding] = 1e6
        assert torch.equal(problem.ours(100)[0], before)


def test_steps_one_by_one_are_the_steps_at_once() -> None:
    problem = Problem(5, 2, 3, 4, 2, dropout=False)
    with torch.no_grad():
        whole, _, end = problem.ours(100)
        state = DecoderState(problem.h, problem.c, problem.feed)
        weights = DecoderWeights(tuple(problem.recurrent), tuple(problem.bias), problem.attention)
        context = Context(problem.values, problem.keys, problem.padding)
        for t in range(5):
            step, _, state = unroll(problem.early[t : t + 1], weights, context, state, None, 100)
            torch.testing.assert_close(step[0], whole[t])
    for part, right in zip(state, end, strict=True):
        torch.testing.assert_close(part, right)


def test_it_is_not_differentiated_twice_in_silence() -> None:
    problem = Problem(2, 2, 3, 2, 1, dropout=False)
    features, _, _ = problem.ours(100)
    (first,) = torch.autograd.grad(features.sum(), problem.early, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
