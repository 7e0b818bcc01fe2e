"""A failure is written of a cell only where the cell can have caused it."""

import errno
import gzip
import io
import json
import os
import pickle
import signal
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest
import torch

from nasrepro.datasets import DataError
from nasrepro.errors import MachineError
from nasrepro.hardware import DeviceError
from nasrepro.native import NativeError
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


def torch_error(call: Callable[[], object]) -> RuntimeError:
    """What torch itself says of a file that it can neither write nor read."""
    try:
        call()
    except RuntimeError as error:
        return error
    raise AssertionError("torch had nothing to say")


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def raised_amid(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (system_error("ENOSPC"), "Make room on that disk"),
        (system_error("EDQUOT"), "your share of that disk is used up"),
        (system_error("EACCES"), "Give yourself permission"),
        (system_error("EROFS"), "Choose a folder that can be written to"),
        (system_error("ENOENT"), "Put back what is missing"),
        (system_error("EMFILE"), r"raise the limit on open files \(ulimit -n\)"),
        (system_error("EIO"), r"see the system's log \(dmesg\)"),
        (system_error("EAGAIN"), r"raise the limit on processes \(ulimit -u\)"),
        (system_error("ESTALE"), "mount it again"),
        (system_error("ENAMETOOLONG"), "a folder with a shorter path"),
        (system_error("ETIMEDOUT"), "See whether the network works"),
        (system_error("ECONNRESET"), "See whether the network works"),
        (TimeoutError("timed out"), "See whether the network works"),
        (system_error("ENODEV"), "See whether the file, address or device that it names can be used"),
        (
            torch_error(lambda: torch.save(torch.zeros(10_000), "/dev/full")),
            "Make room on the disk where the task writes",
        ),
        (DataError("train.txt is not here: fetch it"), "train.txt is not here: fetch it"),
        (RecordError("the record may only be read"), "Do what this message says"),
        (CheckpointError("1.pt is damaged; delete it"), "1.pt is damaged; delete it"),
        (ImportError("libcudart.so.12: cannot open shared object file"), "Install what is missing"),
        (DeviceError("device 'cuda:1' was asked for, but torch sees one GPU"), "Do what this message says"),
        (WorkerError("a worker process was ended"), "Do what this message says"),
        (sqlite3.OperationalError("database or disk is full"), "disk has room"),
        (sqlite3.DatabaseError("database disk image is malformed"), "its file is whole"),
        (zipfile.BadZipFile("File is not a zip file"), "cut off or damaged: fetch or make it again"),
        (gzip.BadGzipFile("Not a gzipped file"), "cut off or damaged"),
        (tarfile.ReadError("unexpected end of data"), "cut off or damaged"),
        (zlib.error("Error -3 while decompressing data: invalid block type"), "cut off or damaged"),
        (EOFError("Compressed file ended before the end-of-stream marker was reached"), "cut off or damaged"),
        (pickle.UnpicklingError("pickle data was truncated"), "cut off or damaged"),
        (json.JSONDecodeError("Expecting value", "", 0), "cut off or damaged"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "cut off or damaged"),
        (torch_error(lambda: torch.save(torch.zeros(3), "no such folder/1.pt")), "choose another folder"),
        (torch_error(lambda: torch.load(io.BytesIO(b"PK\3\4" + b"0" * 100))), "cut off or damaged"),
        (RuntimeError("File checkpoints/1.pt cannot be opened."), "choose another folder"),
        (
            RuntimeError(
                "unable to open shared memory object </torch_12_34_5> in read-write mode: No space left on device (28)"
            ),
            "Make room on that disk",
        ),
        (RuntimeError("unable to write to file </torch_12_34_5>"), "and in /dev/shm"),
        (RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)"), r"ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), r"ulimit -n"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "the task's own processes"),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), "the task's own processes"),
        (RuntimeError("nvrtc: error: failed to open libnvrtc-builtins.so.12.1."), "nvidia-smi"),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), "nvidia-smi"),
        (RuntimeError("CUDA error: initialization error; to find it, set CUDA_LAUNCH_BLOCKING=1"), "nvidia-smi"),
        (RuntimeError("CUDA error: peer access was lost, see the captured log"), "nvidia-smi"),
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
        RuntimeError("The size of tensor a (3) must match the size of tensor b (28)"),
        ValueError("not enough memory cells in the plan"),
        KeyError("out of memory"),
        ValueError("No space left on device"),
        ExceptionGroup("two", [ValueError("no such cell"), ZeroDivisionError("division by zero")]),
        raised_amid(ValueError("no such cell"), KeyError("cache")),
        raised_amid(ValueError("no such cell"), system_error("ENOENT")),  # looked for it, and went on without
        raised_amid(ValueError("no such cell"), ImportError("no triton here")),
        raised_from(RuntimeError("CUDA error: device-side assert triggered" + MORE), system_error("EIO")),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA error: the launch timed out and was terminated" + MORE),
        RuntimeError("CUDA error: too many resources requested for launch" + MORE),
        RuntimeError("CUDA error: operation failed due to a previous error during capture" + MORE),
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


