"""Corpora have the published sizes, the published character text, and ids that read back as the text."""

import doctest
import gzip
import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nasrepro.datasets import (
    IWSLT2016,
    DataError,
    Multi30k,
    PennTreebank,
    WikiText2,
    batchify,
    corpora,
    corpus_from_text,
    load,
)
from nasrepro.datasets.corpora import ptb_characters
from nasrepro.datasets.readers import read_text

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def ptb(mirror):
    return load("ptb")


@pytest.fixture(scope="module")
def pydoc():
    return load("pydoc")


def sizes(corpus):
    return len(corpus.train), len(corpus.valid), len(corpus._test), len(corpus.vocab)


def test_ptb_has_the_published_sizes(ptb):
    assert sizes(ptb) == (929_589, 73_760, 82_430, 10_000)
    assert ptb.train.dtype == ptb.valid.dtype == torch.int64
    assert ptb.note == ""
    assert "research" in ptb.licence


def test_wikitext2_has_the_published_sizes(mirror):
    assert sizes(load("wikitext2")) == (2_088_628, 217_646, 245_569, 33_278)


def test_ptb_ids_are_those_of_the_pytorch_example(ptb):
    # word_language_model numbers words as it meets them, line by line, with <eos> after each.
    ids = {}
    for split, given_ids in zip(SPLITS, (ptb.train, ptb.valid, ptb._test), strict=True):
        expected = []
        for line in PennTreebank(split=split):
            expected += [ids.setdefault(word, len(ids)) for word in [*line.split(), "<eos>"]]
        assert given_ids.tolist() == expected
    assert ptb.vocab.get_stoi() == ids
    assert ptb.vocab["a word unseen"] == ids["<unk>"]


@pytest.mark.parametrize(
    ("split", "sha256"),
    [
        ("train", "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9"),
        ("valid", "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8"),
        ("test", "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe"),
    ],
)
def test_ptb_characters_are_the_published_ones(mirror, split, sha256):
    published = " ".join(ptb_characters(read_text("ptb", split))) + " "
    assert hashlib.sha256(published.encode()).hexdigest() == sha256


def test_ptb_character_ids_read_back(mirror):
    corpus = load("ptb", level="char")
    assert len(corpus.vocab) == 50  # 49 characters and <eos>
    assert corpus.vocab.get_itos()[:4] == ["a", "e", "r", "_"]  # "aer banknote ..."
    symbols = corpus.vocab.lookup_tokens(corpus.valid.tolist())
    text = "".join("\n" if symbol == "<eos>" else symbol for symbol in symbols)
    assert text == ptb_characters(read_text("ptb", "valid"))


def test_ptb_loads_in_two_seconds(mirror):
    start = time.process_time()  # of this process: other work on the machine is not our speed
    load("ptb")
    assert time.process_time() - start < 2


def test_readers_give_torchtexts_lines(mirror):
    # line counts and MD5 as torchtext 0.18 lists them
    counts = {"train": 42_068, "valid": 3_370, "test": 3_761}
    md5 = {
        "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
        "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
        "test": "8b80168b89c18661a38ef683c0dc3721",
    }
    for split, lines in zip(SPLITS, PennTreebank(split=SPLITS), strict=True):
        lines = list(lines)
        assert len(lines) == counts[split]
        file = "".join(f" {line} \n" for line in lines).encode()
        assert hashlib.md5(file, usedforsecurity=False).hexdigest() == md5[split]
    assert [len(list(lines)) for lines in WikiText2()] == [36_718, 3_760, 4_358]
    assert "".join(WikiText2(split="valid")) == read_text("wikitext2", "valid")


def test_readers_are_read_any_number_of_times(mirror):
    valid = PennTreebank(split="valid")
    lines = read_text("ptb", "valid").split("\n")
    first = lines[0].strip()
    for _ in range(2):
        assert next(iter(valid)) == first
        assert len(list(valid)) == len(valid) == 3_370
    assert (valid[0], valid[-1]) == (first, lines[-2].strip())
    assert list(valid[1:3]) == [line.strip() for line in lines[1:3]]
    assert first in valid
    assert len(repr(valid)) < 80


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_takes_a_reader(mirror, workers):
    valid = PennTreebank(split="valid")
    loader = DataLoader(valid, batch_size=100, shuffle=True, num_workers=workers)
    assert Counter(line for batch in loader for line in batch) == Counter(valid)


def test_vocabulary_is_cut_to_the_most_frequent(ptb):
    cut = load("ptb", vocab_size=500)
    assert len(cut.vocab) == 500
    assert cut.note == "vocabulary cut to 500"
    assert cut.hash != ptb.hash
    counts = Counter(ptb.train.tolist())
    special = {ptb.vocab["<unk>"], ptb.vocab["<eos>"]}
    kept = [count for index, count in counts.items() if index in special or ptb.vocab.lookup_token(index) in cut.vocab]
    lost = [count for index, count in counts.items() if ptb.vocab.lookup_token(index) not in cut.vocab]
    assert len(kept) == 500
    assert max(lost) <= min(kept)
    words, cut_words = (
        ptb.vocab.lookup_tokens(ptb.valid.tolist()),
        cut.vocab.lookup_tokens(cut.valid.tolist()),
    )
    assert cut_words == [word if word in cut.vocab else "<unk>" for word in words]


