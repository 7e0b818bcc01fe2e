"""The fused backend on the CPU: generated C kernels, and the shipped C driver that runs them over a sequence.

`run` gives torch one autograd node for a whole layer and sequence. Its forward and its backward are one call into C
each; this module allocates what they write, and describes it to them.
"""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from nasrepro import native
from nasrepro.dsl import Cell
from nasrepro.native import NativeError
from nasrepro.native.gemm import load_products
from nasrepro.native.scratch import aligned, scratch
from nasrepro.rnn.backend import LayerState, Options, ProductWeights, last_inputs, positions
from nasrepro.rnn.fused.c_source import SPACES, c_source
from nasrepro.rnn.fused.gradients import refuse_transformed
from nasrepro.rnn.fused.plan import WIDE, Place, Plan, plan_cell
from nasrepro.rnn.program import Program

# Threads share the columns of every product instead of the rows of the batch if they had fewer rows than this each. Not
# otherwise: they then wait for each other at every product, which is slow as soon as other programs want the cores too.
_ROWS_PER_THREAD = 4


# --- C's structures, in the order of loop.c ----------------------------------------------------------------


class _SpaceLayout(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("step", ctypes.c_long), ("row", ctypes.c_long))


def _structure(name: str, numbers: str, pointers: str = "", **others: type) -> type[Any]:
    fields: dict[str, type] = dict.fromkeys(numbers.split(), ctypes.c_long)
    fields |= dict.fromkeys(pointers.split(), ctypes.c_void_p) | others
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_Run = _structure(
    "_Run",
    "source source_column gradient gradient_column target_column k n accumulate gradient_accumulates operand",
    "weight bias weight_gradient bias_gradient",
)
_Operand = _structure("_Operand", "space column k")
_Norm = _structure(
    "_Norm",
    "source source_column target target_column gradient gradient_column source_gradient source_gradient_column"
    " width accumulates",
)
_Level = _structure("_Level", "first_run last_run first_norm last_norm", "forward backward")


_Call = _structure(
    "_Call",
    "steps batch hidden input threads by_columns levels_before levels runs operands writes_h writes_c",
    "level run norm operand lengths scratch",
    space=_SpaceLayout * len(SPACES),
)


# --- compiled cells ----------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def driver(product_dtype: torch.dtype) -> ctypes.CDLL:
    """The shipped C driver, for products in float32 or bfloat16. Raises NativeError where C cannot be compiled."""
    library = load_products('#include "loop.c"\n', bfloat16=product_dtype == torch.bfloat16)
    library.scratch_floats.restype = ctypes.c_long
    library.most_runs.restype = ctypes.c_long
    return library


class Kernels:
    """A cell's plan, its compiled elementwise kernels, and the tables that describe them to the driver."""

    def __init__(self, plan: Plan, product_dtype: torch.dtype) -> None:
        self.plan = plan
        self.driver = driver(product_dtype)
        levels = [level for _, _, level in plan.levels]
        self.runs = [run for level in levels for run in level.runs]
        self.norms = [norm for level in levels for norm in level.norms]
        if len(self.runs) > self.driver.most_runs():
            raise NativeError(f"{plan.program.cell} has {len(self.runs)} products, more than the fused backend takes")
        self.library = native.load(c_source(plan), flags=["-O2"])  # as fast as -O3, and sooner there
        self.operands = list({run.source: run.on_input for run in self.runs}.items())
        self.levels = (_Level * len(levels))(*self._levels())
        self.shape = lru_cache(maxsize=64)(partial(_Shape, self))

    def _levels(self) -> Iterator[Any]:
        run = norm = 0
        for part, number, level in self.plan.levels:
            address = {
                direction: ctypes.cast(getattr(self.library, f"{direction}_{part}_{number}"), ctypes.c_void_p).value
                for direction in ("forward", "backward")
                if getattr(level, direction)
            }
            yield _Level(
                run, run + len(level.runs), norm, norm + len(level.norms),
                address.get("forward"), address.get("backward"),
            )  # fmt: skip
            run, norm = run + len(level.runs), norm + len(level.norms)


@lru_cache(maxsize=1024)
def kernels(cell: Cell, masked: bool, product_dtype: torch.dtype) -> Kernels:
    """The compiled kernels of a cell; a second, at most, for a cell that this machine never saw before."""
    return Kernels(plan_cell(cell, masked), product_dtype)


# --- one layer over one sequence ---------------------------------------------------------------------------


