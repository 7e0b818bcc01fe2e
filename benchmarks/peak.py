"""What the processor can do at most, and one matrix product of ours: yardsticks for fast_cells.py."""

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nasrepro import native
from nasrepro.native.gemm import load_products

_HERE = Path(__file__).parent


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
    library = native.load((_HERE / "peak.c").read_text("utf-8"))
    of_round = ctypes.c_long(library.operations_of_round()).value
    rounds = max(1, round(operations / of_round / threads))
    results = torch.zeros(threads)

    def work() -> None:
        call = _PeakCall(rounds, 0.999, 0.001, results.data_ptr())
        library.multiply_and_add(ctypes.byref(call), ctypes.c_long(threads))

    work()
    workers = int(results.count_nonzero())  # where there are fewer threads than were asked for, so many work
    return work, float(rounds * of_round * workers)


class _ProductCall(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_long),
        ("k", ctypes.c_long),
        ("n", ctypes.c_long),
        ("a", ctypes.c_void_p),
        ("a_strides", ctypes.c_long * 2),
        ("b", ctypes.c_void_p),
        ("b_strides", ctypes.c_long * 2),
        ("c", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("is_packed", ctypes.c_long),
    )


def product(a: Tensor, b: Tensor, out: Tensor, threads: int, packs: bool) -> Callable[[], None]:
    """Work: out (rows, n) = a (rows, k) @ b (k, n), by the product that our kernels are made of.

    `packs`: b is packed each time; otherwise once, now, as a recurrent layer does for all steps of a sequence.
    """
    library = load_products((_HERE / "products.c").read_text("utf-8"), bfloat16=False)
    library.packed_floats.restype = library.scratch_floats.restype = ctypes.c_long
    (rows, k), n = a.shape, b.shape[1]
    strides = ctypes.c_long * 2
    call = _ProductCall(
        rows, k, n, a.data_ptr(), strides(*a.stride()), b.data_ptr(), strides(*b.stride()), out.data_ptr()
    )
    packed = torch.empty(library.packed_floats(ctypes.byref(call)))
    scratch = torch.empty(threads * library.scratch_floats())
    call.packed, call.scratch = packed.data_ptr(), scratch.data_ptr()

    def multiply(*_: Tensor) -> None:
        library.product(ctypes.byref(call), ctypes.c_long(threads))

    work = partial(multiply, a, b, out, packed, scratch)  # C has their addresses alone: so they stay alive
    work()
    call.is_packed = not packs
    return work
