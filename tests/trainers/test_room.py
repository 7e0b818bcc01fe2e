"""A training for which a device has no room is refused before it starts, with both numbers."""

import os
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nasrepro.convnet import ConvNet, ConvNetError, Layer
from nasrepro.datasets import ImageSet
from nasrepro.rnn import recording
from nasrepro.search.faults import WorkerError
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers import images, room
from nasrepro.trainers.images import ImageTask, needed_bytes, train
from nasrepro.trainers.room import GB, NoRoomError, demand_room
from tests.trainers.killable_images import NET, TINY
from tests.trainers.small_images import TASK

HUGE = ConvNet(tuple(Layer("conv", (number,), 7, 7, filters=1_000_000) for number in range(2)))
"""Its weights alone would take 180,000 GB."""


def system(monkeypatch: pytest.MonkeyPatch, folder: Path, *, free_gb: float, total_gb: float, container: str) -> None:
    """Let the files in which Linux tells of memory say this."""
    for name, text in {
        "_MEMINFO": f"MemTotal: {int(total_gb * 2**20)} kB\nMemFree: 1 kB\nMemAvailable: {int(free_gb * 2**20)} kB\n",
        "_STATUS": "Name:\tpython\nVmData:\t 2097152 kB\n",
        "_CONTAINER": f"{container}\n",
    }.items():
        (folder / name).write_text(text)
        monkeypatch.setattr(room, name, folder / name)


def gpu(monkeypatch: pytest.MonkeyPatch, *, free_gb: float, held_gb: float, kept_gb: float, share: float) -> None:
    """Let torch tell of a GPU of 80 GB."""
    monkeypatch.setattr(room, "resolve", lambda device: device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gb * GB), 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(held_gb * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(kept_gb * GB))
    monkeypatch.setattr(recording, "share_of_device", share)


