"""What a compiled cell costs and computes: products in a step, agreement with other implementations, speed, size."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from nasrepro.dsl import Cell, zoo
from nasrepro.report import papers
from nasrepro.report.stats import Interval, interval
from nasrepro.rnn import RNN, Program, RNNLayer, compile_cell
from nasrepro.rnn.timing import STAGINGS, benchmark, staged_variants
from nasrepro.trainers.forecast import WIKITEXT2

# ---- programs


def stages(program: Program) -> pd.DataFrame:
    """A program as a table: a row per stage, its products and then what is elementwise."""
    names: dict[int | None, str] = {slot: name for name, slot in program.sources.items()}
    names |= {program.memory: "c_t", program.hidden: "h_t"}

    def listed(slots: Iterable[int]) -> str:
        return ", ".join(names.get(slot, f"v{slot}") for slot in slots)

    rows = []
    for when, part in (("before the loop", program.before), ("every step", program.step)):
        for number, stage in enumerate(part):
            products = [f"{listed(p.targets)} = {len(p.targets)} MM({listed([p.source])})" for p in stage.products]
            pointwise = [f"{listed([o.target])} = {o.op}({listed(o.args)})" for o in stage.pointwise]
            if products or pointwise:
                rows.append((when, number, "\n".join(products), "; ".join(pointwise)))
    return pd.DataFrame(rows, columns=["when", "stage", "products", "then elementwise"]).set_index(["when", "stage"])


def products_per_step(cells: Mapping[str, Cell]) -> pd.DataFrame:
    """Matrix products inside the time loop: a row per cell, a column per staging of `rnn.timing.STAGINGS`."""
    return pd.DataFrame(
        {
            name: {
                staging: sum(len(stage.products) for stage in compile_cell(cell, hoist=hoist, batch=batch).step)
                for staging, (hoist, batch) in STAGINGS.items()
            }
            for name, cell in cells.items()
        }
    ).T.rename_axis("cell")


# ---- agreement with other implementations

HELD_AGAINST = {
    "TanhRNN": "torch.nn.RNN",
    "LSTM": "torch.nn.LSTM",
    "GRU": "torch.nn.GRU",
    "MGU": "the equations of Zhou et al., both gates given the same weights",
    "QRNN": "the equations of Bradbury et al.",
    "NASCell": "the equations of TensorFlow Addons",
}
"""The cells that S17's language is said to express, and what each of them is held against."""

TOLERANCE = 1e-10
"""Outputs in float64 that differ by less are the same."""

# For each pair of our matrices, one on x_t and one on h_{t-1}: where torch stacks them, and their sign there. torch's
# orders are i, f, g, o and r, z, n, and its z is one minus ours.
_TORCH: Mapping[str, tuple[Callable[..., nn.RNNBase], list[tuple[int, int]]]] = {
    "TanhRNN": (nn.RNN, [(0, 1)]),
    "LSTM": (nn.LSTM, [(3, 1), (1, 1), (0, 1), (2, 1)]),
    "GRU": (nn.GRU, [(2, 1), (0, 1), (1, -1)]),
}


