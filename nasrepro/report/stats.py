"""The few statistics that the project quotes: intervals over seeds, paired differences, rank correlation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
T = TypeVar("T")


def interval(values: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = 9999) -> Interval | None:
    """Bootstrap interval (BCa, Efron 1987) of the mean of `values`, shape (n,).

    None for fewer than three values: two cannot show a spread, and the caller has to say so. Values that are all equal
    give that value twice. Raises ValueError on values that are not finite: decide what a failed seed counts.
    """
    sample = np.asarray(values, dtype=float).ravel()
    if not np.isfinite(sample).all():
        raise ValueError("an interval needs finite values; leave failed seeds out and say how many failed")
    if len(sample) < 3:
        return None
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BCa warns on near-constant samples, where we fall back to percentiles
        for method in ("BCa", "percentile"):
            drawn: dict[str, Any] = {"n_resamples": resamples, "method": method, "rng": np.random.default_rng(seed)}
            found = scipy.stats.bootstrap((sample,), np.mean, confidence_level=level, **drawn).confidence_interval
            if np.isfinite([found.low, found.high]).all():
                break
    return float(found.low), float(found.high)


def over_seeds(values: ArrayLike) -> dict[str, Any]:
    """What a finding says of values (n,), one for each seed: value (their mean), interval and seeds (how many)."""
    sample = np.asarray(values, dtype=float)
    return {"value": float(sample.mean()), "interval": interval(sample), "seeds": len(sample)}


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, Interval | None]:
    """Mean of first - second, paired by seed, and its interval. Raises ValueError when the lengths differ."""
    if len(first) != len(second):
        raise ValueError(f"a paired difference needs as many values on both sides, got {len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return float(differences.mean()), interval(differences)


def told(interval: Interval | None, above: T, below: T, neither: T) -> T:
    """The one of three answers that an interval gives: it lies above zero, below it, or shows neither.

    An interval that holds or touches zero shows neither, nor does one that is missing: None, or with ends that are nan.
    """
    low, high = interval or (0.0, 0.0)
    return above if low > 0 else below if high < 0 else neither


def kendall(pred: ArrayLike, true: ArrayLike) -> float:
    """Kendall's tau-b of predicted and true values, shape (n,) each; ValueError where it has no value."""
    tau = float(scipy.stats.kendalltau(np.asarray(pred), np.asarray(true)).statistic)
    if not np.isfinite(tau):
        raise ValueError("Kendall's tau needs at least two pairs and values that are not all equal or NaN")
    return tau


def parts_of_variance(values: ArrayLike) -> dict[str, float]:
    """What makes measurements (n, seeds) of n things differ, in a balanced layout with one random factor.

    within: standard deviation over the seeds of one thing; between: over things, of what is their own, 0 where seeds
    alone explain more; share: of the variance of one measurement that is the thing's own.
    """
    table = np.asarray(values, dtype=float)
    within = float(table.var(axis=1, ddof=1).mean())
    between = max(0.0, float(table.mean(axis=1).var(ddof=1)) - within / table.shape[1])
    return {"within": within**0.5, "between": between**0.5, "share": between / max(within + between, 1e-300)}


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval."""

    value: float
    low: float
    high: float


def kendall_interval(
    predictions: Sequence[ArrayLike],
    true: ArrayLike,
    rivals: Sequence[ArrayLike] = (),
    groups: Sequence[object] | None = None,
) -> Estimate:
    """Mean Kendall's tau-b of several predictions (n,) of the same true values (n,), with a percentile bootstrap
    interval of 95% over the n cases.

    `groups` names the group of each case where some belong together, such as cells of one tree: whole groups are then
    resampled. With `rivals`, the mean tau of the predictions less that of the rivals, both on the same resampled cases.
    Resampling repeats cases, which tie with themselves; tau-b leaves tied pairs out.
    """
    measured = np.asarray(true, dtype=float)
    ours = [np.asarray(prediction, dtype=float) for prediction in predictions]
    theirs = [np.asarray(prediction, dtype=float) for prediction in rivals]

    def statistic(cases: NDArray[np.int64]) -> float:
        def mean_tau(group: list[NDArray[np.float64]]) -> float:
            # One prediction for all cases orders none of them: its tau is undefined and counts as 0.
            taus = [scipy.stats.kendalltau(p[cases], measured[cases]).statistic for p in group]
            return float(np.mean(np.nan_to_num(taus)))

        return mean_tau(ours) - (mean_tau(theirs) if theirs else 0.0)

    by_name: dict[object, list[int]] = {}
    for place, name in enumerate(range(len(measured)) if groups is None else groups):
        by_name.setdefault(name, []).append(place)
    members = [np.array(places) for places in by_name.values()]
    draws = np.random.default_rng(0).integers(0, len(members), (500, len(members)))
    drawn = [statistic(np.concatenate([members[i] for i in draw])) for draw in draws]
    low, high = np.quantile(drawn, [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return Estimate(statistic(np.arange(len(measured))), float(low), float(high))
