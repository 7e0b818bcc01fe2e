"""What a cell computes, by plain recursion over its tree in NumPy, apart from the library's own compiler."""

import math
from collections.abc import Sequence

import numpy as np

from nasrepro.dsl import Cell, Node

Array = np.ndarray
Matrices = Sequence[tuple[Array, Array]]  # (W (out, in), b (out,)) of each MM, in post-order


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def selu(a: Array) -> Array:  # Klambauer et al. 2017, equation 2 and the constants below it
    return 1.0507009873554805 * np.where(a > 0, a, 1.6732632423543772 * (np.exp(np.minimum(a, 0)) - 1))


def layer_norm(a: Array) -> Array:  # Ba et al. 2016, equation 4; epsilon as in torch
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


MEANING = {
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "ReLU": lambda a: np.maximum(a, 0),
    "Add": lambda a, b: a + b,
    "Mult": lambda a, b: a * b,
    "Gate3": lambda a, b, f: f * a + (1 - f) * b,
    "Sub": lambda a, b: a - b,
    "Div": lambda a, b: a / b,
    "Sin": np.sin,
    "Cos": np.cos,
    "LayerNorm": layer_norm,
    "SeLU": selu,
    "Max": np.maximum,
}


def position(t: int, size: int) -> Array:
    """PE(t, 2i) = sin(t / 10000^(2i/d)), PE(t, 2i+1) = cos(the same) (Vaswani et al. 2017, section 3.5)."""
    angles = [t / 10000 ** (2 * (unit // 2) / size) for unit in range(size)]
    return np.array([math.cos(a) if unit % 2 else math.sin(a) for unit, a in enumerate(angles)])


def operator_values(cell: Cell, matrices: Matrices, sources: dict[str, Array]) -> list[Array]:
    """The value of every operator within one step, in post-order; the last is h_t."""
    rest = iter(matrices)
    values: list[Array] = []

    def value(node: Node) -> Array:
        if not node.args:
            return sources[node.op]
        args = [value(arg) for arg in node.args]
        if node.op == "MM":
            weight, bias = next(rest)
            values.append(args[0] @ weight.T + bias)
        else:
            values.append(MEANING[node.op](*args))
        return values[-1]

    value(cell.root)
    return values


def run_cell(cell: Cell, matrices: Matrices, x: Array, h: Array, c: Array, x_last: Array) -> tuple[Array, float]:
    """x (T, B, input size) and the state before it -> all h_t (T, B, size), and the largest value met."""
    outputs, largest = [], 0.0
    for t, x_t in enumerate(x):
        p_t = np.broadcast_to(position(t, h.shape[-1]), h.shape)
        sources = {"x_t": x_t, "x_{t-1}": x_last, "h_{t-1}": h, "c_{t-1}": c, "PosEnc": p_t}
        with np.errstate(all="ignore"):  # random cells divide by zero
            values = operator_values(cell, matrices, sources)
        h = values[-1]
        c = c if cell.memory is None else values[cell.memory]
        x_last = x_t
        outputs.append(h)
        largest = max(largest, *(float(abs(value).max()) for value in values))
    return np.stack(outputs), largest
