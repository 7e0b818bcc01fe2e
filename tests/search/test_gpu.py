"""Workers share a GPU, and what one of them does there spoils nothing for the next."""

import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nasrepro.dsl import Cell, zoo
from nasrepro.search import gpu
from nasrepro.search.faults import WorkerError
from nasrepro.search.held_out import HeldOut
from nasrepro.search.workers import Job, Workers, device_of
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, PlayedGpuTask, fake_perplexity
from tests.search.on_gpu import GreedyTask

ROOT = Path(__file__).resolve().parents[2]
CELLS = [zoo[name] for name in ("TanhRNN", "LSTM", "GRU", "MGU")]
JOBS = [Job(cell, 3) for cell in CELLS]
GIB = 2**30


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU in the driver's table, by name of its device, with so many GiB."""

    def insert(index: int, gib: float) -> None:
        def properties(asked: int) -> SimpleNamespace:
            assert asked == index
            return SimpleNamespace(total_memory=int(gib * GIB))

        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)

    return insert


@pytest.mark.parametrize(
    ("gib", "count", "gpu_gb", "fitting"),
    [(80, 4, 2.0, 4), (80, 100, 2.0, 26), (24, 8, 5.0, 3), (8, 8, 2.0, 2), (2, 3, 2.0, 1), (80, 1, 2.0, 1)],
)  # fmt: skip
def test_as_many_share_a_gpu_as_have_enough_of_it(
    card: Any, gib: float, count: int, gpu_gb: float, fitting: int
) -> None:
    card(1, gib)
    found, share = gpu.divide("cuda:1", count, gpu_gb)
    assert found == fitting
    if fitting == 1:
        assert share == 1.0
    else:
        assert share * gib >= gpu_gb
        assert fitting * (share * gib + gpu.CONTEXT_GB) + gpu.CONTEXT_GB == pytest.approx(gib)


def test_a_device_without_a_number_is_the_current_one(card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    card(3, 80)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert gpu.divide("cuda", 2, 2.0)[0] == 2


def test_what_others_hold_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", {1: (30 * GIB, 80 * GIB)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {1: 10 * GIB}.__getitem__)
    assert gpu.share_of_others("cuda:1") == 0.5


@pytest.mark.parametrize("count", [1, 3])
def test_a_cell_that_its_share_does_not_hold_is_tried_again_with_the_whole_gpu(card: Any, count: int) -> None:
    """Whatever the number of workers: only what no GPU of this size holds is out of memory."""
    card(1, 24)
    task = PlayedGpuTask(needs={CELLS[1].hash: 0.9, CELLS[2].hash: 1.1})
    with Workers(task, count) as workers:
        found = {job.cell.hash: outcome for job, outcome in workers.map(JOBS)}
        again = dict(workers.map(JOBS[3:]))
    assert len(found) == len(CELLS)
    assert found.pop(CELLS[2].hash).reason == "out of memory"
    for cell in (CELLS[0], CELLS[1], CELLS[3]):
        assert found[cell.hash].metrics == {"valid_ppl": fake_perplexity(cell, 3)}
    assert again[JOBS[3]].status == "ok"


def test_the_device_is_that_of_the_task_below() -> None:
    assert device_of(FakeTask()) == "cpu"
    assert device_of(HeldOut(PlayedGpuTask())) == "cuda:1"  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_once_and_before_any_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    device = "cuda:1"
    with Workers(PlayedGpuTask(device=device), 2) as workers, pytest.raises(WorkerError, match="nvidia-smi") as caught:
        list(workers.map(JOBS))
    assert f"the device {device!r} cannot be used" in str(caught.value)
    monkeypatch.setattr(gpu, "divide", lambda *_: (1, 1.0))  # nor where only the worker finds out
    with (
        Workers(replace(GreedyTask(), device=device), 1) as workers,
        pytest.raises(WorkerError, match=f"the device '{device}' cannot be used"),
    ):
        list(workers.map(JOBS))


def test_a_cell_in_this_process_leaves_no_memory_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []

    class Weights:
        pass

    class Greedy(FakeTask):
        def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
            weights = Weights()
            self.seen = weakref.ref(weights)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    task = Greedy(device="cuda:1")
    monkeypatch.setattr(gpu, "share_of_others", lambda device: 0.1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(task.seen() is not None))
    with Workers(task, 0) as workers:
        assert [outcome.reason for _, outcome in workers.map(JOBS)] == ["out of memory"] * len(JOBS)
    assert left == [False] * len(JOBS)


def test_workers_on_a_cpu_load_no_torch_for_it() -> None:
    program = (
        "import sys\n"
        "from nasrepro.search.workers import Job, Workers\n"
        "from nasrepro.dsl import zoo\n"
        "from tests.search.fakes import FakeTask\n"
        "with Workers(FakeTask(), 1) as workers:\n"
        "    assert len(list(workers.map([Job(zoo['GRU'], 0)]))) == 1\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_share_of_nothing() -> None:
    with pytest.raises(ValueError, match="gpu_gb is above 0, got 0"):
        Workers(FakeTask(), gpu_gb=0)


# ---- the same with a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2])
def test_what_a_cell_does_to_a_real_gpu_is_its_own_failure(count: int) -> None:
    with Workers(GreedyTask(), count) as workers:
        found = {job.cell.hash: outcome for job, outcome in workers.map(JOBS)}
    assert found[zoo["LSTM"].hash].reason == "out of memory"
    assert found[zoo["GRU"].hash].reason.startswith("crashed: ")
    assert "device-side assert" in found[zoo["GRU"].hash].reason
    for name in ("TanhRNN", "MGU"):
        outcome = found[zoo[name].hash]
        assert (outcome.status, outcome.device) == ("ok", torch.cuda.get_device_name())


@pytest.mark.gpu
def test_in_this_process_too_a_small_cell_trains_after_one_that_wanted_too_much() -> None:
    with Workers(GreedyTask(), 0) as workers:
        found = {job.cell.hash: outcome for job, outcome in workers.map([JOBS[1], JOBS[3]])}
    assert found[zoo["LSTM"].hash].reason == "out of memory"
    assert found[zoo["MGU"].hash].status == "ok"


@pytest.mark.gpu
def test_to_divide_a_gpu_makes_no_context() -> None:
    program = (
        "import torch\n"
        "from nasrepro.search import gpu\n"
        "assert gpu.divide('cuda', 2, 2.0)[0] >= 1\n"
        "assert not torch._C._cuda_hasPrimaryContext(0)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
