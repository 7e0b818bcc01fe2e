"""Lines of text, split by split: the readers torchtext users know, and the text that comes with Python."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import cache

from nasrepro.datasets.files import locate
from nasrepro.datasets.registry import DataError, find, unknown

SPLITS = ("train", "valid", "test")

Lines = Iterator[str]


def read_text(name: str, split: str, root: str | os.PathLike[str] | None = None, download: bool | None = None) -> str:
    """The whole text of one split of data set `name`. Raises DataError as `files.locate` does."""
    dataset = find(name)
    if name == "pydoc":
        return _pydoc_text(split)
    return locate(dataset, dataset.file(split), root, download).read_bytes().decode("utf-8")


def PennTreebank(
    root: str | os.PathLike[str] | None = None,
    split: str | tuple[str, ...] = SPLITS,
) -> Lines | tuple[Lines, ...]:
    """Lines of the Penn Treebank as `torchtext.datasets.PennTreebank` gives them: without the outer spaces.

    42,068 / 3,370 / 3,761 lines. One iterator for one split, a tuple of them for a tuple of splits. `root` is
    the data folder, laid out as NAME/FILE (see `data_root`). Raises DataError as `files.locate` does.
    """
    return _per_split(split, lambda one: (line.strip() for line in _lines("ptb", one, root)))


def WikiText2(
    root: str | os.PathLike[str] | None = None,
    split: str | tuple[str, ...] = SPLITS,
) -> Lines | tuple[Lines, ...]:
    """Lines of WikiText-2 as `torchtext.datasets.WikiText2` gives them: untouched, with their newline.

    36,718 / 3,760 / 4,358 lines. Arguments, result and errors as in `PennTreebank`.
    """
    return _per_split(split, lambda one: (line + "\n" for line in _lines("wikitext2", one, root)))


def _per_split(split: str | tuple[str, ...], read: Callable[[str], Lines]) -> Lines | tuple[Lines, ...]:
    return read(split) if isinstance(split, str) else tuple(read(one) for one in split)


def _lines(name: str, split: str, root: str | os.PathLike[str] | None) -> list[str]:
    # Not str.splitlines: it also breaks at characters that stand inside WikiText's lines.
    return read_text(name, split, root).removesuffix("\n").split("\n")


_RULE = re.compile(r"[\s*=~^\"'#+|-]*")  # a line of signs only: a heading's underline, a table's border
_TOKEN = re.compile(r"[^\W\d]\w*|\d+(?:\.\d+)*|[^\w\s]")
_NUMBER = re.compile(r"\d+(?:\.\d+)*")


def _pydoc_text(split: str) -> str:
    """A paragraph a line, lower-cased, one space between tokens, every number `N` as in the Penn Treebank."""
    if split not in SPLITS:
        raise unknown("split of pydoc", split, SPLITS)
    return "".join(line + "\n" for line in _pydoc_lines()[split])


@cache
def _pydoc_lines() -> dict[str, list[str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "This Python came without pydoc_data, the text that data set pydoc is made of. "
            "Install the full standard library, or load another data set."
        ) from error

    # Topics include one another ("specialnames" holds "customization" whole), so each paragraph is kept once,
    # and the held-out splits choose first: the model is not measured on a paragraph that it has trained on.
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for split in ("test", "valid", "train"):
        for topic in sorted(topic for topic in topics if _pydoc_split(topic) == split):
            for line in _paragraphs(topics[topic]):
                if line not in seen:
                    seen.add(line)
                    lines[split].append(line)
    return lines


def _pydoc_split(topic: str) -> str:
    """A tenth of the topics for validation, a tenth for test, by a hash of the name: no Python differs."""
    tenth = int(hashlib.sha256(topic.encode()).hexdigest(), 16) % 10
    return {0: "valid", 1: "test"}.get(tenth, "train")


def _paragraphs(text: str) -> Iterator[str]:
    kept = "\n".join("" if _RULE.fullmatch(line) else line for line in text.splitlines())
    for paragraph in re.split(r"\n{2,}", kept):
        tokens = [_NUMBER.sub("N", token) for token in _TOKEN.findall(paragraph.lower())]
        if tokens:
            yield " ".join(tokens)
