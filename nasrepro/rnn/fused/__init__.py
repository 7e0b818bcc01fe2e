"""The fused backend: a cell becomes compiled code, forward and backward, as fast as a hand-tuned LSTM.

`plan.py` says what is computed where; `c_source.py` and `cpu.py` run it on the CPU, `triton_source.py` and `cuda.py` on
a GPU.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from nasrepro.native import NativeError, readable
from nasrepro.rnn import interpreter
from nasrepro.rnn.backend import LayerState, Options, ProductWeights
from nasrepro.rnn.fused import cpu, cuda
from nasrepro.rnn.program import Program

_BY_DEVICE = {"cpu": cpu, "cuda": cuda}
_refused: dict[object, str] = {}
"""Why there is no code for what was asked for before: a compiler that failed is not run again at every call."""
_said: set[str] = set()


def supports(program: Program, x: Tensor) -> bool:
    """Whether there is fused code: for float32, on the CPU or CUDA, and a program as it is compiled by default."""
    return x.dtype == torch.float32 and x.device.type in _BY_DEVICE and program.staged


def run(
    program: Program, weights: Sequence[ProductWeights], x: Tensor, state: LayerState, options: Options
) -> tuple[Tensor, LayerState]:
    """One layer over a sequence, as `interpreter.run`, which takes over, with one warning, where there is no way.

    What compiled code may not read (see `readable`) goes to the interpreter too, without a warning: torch's operators
    are what can be traced and transformed.
    """
    given = (x, *state[:3], *(part for pair in weights for part in pair), options.h_mask, options.lengths)
    if not readable(*given):
        return interpreter.run(program, weights, x, state, options)
    wanted = (program.cell, program.staged, x.dtype, x.device.type, options.h_mask is not None, options.product_dtype)
    if wanted not in _refused:
        if supports(program, x):
            try:
                return _BY_DEVICE[x.device.type].run(program, weights, x, state, options)
            except NativeError as error:
                _refused[wanted] = str(error)
        else:
            kind = "" if program.staged else " and programs that are not hoisted and batched"
            _refused[wanted] = f"there is no fused code for {x.dtype} on {x.device.type}{kind}"
    why = _refused[wanted]
    if why not in _said:
        _said.add(why)
        warnings.warn(f"cells run without fused code, slower: {why}", RuntimeWarning, stacklevel=2)
    return interpreter.run(program, weights, x, state, options)
