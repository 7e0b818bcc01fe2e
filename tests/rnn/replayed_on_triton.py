"""CUDA graphs of the fused backend in Triton's interpreter, on a fake GPU: run by test_fused_cuda.py, in its process.

Every call is recorded, and what a graph holds is the kernels, with their arguments, and torch's operators between them.
"""

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

import nasrepro as nr
from nasrepro.rnn.backend import LayerState, Options, ProductWeights
from nasrepro.rnn.fused import cuda, triton_source
from nasrepro.rnn.fused.plan import Plan, plan_cell
from tests.rnn.fake_gpu import CountOperators, FakeGPU
from tests.rnn.fused_on_triton import NORMS, Case

LOADED: dict[str, dict[str, Any]] = {}
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    """Replays are recorded at the first call."""
    gpu = FakeGPU(monkeypatch)

    monkeypatch.setattr(
        cuda, "load_kernels", lambda plan: {name: gpu.kernel(kernel) for name, kernel in loaded(plan).items()}
    )
    monkeypatch.setattr(cuda, "kernels", lru_cache(cuda.kernels.__wrapped__))
    monkeypatch.setattr(cuda, "replays", cuda._Replays())
    monkeypatch.setattr(cuda, "CALLS_BEFORE_RECORDING", 0)
    return gpu


def loaded(plan: Plan) -> dict[str, Any]:
    """The kernels of a plan, loaded once, since the interpreter reads them for long."""
    text = triton_source.triton_source(plan)
    if text not in LOADED:
        named = triton_source.load_kernels(plan)
        kernels = [name for name in named if name.startswith(("forward_", "backward_", "normalise"))]
        LOADED[text] = {name: named[name] for name in kernels}
    return LOADED[text]


