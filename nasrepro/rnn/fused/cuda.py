"""The fused backend on a GPU: products by cuBLAS, all else in generated Triton kernels, launched by CUDA graphs.

    _Pass      what a layer does with its tensors over a sequence, forward and backward: loop.c, launch by launch
    _Layer     one autograd node for it
    _Replay    a pass on tensors of its own, recorded as CUDA graphs, each launched once for a whole sequence

Products follow torch.backends.cuda.matmul, which says whether float32 may be rounded to TF32.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nasrepro.dsl import Cell
from nasrepro.rnn.backend import LayerState, Options, ProductWeights, last_inputs, positions
from nasrepro.rnn.fused.gradients import refuse_transformed
from nasrepro.rnn.fused.plan import WIDE, Level, Loop, Place, Plan, Run, plan_cell
from nasrepro.rnn.fused.triton_source import kernel_name, load_kernels, spaces_of
from nasrepro.rnn.products import add_product
from nasrepro.rnn.program import Program
from nasrepro.rnn.recording import Recording, float32_precision, is_recording, may_record, memory_for_graphs

CALLS_BEFORE_RECORDING: float = 2
"""Calls of the same kind and sizes that run launch by launch before graphs are recorded; math.inf: never."""

_BLOCK = 128  # elements for one program of an elementwise kernel: small, since a step has few for many processors


class Kernels:
    """A cell's plan and its Triton kernels, those of the normalisations included."""

    def __init__(self, plan: Plan, product_dtype: torch.dtype) -> None:
        self.plan = plan
        self.product_dtype = product_dtype
        self.named = load_kernels(plan)
        levels = [level for _, _, level in plan.levels]
        self.runs = [run for level in levels for run in level.runs]


@lru_cache(maxsize=1024)
def kernels(cell: Cell, masked: bool, product_dtype: torch.dtype) -> Kernels:
    """The kernels of a cell. Raises NativeError where there is no Triton."""
    return Kernels(plan_cell(cell, masked), product_dtype)


@lru_cache(maxsize=1024)
def _bias_columns(columns: tuple[int, ...], device: torch.device) -> Tensor:
    """The sums that a product's biases belong to, where the device can read them."""
    return torch.tensor(columns, device=device)


# --- tensors ---------------------------------------------------------------------------------------------------------

_VALUES = ("sums", "saved", "saved_wide")  # made forward, one row for each step, for the backward pass
_GRADIENTS = ("d_sums", "d_step", "d_early", "d_early_wide", "d_x", "d_x_before")
# (B, width), used by every step anew; the gradients of states are not: they go from step to step.
_OF_ONE_STEP = frozenset({"mask", "d_step"})
_OF_ALL_STEPS = frozenset({"x", "x_before", "position", "ended", "d_out", *_VALUES, *_GRADIENTS}) - _OF_ONE_STEP


@dataclass(frozen=True, slots=True)
class _Sizes:
    steps: int
    batch: int
    hidden: int
    input: int

    def block(self, space: str) -> int:
        """Width of a space's column blocks."""
        return self.input if space in WIDE else self.hidden

    def columns(self, place: Place, count: int = 1) -> slice:
        """Where in its rows a place lies, with those beside it."""
        width = self.block(place.space)
        return slice(place.column * width, (place.column + count) * width)


def _new(compiled: Kernels, sizes: _Sizes, spaces: Iterable[str], like: Tensor) -> dict[str, Tensor]:
    """Memory for those numbered spaces that have columns."""
    made = {}
    for space in spaces:
        if columns := compiled.plan.columns.get(space, 0):
            steps = () if space in _OF_ONE_STEP else (sizes.steps,)
            made[space] = like.new_empty(*steps, sizes.batch, columns * sizes.block(space))
    return made


def _made_forward(compiled: Kernels, sizes: _Sizes, like: Tensor) -> dict[str, Tensor]:
    """Memory for what the forward pass writes."""
    states = ("h",) if compiled.plan.program.memory is None else ("h", "c")
    return {state: like.new_empty(sizes.steps + 1, sizes.batch, sizes.hidden) for state in states} | _new(
        compiled, sizes, _VALUES, like
    )