@torch.no_grad()
def torch_twin(rnn: RNN) -> nn.RNNBase:
    """torch's own module with the weights of ours, for layers of the zoo's TanhRNN, LSTM or GRU, all equally wide.

    Raises ValueError for another cell.
    """
    name = next((name for name in _TORCH if zoo[name] == rnn.cell), None)
    if name is None:
        raise ValueError(f"torch has no module for {rnn.cell}, only for {', '.join(_TORCH)} of the zoo")
    module, places = _TORCH[name]
    twin = module(rnn.input_size, rnn.hidden_size, rnn.num_layers, bias=rnn.bias).to(next(rnn.parameters()))
    sources = [node.args[0].op for node in rnn.cell.operators if node.op == "MM"]
    for layer_number, layer in enumerate(_layers(rnn)):
        for number, source in enumerate(sources):
            place, sign = places[number // 2]
            kind = "ih" if source == "x_t" else "hh"
            for part, ours in zip(("weight", "bias"), layer.mm(number), strict=True):
                if ours is not None:
                    stacked = getattr(twin, f"{part}_{kind}_l{layer_number}")
                    stacked[place * rnn.hidden_size : (place + 1) * rnn.hidden_size] = sign * ours
    return twin


Products = Sequence[Callable[[Tensor], Tensor]]
"""What each MM of a cell does to a value, weight and bias, in the order of the cell's text."""

Step = Callable[[Products, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A cell's equations by hand: from W, x_t, x_{t-1}, h_{t-1} and c_{t-1} to h_t and c_t, values of (B, size)."""


def difference_from_torch(name: str, x: Tensor) -> float:
    """The largest difference between the outputs of a layer and of its `torch_twin` on x (T, B, size), in float64."""
    rnn = _new_layer(zoo[name], x)
    return largest_difference(rnn(x)[0], torch_twin(rnn)(x)[0])


@torch.no_grad()
def difference_from_equations(cell: Cell, step: Step, x: Tensor, same: Mapping[int, int] | None = None) -> float:
    """The largest difference between the outputs of a layer and of its equations on x (T, B, size), in float64.

    `same` gives MMs the weights of others, for cells that use one matrix twice.
    """
    rnn = _new_layer(cell, x)
    mm = _layers(rnn)[0].mm
    for second, first in (same or {}).items():
        for mine, theirs in zip(mm(second), mm(first), strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
    count = sum(node.op == "MM" for node in cell.operators)
    products = [partial(nn.functional.linear, weight=weight, bias=bias) for weight, bias in map(mm, range(count))]
    h = c = before = torch.zeros_like(x[0])
    outs = []
    for x_t in x:
        h, c = step(products, x_t, before, h, c)
        outs.append(h)
        before = x_t
    return largest_difference(rnn(x)[0], torch.stack(outs))


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    return float((first - second).detach().abs().max())


def expresses(name: str, difference: float) -> dict[str, Any]:
    """The finding that the language expresses a cell of `HELD_AGAINST`, from the largest difference of outputs."""
    same = difference < TOLERANCE
    words = "equal {} to {:.0e}" if same else "differ from {} by {:.0e}"
    return {
        "id": "s17.dsl.expresses." + {"TanhRNN": "tanh_rnn"}.get(name, name.lower()),
        "supports": same,
        "reason": f"outputs {words.format(HELD_AGAINST[name], difference)} in float64",
    }


def _layers(rnn: RNN) -> Sequence[RNNLayer]:
    return cast(Sequence[RNNLayer], rnn.layers)


def _new_layer(cell: Cell, x: Tensor) -> RNN:
    size = x.shape[-1]
    return RNN(cell, size, size, generator=torch.Generator().manual_seed(0)).double()


# ---- speed


def programs(cell: Cell, size: int) -> dict[str, nn.Module]:
    """One layer of `size` units in all its programs, with the same weights: staged, fused, and torch's own LSTM."""
    staged = staged_variants(cell, size, torch.Generator().manual_seed(2))
    fused = RNN(cell, size, size, backend="fused")
    fused.load_state_dict(staged["hoisted and batched"].state_dict())
    return {**staged, "fused": fused} | ({"torch.nn.LSTM": torch_twin(fused)} if cell == zoo["LSTM"] else {})


def time_layers(layers: Mapping[str, nn.Module], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each layer's forward and backward over x (T, B, size) in each round (see `rnn.timing.benchmark`)."""

    def forward_and_backward(layer: nn.Module) -> None:
        layer(x)[0].sum().backward()
        layer.zero_grad()

    return benchmark({name: partial(forward_and_backward, layer) for name, layer in layers.items()}, rounds)


def times_faster(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, Interval | None]:
    """Geometric mean of the ratios of seconds within rounds, and its interval, None for fewer than three rounds."""
    logs = np.log(np.array(slow) / np.array(fast))
    edges = interval(logs)
    return float(np.exp(logs.mean())), edges and (float(np.exp(edges[0])), float(np.exp(edges[1])))


def timings_table(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """A row for each cell and program: median and quartiles in milliseconds, and times faster than the plain one."""
    rows = []
    for name, of in seconds.items():
        for program, times in of.items():
            low, middle, high = 1e3 * np.quantile(times, [0.25, 0.5, 0.75])
            ratio, edges = times_faster(of["plain"], times)
            faster = f"{ratio:.2f}" + (" ({:.2f} to {:.2f})".format(*edges) if edges else "")
            rows.append((name, program, round(middle, 2), f"{low:.2f} to {high:.2f}", faster))
    columns = ["cell", "program", "median ms", "quartiles ms", "times faster than plain"]
    return pd.DataFrame(rows, columns=columns).set_index(["cell", "program"])


def batching(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The finding on S17's own speed-up: how many times faster a batched program is than a plain one."""
    ratio, edges = times_faster(seconds["plain"], seconds["batched"])
    return {
        "value": ratio,
        "interval": edges,
        "unit": "times faster",
        "seeds": len(seconds["plain"]),
        "supports": ratio > 1,
        "reason": "batching alone, forward and backward, on this machine",
    }


# ---- size

_UNITS = {"bc3": ("BC3", 1080), "gru": ("GRU", 1350)}
_WORDS = {"Penn Treebank": 10_000, "WikiText-2": WIKITEXT2.words}


def model_sizes() -> pd.DataFrame:
    """Trained parameters of S17's final models: the printed count beside ours, for both readings of the last layer.

    Rows by the ledger's entry, columns data, cell, "paper, as printed" and the two counts.
    """
    known = papers.load()
    rows = []
    for table, (data, words) in enumerate(_WORDS.items(), start=1):
        for key, (name, units) in _UNITS.items():
            entry = known[f"s17.table{table}.{key}.params"]
            with torch.device("meta"):  # counts parameters and stores none
                narrow = RNN(zoo[name], 400, units, num_layers=3, last_size=400)
                wide = RNN(zoo[name], 400, units, num_layers=3)
            tied = words * 400 + words  # the matrix that embedding and softmax share, and the softmax's bias
            counts = [tied + sum(weight.numel() for weight in rnn.parameters()) for rnn in (narrow, wide)]
            rows.append((entry.id, data, name, entry.value, *counts))
    columns = ["id", "data", "cell", "paper, as printed", "last layer 400", "last layer as wide as the others"]
    return pd.DataFrame(rows, columns=columns).set_index("id")


# ---- dropout


def held_units(states: Mapping[str, ArrayLike], start: ArrayLike) -> pd.DataFrame:
    """What became of a state that should be held: by name and step, the `largest` unit, and the share `lost`, now 0.

    States are (steps, units) each; the largest of `start`, (units,), counts as 1.
    """
    scale = np.abs(np.asarray(start)).max()
    parts = [
        pd.DataFrame({"name": name, "largest": sizes.max(1) / scale, "lost": (sizes < 1e-6).mean(1)})
        for name, sizes in ((name, np.abs(np.asarray(state))) for name, state in states.items())
    ]
    return pd.concat(parts).rename_axis("step").reset_index().assign(step=lambda table: table["step"] + 1)
