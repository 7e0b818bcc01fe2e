"""S17's ranking function: from a cell's tree to its perplexity (S17 section 3.2, appendix B.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from nasrepro.dsl import Cell
from nasrepro.ranking.batch import Forest, TreeBatch, tree_batch
from nasrepro.ranking.tree_lstm import TreeEncoder
from nasrepro.settings import origin
from nasrepro.threads import torch_threads

_FUSES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)  # torch's Adam, on the CPU too
_CHUNK = 1024  # cells encoded at once when predicting: larger chunks share more subtrees but leave the cache


@dataclass(frozen=True)
class RankerSettings:
    """How the ranking network is built and trained."""

    hidden: int = field(default=128, metadata=origin("stated", "B.2"))
    """Units of the TreeLSTM."""
    batch: int = field(default=16, metadata=origin("stated", "B.2"))
    """Cells per update."""
    weight_decay: float = field(default=1e-4, metadata=origin("stated", "B.2"))
    """L2 penalty."""
    dropout: float = field(
        default=0.2, metadata=origin("stated", "B.2", 'of "the final dense layer output": inferred, of what it reads')
    )
    """Rate on what the output layer reads. Its output is one number, and dropping it would drop the prediction."""
    unroll: int = field(default=1, metadata=origin("stated", "B.2"))
    """Time steps that are encoded before the one that is ranked. At 0, h_{t-1} is a leaf."""
    learning_rate: float = field(default=1e-3, metadata=origin("guessed", "B.2"))
    """Adam's."""
    epochs: int = field(default=10, metadata=origin("guessed", "B.2"))
    """One epoch draws as many cells as there are."""
    target: Literal["log", "raw"] = field(default="log", metadata=origin("guessed", "B.2"))
    """What the mean squared error is taken of, standardised: the paper plots log perplexity."""
    favour: float = field(default=1.0, metadata=origin("guessed", "B.2", "how strongly; that low ones are is stated"))
    """How much more often low perplexities are drawn while training: the best cell exp(favour) times as often as the
    worst, in between by rank. 0 draws all alike."""
    failure_margin: float = field(default=0.5, metadata=origin("guessed", "B.2", "which; that they are kept is stated"))
    """The target of failed cells: the worst valid one, and so many of the valid ones' standard deviations more."""
    ensemble: int = 1
    """Networks whose predictions are averaged. Ours."""


class Ranker:
    """Learns from evaluated cells, predicts log perplexity for new ones: the lower, the better.

    Everything random comes from `seed`. Raises RuntimeError when asked to predict before `fit`.
    """

    def __init__(self, settings: RankerSettings | None = None, seed: int = 0) -> None:
        self.settings = settings or RankerSettings()
        self.seed = seed
        self._networks: list[_Network] = []
        self._centre = self._scale = math.nan

    def fit(self, cells: Sequence[Cell], perplexities: Sequence[float | None], progress: bool = False) -> "Ranker":
        """Train afresh on cells and their validation perplexities, None where training the cell failed.

        Raises ValueError where the two differ in length or no perplexity is valid.
        """
        targets = self._targets(cells, perplexities)  # (cells,)
        weights = favouring_weights(targets, self.settings.favour)
        self._networks = []
        for member in range(self.settings.ensemble):
            generator = torch.Generator().manual_seed(self.seed * 1000 + member)
            network = _Network(self.settings, generator)
            with torch_threads(1):
                _train(network, cells, targets, weights, self.settings, generator, progress)
            self._networks.append(network)
        return self

    def predict(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Predicted log perplexity of each cell, (cells,)."""
        if not self._networks:
            raise RuntimeError("the ranker has learned nothing yet: call fit(cells, perplexities) first")
        with torch_threads(1):
            chunks = [
                self._predict(tree_batch(cells[start : start + _CHUNK], self.settings.unroll))
                for start in range(0, len(cells), _CHUNK)
            ]
        return np.concatenate([np.zeros(0), *chunks])

    @torch.inference_mode()
    def _predict(self, batch: TreeBatch) -> NDArray[np.float64]:
        mean = torch.stack([network(batch) for network in self._networks]).mean(0)
        value = mean.double().numpy() * self._scale + self._centre
        if self.settings.target == "log":
            return value
        return np.log(np.maximum(value, 1.0))  # a perplexity below 1 is a slip of the regression

    def _targets(self, cells: Sequence[Cell], perplexities: Sequence[float | None]) -> Tensor:
        if len(cells) != len(perplexities):
            raise ValueError(f"{len(cells)} cells, but {len(perplexities)} perplexities")
        values = np.array([math.nan if ppl is None else ppl for ppl in perplexities], dtype=np.float64)
        if self.settings.target == "log":
            values = np.log(values)
        failed = ~np.isfinite(values)
        if failed.all():
            raise ValueError(f"none of the {len(cells)} cells has a valid perplexity: nothing to learn from")
        spread = float(values[~failed].std()) or 1.0  # all alike: there is nothing to standardise
        values[failed] = values[~failed].max() + self.settings.failure_margin * spread
        self._centre, self._scale = float(values.mean()), float(values.std()) or 1.0
        return torch.tensor((values - self._centre) / self._scale, dtype=torch.float32)


class _Network(nn.Module):
    """The encoder and a linear output."""

    def __init__(self, settings: RankerSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = TreeEncoder(settings.hidden, generator)
        bound = settings.hidden**-0.5
        self.weight = nn.Parameter(torch.empty(settings.hidden).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: TreeBatch, mask: Tensor | float = 1.0) -> Tensor:
        """Standardised predictions, (cells,). `mask` (cells, hidden) multiplies the encodings: dropout."""
        return (self.encoder(batch) * mask) @ self.weight + self.bias


def favouring_weights(targets: Tensor, favour: float) -> Tensor:
    """How often each is drawn: exp(-favour * rank / (n - 1)), rank 0 the lowest target. (n,) -> (n,)."""
    rank = targets.argsort(stable=True).argsort().double()
    return torch.exp(-favour * rank / max(1, len(targets) - 1))


def _train(
    network: _Network,
    cells: Sequence[Cell],
    targets: Tensor,
    weights: Tensor,
    settings: RankerSettings,
    generator: torch.Generator,
    progress: bool,
) -> None:
    forest = Forest(cells, settings.unroll)
    rate, decay = settings.learning_rate, settings.weight_decay
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay, fused=_FUSES)
    updates = settings.epochs * math.ceil(len(cells) / settings.batch)
    size = min(settings.batch, len(cells))
    for _ in tqdm(range(updates), desc="ranking function", disable=not progress, leave=False):
        drawn = torch.multinomial(weights, size, generator=generator)  # without replacement inside one batch
        batch = forest.batch(drawn.tolist())
        kept = torch.rand(size, settings.hidden, generator=generator) >= settings.dropout
        prediction = network(batch, kept / (1 - settings.dropout))
        optimiser.zero_grad()
        nn.functional.mse_loss(prediction, targets[drawn]).backward()
        optimiser.step()
