"""Two plain predictors of perplexity, with the ranker's interface: what it has to beat.

Both leave failed cells out, or learn from them as the ranker does: as cells a little worse than the worst valid one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from nasrepro.dsl import Cell
from nasrepro.dsl.operators import OPERATORS, SOURCES

_WORDS = [*OPERATORS, *SOURCES]


class ProductCount:
    """Ranks cells by how many matrices they hold; whether many are good is read off the training set."""

    def __init__(self, failure_margin: float | None = None) -> None:
        self.failure_margin = failure_margin
        self._slope = self._offset = float("nan")

    def fit(self, cells: Sequence[Cell], perplexities: Sequence[float | None]) -> "ProductCount":
        """A straight line from the number of MMs to log perplexity."""
        kept, logs = _examples(cells, perplexities, self.failure_margin)
        counts = _counts(kept)[:, _WORDS.index("MM")]
        spread = counts.var()
        covariance = ((counts - counts.mean()) * (logs - logs.mean())).mean()
        self._slope = float(covariance / spread) if spread else 0.0
        self._offset = float(logs.mean() - self._slope * counts.mean())
        return self

    def predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Predicted log perplexity, (cells,)."""
        return self._offset + self._slope * _counts(cells)[:, _WORDS.index("MM")]


class OperatorRidge:
    """Ridge regression of log perplexity on how often each operator and source occurs.

    The penalty is chosen by leave-one-out cross-validation.
    """

    def __init__(self, failure_margin: float | None = None) -> None:
        self.failure_margin = failure_margin
        self._model = RidgeCV(alphas=np.logspace(-3, 4, 22))

    def fit(self, cells: Sequence[Cell], perplexities: Sequence[float | None]) -> "OperatorRidge":
        """Fit the coefficients and choose the penalty."""
        kept, logs = _examples(cells, perplexities, self.failure_margin)
        self._model.fit(_counts(kept), logs)
        return self

    def predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Predicted log perplexity, (cells,)."""
        return np.asarray(self._model.predict(_counts(cells)))


def _counts(cells: Sequence[Cell]) -> NDArray[np.float64]:
    """(cells, words)"""
    counts = np.zeros((len(cells), len(_WORDS)))
    for row, cell in zip(counts, cells, strict=True):
        for node in cell.root.walk():
            row[_WORDS.index(node.op)] += 1
    return counts


def _examples(
    cells: Sequence[Cell], perplexities: Sequence[float | None], failure_margin: float | None
) -> tuple[list[Cell], NDArray[np.float64]]:
    """Training cells and their log perplexities; failures dropped, or `failure_margin` deviations above the worst."""
    valid = np.log([ppl for ppl in perplexities if ppl is not None])
    if failure_margin is None:
        return [cell for cell, ppl in zip(cells, perplexities, strict=True) if ppl is not None], valid
    failed = valid.max() + failure_margin * valid.std()
    return list(cells), np.array([failed if ppl is None else np.log(ppl) for ppl in perplexities])
