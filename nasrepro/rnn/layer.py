"""`nr.RNN`: any cell as a stack of recurrent layers, with the interface of torch.nn.LSTM."""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nasrepro.dsl import Cell, CellError, parse
from nasrepro.native import readable
from nasrepro.rnn import fused, interpreter
from nasrepro.rnn.backend import Backend, LayerState, Options, ProductWeights
from nasrepro.rnn.dropout import dropout, dropout_mask
from nasrepro.rnn.products import PRODUCT_DTYPES, autocast_dtype
from nasrepro.rnn.program import Program, compile_cell
from nasrepro.rnn.state import State, join, layers

BACKENDS: dict[str, Backend] = {"reference": interpreter.run, "fused": fused.run}
"""Name -> what runs a program."""


Given = State | Tensor | Sequence[Tensor] | None
"""A state as callers give it: None for zeros, a State, or torch's h or (h, c), each (num_layers, B, hidden_size)."""


class _Parameters(nn.ParameterList):
    """A list of parameters that is called to be read, so that what torch hooks into the call is done first.

    torch.nn.utils.prune, weight_norm and spectral_norm put what they make in a parameter's place before each call.
    """

    __call__ = nn.Module.__call__

    def forward(self) -> list[Tensor]:
        """The parameters, or what was put in their places."""
        return list(self)


