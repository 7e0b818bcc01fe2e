"""The fused backend on the CPU against the reference interpreter in float64: every tensor that comes out or back."""

import copy
import ctypes
import multiprocessing
import pickle
import random
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nasrepro as nr
from nasrepro import native
from nasrepro.dsl import Cell, Node
from nasrepro.dsl.operators import OPERATORS
from nasrepro.native import NativeError, build
from nasrepro.rnn import State, fused
from nasrepro.rnn.fused import cpu
from nasrepro.rnn.fused.c_source import c_source
from nasrepro.rnn.fused.plan import plan_cell
from tests.strategies import EVERY_WORD

FLOAT32, BFLOAT16 = 5e-6, 2e-2  # relative errors promised for products in either
FLOOR = 1e-30  # what is smaller counts as zero: gradients that vanish further have left the range of float32


def _compiles() -> bool:
    try:
        build._compiler()
    except NativeError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _compiles(), reason="no C compiler on this machine")


# --- comparing ----------------------------------------------------------------------------------------------


class Problem:
    """A layer, what goes into it, and what its results are weighted with: the same numbers for every backend."""

    def __init__(self, cell: Cell | str, inputs: int, hidden: int, B: int, T: int, seed: int = 0, **options) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rnn = nr.RNN(cell, inputs, hidden, backend="fused", generator=generator, **options)
        self.T, self.B, self.t = T, B, 3
        self.x = torch.randn(T, B, inputs, generator=generator)
        zeros = self.rnn.initial_state(B)
        self.names = [name for name in ("h", "c", "x") if getattr(zeros, name) is not None]
        self.state = [torch.randn(part.shape, generator=generator) / 2 for part in zeros]
        width = self.rnn.layers[-1].hidden_size
        self.weighting = [torch.randn(T, B, width, generator=generator)]
        self.weighting += [torch.randn(part.shape, generator=generator) for part in zeros]

    def solve(
        self,
        backend: str,
        dtype: torch.dtype,
        product_dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Values and gradients, by name."""
        rnn = copy.deepcopy(self.rnn).to(dtype)
        rnn.backend, rnn.product_dtype = backend, product_dtype
        leaves = {"x": self.x, **{f"{name}_0": part for name, part in zip(self.names, self.state, strict=True)}}
        leaves = {name: leaf.detach().clone().to(dtype).requires_grad_() for name, leaf in leaves.items()}
        state = State(**{name: leaves[f"{name}_0"] for name in self.names}, t=self.t)
        masks = torch.Generator().manual_seed(5)
        out, after = rnn(leaves["x"], state, lengths=lengths, generator=masks)
        values = dict(zip(["out", *self.names], [out, *after], strict=True))
        loss = sum((v * w.to(dtype)).sum() for v, w in zip(values.values(), self.weighting, strict=True))
        wanted = leaves | dict(rnn.named_parameters())
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad:  # a cell may read the position alone
            gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        found = {name: value.detach() for name, value in values.items()}
        for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
            found[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        return found


def error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in the 2-norm, over what is finite in the exact numbers."""
    finite = exact.isfinite() & (exact.abs() < torch.finfo(torch.float32).max)
    found, exact = found.detach().double()[finite], exact.detach().double()[finite]
    return (
        float((found - exact).norm() / exact.norm().clamp_min(FLOOR))
        if float(found.norm()) > FLOOR
        else (float(exact.norm() > FLOOR))
    )


def assert_exact(problem: Problem, tolerance: float = FLOAT32, lengths: Tensor | None = None) -> None:
    ours = problem.solve("fused", torch.float32, lengths=lengths)
    exact = problem.solve("reference", torch.float64, lengths=lengths)
    errors = {name: error(ours[name], exact[name]) for name in exact}
    assert max(errors.values()) <= tolerance, errors


# --- every zoo cell, and random cells over the whole language -----------------------------------------------


@pytest.mark.parametrize("name", nr.zoo)
def test_zoo_cells(name: str) -> None:
    for hidden, B, T in ((20, 20, 35), (33, 3, 1), (7, 5, 4)):
        problem = Problem(nr.zoo[name], hidden, hidden, B, T)
        assert_exact(problem)
        exact = problem.solve("reference", torch.float64)
        rounded = problem.solve("reference", torch.float64, torch.bfloat16)
        ours = problem.solve("fused", torch.float32, torch.bfloat16)
        # Over 35 steps of a cell of sines, rounding weights to two digits alone changes gradients by some percent.
        worst = max(error(rounded[key], exact[key]) for key in exact)
        errors = {key: error(ours[key], exact[key]) for key in exact}
        assert max(errors.values()) <= max(BFLOAT16, 1.5 * worst), (errors, worst)


def random_cell(rng: random.Random, most_words: int = 18) -> Cell:
    """A cell of any words of the language, in any place; any operator of it may be c_t."""
    by_arity: dict[int, list[str]] = {}
    for word in EVERY_WORD:
        by_arity.setdefault(OPERATORS[word].arity if word in OPERATORS else 0, []).append(word)

    def grow(room: int, needed: int) -> Node:
        arity = rng.choice([a for a in sorted(by_arity) if (a and room) or (not a and needed <= 0)])
        return Node(rng.choice(by_arity[arity]), tuple(grow(room - 1, needed - 1) for _ in range(arity)))

    while True:
        root = grow(4, 2)
        if len(root.text.replace("(", ",").split(",")) <= most_words:
            return Cell(root, rng.randrange(root.size) if "c_{t-1}" in root.text else None)


RANDOM_CELLS = [random_cell(random.Random(seed)) for seed in range(200)]


def test_random_cells_cover_the_language() -> None:
    text = " ".join(cell.root.text for cell in RANDOM_CELLS)
    assert {word for word in EVERY_WORD if word not in text} == set()
    assert sum(cell.memory is not None for cell in RANDOM_CELLS) > 50


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has all random cells compiled on two cores, and with few optimisations, which take most of a compiler's time.

    The zoo's cells are compiled as users' are. A machine that did this before finds everything in its cache.
    """
    original = native.load

    def load(source: str, flags: Sequence[str] = ()) -> ctypes.CDLL:
        return original(source, flags=flags if "loop.c" in source else ["-Og"])

    monkeypatch.setattr(native, "load", load)
    cpu.kernels.cache_clear()
    texts = {c_source(plan_cell(cell, number % 4 == 0)) for number, cell in enumerate(RANDOM_CELLS)}
    with ThreadPoolExecutor(2) as compilers:
        list(compilers.map(lambda text: build._built(text, "native", ("-Og",)), sorted(texts)))
    yield
    cpu.kernels.cache_clear()


def random_problem(number: int) -> tuple[Problem, Tensor | None]:
    """A random cell in a small layer of odd sizes; some with masks, some with sequences of different lengths."""
    rng = random.Random(number)
    cell = RANDOM_CELLS[number]
    hidden, B, T = rng.choice([1, 3, 15, 16, 17, 31, 33]), rng.choice([1, 2, 3, 7, 8]), rng.choice([1, 2, 5])
    options = {"hidden_dropout": 0.3, "weight_drop": 0.2} if number % 4 == 0 else {}
    lengths = torch.tensor([rng.randint(1, T) for _ in range(B)]) if number % 3 == 0 else None
    try:
        return Problem(cell, hidden + 2, hidden, B, T, seed=number, **options), lengths
    except nr.CellError:  # it mixes x with values as wide as the output
        return Problem(cell, hidden, hidden, B, T, seed=number, **options), lengths


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_random_cells() -> None:
    """Random cells divide by what is nearly zero, take sines of thousands, and grow beyond all bounds.

    How well such a cell can be computed at all shows in the reference: it runs with the same products once more in
    float32, and once in float64 from inputs and weights that are off by one rounding to float32. The worst error of
    both over all tensors is the cell's measure (one tensor alone may be right by chance). Ours must stay within the
    promised error or a small multiple of that measure. Where the reference itself becomes
    infinite or NaN in other places for float32 than for float64, or for another sign of a zero that is divided by,
    there is nothing to compare. At least three of four cells must meet the promise as it stands.
    """
    promises = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
    kept, failures = dict.fromkeys(promises, 0), []
    for number, cell in enumerate(RANDOM_CELLS):
        problem, lengths = random_problem(number)
        exact = problem.solve("reference", torch.float64, lengths=lengths)
        if not same_infinities(exact, _with_positive_zeros(problem, lengths)):
            continue
        nearby = _rounded_otherwise(problem).solve("reference", torch.float64, lengths=lengths)
        for product_dtype, promised in promises.items():
            reference = problem.solve("reference", torch.float32, product_dtype, lengths)
            if not same_infinities(reference, exact):
                continue
            ours = problem.solve("fused", torch.float32, product_dtype, lengths)
            worst = max(error(other[key], exact[key]) for other in (reference, nearby) for key in exact)
            errors = {key: error(ours[key], exact[key]) for key in exact}
            # Where a sequence has ended, the reference multiplies gradients of zero by infinity, which we do not.
            patterns_agree = lengths is not None or same_infinities(ours, reference)
            if not max(errors.values()) <= max(promised, 8 * worst) or not patterns_agree:
                failures.append((number, str(cell), product_dtype, errors, worst, patterns_agree))
            kept[product_dtype] += max(errors.values()) <= promised
    assert not failures, failures
    assert min(kept.values()) >= 150


def same_infinities(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k].isnan(), b[k].isnan()) and torch.equal(a[k].isinf(), b[k].isinf()) for k in a)


def _rounded_otherwise(problem: Problem) -> Problem:
    """The same problem, its numbers off by as much as the next float32."""
    other, generator = copy.deepcopy(problem), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (other.x, *other.state, *other.rnn.parameters()):
            tensor.mul_(1 + 2**-23 * torch.empty_like(tensor).uniform_(-1, 1, generator=generator))
    return other


def _with_positive_zeros(problem: Problem, lengths: Tensor | None) -> dict[str, Tensor]:
    """The reference in float32, every zero that something is divided by being made +0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nr.rnn.interpreter.POINTWISE, "Div", lambda a, b: a / (b + 0.0))
        return problem.solve("reference", torch.float32, lengths=lengths)


