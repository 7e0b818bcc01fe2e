"""The fused CUDA backend: its kernels in Triton's interpreter, and on a GPU also the CUDA graphs that launch them."""

import itertools
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import nasrepro as nr
from nasrepro.native import NativeError
from nasrepro.rnn import products
from nasrepro.rnn.fused import cuda, triton_source
from nasrepro.rnn.fused.plan import plan_cell

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "where", [pytest.param("interpreter", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)]
)
def test_values_and_gradients(where: str) -> None:
    # Triton decides when it is imported whether it compiles or interprets, so either needs a process of its own.
    pytest.importorskip("triton", reason="there is no triton for this machine")
    files = [Path(__file__).with_name("fused_on_triton.py")]
    if where == "interpreter":
        files.append(Path(__file__).with_name("replayed_on_triton.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    # No plugins but the one that pytest's settings here name: a machine's others may warn, and warnings are errors.
    only = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_timeout"}
    environment = os.environ | only | {"TRITON_INTERPRET": str(int(where == "interpreter"))}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]


def test_every_cell_has_a_kernel_for_each_elementwise_loop() -> None:
    for name in nr.zoo:
        plan = plan_cell(nr.zoo[name])
        text = triton_source.triton_source(plan)
        compile(text, name, "exec")
        loops = sum(len(level.forward) + len(level.backward) for _, _, level in plan.levels)
        assert text.count("@triton.jit") == loops


EVERY_FUNCTION = (
    "Max(SeLU(Sin(MM(x_t))), Gate3(Cos(MM(h_{t-1})), ReLU(Div(h_{t-1}, MM(x_t))), Sigmoid(LayerNorm(Tanh(MM(x_t))))))"
)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here and compiles nothing")
def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    compiler = pytest.importorskip("triton.compiler", reason="there is no triton for this machine")
    from triton.backends.compiler import GPUTarget

    kernels = triton_source.load_kernels(plan_cell(nr.parse(EVERY_FUNCTION)))
    compiled = [name for name in kernels if name.startswith(("forward_", "backward_", "normalise"))]
    assert len(compiled) >= 4
    for name, many in itertools.product(compiled, (False, True)):
        kernel = kernels[name]
        constants = {"BLOCK": 128, "ADD": True, "MANY": many}
        sizes = {"rows", "hidden", "inputs", "width", "at_row", "given_row", "to_row"}
        signature = {
            argument: "constexpr" if argument in constants else "i32" if argument in sizes else "*fp32"
            for argument in kernel.arg_names
        }
        places = {(kernel.arg_names.index(a),): value for a, value in constants.items() if a in kernel.arg_names}
        source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=places)
        assert compiler.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "nasrepro.rnn.fused.triton_functions", raising=False)
    with pytest.raises(
        NativeError, match=r"Triton cannot be used here .* Install the triton that belongs to this torch"
    ):
        triton_source.load_kernels(plan_cell(nr.zoo["LSTM"]))


