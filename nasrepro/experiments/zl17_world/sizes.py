"""How large the world of base 2 is: every recurrent cell of ZL17's own worked example (section 3.5), trained.

Base 2 has 36,864 token strings, which are 18,688 cells. All are trained by one small stated budget, on text that the
package holds, so that anybody can check any entry. Some are trained from more seeds, which tells the noise of an entry,
and some ten times as long, which tells what the small budget is worth.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from nasrepro.controllers import BaseB
from nasrepro.dsl import Cell
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask

SPACE = BaseB(2)
"""ZL17's worked example: a tree of two leaves."""

SEED = 0
"""Of the training of every cell."""


@dataclass(frozen=True)
class WorldSizes:
    """How much of the world is trained."""

    task: LanguageModelTask
    """The budget that every cell has."""
    longer_task: LanguageModelTask
    """Ten times the epochs."""
    cells: int | None = None
    """Distinct cells, None for all."""
    repeated: int = 1_000
    """Cells that are trained from more seeds."""
    more_seeds: tuple[int, ...] = (1, 2, 3)
    """Those seeds."""
    longer: int = 200
    """Cells that are trained longer."""

    def chosen(self) -> list[Cell]:
        """The cells to train, in an order drawn once: any beginning of it is a random sample of the world."""
        return shuffled_cells()[: self.cells]


@cache
def distinct_cells() -> tuple[Cell, ...]:
    """Each cell of the space once, by its canonical form, in the order of the first token strings that describe it."""
    found: dict[str, Cell] = {}
    for tokens in product(*(range(len(place.words)) for place in SPACE.places)):
        cell = SPACE.cell(tokens)
        found.setdefault(cell.hash, cell)
    return tuple(found.values())


@cache
def shuffled_cells() -> list[Cell]:
    """All cells, in an order drawn once."""
    cells = list(distinct_cells())
    random.Random("the world of base 2").shuffle(cells)
    return cells


# With embeddings from nearer to zero most cells would not leave the frequencies of letters (perplexity 22.2 on this
# validation text): their products begin too small. No cell fails for being poor: its loss is what the table is for. What
# diverges has failed.
_PYDOC = LanguageModelTask(
    corpus_name="pydoc",
    level="char",
    training=LanguageModelSettings(
        layers=1,
        hidden=48,
        embedding=48,
        dropout=0.0,
        batch=20,
        bptt=25,
        epochs=2,
        clip=0.05,
        embedding_range=0.5,
        fail_after=2,
        fail_above=1e4,
        eval_batch=250,
        train_tokens=60_000,
        valid_tokens=15_000,
    ),
)
_LONGER = replace(_PYDOC, training=replace(_PYDOC.training, epochs=20))
_WHOLE = WorldSizes(_PYDOC, _LONGER)

_SMOKE = replace(
    _PYDOC, training=replace(_PYDOC.training, hidden=8, embedding=8, train_tokens=4_000, valid_tokens=1_000)
)

SIZES: Mapping[str, WorldSizes] = {
    "smoke": WorldSizes(
        _SMOKE,
        replace(_SMOKE, training=replace(_SMOKE.training, epochs=4)),
        cells=6,
        repeated=3,
        more_seeds=(1,),
        longer=3,
    ),
    "quick": _WHOLE,
    "course": _WHOLE,
    "night": _WHOLE,
    "paper": _WHOLE,
}