# --- hard cases ---------------------------------------------------------------------------------------------

MIXED = (
    "Gate3(Div(LayerNorm(MM(x_t)), Sigmoid(MM(h_{t-1}))), Max(Tanh(MM(x_{t-1})), h_{t-1}), "
    "Sigmoid(Add(MM(c_{t-1}), MM(PosEnc))))|4"
)
"""Everything that is placed differently: normalisations, x_{t-1}, c_{t-1}, positions, a maximum, a division."""


@pytest.mark.parametrize("name", ["LSTM", "GRU", "MGU", "BC3", "QRNN"])
@pytest.mark.parametrize("bias", [20.0, -20.0])
def test_saturated_gates(name: str, bias: float) -> None:
    problem = Problem(nr.zoo[name], 9, 17, 6, 8)
    layer = problem.rnn.layers[0]
    matrices = [node for node in problem.rnn.cell.operators if node.op == "MM"]
    gates = {id(node.args[0].args[0]) for node in problem.rnn.cell.operators if node.op == "Sigmoid"}
    with torch.no_grad():
        for number, node in enumerate(matrices):
            if id(node) in gates:  # one of the two matrices that add up to a gate
                biases = layer.mm(number)[1]
                biases.copy_(bias * torch.where(torch.arange(len(biases)) % 5 == 4, -1, 1))
                gates.remove(id(node))
    assert not gates
    assert_exact(problem)


