"""A task for machines with a GPU."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from nasrepro.dsl import Cell, zoo
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.outcome import Outcome


@dataclass(frozen=True)
class GreedyTask(LanguageModelTask):
    """The LSTM takes more than any GPU has, and the GRU breaks it."""

    level: str = "char"
    training: LanguageModelSettings = field(
        default_factory=lambda: LanguageModelSettings(
            layers=1, hidden=8, embedding=8, batch=8, bptt=16, epochs=1, train_tokens=2_000, valid_tokens=500
        )
    )
    device: str = "cuda"

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        if cell.hash == zoo["LSTM"].hash:
            blocks = [torch.empty(2**30, dtype=torch.uint8, device=self.device) for _ in range(10_000)]
            raise AssertionError(f"{len(blocks)} GiB are no GPU's")
        if cell.hash == zoo["GRU"].hash:
            torch.zeros(3, device=self.device)[torch.tensor([5], device=self.device)].cpu()
        return super().evaluate(cell, seed, on_epoch)
