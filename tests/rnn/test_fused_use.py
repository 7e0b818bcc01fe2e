"""The fused backend as a torch module: graphs, copies, processes, other types, and machines where it cannot run."""

import copy
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nasrepro as nr
from nasrepro.dsl import Cell
from nasrepro.native import NativeError, build
from nasrepro.rnn import State, fused
from nasrepro.rnn.fused import cpu
from tests.rnn.problem import FLOAT32, MIXED, Problem, assert_exact, error, needs_compiler

pytestmark = needs_compiler


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
