"""A small search with the real trainer as a process of its own: python -m tests.trainers.killable RECORD WORKERS"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from nasrepro.dsl import Cell
from nasrepro.ranking import RankerSettings
from nasrepro.search import Record
from nasrepro.search.loop import search
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import wait_for_deadline

TASK = LanguageModelTask(
    level="char",
    training=LanguageModelSettings(
        layers=1,
        hidden=8,
        embedding=8,
        batch=8,
        bptt=16,
        epochs=2,
        fail_after=1,
        fail_above=80,
        train_tokens=2_000,
        valid_tokens=500,
    ),
)
SETTINGS = SearchSettings(
    cells=10, step=4, sampled=1, candidates=20, memory_after=2, ranker=RankerSettings(hidden=8, epochs=2)
)


class PatientTask(LanguageModelTask):
    """The same task, every training of which waits for the deadline after an epoch."""

    def train(
        self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None
    ) -> tuple[Outcome, LanguageModel]:
        folder = Path(self.checkpoints or "").parent
        return super().train(cell, seed, lambda _: wait_for_deadline(folder))


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the tests, and gentle on a busy machine
    with Record(sys.argv[1]) as record:
        search(TASK, SETTINGS, record, workers=int(sys.argv[2]), progress=False)
