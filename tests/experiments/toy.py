"""An experiment that has nothing to do with cells: words are looked for that are spelled like another.

All of it is in this file: candidates, task, search, analysis, figure, and what the shared parts ask of an experiment.
What a project registers in one line, `EXPERIMENTS["toy"] = EXPERIMENT` does here. Its notebook is in `test_toy.py`.
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nasrepro import cli
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.search import Record, replay
from nasrepro.search.loop import search
from nasrepro.search.plan import Choice, History, Keep, Propose, Step, make_anew
from nasrepro.trainers.outcome import Loss, Outcome

ENTRY = "s17.rank.predicts"  # a claim of the papers for which they name no data
RECORD = "toy.jsonl.gz"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Word:
    """Letters; small and capital ones mean the same."""

    text: str

    def __str__(self) -> str:
        return self.text

    def canonical(self) -> "Word":
        return Word(self.text.lower())

    @property
    def hash(self) -> str:
        return sha256(self.text.lower().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Dictionary:
    """Data: the word that is looked for, and one that is kept back."""

    name: str = "dictionary"
    hash: str = "d" * 64
    note: str = ""
    word: str = "search"
    _test: str = "starch"


@dataclass(frozen=True)
class SpellingTask:
    """How many letters of a word are wrong. Words with a q break the task's machine, and fail."""

    sleep: float = 0.0
    device: str = "cpu"
    checkpoints: str | None = None
    corpus: Dictionary = field(default_factory=Dictionary)

    name = "spelling"
    version = 1
    loss = Loss("error", "wrong letters")
    is_long = False
    data_words = "dictionary"

    @property
    def settings(self) -> dict[str, Any]:
        return {"corpus": self.corpus.name}

    @property
    def data_hash(self) -> str:
        return self.corpus.hash

    def words(self) -> str:
        return f"compared with a word of the {self.corpus.name}"

    def read(self, text: str) -> Word:
        return Word(text)

    def evaluate(self, word: Word, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        return self.train(word, seed, on_epoch)[0]

    def train(
        self, word: Word, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None
    ) -> tuple[Outcome, Word]:
        time.sleep(self.sleep * random.random())  # uneven, so that words come back out of order
        if "q" in str(word.canonical()):
            return Outcome("failed", "has a q", {"error": 0.0}), word
        return Outcome("ok", "", {"error": wrong(word, self.corpus.word) + seed / 1000}), word

    def test(self, model: Word, split: str) -> dict[str, float]:
        return {"test_error": float(wrong(model, split))}


def wrong(word: Word, wanted: str) -> int:
    return sum(a != b for a, b in zip(str(word.canonical()), wanted, strict=True))


@dataclass(frozen=True)
class SpellingPlan:
    """Change some letters of the best word so far."""

    budget: int = 60
    step: int = 6
    patience: int = 2
    seed: int = 0
    child_seed: int = 3
    letters: str = LETTERS

    def identity(self) -> dict[str, Any]:
        return {"method": "spelling", "step": self.step, "seed": self.seed, "letters": self.letters}

    def proposer(self, _keep: Keep = make_anew, /) -> Propose[Word]:
        return self.propose

    def propose(self, history: History[Word], step: int) -> Step[Word]:
        rng = random.Random(f"{self.seed}/{step}")
        valid = [trial for trial in history.trials if trial.loss is not None]
        best = min(valid, key=lambda trial: trial.loss).candidate if valid else Word("Aaaaaa")
        chosen: dict[str, Choice[Word]] = {}
        rejected = 0
        for _ in range(50):
            letters = [rng.choice(self.letters) if rng.random() < 0.3 else letter for letter in str(best)]
            word = Word("".join(letters))
            if len(chosen) == self.step:
                break
            if word.hash in history.losses or word.hash in chosen:
                rejected += 1
            else:
                chosen[word.hash] = Choice(word, "changed" if valid else "random", len(valid) or None)
        return Step(list(chosen.values()), {"best": str(best), "rejected": {"duplicate": rejected}})


# ---- the experiment


@dataclass(frozen=True)
class ToySizes:
    task: SpellingTask
    plan: SpellingPlan


def trainings(sizes: ToySizes) -> list[Trainings]:
    make = partial(_search, sizes)
    return [Trainings("05", "words like another", sizes.task, sizes.plan.budget, make, [ENTRY])]


def _search(sizes: ToySizes, resources: Resources) -> None:
    print(search(sizes.task, sizes.plan, resources.record, resources.workers, resources.timeout_s))


def seconds(task: SpellingTask, _device: str) -> float:
    """Invented, in place of a measurement."""
    return 3600 * task.sleep


def letters_right(errors: Sequence[float]) -> list[float]:
    """The analysis: how many letters of each word are right, of the best so far."""
    return [6 - min(errors[: n + 1]) for n in range(len(errors))]


def progress(right: Sequence[float]) -> Figure:
    figure = Figure()
    figure.subplots().plot(right)
    return figure


def readme(records: Path) -> str:
    record = Record.load(records / RECORD)
    (name,) = record.searches()
    return f"{len(replay(record, name).trials)} words were tried."


EXPERIMENT = Experiment(
    name="toy",
    about="words that are spelled like another",
    sizes={"smoke": ToySizes(SpellingTask(sleep=0.1), SpellingPlan(budget=24))},
    trainings=trainings,
    seconds=seconds,
    shipped={"smoke": (RECORD,)},
    named={"target": Word("search")},
    readme={"toy": readme},
    picture="toy-progress.png",
)


def main() -> None:
    """The `nasrepro` command of a project that has this experiment as well."""
    EXPERIMENTS["toy"] = EXPERIMENT
    sys.exit(cli.main())