class RNNLayer(nn.Module):
    """One layer of a cell: its program, and the weights of its products in stacked form.

    Parameters are drawn from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), torch's default for recurrent layers,
    which S17 uses (authors' reply to the reviews). Those of product k are `weight[k]` and `bias[k]`. To what asks for a
    module and a name, as torch.nn.utils do, give list and number: `prune.l1_unstructured(layer.weight, "0", 0.5)`.
    """

    def __init__(
        self,
        program: Program,
        input_size: int,
        hidden_size: int,
        bias: bool,
        generator: torch.Generator | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if program.mixed and input_size != hidden_size:
            raise CellError(
                f"{program.mixed[0]} mixes the raw input with values of the output's width, so input_size must equal "
                f"hidden_size (got {input_size} and {hidden_size})",
                hint="wrap the input in a matrix, MM(x_t), or make the sizes equal",
            )
        self.program, self.input_size, self.hidden_size = program, input_size, hidden_size
        rows = [len(product.targets) * hidden_size for product in program.products]
        columns = [input_size if product.on_input else hidden_size for product in program.products]
        self.weight = _Parameters(
            [torch.empty(r, c, device=device, dtype=dtype) for r, c in zip(rows, columns, strict=True)]
        )
        self.bias = _Parameters([torch.empty(r, device=device, dtype=dtype) for r in rows] if bias else [])
        self.reset_parameters(generator)
        numbered = enumerate(program.products)
        self._place = {matrix: (n, row) for n, product in numbered for row, matrix in enumerate(product.matrices)}
        early = sum(len(stage.products) for stage in program.before)
        self._recurrent = [number >= early for number in range(len(rows))]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew; `generator` is torch's global one when None."""
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def mm(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Views of the weight (hidden, in) and the bias (hidden,) of the cell's MM of that number, in post-order."""
        product, row = self._place[number]
        rows = slice(row * self.hidden_size, (row + 1) * self.hidden_size)
        return self.weight[product][rows], self.bias[product][rows] if len(self.bias) else None

    def weights(self, weight_drop: float = 0.0, generator: torch.Generator | None = None) -> list[ProductWeights]:
        """The weights of every product; those inside the time loop with DropConnect at rate `weight_drop`.

        Dropping entries of recurrent matrices for a whole sequence is AWD-LSTM's weight drop (Merity et al. 2017).
        """
        biases: Sequence[Tensor | None] = self.bias() if len(self.bias) else [None] * len(self.weight)
        return [
            ProductWeights(dropout(w, weight_drop, generator) if recurrent and weight_drop else w, b)
            for w, b, recurrent in zip(self.weight(), biases, self._recurrent, strict=True)
        ]


class RNN(nn.Module):
    """Any cell of the language as a recurrent network: a drop-in for torch.nn.LSTM in shapes, state and use.

        rnn = nr.RNN(nr.zoo["BC3"], input_size=400, hidden_size=1080, num_layers=3, last_size=400)
        out, state = rnn(x)              # x (T, B, 400) -> out (T, B, 400)
        out, state = rnn(more, state)    # goes on where it stopped, as if the sequence had never been cut
        h, state = rnn.step(x_t, state)  # one step: x_t (B, 400) -> h (B, 400)

    Under torch.autocast out and state come in its type, as torch.nn.LSTM's do. Between them numbers are float32; what
    enters products is rounded to bfloat16 where that is autocast's type.

    torch.compile, torch.export and torch.jit.trace see the reference's operators, as many as x has steps: what they
    make is for sequences of that length alone, and for states of that timestep; tuple(state) has none. (With old
    releases of torch, such as 2.3, export with `strict=False`.)

    Arguments:
        cell: a Cell, or its text.
        input_size, hidden_size, num_layers, bias, batch_first, device, dtype: as in torch.nn.LSTM, also in their order.
        bidirectional, proj_size: torch.nn.LSTM's; refused with what to do instead.
        last_size: the size of the last layer where it differs (AWD-LSTM ties it to the embedding's).
        dropout: rate on the outputs of every layer but the last, drawn anew at each step and element; with
            `variational=True` one mask serves a whole sequence (Gal & Ghahramani 2016).
        hidden_dropout: variational rate on h_{t-1} where it enters a matrix product. What a cell carries over
            elementwise is never dropped, nor is c_{t-1} (S17 appendix B.3).
        weight_drop: DropConnect rate on the matrices inside the time loop, drawn once per call.
        backend: "reference" (torch's operators), "fused" (compiled code), or "auto": fused where there is fused code,
            that is for float32 on the CPU or CUDA. What torch.func transforms runs on the reference in any case; beside
            that, only the reference can be differentiated twice, or for many output gradients at a time, and only its
            output may be changed in place before backward.
        product_dtype: torch.bfloat16 rounds what enters matrix products, which still add up in float32: faster, with
            gradients good to about two digits. Weights and states stay float32.
        generator: for the initial weights; torch's global one when None.

    Parameters are in `layers[k].weight` and `layers[k].bias`, by product; `layers[k].mm(n)` gives those of one MM.

    Raises CellError for a cell that cannot run, or that uses the raw input at another width; ValueError for bad rates,
    sizes or backend.
    """

    # What code for torch's layers asks for.
    batch_first = False
    bidirectional = False
    proj_size = 0

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        last_size: int | None = None,
        variational: bool = False,
        hidden_dropout: float = 0.0,
        weight_drop: float = 0.0,
        backend: str = "auto",
        product_dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.cell = _checked_cell(cell)
        _check_rates(dropout=dropout, hidden_dropout=hidden_dropout, weight_drop=weight_drop)
        last_size = hidden_size if last_size is None else last_size
        _check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, last_size=last_size)
        if backend != "auto" and backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r:.100}: choose from auto, {', '.join(BACKENDS)}")
        if product_dtype not in PRODUCT_DTYPES.values():
            raise ValueError(f"product_dtype must be torch.float32 or torch.bfloat16, got {product_dtype!r:.100}")
        if bidirectional:
            raise ValueError(
                "nr.RNN runs forwards only: for bidirectional=True let a second nr.RNN read the sequence from its end, "
                "back(x.flip(0))[0].flip(0), and torch.cat both outputs"
            )
        if proj_size:
            raise ValueError(
                f"nr.RNN has no proj_size (got {proj_size!r:.100}): put an nn.Linear behind it, or write the "
                "projection into the cell, as an MM around h_t"
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.backend, self.product_dtype = bias, batch_first, backend, product_dtype
        self.dropout, self.variational = dropout, variational
        self.hidden_dropout, self.weight_drop = hidden_dropout, weight_drop
        program = compile_cell(self.cell)
        sizes = [hidden_size] * (num_layers - 1) + [last_size]
        inputs = [input_size, *sizes[:-1]]
        self.layers = nn.ModuleList(
            [RNNLayer(program, i, h, bias, generator, device, dtype) for i, h in zip(inputs, sizes, strict=True)]
        )

    def forward(
        self,
        x: Tensor | PackedSequence | None = None,
        state: Given = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        **theirs: Any,
    ) -> tuple[Tensor | PackedSequence, State]:
        """x (T, B, input_size) -> out (T, B, size of the last layer), and the state to go on from.

        As in torch, x and out are (B, T, size) with `batch_first`, though the state is not; a PackedSequence gives a
        PackedSequence; and an x of (T, input_size) is taken as one sequence without batch.

        `state` is None (zeros), a State, or torch's forms: h, or (h, c), each (num_layers, B, hidden_size). `lengths`
        (B,) are the steps of each sequence where they differ, 1 to T; what pads the shorter ones must be finite. Their
        outputs after the end are 0, and the state is the one at their end, as torch's packed sequences give it.
        `generator` draws the dropout masks; torch's global one when None. torch's names for x and state, input and hx,
        are understood. Raises ValueError on a shape that does not fit, TypeError on types or devices that differ.
        """
        x, state = _by_torchs_names(x, state, theirs)
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise ValueError("a PackedSequence knows its lengths: leave out lengths")
            return self._run_packed(x, state, generator)
        self._check_input(x)
        if x.dim() == 2:
            named = self._named(state)
            one = None if named is None else _map(named, lambda part: part[:, None])
            out, after = self._run(x[:, None], one, lengths, generator)
            return out[:, 0], _map(after, lambda part: part[:, 0])
        if self.batch_first:
            out, after = self._run(x.transpose(0, 1), state, lengths, generator)
            return out.transpose(0, 1), after
        return self._run(x, state, lengths, generator)

    def step(self, x: Tensor, state: Given = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, State]:
        """One step: x (B, input_size) -> out (B, size of the last layer), and the state to go on from.

        For what chooses its next input by the last output: a controller, a beam search, a sampler. It begins with
        `initial_state`, or None. State, generator and errors are those of a call; in training each step draws dropout
        masks of its own, so that whole sequences, which share one, are better run by a call.
        """
        if x.dim() != 2 or x.shape[-1] != self.input_size or not len(x):
            raise ValueError(f"x of one step must be (B, {self.input_size}) with B >= 1, got {tuple(x.shape)}")
        out, after = self._run(x[None], state, None, generator)
        return out[0], after

    def flatten_parameters(self) -> None:
        """Does nothing: the parameters are stacked already. Code for torch.nn.LSTM calls it."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew; `generator` is torch's global one when None."""
        for layer in self._stack():
            layer.reset_parameters(generator)

    def initial_state(self, batch_size: int, like: Tensor | None = None) -> State:
        """The state before the first step: zeros, of the parameters' dtype and device, or of `like`'s."""
        if like is None:  # a cell of no MM has no parameters
            like = next((pair.weight for layer in self._stack() for pair in layer.weights()), torch.empty(0))
        return _pack([_zeros(layer, batch_size, like) for layer in self._stack()])

    def _stack(self) -> Sequence[RNNLayer]:
        return cast("Sequence[RNNLayer]", self.layers)

    def _check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor or a PackedSequence, got {x!r:.100}: pass torch.as_tensor(x)")
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size or 0 in x.shape[:-1]:
            order = "B, T" if self.batch_first else "T, B"
            raise ValueError(f"x must be ({order}, {self.input_size}) with T, B >= 1, got {tuple(x.shape)}")

    def _run_packed(
        self, x: PackedSequence, state: Given, generator: torch.Generator | None
    ) -> tuple[PackedSequence, State]:
        padded, lengths = pad_packed_sequence(x)  # (T, B, input), in the order that the sequences had before packing
        self._check_input(padded)
        out, after = self._run(padded, state, lengths, generator)
        if x.sorted_indices is not None:
            out, lengths = out.index_select(1, x.sorted_indices), lengths[x.sorted_indices.cpu()]
        data = pack_padded_sequence(out, lengths).data
        return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), after

    def _run(
        self, x: Tensor, state: Given, lengths: Tensor | Sequence[int] | None, generator: torch.Generator | None
    ) -> tuple[Tensor, State]:
        """All layers over x (T, B, input_size)."""
        lengths = None if lengths is None else _checked_lengths(lengths, x)
        states = self._unpack(state, x)
        after_layers = []
        for number, (layer, layer_state) in enumerate(zip(self._stack(), states, strict=True)):
            if number and self.training and self.dropout:
                x = dropout(x, self.dropout, generator, shared_steps=self.variational)
            h_mask = None
            if self.training and self.hidden_dropout:
                h_mask = dropout_mask(layer_state.h, layer_state.h.shape, self.hidden_dropout, generator)
            weights = layer.weights(self.weight_drop if self.training else 0.0, generator)
            options = Options(h_mask, lengths, self.product_dtype)
            x, layer_state = self._run_layer(layer.program, weights, x, layer_state, options)
            after_layers.append(layer_state)
        return x, _pack(after_layers)

    def _run_layer(
        self, program: Program, weights: Sequence[ProductWeights], x: Tensor, state: LayerState, options: Options
    ) -> tuple[Tensor, LayerState]:
        narrow = autocast_dtype(x)
        if narrow is None:
            _refuse_mixed_types(weights, x, state)
            return self._backend(program, x)(program, weights, x, state, options)
        # Autocast's own rules for single operators would give values of a step different types.
        wide = torch.float32
        if narrow in PRODUCT_DTYPES.values():
            options = options._replace(product_dtype=narrow)
        with torch.autocast(x.device.type, enabled=False):
            out, after = self._run_layer(
                program, [_to(pair, wide) for pair in weights], x.to(wide), _to(state, wide), _to(options, wide)
            )
        return out.to(narrow), _to(after, narrow)

    def _backend(self, program: Program, x: Tensor) -> Backend:
        if self.backend == "auto":
            return BACKENDS["fused" if fused.supports(program, x) else "reference"]
        return BACKENDS[self.backend]

    def _unpack(self, state: Given, x: Tensor) -> list[LayerState]:
        """The state of each layer before x (T, B, input_size): (B, size) each, zeros for parts that are not given.

        Raises ValueError for more parts than the cell has, or parts of other shapes.
        """
        zeros = [_zeros(layer, x.shape[1], x) for layer in self._stack()]
        named = self._named(state)
        if named is None:
            return zeros
        given = []
        for number, zero in enumerate(zeros):
            parts: dict[str, Tensor] = {}
            for name in ("h", "c", "x"):
                wanted, stack = getattr(zero, name), getattr(named, name)
                if wanted is None or stack is None:
                    continue
                found = layers(stack)
                if len(found) != self.num_layers or found[number].shape != wanted.shape:
                    shapes = [tuple(part.shape) for part in found]
                    raise ValueError(
                        f"state.{name} must hold {self.num_layers} layers, layer {number} of {tuple(wanted.shape)}, "
                        f"got {len(found)} of {shapes!r:.200}"
                    )
                parts[name] = found[number]
            given.append(zero._replace(t=named.t, **parts))
        return given

    def _named(self, state: object) -> State | None:
        """The parts of a state by their names, from whatever form they were given in."""
        if state is None:
            return None
        first = self._stack()[0].program
        reads = {"h": True, "c": first.memory is not None, "x": "x_{t-1}" in first.cell.sources}
        names = [name for name, is_read in reads.items() if is_read]
        if not isinstance(state, State):
            if not isinstance(state, (Tensor, tuple, list, Iterator)):
                raise TypeError(f"the state is None, a State, h, or ({', '.join(names)}), got {state!r:.100}")
            parts = (state,) if isinstance(state, Tensor) else tuple(state)
            if not 0 < len(parts) <= len(names):
                raise ValueError(f"this cell's state is ({', '.join(names)}), got {len(parts)} parts")
            named = dict(zip(names, parts, strict=False))
            state = State(named["h"], named.get("c"), named.get("x"), 0)
        for name in names:
            stack = getattr(state, name)
            for part in stack if isinstance(stack, tuple) else () if stack is None else (stack,):
                if not isinstance(part, Tensor) or not part.dim():
                    raise TypeError(f"state.{name} must be a tensor of (layers, B, size), got {stack!r:.100}")
        return state

    def __prepare_scriptable__(self) -> NoReturn:
        raise TypeError(
            "torch.jit.script cannot read nr.RNN, which takes its operators from the cell: use torch.export.export or, "
            "for sequences of one length, torch.jit.trace"
        )

    def extra_repr(self) -> str:
        """What `print` shows of the module: cell, sizes, backend."""
        sizes = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        return f"{self.cell}, {sizes}, backend={self.backend}"


