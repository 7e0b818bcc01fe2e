"""S17's ranking function: from a cell's tree to its perplexity (S17 section 3.2, appendix B.2)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nasrepro.dsl import Cell
from nasrepro.ranking.batch import Forest
from nasrepro.ranking.settings import RankerSettings
from nasrepro.ranking.targets import Targets
from nasrepro.ranking.training import Network, train
from nasrepro.threads import torch_threads

_CHUNK = 1024  # cells encoded at once when predicting: larger chunks share more subtrees but leave the cache


class Ranker:
    """Learns from evaluated cells, predicts log perplexity for new ones: the lower, the better.

    Everything random comes from `seed`. A `forest` of cells that will be asked for again and again spares numbering
    their nodes each time; it says nothing else. Raises RuntimeError when asked to predict before `fit`, ValueError for
    a forest that is unrolled for other settings.
    """

    def __init__(self, settings: RankerSettings | None = None, seed: int = 0, forest: Forest | None = None) -> None:
        self.settings = settings or RankerSettings()
        self.seed = seed
        if forest is not None and forest.unroll != self.settings.unroll:
            raise ValueError(f"the forest is unrolled {forest.unroll} times, the settings say {self.settings.unroll}")
        self._forest = forest
        self._networks: list[Network] = []
        self._targets: Targets

    def fit(self, cells: Sequence[Cell], perplexities: Sequence[float | None], progress: bool = False) -> "Ranker":
        """Train afresh on cells and their validation perplexities, None where training the cell failed.

        Raises ValueError where the two differ in length or no perplexity is valid.
        """
        if len(cells) != len(perplexities):
            raise ValueError(f"{len(cells)} cells, but {len(perplexities)} perplexities")
        self._targets = Targets.of(perplexities, self.settings.target, self.settings.failure_margin)
        standardised = torch.tensor(self._targets.values, dtype=torch.float32)  # (cells,)
        forest, members = self._placed(cells)
        trees = [cell.root.text for cell in cells]
        self._networks = []
        for member in range(self.settings.ensemble):
            generator = torch.Generator().manual_seed(self.seed * 1000 + member)
            with torch_threads(1):
                network = train(self.settings, forest, members, standardised, trees, generator, progress)
            self._networks.append(network)
        return self

    def predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Predicted log perplexity of each cell, (cells,)."""
        if not self._networks:
            raise RuntimeError("the ranker has learned nothing yet: call fit(cells, perplexities) first")
        with torch_threads(1):
            chunks = [self._predict(cells[start : start + _CHUNK]) for start in range(0, len(cells), _CHUNK)]
        return np.concatenate([np.zeros(0), *chunks])

    @torch.inference_mode()
    def _predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        forest, members = self._placed(cells)
        batch = forest.batch(members)
        mean = torch.stack([network(batch) for network in self._networks]).mean(0)
        return self._targets.log_perplexity(mean.double().numpy())

    def _placed(self, cells: Sequence[Cell]) -> tuple[Forest, list[int]]:
        """A forest that holds these cells, and their places in it."""
        members = self._forest.members(cells) if self._forest is not None else None
        if self._forest is not None and members is not None:
            return self._forest, members
        return Forest(cells, self.settings.unroll), list(range(len(cells)))
