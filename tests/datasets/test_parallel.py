"""Parallel corpora hold the published pairs, aligned, and say what is wrong with text that is not."""

import gzip
import hashlib
import io
import zipfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasrepro.datasets import DATASETS, IWSLT2016, DataError, Multi30k, Vocab, load_parallel, parallel_from_text
from nasrepro.datasets import parallel as parallel_module
from nasrepro.datasets.parallel import MAX_LENGTH, SPECIALS, tokenise
from nasrepro.datasets.readers import paired_lines, read_pairs
from nasrepro.datasets.registry import DataFile, DataSet

TRAIN = [("A dog runs.", "Ein Hund läuft."), ("A cat sleeps.", "Eine Katze schläft."), ("A dog!", "Ein Hund!")]
VALID = [("A dog sleeps.", "Ein Hund schläft.")]
TEST = [("The cat runs.", "Die Katze läuft.")]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Tokens are kept in this folder, not in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASREPRO_CACHE", str(folder))
        yield folder


@pytest.fixture
def no_mirror(monkeypatch):
    for name in ("NASREPRO_MIRROR", "NASREPRO_DATA", "NASREPRO_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def multi30k(mirror):
    return load_parallel("multi30k")


# --- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "sentence", "tokens"),
    [  # by the rules of Moses' tokenizer.perl -a -no-escape
        ("en", "A dark-haired girl, 2.5 years old.", "a dark @-@ haired girl , 2.5 years old ."),
        ("en", "The dog's owner doesn't see it.", "the dog 's owner doesn 't see it ."),
        ("en", 'Mr. Smith says "a & b" <s>', 'mr. smith says " a & b " < s >'),
        ("de", "Ein schwarz-weißer Hund, z.B. Größe 3,5.", "ein schwarz @-@ weißer hund , z.b. größe 3,5 ."),
        ("de", "  Zwei   Männer ", "zwei männer"),
        ("de", "", ""),
    ],
)
def test_tokens_are_those_of_the_moses_tokeniser(language, sentence, tokens):
    assert tokenise([sentence], language) == [tokens.split()]


@given(st.lists(st.text(), max_size=5))
def test_any_text_becomes_lower_case_tokens_without_spaces_or_specials(sentences):
    words = tokenise(sentences, "en")
    assert len(words) == len(sentences)
    for token in (token for sentence in words for token in sentence):
        assert token.split() == [token]
        assert token == token.lower()
        assert token not in SPECIALS


@pytest.mark.parametrize("sentence", [b"ein", ["ein", "hund"], None])
def test_a_sentence_that_is_no_string_is_named(sentence):
    with pytest.raises(TypeError, match=r"sentences\[1\] is .*: a sentence is one string"):
        tokenise(["Ein Hund.", sentence], "de")


def test_tokens_of_a_long_text_are_kept_and_read_back(cache, monkeypatch):
    sentences = ["A dark-haired girl.", "", "Two dogs\x85run."] * 4_000
    before = set(cache.rglob("*"))
    first = tokenise(sentences, "en")
    (path,) = (
        path for path in set(cache.rglob("*")) - before if path.name != "tokens"
    )  # nothing half-written beside it
    assert path.is_file()
    monkeypatch.setattr(parallel_module, "_tokenise", None)
    assert tokenise(sentences, "en") == first


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("NASREPRO_CACHE", str(tmp_path / "file"))
    assert tokenise(["A dog."] * 20_000, "en")[-1] == ["a", "dog", "."]


# --- corpora -----------------------------------------------------------------------------------------------


