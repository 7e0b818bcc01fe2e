"""How well a predictor orders cells that it has not seen."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nasrepro.dsl import Cell


class Predictor(Protocol):
    """What the ranker and the baselines have in common."""

    def fit(self, cells: Sequence[Cell], perplexities: Sequence[float | None]) -> Any:
        """Learn from cells and perplexities, None where a cell failed."""
        ...

    def predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Predicted log perplexity, (cells,)."""
        ...


def evaluate(
    make_model: Callable[[], Predictor],
    cells: Sequence[Cell],
    perplexities: Sequence[float | None],
    folds: int = 5,
    seed: int = 0,
) -> list[float]:
    """Kendall's tau between predicted and true perplexity on each of `folds` held-out parts, higher better.

    Cells with one canonical form count as one cell and fall into one fold. Failed cells may be learned from,
    but are not scored. The same seed gives every model the same folds.

    Raises ValueError when there are fewer distinct cells than folds need to compare two.
    """
    hashes = [cell.hash for cell in cells]
    distinct = sorted(set(hashes))
    if folds < 2 or len(distinct) < 2 * folds:
        raise ValueError(f"{len(distinct)} distinct cells do not make {folds} folds of two or more")
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = {distinct[i]: place % folds for place, i in enumerate(shuffled)}
    taus = []
    for fold in range(folds):
        train = [i for i, key in enumerate(hashes) if fold_of[key] != fold]
        test = [i for i, key in enumerate(hashes) if fold_of[key] == fold and perplexities[i] is not None]
        model = make_model()
        model.fit([cells[i] for i in train], [perplexities[i] for i in train])
        predicted = model.predict([cells[i] for i in test])
        tau = kendalltau(predicted, [perplexities[i] for i in test]).statistic
        # One prediction for all cells has no tau; it orders none of them.
        taus.append(0.0 if math.isnan(tau) else float(tau))
    return taus
