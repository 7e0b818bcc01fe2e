"""The reference backend: runs a staged program with torch's own operators, and leaves the backward pass to autograd."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nasrepro.rnn.backend import DEFAULTS, LayerState, Options, ProductWeights, last_inputs, positions
from nasrepro.rnn.program import Program, Stage

POINTWISE: dict[str, Callable[..., Tensor]] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "Add": torch.add,
    "Mult": torch.mul,
    "Gate3": lambda a, b, f: torch.lerp(b, a, f),  # f a + (1 - f) b
    "Sub": torch.sub,
    "Div": torch.div,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "LayerNorm": lambda a: F.layer_norm(a, a.shape[-1:]),  # no weights of its own: all weights stand in MMs
    "SeLU": torch.selu,
    "Max": torch.maximum,
}


def run(
    program: Program, weights: Sequence[ProductWeights], x: Tensor, state: LayerState, options: Options = DEFAULTS
) -> tuple[Tensor, LayerState]:
    """One layer over a sequence: x (T, B, input) -> out (T, B, hidden), and the state after it.

    `weights` are those of `program.products`, in that order.
    """
    T, B, _ = x.shape
    H = state.h.shape[-1]
    queue = iter(weights)
    runs = None  # (T, B, 1): whether the sequence has that step
    if options.lengths is not None:
        runs = (torch.arange(T, device=x.device)[:, None] < options.lengths)[:, :, None]
        x = torch.where(runs, x, 0)  # what pads may be so large that a product with it is infinite
    values = _early_sources(program, x, state, H)
    for stage in program.before:
        _run_stage(stage, values, [next(queue) for _ in stage.products], options, runs)  # (T, B, width) each
    # unbind, not indexing: its backward is one stack, where T selections would each fill a whole (T, B, H) with zeros
    carried = {slot: values[slot].unbind(0) for slot in program.carried}  # T x (B, width)
    loop_weights = [[next(queue) for _ in stage.products] for stage in program.step]

    h, c = state.h, state.c
    x_before = state.x
    outputs = []
    for t in range(T):
        now = {slot: steps[t] for slot, steps in carried.items()}
        sources = {"h_{t-1}": h, "c_{t-1}": c, "x_t": x[t], "x_{t-1}": x_before}
        for name, slot in program.sources.items():
            if slot not in now and name in sources:
                source = sources[name]
                assert source is not None
                now[slot] = source
            elif slot not in now:
                now[slot] = positions(state.t + t, 1, H, x)[0]
        running = None if runs is None else runs[t]  # (B, 1)
        for stage, stage_weights in zip(program.step, loop_weights, strict=True):
            _run_stage(stage, now, stage_weights, options, running)
        h_now = now[program.hidden].expand(B, H)
        c_now = now[program.memory].expand(B, H) if program.memory is not None else None
        if running is None:
            outputs.append(h_now)
        else:
            outputs.append(torch.where(running, h_now, 0))
            h_now = torch.where(running, h_now, h)
            c_now = None if c_now is None or c is None else torch.where(running, c_now, c)
        h, c = h_now, c_now
        x_before = x[t]
    last_x = None if state.x is None else last_inputs(x, options.lengths)
    return torch.stack(outputs), LayerState(h, c, last_x, state.t + T)  # (T, B, hidden)


def _early_sources(program: Program, x: Tensor, state: LayerState, size: int) -> dict[int, Tensor]:
    values: dict[int, Tensor] = {}
    for name, slot in program.sources.items():
        if name == "x_t":
            values[slot] = x  # (T, B, input)
        elif name == "x_{t-1}":
            assert state.x is not None
            values[slot] = torch.cat((state.x[None], x[:-1]))  # (T, B, input)
        elif name == "PosEnc":
            values[slot] = positions(state.t, len(x), size, x)  # (T, 1, hidden)
    early = set(program.carried) | {p.source for s in program.before for p in s.products}
    early |= {arg for s in program.before for p in s.pointwise for arg in p.args}
    return {slot: value for slot, value in values.items() if slot in early}


def _run_stage(
    stage: Stage, values: dict[int, Tensor], weights: Sequence[ProductWeights], options: Options, running: Tensor | None
) -> None:
    """Add the values of a stage; `running` says which sequences have this step, all where it is None."""
    for product, (weight, bias) in zip(stage.products, weights, strict=True):
        source = values[product.source]
        if options.h_mask is not None and product.reads_h:
            source = source * options.h_mask
        if options.product_dtype == torch.bfloat16:
            source, weight = (operand.bfloat16().to(operand.dtype) for operand in (source, weight))
        out = F.linear(source, weight, bias)  # (..., n * hidden)
        values.update(zip(product.targets, out.chunk(len(product.targets), -1), strict=True))
    for op in stage.pointwise:
        args = [values[arg] for arg in op.args]
        if op.op == "Div" and running is not None:
            # Padding may give 0 / 0. Nobody reads the quotient, but autograd would multiply by its slope, and 0 * NaN
            # is NaN.
            args = [torch.where(running, arg, 1) for arg in args]
        values[op.target] = POINTWISE[op.op](*args)
