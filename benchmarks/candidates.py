"""How long one step of S17's search takes to propose: generate, de-duplicate and score random cells.

python benchmarks/candidates.py --count 50000
"""

import argparse
import os
import platform
import random
import time

import torch

from nasrepro.controllers import draw_cells
from nasrepro.ranking import Ranker, RankerSettings


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="distinct candidates (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    # Scoring takes as long whatever the network has learned, so one update on a few cells will do.
    few = draw_cells(32, random.Random(options.seed + 1)).cells
    ranker = Ranker(RankerSettings(updates=1, held_out=0.0)).fit(few, [100.0 + cell.size for cell in few])

    print(f"{options.count} candidates, {options.threads} threads on {os.cpu_count()} cores")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"load before the start: {os.getloadavg()[0]:.1f}")
    print(f"{'':32}{'without c_t':>14}{'with c_t':>14}")
    rows: dict[str, list[str]] = {}
    for memory in (False, True):
        start, cpu = time.perf_counter(), time.process_time()
        drawn = draw_cells(options.count, random.Random(options.seed), memory=memory)
        generated = time.perf_counter()
        ranker.predict(drawn.cells)
        scored, cpu_end = time.perf_counter(), time.process_time()
        for name, value in {
            "generate, de-duplicate, seconds": f"{generated - start:.1f}",
            "score, seconds": f"{scored - generated:.1f}",
            "together, seconds": f"{scored - start:.1f}",
            "processor time, seconds": f"{cpu_end - cpu:.1f}",
            "distinct cells": str(len(drawn.cells)),
            "draws rejected": str(drawn.rejected.total()),
            "of them duplicates": str(drawn.rejected["duplicate"]),
        }.items():
            rows.setdefault(name, []).append(value)
    for name, (without, with_memory) in rows.items():
        print(f"{name:32}{without:>14}{with_memory:>14}")


if __name__ == "__main__":
    main()