def test_pydoc_comes_with_python_and_says_what_it_is(pydoc, monkeypatch, tmp_path):
    monkeypatch.delenv("NASREPRO_MIRROR", raising=False)
    assert load("pydoc", root=tmp_path).hash == pydoc.hash
    assert "stand-in" in pydoc.note
    assert sys.version.split()[0] in pydoc.note
    train, valid, test, words = sizes(pydoc)
    assert train > 55_000
    assert 0.05 * train < test < valid < 0.25 * train
    assert 1_500 < words <= 4_000
    for split in (pydoc.train, pydoc.valid):
        unknown = (split == pydoc.vocab["<unk>"]).double().mean().item()
        assert 0.005 < unknown < 0.1  # seldom, but often enough in training to be learnt


def test_vocabulary_is_not_cut_when_it_fits(pydoc):
    whole = load("pydoc", vocab_size=len(pydoc.vocab))
    assert whole.hash == pydoc.hash
    assert "cut" not in whole.note


def test_pydoc_holds_out_whole_paragraphs():
    lines = {split: read_text("pydoc", split).splitlines() for split in SPLITS}
    every = [line for split in SPLITS for line in lines[split]]
    assert len(every) == len(set(every))  # so no paragraph stands in two splits


def test_pydoc_characters_read_back():
    corpus = load("pydoc", level="char")
    assert len(corpus.vocab) < 100
    symbols = corpus.vocab.lookup_tokens(corpus.train.tolist())
    assert "".join(symbols).replace("<eos>", "\n") == read_text("pydoc", "train")


def test_hash_is_the_same_in_another_process(pydoc):
    script = "from nasrepro.datasets import load; print(load('pydoc').hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True, timeout=60
    )
    assert output.stdout.decode().strip() == pydoc.hash
    assert len(pydoc.hash) == 64


def test_repr_hides_the_ids(pydoc):
    assert len(repr(pydoc)) < 300
    assert "_test" not in repr(pydoc)


# --- one's own text ----------------------------------------------------------------------------------------

LINES = "the dog runs\nthe cat sleeps\na dog sleeps\n"


def test_your_own_files_give_what_the_registered_ones_give(mirror, ptb):
    # The same files under another name: the same ids, and a hash that does not depend on the name.
    own = corpus_from_text("mine", *(mirror / "ptb" / f"ptb.{split}.txt" for split in SPLITS))
    assert own.hash == ptb.hash
    assert own.note == ""
    assert (own.name, own.licence) == ("mine", "not stated")


@pytest.mark.parametrize(("level", "size"), [("word", None), ("word", 500), ("char", None)])
def test_your_own_strings_are_prepared_as_the_text_of_python_is(level, size):
    texts = [read_text("pydoc", split) for split in SPLITS]
    own, pydoc = corpus_from_text("mine", *texts, level=level, vocab_size=size), load("pydoc", level, size)
    assert own.hash == pydoc.hash
    assert sizes(own) == sizes(pydoc)
    assert ("less than twice became <unk>" in own.note) == (level == "word")
    assert ("cut to 500" in own.note) == (size == 500)


def test_words_of_your_own_text_that_could_not_be_learnt_become_unk():
    corpus = corpus_from_text("mine", LINES, "the cat runs", "a bird sleeps")
    assert " ".join(corpus.vocab.lookup_tokens(corpus.train.tolist())) == (
        "the dog <unk> <eos> the <unk> sleeps <eos> <unk> dog sleeps <eos>"
    )
    assert corpus.vocab.lookup_tokens(corpus._test.tolist()) == ["<unk>", "<unk>", "sleeps", "<eos>"]
    prepared = corpus_from_text("mine", LINES + "<unk> dog\n", "the cat runs", "a bird sleeps")
    assert prepared.vocab.lookup_tokens(prepared._test.tolist()) == ["a", "bird", "sleeps", "<eos>"]
    assert prepared.note == ""


def test_the_form_of_a_file_changes_nothing(tmp_path):
    expected = corpus_from_text("mine", LINES, LINES, LINES)
    forms = {
        "mark.txt": LINES.encode("utf-8-sig"),
        "windows.txt": LINES.replace("\n", "\r\n").encode(),
        "packed.txt.gz": gzip.compress(LINES.encode()),
        "unfinished.txt": LINES.rstrip("\n").encode(),
    }
    for name, content in forms.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert corpus_from_text("mine", path, path, path).hash == expected.hash
    text = "\ufeff" + LINES  # as `open` gives it
    assert corpus_from_text("mine", text, text, text).hash == expected.hash


