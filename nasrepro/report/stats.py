"""The few statistics that the project quotes: intervals over seeds, paired differences, rank correlation."""

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

Interval = tuple[float, float]


def interval(values: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = 9999) -> Interval | None:
    """Bootstrap interval (BCa, Efron 1987) of the mean of `values`, shape (n,).

    None for fewer than three values: two cannot show a spread, and the caller has to say so. Values that are
    all equal give that value twice. Raises ValueError on values that are not finite: decide what a failed
    seed counts.
    """
    sample = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(sample).all():
        raise ValueError("an interval needs finite values; leave failed seeds out and say how many failed")
    if len(sample) < 3:
        return None
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # BCa warns on near-constant samples, where we fall back to percentiles
        for method in ("BCa", "percentile"):
            found = scipy.stats.bootstrap(
                (sample,),
                np.mean,
                confidence_level=level,
                n_resamples=resamples,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
            if np.isfinite([found.low, found.high]).all():
                break
    return float(found.low), float(found.high)


def paired_difference(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, seed: int = 0
) -> tuple[float, Interval | None]:
    """Mean of first - second, paired by seed, and its interval. Raises ValueError when the lengths differ."""
    if len(first) != len(second):
        raise ValueError(
            f"a paired difference needs as many values on both sides, got {len(first)} and {len(second)}"
        )
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return float(differences.mean()), interval(differences, level, seed)


def kendall(pred: ArrayLike, true: ArrayLike) -> float:
    """Kendall's tau-b of predicted and true values, shape (n,) each; ValueError where it has no value."""
    tau = float(scipy.stats.kendalltau(np.asarray(pred), np.asarray(true)).statistic)
    if not np.isfinite(tau):
        raise ValueError("Kendall's tau needs at least two pairs and values that are not all equal or NaN")
    return tau