@pytest.mark.parametrize("name", ["TanhRNN", "LSTM", "GRU"])
def test_gradients_that_vanish_over_a_long_sequence(name: str) -> None:
    problem = Problem(nr.zoo[name], 8, 16, 3, 300)
    problem.weighting[0][:-1] = 0  # only the end is looked at
    assert_exact(problem)
    assert float(problem.solve("fused", torch.float32)["d_h_0"].abs().max()) < 1e-20


@pytest.mark.parametrize("hidden", [1, 3, 15, 16, 17, 31, 33, 100])
def test_odd_sizes(hidden: int) -> None:
    cell = MIXED.replace("Max(Tanh(MM(x_{t-1})), h_{t-1})", "MM(Sin(x_{t-1}))")
    assert cell != MIXED
    for inputs in (1, hidden, 2 * hidden + 1):
        assert_exact(Problem(cell, inputs, hidden, 3, 3))
        assert_exact(Problem(nr.zoo["LSTM"], inputs, hidden, 3, 3))


@pytest.mark.parametrize("B", [1, 2, 3, 7, 8, 20, 64, 257])
def test_batch_sizes(B: int) -> None:
    for T in (1, 2):
        assert_exact(Problem(MIXED, 18, 18, B, T))


def test_divisions_by_small_values() -> None:
    problem = Problem("Tanh(Div(MM(x_t),Add(MM(x_t),MM(h_{t-1}))))", 5, 8, 4, 4)
    problem.x *= 1e-3
    problem.state[0] *= 1e-3
    with torch.no_grad():
        for parameter in problem.rnn.layers[0].bias:
            parameter.zero_()
    ours, single, exact = (problem.solve(*how) for how in (
        ("fused", torch.float32), ("reference", torch.float32), ("reference", torch.float64)))  # fmt: skip
    worst = max(error(single[name], exact[name]) for name in exact)
    assert max(error(ours[name], exact[name]) for name in exact) <= max(FLOAT32, 4 * worst)


