"""Recordings: what they do with streams, generators, memory and threads, on a fake GPU."""

import gc
import threading
import time
import warnings

import pytest
import torch
from torch import Tensor

from nasrepro.rnn import recording
from nasrepro.rnn.recording import RecordedFunction, Recording, can_draw_from_generators, part_of_another
from tests.rnn.fake_gpu import CUDA, FakeGPU


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    return FakeGPU(monkeypatch)


class Work:
    """Counts in a tensor how often it was done, and beside it how often Python came by."""

    def __init__(self) -> None:
        self.x = torch.ones(3)
        self.done = torch.zeros(())
        self.times_in_python = 0

    def __call__(self) -> Tensor:
        self.times_in_python += 1
        self.done.add_(1)
        return self.x * 2 + self.done


def test_the_first_call_works_and_the_others_replay(gpu: FakeGPU) -> None:
    work = Work()
    call = Recording(work, CUDA)
    assert call().tolist() == [3, 3, 3]
    assert work.done == 1, "a capture does nothing"
    results = []
    for number in (2, 3):
        work.x.fill_(10 * number)
        result = call()
        assert result.tolist() == [21 * number] * 3
        results.append(result)
    assert results[0] is results[1]
    assert (work.times_in_python, gpu.captured, gpu.replayed) == (2, 1, 2)


@pytest.mark.parametrize("where", ["begin", "end", "work"])
def test_a_failed_recording_leaves_its_stream_and_ends_all_recording(where: str, gpu: FakeGPU) -> None:
    work = Work()
    if where == "work":  # as on a GPU, it may not wait for what it has not done
        call = Recording(lambda: work() * work.x[0].item(), CUDA)
    else:
        gpu.fails[where] = RuntimeError("CUDA error: operation failed")
        call = Recording(work, CUDA)
    stream = gpu.current_stream
    with pytest.warns(RuntimeWarning, match="cells run without CUDA graphs, several times slower: .*operation") as said:
        assert call().tolist() == [3, 3, 3]
    assert len(said) == 1
    assert gpu.current_stream is stream
    assert gpu.capturing is None
    gpu.fails.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call().tolist() == [4, 4, 4]
        assert Recording(work, CUDA)().tolist() == [5, 5, 5]
    assert not recording.may_record(CUDA)
    assert gpu.replayed == 0


