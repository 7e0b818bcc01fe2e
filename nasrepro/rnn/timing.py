"""How fast a cell runs: programs with and without each speed-up, and a fair way to time several things."""

import time
from collections.abc import Callable, Mapping

import torch

from nasrepro.dsl import Cell
from nasrepro.rnn.layer import RNN, RNNLayer
from nasrepro.rnn.program import compile_cell

STAGINGS: Mapping[str, tuple[bool, bool]] = {
    "plain": (False, False),
    "batched": (False, True),
    "hoisted": (True, False),
    "hoisted and batched": (True, True),
}
"""Name -> (hoist, batch), the switches of `compile_cell`. The last is what nr.RNN runs."""


@torch.no_grad()
def staged_variants(cell: Cell, size: int, generator: torch.Generator | None = None) -> dict[str, RNN]:
    """One layer (size -> size) of a cell, once for each of `STAGINGS`, all with the same weights.

    "batched" is S17's own speed-up (appendix A.1): the matrices on one source become one product.
    """
    variants: dict[str, RNN] = {}
    first: RNNLayer | None = None
    for name, (hoist, batch) in STAGINGS.items():
        layer = RNNLayer(compile_cell(cell, hoist=hoist, batch=batch), size, size, True, generator)
        first = first or layer
        for number in range(sum(node.op == "MM" for node in cell.operators)):
            for mine, theirs in zip(layer.mm(number), first.mm(number), strict=True):
                if mine is not None and theirs is not None:
                    mine.copy_(theirs)  # views: the layer's stacked weights change
        variants[name] = RNN(cell, size, size, backend="reference", generator=generator)
        variants[name].layers[0] = layer
    return variants


def benchmark(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each variant in each round: name -> (rounds,).

    Every round runs all variants one after the other, in turning order, so that whatever else the machine
    does falls on all of them alike: compare within rounds. `warmup` rounds come first and are not counted.
    Raises ValueError when there is nothing to time.
    """
    if not variants or rounds < 1:
        raise ValueError(f"nothing to time: {len(variants)} variants, {rounds} rounds")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(-warmup, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            begin = clock()
            variants[name]()
            if number >= 0:
                seconds[name].append(clock() - begin)
    return seconds
