"""The time loop of a decoder with attention and input feeding, and its derivative, written out.

What a step reads depends on the attention of the step before, so the loop cannot be a stack of library layers, and
autograd would record some sixty small operations for each step. Here the loop keeps what the way back needs, and the
gradients of the matrices, of keys and of values are one product each over all steps, as the staged program of
`nasrepro.rnn` has them.

One step (Luong et al. 2015; OpenNMT-py of 2017), with the layers' LSTMs in torch's equations:

    z_l     = W_l [below_l, h_l] + (early or bias_l)      below_0 = feed, above it the masked output of layer l - 1
    i, f, o = sigmoid(z_l)    g = tanh(z_l)               c_l = f c_l + i g       h_l = o tanh(c_l)
    a       = softmax(keys q)                             q = h of the last layer
    feed    = mask tanh(U [a values, q])                  the step's feature
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class DecoderWeights(NamedTuple):
    """What the loop multiplies by and adds; L layers of H units."""

    recurrent: tuple[Tensor, ...]  # W_l of every layer (4H, 2H), its rows in torch's order i, f, g, o
    bias: tuple[Tensor, ...]  # bias_l of the layers above the first (4H,); that one's is in `early`
    attention: Tensor  # U (H, 2H)


class Context(NamedTuple):
    """B source sentences of up to S words as the decoder sees them."""

    values: Tensor  # the encoder's outputs (B, S, H)
    keys: Tensor  # the same behind the attention's matrix (B, S, H)
    padding: Tensor  # True where a sentence has ended (B, S)

    def repeat(self, times: int) -> "Context":
        """Every sentence `times` times in a row: (B * times, ...)."""
        return Context(*(part.repeat_interleave(times, dim=0) for part in self))


class DecoderState(NamedTuple):
    """What the decoder carries from step to step: L layers of H units, for B sentences."""

    h: Tensor  # outputs of its layers (L, B, H)
    c: Tensor  # memories of its layers (L, B, H)
    feed: Tensor  # the last feature (B, H)

    def select(self, rows: Tensor) -> "DecoderState":
        """The state of these rows of the batch (N,), in their order."""
        return DecoderState(self.h[:, rows], self.c[:, rows], self.feed[rows])

    def repeat(self, times: int) -> "DecoderState":
        """Every row of the batch `times` times in a row: B * times rows."""
        return self.select(torch.arange(len(self.feed), device=self.feed.device).repeat_interleave(times))


def unroll(
    early: Tensor, weights: DecoderWeights, context: Context, state: DecoderState, masks: Tensor | None, bptt: int
) -> tuple[Tensor, Tensor, DecoderState]:
    """Run all T steps.

    Args:
        early: what the first layer's sums get from the target words, bias included (T, B, 4H).
        weights, context, state: L layers of H units; B source sentences of S words; what to start from.
        masks: dropout masks of every layer's output, the last of which goes on the feature (T, L, B, H), or None.
        bptt: steps after which the gradient of the carried state is cut.

    Returns: features (T, B, H); attention (T, B, S), each row a distribution over the source; the state after the last
    step. Gradients flow through the features alone: attention and last state are constants to autograd. Raises
    RuntimeError where features are differentiated twice.
    """
    L = len(weights.recurrent)
    flat = (*weights.recurrent, *weights.bias, weights.attention)
    features, attention, *after = _Unrolled.apply(L, bptt, masks, context.padding, early, *state, *context[:2], *flat)  # type: ignore[no-untyped-call]
    return features, attention, DecoderState(*after)


class _Kept(NamedTuple):
    """What forward leaves to backward."""

    read: list[Tensor]  # per layer: [below, h] (T, B, 2H)
    gates: list[Tensor]  # per layer: i, f, g, o (T, B, 4H)
    c: list[Tensor]  # per layer: memories from before the first step on (T + 1, B, H)
    tanh_c: list[Tensor]  # per layer (T, B, H)
    attention: Tensor  # (T, B, S)
    joined: Tensor  # [a values, q] (T, B, 2H)
    out: Tensor  # features before their mask (T, B, H)


class _Unrolled(torch.autograd.Function):
    """`unroll` as autograd has it: one node, its arguments flat, the last of them the parts of the weights in order."""

    @staticmethod
    def forward(
        ctx: Any, L: int, bptt: int, masks: Tensor | None, padding: Tensor, early: Tensor,
        h: Tensor, c: Tensor, feed: Tensor, values: Tensor, keys: Tensor, *flat: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        weights = DecoderWeights(flat[:L], flat[L:-1], flat[-1])
        state, context = DecoderState(h, c, feed), Context(values, keys, padding)
        features, after, kept = _forward(early, weights, context, state, masks)
        ctx.save_for_backward(values, keys, *flat)
        ctx.kept, ctx.masks, ctx.bptt, ctx.L = kept, masks, bptt, L
        attention = kept.attention.clone()  # the caller may keep it or change it
        ctx.mark_non_differentiable(attention, *after)
        ctx.set_materialize_grads(False)
        return features, attention, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_features: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        values, keys, *flat = ctx.saved_tensors
        if d_features is None:
            return (None,) * (10 + len(flat))
        weights = DecoderWeights(tuple(flat[: ctx.L]), tuple(flat[ctx.L : -1]), flat[-1])
        return None, None, None, None, *_backward(d_features, weights, values, keys, ctx.kept, ctx.masks, ctx.bptt)


def _forward(
    early: Tensor, weights: DecoderWeights, context: Context, state: DecoderState, masks: Tensor | None
) -> tuple[Tensor, DecoderState, _Kept]:
    """All steps, as `unroll` describes them: features (T, B, H), the state after the last step, what backward needs."""
    T, B, _ = early.shape
    L, H = len(weights.recurrent), state.feed.shape[1]
    transposed = [w.t() for w in weights.recurrent]

    space = early.new_empty
    kept = _Kept(
        read=[space(T, B, 2 * H) for _ in range(L)],
        gates=[space(T, B, 4 * H) for _ in range(L)],
        c=[torch.cat((state.c[layer][None], space(T, B, H))) for layer in range(L)],
        tanh_c=[space(T, B, H) for _ in range(L)],
        attention=space(T, B, context.keys.shape[1]),
        joined=space(T, B, 2 * H),
        out=space(T, B, H),
    )
    features = space(T, B, H)
    h, feed = list(state.h), state.feed
    for t in range(T):
        below = feed
        for layer in range(L):
            read, z = kept.read[layer][t], kept.gates[layer][t]  # (B, 2H), (B, 4H)
            torch.cat((below, h[layer]), dim=1, out=read)
            torch.addmm(early[t] if layer == 0 else weights.bias[layer - 1], read, transposed[layer], out=z)
            i, f, g, o = z.split(H, dim=1)
            z[:, : 2 * H].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            c = torch.mul(f, kept.c[layer][t], out=kept.c[layer][t + 1]).addcmul_(i, g)  # (B, H)
            h[layer] = o * torch.tanh(c, out=kept.tanh_c[layer][t])
            below = h[layer] if masks is None or layer == L - 1 else h[layer] * masks[t, layer]
        scores = torch.bmm(context.keys, h[-1][:, :, None])[:, :, 0]  # (B, S), Luong's "general" attention
        a = scores.masked_fill_(context.padding, -torch.inf).softmax(dim=1)  # (B, S), padding gets weight 0
        kept.attention[t] = a
        mixed = torch.bmm(a[:, None], context.values)[:, 0]  # (B, H)
        torch.cat((mixed, h[-1]), dim=1, out=kept.joined[t])
        torch.mm(kept.joined[t], weights.attention.t(), out=kept.out[t]).tanh_()
        feed = features[t]
        feed.copy_(kept.out[t]) if masks is None else torch.mul(kept.out[t], masks[t, L - 1], out=feed)
    after = DecoderState(torch.stack(h), torch.stack([c[T] for c in kept.c]), feed.clone())
    return features, after, kept


def _backward(
    d_features: Tensor,
    weights: DecoderWeights,
    values: Tensor,
    keys: Tensor,
    kept: _Kept,
    masks: Tensor | None,
    bptt: int,
) -> tuple[Tensor, ...]:
    """From the derivative by the features (T, B, H) those by early, h, c, feed, values, keys, and by all weights.

    Each has the shape of what it is the derivative by. `d_y` is the loss's derivative by y.
    """
    T, B, H = d_features.shape
    L = len(weights.recurrent)
    slopes = [_slopes(kept, layer) for layer in range(L)]
    to_sums = 1 - kept.out.square() if masks is None else masks[:, -1] * (1 - kept.out.square())  # (T, B, H)
    d_z = [torch.empty_like(z) for z in kept.gates]  # (T, B, 4H) each
    d_out = torch.empty_like(kept.out)  # (T, B, H), at the sums under tanh
    d_joined = torch.empty_like(kept.joined)  # (T, B, 2H)
    d_scores = torch.empty_like(kept.attention)  # (T, B, S)
    d_feed = torch.zeros_like(kept.out[0])  # (B, H)
    d_h = [torch.zeros_like(d_feed) for _ in range(L)]
    d_c = [torch.zeros_like(d_feed) for _ in range(L)]
    for t in reversed(range(T)):
        torch.mul(d_feed + d_features[t], to_sums[t], out=d_out[t])
        torch.mm(d_out[t], weights.attention, out=d_joined[t])
        d_mixed, d_query = d_joined[t, :, :H], d_joined[t, :, H:]
        scaled = torch.bmm(values, d_mixed[:, :, None])[:, :, 0] * kept.attention[t]  # d_a a (B, S)
        d_scores[t] = scaled - kept.attention[t] * scaled.sum(dim=1, keepdim=True)  # back through the softmax
        d_h[-1] = d_h[-1] + d_query + torch.bmm(d_scores[t, :, None], keys)[:, 0]
        for layer in reversed(range(L)):
            slope, z = slopes[layer], d_z[layer][t].view(B, 4, H)
            d_memory = torch.addcmul(d_c[layer], d_h[layer], slope.memory[t])  # (B, H)
            torch.mul(d_memory[:, None], slope.by_memory[t], out=z[:, :3])
            torch.mul(d_h[layer], slope.by_output[t], out=z[:, 3])
            d_c[layer] = d_memory * slope.carried[t]
            d_read = d_z[layer][t] @ weights.recurrent[layer]  # (B, 2H)
            d_below, d_h[layer] = d_read[:, :H], d_read[:, H:]
            if layer:
                d_h[layer - 1] = d_h[layer - 1] + (d_below if masks is None else d_below * masks[t, layer - 1])
            else:
                d_feed = d_below
        if t and t % bptt == 0:
            d_feed = torch.zeros_like(d_feed)
            d_h = [torch.zeros_like(d_feed) for _ in range(L)]
            d_c = [torch.zeros_like(d_feed) for _ in range(L)]
    return (
        d_z[0],
        torch.stack(d_h),
        torch.stack(d_c),
        d_feed,
        _over_time(kept.attention, d_joined[:, :, :H]),
        _over_time(d_scores, kept.joined[:, :, H:]),
        *(_matrix(d, read) for d, read in zip(d_z, kept.read, strict=True)),
        *(d.sum(dim=(0, 1)) for d in d_z[1:]),
        _matrix(d_out, kept.joined),
    )


class _Slopes(NamedTuple):
    """All that the way back through one layer's LSTM multiplies by, made for all steps at once."""

    memory: Tensor  # of h by c (T, B, H)
    by_memory: Tensor  # of c by the sums of i, f, g (T, B, 3, H)
    by_output: Tensor  # of h by the sum of o (T, B, H)
    carried: Tensor  # of c by the c before (T, B, H)


def _slopes(kept: _Kept, layer: int) -> _Slopes:
    """Those of one layer, from what forward kept of it."""
    i, f, g, o = kept.gates[layer].chunk(4, dim=2)  # (T, B, H) each
    tanh_c = kept.tanh_c[layer]
    return _Slopes(
        memory=o * (1 - tanh_c.square()),
        by_memory=torch.stack((g * i * (1 - i), kept.c[layer][:-1] * f * (1 - f), i * (1 - g.square())), dim=2),
        by_output=tanh_c * o * (1 - o),
        carried=f,
    )


def _over_time(weights: Tensor, vectors: Tensor) -> Tensor:
    """Sum over steps of the products of weights (T, B, S) and vectors (T, B, H): (B, S, H)."""
    return torch.bmm(weights.permute(1, 2, 0), vectors.transpose(0, 1))


def _matrix(d: Tensor, read: Tensor) -> Tensor:
    """The gradient of a matrix over all steps at once: d (T, B, out), read (T, B, in) -> (out, in)."""
    return d.flatten(0, 1).t() @ read.flatten(0, 1)
