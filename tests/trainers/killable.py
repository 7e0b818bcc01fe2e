"""A small search with the real trainer as a process of its own: python -m tests.trainers.killable RECORD WORKERS"""

import sys

import torch

from nasrepro.ranking import RankerSettings
from nasrepro.search import Record
from nasrepro.search.loop import search
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask

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

if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the tests, and gentle on a busy machine
    with Record(sys.argv[1]) as record:
        search(TASK, SETTINGS, record, workers=int(sys.argv[2]), progress=False)
