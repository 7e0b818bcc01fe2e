"""What workers ask of a GPU that they share. Only these calls load torch, and only `claim` takes a GPU's memory."""

import gc
import re
import sys

CONTEXT_GB = 1.0
"""Memory that a process takes on a GPU before its first tensor: driver, libraries and kernels. Generous."""

# In lower case, as regular expressions.
_FULL = re.compile("out of memory|_status_alloc_failed")  # torch, Triton and the driver; cuBLAS and cuDNN

# What an error of the GPU says of itself, by torch, the driver, cuBLAS and cuDNN, Triton, and NVIDIA's compiler.
_GPU = re.compile(
    r"cuda error|cuda driver|cuda unknown|cuda gpus|cuda-capable|compiled with cuda|cudagetdevicecount|nvidia driver"
    r"|invalid device|hip error|_status_not_initialized|triton error \[cuda\]|nvrtc: failed|nvrtc: error"
)
# Among those errors, what only the code that ran there can have done. The driver's words, as cudaGetErrorString has
# them (single words of theirs, such as "launch" and "capture", stand in errors of other kinds too); the last three
# are of cuBLAS or cuDNN.
_CODE = re.compile(
    r"device-side assert|illegal memory access|illegal instruction|misaligned address|global/shared address space"
    r"|invalid program counter|hardware stack error|unspecified launch failure|launch timed out"
    r"|too many resources requested for launch|too many blocks in cooperative launch"
    r"|invalid argument|invalid configuration argument|stream is capturing|capturing stream|capturing blocking stream"
    r"|uncaptured work|error during capture|capture sequence|capture was not ended"
    r"|_status_execution_failed|_status_invalid_value|_status_not_supported"
)


def is_gpu(device: str) -> bool:
    """Whether a task's device, such as "cpu", "cuda" or "cuda:1", is a GPU."""
    return device.startswith("cuda")


def of_memory(text: str) -> bool:
    """Whether an error's text, in lower case, says that a GPU's memory is full."""
    return bool(_FULL.search(text))


def broken(text: str) -> bool:
    """Whether an error's text, in lower case, tells of a GPU that the code running there has broken for the process."""
    return bool(_GPU.search(text) and _CODE.search(text))


def lost(text: str) -> bool:
    """Whether an error's text, in lower case, tells of a GPU, driver or CUDA library that fails whatever runs there."""
    return bool(_GPU.search(text)) and not _CODE.search(text)


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
    """Give back the memory that a failed evaluation has left behind in this process, once its error is forgotten."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()  # the error's traceback held its tensors in circles
        torch.cuda.empty_cache()


def _index(device: str) -> int:
    import torch

    number = device.partition(":")[2]
    return int(number) if number else torch.cuda.current_device()
