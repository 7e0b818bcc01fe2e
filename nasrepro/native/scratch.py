"""Memory for native code to work in.

A call needs megabytes for packed weights, logits and gradients of sums. Fresh pages from the system cost as much as a
tenth of the call, so buffers are used again; two calls at the same time get two buffers.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_free: list[Tensor] = []
_free_lock = threading.Lock()
_MOST_FREE, _MOST_FREE_FLOATS = 4, 2**27  # half a gigabyte


def aligned(floats: int) -> int:
    """So many floats, rounded up to whole 64 bytes: a cache line, and the widest vector."""
    return (floats + 15) // 16 * 16


@contextmanager
def scratch(floats: int) -> Iterator[int]:
    """The address of so many floats, 64-byte aligned, nobody else's until the end of the block."""
    wanted = floats + 16
    with _free_lock:
        fitting = min(
            (i for i, b in enumerate(_free) if b.numel() >= wanted), key=lambda i: _free[i].numel(), default=-1
        )
        buffer = _free.pop(fitting) if fitting >= 0 else None
    if buffer is None:
        buffer = torch.empty(wanted, dtype=torch.float32, device="cpu")
    try:
        yield (buffer.data_ptr() + 63) // 64 * 64
    finally:
        with _free_lock:
            _free.append(buffer)
            while len(_free) > _MOST_FREE or (len(_free) > 1 and sum(map(Tensor.numel, _free)) > _MOST_FREE_FLOATS):
                del _free[0]  # not used for the longest time