def test_a_corpus_of_your_own():
    corpus = parallel_from_text("mine", TRAIN, VALID, TEST)
    # Most frequent first: "." and "a", "dog" and "ein", "hund" twice; ties by the alphabet.
    assert corpus.source_vocab.get_itos() == [*SPECIALS, "a", ".", "dog", "!", "cat", "runs", "sleeps"]
    assert corpus.target_vocab.get_itos()[:8] == [*SPECIALS, ".", "ein", "hund", "!"]
    assert corpus.train.source[0] == [4, 6, 9, 5]
    assert corpus.train.text == ["Ein Hund läuft.", "Eine Katze schläft.", "Ein Hund!"]
    assert corpus.train.tokens[1] == ["eine", "katze", "schläft", "."]
    assert corpus._test.source == [[1, 8, 9, 5]]  # "the" is not in training: <unk>
    assert corpus._test.source_tokens == [["the", "cat", "runs", "."]]
    assert corpus.note == ""


def test_pairs_are_a_sequence():
    pairs = parallel_from_text("mine", TRAIN, VALID, TEST).train
    assert [pair.text for pair in pairs] == ["Ein Hund läuft.", "Eine Katze schläft.", "Ein Hund!"]
    assert [pair.source for pair in reversed(pairs)] == pairs.source[::-1]
    assert pairs[-1] == ([4, 6, 7], pairs.target[2], "Ein Hund!", ["ein", "hund", "!"], ["a", "dog", "!"])
    assert pairs[0] in pairs
    assert [column[1:] for column in vars(pairs).values()] == list(vars(pairs[1:]).values())
    assert len(pairs[:-1]) == 2
    assert bool(pairs)
    assert not pairs[:0]
    with pytest.raises(IndexError):
        pairs[3]


def test_the_vocabulary_is_cut_and_the_note_says_so():
    corpus = parallel_from_text("mine", TRAIN, VALID, TEST, vocab_size=6)
    assert corpus.source_vocab.get_itos() == [*SPECIALS, "a", "."]
    assert corpus.note == "source vocabulary cut to 6 of 11; target vocabulary cut to 6 of 12"
    with pytest.raises(DataError, match="vocab_size=4"):
        parallel_from_text("mine", TRAIN, VALID, TEST, vocab_size=4)


def test_the_hash_sees_every_split_and_the_words_that_ids_hide():
    one = parallel_from_text("mine", TRAIN, VALID, TEST)
    assert one.hash == parallel_from_text("other", TRAIN, VALID, TEST).hash
    changed = [
        parallel_from_text("mine", TRAIN[::-1], VALID, TEST),
        parallel_from_text("mine", TRAIN, TEST, TEST),
        parallel_from_text("mine", TRAIN, VALID, VALID),
        parallel_from_text("mine", TRAIN, VALID, [("The cat runs.", "Der Kater läuft.")]),
        parallel_from_text("mine", TRAIN, VALID, [("The cat runs.", "Der Tiger läuft.")]),
        parallel_from_text("mine", TRAIN, VALID, TEST, vocab_size=6),
    ]
    assert len({one.hash, *(other.hash for other in changed)}) == 7


# --- text that is not as it should be ----------------------------------------------------------------------


def test_training_pairs_that_cannot_be_used_are_left_out_and_counted():
    fits, long = " ".join(["dog"] * MAX_LENGTH), " ".join(["dog"] * (MAX_LENGTH + 1))
    train = [*TRAIN, ("", "Leer."), ("Empty.", " "), (long, "Hund"), ("dog", long), (fits, fits)]
    corpus = parallel_from_text("mine", train, [*VALID, (long, long)], TEST)
    assert len(corpus.train) == 4
    assert corpus.train.text[-1] == fits
    assert len(corpus.valid) == 2  # nothing is left out of what is scored
    assert corpus.note == (
        "2 training pairs with an empty side left out; 2 training pairs of more than 50 tokens left out"
    )


@pytest.mark.parametrize("split", ["valid", "test"])
def test_an_empty_side_in_a_scored_split_is_an_error(split):
    texts = {"valid": VALID, "test": TEST} | {split: [*VALID, ("A dog.", "\t")]}
    with pytest.raises(DataError, match=f"Line 2 of the {split} split of mine is empty in de"):
        parallel_from_text("mine", TRAIN, **texts)