class _Shape:
    """The sizes of a call: x (steps, batch, inputs), h (batch, hidden); and what follows from them for a cell."""

    def __init__(self, compiled: Kernels, steps: int, batch: int, inputs: int, hidden: int) -> None:
        self.steps, self.batch, self.input, self.hidden = steps, batch, inputs, hidden
        self.columns = compiled.plan.columns
        self.tables = _Tables(compiled, self)

    def width(self, space: str) -> int:
        """Floats in a row of a space."""
        return self.columns.get(space, 1) * (self.input if space in WIDE else self.hidden)

    def column(self, place: Place) -> int:
        """Where in its row a place begins."""
        return place.column * (self.input if place.space in WIDE else self.hidden)

    def floats(self, space: str) -> int:
        """Floats in a space that holds all steps."""
        return self.steps * self.batch * self.width(space)


_NUMBER = {space: position for position, space in enumerate(SPACES)}
_ONE_STEP = frozenset({"mask", "d_h", "d_h_next", "d_c", "d_c_next", "d_step"})  # spaces that every step uses anew


class _Tables:
    """C's structures for a cell at one shape, without addresses: runs, norms, operands and the call, made once.

    `_call` copies them, and fills the addresses in.
    """

    def __init__(self, compiled: Kernels, shape: _Shape) -> None:
        operand_of = {source: position for position, (source, _) in enumerate(compiled.operands)}
        self.runs = (_Run * len(compiled.runs))()
        self.weights = []  # of each run: product, first row, floats in a row, the space of its source's gradient
        for slot, run in zip(self.runs, compiled.runs, strict=True):
            for name in ("source", "gradient"):
                _put(slot, name, getattr(run, name), shape)
            slot.target_column = shape.column(run.target)
            slot.k, slot.n = shape.input if run.on_input else shape.hidden, run.count * shape.hidden
            slot.accumulate, slot.gradient_accumulates = run.accumulate, run.gradient_accumulates
            slot.operand = operand_of[run.source]
            gradient_space = "" if run.gradient is None else run.gradient.space
            self.weights.append((run.product, run.row * shape.hidden, slot.k, gradient_space))
        self.norms = (_Norm * len(compiled.norms))()
        for slot, norm in zip(self.norms, compiled.norms, strict=True):
            for name in ("source", "target", "gradient", "source_gradient"):
                _put(slot, name, getattr(norm, name), shape)
            slot.width = shape.input if norm.wide else shape.hidden
            slot.accumulates = norm.accumulates
        self.operands = (_Operand * len(compiled.operands))()
        for slot, (source, on_input) in zip(self.operands, compiled.operands, strict=True):
            slot.space, slot.column = _NUMBER[source.space], shape.column(source)
            slot.k = shape.input if on_input else shape.hidden
        self.call = _Call(
            steps=shape.steps, batch=shape.batch, hidden=shape.hidden, input=shape.input,
            levels_before=len(compiled.plan.before), levels=len(compiled.levels),
            runs=len(self.runs), operands=len(self.operands),
            writes_h="d_h" in compiled.plan.written, writes_c="d_c" in compiled.plan.written,
            level=ctypes.addressof(compiled.levels), norm=ctypes.addressof(self.norms),
            operand=ctypes.addressof(self.operands),
        )  # fmt: skip
        for space, layout in zip(SPACES, self.call.space, strict=True):
            layout.row = shape.width(space)
            layout.step = 0 if space in _ONE_STEP else shape.batch * layout.row


def _put(slot: Any, name: str, place: Place | None, shape: _Shape) -> None:
    """Write a place into one of C's structures: the number of its space, -1 for none, and its column."""
    setattr(slot, name, -1 if place is None else _NUMBER[place.space])
    setattr(slot, f"{name}_column", 0 if place is None else shape.column(place))


def _call(
    tables: _Tables,
    spaces: Mapping[str, int],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    gradients: Sequence[Tensor | None] = (),
    lengths: Tensor | None = None,
) -> Any:
    """The `_Call` of a sequence. `spaces` holds the address of each space; whoever calls keeps the tensors alive.

    Weights are (n * hidden, in) and biases (n * hidden,), by product; `gradients`, of the same shapes, are those of all
    weights and then all biases, None where nobody wants one. `lengths` (B,) int64 are the steps of each sequence.
    """
    runs = type(tables.runs).from_buffer_copy(tables.runs)
    for slot, (product, first, k, gradient_space) in zip(runs, tables.weights, strict=True):
        slot.weight = weights[product].data_ptr() + 4 * first * k
        if biases:
            slot.bias = biases[product].data_ptr() + 4 * first
        if gradients and (gradient := gradients[product]) is not None:
            slot.weight_gradient = gradient.data_ptr() + 4 * first * k
        if gradients and biases and (gradient := gradients[len(weights) + product]) is not None:
            slot.bias_gradient = gradient.data_ptr() + 4 * first
        if not spaces.get(gradient_space):
            slot.gradient = -1
    call = _Call.from_buffer_copy(tables.call)
    call.run = ctypes.addressof(runs)
    call.keep = runs
    call.threads = threads = min(torch.get_num_threads(), native.CORES)
    call.by_columns = threads > 1 and lengths is None and call.batch < _ROWS_PER_THREAD * threads
    call.lengths = None if lengths is None else lengths.data_ptr()
    for space, address in spaces.items():
        call.space[_NUMBER[space]].base = address
    return call


