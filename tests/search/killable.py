"""Small searches, and how to run them as a process of its own that can be killed."""

import sys
from functools import partial
from pathlib import Path

import torch

from nasrepro.controllers import (
    AgentSettings,
    BaseB,
    PolicyGradientSettings,
    PriorSettings,
    TokenAgentSettings,
    pretrain,
)
from nasrepro.ranking import RankerSettings
from nasrepro.search import Record, agent_search
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.search.loop import search
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.search.token_search import TokenSearchSettings
from tests.search.fakes import FakeTask

SETTINGS = SearchSettings(
    cells=33,
    step=8,
    sampled=2,
    candidates=60,
    memory_after=10,
    ranker=RankerSettings(hidden=8, updates=6, fewest=2, patience=2),
)
WORDS = ("MM", "Tanh", "Sigmoid", "Add", "Mult", "Gate3", "x_t", "h_{t-1}", "c_{t-1}")
AGENT_SETTINGS = AgentSearchSettings(
    cells=33,
    step=5,
    seed=4,
    agent=AgentSettings(WORDS, width=8, policy=8, max_height=6, max_nodes=8),
    priors=PriorSettings(WORDS, smallest=3, largest=6, batch=4, batches=2, updates=10),
)
TOKEN_SETTINGS = TokenSearchSettings(
    cells=33,
    seed=5,
    space=BaseB(2),
    agent=TokenAgentSettings(units=8),
    reinforce=PolicyGradientSettings(learning_rate=0.02, batch=2, accumulate=3),
)
QUICK_PRETRAINING = partial(pretrain, looks=1, count=8)
"""In place of `agent_search.pretrain`, which spends most of its time on looks where there is little else to do."""


def command(path: Path, settings: str = "SETTINGS") -> list[str]:
    """What runs `main` in another Python, from the root of the repository.

    With -c there is no main file that its workers would load, and they start in a fraction of the time.
    """
    return [sys.executable, "-c", f"from tests.search import killable as k; k.main({str(path)!r}, k.{settings})"]


def main(path: str, settings: SearchSettings | AgentSearchSettings | TokenSearchSettings) -> None:
    """Run the search on the record at `path`, or go on with it."""
    torch.set_num_threads(2)  # as in the tests: rankings depend on it in the last digits
    agent_search.pretrain = QUICK_PRETRAINING
    with Record(path) as record:
        search(FakeTask(sleep=0.1, failing=True), settings, record, workers=2)