@pytest.mark.parametrize("texts", [([], VALID, TEST), ([("", "")], VALID, TEST), (TRAIN, [], TEST), (TRAIN, VALID, [])])
def test_a_split_without_pairs_is_an_error(texts):
    with pytest.raises(DataError, match=r"mine has no sentence pairs for (train|valid|test)"):
        parallel_from_text("mine", *texts)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ("A dog runs.", TypeError, r"train is the string 'A dog runs\.'.*sentence pairs"),
        (["ab", "cd"], DataError, "Pair 1 of the train split of mine is 'ab'"),
        ([*TRAIN, ("A dog.", "Ein Hund.", "Un chien.")], DataError, "Pair 4 of the train split"),
        ([(["a", "dog"], ["ein", "hund"])], DataError, "Pair 1 .* two strings"),
        ([7], DataError, "Pair 1 of the train split of mine is 7"),
    ],
)
def test_what_is_no_sentence_pair_is_named_with_its_place(train, error, message):
    with pytest.raises(error, match=message):
        parallel_from_text("mine", train, VALID, TEST)
    with pytest.raises(TypeError, match="sentences is the string"):
        tokenise("A dog.", "en")


def test_own_pairs_are_not_called_as_a_registered_data_set():
    with pytest.raises(DataError, match="'multi30k' is the name of a registered data set"):
        parallel_from_text("multi30k", TRAIN, VALID, TEST)


def test_pairs_may_come_from_an_iterator():
    english, german = zip(*TRAIN, strict=True)
    corpus = parallel_from_text("mine", zip(english, german, strict=True), iter(VALID), iter(TEST))
    assert corpus.hash == parallel_from_text("mine", TRAIN, VALID, TEST).hash


def test_a_byte_order_mark_is_no_word(tmp_path):
    (tmp_path / "a.en").write_text("A dog.\n", encoding="utf-8-sig")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress("Ein Hund.\n".encode("utf-8-sig")))
    assert paired_lines(tmp_path / "a.en", tmp_path / "a.de.gz") == [("A dog.", "Ein Hund.")]
    marked = [("\ufeff" + TRAIN[0][0], "\ufeff" + TRAIN[0][1]), *TRAIN[1:]]  # as `open` gives the first line
    assert parallel_from_text("mine", marked, VALID, TEST).hash == parallel_from_text("mine", TRAIN, VALID, TEST).hash


def test_files_of_unequal_length_are_named_with_the_first_line_alone(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\nzwei\n"))
    message = r"a\.en has 3 lines, .*a\.de\.gz has 2: line 3 of a\.en is the first without a partner in a\.de\.gz"
    with pytest.raises(DataError, match=message):
        paired_lines(tmp_path / "a.en", tmp_path / "a.de.gz")
    with pytest.raises(DataError, match=r"line 3 of a\.en"):
        paired_lines(tmp_path / "a.de.gz", tmp_path / "a.en")


def test_lines_break_at_newlines_alone(tmp_path):
    (tmp_path / "a.en").write_bytes("one\u2028still one\r\ntwo".encode())
    (tmp_path / "a.de").write_bytes("eins\x85\n\n".encode())
    assert paired_lines(tmp_path / "a.en", tmp_path / "a.de") == [("one\u2028still one", "eins\x85"), ("two", "")]


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "a.de").write_bytes("eins\nzwölf\ndrei\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.de, line 2, is not UTF-8"):
        paired_lines(tmp_path / "a.en", tmp_path / "a.de")


def test_unknown_characters_become_unknown_words():
    corpus = parallel_from_text("mine", TRAIN, VALID, [("A \U0001f415 runs.", "Ein \ufffd läuft.")])
    assert corpus._test.source_tokens == [["a", "\U0001f415", "runs", "."]]
    assert corpus._test.source == [[4, 1, 9, 5]]


