"""How benchmarks on the processor measure: interleaved rounds, and ratios and shares of the peak within them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np
import torch
from peak import peak
from scipy.stats import quantile_test
from tqdm import tqdm

from nasrepro.rnn.timing import benchmark

Work = Callable[[], object]
Rows = Iterator[dict[str, Any]]


def interleaved(about: str, variants: Mapping[str, Work], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each variant in each round, as `benchmark`, with a progress bar."""
    with tqdm(total=(rounds + warmup) * len(variants), desc=about, leave=False) as bar:

        def counted(work: Work) -> Work:
            def run() -> None:
                work()
                bar.update()

            return run

        return benchmark({name: counted(work) for name, work in variants.items()}, rounds, warmup)


PEAK = "peak"
"""What the processor's peak is called among what is timed."""


@lru_cache
def peak_here() -> tuple[Work, float]:
    """Multiply-adds on as many threads as torch has, for a hundredth of a second or two; and how many operations."""
    threads = torch.get_num_threads()
    return peak(threads, threads * 2e9)


def compared(
    seconds: Mapping[str, Sequence[float]], base: str, operations: Mapping[str, float] | None = None
) -> dict[str, dict[str, float]]:
    """What a table says of each variant: its milliseconds, and its time over the base's within rounds.

    `operations`, floating-point, by variant: where they are known, and the peak was timed too, the share of it.
    """
    rows = {}
    for name, times in seconds.items():
        if name == PEAK:
            continue
        ratios = np.array(times) / np.array(seconds[base])
        low, high = quantile_test(ratios, p=0.5).confidence_interval(0.95)  # nan for fewer than 6 rounds
        rows[name] = {
            "median ms": 1e3 * median(times),
            "q1 ms": 1e3 * float(np.quantile(times, 0.25)),
            "q3 ms": 1e3 * float(np.quantile(times, 0.75)),
            "ratio": float(np.median(ratios)),
            "ratio q1": float(np.quantile(ratios, 0.25)),
            "ratio q3": float(np.quantile(ratios, 0.75)),
            "ratio 95% low": float(low),
            "ratio 95% high": float(high),
        }
        if PEAK in seconds:
            most = peak_here()[1] / np.array(seconds[PEAK])  # operations per second
            shares = (operations or {}).get(name, np.nan) / np.array(times) / most
            rows[name] |= {"of peak": float(np.median(shares)), "peak GFLOP/s": float(np.median(most)) / 1e9}
    return rows


def float32_of(variants: Iterable[str]) -> list[str]:
    """Those that the peak, which is of float32, is a bound for."""
    return [name for name in variants if "bfloat16" not in name]