def test_weight_gradients_over_many_rows() -> None:
    assert_exact(Problem(nr.zoo["LSTM"], 4, 5, 257, 100))


@pytest.mark.parametrize("name", ["LSTM", "BC3", "NASCell"])
def test_layers_last_size_and_masks(name: str) -> None:
    options = {"num_layers": 3, "last_size": 11, "hidden_dropout": 0.3, "weight_drop": 0.2, "dropout": 0.2}
    generator = torch.Generator().manual_seed(0)
    ours = nr.RNN(nr.zoo[name], 7, 18, variational=True, backend="fused", generator=generator, **options)
    exact = copy.deepcopy(ours).double()
    exact.backend = "reference"
    x0, weighting = torch.randn(6, 5, 7, generator=generator), torch.randn(6, 5, 11, generator=generator)
    found = []
    for rnn in (ours, exact):
        x = x0.to(next(rnn.parameters()).dtype).detach().clone().requires_grad_()
        out, _ = rnn(x, generator=torch.Generator().manual_seed(4))
        gradients = torch.autograd.grad((out * weighting).sum(), [x, *rnn.parameters()])
        found.append([out, *gradients])
    assert max(error(ours, reference) for ours, reference in zip(*found, strict=True)) <= FLOAT32


def test_any_layout_of_inputs_states_weights_and_gradients() -> None:
    T, B, H = 5, 4, 18
    exact = Problem(MIXED, H, H, B, T).rnn
    strided = copy.deepcopy(exact)
    generator = torch.Generator().manual_seed(0)
    x, go = torch.randn(B, H, T, generator=generator), torch.randn(H, B, T, generator=generator)
    with torch.no_grad():
        for layer_weight in strided.layers[0].weight:
            layer_weight.data = layer_weight.data.t().contiguous().t()
    state = torch.randn(H, B, 3, generator=generator)
    results = []
    for rnn, layout in ((exact, Tensor.contiguous), (strided, lambda tensor: tensor)):
        leaf, parts = x.clone().requires_grad_(), state.clone().requires_grad_()
        h, c, last = (layout(part.t())[None] for part in parts.unbind(-1))
        out, after = rnn(layout(leaf.permute(2, 0, 1)), State(h, c, last, 3))
        d_after = torch.ones(()).expand(B, H)[None]
        torch.autograd.backward(
            [out, after.h, after.c], [layout(go.permute(2, 1, 0)), layout(d_after), layout(d_after)]
        )
        results.append([out, *after, leaf.grad, parts.grad, *(p.grad for p in rnn.parameters())])
    for plain, any_layout in zip(*results, strict=True):
        torch.testing.assert_close(any_layout, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wanted", ["x", "h", "weights", "bias"])
@pytest.mark.parametrize("given", ["out", "h", "c"])
def test_gradients_of_some_from_some(wanted: str, given: str) -> None:
    problem = Problem(MIXED, 18, 18, 3, 4)
    found = []
    for backend, dtype in (("fused", torch.float32), ("reference", torch.float64)):
        rnn = copy.deepcopy(problem.rnn).to(dtype).requires_grad_(False)
        rnn.backend = backend
        x, h, c, last = (tensor.detach().to(dtype) for tensor in (problem.x, *problem.state))
        leaf = {"x": x, "h": h, "weights": rnn.layers[0].weight[3], "bias": rnn.layers[0].bias[0]}[wanted]
        leaf.requires_grad_()
        out, after = rnn(x, State(h, c, last, 3))
        value = {"out": out, "h": after.h, "c": after.c}[given]
        (value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum().backward()
        found.append(leaf.grad)
        assert sum(p.grad is not None for p in rnn.parameters()) == (wanted in {"weights", "bias"})
    assert error(*found) <= FLOAT32


# --- sequences of different lengths -------------------------------------------------------------------------

LENGTHS = torch.tensor([5, 1, 7, 3, 7])


@pytest.mark.parametrize(("name", "module"), [("LSTM", nn.LSTM), ("GRU", nn.GRU)])
def test_lengths_give_what_packed_sequences_give(name: str, module: type[nn.RNNBase]) -> None:
    T, B, H = 7, 5, 6
    rows, signs = {"LSTM": ([3, 1, 0, 2], [1] * 4), "GRU": ([2, 0, 1], [1, 1, -1])}[name]
    ours, theirs = nr.RNN(nr.zoo[name], H, H, backend="fused"), module(H, H).double()
    matrices = [node for node in ours.cell.operators if node.op == "MM"]
    with torch.no_grad():
        for number, node in enumerate(matrices):
            kind, row = "ih" if node.args[0].op == "x_t" else "hh", rows[number // 2]
            for mine, part in zip(ours.layers[0].mm(number), ("weight", "bias"), strict=True):
                mine.copy_(signs[number // 2] * getattr(theirs, f"{part}_{kind}_l0")[row * H : (row + 1) * H])
    x = torch.randn(T, B, H).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    packed = nn.utils.rnn.pack_padded_sequence(exact_x, LENGTHS, enforce_sorted=False)
    out, after = theirs(packed)
    exact = [nn.utils.rnn.pad_packed_sequence(out, total_length=T)[0], *(after if name == "LSTM" else (after,))]
    out, after = ours(x, lengths=LENGTHS)
    found = [out, *after]
    for values in (found, exact):
        sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in values).backward()
    assert max(map(error, [*found, x.grad], [*exact, exact_x.grad])) <= FLOAT32


@pytest.mark.parametrize("cell", [MIXED, nr.zoo["LSTM"], nr.zoo["QRNN"]])
def test_lengths_against_the_reference_and_single_sequences(cell: Cell | str) -> None:
    problem = Problem(cell, 9, 9, 5, 7)
    assert_exact(problem, lengths=LENGTHS)
    state = dict(zip(problem.names, problem.state, strict=True))
    out, after = problem.rnn(problem.x, State(**state), lengths=LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        one_out, one_after = problem.rnn(
            problem.x[:length, b : b + 1], State(**{name: part[:, b : b + 1] for name, part in state.items()})
        )
        torch.testing.assert_close(out[:length, b : b + 1], one_out, rtol=1e-5, atol=1e-5)
        assert not out[length:, b].any()
        for whole, part in zip(after, one_after, strict=True):
            torch.testing.assert_close(whole[:, b : b + 1], part, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "cell",
    [nr.zoo["LSTM"], nr.zoo["BC3"], "Tanh(Add(Div(MM(x_t),MM(x_t)),MM(Mult(h_{t-1},MM(Mult(MM(x_t),MM(x_t)))))))"],
)
def test_what_pads_a_sequence_changes_nothing(cell: Cell | str) -> None:
    problem = Problem(cell, 9, 9, 5, 7)
    ended = torch.arange(7)[:, None] >= LENGTHS
    tame = problem.solve("fused", torch.float32, lengths=LENGTHS)
    assert not tame["d_x"][ended].any()
    problem.x[ended] = 1e30
    huge = problem.solve("fused", torch.float32, lengths=LENGTHS)
    for name in tame:
        if name != "x":  # the last input is none of the padding either
            torch.testing.assert_close(huge[name], tame[name], rtol=0, atol=0)


# --- sequences in windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [MIXED, nr.zoo["NASCell"], "Tanh(Add(MM(PosEnc),MM(Mult(x_{t-1},h_{t-1}))))"])
def test_two_windows_are_one_sequence(cell: Cell | str) -> None:
    problem = Problem(cell, 12, 12, 3, 9)
    leaves = [problem.x.clone().requires_grad_() for _ in range(2)]
    whole, end = problem.rnn(leaves[0])
    first, state = problem.rnn(leaves[1][:4])
    second, end_of_second = problem.rnn(leaves[1][4:], state)
    assert end.t == end_of_second.t == 9
    pieces = torch.cat((first, second))
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)
    for out in (whole, pieces):
        (out * problem.weighting[0]).sum().backward()
    assert error(leaves[1].grad, leaves[0].grad) <= FLOAT32


# --- threads ------------------------------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch):
    """Sets the number of threads, also beyond the number of cores, and back again."""
    before = torch.get_num_threads()
    monkeypatch.setattr(native, "CORES", 8)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("cell", [MIXED, nr.zoo["LSTM"], nr.zoo["GRU"]])
@pytest.mark.parametrize("rows_per_thread", [0, 1000])  # share the rows of the batch; share columns
def test_results_do_not_depend_on_the_number_of_threads(cell, rows_per_thread: int, threads, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_ROWS_PER_THREAD", rows_per_thread)
    for hidden, B, T in ((33, 5, 4), (130, 2, 3), (3, 2, 1)):
        problem = Problem(cell, hidden, hidden, B, T)
        threads(1)
        alone = problem.solve("fused", torch.float32)
        for number in (2, 3):
            threads(number)
            together = problem.solve("fused", torch.float32)
            assert max(error(together[name], alone[name]) for name in alone) <= 1e-6


def test_two_python_threads_at_once() -> None:
    shared = Problem(nr.zoo["LSTM"], 20, 20, 6, 10)
    problems = [shared, shared, Problem(MIXED, 20, 20, 6, 10)]
    expected = [problem.solve("fused", torch.float32) for problem in problems]
    start = threading.Barrier(len(problems))

    def work(problem: Problem) -> list[dict[str, Tensor]]:
        start.wait()
        return [problem.solve("fused", torch.float32) for _ in range(10)]

    with ThreadPoolExecutor(len(problems)) as pool:
        for found, wanted in zip(pool.map(work, problems), expected, strict=True):
            for result in found:
                assert all(torch.equal(result[name], wanted[name]) for name in wanted)


# --- NaN and infinity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nr.zoo)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_come_out_where_the_reference_has_them(name: str, bad: float) -> None:
    for where in ("x", "weight"):
        problem = Problem(nr.zoo[name], 6, 6, 3, 4)
        target = problem.x[2, 1] if where == "x" else problem.rnn.layers[0].weight[0].data[1]
        target[3] = bad
        ours, reference = (problem.solve(backend, torch.float32) for backend in ("fused", "reference"))
        assert not reference["out"].isfinite().all() or name in {"MaxSin", "LSTM", "QRNN"} or abs(bad) == float("inf")
        for key in reference:
            assert torch.equal(ours[key].isnan(), reference[key].isnan()), (where, key)
            assert torch.equal(ours[key].isinf(), reference[key].isinf()), (where, key)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the backend try and warn again."""
    monkeypatch.setattr(fused, "_said", set())
    monkeypatch.setattr(fused, "_refused", {})


# --- as a torch module --------------------------------------------------------------------------------------


def test_one_layer_used_twice_in_a_graph() -> None:
    problem = Problem(nr.zoo["LSTM"], 12, 12, 3, 4)
    exact = copy.deepcopy(problem.rnn).double()
    exact.backend = "reference"
    gradients = []
    for rnn in (problem.rnn, exact):
        x = problem.x.clone().to(next(rnn.parameters()).dtype).requires_grad_()
        again, _ = rnn(rnn(x)[0])
        again.sum().backward()
        gradients.append([x.grad, *(p.grad for p in rnn.parameters())])
    assert max(map(error, *gradients)) <= FLOAT32


def test_a_retained_graph_gives_the_same_again_and_a_freed_one_says_so() -> None:
    problem = Problem(MIXED, 12, 12, 3, 4)
    x = problem.x.requires_grad_()
    loss = (problem.rnn(x)[0] * problem.weighting[0]).sum()
    first, second = (torch.autograd.grad(loss, [x, *problem.rnn.parameters()], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("power", [1, 2])
def test_double_backward_is_refused(power: int) -> None:
    """Also where the loss is linear in the output, so that no gradient that comes in depends on anything."""
    problem = Problem(nr.zoo["LSTM"], 4, 4, 2, 3)
    x = problem.x.requires_grad_()
    loss = (problem.rnn(x)[0] ** power).sum()
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_parts_of_the_state_share_no_memory() -> None:
    rnn = nr.RNN("Tanh(Add(MM(x_{t-1}), Mult(MM(h_{t-1}), c_{t-1})))|2", 3, 3)
    start = rnn.initial_state(2)
    assert start.c is not None
    start.h.fill_(1)
    assert not start.c.any()
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        out, (h, _, last) = rnn(x)
    before = out.clone()
    h.zero_()
    assert torch.equal(out, before)
    expected = x[-1].clone()
    x.zero_()
    assert torch.equal(last[0], expected)


def test_weights_that_do_not_fit_are_refused() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], 4, 4, backend="fused")
    rnn.layers[0].weight[0] = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="must be"):
        rnn(torch.zeros(2, 1, 4))
    with torch.device("meta"):
        elsewhere = nr.RNN(nr.zoo["LSTM"], 4, 4, backend="fused")
    with pytest.raises(TypeError, match="meta"):
        elsewhere(torch.zeros(2, 1, 4), tuple(torch.zeros(1, 1, 4) for _ in "hc"))


def test_without_gradients() -> None:
    problem = Problem(MIXED, 12, 12, 3, 4)
    expected, _ = problem.rnn(problem.x)
    with torch.no_grad():
        out, _ = problem.rnn(problem.x)
    assert not out.requires_grad
    assert torch.equal(out, expected)
    with torch.inference_mode():
        out, state = problem.rnn(problem.x)
        problem.rnn(problem.x, state)
    assert torch.equal(out, expected)


def test_what_is_changed_in_place_is_noticed() -> None:
    problem = Problem(nr.zoo["LSTM"], 4, 4, 2, 3)
    for change in ("x", "out", "state"):
        x = problem.x.clone().requires_grad_()
        copied = x * 1
        out, state = problem.rnn(copied)
        expected = out.detach().clone()
        target = {"x": copied, "out": out, "state": state.h}[change]
        with torch.no_grad():
            target.mul_(2)
        if change == "state":  # which is a copy
            assert torch.equal(out, expected)
        else:
            with pytest.raises(RuntimeError, match="inplace"):
                out.sum().backward()


def test_the_state_of_layers_of_different_sizes_is_a_copy_too() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], 4, 5, num_layers=2, last_size=3, backend="fused")
    with torch.no_grad():
        out, state = rnn(torch.randn(3, 2, 4))
        expected = out.clone()
        state.h[-1].zero_()
    assert torch.equal(out, expected)


def test_copies_pickles_and_state_dicts() -> None:
    problem = Problem(MIXED, 12, 12, 3, 4)
    expected, _ = problem.rnn(problem.x)
    fresh = nr.RNN(MIXED, 12, 12, backend="fused")
    fresh.load_state_dict(problem.rnn.state_dict())
    for rnn in (copy.deepcopy(problem.rnn), pickle.loads(pickle.dumps(problem.rnn)), fresh):
        assert torch.equal(rnn(problem.x)[0], expected)


def test_cells_without_parameters() -> None:
    assert_exact(Problem("Tanh(Add(x_t,Mult(h_{t-1},PosEnc)))", 7, 7, 3, 4))


def test_float64_runs_on_the_reference_with_a_word_if_fused_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    rnn = nr.RNN(nr.zoo["LSTM"], 4, 4).double()
    expected = rnn(x)[0]  # a warning would be an error
    rnn.backend = "fused"
    with pytest.warns(RuntimeWarning, match=r"no fused code for torch\.float64 on cpu"):
        assert torch.equal(rnn(x)[0], expected)
    rnn(x)  # once is enough


def test_weights_of_another_dtype_than_the_input_are_refused() -> None:
    rnn = nr.RNN(nr.zoo["LSTM"], 4, 4, backend="fused").double()
    with pytest.raises(TypeError, match=r"float64.*float32"):
        rnn(torch.zeros(3, 2, 4))
    state = State(*torch.zeros(2, 1, 2, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"float64.*float32"):
        rnn.float()(torch.zeros(3, 2, 4), state)


def test_other_defaults_of_torch() -> None:
    problem = Problem(MIXED, 12, 12, 3, 4)
    expected = problem.rnn(problem.x, lengths=torch.tensor([4, 2, 3]))[0]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)  # scratch memory must not follow
        lengths = torch.tensor([4, 2, 3])
        with torch.device("meta"):
            out = problem.rnn(problem.x, lengths=lengths)[0]
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(out, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at the inputs of each piece
def test_a_compiled_model_breaks_its_graph_at_the_layer() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nr.RNN(nr.zoo["LSTM"], 4, 4, backend="fused")

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x * 2)[0] + 1

    model, x = Model(), torch.randn(3, 2, 4)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))


def _in_another_process(seed: int) -> np.ndarray:
    problem = Problem(nr.zoo["LSTM"], 8, 8, 3, 4, seed)
    return problem.solve("fused", torch.float32)["d_x"].numpy()


def test_spawned_workers() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = torch.from_numpy(pool.apply(_in_another_process, (1,)))
    torch.testing.assert_close(found, torch.from_numpy(_in_another_process(1)), rtol=1e-5, atol=1e-6)


# --- where there is no fused code ---------------------------------------------------------------------------


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A process that has compiled nothing, said nothing, and has an empty cache."""
    monkeypatch.setattr(build, "_loaded", {})
    forget(monkeypatch)
    monkeypatch.setenv("NASREPRO_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    cpu.driver.cache_clear()
    cpu.kernels.cache_clear()
    yield tmp_path
    cpu.driver.cache_clear()
    cpu.kernels.cache_clear()


def _falls_back(cell: Cell | str, message: str) -> None:
    for backend in ("auto", "fused"):
        rnn = nr.RNN(cell, 4, 4, backend=backend)
        x = torch.randn(3, 2, 4).requires_grad_()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            out, _ = rnn(x)
            out.sum().backward()
            rnn(x)
        assert [w.category for w in caught] == ([RuntimeWarning] if backend == "auto" else []), caught  # once
        assert all(message in str(w.message) for w in caught)
        rnn.backend = "reference"
        assert torch.equal(rnn(x)[0], out)


def test_no_compiler(nothing_compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nothing_compiled))
    _falls_back(nr.zoo["LSTM"], "no C compiler found: install gcc or clang")


def test_a_broken_compiler_is_asked_once(nothing_compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr(build, "_run", lambda *a: runs.append(a) or (_ for _ in ()).throw(NativeError("broken")))
    _falls_back(nr.zoo["LSTM"], "broken")
    assert len(runs) == 1


def test_a_cache_that_others_may_write_to(nothing_compiled) -> None:
    folder = nothing_compiled / "native"
    folder.mkdir()
    folder.chmod(0o777)
    _falls_back(nr.zoo["LSTM"], "others may write")


def test_a_cache_that_cannot_be_made(nothing_compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    (nothing_compiled / "file").write_text("in the way")
    monkeypatch.setenv("NASREPRO_CACHE", str(nothing_compiled / "file"))
    _falls_back(nr.zoo["LSTM"], "cannot keep compiled code in")


def test_a_cell_of_more_products_than_the_driver_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    most = cpu.driver(torch.float32).most_runs()
    tree = "Tanh(x_t)"
    while tree.count("MM") // 2 <= most:
        tree = f"Sub(Add(MM(Sin(MM(h_{{t-1}}))),MM(Cos(MM(h_{{t-1}})))),{tree})"
    forget(monkeypatch)
    _falls_back(tree, "products, more than the fused backend takes")