def test_vocabularies_of_another_data_set():
    first = parallel_from_text("first", TRAIN, VALID, TEST)
    both = (first.source_vocab, first.target_vocab)
    second = parallel_from_text("second", [("A dog sings.", "Ein Hund singt.")], VALID, TEST, vocabularies=both)
    assert second.source_vocab is first.source_vocab
    assert second.train.source == [[4, 6, 1, 5]]
    # Unknown are "sings" and "the" of 12 tokens, "singt" and "die" of 12.
    assert second.note == (
        "source vocabulary given: 16.7% of the tokens unknown; target vocabulary given: 16.7% of the tokens unknown"
    )
    foreign = [("Un chien court", "Un gato corre")] * 3
    with pytest.raises(DataError, match=r"source vocabulary knows 0\.0% of the tokens"):
        parallel_from_text("foreign", foreign, foreign, foreign, vocabularies=both)
    with pytest.raises(DataError, match=r"target vocabulary begins with \['ein'\].*'<blank>'"):
        parallel_from_text("second", TRAIN, VALID, TEST, vocabularies=(both[0], Vocab(["ein"])))


def test_mistyped_names():
    with pytest.raises(DataError, match="Did you mean 'multi30k'"):
        load_parallel("multi-30k")
    with pytest.raises(DataError, match=r"\('en', 'de'\)"):
        Multi30k(split="train", language_pair=("en", "fr"))
    with pytest.raises(DataError, match="Unknown split of tatoeba: 'dev'"):
        read_pairs("tatoeba", "dev", ("en", "de"))


def test_missing_data_says_how_to_get_it(no_mirror, tmp_path):
    with pytest.raises(DataError, match=r"train\.en\.gz.*nasrepro data fetch multi30k"):
        load_parallel("multi30k", root=tmp_path)


# --- IWSLT's training text ---------------------------------------------------------------------------------


def register(monkeypatch, folder, name, files):
    """A data set of these files (split and name: content) in `folder`, in place of the registered one."""
    rows = []
    for (split, file), content in files.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_bytes(content)
        rows.append(DataFile(split, file, len(content), hashlib.sha256(content).hexdigest(), ()))
    monkeypatch.setitem(DATASETS, name, DataSet(name, name, "a test", "none", "none", tuple(rows), pairs=True))


def test_iwslt_uses_its_own_training_text_where_it_is_there(monkeypatch, tmp_path, no_mirror):
    texts = {"train": TRAIN, "valid": VALID, "test": TEST}
    files = {
        (f"{split}.{language}", f"{split}.{language}"): "".join(pair[side] + "\n" for pair in text).encode()
        for split, text in texts.items()
        for side, language in enumerate(("en", "de"))
    }
    register(monkeypatch, tmp_path, "iwslt2016", files)
    corpus = load_parallel("iwslt2016", root=tmp_path)
    assert corpus.note == ""
    assert corpus.train.text == [german for _, german in TRAIN]
    assert list(IWSLT2016(tmp_path, "valid")) == [("Ein Hund schläft.\n", "A dog sleeps.\n")]
    # A damaged copy is an error: it must not turn the experiment into another one.
    (tmp_path / "iwslt2016" / "train.de").write_text("changed")
    with pytest.raises(DataError, match=r"train\.de is truncated"):
        load_parallel("iwslt2016", root=tmp_path)


def test_tatoeba_stands_in_for_iwslts_training_text(mirror, monkeypatch, tmp_path):
    rows = [("Go.", "Geh."), ("Hi.", "Hallo!"), ("Run!", "Lauf!"), ("Wow!", "Potzdonner!"), ("Fire!", "Feuer!")]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("deu.txt", "".join(f"{english}\t{german}\n" for english, german in rows))
    register(monkeypatch, tmp_path, "tatoeba", {("all", "deu-eng.zip"): archive.getvalue()})
    if (mirror / "iwslt16" / "train.de-en.de").exists():
        pytest.skip("IWSLT's training text is on this machine: nothing has to stand in for it")
    corpus = load_parallel("iwslt2016", root=tmp_path)
    assert corpus.note.startswith("stand-in: trained on Tatoeba's pairs")
    assert corpus.train.text == [german for _, german in read_pairs("tatoeba", "train", ("en", "de"), tmp_path)]
    assert (len(corpus.valid), len(corpus._test)) == (993, 1_305)


