"""How large ZL17's experiments on recurrent cells are (section 4.2): everything that a run scales down is here."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

from nasrepro.controllers import BaseB, draw_tokens
from nasrepro.controllers.base_b import CONTROL_1
from nasrepro.dsl import Cell
from nasrepro.ranking import RankerSettings
from nasrepro.search.token_search import TokenSearchSettings
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask

SCALED_RATE = 3.5e-3
"""The controller's learning rate for searches of hundreds of children, where ZL17's 5e-4 moves it hardly at all."""

KNOWN = ("LSTM", "GRU", "NASCell", "MaxSin", "TanhRNN")
"""The cells that children are held against, by their names in the zoo."""

ON_WORDS = ("LSTM", "NASCell", "MaxSin")
"""Those that are trained on words too: ZL17's two best cells (Figure 8), and what they are to replace."""


@dataclass(frozen=True)
class Grid:
    """The grid search that follows a search: over what ZL17 names, learning rate, initialisation, dropout and decay.

    The epoch of the decay is not set but found, as the first that does not improve; what is set is how far it goes.
    """

    epochs: int
    """Longer than a child's, so that the learning rate is annealed at all."""
    learning_rate: tuple[float, ...]
    embedding_range: tuple[float, ...]
    dropout: tuple[float, ...]
    anneal: tuple[float, ...]

    def tasks(self, task: LanguageModelTask) -> dict[str, LanguageModelTask]:
        """The task with each point's settings, by words for the point."""
        found = {}
        for rate, reach, dropout, anneal in product(
            self.learning_rate, self.embedding_range, self.dropout, self.anneal
        ):
            training = replace(
                task.training,
                epochs=self.epochs,
                learning_rate=rate,
                embedding_range=reach,
                dropout=dropout,
                anneal=anneal,
            )
            words = f"rate {rate:g}, range {reach:g}, dropout {dropout:g}, divided by {anneal:g}"
            found[words] = replace(task, training=training)
        return found


@dataclass(frozen=True)
class SurrogateSizes:
    """How far searches are repeated where a ranking function stands in for training (see `surrogate`)."""

    samples: int = 20_000
    """Children of each search. ZL17's Figure 6 goes on to 20,800."""
    seeds: int = 5
    """Searches of each kind."""
    folds: int = 3
    """Parts of the recorded cells; each is predicted by a ranking function fitted to the others."""
    ranker: RankerSettings = field(default_factory=lambda: RankerSettings(updates=2_000, held_out=0.0))
    """Thousands of cells pay for more updates than a search's dozens; to hold some out would double the time."""


@dataclass(frozen=True)
class CellsSizes:
    """How large a run is."""

    task: LanguageModelTask
    """What a search trains and judges cells by."""
    words_task: LanguageModelTask
    """What the published cells are compared by on words."""
    search: TokenSearchSettings
    """The search with the paper's controller; the others differ from it in their arm and seed."""
    arms: tuple[str, ...] = ("paper's rate", "scaled rate", "random", "larger space")
    """Which of `ARMS` are searched by."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each arm's searches."""
    noise_cells: int = 60
    """Random cells that are trained from several seeds, for the noise of a child's loss."""
    more_seeds: tuple[int, ...] = (1, 2, 3, 4)
    """Their seeds, beside a search's own, and those of known cells."""
    words_seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each published cell on words."""
    best_seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the best cell of each search, trained again."""
    grid: Grid | None = None
    """The grid search over each arm's best cell, and over the LSTM; None where it is left out."""
    surrogate: SurrogateSizes = field(default_factory=SurrogateSizes)
    """The searches that are repeated without training."""
    workers: int = 2
    """Processes of a notebook; 0 trains in its own, where to start others takes longer than to train."""

    def plan(self, arm: str, seed: int) -> TokenSearchSettings:
        """The search of an arm from a seed."""
        return replace(ARMS[arm].changed(self.search), seed=seed)

    def plans(self) -> dict[str, TokenSearchSettings]:
        """All searches, by words for arm and seed."""
        return {f"{ARMS[arm].words}, seed {seed}": self.plan(arm, seed) for arm in self.arms for seed in self.seeds}

    def random_cells(self) -> list[Cell]:
        """As many distinct random cells as the noise is measured on, drawn as random search draws."""
        rng, found = random.Random(0), dict[str, Cell]()
        while len(found) < self.noise_cells:
            cell = self.search.space.cell(draw_tokens(self.search.space, rng))
            found.setdefault(cell.hash, cell)
        return list(found.values())


@dataclass(frozen=True)
class Arm:
    """One way to search."""

    words: str
    method: Literal["controller", "random"] = "controller"
    learning_rate: float | None = None
    """The controller's; None for the paper's."""
    space: BaseB | None = None
    """Where it searches; None for the space of the paper's main experiment."""

    def changed(self, search: TokenSearchSettings) -> TokenSearchSettings:
        """A search by this arm that is else as this one."""
        rate = search.reinforce.learning_rate if self.learning_rate is None else self.learning_rate
        return replace(
            search,
            method=self.method,
            reinforce=replace(search.reinforce, learning_rate=rate),
            space=replace(self.space, base=search.space.base) if self.space else search.space,
        )