def test_own_text_that_is_not_as_it_should_be(tmp_path):
    (tmp_path / "a text.txt").write_text(LINES)
    (tmp_path / "latin.txt").write_bytes("eins\nzwölf\n".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(LINES.encode())[:-9])
    good = {"train": LINES, "valid": LINES, "test": LINES}
    for changes, message in [
        ({"train": str(tmp_path / "a text.txt")}, "train=.* is the name of a file, not a text: pass a Path"),
        ({"valid": tmp_path / "missing.txt"}, r"missing\.txt, the valid split of mine, cannot be read"),
        ({"valid": tmp_path}, "the valid split of mine, cannot be read"),
        ({"test": tmp_path / "cut.txt.gz"}, r"cut\.txt\.gz, the test split of mine, cannot be read"),
        ({"test": tmp_path / "latin.txt"}, r"latin\.txt, line 2, is not UTF-8"),
        ({"train": ""}, "The train split of mine is empty"),
        ({"test": " \n\n"}, "The test split of mine is empty"),
        ({"train": "three different words"}, r"No word of the training text of mine occurs twice.*level='char'"),
        *(
            ({split: text, "level": level}, rf"{split}=.* looks like the name of a file, .*the Path of a file")
            for split, text in (("train", "trian.txt"), ("valid", "~/valid"), ("test", "C:\\texts\\test.tok.gz"))
            for level in ("word", "char")
        ),
        ({"name": "ptb"}, "'ptb' is the name of a registered data set"),
        ({"level": "letter"}, "level: 'letter'"),
        ({"level": "char", "vocab_size": 9}, "vocab_size=9 with level='char'"),
    ]:
        with pytest.raises(DataError, match=message):
            corpus_from_text(**{"name": "mine", **good, **changes})
    (tmp_path / "open.txt").write_text(LINES)
    with (tmp_path / "open.txt").open() as file:
        for given, message in [
            (["the dog"], r"got \['the dog'\]: pass .*join\(lines\) for a list of lines"),
            (LINES.encode(), r"got b'the dog.*: pass train\.decode\(\)"),
            (file, r"got <.*TextIOWr.*: pass train\.read\(\), or the Path of the file"),
            (None, "got None"),
        ]:
            with pytest.raises(TypeError, match=f"train is a text or the Path of a file, {message}"):
                corpus_from_text("mine", given, LINES, LINES)


@pytest.mark.parametrize("text", ["AACGT" * 20, "e4e5", "日本語。", "3.14159", "one\ntwo.txt", "a cat.txt"])
def test_texts_without_spaces_are_no_file_names(text):
    assert corpus_from_text("mine", text, text, text, level="char").train.numel() == len(text) + 1


def test_a_path_below_the_home_folder_is_read_and_its_name_as_a_string_is_not_a_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my text.txt").write_text(LINES)
    path = Path("~") / "my text.txt"
    assert corpus_from_text("mine", path, path, path).hash == corpus_from_text("mine", LINES, LINES, LINES).hash
    with pytest.raises(DataError, match=r"train='~/my text\.txt' is the name of a file"):
        corpus_from_text("mine", str(path), LINES, LINES)


def test_the_documented_example_of_own_text():
    assert doctest.testmod(corpora).attempted > 0
    assert doctest.testmod(corpora).failed == 0


# --- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pydocs"}, "Did you mean 'pydoc'"),
        ({"name": "pydoc", "level": "chars"}, "level.*Did you mean 'char'"),
        ({"name": "pydoc", "vocab_size": 2}, "vocab_size=2"),
        ({"name": "pydoc", "level": "char", "vocab_size": 100}, "vocab_size=100 with level='char'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        load(**arguments)


@pytest.mark.parametrize("read", [PennTreebank, WikiText2, Multi30k, IWSLT2016])
def test_a_split_that_is_no_name(read):
    for split in (b"valid", None, 3):
        with pytest.raises(TypeError, match=r"split of \w+ is one of train, valid, test, or a tuple of them, got"):
            read(split=split)
    for split in ((b"valid",), [None]):
        with pytest.raises(DataError, match=r"split of \w+: (b'valid'|None)"):
            read(split=split)


@pytest.mark.parametrize("pair", [None, 3, "de", (1, "en"), b"de", ("de", None)])
def test_a_language_pair_that_is_none(pair):
    for read in (Multi30k, IWSLT2016):
        with pytest.raises(DataError, match=r"language pair .*: there are \('en', 'de'\) and \('de', 'en'\)"):
            read(split="valid", language_pair=pair)


def test_unknown_split():
    with pytest.raises(DataError, match=r"split of ptb: 'vald'. Did you mean 'valid'"):
        PennTreebank(split="vald")
    with pytest.raises(DataError, match=r"split of pydoc: 'dev'"):
        read_text("pydoc", "dev")


@given(st.integers(1, 200), st.integers(1, 20))
def test_batchify_columns_are_contiguous_pieces(length, batch_size):
    ids = torch.arange(length)
    if length < batch_size:
        with pytest.raises(ValueError, match=f"Cannot cut {length} ids"):
            batchify(ids, batch_size)
        return
    batch = batchify(ids, batch_size)  # (T, B)
    steps = length // batch_size
    assert batch.shape == (steps, batch_size)
    assert batch.is_contiguous()
    for column in range(batch_size):
        assert batch[:, column].tolist() == list(range(column * steps, (column + 1) * steps))


def test_batchify_refuses_no_columns():
    with pytest.raises(ValueError, match="batch_size=0"):
        batchify(torch.arange(3), 0)