def _made_backward(
    compiled: Kernels, sizes: _Sizes, saved: Mapping[str, Tensor], wanted: Iterable[str]
) -> dict[str, Tensor]:
    """Memory for what the backward pass writes: the gradients that are wanted, and what it needs on the way."""
    x = saved["x"]
    made = _new(compiled, sizes, _GRADIENTS, x)
    for name in {*wanted, *compiled.plan.kernel_spaces} & {"d_x", "d_x_before"}:
        made[name] = torch.empty_like(x)
    for state in {"h", "c"} & saved.keys():
        made |= {name: x.new_empty(sizes.batch, sizes.hidden) for name in (f"d_{state}", f"d_{state}_next")}
    for name in wanted:
        kind, _, number = name.removeprefix("d_").partition("_")
        if kind == "weight":
            made[name] = torch.empty_like(saved[f"weight_{number}"], dtype=x.dtype)
        elif kind == "bias":
            made[name] = x.new_empty(len(compiled.plan.bias_columns[int(number)]) * sizes.hidden)
    return made


# --- what a layer does -----------------------------------------------------------------------------------------------


class _Pass:
    """One layer over one sequence, with its tensors `at` their names.

    Those are the spaces of plan.py, (T, B, width) or, if they serve one step only, (B, width); h and c hold T + 1
    states. Besides: weight_N and bias_N of product N, h_first, c_first, d_h_last and d_c_last (B, hidden), `ended`
    (T, B, 1), true where a sequence is over, and the gradients d_weight_N and d_bias_N.
    """

    def __init__(self, compiled: Kernels, sizes: _Sizes, at: Mapping[str, Tensor]) -> None:
        self.compiled = compiled
        self.plan = compiled.plan
        self.sizes = sizes
        self.at = at
        self.states = [state for state in ("h", "c") if state in at]

    def forward(self) -> None:
        """From what is given to h, c, and what the backward pass needs."""
        for state in self.states:
            self.at[state][0].copy_(self.at[f"{state}_first"])
        self._begin_sums()
        weights = self._weights()
        rows = self._all_rows()
        for number, level in enumerate(self.plan.before):
            self._forward_level("before", number, level, rows, weights)
        for rows in self._steps():
            for number, level in enumerate(self.plan.step):
                self._forward_level("step", number, level, rows, weights)
        if "ended" in self.at:
            self._end_sequences()

    def backward(self) -> dict[str, Tensor]:
        """From d_out and the last states' gradients to all that `at` has memory for; names -> gradients."""
        weights = self._weights()
        states: dict[str, Tensor] = {}
        for state in self.states:
            self.at[f"d_{state}_next"].copy_(self.at[f"d_{state}_last"])
            states |= {name: self.at[name] for name in (f"d_{state}", f"d_{state}_next")}
        for space in {"d_x", "d_x_before"} & self.at.keys() - self.plan.written:
            self.at[space].zero_()
        for rows in reversed(list(self._steps())):
            self._backward_step(rows | states, weights)
            # What a step writes is what the step before it reads.
            states = {name: states[other] for name, other in _SWAPPED.items() if name in states}
        all_rows = self._all_rows()
        for number, level in reversed(list(enumerate(self.plan.before))):
            self._launch("backward", "before", number, level.backward, all_rows)
            self._backward_level(level, all_rows, weights)
        self._clear(_GRADIENTS)
        self._weight_gradients(all_rows)
        return dict(self.at) | {f"d_{state}_first": states[f"d_{state}_next"] for state in self.states}

    def _backward_step(self, rows: dict[str, Tensor], weights: Sequence[Tensor]) -> None:
        for space in {"d_h", "d_c"} & rows.keys() - self.plan.written:
            rows[space].zero_()
        for number, level in reversed(list(enumerate(self.plan.step))):
            self._launch("backward", "step", number, level.backward, rows)
            self._backward_level(level, rows, weights)
        if "ended" in rows:  # behind its end a state stays, and so does its gradient
            for state in self.states:
                following, here = rows[f"d_{state}_next"], rows[f"d_{state}"]
                torch.where(rows["ended"], following, here, out=here)

    # --- rows: the tensors of one step, or of all steps as if they were one ---

    def _all_rows(self) -> dict[str, Tensor]:
        rows = {space: self.at[space].flatten(0, 1) for space in _OF_ALL_STEPS & self.at.keys()}
        for state in self.states:
            rows[state] = self.at[state][:-1].flatten(0, 1)
            rows[f"{state}_next"] = self.at[state][1:].flatten(0, 1)
        return rows

    def _steps(self) -> Iterator[dict[str, Tensor]]:
        one = {space: self.at[space] for space in _OF_ONE_STEP & self.at.keys()}
        all_ = {space: self.at[space].unbind(0) for space in (_OF_ALL_STEPS | set(self.states)) & self.at.keys()}
        for t in range(self.sizes.steps):
            following = {f"{state}_next": all_[state][t + 1] for state in self.states}
            yield one | following | {space: steps[t] for space, steps in all_.items()}

    # --- levels ---

    def _begin_sums(self) -> None:
        """Sums begin as their biases, and every product adds to them."""
        if "sums" not in self.at:
            return
        sums = self.at["sums"]
        biases = [self.at[f"bias_{n}"] for n in range(len(self.plan.bias_columns)) if f"bias_{n}" in self.at]
        if not biases:
            sums.zero_()
            return
        start = sums.new_zeros(self.plan.columns["sums"], self.sizes.hidden)
        for columns, bias in zip(self.plan.bias_columns, biases, strict=True):
            start.index_add_(0, _bias_columns(columns, sums.device), bias.view(-1, self.sizes.hidden))
        sums.copy_(start.flatten())

    def _weights(self) -> list[Tensor]:
        count = len(self.plan.bias_columns)
        return [self.at[f"weight_{number}"].to(self.compiled.product_dtype) for number in range(count)]

    def _part(self, weight: Tensor, run: Run) -> Tensor:
        """The matrices of a run: (n, k)."""
        return weight[run.row * self.sizes.hidden : (run.row + run.count) * self.sizes.hidden]

    def _forward_level(
        self, part: str, number: int, level: Level, rows: Mapping[str, Tensor], weights: Sequence[Tensor]
    ) -> None:
        for run in level.runs:
            source = rows[run.source.space][:, self.sizes.columns(run.source)]
            target = rows["sums"][:, self.sizes.columns(run.target, run.count)]
            self._multiply(source, self._part(weights[run.product], run).t(), target, True)
        for norm in level.norms:
            self._normalise("normalise", norm.wide, rows, norm.source, norm.target)
        self._launch("forward", part, number, level.forward, rows)

    def _backward_level(self, level: Level, rows: Mapping[str, Tensor], weights: Sequence[Tensor]) -> None:
        for norm in reversed(level.norms):
            places = (norm.source, norm.gradient, norm.source_gradient)
            self._normalise("normalise_back", norm.wide, rows, *places, ADD=norm.accumulates)
        for run in reversed(level.runs):
            if run.gradient is not None and run.gradient.space in rows:
                given = rows["d_sums"][:, self.sizes.columns(run.target, run.count)]
                target = rows[run.gradient.space][:, self.sizes.columns(run.gradient)]
                self._multiply(given, self._part(weights[run.product], run), target, run.gradient_accumulates)

    def _weight_gradients(self, rows: Mapping[str, Tensor]) -> None:
        for run in self.compiled.runs:
            if f"d_weight_{run.product}" in self.at:
                given = rows["d_sums"][:, self.sizes.columns(run.target, run.count)]
                source = rows[run.source.space][:, self.sizes.columns(run.source)]
                self._multiply(given.t(), source, self._part(self.at[f"d_weight_{run.product}"], run), False)
        wanted = [n for n in range(len(self.plan.bias_columns)) if f"d_bias_{n}" in self.at]
        if wanted:
            total = rows["d_sums"].sum(0).view(-1, self.sizes.hidden)
            for number in wanted:
                columns = _bias_columns(self.plan.bias_columns[number], total.device)
                self.at[f"d_bias_{number}"].copy_(total.index_select(0, columns).flatten())

    # --- launches ---

    def _multiply(self, a: Tensor, b: Tensor, target: Tensor, add: bool) -> None:
        """Target (+)= a b: what is multiplied is rounded to the product dtype, what is added up is not."""
        narrow = self.compiled.product_dtype
        add_product(target, a.to(narrow), b.to(narrow), keep=add)

    def _launch(
        self, direction: str, part: str, number: int, loops: Sequence[Loop], rows: Mapping[str, Tensor]
    ) -> None:
        for which, loop in enumerate(loops):
            tensors = [rows[space] for space in spaces_of(loop)]
            count = len(tensors[0])
            programs = -(-count * (self.sizes.input if loop.wide else self.sizes.hidden) // _BLOCK)
            kernel = self.compiled.named[kernel_name(direction, part, number, which)]
            many = programs * _BLOCK > 2**31 - 1
            kernel[(programs,)](*tensors, count, self.sizes.hidden, self.sizes.input, BLOCK=_BLOCK, MANY=many)

    def _normalise(
        self, kernel: str, wide: bool, rows: Mapping[str, Tensor], *places: Place | None, **constants: bool
    ) -> None:
        """Launch "normalise" or "normalise_back" on the rows at these places; not at all where one is not wanted."""
        wanted = [rows[place.space][:, self.sizes.columns(place)] for place in places if place is not None]
        if len(wanted) == len(places):
            width = self.sizes.input if wide else self.sizes.hidden
            operands = [part for operand in wanted for part in (operand, operand.stride(0))]
            block = 1 << (width - 1).bit_length()
            self.compiled.named[kernel][(len(wanted[0]),)](*operands, width, BLOCK=block, **constants)

    # --- sequences that have ended ---
    #
    # Rows of a batch do not mix before the gradients of weights. So steps run on behind a sequence's end, where they
    # may as well give infinity or NaN, and what they made is put right for all steps at once: far fewer launches.

    def _end_sequences(self) -> None:
        """Behind its end each sequence's states stay as they were there; all else that the backward pass reads is 0."""
        self._clear(_VALUES)
        ended = self.at["ended"]  # (T, B, 1)
        ends = (~ended).sum(0)  # (B, 1)
        steps = torch.arange(self.sizes.steps + 1, device=ended.device)[:, None, None]
        places = torch.minimum(steps, ends).expand(-1, -1, self.sizes.hidden)  # (T + 1, B, hidden)
        for state in self.states:
            self.at[state].copy_(self.at[state].gather(0, places))

    def _clear(self, spaces: Iterable[str]) -> None:
        if "ended" in self.at:
            for space in (_OF_ALL_STEPS & self.at.keys()).intersection(spaces):
                self.at[space].masked_fill_(self.at["ended"], 0)


_SWAPPED = {"d_h": "d_h_next", "d_h_next": "d_h", "d_c": "d_c_next", "d_c_next": "d_c"}


# --- CUDA graphs -----------------------------------------------------------------------------------------------------


class _Replay:
    """Passes of one kind and size as graphs. What a call gives is copied in, what it gets is copied out, so any number
    of calls may wait for their backward pass.
    """

    def __init__(self, compiled: Kernels, sizes: _Sizes, given: Mapping[str, Tensor]) -> None:
        self.compiled, self.sizes = compiled, sizes
        made = _made_forward(compiled, sizes, given["x"])
        weights = {
            n: torch.empty_like(t, dtype=compiled.product_dtype) for n, t in given.items() if n.startswith("weight")
        }
        self.at = {name: torch.empty_like(tensor) for name, tensor in given.items()} | weights | made
        self.made = list(made)
        self.device = given["x"].device
        self.forward_pass = Recording(_Pass(compiled, sizes, self.at).forward, self.device)
        self.backward_passes: dict[tuple[str, ...], tuple[Recording[dict[str, Tensor]], dict[str, Tensor]]] = {}
        self.lock = threading.Lock()

    def forward(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the forward pass makes of what is given."""
        with self.lock:
            _copy(given, self.at)
            self.forward_pass()
            return {name: self.at[name].clone() for name in self.made}

    def backward(self, given: Mapping[str, Tensor], wanted: tuple[str, ...]) -> dict[str, Tensor]:
        """The wanted gradients from what the forward pass kept and the outputs' gradients."""
        with self.lock:
            if wanted not in self.backward_passes:
                self.backward_passes[wanted] = self._backward_pass(given, wanted)
            recording, at = self.backward_passes[wanted]
            _copy(given, at)
            results = recording()
            return {name: results[name].clone() for name in wanted}

    def _backward_pass(
        self, given: Mapping[str, Tensor], wanted: tuple[str, ...]
    ) -> tuple[Recording[dict[str, Tensor]], dict[str, Tensor]]:
        gradients = {name: torch.empty_like(tensor) for name, tensor in given.items() if name not in self.at}
        at = self.at | gradients | _made_backward(self.compiled, self.sizes, self.at, wanted)
        return Recording(_Pass(self.compiled, self.sizes, at).backward, self.device), at

    def bytes(self) -> int:
        """Memory that this holds on the device, the graphs' own included."""
        tensors = [self.at, *(at for _, at in self.backward_passes.values())]
        recordings: list[Recording[Any]] = [self.forward_pass, *(one for one, _ in self.backward_passes.values())]
        of_tensors = {tensor.data_ptr(): tensor.nbytes for at in tensors for tensor in at.values()}
        return sum(of_tensors.values()) + sum(recording.bytes for recording in recordings)


def _copy(given: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> None:
    torch._foreach_copy_([to[name] for name in given], list(given.values()))


class _Replays:
    """The replays of the kinds and sizes of call that were seen most recently, within bounds of number and memory."""

    most = 64
    most_remembered = 4096
    most_steps = 4096
    """Steps of a sequence over which nothing is recorded: a graph holds the kernels of every step."""
    wait = 200
    """Calls for which one that was dropped runs launch by launch, lest more kinds than are kept be recorded over and
    over: that takes some ten times as long as launching does."""

    def __init__(self) -> None:
        self.calls: OrderedDict[Any, int] = OrderedDict()
        self.kept: OrderedDict[Any, _Replay] = OrderedDict()
        self.recorded = 0
        """How many replays were made so far."""
        self.lock = threading.Lock()

    def find(self, compiled: Kernels, sizes: _Sizes, given: Mapping[str, Tensor]) -> _Replay | None:
        """The replay for a call; None when it should run launch by launch."""
        device = given["x"].device
        # Also not within another graph: ours would have to live for as long as that one.
        if not may_record(device) or sizes.steps > self.most_steps:
            return None
        stream = torch.cuda.current_stream(device).cuda_stream
        key = (compiled, sizes, tuple(given), device, stream, float32_precision())
        with self.lock:
            self.calls[key] = self.calls.pop(key, 0) + 1
            if len(self.calls) > self.most_remembered:
                self.calls.popitem(last=False)
            if self.calls[key] <= CALLS_BEFORE_RECORDING:
                return None
            if key in self.kept:
                self.kept.move_to_end(key)
            else:
                try:
                    # Not as tensors of inference_mode, should that be on, which nothing outside it could write to.
                    with torch.inference_mode(False):
                        self.kept[key] = _Replay(compiled, sizes, given)
                except torch.cuda.OutOfMemoryError:
                    self.calls[key] = -self.wait
                    return None
                self.recorded += 1
                self._forget(memory_for_graphs(device))
            return self.kept[key]

    def drop(self, replay: _Replay) -> None:
        """Forget one that the device has no memory for."""
        with self.lock:
            for key in [key for key, kept in self.kept.items() if kept is replay]:
                self._drop(key)

    def _forget(self, most_bytes: int) -> None:
        """Drop the oldest; calls that wait for their backward pass keep theirs until then."""
        held = [(key, replay.bytes()) for key, replay in self.kept.items()]
        while len(held) > 1 and (len(held) > self.most or sum(size for _, size in held) > most_bytes):
            key, _ = held.pop(0)
            self._drop(key)

    def _drop(self, key: Any) -> None:
        del self.kept[key]
        self.calls[key] = -self.wait


replays = _Replays()


# --- one layer over one sequence -------------------------------------------------------------------------------------


class _Layer(torch.autograd.Function):
    """x (T, B, input) and a state, by name -> out (T, B, hidden), h_T and c_T (B, hidden)."""

    @staticmethod
    def forward(ctx: Any, compiled: Kernels, names: tuple[str, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, tensors, strict=True))
        steps, batch, inputs = given["x"].shape
        sizes = _Sizes(steps, batch, given["h_first"].shape[-1], inputs)
        replay = replays.find(compiled, sizes, given)
        with torch.cuda.device_of(given["x"]):
            made = None if replay is None else _if_memory_suffices(replay, lambda: replay.forward(given))
            if made is None:
                made = _made_forward(compiled, sizes, given["x"])
                _Pass(compiled, sizes, given | made).forward()
        saved = {name: t for name, t in given.items() if not name.startswith(("h_", "c_", "bias"))} | made
        ctx.save_for_backward(*saved.values())
        ctx.saved_names, ctx.given_names = tuple(saved), names
        ctx.compiled, ctx.sizes, ctx.replay = compiled, sizes, replay
        # The state is a copy: whoever changes it, to begin a sequence anew say, must not change the output.
        states = [made[state] for state in ("h", "c") if state in made]
        return made["h"][1:], *(state[-1].clone() for state in states)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        refuse_transformed(d_out, *d_last)
        saved = dict(zip(ctx.saved_names, ctx.saved_tensors, strict=True))
        given = saved | {"d_out": d_out.contiguous()} | dict(zip(("d_h_last", "d_c_last"), d_last, strict=False))
        wanted = tuple(f"d_{name}" for name, w in zip(ctx.given_names, ctx.needs_input_grad[2:], strict=True) if w)
        results: dict[str, Tensor] | None = None
        with torch.cuda.device_of(d_out):
            if ctx.replay is not None and not is_recording(d_out.device):
                results = _if_memory_suffices(ctx.replay, lambda: ctx.replay.backward(given, wanted))
            if results is None:
                made = _made_backward(ctx.compiled, ctx.sizes, saved, wanted)
                results = _Pass(ctx.compiled, ctx.sizes, given | made).backward()
        return None, None, *(results.get(f"d_{name}") for name in ctx.given_names)


def _if_memory_suffices(replay: _Replay, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor] | None:
    """What the work on a replay gives; None where memory runs out, of which launching takes less."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        replays.drop(replay)
        return None


def run(
    program: Program, weights: Sequence[ProductWeights], x: Tensor, state: LayerState, options: Options
) -> tuple[Tensor, LayerState]:
    """One layer over a sequence, as `nasrepro.rnn.interpreter.run`; float32 on CUDA only.

    With TRITON_INTERPRET=1 in the environment before Triton is imported it runs on the CPU, for tests. Raises
    NativeError where there is no Triton. Double backward is not supported.
    """
    compiled = kernels(program.cell, options.h_mask is not None, options.product_dtype)
    reads = compiled.plan.spaces
    given = {"x": x, "h_first": state.h}
    if program.memory is not None:
        assert state.c is not None
        given["c_first"] = state.c
    if "x_before" in reads:
        assert state.x is not None
        given["x_before"] = torch.cat((state.x[None], x[:-1]))  # (T, B, input)
    if "position" in reads:
        given["position"] = positions(state.t, len(x), state.h.shape[-1], x).expand(-1, x.shape[1], -1)
    if options.h_mask is not None:
        given["mask"] = options.h_mask.detach()
    running = None
    if options.lengths is not None:
        running = (torch.arange(len(x), device=x.device)[:, None] < options.lengths)[..., None]  # (T, B, 1)
        given["ended"] = ~running
    for number, weight in enumerate(weights):
        given[f"weight_{number}"] = weight.weight
        if weight.bias is not None:
            given[f"bias_{number}"] = weight.bias
    given = {name: tensor.contiguous() for name, tensor in given.items()}
    out, h, *memory = _Layer.apply(compiled, tuple(given), *given.values())  # type: ignore[no-untyped-call]
    if running is not None:
        out = torch.where(running, out, 0)
    last_x = None if state.x is None else last_inputs(x, options.lengths)
    return out, LayerState(h, memory[0] if memory else None, last_x, state.t + len(x))
