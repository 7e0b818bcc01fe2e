"""Whose fault a failed evaluation is: the cell's, which is a result, or the machine's, which is none.

A cell is arithmetic, and so are its faults: it explodes, it takes too long, it wants more memory than one evaluation is
given, or the code made for it crashes. It opens no file, loads no library and owns no device. Where one of those fails,
or somebody kills the process, the cell has not been judged: nothing is written about it, or the ranking function would
learn the machine's troubles, and whoever runs the search is told what to mend.
"""

import errno
import gzip
import json
import os
import pickle
import re
import signal
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from nasrepro.errors import MachineError, cut, message_of
from nasrepro.search import gpu
from nasrepro.trainers.outcome import OUT_OF_MEMORY as OUT_OF_MEMORY


class WorkerError(MachineError, RuntimeError):
    """The machine or the workers are at fault, not the cells: what has failed, and what to do about it."""


@dataclass(frozen=True)
class Room:
    """What an evaluation has to itself."""

    process: bool = False  # whether it runs in a process of its own, and not in the caller's
    memory: bool = False  # whether the memory that its process takes from the machine has a limit
    device: str = "cpu"  # that it computes on, as torch names it
    shares_gpu: bool = False  # whether other evaluations compute on the same GPU


_FEWER = "Use fewer workers, or close other programs. With memory_gb, a cell that wants too much fails alone"
_GPU_IS_FULL = "Other programs hold more than half of that GPU's memory: end them"
_GPU_FAILS = (
    "See whether `nvidia-smi` finds the GPU and its driver suits this torch (`python -m torch.utils.collect_env`), "
    'or train with device "cpu"'
)
_GPU_IS_LOST = "The GPU is lost to this process: end it, and use one worker or more"
_PERMISSION = "Give yourself permission there, or choose another folder"
_FILES = "Use fewer workers, or raise the limit on open files (ulimit -n)"
_PROCESSES = "Use fewer workers or threads, or raise the limit on processes (ulimit -u)"
_NETWORK = "See whether the network works and the other side answers"
_DAMAGED = "A file that the task reads is cut off or damaged: fetch or make it again"

_ADVICE = {
    "ENOSPC": "Make room on that disk",
    "EDQUOT": "Make room: your share of that disk is used up",
    "EACCES": _PERMISSION,
    "EPERM": _PERMISSION,
    "EROFS": "Choose a folder that can be written to",
    "ENOENT": "Put back what is missing, or choose another folder",
    "ENAMETOOLONG": "Choose a folder with a shorter path",
    "EMFILE": _FILES,
    "ENFILE": "Use fewer workers, or close other programs",
    "EAGAIN": _PROCESSES,
    "EIO": "That disk fails: see the system's log (dmesg), and go on with a copy on another disk",
    "ESTALE": "That network folder has changed or gone: mount it again, or choose another folder",
    "ETIMEDOUT": _NETWORK,
}
"""What to do about an error of the system, by the name of its number."""

