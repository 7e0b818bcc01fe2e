"""A world: every token string of a space of cells, and the losses that its cells were trained to.

A world is made once, from a record, and then read in a moment. Whoever trains one of its cells by its settings finds
its loss again, but for rounding, since the trainings were made on several processors (`facts["devices"]`). Of most
cells that moves a late digit; some blow it up to a few percent of their loss, as much as another seed does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasrepro.controllers.base_b import BaseB
from nasrepro.dsl import Cell, parse
from nasrepro.files import write_atomically
from nasrepro.search.tabular import Pool
from nasrepro.search.token_table import TokenTable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class World:
    """The losses of all cells of a space. They are validation perplexities; where a training failed stands nan.

    Token strings are numbered as the digits of a number, the last of them fastest; cells by their place in `texts`.
    """

    space: BaseB
    texts: tuple[str, ...]
    """The cells, each in canonical form."""
    cell_of: NDArray[np.uint16]
    """The cell of each token string, by numbers, (strings,)."""
    losses: NDArray[np.float32]
    """Of each cell from seed 0, (cells,)."""
    seed_losses: NDArray[np.float32]
    """Of the first cells from each of some seeds, 0 the first of them, (repeated, seeds)."""
    long_losses: NDArray[np.float32]
    """Of the first of these, trained ten times as long, from seed 0, (lengthened,)."""
    facts: dict[str, Any]
    """How they were trained: `settings`, `long_settings`, `data` (the hash of the text), `version` (of the trainer),
    `devices` (how many trainings on each), and `uniform` (the perplexity of taking all characters for equally
    likely)."""

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.texts)}

    def number(self, of: Cell | str | Sequence[int]) -> int:
        """The number of a cell, or of the cell of a token string.

        Raises ValueError for a cell that is not in the space and for a string that is not of it, CellError for a text
        that says no cell.
        """
        if not isinstance(of, (Cell, str)):
            of = self.space.cell(of)
        text = str((parse(of) if isinstance(of, str) else of).canonical())
        if text not in self._numbers:
            raise ValueError(f"{text:.300} is not among the {len(self.texts):,} cells of {self.space}")
        return self._numbers[text]

    def loss(self, of: Cell | str | Sequence[int], seed: int = 0) -> float:
        """The validation perplexity that a cell was trained to, or that of a token string; nan where it failed.

        Raises what `number` raises, and ValueError for a cell that was not trained from this seed.
        """
        number, seeds = self.number(of), self.seed_losses.shape[1]
        if seed == 0:
            return float(self.losses[number])
        if not (0 < seed < seeds and number < len(self.seed_losses)):
            raise ValueError(
                f"cell {number} was not trained from seed {seed}: all cells were from seed 0, and those numbered below "
                f"{len(self.seed_losses):,} from seeds 1 to {seeds - 1} too"
            )
        return float(self.seed_losses[number, seed])

    def frame(self) -> pd.DataFrame:
        """A row for each cell and seed: number, cell, strings (how many token strings describe it), seed, loss."""
        import pandas as pd  # here, because a world needs no tables

        strings = np.bincount(self.cell_of, minlength=len(self.texts))
        cells = pd.DataFrame({"number": range(len(self.texts)), "cell": self.texts, "strings": strings})
        first = cells.assign(seed=0, loss=self.losses)
        repeated = cells[: len(self.seed_losses)]
        others = [repeated.assign(seed=seed, loss=losses) for seed, losses in enumerate(self.seed_losses.T) if seed]
        return pd.concat([first, *others], ignore_index=True)

    # ---- to search in

    def token_table(self, c: float = 80.0) -> TokenTable:
        """For searches by token strings. The reward is ZL17's of recurrent cells, c over the square of the perplexity
        (section 4.2); the score is the perplexity with its sign turned. What failed earns nothing, and its score is
        that of taking all characters for equally likely."""
        losses = self.losses[self.cell_of].astype(np.float64)
        scores = -np.nan_to_num(losses, nan=self.facts["uniform"])
        return TokenTable(self.space.strings, c / losses[:, None] ** 2, scores)

    def pool(self, cells: int | None = None) -> Pool:
        """For searches by cells, such as those with S17's ranking function: all, or the first so many, whose order is
        as good as drawn. To read all takes seconds."""
        return Pool(list(zip(self.texts[:cells], self.losses[:cells].tolist(), strict=True)))

    # ---- as a file

    def save(self, path: Path) -> None:
        """Write the world to a compressed file, which `load` reads."""
        text = np.frombuffer("\n".join(self.texts).encode(), dtype=np.uint8)
        facts = np.frombuffer(json.dumps(self.facts, sort_keys=True).encode(), dtype=np.uint8)
        arrays = {name: getattr(self, name) for name in _ARRAYS}

        def write(to: Path) -> None:
            with to.open("wb") as file:
                np.savez_compressed(file, texts=text, facts=facts, **arrays)

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path, space: BaseB) -> World:
        """The world that a file holds."""
        with np.load(path, allow_pickle=False) as kept:
            texts = tuple(kept["texts"].tobytes().decode().split("\n"))
            facts = json.loads(kept["facts"].tobytes())
            return cls(space, texts, facts=facts, **{name: kept[name] for name in _ARRAYS})


_ARRAYS = ("cell_of", "losses", "seed_losses", "long_losses")