class _Layer(torch.autograd.Function):
    """x (T, B, input) and a state -> out (T, B, hidden), h_T and c_T (B, hidden)."""

    @staticmethod
    def forward(
        ctx: Any,
        compiled: Kernels,
        options: Options,
        x: Tensor,
        last_x: Tensor | None,
        position: Tensor | None,
        h: Tensor,
        c: Tensor | None,
        products: int,
        *weights_and_biases: Tensor,
    ) -> tuple[Tensor, ...]:
        weights, biases = weights_and_biases[:products], weights_and_biases[products:]
        shape = compiled.shape(*x.shape, h.shape[-1])
        T, B, H = shape.steps, shape.batch, shape.hidden
        x_before = None if last_x is None else torch.cat((last_x[None], x[:-1]))  # (T, B, input)
        hs, cs = x.new_empty(T + 1, B, H), None if c is None else x.new_empty(T + 1, B, H)
        hs[0] = h
        if cs is not None and c is not None:
            cs[0] = c
        kept = x.new_empty(sum(shape.floats(space) for space in _KEPT))
        saved = {
            "x": x,
            "x_before": x_before,
            "position": position,
            "mask": options.h_mask,
            "h": hs,
            "c": cs,
            "kept": kept,
        }
        ctx.set_materialize_grads(False)
        ctx.compiled, ctx.options, ctx.shape, ctx.products = compiled, options, shape, products
        ctx.names = [name for name, tensor in saved.items() if tensor is not None]
        ctx.save_for_backward(*(saved[name] for name in ctx.names), *weights_and_biases)

        call = _call(shape.tables, _addresses(saved, shape), weights, biases, lengths=options.lengths)
        with scratch(compiled.driver.scratch_floats(ctypes.byref(call), 0)) as call.scratch:
            compiled.driver.forward(ctypes.byref(call))
        # The state is a copy: whoever changes it, to begin a sequence anew say, must not change the output.
        return (hs[1:], hs[T].clone()) if cs is None else (hs[1:], hs[T].clone(), cs[T].clone())

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_transformed(*given)
        compiled: Kernels = ctx.compiled
        shape: _Shape = ctx.shape
        T, B, H = shape.steps, shape.batch, shape.hidden
        tensors = ctx.saved_tensors
        saved = dict(zip(ctx.names, tensors, strict=False))
        weights_and_biases = tensors[len(ctx.names) :]
        weights, biases = weights_and_biases[: ctx.products], weights_and_biases[ctx.products :]
        _, _, want_x, want_last_x, _, want_h, want_c, _, *want_weights = ctx.needs_input_grad
        d_out, d_h, d_c = (*given, None)[:3]
        x: Tensor = saved["x"]

        gradients = {"d_out": x.new_zeros(T, B, H) if d_out is None else d_out.contiguous()}
        transient = {space: shape.floats(space) for space in ("d_sums", "d_early", "d_early_wide")}
        transient["d_step"] = B * shape.width("d_step")
        made, in_passing = _input_gradients(compiled.plan, shape, x, want_x, want_last_x)
        gradients |= made
        transient |= in_passing
        states = x.new_zeros(4, B, H).unbind()
        for space, last, (now, following) in (("d_h", d_h, states[:2]), ("d_c", d_c, states[2:])):
            if space == "d_h" or "c" in saved:
                gradients[space], gradients[f"{space}_next"] = now, following if last is None else following.copy_(last)
        parameter_gradients = [
            torch.empty_like(parameter) if wanted else None
            for parameter, wanted in zip(weights_and_biases, want_weights, strict=True)
        ]

        with scratch(sum(aligned(size) for size in transient.values())) as base:
            spaces = _addresses({**saved, **gradients}, shape)
            for space, size in transient.items():
                spaces[space] = base if size else 0
                base += 4 * aligned(size)
            call = _call(shape.tables, spaces, weights, biases, parameter_gradients, ctx.options.lengths)
            with scratch(compiled.driver.scratch_floats(ctypes.byref(call), 1)) as call.scratch:
                compiled.driver.backward(ctypes.byref(call))
        # Steps write d_h and d_h_next in turn; the first step of the sequence wrote d_h if T is odd.
        state = {s: gradients[s if T % 2 else f"{s}_next"] for s in ("d_h", "d_c") if s in gradients}
        d_x, d_last_x = gradients["d_x"] if want_x else None, gradients["d_x_before"][0] if want_last_x else None
        d_h, d_c = state["d_h"] if want_h else None, state["d_c"] if want_c else None
        return None, None, d_x, d_last_x, None, d_h, d_c, None, *parameter_gradients