def launched(case: Case) -> dict[str, Tensor]:
    """What a case gives launch by launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "CALLS_BEFORE_RECORDING", float("inf"))
        return case.run(cuda.run, torch.float32, "cpu")


def replayed(case: Case) -> dict[str, Tensor]:
    """What it gives as calls come."""
    return case.run(cuda.run, torch.float32, "cpu")


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def small(cell: str = "TanhRNN") -> Case:
    return Case(nr.parse(str(nr.zoo.get(cell, cell))), steps=2, batch=2, inputs=4, hidden=4)


@pytest.mark.parametrize(("cell", "lengths"), [("LSTM", None), ("BC3", [1, 2]), (NORMS, [2, 1])])
def test_graphs_do_what_launches_do(cell: str, lengths: list[int] | None, gpu: FakeGPU) -> None:
    case = small(cell)
    case.lengths = None if lengths is None else torch.tensor(lengths)
    for scale in (1, 3):
        case.x = scale * case.x
        assert equal(replayed(case), launched(case))
    assert (gpu.captured, gpu.replayed) == (2, 2)  # forward and backward pass


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_replay_made_without_gradients_serves_training_too(mode: type, gpu: FakeGPU) -> None:
    case = small()
    expected = launched(case)
    with mode():
        assert torch.equal(replayed(case)["out"], expected["out"])
    for _ in range(2):
        assert equal(replayed(case), expected)
    with mode():
        assert torch.equal(replayed(case)["out"], expected["out"])
    assert (cuda.replays.recorded, gpu.captured) == (1, 2)


@pytest.mark.parametrize("where", ["__init__", "forward", "_backward_pass", "backward"])
def test_where_memory_is_short_a_call_is_launched(where: str, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OUT_OF_MEMORY

    case = small()
    expected = launched(case)
    with monkeypatch.context() as patch:
        patch.setattr(cuda._Replay, where, fail)
        assert equal(replayed(case), expected)
    assert len(cuda.replays.kept) == 0
    assert equal(replayed(case), expected)
    assert len(cuda.replays.kept) == 0, "it is tried again too soon"
    other = small("Tanh(MM(h_{t-1}))")
    assert equal(replayed(other), launched(other))
    assert len(cuda.replays.kept) == 1


def test_where_memory_is_short_for_a_graph_the_pass_is_launched(gpu: FakeGPU) -> None:
    case = small()
    expected = launched(case)
    gpu.fails["end"] = OUT_OF_MEMORY
    for _ in range(3):
        assert equal(replayed(case), expected)
    assert gpu.replayed == 0


def test_a_mask_that_requires_its_gradient(gpu: FakeGPU) -> None:
    case = small()
    case.mask = case.draw(2, 4).gt(0).double()
    expected = launched(case)
    case.mask.requires_grad_()
    for _ in range(2):
        assert equal(replayed(case), expected)


@pytest.mark.parametrize("cell", ["LSTM", NORMS])
def test_a_backward_pass_inside_somebodys_graph_is_part_of_it(cell: str, gpu: FakeGPU) -> None:
    case = small(cell)
    weights = [weight.float().requires_grad_() for weight in case.weights]
    pairs = [ProductWeights(weight, bias.float()) for weight, bias in zip(weights, case.biases, strict=True)]
    last_x = None if case.last_x is None else case.last_x.float()
    c = None if case.c is None else case.c.float()

    def forward() -> Tensor:
        return cuda.run(case.program, pairs, case.x.float(), LayerState(case.h.float(), c, last_x, 0), Options())[0]

    expected = torch.autograd.grad(forward().sum(), weights)
    out = forward().sum()
    captured = gpu.captured
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    found = torch.autograd.grad(out, weights)
    graph.capture_end()
    assert gpu.captured == captured + 1
    graph.replay()
    assert all(map(torch.equal, found, expected))


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["LSTM", NORMS])
def test_kernels_for_more_elements_than_int32_counts(cell: str, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small(cell)
    expected = launched(case)
    told = []

    def always(self: FakeGPU, kernel: Any) -> None:
        told.append("MANY" in kernel.keywords)
        kernel.keywords.update(dict.fromkeys({"MANY"} & kernel.keywords.keys(), True))
        kernel()

    monkeypatch.setattr(FakeGPU, "launch", always)
    assert equal(launched(case), expected)
    assert any(told)


def test_a_program_behind_element_2_to_the_31_does_not_come_round(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import interpreter_builder

    place = interpreter_builder.set_grid_idx
    plan = plan_cell(nr.parse("Tanh(Mult(x_t, h_{t-1}))"))
    named = triton_source.load_kernels(plan)
    ((number, level),) = enumerate(plan.step)
    kernel = named[triton_source.kernel_name("forward", "step", number, 0)]
    tensors = [torch.full((4, 128), 0.5) for _ in triton_source.spaces_of(level.forward[0])]

    def far(x: int, y: int, z: int) -> None:
        place(x, y, z)
        interpreter_builder.grid_idx = (x + 2**24, y, z)

    monkeypatch.setattr(interpreter_builder, "set_grid_idx", far)
    kernel[(1,)](*tensors, 4, 128, 128, BLOCK=128, MANY=True)
    assert all((tensor == 0.5).all() for tensor in tensors)
    monkeypatch.setattr(interpreter_builder, "set_grid_idx", place)
    kernel[(1,)](*tensors, 4, 128, 128, BLOCK=128, MANY=True)
    assert not all((tensor == 0.5).all() for tensor in tensors)


# --- launches ------------------------------------------------------------------------------------------------


def operators(name: str, steps: int, lengths: bool) -> tuple[int, int]:
    """torch's operators, without views, in the forward pass of a layer and in its backward pass."""
    case = Case(nr.zoo[name], steps=steps, batch=2, inputs=3, hidden=3)
    options = Options(lengths=torch.tensor([1, steps]) if lengths else None)
    weights = [
        ProductWeights(w.float().requires_grad_(), b.float()) for w, b in zip(case.weights, case.biases, strict=True)
    ]
    state = LayerState(case.h.float(), case.c.float(), None, 0)
    with CountOperators() as forward:
        out, _ = cuda.run(case.program, weights, case.x.float(), state, options)
    d_out = torch.ones_like(out)
    with CountOperators() as backward:
        torch.autograd.grad(out, [pair.weight for pair in weights], d_out)
    return forward.work, backward.work


@pytest.mark.parametrize("name", ["LSTM", "BC3"])
def test_lengths_cost_no_launches_at_each_step(name: str, gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "CALLS_BEFORE_RECORDING", float("inf"))
    monkeypatch.setattr(FakeGPU, "launch", lambda self, kernel: None)  # Triton's interpreter calls torch for them
    counts = {(T, lengths): operators(name, T, lengths) for T in (3, 6) for lengths in (False, True)}
    more = [
        (counts[6, True][way] - counts[3, True][way] - counts[6, False][way] + counts[3, False][way]) / 3
        for way in (0, 1)
    ]
    # Six more and six more for the LSTM, ten and ten for BC3, when every step put right what it had done behind an end.
    assert more[0] == 0
    assert more[1] <= 2  # for h and c each
