"""How well a predictor orders cells that it has not seen."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nasrepro.dsl import Cell


class Predictor(Protocol):
    """What the ranker and the baselines have in common."""

    def fit(self, cells: Sequence[Cell], perplexities: Sequence[float | None]) -> Any:
        """Learn from cells and perplexities, None where a cell failed."""
        ...

    def predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Predicted log perplexity, (cells,)."""
        ...


def tree_of(cell: Cell) -> str:
    """The hash of the cell's tree: the same for cells that differ only in where c_t is read off."""
    return Cell(cell.root).hash


def cross_predict(
    make_model: Callable[[int], Predictor],
    cells: Sequence[Cell],
    perplexities: Sequence[float | None],
    folds: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Out-of-fold predictions, (cells,): each cell is predicted by a model that was fitted to the other folds.

    `make_model` builds a model from a seed. Cells of one tree fall into one fold, so that no model has seen what it
    predicts, nor its twin with c_t elsewhere. The same seed gives every kind of model the same folds.

    Raises ValueError when there are fewer distinct trees than twice the folds.
    """
    hashes = [tree_of(cell) for cell in cells]
    distinct = sorted(set(hashes))
    if folds < 2 or len(distinct) < 2 * folds:
        raise ValueError(f"{len(distinct)} distinct trees do not make {folds} folds of two or more")
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = {distinct[i]: place % folds for place, i in enumerate(shuffled)}
    predicted = np.empty(len(cells))
    for fold in range(folds):
        train = [i for i, key in enumerate(hashes) if fold_of[key] != fold]
        test = [i for i, key in enumerate(hashes) if fold_of[key] == fold]
        model = make_model(seed)
        model.fit([cells[i] for i in train], [perplexities[i] for i in train])
        predicted[test] = model.predict([cells[i] for i in test])
    return predicted
