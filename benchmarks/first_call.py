"""Print the milliseconds until a cell's kernels are there, in this process that knows none: for fast_cells.py.

python benchmarks/first_call.py CELL

All that stands between a cell and its first call: plan, C text, compiling it or finding it in the cache, loading.
Without a cell: the library that all cells share.
"""

import sys
import time

import torch

from nasrepro.dsl import parse
from nasrepro.rnn.fused import cpu

cells = [parse(text) for text in sys.argv[1:]]
start = time.perf_counter()
if cells:
    cpu.kernels(cells[0], False, torch.float32)
else:
    cpu.driver(torch.float32)
print(1e3 * (time.perf_counter() - start))
