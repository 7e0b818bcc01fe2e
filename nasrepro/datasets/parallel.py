"""Parallel corpora: sentence pairs, English to German, as ids of two vocabularies, with the words behind them.

Text is prepared as OpenNMT-py's Multi30k recipe of mid-2017 prepares it: Moses' tokeniser with aggressive splitting
of hyphens (-a) and without XML escapes (-no-escape), then lower case. Training pairs of more than 50 tokens are left
out.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import chain
from typing import Any, NamedTuple, overload

from nasrepro.datasets.files import Root
from nasrepro.datasets.readers import BYTE_ORDER_MARK, SPLITS, read_pairs
from nasrepro.datasets.registry import DataError, MissingData, find, refuse_registered
from nasrepro.datasets.strings import refuse_string
from nasrepro.datasets.vocabulary import Vocab, build_vocab_from_iterator
from nasrepro.files import user_cache, write_atomically

PAD, UNK, BOS, EOS = "<blank>", "<unk>", "<s>", "</s>"  # OpenNMT's names; ids 0, 1, 2, 3 in both vocabularies
SPECIALS = (PAD, UNK, BOS, EOS)
LANGUAGES = ("en", "de")  # source, target
MAX_LENGTH = 50  # tokens; OpenNMT-py's default for training pairs

_MIN_KNOWN = 0.5  # of the tokens of a text: with a vocabulary that knows less, mostly <unk> would be trained

Text = Sequence[tuple[str, str]]  # sentence pairs as published
Words = list[list[str]]  # sentences as tokens


class Pair(NamedTuple):
    """One sentence pair of a split: the fields of `Pairs` for it alone."""

    source: list[int]
    target: list[int]
    text: str
    tokens: list[str]
    source_tokens: list[str]


@dataclass(frozen=True, eq=False, repr=False)
class Pairs(Sequence[Pair]):
    """The sentence pairs of one split, in the order of the text; a slice of it is a Pairs too, an element a Pair.

    Attributes:
        source: ids of each source sentence, without `<s>` and `</s>`, at least one.
        target: the same of the target sentences.
        text: the target sentences as published, for BLEU as sacrebleu scores it.
        tokens: the target sentences tokenised and lower-cased, every word itself, for BLEU as multi-bleu scored it.
        source_tokens: the source sentences in the same form, for showing.
    """

    source: list[list[int]]
    target: list[list[int]]
    text: list[str]
    tokens: Words
    source_tokens: Words

    def __len__(self) -> int:
        return len(self.source)

    @overload
    def __getitem__(self, part: int) -> Pair: ...
    @overload
    def __getitem__(self, part: slice) -> Pairs: ...
    def __getitem__(self, part: int | slice) -> Pair | Pairs:
        fields = (getattr(self, name)[part] for name in Pair._fields)
        return Pairs(*fields) if isinstance(part, slice) else Pair(*fields)

    def __repr__(self) -> str:
        first = f": {' '.join(self.source_tokens[0])!r} -> {self.text[0]!r}, ..." if self.text else ""
        return f"Pairs({len(self):,}{first})"


@dataclass(frozen=True, eq=False, repr=False)
class ParallelCorpus:
    """A text in two languages, ready for a translation model.

    The test split is private on purpose: it is read through `Record.read_test`, which logs the reading.

    Attributes:
        name: the registered name, such as "multi30k".
        source_vocab, target_vocab: tokens and ids; `<blank>`, `<unk>`, `<s>`, `</s>` are 0, 1, 2, 3 in both, then come
            the words of the training split, the most frequent first.
        train, valid: the pairs of these splits.
        hash: hex SHA-256 of both vocabularies, all ids and all target sentences of all three splits.
        licence: what may be done with the text.
        source: where the text comes from, in words.
        note: labels that belong beside every number measured on it ("target vocabulary cut to 2,000 of 18,103"), or "".
    """

    name: str
    source_vocab: Vocab
    target_vocab: Vocab
    train: Pairs
    valid: Pairs
    hash: str
    licence: str
    source: str
    note: str
    _test: Pairs

    def __repr__(self) -> str:
        sizes = f"train={len(self.train):,}, valid={len(self.valid):,}"
        words = f"vocabularies={len(self.source_vocab):,} and {len(self.target_vocab):,}"
        note = f", note={self.note!r}" if self.note else ""
        return f"ParallelCorpus({self.name!r}, {sizes}, {words}, hash={self.hash[:12]!r}{note})"


def load_parallel(
    name: str = "captions", vocab_size: int | None = 50_000, root: Root = None, download: bool | None = None
) -> ParallelCorpus:
    """Load a data set of sentence pairs for translation from English to German.

    IWSLT's training text is not served as widely as its talks for development and test. Where it cannot be had, the
    training pairs of Tatoeba stand in for it, and `note` says so.

    Args:
        name: "captions" (written by a grammar that comes with nasrepro), "multi30k", "iwslt2016" or "tatoeba".
        vocab_size: at most so many tokens per language, the four special ones included: the words most frequent in
            training stay, the rest become `<unk>`. None keeps every word.
        root: the data folder; None as in `data_root`.
        download: whether missing files may be downloaded; None asks NASREPRO_DOWNLOAD.

    Raises: DataError for unknown names, missing, damaged or unequal files, or a vocab_size that makes no sense.
    """
    dataset = find(name)
    dataset.demand_text(pairs=True)
    texts, notes = {}, []
    if name == "captions":
        notes.append("stand-in: captions written by a grammar")
    for split in SPLITS:
        try:
            texts[split] = read_pairs(name, split, LANGUAGES, root, download)
        except MissingData:
            if (name, split) != ("iwslt2016", "train"):
                raise
            texts[split] = read_pairs("tatoeba", split, LANGUAGES, root, download)
            notes.append("stand-in: trained on Tatoeba's pairs, because IWSLT's training text is not on this machine")
    return _corpus(name, texts, vocab_size, None, dataset.licence, dataset.source, notes)


def parallel_from_text(
    name: str,
    train: Text,
    valid: Text,
    test: Text,
    vocab_size: int | None = 50_000,
    vocabularies: tuple[Vocab, Vocab] | None = None,
    licence: str = "not stated",
    source: str = "sentence pairs given in Python",
) -> ParallelCorpus:
    """A corpus from your own (English, German) sentence pairs, prepared in the same way as the registered ones.

    A search takes it too: `TranslationTask(own=corpus)`.

    Args:
        name: what it is called in records; not the name of a registered data set.
        train, valid, test: the sentence pairs of each split.
        vocab_size: as in `load_parallel`; of no effect where `vocabularies` are given.
        vocabularies: source and target vocabulary of another data set, for a model that was trained with them. `note`
            then says what share of the text they do not know.
        licence, source: as in `ParallelCorpus`.

    Raises: DataError for a registered name, a split without pairs or with something else than pairs of strings, an
        empty sentence in valid or test, or vocabularies that lack the special tokens or know less than half of the
        text; TypeError for a split that is a string.
    """
    refuse_registered(name)
    given = {"train": train, "valid": valid, "test": test}
    texts = {split: _sentence_pairs(name, split, pairs) for split, pairs in given.items()}
    return _corpus(name, texts, vocab_size, vocabularies, licence, source, [])


def tokenise(sentences: Sequence[str], language: str) -> Words:
    """The tokens of each sentence, lower-cased: Moses' tokeniser with -a and -no-escape.

    A hyphen inside a word becomes the token `@-@`. Long texts take the tokeniser most of a minute, so their tokens are
    kept in the cache folder, under a name that the text, the language and sacremoses' version decide.
    """
    refuse_string(sentences, "sentences", "a list of sentences")
    for place, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TypeError(f"sentences[{place}] is {reprlib.repr(sentence)}: a sentence is one string")
    if sum(map(len, sentences)) < 100_000:
        return _tokenise(sentences, language)
    key = json.dumps([version("sacremoses"), language, *sentences])
    name = hashlib.sha256(key.encode()).hexdigest()
    try:
        return [line.split() for line in (user_cache() / "tokens" / name).read_bytes().decode().split("\n")]
    except OSError:
        words = _tokenise(sentences, language)
        _keep(name, "\n".join(map(" ".join, words)))
        return words


def _tokenise(sentences: Iterable[str], language: str) -> Words:
    moses = _moses(language)
    # Lower-cased last: the tokeniser knows abbreviations by their capitals. `split` once more, because lower case is
    # the last thing that could leave a token empty.
    return [
        moses.tokenize(sentence, aggressive_dash_splits=True, escape=False, return_str=True).lower().split()
        for sentence in sentences
    ]


@cache
def _moses(language: str) -> Any:
    from sacremoses import MosesTokenizer  # importing it takes a second, which no other data set should cost

    return MosesTokenizer(language)


def _keep(name: str, text: str) -> None:
    """Write a file of the cache: a reader never sees half of it, and where nothing can be written there is none."""
    try:
        path = user_cache() / "tokens" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: part.write_bytes(text.encode()))
    except OSError:
        return


def _sentence_pairs(name: str, split: str, pairs: Iterable[Any]) -> Text:
    """The pairs of a split without byte order marks, which text that was read as plain UTF-8 may begin with."""
    refuse_string(pairs, split, "a list of (English, German) sentence pairs")
    checked = []
    for place, pair in enumerate(pairs, start=1):
        sides = list(pair) if isinstance(pair, Iterable) and not isinstance(pair, str) else [pair]
        if len(sides) != 2 or not all(isinstance(side, str) for side in sides):
            raise DataError(
                f"Pair {place} of the {split} split of {name:.100} is {reprlib.repr(pair)}. "
                f"Give an English and a German sentence, two strings."
            )
        checked.append((sides[0].removeprefix(BYTE_ORDER_MARK), sides[1].removeprefix(BYTE_ORDER_MARK)))
    return checked


def _corpus(
    name: str,
    texts: Mapping[str, Text],
    vocab_size: int | None,
    vocabularies: tuple[Vocab, Vocab] | None,
    licence: str,
    source: str,
    notes: list[str],
) -> ParallelCorpus:
    """Tokenise, leave out what cannot be trained on, build or check the vocabularies, and number the words."""
    if vocab_size is not None and vocab_size <= len(SPECIALS):
        raise DataError(f"vocab_size={vocab_size}: {len(SPECIALS)} tokens are special, so take at least 5, or None.")
    words: dict[str, tuple[Words, Words]] = {}  # by split: source and target sentences
    targets: dict[str, list[str]] = {}
    for split, text in texts.items():
        sides = [tokenise([pair[side] for pair in text], language) for side, language in enumerate(LANGUAGES)]
        if split == "train":
            kept, left_out = _trainable(*sides)
            notes = notes + left_out
        else:
            _require_words(name, split, *sides)
            kept = list(range(len(text)))
        if not kept:
            raise DataError(f"{name:.100} has no sentence pairs for {split} that could be used, of {len(text):,}.")
        words[split] = ([sides[0][i] for i in kept], [sides[1][i] for i in kept])
        targets[split] = [text[i][1] for i in kept]

    vocabs = []
    for side, which in enumerate(("source", "target")):
        sentences = {split: both[side] for split, both in words.items()}
        if vocabularies is None:
            vocab, note = _build_vocab(sentences["train"], vocab_size)
        else:
            vocab = vocabularies[side]
            note = _check_vocab(vocab, list(chain.from_iterable(sentences.values())), f"{which} vocabulary")
        vocabs.append(vocab)
        notes += [f"{which} vocabulary {note}"] if note else []

    splits = {split: _pairs(vocabs, words[split], targets[split]) for split in texts}
    return ParallelCorpus(
        name=name,
        source_vocab=vocabs[0],
        target_vocab=vocabs[1],
        train=splits["train"],
        valid=splits["valid"],
        hash=_hash(vocabs, splits.values()),
        licence=licence,
        source=source,
        note="; ".join(notes),
        _test=splits["test"],
    )


def _trainable(sources: Words, targets: Words) -> tuple[list[int], list[str]]:
    """Which pairs to train on, and notes on how many were left out why."""
    lengths = [(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]
    empty = sum(min(both) == 0 for both in lengths)
    long = sum(min(both) > 0 and max(both) > MAX_LENGTH for both in lengths)
    notes = [f"{empty:,} training pairs with an empty side left out"] if empty else []
    notes += [f"{long:,} training pairs of more than {MAX_LENGTH} tokens left out"] if long else []
    return [i for i, both in enumerate(lengths) if min(both) > 0 and max(both) <= MAX_LENGTH], notes


def _require_words(name: str, split: str, sources: Words, targets: Words) -> None:
    """Nothing is left out of valid and test, so that scores stay comparable: there an empty side is an error."""
    for language, sentences in zip(LANGUAGES, (sources, targets), strict=True):
        if [] in sentences:
            line = sentences.index([]) + 1
            raise DataError(
                f"Line {line} of the {split} split of {name:.100} is empty in {language}. "
                f"Give the sentence, or take the pair out."
            )


def _build_vocab(train: Words, vocab_size: int | None) -> tuple[Vocab, str]:
    """The vocabulary of the training sentences, and a note if it was cut."""
    vocab = build_vocab_from_iterator(train, specials=SPECIALS, max_tokens=vocab_size)
    vocab.set_default_index(SPECIALS.index(UNK))
    every = len(SPECIALS) + len(set(chain.from_iterable(train)))
    return vocab, f"cut to {len(vocab):,} of {every:,}" if len(vocab) < every else ""


def _check_vocab(vocab: Vocab, sentences: Words, what: str) -> str:
    """A note on the share of the text that a given vocabulary does not know; DataError if it cannot serve."""
    if vocab.get_itos()[: len(SPECIALS)] != list(SPECIALS):
        raise DataError(
            f"The {what} begins with {vocab.get_itos()[: len(SPECIALS)]!r:.200}; a model needs {list(SPECIALS)} as "
            f"ids 0 to 3. Take the vocabularies of a ParallelCorpus."
        )
    tokens = list(chain.from_iterable(sentences))
    known = sum(token in vocab for token in tokens) / len(tokens)
    if known < _MIN_KNOWN:
        raise DataError(
            f"The {what} knows {known:.1%} of the tokens of this text. Take that of a text of the same language and "
            f"kind (at least {_MIN_KNOWN:.0%} known), or leave vocabularies out."
        )
    return f"given: {1 - known:.1%} of the tokens unknown"


def _pairs(vocabs: Sequence[Vocab], words: tuple[Words, Words], text: list[str]) -> Pairs:
    ids = []
    for vocab, sentences in zip(vocabs, words, strict=True):
        number = vocab.get_stoi()
        ids.append([[number.get(word, number[UNK]) for word in sentence] for sentence in sentences])
    return Pairs(source=ids[0], target=ids[1], text=text, tokens=words[1], source_tokens=words[0])


def _hash(vocabs: Iterable[Vocab], splits: Iterable[Pairs]) -> str:
    digest = hashlib.sha256()
    for vocab in vocabs:
        digest.update(json.dumps(vocab.get_itos()).encode())
    for pairs in splits:
        digest.update(json.dumps([pairs.source, pairs.target, pairs.text]).encode())
    return digest.hexdigest()
