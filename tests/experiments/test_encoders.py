"""What encoders do, on models whose answers are known: cells that forget at once or never, attention that is even."""

import math

import numpy as np
import pytest
import torch

from nasrepro.datasets import parallel_from_text
from nasrepro.datasets.parallel import BOS, EOS
from nasrepro.experiments.s17_translation import encoders
from nasrepro.trainers.outcome import Outcome
from nasrepro.trainers.seq2seq import Seq2Seq
from nasrepro.trainers.translation import TranslationSettings, make_batches, make_model

TEXT = [
    ("a dog sleeps", "ein hund schläft"),
    ("the tired clown is washing a goat", "der müde clown wäscht eine ziege"),
    ("clown", "clown"),
]
CORPUS = parallel_from_text("three sentences", TEXT, TEXT, TEXT)
PAIRS, VOCAB = CORPUS.train, CORPUS.target_vocab
SETTINGS = TranslationSettings(hidden=6, layers=1, init_range=0.5, dropout=0.0, longest=5)

FORGETS = "Tanh(MM(x_t))"
ADDS_UP = "Add(x_t, h_{t-1})"


def model_of(cell: str) -> Seq2Seq:
    return make_model(cell, CORPUS, SETTINGS, seed=1).eval()


def with_end(bias: float) -> Seq2Seq:
    """A model that finds all words equally probable, but for the end of a sentence."""
    model = model_of(FORGETS)
    with torch.no_grad():
        model.output_weight.zero_()
        model.output_bias.zero_()
        model.output_bias[VOCAB[EOS]] = bias
    return model


@pytest.mark.parametrize("cell", [FORGETS, ADDS_UP, "Tanh(Add(MM(x_t), MM(h_{t-1})))"])
def test_outputs_of_a_sentence_are_those_that_it_has_among_others(cell):
    model = model_of(cell)
    [(places, batch)] = make_batches(PAIRS, VOCAB, len(PAIRS))
    padded = model.encode(batch.source, batch.lengths)[0].values  # (B, S, H)
    for place, values in zip(places, padded, strict=True):
        alone = encoders.outputs(model, PAIRS.source[place])
        assert alone.shape == (len(PAIRS.source[place]), 6)
        torch.testing.assert_close(values[: len(alone)], alone)
        assert not alone.requires_grad


def test_a_cell_without_a_past_forgets_a_word_at_once_and_a_sum_never_does():
    sentences = [[4, 5, 6, 7], [5, 5, 5, 5, 5], [6, 7, 8, 9]]
    assert encoders.influence(model_of(FORGETS), sentences, 3).tolist() == [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(encoders.influence(model_of(ADDS_UP), sentences, 3), [1.0, 1.0, 1.0, 1.0], rtol=1e-4)


def test_influence_is_the_same_every_time_and_leaves_torchs_numbers_alone():
    model, before = model_of("Tanh(Add(MM(x_t), MM(h_{t-1})))"), torch.get_rng_state()
    first, again = (encoders.influence(model, [[4, 5, 6], [7, 8, 9]], 2) for _ in range(2))
    assert torch.equal(first, again)
    assert first[0] == 1
    assert first[2] > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sentences", [[], [[4, 5, 6]], [[4, 5, 6, 7], [4]]])
def test_influence_over_more_words_than_there_are_is_refused(sentences):
    with pytest.raises(ValueError, match="each of more than 3 words"):
        encoders.influence(model_of(FORGETS), sentences, 3)


def test_even_attention_looks_at_the_whole_sentence_and_a_sharp_one_at_one_word():
    model = model_of(FORGETS)
    with torch.no_grad():
        weights = model.attention_in.clone()
        model.attention_in.zero_()
        # A step for each target word and the end: 4 over 3 source words, 7 over 7, 2 over 1.
        assert encoders.words_looked_at(model, PAIRS, VOCAB) == pytest.approx((4 * 3 + 7 * 7 + 2 * 1) / 13, rel=1e-5)
        model.attention_in.copy_(1e6 * weights)
        assert encoders.words_looked_at(model, PAIRS, VOCAB) == pytest.approx(1, abs=1e-3)
        model.attention_in.copy_(weights)
    assert 1 < encoders.words_looked_at(model, PAIRS, VOCAB) < 7


def test_a_translation_that_ends_has_its_end_and_one_that_is_cut_has_none():
    source = PAIRS.source[1]
    ended = encoders.write(with_end(50.0), source, VOCAB, longest=5)
    assert ended.words == [EOS]
    assert ended.log_probability == pytest.approx(0, abs=1e-6)
    cut = encoders.write(with_end(-50.0), source, VOCAB, longest=5)
    assert len(cut.words) == 5
    assert EOS not in cut.words
    assert cut.log_probability == pytest.approx(-5 * math.log(len(VOCAB) - 1))
    for written in (ended, cut):
        assert written.attention.shape == (len(written.words), len(source))
        torch.testing.assert_close(written.attention.sum(dim=1), torch.ones(len(written.words)))


def test_a_translation_read_again_word_by_word_is_as_probable():
    model, source = model_of("Tanh(Add(MM(x_t), MM(h_{t-1})))"), PAIRS.source[0]
    bos, eos = VOCAB.lookup_indices([BOS, EOS])
    ids = [*PAIRS.target[0], eos]
    attention, found = encoders.read_again(model, source, ids, bos)
    context, state = model.encode(torch.tensor(source)[:, None], torch.tensor([len(source)]))
    by_hand = 0.0
    for step, (last, word) in enumerate(zip([bos, *ids[:-1]], ids, strict=True)):
        features, looked, state = model.decode(torch.tensor([[last]]), context, state)
        by_hand += model.log_probabilities(features)[0, 0, word].item()
        torch.testing.assert_close(attention[step], looked[0, 0])
    assert found == pytest.approx(by_hand, rel=1e-5)


def test_sample_translations_stand_under_their_references():
    models = {"ends": with_end(50.0), "goes on": with_end(-50.0)}
    table = encoders.sample_translations(models, PAIRS[:2], CORPUS, SETTINGS)
    assert table["sentence"].tolist() == [0] * 4 + [1] * 4
    assert table["by"].tolist() == ["source", "reference", "ends", "goes on"] * 2
    assert table["text"].tolist()[:3] == ["a dog sleeps", "ein hund schläft", ""]
    assert len(table["text"].iloc[3].split()) == 5


def test_the_summary_says_what_failed_and_what_each_encoder_does():
    learned = Outcome("ok", metrics={"valid_ppl": 8.5, "valid_multi_bleu": 20.0})
    failed = Outcome("failed", "exploded")
    trained = {"A": (learned, model_of(FORGETS)), "B": (failed, model_of(ADDS_UP))}
    influences = {"A": torch.tensor([1, 0.5, 0.4, 0.3, 0.25, 0.1]), "B": torch.ones(6)}
    table = encoders.summary(trained, influences, PAIRS, VOCAB)
    assert list(table.index) == ["A", "B"]
    assert table["outcome"].tolist() == ["learned", "exploded"]
    assert table["valid perplexity"].iloc[0] == 8.5
    assert table.loc["B", ["valid perplexity", "valid multi-bleu"]].isna().all()
    assert table["remembered"].tolist() == [0.25, 1.0]
    assert table["looked at"].between(1, 7).all()