_DAMAGE = (
    EOFError,
    UnicodeDecodeError,
    gzip.BadGzipFile,
    json.JSONDecodeError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged file raises."""

_LIBRARIES = {
    "pytorchstreamreader": _DAMAGED,
    # torch.save, and tensors that travel between processes: a full disk or /dev/shm is not always named
    r"parent directory .* does not exist|file .* cannot be opened|inline_container|pytorchstreamwriter"
    r"|unable to (open|write to|resize|mmap) .*(file|shared memory)": (
        "Make room on the disk where the task writes and in /dev/shm, or choose another folder"
    ),
    "items of ancdata": _FILES,  # torch's, between processes
    r"dataloader worker .*(killed by signal|exited unexpectedly)": (
        "Find out who ends the task's own processes, or make room in memory and in /dev/shm"
    ),
    "start new thread|thread creation failed": _PROCESSES,
    # Triton needs one to launch what it has compiled, torch.compile on a processor for all that it does
    r"c(\+\+)? compiler": "Install a C compiler, such as gcc",
}
"""What to do about errors that torch and its like tell in words of their own (regular expressions)."""

_HOST_MEMORY = ("allocate memory", "not enough memory", "bad_alloc")  # torch on Linux, torch on Windows, C++

_OWN_SIGNALS = ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
"""Signals that a process brings upon itself by what it computes. Others come from outside."""


def cells_fault(error: Exception, room: Room, cell: str) -> str:
    """The reason to write of a cell whose evaluation raised `error`, such as "crashed: ValueError: ...".

    The first of the errors behind it that is known decides. Raises WorkerError where the machine is at fault; `cell`
    says in words which evaluation it was.
    """
    for link in _with_causes(error):
        if _lacks_host_memory(link, room):
            if room.memory:
                return OUT_OF_MEMORY
            advice = _FEWER
        elif isinstance(link, RuntimeError) and gpu.is_gpu(room.device) and gpu.of_memory(_first_line(link)):
            if room.shares_gpu or _has_most_of_gpu(link, room, cell):
                return OUT_OF_MEMORY
            advice = _GPU_IS_FULL
        elif _tells_of_gpu(link) and gpu.broken(_first_line(link)):
            if room.process:
                break
            advice = _GPU_IS_LOST
        else:
            advice = _advice(link)
        if advice:
            raise _machines(error, link, cell, advice)
    return f"crashed: {_in_short(error)[:200]}"


def cells_death(code: int | None, cell: str) -> str:
    """The reason to write of a cell whose process ended with this exit code, negative for a signal.

    A process that was killed lacked memory, if it was alone on the machine; if not, the cell has to be tried again
    alone. Raises WorkerError where the process was ended from outside; `cell` says in words which evaluation it was.
    """
    if code is None or code >= 0:
        return f"crashed: exit {code}"
    name = signal_name(-code)
    if name == "SIGKILL":
        return OUT_OF_MEMORY
    if name in _OWN_SIGNALS:
        return f"crashed: {name}"
    full = "That is what becomes of memory that lies on a full disk: make room there, and in /dev/shm"
    advice = full if name == "SIGBUS" else "Find out who ends it"
    raise _failure(f"a worker process was ended from outside by {name}", cell, advice)


def signal_name(number: int) -> str:
    """Such as "SIGKILL". Found by number, because not all of them have a name on Windows."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the many that have a number only
        return f"signal {number}"


# ---- what an error says


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what a traceback shows with it: the members of a group, and the errors that it came from.

    An error that arose while a missing file or library was dealt with did not come from that: programs look whether
    such things are there, and go on without them.
    """
    waiting, known = [error], set[int]()
    while waiting:
        link = waiting.pop()
        if id(link) in known:
            continue
        known.add(id(link))
        yield link
        before = None if link.__suppress_context__ else link.__context__
        if link.__cause__ is not None:
            waiting.append(link.__cause__)
        elif before is not None and not isinstance(before, FileNotFoundError | ImportError):
            waiting.append(before)
        if isinstance(link, BaseExceptionGroup):
            waiting.extend(reversed(link.exceptions))


def _lacks_host_memory(error: BaseException, room: Room) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    text = _first_line(error)
    return any(sign in text for sign in _HOST_MEMORY) or (gpu.of_memory(text) and not gpu.is_gpu(room.device))


def _has_most_of_gpu(error: BaseException, room: Room, cell: str) -> bool:
    """Whether the evaluation has more than half of its GPU. Raises WorkerError where the GPU does not answer."""
    try:
        return gpu.share_of_others(room.device) < 0.5
    except (RuntimeError, AssertionError) as silent:
        raise _machines(error, silent, cell, _GPU_FAILS) from silent


def _tells_of_gpu(error: BaseException) -> bool:
    """Whether the error is of a kind by which torch and Triton tell what happened on the GPU."""
    return isinstance(error, RuntimeError | AssertionError)


def _advice(error: BaseException) -> str:
    """What to do about an error of the machine; "" for one that may be the cell's."""
    if isinstance(error, MachineError):
        return "Do what this message says"
    if isinstance(error, sqlite3.Error):
        return "See whether the database's disk has room and its file is whole"
    if isinstance(error, _DAMAGE):
        return _DAMAGED
    if isinstance(error, ImportError):
        return "Install what is missing"
    if isinstance(error, OSError):
        unlisted = "See whether the file, address or device that it names can be used"
        unlisted = _NETWORK if isinstance(error, ConnectionError | TimeoutError) else unlisted
        return _ADVICE.get(errno.errorcode.get(error.errno or 0, ""), unlisted)
    if _tells_of_gpu(error) and gpu.lost(_first_line(error)):
        return _GPU_FAILS
    return _librarys(error) if isinstance(error, RuntimeError) else ""


def _librarys(error: RuntimeError) -> str:
    """Advice where a library tells an error of the system in its own words, or ends its own in the system's."""
    text = message_of(error)
    for name, advice in _ADVICE.items():
        if hasattr(errno, name) and os.strerror(getattr(errno, name)) in text:  # not all systems have every number
            return advice
    for words, advice in _LIBRARIES.items():
        if re.search(words, text.lower()):
            return advice
    return ""


# ---- how it is told


def _first_line(error: BaseException) -> str:
    """In lower case. Below it torch speaks of device-side assertions in any error of CUDA, whatever its kind."""
    return message_of(error).partition("\n")[0].lower()


def _in_short(error: BaseException) -> str:
    """Its kind and the first line of its message."""
    return f"{type(error).__name__}: {message_of(error)}".splitlines()[0][:500]


def _machines(error: BaseException, cause: BaseException, cell: str, advice: str) -> WorkerError:
    """The WorkerError for an evaluation that raised `error`, of which `cause` is the machine's part."""
    told = _in_short(error) if cause is error else f"{_in_short(error)}, because of {_in_short(cause)}"
    return _failure(told, cell, advice)


def _failure(what: str, cell: str, advice: str) -> WorkerError:
    return WorkerError(
        f"the machine failed, not the cell: {what}. {advice}; then run again. Nothing was written about {cut(cell)}"
    )
