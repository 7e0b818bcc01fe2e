"""Lines of text, split by split: the readers torchtext users know, and the text that comes with Python."""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar, overload

from nasrepro.datasets.captions import captions
from nasrepro.datasets.files import Root, locate
from nasrepro.datasets.registry import DataError, find, unknown

SPLITS = ("train", "valid", "test")

BYTE_ORDER_MARK = "\ufeff"  # what some editors begin a UTF-8 file with; no part of its text

# What IWSLT 2016 calls its sets -> the splits under which the registry has them.
_IWSLT_SETS = {
    **{name: name for name in ("dev2010", "tst2010", "tst2011", "tst2012")},
    "tst2013": "valid",
    "tst2014": "test",
}

Line = TypeVar("Line")


class Reader(Sequence[Line]):
    """The lines of one split, or its pairs of lines, to be read in order any number of times.

    torchtext's are read by `for` and by `next(iter(reader))`. This one is a read-only list as well: it has a length, a
    line has its index, and a torch DataLoader shuffles it and shares it out among workers.
    """

    def __init__(self, name: str, lines: Sequence[Line]) -> None:
        self.name = name
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, part: int) -> Line: ...
    @overload
    def __getitem__(self, part: slice) -> Reader[Line]: ...
    def __getitem__(self, part: int | slice) -> Line | Reader[Line]:
        return Reader(self.name, self._lines[part]) if isinstance(part, slice) else self._lines[part]

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines)

    def __repr__(self) -> str:
        return f"Reader({self.name!r}, {len(self):,} lines)"


Lines = Reader[str]
PairsOfLines = Reader[tuple[str, str]]


def read_text(name: str, split: str, root: Root = None, download: bool | None = None) -> str:
    """The whole text of one split of data set `name`. Raises DataError as `files.locate` does."""
    dataset = find(name)
    if name == "pydoc":
        if split not in SPLITS:
            raise unknown("split of pydoc", split, SPLITS)
        return "".join(line + "\n" for line in _pydoc_lines()[split])
    path = locate(dataset, dataset.file(split), root, download)
    return _decoded(path, path.read_bytes())


def PennTreebank(root: Root = None, split: str | Sequence[str] = SPLITS) -> Lines | tuple[Lines, ...]:
    """Lines of the Penn Treebank as `torchtext.datasets.PennTreebank` gives them: without the outer spaces.

    42,068 / 3,370 / 3,761 lines. One Reader for one split, a tuple of them for a tuple of splits. `root` is
    the data folder, laid out as NAME/FILE (see `data_root`). Raises DataError as `files.locate` does.
    """
    return _per_split("ptb", split, lambda one: [line.strip() for line in lines_of(read_text("ptb", one, root))])


def WikiText2(root: Root = None, split: str | Sequence[str] = SPLITS) -> Lines | tuple[Lines, ...]:
    """Lines of WikiText-2 as `torchtext.datasets.WikiText2` gives them: untouched, with their newline.

    36,718 / 3,760 / 4,358 lines. Arguments, result and errors as in `PennTreebank`.
    """
    return _per_split(
        "wikitext2", split, lambda one: [f"{line}\n" for line in lines_of(read_text("wikitext2", one, root))]
    )


def Multi30k(
    root: Root = None, split: str | Sequence[str] = SPLITS, language_pair: Sequence[str] = ("de", "en")
) -> PairsOfLines | tuple[PairsOfLines, ...]:
    """Pairs of lines of Multi30k as `torchtext.datasets.Multi30k` gives them: (source, target), without newlines.

    29,000 / 1,014 / 1,000 pairs; the test split is test_2016_flickr. Note that torchtext translates from German unless
    `language_pair` says otherwise. Other arguments, result and errors as in `PennTreebank`.
    """
    return _per_split("multi30k", split, lambda one: read_pairs("multi30k", one, language_pair, root))


def IWSLT2016(
    root: Root = None,
    split: str | Sequence[str] = SPLITS,
    language_pair: Sequence[str] = ("de", "en"),
    valid_set: str = "tst2013",
    test_set: str = "tst2014",
) -> PairsOfLines | tuple[PairsOfLines, ...]:
    """Pairs of lines of IWSLT 2016 as `torchtext.datasets.IWSLT2016` gives them: (source, target), with their newlines.

    196,884 / 993 / 1,305 pairs. `valid_set` and `test_set` are of "dev2010", "tst2010", ..., "tst2014"; of torchtext's
    language pairs there is German and English. Other arguments, result and errors as in `Multi30k`; nothing stands in
    for missing training text here.
    """
    registered = {"train": "train"}
    for one, chosen in (("valid", valid_set), ("test", test_set)):
        if chosen not in _IWSLT_SETS:
            raise unknown(f"{one}_set of iwslt2016", chosen, _IWSLT_SETS)
        registered[one] = _IWSLT_SETS[chosen]

    def read(one: str) -> list[tuple[str, str]]:
        pairs = read_pairs("iwslt2016", registered[one], language_pair, root)
        return [(source + "\n", target + "\n") for source, target in pairs]

    return _per_split("iwslt2016", split, read)