@pytest.mark.parametrize(
    "failure",
    [
        subprocess.CalledProcessError(1, ["gcc", "cuda_utils.c"]),  # a compiler without Python's headers
        subprocess.TimeoutExpired(["ldconfig"], 5),
        AssertionError("libcuda.so cannot found!"),
        AssertionError(),
        FileNotFoundError(2, "No such file or directory", "gcc"),
        PermissionError(13, "Permission denied", "/.triton"),
        RuntimeError("Failed to find C compiler."),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_where_triton_cannot_build_the_error_says_what_to_install(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton", reason="there is no triton for this machine")

    def fail() -> None:
        raise failure

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    active = SimpleNamespace(get_current_target=fail)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    said = str(failure) or "AssertionError"
    with pytest.raises(NativeError) as caught:
        triton_source.load_kernels(plan_cell(nr.zoo["LSTM"]))
    assert str(caught.value).startswith(f"Triton cannot be used here ({said}). Install")
    assert "a C compiler with Python's headers" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "widens"),
    [
        ("2.3.1", False),
        ("2.7.1", False),
        ("2.8.0", False),
        ("2.9.1+cu128", False),
        ("2.10.0", True),
        ("2.11.0+cu130", True),
        ("2.13.0a0+git1234567", True),
        ("3.0.0", True),
    ],
)
def test_products_are_widened_in_one_kernel_where_torch_can(version: str, widens: bool) -> None:
    assert products._widens(version) == widens


@pytest.mark.parametrize("cell", ["LSTM", "BC3"])
@pytest.mark.parametrize(("rows", "many"), [(2**21 - 1, False), (2**21, True), (2**21 + 1, True)])
def test_kernels_are_told_of_more_elements_than_int32_counts(cell: str, rows: int, many: bool) -> None:
    class Kernel:
        def __getitem__(self, grid: tuple[int]):
            def launch(*arguments: object, BLOCK: int, MANY: bool) -> None:
                assert grid[0] * BLOCK >= rows * 1024
                told.append(MANY)

            return launch

    told: list[bool] = []
    plan = plan_cell(nr.zoo[cell])
    kernels = SimpleNamespace(plan=plan, named=defaultdict(Kernel))
    work = cuda._Pass(kernels, cuda._Sizes(1, rows, 1024, 1024), {})
    spaces = defaultdict(lambda: torch.empty(1, 1).expand(rows, 1024))  # without the memory
    for part, number, level in plan.levels:
        work._launch("forward", part, number, level.forward, spaces)
        work._launch("backward", part, number, level.backward, spaces)
    assert told == [many] * sum(len(level.forward) + len(level.backward) for _, _, level in plan.levels)


# --- CUDA graphs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def record_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "replays", cuda._Replays())
    monkeypatch.setattr(cuda, "CALLS_BEFORE_RECORDING", 0)


def _layer(cell: str = "LSTM", **options) -> tuple[nr.RNN, Tensor]:
    rnn = nr.RNN(nr.zoo[cell], 48, 48, generator=torch.Generator().manual_seed(0), **options).cuda()
    return rnn, torch.randn(6, 4, 48, generator=torch.Generator().manual_seed(1)).cuda()


def _gradients(rnn: nr.RNN, out: Tensor, **options) -> list[Tensor]:
    return list(torch.autograd.grad(out.square().sum(), list(rnn.parameters()), **options))


def _agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("product_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", ["LSTM", "BC3"])
def test_graphs_do_what_launches_did(cell: str, product_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "replays", cuda._Replays())
    rnn, x = _layer(cell, product_dtype=product_dtype)
    rounds = []
    for _ in range(5):
        out, state = rnn(x)
        rounds.append([out, *state, *_gradients(rnn, out)])
    assert len(cuda.replays.kept) == 1
    for found in rounds[1:]:
        _agree(found, rounds[0])


@pytest.mark.gpu
def test_calls_that_wait_for_their_backward_passes_keep_their_values(record_at_once: None) -> None:
    rnn, x = _layer()
    alone = [_gradients(rnn, rnn(scale * x)[0]) for scale in (1, 2, 3)]
    outs = [rnn(scale * x)[0] for scale in (1, 2, 3)]
    values = [out.detach().clone() for out in outs]
    for number in (1, 0, 2):
        _agree(_gradients(rnn, outs[number], retain_graph=True), alone[number])
        _agree(_gradients(rnn, outs[number]), alone[number])
    assert all(map(torch.equal, values, outs))


@pytest.mark.gpu
def test_graphs_see_changed_weights_masks_and_lengths(record_at_once: None) -> None:
    rnn, x = _layer("GRU", hidden_dropout=0.5)
    exact = nr.RNN(nr.zoo["GRU"], 48, 48, hidden_dropout=0.5, backend="reference").cuda()
    for seed, lengths in enumerate(([6, 5, 4, 1], [1, 2, 6, 6], [3, 3, 3, 3])):
        with torch.no_grad():
            for parameter in rnn.parameters():
                parameter.add_(0.01)
        exact.load_state_dict(rnn.state_dict())
        outs = [
            module(x, lengths=torch.tensor(lengths), generator=torch.Generator("cuda").manual_seed(seed))[0]
            for module in (rnn, exact)
        ]
        _agree([outs[0], *_gradients(rnn, outs[0])], [outs[1], *_gradients(exact, outs[1])])


@pytest.mark.gpu
def test_sizes_in_turn_and_more_than_are_kept(record_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.replays, "most", 2)
    rnn, x = _layer()
    with torch.no_grad():
        for _ in range(2):
            for steps in (6, 5, 4, 3):
                _agree([rnn(x[:steps])[0]], [rnn(x)[0][:steps]])
    assert len(cuda.replays.kept) == 2


@pytest.mark.gpu
def test_inside_a_graph_of_somebody_else(record_at_once: None) -> None:
    rnn, x = _layer()
    with torch.no_grad():
        expected = rnn(2 * x)[0]
        kept = len(cuda.replays.kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = rnn(x)[0]
        x.mul_(2)
        graph.replay()
        _agree([out], [expected])
    assert len(cuda.replays.kept) == kept


@pytest.mark.gpu
def test_streams_do_not_share_graphs(record_at_once: None) -> None:
    rnn, x = _layer()
    expected = [rnn(scale * x)[0].detach() for scale in range(8)]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    outs = []
    for scale in range(8):
        with torch.cuda.stream(streams[scale % 2]), torch.no_grad():
            outs.append(rnn(scale * x)[0])
    torch.cuda.synchronize()
    _agree(outs[1:], expected[1:])


@pytest.mark.gpu
def test_tf32_is_followed_and_never_set(record_at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, x = _layer()
    outs = []
    for allowed in (False, True, False):
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", allowed)
        outs.append(rnn(x)[0].detach())
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
    assert torch.equal(outs[0], outs[2])
    _agree([outs[0]], [rnn.double()(x.double())[0].float()])
