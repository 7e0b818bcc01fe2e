r"""The zoo: every cell that the two papers print or claim, as values.

>>> from nasrepro.dsl import zoo
>>> str(zoo["MT5"])
'Gate3(MM(x_t), x_t, Sigmoid(MM(SeLU(h_{t-1}))))'

Each entry holds one sentence, the citation, the equations, and where our cell departs from its source. Equations leave
biases out: every matrix has one. "Printed" cells are in their paper as text of the language; the others were rebuilt
from equations, and tests hold them against those.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape
from importlib.resources import files

from nasrepro.dsl.cell import Cell
from nasrepro.dsl.parser import parse

_SHORT = {
    "<gate>": "Sigmoid(Add(<both>))",
    "<both>": "MM(x_t), MM(h_{t-1})",
    "<window>": "Add(MM(x_t), MM(x_{t-1}))",
    "<S17>": "Schrimpf, Merity, Bradbury, Socher 2017",
    "<ZL17>": "Zoph & Le 2017",
}
"""What recurs in `zoo.toml`, and is written short there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell of the zoo, with what a reader wants to know of it."""

    name: str
    text: str
    about: str
    citation: str
    equations: str
    """LaTeX, biases left out."""
    departures: str = ""

    @property
    def cell(self) -> Cell:
        """The entry as a cell."""
        return parse(self.text)


class Zoo(Mapping[str, Cell]):
    """Name -> cell. `zoo.about(name)` gives the entry with its citation and equations."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Cell:
        return self.about(name).cell

    def about(self, name: str) -> Entry:
        """The entry of that name. Raises KeyError that lists the names, and says the nearest."""
        if name not in self._entries:
            close = get_close_matches(str(name), self._entries, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise KeyError(f"no cell {name!r:.100} in the zoo; {hint}it holds {', '.join(self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Zoo({', '.join(self._entries)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{entry.name}</th><td style='text-align:left'>{escape(entry.about)}</td>"
            f"<td>{entry.cell.size}</td><td>{entry.cell.height}</td>"
            f"<td style='text-align:left'><code>{escape(entry.text)}</code></td></tr>"
            for entry in self._entries.values()
        )
        head = "<tr><th>cell</th><th>what</th><th>operators</th><th>height</th><th>text</th></tr>"
        return f"<table>{head}{rows}</table>"


def _entries() -> Iterator[Entry]:
    for name, row in tomllib.loads(files("nasrepro.dsl").joinpath("zoo.toml").read_text("utf-8")).items():
        for short, text in _SHORT.items():
            row = {field: " ".join(value.split()).replace(short, text) for field, value in row.items()}
        yield Entry(name, **row)


zoo = Zoo(_entries())