def read_pairs(
    name: str, split: str, languages: Sequence[str], root: Root = None, download: bool | None = None
) -> list[tuple[str, str]]:
    """The (source, target) sentence pairs of one split of data set `name`, in their order, without newlines.

    Besides "train", "valid" and "test" IWSLT 2016 has the splits "dev2010", "tst2010", "tst2011" and "tst2012".

    Raises: DataError as `files.locate` does, for languages other than "en" and "de", and for files that do not fit
        together.
    """
    if not isinstance(languages, (tuple, list)) or list(languages) not in (["en", "de"], ["de", "en"]):
        raise DataError(f"language pair {languages!r:.100} of {name}: there are ('en', 'de') and ('de', 'en').")
    dataset = find(name)
    known = (*SPLITS, *_IWSLT_SETS.values()) if name == "iwslt2016" else SPLITS
    if split not in known:
        raise unknown(f"split of {name}", split, dict.fromkeys(known))
    if name == "captions":
        return [pair if languages[0] == "en" else pair[::-1] for pair in captions()[split]]
    if name == "tatoeba":
        rows = _tatoeba_rows(locate(dataset, dataset.file("all"), root, download))
        # Without capitals and outer spaces, so that all translations of a sentence are in one split.
        rows = [row for row in rows if _split_by_hash(row[0].strip().lower(), 50) == split]
        return [(english, german) if languages[0] == "en" else (german, english) for english, german in rows]
    source, target = (locate(dataset, dataset.file(f"{split}.{one}"), root, download) for one in languages)
    return paired_lines(source, target)


def paired_lines(source: Path, target: Path) -> list[tuple[str, str]]:
    """The lines of two files side by side, `.gz` unpacked.

    Raises: DataError, with file and line, for text that is not UTF-8, and if one file has more lines than the other.
    """
    sides = [read_lines(path) for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        short, long = sorted(zip((source, target), sides, strict=True), key=lambda item: len(item[1]))
        raise DataError(
            f"{source} has {len(sides[0]):,} lines, {target} has {len(sides[1]):,}: line {len(short[1]) + 1} of "
            f"{long[0].name} is the first without a partner in {short[0].name}. Line i of one must translate line i of "
            f"the other."
        )
    return list(zip(*sides, strict=True))


def read_lines(path: Path) -> list[str]:
    """The lines of a file, `.gz` unpacked, without their ends. Raises DataError, with the line, if it is not UTF-8."""
    content = path.read_bytes()
    return lines_of(_decoded(path, gzip.decompress(content) if path.suffix == ".gz" else content))


def lines_of(text: str) -> list[str]:
    """The lines of a text without their ends.

    Broken at newlines alone: other characters at which `str.splitlines` breaks stand inside sentences.
    """
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}, is not UTF-8 ({error.reason}). Convert the file to UTF-8.") from error


def _tatoeba_rows(path: Path) -> list[list[str]]:
    """[English, German] of each line of deu.txt in the archive."""
    with zipfile.ZipFile(path) as archive:
        lines = lines_of(_decoded(path / "deu.txt", archive.read("deu.txt")))
    return [line.split("\t")[:2] for line in lines]


def _split_by_hash(name: str, parts: int) -> str:
    """The split of what comes without: one of so many parts for validation, one for test, the same in every Python."""
    part = int(hashlib.sha256(name.encode()).hexdigest(), 16) % parts
    return {0: "valid", 1: "test"}.get(part, "train")


def _per_split(
    name: str, split: str | Sequence[str], read: Callable[[str], list[Line]]
) -> Reader[Line] | tuple[Reader[Line], ...]:
    if not isinstance(split, (str, tuple, list)):
        raise TypeError(f"split of {name} is one of {', '.join(SPLITS)}, or a tuple of them, got {split!r:.100}")

    def reader(one: str) -> Reader[Line]:
        if one not in SPLITS:
            raise unknown(f"split of {name}", one, SPLITS)
        return Reader(f"{name} {one}", read(one))

    return reader(split) if isinstance(split, str) else tuple(map(reader, split))


_RULE = re.compile(r"[\s*=~^\"'#+|-]*")  # a line of signs only: a heading's underline, a table's border
_TOKEN = re.compile(r"[^\W\d]\w*|\d+(?:\.\d+)*|[^\w\s]")
_NUMBER = re.compile(r"\d+(?:\.\d+)*")


@cache
def _pydoc_lines() -> dict[str, list[str]]:
    """A paragraph a line, lower-cased, one space between tokens, every number `N` as in the Penn Treebank; by split."""
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
        for topic in sorted(topic for topic in topics if _split_by_hash(topic, 10) == split):
            for line in _paragraphs(topics[topic]):
                if line not in seen:
                    seen.add(line)
                    lines[split].append(line)
    return lines


def _paragraphs(text: str) -> Iterator[str]:
    kept = "\n".join("" if _RULE.fullmatch(line) else line for line in text.splitlines())
    for paragraph in re.split(r"\n{2,}", kept):
        tokens = [_NUMBER.sub("N", token) for token in _TOKEN.findall(paragraph.lower())]
        if tokens:
            yield " ".join(tokens)
