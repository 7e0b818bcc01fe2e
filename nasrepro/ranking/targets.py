"""What the ranking function learns to predict of a cell, and the way from there back to log perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Kind = Literal["rank", "log", "raw"]


@dataclass(frozen=True)
class Targets:
    """The targets of training cells, and how they were made."""

    kind: Kind
    values: NDArray[np.float64]  # (cells,) standardised
    centre: float
    scale: float
    logs: NDArray[np.float64]  # (valid cells,) log perplexities, the lowest first

    @classmethod
    def of(cls, perplexities: Sequence[float | None], kind: Kind, failure_margin: float) -> "Targets":
        """Of perplexities, None for failures: these are worse than the worst by so many standard deviations of valid
        targets. Raises ValueError where none is valid, or one is not above 0."""
        given = np.array([np.nan if ppl is None else ppl for ppl in perplexities], dtype=np.float64)
        valid = np.isfinite(given)
        if not valid.any():
            raise ValueError(f"none of the {len(given)} cells has a valid perplexity: nothing to learn from")
        if not (given[valid] > 0).all():
            raise ValueError(f"perplexities are above 0, got {given[valid].min():g}")
        values = np.empty_like(given)
        values[valid] = given[valid] if kind == "raw" else np.log(given[valid])
        if kind == "rank":
            values[valid] = _places(given[valid])
        values[~valid] = values[valid].max() + failure_margin * _spread(values[valid])
        centre, scale = float(values.mean()), _spread(values)
        return cls(kind, (values - centre) / scale, centre, scale, np.sort(np.log(given[valid])))

    def log_perplexity(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardised predictions as log perplexities, (n,) -> (n,), in the same order."""
        value = predicted * self.scale + self.centre
        if self.kind == "log":
            return value
        if self.kind == "raw":
            return np.log(np.maximum(value, 1.0))  # a perplexity below 1 is a slip of the regression
        places = _places(self.logs)
        known, first = np.unique(places, return_index=True)
        beyond = value - value.clip(known[0], known[-1])  # better than the best, or worse than the worst, as failures
        return np.interp(value, known, self.logs[first]) + beyond * _spread(self.logs) / _spread(places)


def _places(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 for the lowest, 1 for the highest; equal ones share the mean of their places, so that none is put in order."""
    return np.asarray((rankdata(values) - 1) / max(1, len(values) - 1))


def _spread(values: NDArray[np.float64]) -> float:
    return float(values.std()) or 1.0  # all alike: there is nothing to standardise
