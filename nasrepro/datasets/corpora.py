"""Language-model corpora: a text as three long streams of token ids, with their vocabulary and a hash."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import reprlib
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nasrepro.datasets.files import Root
from nasrepro.datasets.readers import BYTE_ORDER_MARK, SPLITS, lines_of, read_lines, read_text
from nasrepro.datasets.registry import DataError, find, refuse_registered, unknown
from nasrepro.datasets.vocabulary import Vocab
from nasrepro.files import user_path

UNK, EOS = "<unk>", "<eos>"

# One word with a slash in it, or with an ending as files have them: no text that a model could learn from.
_FILE_NAME = re.compile(r"[^\s/\\]*[/\\]\S*|\S+\.[A-Za-z]\w{0,4}")

Ids = npt.NDArray[np.int64]
Text = str | os.PathLike[str]


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """A text ready for a language model.

    The test split is private on purpose: it is read through `Record.read_test`, which logs the reading.

    Attributes:
        name: the registered name, such as "ptb", or that of your own text.
        level: "word" or "char".
        vocab: tokens and ids, ids in order of first appearance over train, valid, test.
        train: ids (N,), int64.
        valid: ids (M,), int64.
        hash: hex SHA-256 of the vocabulary and the ids of all three splits.
        licence: what may be done with the text.
        source: where the text comes from, in words.
        note: labels that belong beside every number measured on it ("vocabulary cut to 2,000"), or "".
    """

    name: str
    level: str
    vocab: Vocab
    train: Tensor
    valid: Tensor
    hash: str
    licence: str
    source: str
    note: str
    _test: Tensor

    @property
    def words(self) -> str:
        """What the papers' entries call it, such as "ptb-characters" (see `data_words`)."""
        return data_words(self.name, self.level)

    def __repr__(self) -> str:
        sizes = f"train={len(self.train):,}, valid={len(self.valid):,}, vocab={len(self.vocab):,}"
        note = f", note={self.note!r}" if self.note else ""
        return f"Corpus({self.name!r}, level={self.level!r}, {sizes}, hash={self.hash[:12]!r}{note})"


def data_words(corpus: str, level: str) -> str:
    """What the papers' entries call a text: its name, and that it is read letter by letter where it is."""
    return f"{corpus}-characters" if level == "char" else corpus


def load(
    name: str, level: str = "word", vocab_size: int | None = None, root: Root = None, download: bool | None = None
) -> Corpus:
    """Load a data set as a language-model corpus, every line ended by `<eos>`.

    Args:
        name: "pydoc" (comes with Python), "ptb" or "wikitext2".
        level: "word" (what stands between spaces) or "char".
        vocab_size: at most so many words, `<unk>` and `<eos>` included: the words most frequent in training
            stay, the rest become `<unk>`.
        root: the data folder; None as in `data_root`.
        download: whether missing files may be downloaded; None asks NASREPRO_DOWNLOAD.

    Raises: DataError for unknown names, missing or damaged files, or a vocab_size that makes no sense.
    """
    dataset = find(name)
    dataset.demand_text(pairs=False)
    _check_arguments(level, vocab_size)
    notes = []
    if name == "pydoc":
        version = platform.python_version()
        notes.append(f"stand-in: the language reference of Python {version}; it differs between versions")
    texts = [read_text(name, split, root, download) for split in SPLITS]
    if name == "ptb" and level == "char":
        texts = list(map(ptb_characters, texts))
    # The other texts come with their rare words replaced; without it `<unk>` would never be trained.
    replace_rare = name == "pydoc"
    return _corpus(name, level, texts, replace_rare, vocab_size, dataset.licence, dataset.source, notes)


