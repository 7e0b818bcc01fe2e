"""Whether a device has room for a training, asked before the training starts.

To find out by trying takes the machine along: a processor's memory fills until the system kills some process. What a
device can never hold is the candidate's fault, what it cannot hold now is told as if the device itself had refused it,
and `search.faults` says whose fault that is.
"""

import os
import sys
from pathlib import Path

from nasrepro.hardware import resolve

GB = 2**30

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CONTAINER = Path("/sys/fs/cgroup/memory.max")


class NoRoomError(MemoryError):
    """A training that takes more memory than it may have, both told in GB (2**30 bytes). It has not started."""

    def __init__(self, needed: float, there: float, where: str) -> None:
        super().__init__(f"training takes {needed / GB:.2f} GB of memory, and {where} {there / GB:.2f} GB")


def demand_room(needed: float, device: str, memory_gb: float | None = None) -> None:
    """Raise where a training that takes so many bytes has no room on a device, one of `hardware.resolve`.

    NoRoomError where that is more than `memory_gb`, or more than the device will ever have for this process; and where
    it is more than what is free now, MemoryError for the processor and torch.cuda.OutOfMemoryError for a GPU. Where a
    system does not say what it has, there is room.
    """
    if memory_gb is not None and needed > memory_gb * GB:
        raise NoRoomError(needed, memory_gb * GB, "the limit is")
    device = resolve(device)
    free, total = _of_processor() if device == "cpu" else _of_gpu(device)
    if needed > total:
        raise NoRoomError(needed, total, f"{device} has")
    if needed > free:
        words = f"training takes {needed / GB:.2f} GB of memory, and {device} has {free / GB:.2f} GB free"
        if device == "cpu":
            raise MemoryError(words)
        import torch

        raise torch.cuda.OutOfMemoryError(f"CUDA out of memory: {words}")


def _of_processor() -> tuple[float, float]:
    """Bytes of memory that are free, and all that there are for this process; infinite where that is not known."""
    free = total = float("inf")
    if _MEMINFO.exists():
        told = _kilobytes(_MEMINFO)
        free, total = told.get("MemAvailable", free), told.get("MemTotal", total)
    if _CONTAINER.exists() and (most := _CONTAINER.read_text().strip()).isdigit():
        total = min(total, float(most))
    if sys.platform == "linux":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)  # what a worker's memory_gb sets
        if limit != resource.RLIM_INFINITY:
            free, total = min(free, limit - _kilobytes(_STATUS).get("VmData", 0.0)), min(total, float(limit))
    return min(free, total), total


def _kilobytes(path: os.PathLike[str]) -> dict[str, float]:
    """Bytes by name, of a file of the system with lines such as "MemTotal: 123 kB"."""
    lines = [line.split() for line in Path(path).read_text().splitlines() if line.endswith(" kB")]
    return {words[0].rstrip(":"): 1024.0 * int(words[1]) for words in lines}


def _of_gpu(device: str) -> tuple[float, float]:
    """Bytes of memory that this process can still take, and all that the GPU has.

    A process that shares the GPU may fill its share alone, but would be tried again with all of it.
    """
    import torch

    from nasrepro.rnn import recording

    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - held  # which torch keeps for its next tensors
    return min(free + unused, total * recording.share_of_device - held), total
