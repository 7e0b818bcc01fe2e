"""What the processor can do at most: the yardstick of the benchmarks on it."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

from nasrepro import native


class _PeakCall(ctypes.Structure):
    _fields_ = (
        ("rounds", ctypes.c_long),
        ("factor", ctypes.c_float),
        ("term", ctypes.c_float),
        ("results", ctypes.c_void_p),
    )


def peak(threads: int, operations: float) -> tuple[Callable[[], None], float]:
    """Multiply-adds of float32 whose numbers stay in registers: work for `threads` threads, and how many floating-point
    operations it is, close to `operations`. A multiply-add is two."""
    library = native.load(Path(__file__).with_name("peak.c").read_text("utf-8"))
    of_round = ctypes.c_long(library.operations_of_round()).value
    rounds = max(1, round(operations / of_round / threads))
    results = torch.zeros(threads)

    def work() -> None:
        call = _PeakCall(rounds, 0.999, 0.001, results.data_ptr())
        library.multiply_and_add(ctypes.byref(call), ctypes.c_long(threads))

    work()
    workers = int(results.count_nonzero())  # where there are fewer threads than were asked for, so many work
    return work, float(rounds * of_round * workers)