def corpus_from_text(
    name: str,
    train: Text,
    valid: Text,
    test: Text,
    level: str = "word",
    vocab_size: int | None = None,
    licence: str = "not stated",
    source: str = "text given in Python",
) -> Corpus:
    """A corpus from your own text, prepared in the same way as the registered ones, every line ended by `<eos>`.

    >>> lines = "the dog runs\\nthe cat sleeps\\na dog sleeps\\n"
    >>> corpus_from_text("mine", train=lines, valid="the cat runs", test="a cat runs").vocab.get_itos()
    ['the', 'dog', '<unk>', '<eos>', 'sleeps']

    A text that marks its rare words by `<unk>` itself, as the Penn Treebank does, is taken as it is. Otherwise words
    that the training text holds once, or not at all, become `<unk>`, and `note` says so.

    A search takes it too: `LanguageModelTask(own=corpus)`.

    Args:
        name: what it is called in records; not the name of a registered data set.
        train, valid, test: the text of each split: a string, or the path of a UTF-8 file (a `Path`; `.gz` is unpacked).
        level, vocab_size: as in `load`.
        licence, source: as in `Corpus`.

    Raises: DataError for a registered name, a file that cannot be read, an empty text, a string that is or looks like
        the name of a file, training text in which no word occurs twice, or a vocab_size that makes no sense; TypeError
        for what is neither string nor path; ValueError for a path that begins with an unknown home folder.
    """
    refuse_registered(name)
    _check_arguments(level, vocab_size)
    texts = [_own_text(name, split, text) for split, text in zip(SPLITS, (train, valid, test), strict=True)]
    words = Counter(texts[0].split())
    replace_rare = level == "word" and UNK not in words
    if replace_rare and max(words.values()) < 2:
        raise DataError(
            f"No word of the training text of {name:.100} occurs twice, so there is none to learn. Give more text, or "
            f"take level='char'."
        )
    notes = [f"words that the training text holds less than twice became {UNK}"] if replace_rare else []
    return _corpus(name, level, texts, replace_rare, vocab_size, licence, source, notes)


def _own_text(name: str, split: str, given: Text) -> str:
    """The text of one split, every line ended by a newline."""
    if isinstance(given, str):
        if _names_a_file(given):
            raise DataError(f"{split}={given!r:.100} is the name of a file, not a text: pass a Path to read it.")
        if _FILE_NAME.fullmatch(given.strip()):
            raise DataError(
                f"{split}={given!r:.100} looks like the name of a file, and there is none of that name. A string is "
                f"the text itself: give more of it, or the Path of a file."
            )
        lines = lines_of(given.removeprefix(BYTE_ORDER_MARK))
    elif isinstance(given, os.PathLike):
        try:
            lines = read_lines(user_path(given))
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{os.fspath(given):.300}, the {split} split of {name:.100}, cannot be read: {reason}."
            ) from error
    else:
        if isinstance(given, bytes | bytearray):
            instead = f"{split}.decode()"
        elif hasattr(given, "read"):
            instead = f"{split}.read(), or the Path of the file"
        else:
            instead = "'\\n'.join(lines) for a list of lines"
        raise TypeError(f"{split} is a text or the Path of a file, got {reprlib.repr(given)}: pass {instead}")
    if not any(map(str.strip, lines)):
        raise DataError(f"The {split} split of {name:.100} is empty. Give it some text.")
    return "".join(f"{line}\n" for line in lines)


def _names_a_file(text: str) -> bool:
    try:
        return user_path(text).is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a character that none may have
        return False


def _check_arguments(level: str, vocab_size: int | None) -> None:
    if level not in ("word", "char"):
        raise unknown("level", level, ("word", "char"))
    if vocab_size is not None and (level == "char" or vocab_size < 3):
        raise DataError(
            f"vocab_size={vocab_size!r:.100} with level={level!r}: it cuts word vocabularies, to 3 words or more. "
            f"Leave it out to keep every token."
        )


