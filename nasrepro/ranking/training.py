"""How the ranking network is trained: by updates, as many as help with cells that it does not learn from."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from nasrepro.ranking.batch import Forest, TreeBatch
from nasrepro.ranking.settings import RankerSettings
from nasrepro.ranking.tree_lstm import TreeEncoder

_FUSES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)  # torch's Adam, on the CPU too
_JUDGED_EVERY = 25  # updates
_FEWEST_HELD_OUT = 4  # trees: fewer say nothing of when to stop


class Network(nn.Module):
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


class Training:
    """A network in training on some cells of a forest."""

    def __init__(
        self,
        settings: RankerSettings,
        forest: Forest,
        members: Sequence[int],
        targets: Tensor,
        generator: torch.Generator,
    ) -> None:
        """`members` are places in the forest, `targets` (members,) theirs, standardised."""
        self.settings, self.forest, self.generator = settings, forest, generator
        self.members, self.targets = torch.tensor(members), targets
        self.weights = favouring_weights(targets, settings.favour)
        self.network = Network(settings, generator)
        self.averaged = copy.deepcopy(self.network)
        """The network with its weights averaged over updates: what predicts."""
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=rate, weight_decay=decay, fused=_FUSES)
        self.updates = 0

    def update(self) -> None:
        """One update, on a batch in which no cell occurs twice."""
        size = min(self.settings.batch, len(self.members))
        drawn = torch.multinomial(self.weights, size, generator=self.generator)
        batch = self.forest.batch(self.members[drawn].tolist())
        kept = torch.rand(size, self.settings.hidden, generator=self.generator) >= self.settings.dropout
        prediction = self.network(batch, kept / (1 - self.settings.dropout))
        self.optimiser.zero_grad()
        nn.functional.mse_loss(prediction, self.targets[drawn]).backward()
        self.optimiser.step()
        self.updates += 1
        # At first the mean of all updates, so that the beginning does not linger.
        average = 0.0 if self.settings.epochs else min(self.settings.average, 1 - 1 / self.updates)
        with torch.no_grad():
            for mean, new in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - average)


def train(
    settings: RankerSettings,
    forest: Forest,
    members: Sequence[int],
    targets: Tensor,
    trees: Sequence[str],
    generator: torch.Generator,
    progress: bool = False,
) -> Network:
    """A network that has learned these cells of a forest, for as long as cells that were held out showed that it helps.

    `targets` (members,) are standardised; cells of one tree, named in `trees`, are held out together.
    """
    updates = settings.epochs * math.ceil(len(targets) / settings.batch) if settings.epochs else settings.updates
    with tqdm(total=updates, desc="ranking function", disable=not progress, leave=False) as bar:
        share = 0.0 if settings.epochs else settings.held_out
        if held_out := _held_out(trees, share, generator):
            updates = _updates_that_help(settings, forest, members, targets, held_out, generator, bar)
            bar.reset(updates)
        training = Training(settings, forest, members, targets, generator)
        for _ in range(updates):
            training.update()
            bar.update()
    return training.averaged


def _held_out(trees: Sequence[str], share: float, generator: torch.Generator) -> list[int]:
    """The places of about this share of the cells, whole trees; none where they are too few to judge by."""
    distinct = list(dict.fromkeys(trees))
    count = min(round(share * len(distinct)), len(distinct) - 1)
    if count < _FEWEST_HELD_OUT:
        return []
    order = torch.randperm(len(distinct), generator=generator).tolist()
    chosen = {distinct[i] for i in order[:count]}
    return [place for place, tree in enumerate(trees) if tree in chosen]


def _updates_that_help(
    settings: RankerSettings,
    forest: Forest,
    members: Sequence[int],
    targets: Tensor,
    held_out: Sequence[int],
    generator: torch.Generator,
    bar: "tqdm[Any]",
) -> int:
    """After how many updates on the other cells, the fewest or more, the error on those held out is lowest."""
    rest = sorted(set(range(len(targets))) - set(held_out))
    training = Training(settings, forest, [members[i] for i in rest], targets[rest], generator)
    unseen, truth = forest.batch([members[i] for i in held_out]), targets[held_out]
    best, best_after = math.inf, min(settings.fewest, settings.updates)
    while training.updates < settings.updates and training.updates - best_after < settings.patience:
        training.update()
        bar.update()
        if training.updates >= settings.fewest and training.updates % _JUDGED_EVERY == 0:
            with torch.inference_mode():
                error = float(nn.functional.mse_loss(training.averaged(unseen), truth))
            if error < best:
                best, best_after = error, training.updates
    return best_after
