"""The papers' own tables, numbers, figures and claims, read from `papers.json`.

That file is the only place where a number of S17 or ZL17 is typed in. Everything else asks here by identifier.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import pandas as pd

PATH = Path(__file__).with_name("papers.json")

Kind = Literal["number", "count", "claim", "figure"]
Status = Literal["verified", "derived", "inferred", "from memory", "not recovered"]
Better = Literal["lower", "higher"]
KINDS: tuple[str, ...] = get_args(Kind)
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class Entry:
    """One number, exact fact, claim or figure of a paper.

    `kind` decides how it is judged: a "number" comes out of training, a "count" is an exact fact that needs none (a
    parameter count, an index), a "claim" is a sentence, a "figure" a drawing. `status` says how the value was
    recovered: read in the paper, derived from what it prints, inferred, from memory, or not recovered. `tolerance` is
    ours, absolute, in `unit`. `against` is the value at which a claim would be neither true nor false, such as 0 for a
    difference. `own` is False for results that the paper quotes from others.
    """

    id: str
    paper: str
    kind: Kind
    where: str
    text: str
    status: Status
    value: float | str | None = None
    unit: str = ""
    better: Better | None = None
    tolerance: float | None = None
    data: str | None = None
    own: bool = True
    row: str | None = None
    column: str | None = None
    against: float | None = None
    series: dict[str, list[float | None]] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("status", STATUSES), ("better", (*get_args(Better), None))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"entry {self.id!r}: {name} is {getattr(self, name)!r}, not one of {allowed}")
        if not self.id.startswith(self.paper.lower() + "."):
            raise ValueError(f"entry {self.id!r}: the identifier must begin with {self.paper.lower() + '.'!r}")


@dataclass(frozen=True)
class Paper:
    """One of the two papers; `read_in` says which text the values were read in."""

    title: str
    authors: str
    year: int
    arxiv: str
    read_in: str


class Papers(Mapping[str, Entry]):
    """All entries by identifier, in the papers' order; KeyError on an unknown one names the nearest."""

    def __init__(self, papers: Mapping[str, Paper], entries: list[Entry]) -> None:
        self.papers = MappingProxyType(dict(papers))
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.id in self._entries:
                raise ValueError(f"identifier {entry.id!r} occurs twice")
            if entry.paper not in self.papers:
                raise ValueError(f"entry {entry.id!r}: paper {entry.paper!r} is not described under 'papers'")
            self._entries[entry.id] = entry

    def __getitem__(self, key: str) -> Entry:
        try:
            return self._entries[key]
        except KeyError:
            near = difflib.get_close_matches(str(key), self._entries, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; the identifiers are in {PATH.name}"
            raise KeyError(f"the papers have no entry {key!r:.100}{hint}") from None

    def __iter__(self) -> Any:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def tables(self) -> dict[str, list[Entry]]:
        """The papers' tables, "S17 Table 1" to its entries."""
        tables: dict[str, list[Entry]] = {}
        for entry in self.values():
            if entry.row is not None:
                tables.setdefault(f"{entry.paper} {entry.where}", []).append(entry)
        return tables

    def table(self, name: str) -> pd.DataFrame:
        """One table as printed, such as "S17 Table 1": an index of models, a column per printed column."""
        tables = self.tables()
        if name not in tables:
            raise KeyError(f"the papers have no table {name!r:.100}; there are {', '.join(tables)}")
        cells: dict[str, dict[str, float | str | None]] = {}
        for entry in tables[name]:
            cells.setdefault(str(entry.row), {})[str(entry.column)] = entry.value
        return pd.DataFrame.from_dict(cells, orient="index")


def read(path: Path) -> Papers:
    """Read a papers file; ValueError names the entry that has an unknown or missing field, or a double id."""
    content = json.loads(path.read_text(encoding="utf-8"))
    papers = {name: Paper(**paper) for name, paper in content["papers"].items()}
    return Papers(papers, [_entry(raw) for raw in content["entries"]])


@cache
def load() -> Papers:
    """The papers' entries that come with the package."""
    return read(PATH)


def number(value: float | str | None) -> str:
    """A value for reading: four significant digits, thousands with commas, very large ones as powers of ten.

    >>> number(61.4), number(24162960), number(6e16), number(None)
    ('61.4', '24,162,960', '6 × 10^16', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if abs(value) >= 1e12:
        digits, exponent = f"{value:.3g}".split("e")
        return f"{float(digits):g} × 10^{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _entry(raw: dict[str, Any]) -> Entry:
    unknown = set(raw) - {field.name for field in fields(Entry)}
    if unknown:
        raise ValueError(f"entry {raw.get('id')!r}: unknown field {', '.join(sorted(unknown))}")
    try:
        return Entry(**raw)
    except TypeError as error:
        raise ValueError(f"entry {raw.get('id')!r}: {error}") from error