def _checked_cell(cell: Cell | str) -> Cell:
    if isinstance(cell, str):
        return parse(cell)
    if not isinstance(cell, Cell):
        raise TypeError(
            f'the first argument is a Cell, or its text, got {cell!r:.100}: nr.RNN(nr.zoo["LSTM"], 5, 7) is what '
            "torch.nn.LSTM(5, 7) is"
        )
    return cell


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not isinstance(rate, Real) or not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {rate!r:.100}")


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be at least 1 and whole, got {size!r:.100}")


def _by_torchs_names(x: Any, state: Any, theirs: dict[str, Any]) -> tuple[Any, Any]:
    """x and state, one or both of which were given by the names of torch.nn.LSTM, input and hx."""
    given = {"x": x, "state": state}
    for name, value in theirs.items():
        ours = {"input": "x", "hx": "state"}.get(name)
        if ours is None:
            raise TypeError(f"nr.RNN takes x, state, lengths and generator, and no {name:.100}")
        if given[ours] is not None:
            raise TypeError(f"{name} is torch's name for {ours}, which is given too: leave one of them out")
        given[ours] = value
    if given["x"] is None:
        raise TypeError("nr.RNN was called without x, the sequence: rnn(x), or rnn(x, state)")
    return given["x"], given["state"]