# --- the published pairs -----------------------------------------------------------------------------------


def test_multi30k_has_the_published_pairs(multi30k):
    assert (len(multi30k.train), len(multi30k.valid), len(multi30k._test)) == (29_000, 1_014, 1_000)
    assert multi30k.note == ""
    assert multi30k.train.text[0] == "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    assert " ".join(multi30k.train.source_tokens[0]) == "two young , white males are outside near many bushes ."
    for split in (multi30k.train, multi30k.valid, multi30k._test):
        assert all(split.source)
        assert all(split.target)


def test_multi30k_ids_read_back_as_the_words(multi30k):
    assert multi30k.source_vocab.get_itos()[:4] == ["<blank>", "<unk>", "<s>", "</s>"]
    for vocab, ids, words in (
        (multi30k.source_vocab, multi30k.train.source, multi30k.train.source_tokens),
        (multi30k.target_vocab, multi30k.train.target, multi30k.train.tokens),
    ):
        assert [vocab.lookup_tokens(sentence) for sentence in ids] == words  # no <unk> in training
        counts = Counter(token for sentence in words for token in sentence)
        frequencies = [counts[token] for token in vocab.get_itos()[4:]]
        assert frequencies == sorted(frequencies, reverse=True)


def test_multi30k_as_torchtext_gives_it(mirror):
    # numbers of lines as torchtext 0.18 lists them; from German by default
    train, valid, test = Multi30k()
    first = next(iter(train))
    assert first == (
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
        "Two young, White males are outside near many bushes.",
    )
    for _ in range(2):
        assert (len(list(train)), len(list(valid)), len(list(test))) == (29_000, 1_014, 1_000)
    assert Multi30k(split="train", language_pair=["en", "de"])[0] == first[::-1]


def test_iwslt_as_torchtext_gives_it(mirror):
    valid, test = IWSLT2016(split=("valid", "test"))
    assert (len(list(valid)), len(list(test))) == (993, 1_305)
    german, english = next(iter(valid))
    assert english == "When I was 11, I remember waking up one morning to the sound of joy in my house.\n"
    assert german.startswith("Als ich 11 Jahre alt war")


def test_iwslt_has_torchtexts_sets(mirror):
    # numbers of lines as torchtext 0.18 lists them
    counts = {"dev2010": 887, "tst2010": 1_565, "tst2011": 1_433, "tst2012": 1_700, "tst2013": 993, "tst2014": 1_305}
    for name, count in counts.items():
        valid, test = IWSLT2016(split=("valid", "test"), language_pair=("en", "de"), valid_set=name, test_set=name)
        assert len(list(valid)) == count
        assert list(valid) == list(test)
    with pytest.raises(DataError, match=r"valid_set of iwslt2016: 'tst2031'. Did you mean 'tst20"):
        IWSLT2016(valid_set="tst2031")
    with pytest.raises(DataError, match=r"test_set of iwslt2016: 'dev'.*tst2014"):
        IWSLT2016(split="valid", test_set="dev")
    with pytest.raises(DataError, match=r"language pair \('fr', 'en'\) of iwslt2016"):
        IWSLT2016(split="valid", language_pair=("fr", "en"))
    with pytest.raises(DataError, match="split of iwslt2016: 'dev2010'"):
        IWSLT2016(split="dev2010")


def test_tatoebas_splits_share_no_english_sentence(mirror):
    splits = {split: read_pairs("tatoeba", split, ("en", "de")) for split in ("train", "valid", "test")}
    assert sum(map(len, splits.values())) == 169_813
    assert 2_000 < len(splits["valid"]) < 5_000
    assert 2_000 < len(splits["test"]) < 5_000
    english = {split: {source.lower() for source, _ in pairs} for split, pairs in splits.items()}
    assert not english["train"] & (english["valid"] | english["test"])
    assert not english["valid"] & english["test"]
