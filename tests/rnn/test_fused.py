"""The fused backend on the CPU against the reference interpreter in float64: every tensor that comes out or back."""

import copy
import ctypes
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import nasrepro as nr
from nasrepro import native
from nasrepro.dsl import Cell, Node
from nasrepro.dsl.operators import OPERATORS
from nasrepro.native import build
from nasrepro.rnn import State
from nasrepro.rnn.fused import cpu
from nasrepro.rnn.fused.c_source import c_source
from nasrepro.rnn.fused.plan import plan_cell
from tests.rnn.problem import (
    BFLOAT16,
    FLOAT32,
    MIXED,
    Problem,
    assert_exact,
    error,
    needs_compiler,
    same_infinities,
    yardsticks,
)
from tests.strategies import EVERY_WORD

pytestmark = needs_compiler


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
    """Each within what can be promised of it, and at least three of four cells as the promise stands."""
    promises = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
    kept, failures = dict.fromkeys(promises, 0), []
    for number, cell in enumerate(RANDOM_CELLS):
        problem, lengths = random_problem(number)
        for product_dtype, yardstick in yardsticks(problem, lengths, promises).items():
            ours = problem.solve("fused", torch.float32, product_dtype, lengths)
            errors = yardstick.errors(ours)
            # Where a sequence has ended, the reference multiplies gradients of zero by infinity, which we do not.
            patterns_agree = lengths is not None or same_infinities(ours, yardstick.reference)
            if not yardstick.fits(ours, promises[product_dtype]) or not patterns_agree:
                failures.append((number, str(cell), product_dtype, errors, yardstick.worst, patterns_agree))
            kept[product_dtype] += max(errors.values()) <= promises[product_dtype]
    assert not failures, failures
    assert min(kept.values()) >= 150


# --- hard cases ---------------------------------------------------------------------------------------------


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


# Its loops write what reaches x_t and x_{t-1}, whether anybody wants that or not.
READS_INPUTS = nr.parse("Tanh(Add(Mult(x_t, MM(Add(MM(h_{t-1}), c_{t-1}))), Mult(x_{t-1}, MM(h_{t-1}))))|4")


@pytest.mark.parametrize("wanted", ["x", "last x", "x and last x", "h", "weights", "bias"])
@pytest.mark.parametrize("given", ["out", "h", "c"])
@pytest.mark.parametrize("cell", [MIXED, READS_INPUTS])
def test_gradients_of_some_from_some(cell: nr.Cell, wanted: str, given: str) -> None:
    problem = Problem(cell, 18, 18, 3, 4)
    found = []
    for backend, dtype in (("fused", torch.float32), ("reference", torch.float64)):
        rnn = copy.deepcopy(problem.rnn).to(dtype).requires_grad_(False)
        rnn.backend = backend
        x, h, c, last = (tensor.detach().to(dtype) for tensor in (problem.x, *problem.state))
        weights = {"weights": [rnn.layers[0].weight[-1]], "bias": [rnn.layers[0].bias[0]]}
        leaves = ({"x": [x], "last x": [last], "x and last x": [x, last], "h": [h]} | weights)[wanted]
        for leaf in leaves:
            leaf.requires_grad_()
        out, after = rnn(x, State(h, c, last, 3))
        value = {"out": out, "h": after.h, "c": after.c}[given]
        (value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum().backward()
        found.append([leaf.grad for leaf in leaves])
        assert sum(p.grad is not None for p in rnn.parameters()) == (wanted in {"weights", "bias"})
    for ours, exact in zip(*found, strict=True):
        assert error(ours, exact) <= FLOAT32


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


@pytest.mark.parametrize("cell", [MIXED, *nr.zoo.values()], ids=lambda cell: str(cell)[:30])
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


DIVISIONS = [
    "Tanh(Add(Div(MM(x_t),MM(x_t)),MM(h_{t-1})))",  # once for all steps, before the loop
    "Tanh(Add(Div(MM(x_t),Add(MM(x_t),Mult(x_t,h_{t-1}))),MM(h_{t-1})))",  # at each step
    "Tanh(Div(MM(Mult(x_t,x_t)),Add(MM(x_{t-1}),MM(x_t))))",
]


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("padding", [0.0, 1e30])
@pytest.mark.parametrize("cell", DIVISIONS)
def test_gradients_of_padded_sequences_are_those_of_the_single_ones(cell: str, padding: float, backend: str) -> None:
    rnn = nr.RNN(cell, 6, 6, bias=False, backend=backend, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(rnn).double()
    exact.backend = "reference"
    x = torch.rand(7, 5, 6, generator=torch.Generator().manual_seed(2)) + 0.5
    x[torch.arange(7)[:, None] >= LENGTHS] = padding
    leaf, exact_leaf = x.requires_grad_(), x.detach().double().requires_grad_()

    padded = torch.autograd.grad(rnn(leaf, lengths=LENGTHS)[0].sum(), [leaf, *rnn.parameters()])
    sums = [exact(exact_leaf[:length, b : b + 1])[0].sum() for b, length in enumerate(LENGTHS.tolist())]
    singles = torch.autograd.grad(sum(sums), [exact_leaf, *exact.parameters()])
    assert max(map(error, padded, singles)) <= 10 * FLOAT32  # quotients of small numbers


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
