"""Cells written out by hand, from their papers, on plain tensors: what the compiled cells are held against.

Each function takes the input x (T, B, I), the weights as a list of (W, b) in the order of the cell's MMs, and the
hidden size; it returns all outputs (T, B, H). Nothing of nasrepro is used here.
"""

import torch
from torch import Tensor

Weights = list[tuple[Tensor, Tensor]]


def _apply(weights: Weights) -> list:
    return [lambda v, w=w, b=b: v @ w.T + b for w, b in weights]


def mgu(x: Tensor, weights: Weights, size: int) -> Tensor:
    """Zhou et al. 2016, with the gate computed twice from weights of its own."""
    wx, wf, uf, u, wg, ug = _apply(weights)
    h = x.new_zeros(x.shape[1], size)
    out = []
    for x_t in x:
        f = torch.sigmoid(wf(x_t) + uf(h))
        proposal = torch.tanh(wx(x_t) + u(f * h))
        g = torch.sigmoid(wg(x_t) + ug(h))
        h = g * proposal + (1 - g) * h
        out.append(h)
    return torch.stack(out)


def qrnn(x: Tensor, weights: Weights, size: int) -> Tensor:
    """Bradbury et al. 2017, window two, fo-pooling."""
    wo, wo1, wz, wz1, wf, wf1 = _apply(weights)
    c = x.new_zeros(x.shape[1], size)
    before = torch.zeros_like(x[0])
    out = []
    for x_t in x:
        f = torch.sigmoid(wf(x_t) + wf1(before))
        c = f * c + (1 - f) * torch.tanh(wz(x_t) + wz1(before))
        out.append(torch.sigmoid(wo(x_t) + wo1(before)) * c)
        before = x_t
    return torch.stack(out)


def nas_cell(x: Tensor, weights: Weights, size: int) -> Tensor:
    """ZL17's cell as TensorFlow Addons computes it: eight slices of W x and U h."""
    # The cell's text meets the slices in the order 0, 1, 2, 3, 4, 5, 6, 7, each as (W, U).
    pairs = _apply(weights)
    h = c = x.new_zeros(x.shape[1], size)
    out = []
    for x_t in x:
        a = [pairs[2 * k](x_t) for k in range(8)]
        b = [pairs[2 * k + 1](h) for k in range(8)]
        l0, l1 = torch.sigmoid(a[0] + b[0]), torch.relu(a[1] + b[1])
        l2, l3 = torch.sigmoid(a[2] + b[2]), torch.relu(a[3] * b[3])
        l4, l5 = torch.tanh(a[4] + b[4]), torch.sigmoid(a[5] + b[5])
        l6, l7 = torch.tanh(a[6] + b[6]), torch.sigmoid(a[7] + b[7])
        m0, m1 = torch.tanh(l0 * l1), torch.tanh(l2 + l3)
        m2, m3 = torch.tanh(l4 * l5), torch.sigmoid(l6 + l7)
        c = torch.tanh(m0 + c) * m1
        h = torch.tanh(c * torch.tanh(m2 + m3))
        out.append(h)
    return torch.stack(out)


def max_sin(x: Tensor, weights: Weights, size: int) -> Tensor:
    """ZL17, Figure 8, bottom: nodes n1 ... n8 of the drawing, each with W_i x and U_i h."""
    pairs = _apply(weights)
    order = [2, 3, 5, 6, 1, 4, 7, 8]  # the drawing's nodes in the order in which the cell's text meets them
    h = c = x.new_zeros(x.shape[1], size)
    out = []
    for x_t in x:
        w = {n: pairs[2 * k](x_t) for k, n in enumerate(order)}
        u = {n: pairs[2 * k + 1](h) for k, n in enumerate(order)}
        n1, n2, n5 = (torch.tanh(w[n] + u[n]) for n in (1, 2, 5))
        n3, n4 = w[3] + u[3], torch.relu(w[4] + u[4])
        n6, n7, n8 = (torch.maximum(w[n], u[n]) for n in (6, 7, 8))
        n6, n8 = torch.tanh(n6), torch.tanh(n8)
        p, q, r = torch.sigmoid(n2 + n3), torch.sigmoid(n1 + n4), torch.sigmoid(n5 + n6)
        c = q * (n7 + (n8 + c))
        h = torch.tanh(torch.sigmoid(p * r) * c)
        out.append(h)
    return torch.stack(out)


def bc3(x: Tensor, weights: Weights, size: int) -> Tensor:
    """S17, equations 1-5."""
    # Post-order of the printed cell: W^g, then X^z and U^z inside V^z, W^z, and the two gates.
    wg, xc, uz, vz, wz, wf, uf, wo, uo = _apply(weights)
    h = c = x.new_zeros(x.shape[1], size)
    out = []
    for x_t in x:
        f = torch.sigmoid(wf(x_t) + uf(h))
        z = vz(xc(c) * uz(x_t)) * wz(x_t)
        c = torch.tanh(f * wg(x_t) + (1 - f) * z)
        o = torch.sigmoid(wo(x_t) + uo(h))
        h = o * c + (1 - o) * h
        out.append(h)
    return torch.stack(out)


EQUATIONS = {"MGU": mgu, "QRNN": qrnn, "NASCell": nas_cell, "MaxSin": max_sin, "BC3": bc3}
