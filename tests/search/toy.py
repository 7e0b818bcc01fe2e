"""A search that has nothing to do with cells: its candidates are words, and the task says how well each is spelled."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from nasrepro.search import Record
from nasrepro.search.loop import search
from nasrepro.search.plan import Choice, History, Keep, Propose, Step, make_anew
from nasrepro.trainers.outcome import Loss, Outcome

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


def command(path: Path) -> list[str]:
    """What runs `main` in another Python, from the root of the repository (see `killable.command`)."""
    return [sys.executable, "-c", f"from tests.search import toy; toy.main({str(path)!r})"]


def main(path: str) -> None:
    """Run the search on the record at `path`, or go on with it."""
    with Record(path) as record:
        search(SpellingTask(sleep=0.2), SpellingPlan(), record, workers=2)