# ---- what a device has


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="this system tells of its memory in another way")
def test_a_processors_memory_is_what_the_system_says() -> None:
    free, total = room._of_processor()
    assert 0 < free <= total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_on_a_processor_more_than_there_is_and_more_than_is_free_are_two_things(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    system(monkeypatch, tmp_path, free_gb=10, total_gb=16, container="max")
    demand_room(9.9 * GB, "cpu")
    with pytest.raises(MemoryError, match=r"training takes 12\.00 GB of memory, and cpu has 10\.00 GB free") as free:
        demand_room(12 * GB, "cpu")
    assert not isinstance(free.value, NoRoomError)
    with pytest.raises(NoRoomError, match=r"training takes 17\.00 GB of memory, and cpu has 16\.00 GB"):
        demand_room(17 * GB, "cpu")
    system(monkeypatch, tmp_path, free_gb=10, total_gb=16, container=str(4 * GB))
    with pytest.raises(NoRoomError, match=r"cpu has 4\.00 GB"):
        demand_room(5 * GB, "cpu")


def test_a_limit_of_the_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 6 GB two are in use."""
    system(monkeypatch, tmp_path, free_gb=10, total_gb=16, container="max")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (6 * GB, resource.RLIM_INFINITY))
    demand_room(3.9 * GB, "cpu")
    with pytest.raises(MemoryError, match=r"cpu has 4\.00 GB free"):
        demand_room(4.1 * GB, "cpu")
    with pytest.raises(NoRoomError, match=r"cpu has 6\.00 GB"):
        demand_room(6.1 * GB, "cpu")


def test_where_a_system_says_nothing_there_is_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for name in ("_MEMINFO", "_STATUS", "_CONTAINER"):
        monkeypatch.setattr(room, name, tmp_path / "none")
    demand_room(1e18, "cpu")
    with pytest.raises(NoRoomError, match=r"the limit is 0\.50 GB"):
        demand_room(1 * GB, "cpu", memory_gb=0.5)


def test_on_a_gpu_what_torch_keeps_is_free_and_a_share_is_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, free_gb=50, held_gb=2, kept_gb=12, share=1.0)
    demand_room(59 * GB, "cuda")
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match=r"training takes 61\.00 GB of memory, and cuda has 60\.00 GB free"
    ):
        demand_room(61 * GB, "cuda")
    with pytest.raises(NoRoomError, match=r"training takes 81\.00 GB of memory, and cuda:1 has 80\.00 GB"):
        demand_room(81 * GB, "cuda:1")
    gpu(monkeypatch, free_gb=50, held_gb=2, kept_gb=12, share=0.25)
    demand_room(17 * GB, "cuda")
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"cuda has 18\.00 GB free"):  # alone it has all of it
        demand_room(19 * GB, "cuda")


# ---- trainings


def test_a_training_that_is_too_large_does_not_start(
    digits: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "build", partial(pytest.fail, "built"))
    needed = needed_bytes(NET, digits, TINY, "cpu") / GB
    with pytest.raises(NoRoomError, match=rf"training takes {needed:.2f} GB of memory, and the limit is 0\.00 GB"):
        train(NET, digits, TINY, memory_gb=needed / 2, checkpoint=tmp_path / "a.pt")
    with pytest.raises(NoRoomError, match=r"and cpu has .* GB"):
        train(HUGE, digits, TINY, checkpoint=tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_the_estimate_counts_images_and_the_larger_of_a_step_and_an_evaluation(digits: ImageSet) -> None:
    few, many = (needed_bytes(NET, digits, replace(TINY, train_images=n), "cpu") for n in (100, 1100))
    assert many - few == 1000 * TINY.upsampled**2
    large_batch, larger = (
        needed_bytes(NET, digits, replace(TINY, train_images=None, batch=n), "cpu") for n in (512, 1024)
    )
    assert larger > 1.5 * large_batch
    shown, more = (needed_bytes(NET, digits, replace(TINY, batch=2, valid_images=n), "cpu") for n in (20, 200))
    assert more > 5 * shown
    with pytest.raises(ConvNetError, match="layer_1 has filter_height = 9"):
        needed_bytes(ConvNet((Layer("conv", (), 9, 9, filters=1),)), digits, TINY, "cpu")


def test_a_network_that_the_device_can_never_hold_has_failed_and_the_next_is_trained() -> None:
    with Workers(TASK, count=0) as workers:
        found = {job.cell: outcome for job, outcome in workers.map([Job(HUGE, 1), Job(NET, 1)])}
    assert found[HUGE].status == "failed"
    assert found[HUGE].reason.startswith("out of memory: training takes ")
    assert found[HUGE].curve == []
    assert found[NET].status == "ok"


def test_a_stated_limit_is_in_no_key_and_travels_with_the_task() -> None:
    limited = replace(TASK, memory_gb=1e-6)
    assert limited.settings == TASK.settings
    assert limited.evaluate(NET, 0).reason.startswith("out of memory: training takes 0.00 GB of memory, and the limit")
    assert ImageTask(training=TINY, memory_gb=1.0).evaluate(NET, 0).status == "ok"


def test_the_limit_of_a_worker_is_asked_before_it_is_met() -> None:
    """2,000 times 2,000 filters of 7 x 7 with momentum and gradients: 2.2 GB of the worker's 2."""
    net = ConvNet((Layer("conv", (), 1, 1, filters=2000), Layer("conv", (1,), 7, 7, filters=2000)))
    with Workers(TASK, count=1, memory_gb=2.0) as workers:
        ((_, outcome),) = workers.map([Job(net, 0)])
    assert outcome.reason.startswith("out of memory: training takes 2.")
    assert outcome.reason.endswith("and cpu has 2.00 GB")


def test_memory_that_others_hold_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_of_processor", lambda: (1000.0, 1e12))
    with (
        Workers(TASK, count=0) as workers,
        pytest.raises(WorkerError, match=r"the machine failed.*and cpu has 0\.00 GB"),
    ):
        list(workers.map([Job(NET, 1)]))


def test_a_processor_is_asked_by_the_training_itself(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(images, "demand_room", lambda *given: asked.append(given))
    train(NET, digits, replace(TINY, epochs=1), device="cpu")
    assert asked == [(needed_bytes(NET, digits, replace(TINY, epochs=1), "cpu"), "cpu", None)]


@pytest.mark.gpu
def test_on_a_gpu_the_estimate_is_near_what_torch_takes(digits: ImageSet) -> None:
    net = ConvNet(tuple(Layer("conv", tuple(range(n + 1)), 3, 3, filters=64) for n in range(6)))
    settings = replace(TINY, epochs=1, batch=512, train_images=None, valid_images=None)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train(net, digits, settings, device="cuda")
    taken = torch.cuda.max_memory_allocated() - before
    assert 0.5 * taken < needed_bytes(net, digits, settings, "cuda") < 2 * taken
    with pytest.raises(NoRoomError, match=r"and cuda has [0-9.]+ GB"):
        train(HUGE, digits, settings, device="cuda")