def test_what_does_not_fit_as_a_graph_goes_on_alone(gpu: FakeGPU) -> None:
    tried = []

    def too_large() -> Tensor:
        if gpu.capturing is not None:
            tried.append(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return large()

    large, small = Work(), Work()
    calls = [Recording(too_large, CUDA), Recording(small, CUDA)]
    for number in range(3, 7):
        assert [call().tolist() for call in calls] == [[number] * 3] * 2
    assert len(tried) == 1
    assert (large.times_in_python, small.times_in_python, gpu.replayed) == (4, 2, 3)


def test_what_is_drawn_goes_on_from_call_to_call(gpu: FakeGPU) -> None:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    ours, alone = generator(), generator()
    call = Recording(lambda: torch.empty(20).bernoulli_(0.5, generator=ours), CUDA, [ours])
    for _ in range(4):
        assert torch.equal(call(), torch.empty(20).bernoulli_(0.5, generator=alone))
    assert gpu.replayed == 3
    with pytest.warns(RuntimeWarning, match="a generator that was not registered"):
        Recording(lambda: torch.empty(20).bernoulli_(0.5, generator=ours), CUDA)()


def test_threads_record_one_after_the_other_and_none_waits(gpu: FakeGPU) -> None:
    """A recording of a backward pass needs autograd's thread, of which there is one for all."""
    both, works = threading.Barrier(2), []

    def work() -> Tensor:
        works.append(1)
        time.sleep(0.05)
        return torch.ones(1)

    def record() -> None:
        recording = Recording(work, CUDA)
        both.wait()
        while recording.graph is None:
            recording()

    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (gpu.captured, gpu.most_at_once) == (2, 1)
    assert len(works) > 4, "who cannot record goes on launch by launch"


def test_a_graphs_own_memory_is_counted(gpu: FakeGPU) -> None:
    x, y = torch.ones(1000), torch.empty(1000)
    call = Recording(lambda: torch.mul(x * 2, 3, out=y), CUDA)
    call()
    assert call.bytes == 4000  # x * 2, and not y, which was there before


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_collected_while_a_graph_is_captured(enabled: bool, fails: bool, gpu: FakeGPU) -> None:
    collects = []
    if fails:
        gpu.fails["end"] = torch.cuda.OutOfMemoryError("CUDA out of memory")
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()

    def work() -> Tensor:
        collects.append(gc.isenabled())
        return torch.ones(1)

    try:
        Recording(work, CUDA)()
        assert collects == [enabled, False]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


# --- functions of tensors ------------------------------------------------------------------------------------


class Function:
    """Adds its arguments up and keeps a running total; counts how often Python came by."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.times_in_python = 0

    def __call__(self, *arguments: Tensor) -> tuple[Tensor]:
        self.times_in_python += 1
        for argument in arguments:
            self.total.add_(argument.sum())
        return (self.total * 1,)


def test_a_kind_of_arguments_runs_is_recorded_and_is_replayed(gpu: FakeGPU) -> None:
    function = Function()
    call = RecordedFunction(function)
    counts = []
    for number in range(1, 5):
        (result,) = call(torch.full((2,), float(number)))
        assert result.item() == number * (number + 1)
        counts.append((function.times_in_python, gpu.captured, gpu.replayed))
    assert counts == [(1, 0, 0), (3, 1, 0), (3, 1, 1), (3, 1, 2)]


@pytest.mark.parametrize(
    "other", [(torch.ones(3),), (torch.ones(2, dtype=torch.int64),), (torch.ones(1, 2),), (torch.ones(2),) * 2]
)
def test_another_shape_type_or_number_is_another_kind(other: tuple[Tensor, ...], gpu: FakeGPU) -> None:
    function = Function()
    call = RecordedFunction(function)
    total = 0.0
    for _ in range(4):
        for arguments in ((torch.ones(2),), other):
            total += sum(float(argument.sum()) for argument in arguments)
            (result,) = call(*arguments)
            assert result.item() == total
    assert (len(call.recorded), gpu.captured, gpu.replayed) == (2, 2, 4)


def test_kinds_over_the_bound_run_launch_by_launch(gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedFunction, "most", 2)
    function = Function()
    call = RecordedFunction(function)
    for _ in range(4):
        for size in (1, 2, 3):
            call(torch.ones(size))
    assert function.total == 4 * 6
    assert (gpu.captured, gpu.replayed) == (2, 4)
    assert function.times_in_python == 3 + 3 + 4  # of two kinds the first call and the recorded, of one all


def test_arguments_may_be_changed_after_a_call(gpu: FakeGPU) -> None:
    call = RecordedFunction(lambda x: (x + 1,))
    x = torch.zeros(2)
    results = []
    for _ in range(4):
        results.append(call(x)[0].clone())
        x.add_(1)
    assert [result[0].item() for result in results] == [1, 2, 3, 4]


def test_nothing_inside_records_a_graph_of_its_own(gpu: FakeGPU) -> None:
    asked = []

    def function(x: Tensor) -> tuple[Tensor]:
        asked.append(recording.may_record(CUDA))
        return (x + 1,)

    call = RecordedFunction(function)
    for _ in range(3):
        assert recording.may_record(CUDA)
        call(torch.ones(2))
    assert asked == [False, False, False]  # launch by launch, before the capture, in it
    assert recording.may_record(CUDA)
    with part_of_another():
        nested = RecordedFunction(function)
        for _ in range(3):
            nested(torch.ones(2))
    assert (len(nested.recorded), gpu.captured) == (0, 1)


def test_another_thread_may_still_record(gpu: FakeGPU) -> None:
    answers: list[bool] = []
    with part_of_another():
        thread = threading.Thread(target=lambda: answers.append(recording.may_record(CUDA)))
        thread.start()
        thread.join()
    assert answers == [True]


def test_without_generators_of_ones_own_what_draws_is_not_recorded(
    gpu: FakeGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.0+cu128")
    assert not can_draw_from_generators()
    generator = torch.Generator()
    draws = RecordedFunction(lambda x: (x * torch.empty(2).bernoulli_(0.5, generator=generator),), [generator])
    plain = RecordedFunction(lambda x: (x * 2,))
    for _ in range(3):
        draws(torch.ones(2))
        plain(torch.ones(2))
    assert (len(draws.recorded), len(plain.recorded)) == (0, 1)


def test_on_a_processor_nothing_is_recorded() -> None:
    function = Function()
    call = RecordedFunction(function)
    for number in range(1, 5):
        assert call(torch.ones(2))[0].item() == 2 * number
    assert (function.times_in_python, call.recorded) == (4, {})


@pytest.mark.gpu
def test_on_a_gpu_what_does_not_fit_as_a_graph_goes_on_alone() -> None:
    def too_large() -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**50, device="cuda")
        return x * 2

    x = torch.ones(3, device="cuda")
    large, small = Recording(too_large, x.device), Recording(lambda: x * 3, x.device)
    for number in range(1, 5):
        x.fill_(number)
        assert large().tolist() == [2 * number] * 3
        assert small().tolist() == [3 * number] * 3
    assert (large.graph is None, small.graph is None) == (True, False)
