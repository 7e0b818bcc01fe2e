"""The data sets of `registry.toml`: files, sizes, SHA-256, addresses, licence and citation.

The hash is what counts: a copy from anywhere else with the same hash is as good.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from nasrepro.errors import MachineError


class DataError(MachineError):
    """Data is unknown, missing, damaged or cannot be stored. The message names the file and the next step."""


class MissingData(DataError):
    """A registered file is not on this machine, and could or should not be downloaded."""


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, as published.

    Attributes:
        split: "train", "valid" or "test", or the name of a further set for these; with its language where each has a
            file of its own, such as "train.en"; "all" where one file holds everything.
        name: the file's name inside the data set's folder.
        size: length in bytes; None where it is not known.
        sha256: hex digest of the whole file, or "" where git's digest alone is known.
        urls: addresses that serve exactly these bytes, tried in order.
        git_blob: hex digest that git names the content by (`git hash-object FILE`), for a file without SHA-256.
        md5: hex digest for a file whose authors state that one alone.
    """

    split: str
    name: str
    size: int | None
    sha256: str
    urls: tuple[str, ...]
    git_blob: str = ""
    md5: str = ""

    @property
    def digest(self) -> str:
        """The digest that a copy must have, with its kind."""
        if self.md5:
            return f"MD5 {self.md5}"
        return f"SHA-256 {self.sha256}" if self.sha256 else f"git blob SHA-1 {self.git_blob}"

    @property
    def length(self) -> str:
        """The size, for messages."""
        return "size unknown" if self.size is None else f"{self.size:,} bytes"


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, what may be done with it, and its files (none if it needs none).

    `archives` are further files, each of which holds the whole data set and does as well as `files` together. `pairs`
    says that it holds sentences in two languages, for `load_parallel`; `reader` is the call that reads it where it is
    no text at all.
    """

    name: str
    folder: str
    source: str
    licence: str
    citation: str
    files: tuple[DataFile, ...] = ()
    archives: tuple[DataFile, ...] = ()
    pairs: bool = False
    reader: str = ""

    def file(self, split: str) -> DataFile:
        """The file that holds `split`. Raises DataError for a split that this data set does not have."""
        by_split = {file.split: file for file in self.files}
        if split not in by_split:
            raise unknown(f"split of {self.name}", split, by_split)
        return by_split[split]

    def demand_text(self, pairs: bool) -> None:
        """Raise DataError, with what to do, unless it is text, in pairs of sentences or in one language."""
        if self.reader:
            raise DataError(f"{self.name} holds no text: use {self.reader}.")
        if self.pairs and not pairs:
            raise DataError(f"{self.name} holds sentences in two languages: use load_parallel({self.name!r}).")
        if pairs and not self.pairs:
            raise DataError(f"{self.name} is a text in one language: use load({self.name!r}).")


def unknown(kind: str, given: object, known: Iterable[str]) -> DataError:
    """A DataError for a mistyped name, with the nearest known one and the whole list."""
    names = list(known)
    close = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(f"Unknown {kind}: {given!r:.100}.{hint} Known: {', '.join(names)}.")


_DIGESTS = {64: "sha256", 40: "git_blob", 32: "md5"}  # by their length in hex digits


def _files(urls: Sequence[str] = (), files: str = "") -> tuple[DataFile, ...]:
    """The files of a table in `registry.toml`."""
    found = []
    for split, name, size, digest in map(str.split, files.strip().splitlines()):
        length = None if size == "-" else int(size.replace(",", ""))
        digests = {"sha256": "", _DIGESTS[len(digest)]: digest}
        found.append(DataFile(split, name, length, urls=tuple(f"{folder}/{name}" for folder in urls), **digests))
    return tuple(found)


def _registered() -> dict[str, DataSet]:
    rows = tomllib.loads(resources.files("nasrepro.datasets").joinpath("registry.toml").read_text("utf-8"))
    return {
        name: DataSet(
            name,
            files=_files(row.pop("urls", ()), row.pop("files", "")),
            archives=_files(**row.pop("archives", {})),
            **row,
        )
        for name, row in rows.items()
    }


DATASETS = _registered()


def find(name: str) -> DataSet:
    """The row of data set `name`. Raises DataError ("did you mean") for a name that is not registered."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def refuse_registered(name: str) -> None:
    """Raise DataError where one's own text would be called as a registered data set, whose numbers are compared."""
    if name in DATASETS:
        raise DataError(f"{name!r} is the name of a registered data set, so results on your text need another name.")