@pytest.mark.parametrize(
    "error",
    [
        raised_from(RuntimeError("the cache cannot be written"), system_error("ENOSPC")),
        raised_amid(RuntimeError("the cache cannot be closed"), system_error("ENOSPC")),
        raised_from(ValueError("no epoch"), raised_from(KeyError("weights"), system_error("ENOSPC"))),
        ExceptionGroup("of one", [system_error("ENOSPC")]),
        ExceptionGroup("a group", [ExceptionGroup("in a group", [ValueError("a"), system_error("ENOSPC")])]),
        raised_from(ValueError("no data"), ExceptionGroup("of one", [system_error("ENOSPC")])),
    ],
)
def test_the_machines_fault_is_found_behind_other_errors(error: Exception) -> None:
    with pytest.raises(WorkerError, match=r"because of OSError: \[Errno 28\].* Make room on that disk") as caught:
        cells_fault(error, GUEST, "GRU")
    assert f"{type(error).__name__}: {error}" in str(caught.value)


def test_errors_that_come_from_each_other_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert cells_fault(first, GUEST, "GRU") == "crashed: ValueError: first"


def test_a_chain_of_errors_may_be_long() -> None:
    error: Exception = system_error("ENOSPC")
    for number in range(3_000):
        error = raised_from(ValueError(str(number)), error)
    with pytest.raises(WorkerError, match="Make room on that disk"):
        cells_fault(error, GUEST, "GRU")


@pytest.mark.parametrize("error", [DataError, NativeError, RecordError, CheckpointError, DeviceError, WorkerError])
def test_errors_that_say_what_to_do_about_the_machine_are_of_one_kind(error: type[Exception]) -> None:
    assert issubclass(error, MachineError)


def test_long_texts_are_not_repeated_whole() -> None:
    long = "word " * 20_000
    assert len(cells_fault(ValueError(long), GUEST, long)) < 500
    with pytest.raises(WorkerError) as caught:
        cells_fault(raised_from(ValueError(long), DataError(long)), GUEST, long)
    assert len(str(caught.value)) < 3_000


def test_an_error_that_cannot_say_what_it_is_is_the_cells() -> None:
    class Unsayable(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert cells_fault(Unsayable(), GUEST, "GRU") == "crashed: Unsayable: its message cannot be read"


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


@pytest.mark.parametrize("text", ["out of memory", "CUDA out of memory. Tried to allocate 20.00 MiB"])
def test_a_task_on_the_processor_asks_no_gpu(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(gpu, "share_of_others", asked.append)
    assert cells_fault(RuntimeError(text), GUEST, "GRU") == "out of memory"
    with pytest.raises(WorkerError, match="With memory_gb, a cell that wants too much fails alone"):
        cells_fault(RuntimeError(text), Room(process=True), "GRU")
    assert asked == []


@pytest.mark.parametrize("silence", [AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("busy")])
def test_a_gpu_that_does_not_say_who_fills_it_is_the_machines_fault(
    silence: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(device: str) -> float:
        raise silence

    monkeypatch.setattr(gpu, "share_of_others", fails)
    with pytest.raises(WorkerError, match=f"because of {type(silence).__name__}: {silence}.*nvidia-smi"):
        cells_fault(RuntimeError(CUDA_MEMORY), ON_GPU, "GRU")


@pytest.mark.skipif(os.name == "nt", reason="Windows has exit codes and no signals")
def test_signals_from_inside_are_the_cells_and_those_from_outside_are_not() -> None:
    inside = {"SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS"}
    for number in signal.valid_signals():
        try:
            name = signal.Signals(number).name
        except ValueError:  # one without a name
            name = f"signal {int(number)}"
        if name == "SIGKILL":  # to be tried again alone
            assert cells_death(-number, "GRU") == "out of memory"
        elif name in inside:
            assert cells_death(-number, "GRU") == f"crashed: {name}"
        else:
            with pytest.raises(WorkerError, match=f"ended from outside by {name}.*Nothing was written about GRU"):
                cells_death(-number, "GRU")
    assert cells_death(3, "GRU") == "crashed: exit 3"


def test_windows_has_no_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGKILL")
    assert cells_death(0xC0000005, "GRU") == f"crashed: exit {0xC0000005}"  # Windows' access violation
    with pytest.raises(WorkerError, match="ended from outside by SIGTERM"):  # as its task manager ends a process
        cells_death(-15, "GRU")