def _input_gradients(
    plan: Plan, shape: _Shape, x: Tensor, want_x: bool, want_last_x: bool
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Tensors for those of d_x and d_x_before that are handed on, and the floats of those that are needed in passing.

    What reaches x_t through x_{t-1} of the next step is added to d_x, so d_x_before is handed on for x_{-1} alone.
    """
    tensors: dict[str, Tensor] = {}
    floats: dict[str, int] = {}
    through_last = "x_before" in plan.spaces and (want_x or want_last_x)
    for space, wanted, handed_on in (("d_x", want_x, want_x), ("d_x_before", through_last, want_last_x)):
        if space not in plan.written:
            tensors |= {space: torch.zeros_like(x)} if wanted else {}
        elif handed_on:
            tensors[space] = torch.empty_like(x)
        elif wanted or space in plan.kernel_spaces:
            floats[space] = shape.floats(space)
    return tensors, floats


_KEPT = ("sums", "saved", "saved_wide")  # what backward needs of the forward call, one behind the other in a buffer


def _addresses(tensors: Mapping[str, Tensor | None], shape: _Shape) -> dict[str, int]:
    """Addresses of all spaces in tensors; those of h_t and c_t lie one step behind those of h_{t-1} and c_{t-1}."""
    addresses = {space: tensor.data_ptr() for space, tensor in tensors.items() if tensor is not None}
    for space in ("h", "c"):
        if space in addresses:
            addresses[f"{space}_next"] = addresses[space] + 4 * shape.batch * shape.hidden
    kept = addresses.pop("kept")
    for space in _KEPT:
        addresses[space] = kept
        kept += 4 * shape.floats(space)
    return addresses


def _refuse_what_does_not_fit(
    program: Program, weights: Sequence[ProductWeights], x: Tensor, state: LayerState
) -> None:
    """C takes what it is given for as many floats as there should be."""
    size = {True: x.shape[-1], False: state.h.shape[-1]}
    for product, (weight, bias) in zip(program.products, weights, strict=True):
        rows = len(product.targets) * size[False]
        if weight.shape != (rows, size[product.on_input]) or (bias is not None and bias.shape != (rows,)):
            raise ValueError(
                f"a weight is {tuple(weight.shape)}: for x {tuple(x.shape)} and h {tuple(state.h.shape)} it must be "
                f"({rows}, {size[product.on_input]}), its bias ({rows},)"
            )


def run(
    program: Program, weights: Sequence[ProductWeights], x: Tensor, state: LayerState, options: Options
) -> tuple[Tensor, LayerState]:
    """One layer over a sequence, as `nasrepro.rnn.interpreter.run`; float32 on the CPU only, weights and state too.

    Raises NativeError where C cannot be compiled, ValueError for weights of another shape. Double backward is not
    supported.
    """
    _refuse_what_does_not_fit(program, weights, x, state)
    compiled = kernels(program.cell, options.h_mask is not None, options.product_dtype)
    reads = compiled.plan.spaces
    x = x.contiguous()
    last_x = state.x if "x_before" in reads else None
    position = None
    if "position" in reads:
        position = positions(state.t, len(x), state.h.shape[-1], x).expand(-1, x.shape[1], -1).contiguous()
    c = state.c if program.memory is not None else None
    biases = [weight.bias.contiguous() for weight in weights if weight.bias is not None]
    stacked = [weight.weight.contiguous() for weight in weights]
    out, h, *memory = _Layer.apply(  # type: ignore[no-untyped-call]
        compiled, options, x, last_x, position, state.h, c, len(stacked), *stacked, *biases
    )
    if options.lengths is not None:
        running = torch.arange(len(x), device=x.device)[:, None] < options.lengths  # (T, B)
        out = torch.where(running[..., None], out, 0)
    after_x = None if state.x is None else last_inputs(x, options.lengths)
    return out, LayerState(h, memory[0] if memory else None, after_x, state.t + len(x))
