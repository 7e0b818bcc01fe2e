"""A failure is written of a cell only where the cell can have caused it."""

import errno
import os
import signal

import pytest
import torch

from nasrepro.datasets import DataError
from nasrepro.search import RecordError, gpu
from nasrepro.search.faults import Room, WorkerError, cells_death, cells_fault
from nasrepro.trainers.checkpoint import CheckpointError

GUEST = Room(process=True, memory=True)
ON_GPU = Room(process=True, memory=True, device="cuda:1")

# What torch adds to every CUDA error, whatever its kind.
MORE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
CUDA_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of which 1 MiB is"
)
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def system_error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "checkpoints/1.pt")


def torch_save_error() -> RuntimeError:
    """What torch itself says of a full disk."""
    try:
        torch.save({"weights": torch.zeros(10_000)}, "/dev/full")
    except RuntimeError as error:
        return error
    raise AssertionError("torch wrote to a full disk")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (system_error("ENOSPC"), "Make room on that disk"),
        (system_error("EDQUOT"), "your share of that disk is used up"),
        (system_error("EACCES"), "Give yourself permission"),
        (system_error("EROFS"), "Choose a folder that can be written to"),
        (system_error("ENOENT"), "Put back what is missing"),
        (system_error("EMFILE"), r"raise the limit on open files \(ulimit -n\)"),
        (system_error("EIO"), "Mend that"),
        (torch_save_error(), "Make room on the disk where the task writes"),
        (DataError("train.txt is not here: fetch it"), "train.txt is not here: fetch it"),
        (RecordError("the record may only be read"), "Do what this message says"),
        (CheckpointError("1.pt is damaged; delete it"), "1.pt is damaged; delete it"),
        (ImportError("libcudart.so.12: cannot open shared object file"), "Install what is missing"),
        (RuntimeError("can't start new thread"), r"raise the limit on processes"),
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), "nvidia-smi"),
        (RuntimeError("No CUDA GPUs are available"), "nvidia-smi"),
        (AssertionError("Torch not compiled with CUDA enabled"), "nvidia-smi"),
        (RuntimeError("CUDA error: no CUDA-capable device is detected" + MORE), "nvidia-smi"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered" + MORE), "nvidia-smi"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device" + MORE), "nvidia-smi"),
        (RuntimeError("CUDA error: unknown error" + MORE), "nvidia-smi"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), "nvidia-smi"),
    ],
)
def test_the_machines_faults(error: Exception, advice: str) -> None:
    for room in (GUEST, Room(), ON_GPU):
        with pytest.raises(WorkerError, match=advice) as caught:
            cells_fault(error, room, "GRU, seed 0")
        assert str(error).partition("\n")[0][:100] in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such cell"),
        ZeroDivisionError("division by zero"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("CUDA error: device-side assert triggered" + MORE),
        RuntimeError("CUDA error: an illegal memory access was encountered" + MORE),
        RuntimeError("CUDA error: misaligned address" + MORE),
        RuntimeError("CUDA error: unspecified launch failure" + MORE),
        RuntimeError("CUDA error: operation not permitted when stream is capturing" + MORE),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    ],
)
def test_the_cells_faults(error: Exception) -> None:
    first = str(error).partition("\n")[0]
    assert cells_fault(error, ON_GPU, "GRU") == f"crashed: {type(error).__name__}: {first}"


def test_a_broken_gpu_ends_a_process_that_is_not_the_cells_own() -> None:
    error = RuntimeError("CUDA error: device-side assert triggered" + MORE)
    with pytest.raises(WorkerError, match="The GPU is lost to this process: end it, and use one worker or more"):
        cells_fault(error, Room(device="cuda"), "GRU")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError(CPU_MEMORY), RuntimeError("std::bad_alloc"), system_error("ENOMEM")]
)
def test_memory_is_the_cells_fault_within_a_limit_of_its_own(error: Exception) -> None:
    assert cells_fault(error, GUEST, "GRU") == "out of memory"
    with pytest.raises(WorkerError, match="With memory_gb, a cell that wants too much fails alone"):
        cells_fault(error, Room(process=True), "GRU")


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError(CUDA_MEMORY),
        RuntimeError("CUDA error: out of memory" + MORE),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_gpus_memory_is_the_cells_fault_where_it_has_most_of_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "share_of_others", {"cuda:1": 0.2}.__getitem__)
    assert cells_fault(error, ON_GPU, "GRU") == "out of memory"
    monkeypatch.setattr(gpu, "share_of_others", {"cuda:1": 0.6}.__getitem__)
    with pytest.raises(WorkerError, match="Other programs hold more than half of that GPU's memory"):
        cells_fault(error, ON_GPU, "GRU")
    shared = Room(process=True, device="cuda:1", shares_gpu=True)
    assert cells_fault(error, shared, "GRU") == "out of memory"  # to be tried again alone


@pytest.mark.skipif(os.name == "nt", reason="Windows has exit codes and no signals")
def test_signals_from_inside_are_the_cells_and_those_from_outside_are_not() -> None:
    inside = {"SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS"}
    for number in signal.valid_signals():
        try:
            name = signal.Signals(number).name
        except ValueError:  # one without a name
            name = f"signal {int(number)}"
        if name == "SIGKILL":  # to be tried again alone
            assert cells_death(-number, "GRU") == "killed"
        elif name in inside:
            assert cells_death(-number, "GRU") == f"crashed: {name}"
        else:
            with pytest.raises(WorkerError, match=f"ended from outside by {name}.*Nothing was written about GRU"):
                cells_death(-number, "GRU")
    assert cells_death(3, "GRU") == "crashed: exit 3"
