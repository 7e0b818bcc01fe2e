"""ZL17's own worked example, base 2: every recurrent cell of that space, and the text that all of them are trained on.

36,864 token strings describe 18,688 cells, by their canonical forms. The text is kept here, because that of the data
set "pydoc" differs between versions of Python, and any cell's loss shall be found again anywhere.
"""

from functools import cache, lru_cache
from pathlib import Path
from random import Random

import numpy as np

from nasrepro.controllers.base_b import BaseB
from nasrepro.datasets import Corpus, corpus_from_text
from nasrepro.dsl import Cell

SPACE = BaseB(2)
"""All token strings."""

CELLS = 18_688
"""Distinct cells among them: as many as `cells` finds."""


@cache
def described_by(number: int) -> Cell:
    """The cell of a token string, in canonical form. Strings are numbered as digits are, the last is fastest."""
    shape = [len(place.words) for place in SPACE.places]
    return SPACE.cell([int(token) for token in np.unravel_index(number, shape)]).canonical()


@lru_cache(maxsize=4)
def cells(count: int = CELLS) -> tuple[Cell, ...]:
    """So many distinct cells in canonical form, ordered by hash: as good as shuffled, and the same everywhere.

    All of them take some ten seconds. Fewer are drawn, always the same ones, and not the first of a larger count.
    Raises ValueError for more than there are.
    """
    if count > CELLS:
        raise ValueError(f"base 2 has {CELLS:,} cells, got count={count}")
    found: dict[str, Cell] = {}
    for number in Random(0).sample(range(SPACE.size), SPACE.size):
        if len(found) == count:
            break
        cell = described_by(number)
        found.setdefault(cell.hash, cell)
    return tuple(found[each] for each in sorted(found))


@cache
def text() -> Corpus:
    """The text, letter by letter: 61,288 characters to train on, 15,719 to validate on, of other topics."""
    train, valid, test = (Path(__file__).with_name("base2") / f"{split}.txt" for split in ("train", "valid", "test"))
    return corpus_from_text(
        "python-reference",
        train,
        valid,
        test,
        level="char",
        licence="Python Software Foundation License Version 2",
        source="Python 3.11.7's language reference (pydoc_data.topics)",
    )
