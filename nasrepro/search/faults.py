"""Whose fault a failed evaluation is: the cell's, which is a result, or the machine's, which is none.

A cell is arithmetic, and so are its faults: it explodes, it takes too long, it wants more memory than one evaluation is
given, or the code made for it crashes. It opens no file, loads no library and owns no device. Where one of those fails,
or somebody kills the process, the cell has not been judged: nothing is written about it, or the ranking function would
learn the machine's troubles, and whoever runs the search is told what to mend.
"""

import errno
import signal
from dataclasses import dataclass

from nasrepro.search import gpu

OUT_OF_MEMORY = "out of memory"
"""The reason of a cell that wants more memory than it may have."""

KILLED = "killed"
"""Of one whose process was killed: by the system, whose memory it or others had filled, or by somebody. To be tried
again alone; one that is killed then too is out of memory."""


class WorkerError(RuntimeError):
    """The machine or the workers are at fault, not the cells: what has failed, and what to do about it."""


@dataclass(frozen=True)
class Room:
    """What an evaluation has to itself."""

    process: bool = False
    """A process of its own; else it runs in the caller's."""
    memory: bool = False
    """Its own limit on the machine's memory."""
    device: str = "cpu"
    """Where it computes."""
    shares_gpu: bool = False
    """Whether other evaluations compute on the same GPU."""


_HOST_MEMORY = ("allocate memory", "not enough memory", "bad_alloc")  # torch on Linux, torch on Windows, C++
_GPU_MEMORY = ("out of memory", "_status_alloc_failed")  # torch and the driver, cuBLAS and cuDNN

# What an error of the GPU says of itself; and among those, what only the code that ran there can have done.
_GPU = (
    "cuda error",
    "cuda driver",
    "cuda unknown",
    "cuda gpus",
    "cuda-capable",
    "compiled with cuda",
    "cudagetdevicecount",
    "nvidia driver",
    "invalid device",
    "hip error",
    "_status_not_initialized",
)
_KERNEL = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "address space",
    "program counter",
    "stack error",
    "launch",  # "unspecified launch failure", "the launch timed out", "too many resources requested for launch"
    "invalid argument",
    "invalid configuration",
    "captur",  # of a CUDA graph
    "_status_execution_failed",  # of cuBLAS or cuDNN
    "_status_invalid_value",
    "_status_not_supported",
)

_OWN_SIGNALS = ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
"""Signals that a process brings upon itself by what it computes. Others come from outside."""

_ADVICE = {
    "ENOSPC": "Make room on that disk",
    "EDQUOT": "Make room: your share of that disk is used up",
    "EACCES": "Give yourself permission there, or choose another folder",
    "EPERM": "Give yourself permission there, or choose another folder",
    "EROFS": "Choose a folder that can be written to",
    "ENOENT": "Put back what is missing, or choose another folder",
    "EMFILE": "Use fewer workers, or raise the limit on open files (ulimit -n)",
    "ENFILE": "Use fewer workers, or close other programs",
}


def cells_fault(error: Exception, room: Room, cell: str) -> str:
    """The reason to write of a cell whose evaluation raised `error`, such as "crashed: ValueError: ...".

    Raises WorkerError where the machine is at fault; `cell` says in words which evaluation it was.
    """
    cause = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    text = str(error).partition("\n")[0].lower()  # below, torch speaks of device-side assertions in any CUDA error
    if isinstance(error, MemoryError) or any(sign in text for sign in _HOST_MEMORY):
        if room.memory:
            return OUT_OF_MEMORY
        raise _machines(
            cause,
            cell,
            "Use fewer workers, or close other programs. With memory_gb, a cell that wants too much fails alone",
        )
    if any(sign in text for sign in _GPU_MEMORY):
        if room.shares_gpu or gpu.share_of_others(room.device) < 0.5:
            return OUT_OF_MEMORY
        raise _machines(cause, cell, "Other programs hold more than half of that GPU's memory: end them")
    if any(sign in text for sign in _GPU):
        if not any(sign in text for sign in _KERNEL):
            raise _machines(cause, cell, 'See whether `nvidia-smi` finds the GPU, or train with device "cpu"')
        if not room.process:
            raise _machines(cause, cell, "The GPU is lost to this process: end it, and use one worker or more")
    advice = _advice(error, text)
    if advice:
        raise _machines(cause, cell, advice)
    return f"crashed: {cause[:200]}"


def cells_death(code: int | None, cell: str) -> str:
    """The reason to write of a cell whose process ended with this exit code, negative for a signal.

    Raises WorkerError where it was ended from outside; `cell` says in words which evaluation it was.
    """
    if code is None or code >= 0:
        return f"crashed: exit {code}"
    name = signal_name(-code)
    if name == "SIGKILL":
        return KILLED
    if name in _OWN_SIGNALS:
        return f"crashed: {name}"
    advice = "Find out who ends it"
    if name == "SIGBUS":
        advice = "That is what becomes of memory that lies on a full disk: make room there, and in /dev/shm"
    raise _machines(f"a worker process was ended from outside by {name}", cell, advice)


def signal_name(number: int) -> str:
    """Such as "SIGKILL": by name, because Windows has not all of them."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the many that have a number only
        return f"signal {number}"


def _machines(cause: str, cell: str, advice: str) -> WorkerError:
    return WorkerError(
        f"the machine failed, not the cell: {cause}. {advice}; then run again. Nothing was written about {cell}"
    )


def _advice(error: Exception, text: str) -> str:
    """What to do about an error of the machine; "" for one of the cell."""
    # Here, because a worker sets its threads before anything loads torch.
    from nasrepro.datasets import DataError
    from nasrepro.native import NativeError
    from nasrepro.search.archive import RecordError
    from nasrepro.trainers.checkpoint import CheckpointError

    if isinstance(error, DataError | NativeError | RecordError | CheckpointError):
        return "Do what this message says"
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, "")
        return _ADVICE.get(name, "Mend that")
    if isinstance(error, ImportError):
        return "Install what is missing"
    if "c compiler" in text:  # Triton's, which needs one to launch what it has compiled
        return "Install a C compiler, such as gcc"
    if "start new thread" in text:
        return "Use fewer workers or threads, or raise the limit on processes (ulimit -u)"
    if "inline_container" in text or "pytorchstream" in text:  # torch.save's words for any file that it cannot write
        return "Make room on the disk where the task writes, or choose another folder"
    return ""