def _zeros(layer: RNNLayer, batch_size: int, like: Tensor) -> LayerState:
    h = like.new_zeros(batch_size, layer.hidden_size)
    c = torch.zeros_like(h) if layer.program.memory is not None else None
    reads_x = "x_{t-1}" in layer.program.cell.sources
    return LayerState(h, c, like.new_zeros(batch_size, layer.input_size) if reads_x else None, 0)


def _checked_lengths(lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
    T, B, _ = x.shape
    wanted = f"lengths must be {B} whole numbers from 1 to {T}"
    if not isinstance(lengths, Tensor):
        try:
            lengths = torch.as_tensor(lengths, device="cpu")  # whatever device torch would choose
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{wanted}, got {lengths!r:.200}") from None
    whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    fits = whole and lengths.shape == (B,)
    # What is traced has no values yet, and those on a GPU would be waited for, with all that was sent there.
    if fits and lengths.device.type == "cpu" and readable(lengths):
        fits = int(lengths.min()) >= 1 and int(lengths.max()) <= T
    if not fits:
        found = lengths.tolist() if readable(lengths) else (tuple(lengths.shape), lengths.dtype)
        raise ValueError(f"{wanted}, got {found!r:.200}")
    copy = lengths.to(torch.int64, copy=True).contiguous()  # nobody can change it before backward
    return copy.to(x.device, non_blocking=True)


def _refuse_mixed_types(weights: Sequence[ProductWeights], x: Tensor, state: LayerState) -> None:
    """Compiled code takes all for numbers of x's type, and torch's operators would convert some of them silently."""
    weight, bias = zip(*weights, strict=True) if weights else ((), ())
    for name, tensors in (("a weight", weight), ("a bias", bias), ("the state", state[:3])):
        for tensor in tensors:
            if tensor is not None and (tensor.dtype, tensor.device) != (x.dtype, x.device):
                raise TypeError(
                    f"{name} is {tensor.dtype} on {tensor.device}, but x is {x.dtype} on {x.device}: "
                    "convert the module, the state and x alike"
                )


_Parts = TypeVar("_Parts", ProductWeights, LayerState, Options)


def _to(parts: _Parts, dtype: torch.dtype) -> _Parts:
    """The same with numbers of that type; lengths and timestep stay."""
    numbers: dict[str, Any] = {
        name: part.to(dtype)
        for name, part in parts._asdict().items()
        if isinstance(part, Tensor) and part.is_floating_point()
    }
    return parts._replace(**numbers)


def _pack(states: Sequence[LayerState]) -> State:
    def part(values: Sequence[Tensor | None]) -> Tensor | tuple[Tensor, ...] | None:
        tensors = [value for value in values if value is not None]
        return join(tensors) if tensors else None

    h = part([state.h for state in states])
    assert h is not None
    return State(h, part([state.c for state in states]), part([state.x for state in states]), states[0].t)


def _map(state: State, function: Callable[[Tensor], Tensor]) -> State:
    def apply(stack: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
        if stack is None or isinstance(stack, Tensor):
            return None if stack is None else function(stack)
        return tuple(function(part[None])[0] for part in stack)

    h = apply(state.h)
    assert h is not None
    return State(h, apply(state.c), apply(state.x), state.t)