def _corpus(
    name: str,
    level: str,
    texts: list[str],
    replace_rare: bool,
    vocab_size: int | None,
    licence: str,
    source: str,
    notes: list[str],
) -> Corpus:
    """Cut the texts of train, valid and test into tokens, leave rare ones out, and number them."""
    if level == "char":
        vocab, ids = _encode_characters([_without_margins(text) for text in texts])
    else:
        splits = [text.replace("\n", f" {EOS} ").split() for text in texts]
        if replace_rare:
            splits = _replace_rare(splits, min_count=2)
        if vocab_size is not None and vocab_size < len(set(chain.from_iterable(splits))):
            splits = _replace_rare(splits, vocab_size=vocab_size)
            notes = [*notes, f"vocabulary cut to {vocab_size:,}"]
        vocab, ids = _encode_words(splits)
    train, valid, test = map(torch.from_numpy, ids)
    return Corpus(
        name=name,
        level=level,
        vocab=vocab,
        train=train,
        valid=valid,
        hash=_hash(vocab, ids),
        licence=licence,
        source=source,
        note="; ".join(notes),
        _test=test,
    )


def batchify(ids: Tensor, batch_size: int) -> Tensor:
    """Cut one long stream into `batch_size` columns that are read side by side.

    The stream runs down the columns, so that in every column row t+1 follows row t and the state carried from
    one chunk of rows to the next is the right one. Ids 0 .. 13 with batch_size 4 (12 and 13 are dropped):

        0  3  6  9      <- row 0: the first step of four streams
        1  4  7 10
        2  5  8 11
        ^
        column 0: a contiguous piece of the text

    Args: ids (N,); batch_size B >= 1.
    Returns: (T, B) with T = N // B, contiguous.
    Raises: ValueError if the stream is shorter than one row.
    """
    steps = len(ids) // batch_size if batch_size > 0 else 0
    if steps == 0:
        raise ValueError(f"Cannot cut {len(ids)} ids into batch_size={batch_size} columns.")
    return ids[: steps * batch_size].view(batch_size, steps).t().contiguous()  # (T, B)


def ptb_characters(words: str) -> str:
    """The Penn Treebank's published character text, from its words: `_` for a space, no margins.

    (In the published files one more space follows every character, newlines included.)
    """
    return _without_margins(words).replace(" ", "_")


def _without_margins(text: str) -> str:
    return "\n".join(line.strip(" ") for line in text.split("\n"))


def _replace_rare(splits: list[list[str]], min_count: int = 1, vocab_size: int | None = None) -> list[list[str]]:
    """`<unk>` for all but the most frequent words of training (the first split); ties go by the alphabet."""
    counts = Counter(splits[0])
    del counts[UNK], counts[EOS]
    frequent = [word for word, count in counts.items() if count >= min_count]
    if vocab_size is not None:
        frequent = sorted(frequent, key=lambda word: (-counts[word], word))[: vocab_size - 2]
    kept = {*frequent, EOS}
    return [[word if word in kept else UNK for word in split] for split in splits]


def _encode_words(splits: list[list[str]]) -> tuple[Vocab, list[Ids]]:
    """Ids in order of first appearance, as pytorch/examples' word_language_model gives them."""
    stoi = {word: index for index, word in enumerate(dict.fromkeys(chain.from_iterable(splits)))}
    ids = [np.fromiter(map(stoi.__getitem__, split), dtype=np.int64, count=len(split)) for split in splits]
    return Vocab(list(stoi), default_index=stoi.get(UNK)), ids


def _encode_characters(splits: list[str]) -> tuple[Vocab, list[Ids]]:
    """Ids in order of first appearance, by a table over code points: a loop over 5 million is slow."""
    symbols = list(dict.fromkeys(chain.from_iterable(splits)))
    table = np.zeros(max(map(ord, symbols)) + 1, dtype=np.int64)
    table[[ord(symbol) for symbol in symbols]] = np.arange(len(symbols))
    ids = [table[np.frombuffer(split.encode("utf-32-le"), dtype="<u4")] for split in splits]
    return Vocab([EOS if symbol == "\n" else symbol for symbol in symbols]), ids


def _hash(vocab: Vocab, ids: list[Ids]) -> str:
    digest = hashlib.sha256("\n".join(vocab.get_itos()).encode())
    for split in ids:
        digest.update(f"\n{len(split)}\n".encode())
        digest.update(split.astype("<i4").tobytes())  # the same bytes on every machine
    return digest.hexdigest()
