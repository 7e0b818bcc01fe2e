"""What workers ask of a GPU that they share. Only these calls load torch, and only `claim` takes a GPU's memory."""

import gc
import sys

CONTEXT_GB = 1.0
"""Memory that a process takes on a GPU before its first tensor: driver, libraries and kernels. Generous."""


def is_gpu(device: str) -> bool:
    """Whether a task's device, such as "cpu", "cuda" or "cuda:1", is a GPU."""
    return device.startswith("cuda")


def spoilt() -> bool:
    """Whether this process has lost the CUDA graphs that others have: its next cells would be slower for it."""
    recording = sys.modules.get("nasrepro.rnn.recording")
    return recording is not None and not recording.Recording.possible


def divide(device: str, count: int, gpu_gb: float) -> tuple[int, float]:
    """How many of `count` processes compute on a GPU at once, and the share of its memory that each may fill.

    Each has `gpu_gb` at least besides what its context takes, and the process that asks has a context too; one alone
    has the whole GPU, however small that is.
    """
    import torch

    # The driver's table of devices: to read it makes no context, which would take memory in this process as well.
    total_gb = torch.cuda.get_device_properties(_index(device)).total_memory / 2**30
    shared_gb = total_gb - CONTEXT_GB
    fitting = max(1, min(count, int(shared_gb / (gpu_gb + CONTEXT_GB))))
    return fitting, 1.0 if fitting == 1 else (shared_gb / fitting - CONTEXT_GB) / total_gb


def claim(device: str, share: float) -> None:
    """Begin to use a GPU, of whose memory this process may fill a share. Raises what torch does without one."""
    import torch

    from nasrepro.rnn import recording

    recording.share_of_device = share
    torch.cuda.set_per_process_memory_fraction(share, _index(device))
    torch.zeros(1, device=device)  # makes the context: a GPU that cannot be used is found out before the first cell


def share_of_others(device: str) -> float:
    """The share of a GPU's memory that is neither free nor this process's tensors': 0 to 1."""
    import torch

    free, total = torch.cuda.mem_get_info(_index(device))
    return (total - free - torch.cuda.memory_reserved(_index(device))) / total


def empty_caches() -> None:
    """Give back the memory that a failed evaluation has left behind in this process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()  # the error's traceback held its tensors in circles
        torch.cuda.empty_cache()


def _index(device: str) -> int:
    import torch

    number = device.partition(":")[2]
    return int(number) if number else torch.cuda.current_device()
