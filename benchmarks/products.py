"""The matrix products that layers and decoders are made of, by gemm.h and by torch: a part of fast_cells.py."""

import argparse
import ctypes
from functools import partial
from pathlib import Path

import torch
from measuring import PEAK, Rows, Work, compared, interleaved, peak_here
from torch import Tensor

from nasrepro.native.gemm import load_products


def products(options: argparse.Namespace) -> Rows:
    """The products of S17's candidate by the product that our kernels are made of; `ratio` is over torch.mm's time, in
    the layout that nn.Linear takes. Milliseconds are of one call, the mean of as many as make up a round."""
    tokens, sequences, width, vocabularies = (20, 4, 8, (50,)) if options.small else (700, 20, 200, (10_000, 33_278))
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    x, step, gates = matrix(tokens, width), matrix(sequences, width), matrix(4 * width, width)
    d_gates = matrix(tokens, 4 * width)
    pairs = {
        "LSTM, all inputs": ((x, gates.T),) * 2,
        "LSTM, one step": ((step, gates.T),) * 2,
        "LSTM, gradient of inputs": ((d_gates, gates),) * 2,
        "LSTM, gradient of weights": ((d_gates.T, x),) * 2,
    }
    for words in vocabularies:
        weight, d_logits = matrix(words, width), matrix(words, tokens)  # ours keeps logits transposed
        of_torch = d_logits.T.contiguous()
        pairs |= {
            f"{words:,} words, logits": ((x, weight.T), (weight, x.T)),
            f"{words:,} words, gradient of weights": ((of_torch.T, x), (d_logits, x)),
            f"{words:,} words, gradient of features": ((of_torch, weight), (d_logits.T, weight)),
        }
    run_peak, of_peak = peak_here()
    for name, (theirs, ours) in pairs.items():
        operations = 2.0 * ours[0].numel() * ours[1].shape[1]
        times = 1 if options.small else max(1, round(of_peak / 2 / operations))
        works = {"torch.mm": _torch_product(*theirs), "ours": _our_product(*ours, packs=ours[0] is not step)}
        rounds: dict[str, Work] = {by: partial(_repeated, work, times) for by, work in works.items()}
        seconds = interleaved(f"products, {name}", {PEAK: run_peak, **rounds}, options.rounds)
        of_one = {by: taken if by == PEAK else [each / times for each in taken] for by, taken in seconds.items()}
        for by, row in compared(of_one, "torch.mm", dict.fromkeys(works, operations)).items():
            facts = {"product": name, "rows": len(ours[0]), "depth": len(ours[1]), "columns": ours[1].shape[1]}
            yield {**facts, "by": by, "calls in a round": times, **row}


def _torch_product(a: Tensor, b: Tensor) -> Work:
    return partial(torch.mm, a, b, out=torch.empty(len(a), b.shape[1]))


def _our_product(a: Tensor, b: Tensor, packs: bool) -> Work:
    return product(a, b, torch.empty(len(a), b.shape[1]), torch.get_num_threads(), packs)


def _repeated(work: Work, times: int) -> None:
    """What takes microseconds, so often that waking the threads does not count."""
    for _ in range(times):
        work()


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


def product(a: Tensor, b: Tensor, out: Tensor, threads: int, packs: bool) -> Work:
    """Work: out (rows, n) = a (rows, k) @ b (k, n), by the product that our kernels are made of.

    `packs`: b is packed each time; otherwise once, now, as a recurrent layer does for all steps of a sequence.
    """
    library = load_products(Path(__file__).with_name("products.c").read_text("utf-8"), bfloat16=False)
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
