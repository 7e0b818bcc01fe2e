"""A small search, and how to run it as a process of its own that can be killed."""

import sys
from pathlib import Path

import torch

from nasrepro.ranking import RankerSettings
from nasrepro.search import Record
from nasrepro.search.loop import SearchSettings, search
from tests.search.fakes import FakeTask

SETTINGS = SearchSettings(
    cells=33, step=8, sampled=2, candidates=60, memory_after=10, ranker=RankerSettings(hidden=8, epochs=2)
)


def command(path: Path) -> list[str]:
    """What runs `main` in another Python, from the root of the repository.

    With -c there is no main file that its workers would load, and they start in a fraction of the time.
    """
    return [sys.executable, "-c", f"from tests.search.killable import main; main({str(path)!r})"]


def main(path: str) -> None:
    """Run the search on the record at `path`, or go on with it."""
    torch.set_num_threads(2)  # as in the tests: rankings depend on it in the last digits
    with Record(path) as record:
        search(FakeTask(sleep=0.1, failing=True), SETTINGS, record, workers=2)