ARMS: Mapping[str, Arm] = {
    "paper's rate": Arm("policy gradient at the paper's rate"),
    "scaled rate": Arm("policy gradient at a scaled rate", learning_rate=SCALED_RATE),
    "random": Arm("random search", method="random"),
    "larger space": Arm("policy gradient with max and sin", learning_rate=SCALED_RATE, space=CONTROL_1),
}
"""The searches that are compared, by a short name: ZL17's two controls among them (section 4.2)."""

# ZL17's children have two layers, as many units as make some 20 million parameters with tied embeddings, and the rest
# of Zaremba et al. 2014, "medium": their loss is summed over 35 steps, so their rate of 1 and bound of 5 are 35 and 1/7
# here. Their decay of 0.8 comes when an epoch does not improve, not after the sixth.
_PTB_PAPER = LanguageModelTask(
    "ptb",
    training=LanguageModelSettings(
        hidden=650,
        embedding=650,
        dropout=0.5,
        epochs=35,
        learning_rate=35.0,
        anneal=1.25,
        clip=5 / 35,
        embedding_range=0.05,
    ),
)
# Published cells on words: S17's model and recipe over ZL17's 35 epochs.
_PTB_WORDS = LanguageModelTask("ptb", training=LanguageModelSettings(epochs=35))
# A ninth of those epochs. Steps are longer, so that cells leave word frequencies in the first of them.
_PTB_WORDS_SHORT = LanguageModelTask(
    "ptb", training=LanguageModelSettings(epochs=4, fail_after=4, embedding_range=0.1, clip=0.25)
)

# Base-8 cells multiply as many as eight sums, which embeddings near zero leave near zero: with S17's range of 0.04 many
# stay at letter frequencies, with 0.5 most learn. Nearly every gradient is longer than this bound, so each step has the
# length of rate times bound, 1: with twice that more cells explode, with half all learn less. A child fails that does
# not beat letter frequencies (perplexity 20.2 on the validation text). By words a child would take six times as long.
_PTB_CHARACTERS = LanguageModelTask(
    corpus_name="ptb",
    level="char",
    training=LanguageModelSettings(
        layers=1,
        hidden=48,
        embedding=48,
        dropout=0.0,
        batch=16,
        bptt=32,
        epochs=2,
        clip=0.05,
        embedding_range=0.5,
        fail_after=2,
        fail_above=20.0,
        eval_batch=250,
        train_tokens=100_000,
        valid_tokens=25_000,
    ),
)
_PYDOC_QUICK = replace(
    _PTB_CHARACTERS,
    corpus_name="pydoc",
    training=replace(
        _PTB_CHARACTERS.training,
        hidden=24,
        embedding=24,
        fail_above=21.0,
        train_tokens=30_000,
        valid_tokens=10_000,
        eval_batch=100,
    ),
)
_PYDOC_SMOKE = replace(
    _PYDOC_QUICK,
    training=replace(
        _PYDOC_QUICK.training,
        hidden=8,
        embedding=8,
        bptt=20,
        epochs=1,
        fail_after=1,
        fail_above=60.0,
        train_tokens=3_000,
        valid_tokens=1_000,
        eval_batch=20,
    ),
)

# The controller makes a step for every ten children, as ZL17's: 30 of them. Whatever c is, Adam makes the same steps,
# since it divides gradients by their size. So c stays ZL17's 80.
_COURSE_SEARCH = TokenSearchSettings(cells=300)
_FEW = replace(TokenSearchSettings(cells=6), reinforce=replace(TokenSearchSettings().reinforce, accumulate=3))

SIZES: Mapping[str, CellsSizes] = {
    "smoke": CellsSizes(
        task=_PYDOC_SMOKE,
        words_task=_PYDOC_SMOKE,
        search=_FEW,
        seeds=(1,),
        noise_cells=2,
        more_seeds=(1, 2),
        words_seeds=(1,),
        best_seeds=(1,),
        grid=Grid(2, (20.0,), (0.5,), (0.0, 0.1), (4.0,)),
        surrogate=SurrogateSizes(20, 3, 2, RankerSettings(hidden=8, updates=5, held_out=0.0)),
        workers=0,
    ),
    "quick": CellsSizes(
        task=_PYDOC_QUICK,
        words_task=_PYDOC_QUICK,
        search=replace(_FEW, cells=24),
        arms=("scaled rate", "random"),
        seeds=(1,),
        noise_cells=8,
        more_seeds=(1, 2),
        words_seeds=(1,),
        best_seeds=(1, 2),
        surrogate=SurrogateSizes(1_000, 3, 3, RankerSettings(updates=100, held_out=0.0)),
    ),
    "course": CellsSizes(
        task=_PTB_CHARACTERS,
        words_task=_PTB_WORDS,
        search=_COURSE_SEARCH,
        grid=Grid(10, (10.0, 20.0), (0.1, 0.5), (0.0, 0.1), (2.0, 4.0)),
    ),
    "night": CellsSizes(
        task=_PTB_WORDS_SHORT,
        words_task=_PTB_WORDS,
        search=replace(_COURSE_SEARCH, cells=160),
        arms=("scaled rate", "random"),
        seeds=(1,),
        noise_cells=10,
        more_seeds=(1, 2),
    ),
    "paper": CellsSizes(
        task=_PTB_PAPER,
        words_task=_PTB_PAPER,
        search=TokenSearchSettings(),
        arms=("paper's rate", "random", "larger space"),
        seeds=(1,),
        grid=Grid(70, (20.0, 35.0), (0.05, 0.1), (0.3, 0.5, 0.6), (1.25, 2.0)),
    ),
}
