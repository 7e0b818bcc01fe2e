"""`nr.RNN`: any cell as a stack of recurrent layers, with the interface of torch.nn.LSTM."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nasrepro.dsl import Cell, CellError, parse
from nasrepro.rnn import fused, interpreter
from nasrepro.rnn.dropout import dropout, dropout_mask
from nasrepro.rnn.interpreter import LayerState, Options, Weights
from nasrepro.rnn.products import PRODUCT_DTYPES
from nasrepro.rnn.program import Program, compile_cell
from nasrepro.rnn.state import State, join, layers

Backend = Callable[[Program, Sequence[Weights], Tensor, LayerState, Options], tuple[Tensor, LayerState]]

BACKENDS: dict[str, Backend] = {"reference": interpreter.run, "fused": fused.run}
"""Name -> what runs a program."""


class RNNLayer(nn.Module):
    """One layer of a cell: its program, and the weights of its products in stacked form.

    Parameters are drawn from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), torch's default for recurrent layers,
    which S17 uses (authors' reply to the reviews).
    """

    def __init__(
        self,
        program: Program,
        input_size: int,
        hidden_size: int,
        bias: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        if program.mixed and input_size != hidden_size:
            raise CellError(
                f"{program.mixed[0]} mixes the raw input with values of the output's width, so input_size must equal "
                f"hidden_size (got {input_size} and {hidden_size})",
                hint="wrap the input in a matrix, MM(x_t), or make the sizes equal",
            )
        self.program = program
        self.input_size = input_size
        self.hidden_size = hidden_size
        bound = 1 / math.sqrt(hidden_size)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        rows = [len(product.targets) * hidden_size for product in program.products]
        columns = [input_size if product.on_input else hidden_size for product in program.products]
        self.weight = nn.ParameterList([draw(r, c) for r, c in zip(rows, columns, strict=True)])
        self.bias = nn.ParameterList([draw(r) for r in rows] if bias else [])
        self._place = {
            matrix: (number, row)
            for number, product in enumerate(program.products)
            for row, matrix in enumerate(product.matrices)
        }
        early = sum(len(stage.products) for stage in program.before)
        self._recurrent = [number >= early for number in range(len(rows))]

    def mm(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Views of the weight (hidden, in) and the bias (hidden,) of the cell's MM of that number, in post-order."""
        product, row = self._place[number]
        rows = slice(row * self.hidden_size, (row + 1) * self.hidden_size)
        return self.weight[product][rows], self.bias[product][rows] if len(self.bias) else None

    def weights(self, weight_drop: float = 0.0, generator: torch.Generator | None = None) -> list[Weights]:
        """The weights of every product; those inside the time loop with DropConnect at rate `weight_drop`.

        Dropping entries of recurrent matrices for a whole sequence is AWD-LSTM's weight drop (Merity et al. 2017).
        """
        biases: Sequence[Tensor | None] = list(self.bias) if len(self.bias) else [None] * len(self.weight)
        return [
            Weights(dropout(w, weight_drop, generator) if recurrent and weight_drop else w, b)
            for w, b, recurrent in zip(self.weight, biases, self._recurrent, strict=True)
        ]


class RNN(nn.Module):
    """Any cell of the language as a recurrent network: a drop-in for torch.nn.LSTM in shape and state.

        rnn = nr.RNN(nr.zoo["BC3"], input_size=400, hidden_size=1080, num_layers=3, last_size=400)
        out, state = rnn(x)              # x (T, B, 400) -> out (T, B, 400)
        out, state = rnn(more, state)    # goes on where it stopped, as if the sequence had never been cut

    Arguments:
        cell: a Cell, or its text.
        input_size, hidden_size, num_layers, bias: as in torch.nn.LSTM.
        last_size: the size of the last layer where it differs (AWD-LSTM ties it to the embedding's).
        dropout: rate on the outputs of every layer but the last, drawn anew at each step and element; with
            `variational=True` one mask serves a whole sequence (Gal & Ghahramani 2016).
        hidden_dropout: variational rate on h_{t-1} where it enters a matrix product. What a cell carries over
            elementwise is never dropped, nor is c_{t-1} (S17 appendix B.3).
        weight_drop: DropConnect rate on the matrices inside the time loop, drawn once per call.
        backend: "reference" (torch's operators), "fused" (compiled code), or "auto": fused where there is fused code,
            that is for float32 on the CPU or CUDA. Only the reference can be differentiated twice or transformed by
            torch.func, and only its output may be changed in place before backward.
        product_dtype: torch.bfloat16 rounds what enters matrix products, which still add up in float32: faster, with
            gradients good to about two digits. Weights and states stay float32.
        generator: for the initial weights; torch's global one when None.

    Raises CellError for a cell that cannot run, or that uses the raw input at another width; ValueError for bad rates,
    sizes or backend.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        *,
        last_size: int | None = None,
        dropout: float = 0.0,
        variational: bool = False,
        hidden_dropout: float = 0.0,
        weight_drop: float = 0.0,
        backend: str = "auto",
        product_dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.cell = parse(cell) if isinstance(cell, str) else cell
        for name, rate in (
            ("dropout", dropout),
            ("hidden_dropout", hidden_dropout),
            ("weight_drop", weight_drop),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {rate}")
        if min(input_size, hidden_size, num_layers, last_size or 1) < 1:
            raise ValueError("input_size, hidden_size, num_layers and last_size must be at least 1")
        if backend != "auto" and backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}: choose from auto, {', '.join(BACKENDS)}")
        if product_dtype not in PRODUCT_DTYPES.values():
            raise ValueError(f"product_dtype must be torch.float32 or torch.bfloat16, got {product_dtype}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.variational = variational
        self.hidden_dropout = hidden_dropout
        self.weight_drop = weight_drop
        self.backend = backend
        self.product_dtype = product_dtype
        program = compile_cell(self.cell)
        sizes = [hidden_size] * (num_layers - 1) + [last_size or hidden_size]
        inputs = [input_size, *sizes[:-1]]
        self.layers = nn.ModuleList(
            [RNNLayer(program, i, h, bias, generator) for i, h in zip(inputs, sizes, strict=True)]
        )

    def forward(
        self,
        x: Tensor,
        state: State | Tensor | tuple[Tensor, ...] | None = None,
        *,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, State]:
        """x (T, B, input_size) -> out (T, B, size of the last layer), and the state to go on from.

        `state` is None (zeros), a State, or torch's forms: h, or (h, c), each (num_layers, B, hidden_size). An x of
        (T, input_size) is taken as one sequence without batch, as torch does. `lengths` (B,) are the steps of each
        sequence where they differ, 1 to T; what pads the shorter ones must be finite. Their outputs after the end are
        0, and the state is the one at their end, as torch's packed sequences give it. `generator` draws the dropout
        masks; torch's global one when None. Raises ValueError on a shape that does not fit.
        """
        if x.dim() == 2:
            out, after = self.forward(x[:, None], _add_batch(state), lengths=lengths, generator=generator)
            return out[:, 0], _drop_batch(after)
        if x.dim() != 3 or x.shape[-1] != self.input_size or 0 in x.shape[:2]:
            raise ValueError(f"x must be (T, B, {self.input_size}) with T, B >= 1, got {tuple(x.shape)}")
        if lengths is not None:
            lengths = _checked_lengths(lengths, x)
        states = self._unpack(state, x)
        after_layers = []
        for number, (layer, layer_state) in enumerate(zip(self.layers, states, strict=True)):
            assert isinstance(layer, RNNLayer)
            if number and self.training and self.dropout:
                x = dropout(x, self.dropout, generator, shared_steps=self.variational)
            h_mask = None
            if self.training and self.hidden_dropout:
                h_mask = dropout_mask(layer_state.h, layer_state.h.shape, self.hidden_dropout, generator)
            weights = layer.weights(self.weight_drop if self.training else 0.0, generator)
            options = Options(h_mask, lengths, self.product_dtype)
            x, layer_state = self._backend(layer.program, x)(layer.program, weights, x, layer_state, options)
            after_layers.append(layer_state)
        return x, _pack(after_layers)

    def _backend(self, program: Program, x: Tensor) -> Backend:
        if self.backend == "auto":
            return BACKENDS["fused" if fused.supports(program, x) else "reference"]
        return BACKENDS[self.backend]

    def initial_state(self, batch_size: int, like: Tensor | None = None) -> State:
        """The state before the first step: zeros, of the parameters' dtype and device, or of `like`'s."""
        like = next(self.parameters(), torch.empty(0)) if like is None else like  # a cell of no MM has no parameters
        return _pack([self._zeros(layer, batch_size, like) for layer in self.layers])

    def _zeros(self, layer: nn.Module, batch_size: int, like: Tensor) -> LayerState:
        assert isinstance(layer, RNNLayer)
        h = like.new_zeros(batch_size, layer.hidden_size)
        reads = layer.program.cell.sources
        return LayerState(
            h,
            torch.zeros_like(h) if layer.program.memory is not None else None,
            like.new_zeros(batch_size, layer.input_size) if "x_{t-1}" in reads else None,
            0,
        )

    def _unpack(self, state: State | Tensor | tuple[Tensor, ...] | None, x: Tensor) -> list[LayerState]:
        zeros = [self._zeros(layer, x.shape[1], x) for layer in self.layers]
        if state is None:
            return zeros
        if not isinstance(state, State):
            parts = (state,) if isinstance(state, Tensor) else tuple(state)
            names = [name for name in ("h", "c", "x") if getattr(zeros[0], name) is not None]
            if len(parts) > len(names):
                raise ValueError(f"this cell's state is ({', '.join(names)}), got {len(parts)} parts")
            named = dict(zip(names, parts, strict=False))
            state = State(named["h"], named.get("c"), named.get("x"))
        given = []
        for number, zero in enumerate(zeros):
            parts_of_layer = []
            for name in ("h", "c", "x"):
                wanted, stack = getattr(zero, name), getattr(state, name)
                if wanted is None or stack is None:
                    parts_of_layer.append(wanted)
                    continue
                found = layers(stack)
                if len(found) != self.num_layers or found[number].shape != wanted.shape:
                    shapes = [tuple(part.shape) for part in found]
                    raise ValueError(
                        f"state.{name} must hold {self.num_layers} layers, layer {number} of {tuple(wanted.shape)}, "
                        f"got {len(found)} of {shapes}"
                    )
                parts_of_layer.append(found[number])
            h, c, last_x = parts_of_layer
            assert h is not None
            given.append(LayerState(h, c, last_x, state.t))
        return given

    def extra_repr(self) -> str:
        """What `print` shows of the module: cell, sizes, backend."""
        return (
            f"{self.cell}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, backend={self.backend}"
        )


def _checked_lengths(lengths: Tensor, x: Tensor) -> Tensor:
    T, B, _ = x.shape
    fit = lengths.shape == (B,) and not lengths.is_floating_point()
    # Those on a GPU are not looked at, since that would wait for all that was sent there.
    if not fit or (not lengths.is_cuda and (int(lengths.min()) < 1 or int(lengths.max()) > T)):
        raise ValueError(f"lengths must be {B} whole numbers from 1 to {T}, got {lengths.tolist()}")
    copy = lengths.to(torch.int64, copy=True).contiguous()  # nobody can change it before backward
    return copy.to(x.device, non_blocking=True)


def _pack(states: Sequence[LayerState]) -> State:
    def part(values: Sequence[Tensor | None]) -> Tensor | tuple[Tensor, ...] | None:
        tensors = [value for value in values if value is not None]
        return join(tensors) if tensors else None

    h = part([state.h for state in states])
    assert h is not None
    return State(h, part([state.c for state in states]), part([state.x for state in states]), states[0].t)


def _add_batch(
    state: State | Tensor | tuple[Tensor, ...] | None,
) -> State | Tensor | tuple[Tensor, ...] | None:
    if isinstance(state, State):
        return _map(state, lambda part: part[:, None])
    if isinstance(state, Tensor):
        return state[:, None]
    return None if state is None else tuple(part[:, None] for part in state)


def _drop_batch(state: State) -> State:
    return _map(state, lambda part: part[:, 0])


def _map(state: State, function: Callable[[Tensor], Tensor]) -> State:
    def apply(stack: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
        if stack is None or isinstance(stack, Tensor):
            return None if stack is None else function(stack)
        return tuple(function(part[None])[0] for part in stack)

    h = apply(state.h)
    assert h is not None
    return State(h, apply(state.c), apply(state.x), state.t)
