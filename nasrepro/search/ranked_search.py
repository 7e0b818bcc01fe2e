"""S17's search for a language-model cell: generate, rank, train the most promising, learn, repeat (section 4.1).

Random search, S17's missing control, is the same without ranking.
"""

import random
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nasrepro.controllers import GrowthSettings, draw_cells
from nasrepro.dsl import Cell
from nasrepro.ranking import Ranker, RankerSettings
from nasrepro.search.plan import Choice, History, Keep, Propose, Step, make_anew
from nasrepro.trainers.settings import origin, use_declared_types


@dataclass(frozen=True)
class SearchSettings:
    """How a search goes; S17's settings carry their origins. Raises ValueError for numbers that make no search."""

    method: Literal["ranked", "random"] = field(default="ranked", metadata=origin("stated", "3.2"))
    """Choose by the ranking function, or train whatever the generator draws: S17's missing control."""
    cells: int = field(default=1000, metadata=origin("stated", "4.1", 'how many: "a little over 1000"'))
    """Cells to train. Raising it later continues the same search."""
    step: int = field(default=32, metadata=origin("stated", "3.2"))
    """Cells trained between two trainings of the ranking function."""
    sampled: int = field(default=4, metadata=origin("stated", "3.2"))
    """How many of a step are sampled rather than the best predicted."""
    temperature: float = field(default=1.0, metadata=origin("guessed", "3.2"))
    """A cell is sampled with weight exp(-predicted log perplexity / temperature): at 1, one over the predicted
    perplexity. S17 says that low perplexities are favoured, not how much."""
    candidates: int = field(default=50_000, metadata=origin("stated", "3.2", "how many at least: guessed, as many"))
    """Random cells that the ranking function orders in each step; S17's number is a maximum."""
    memory_after: int = field(default=750, metadata=origin("stated", "4.1"))
    """Cells with a memory c_t are admitted after so many valid cells without one."""
    seed: int = 0
    """Of everything random in proposing."""
    child_seed: int = field(default=0, metadata=origin("inferred", "4.1"))
    """Of every training. One seed per cell: S17 mentions no repetition."""
    growth: GrowthSettings = field(default_factory=GrowthSettings)
    """The random generator."""
    ranker: RankerSettings = field(default_factory=RankerSettings)
    """The ranking function."""
    patience: ClassVar[int] = 1
    """A step without a new cell ends the search: the generator has none left."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        if self.method not in ("ranked", "random"):
            raise ValueError(f"method is 'ranked' or 'random', got {self.method!r:.100}")
        if self.cells < 1 or self.step < 1 or self.memory_after < 0 or not 0 <= self.sampled <= self.step:
            raise ValueError(
                f"cells={self.cells}, step={self.step}, sampled={self.sampled}, memory_after={self.memory_after}: "
                "a search trains 1 or more cells in steps of 1 or more, of which 0 to all are sampled"
            )
        if self.candidates < self.step or self.temperature <= 0:
            given = f"candidates={self.candidates} must not be below step={self.step}"
            raise ValueError(f"{given}, and temperature={self.temperature} must be above 0")

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one: all but the budget. Random search names nothing of how ranking goes."""
        unused = ["cells"]
        if self.method == "random":
            unused += ["sampled", "temperature", "candidates", "ranker"]
        known = asdict(self) | {"ranker": self.ranker.identity()}
        return {name: value for name, value in known.items() if name not in unused}

    @property
    def budget(self) -> int:
        """Cells to train."""
        return self.cells

    def proposer(self, _keep: Keep = make_anew, /) -> Propose[Cell]:
        """Nothing is remembered: the ranking function is trained afresh in each step. To go on from the last step's
        network takes half the updates, but on recorded cells it then orders unseen ones worse, not better."""
        return partial(propose_cells, self)


def propose_cells(settings: SearchSettings, history: History[Cell], step: int) -> Step[Cell]:
    """Draw random cells; then the ranking function, taught by all earlier results, chooses among them.

    Facts: `candidates`, how many were drawn; `rejected`; `memory`, whether cells with a c_t were admitted; `exhausted`,
    whether the generator found no more.
    """
    valid = [trial.candidate for trial in history.trials if trial.loss is not None]
    memory = sum(cell.memory is None for cell in valid) >= settings.memory_after
    is_ranked = settings.method == "ranked" and bool(valid)

    rng = random.Random(f"{settings.seed}/{step}")  # text seeds are hashed alike everywhere
    count = settings.candidates if is_ranked else settings.step
    drawn = draw_cells(count, rng, settings.growth, memory=memory, seen=history.losses)
    if is_ranked and drawn.cells:
        tried = [trial.candidate for trial in history.trials]
        ranker = Ranker(settings.ranker, seed=rng.getrandbits(31)).fit(tried, [trial.loss for trial in history.trials])
        predicted = ranker.predict(drawn.cells)  # (cells,)
        choices = [Choice(drawn.cells[i], how, float(predicted[i])) for i, how in select(predicted, settings, rng)]
    else:
        choices = [Choice(cell, "random") for cell in drawn.cells]
    facts = {"candidates": len(drawn.cells), "rejected": dict(drawn.rejected), "exhausted": drawn.exhausted}
    return Step(choices, {**facts, "memory": memory})


def select(predicted: NDArray[np.float64], settings: SearchSettings, rng: random.Random) -> list[tuple[int, str]]:
    """Indices of the cells to train: the best predicted, then some sampled from the rest without replacement.

    `predicted` (candidates,) are log perplexities. The n largest of (log weight + Gumbel noise) are a weighted sample
    of n without replacement.
    """
    order = np.argsort(predicted, kind="stable")
    best, rest = np.split(order, [settings.step - settings.sampled])
    noise = np.random.default_rng(rng.getrandbits(64)).gumbel(size=len(rest))
    drawn = rest[np.argsort(predicted[rest] / settings.temperature - noise, kind="stable")[: settings.sampled]]
    return [(int(i), "best") for i in best] + [(int(i), "sampled") for i in drawn]
