"""A forecast from a few steps is near to what training then takes."""

from dataclasses import replace

import pytest
import torch

from nasrepro import datasets
from nasrepro.datasets.parallel import ParallelCorpus, parallel_from_text
from nasrepro.dsl import zoo
from nasrepro.trainers import translation
from nasrepro.trainers.forecast import (
    MULTI30K,
    WIKITEXT2,
    PairsSize,
    TextSize,
    forecast_seconds,
    forecast_translation_seconds,
)
from nasrepro.trainers.language_model import LanguageModelSettings, train
from nasrepro.trainers.translation import TranslationSettings

PAIRS = TranslationSettings(hidden=32, layers=1, batch=8, epochs=4, halve_from=2, eval_batch=5, fail_above=1e9)
SMALL = LanguageModelSettings(hidden=32, embedding=32, batch=20, epochs=2, train_tokens=14_000, valid_tokens=7_000)


def test_a_small_run_takes_about_as_long_as_forecast() -> None:
    corpus = datasets.load("pydoc", level="char")
    before = forecast_seconds(zoo["GRU"], SMALL, TextSize.of(corpus))
    seconds = train(zoo["GRU"], corpus, SMALL)[0].seconds
    after = forecast_seconds(zoo["GRU"], SMALL, TextSize.of(corpus))
    # The machine may be busy now and idle then: the truth lies between what was seen, give or take a factor.
    assert min(before, after) / 3 < seconds < max(before, after) * 3


def test_time_grows_with_epochs_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that every call moves by 1 s: a training window is 20 x 35 tokens, of evaluation 10 x 35."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr("nasrepro.trainers.forecast.language_model.train_epoch", lambda *_: None)
    monkeypatch.setattr("nasrepro.trainers.forecast.language_model.evaluate", lambda *_: None)
    settings = LanguageModelSettings(layers=1, hidden=4, embedding=4, epochs=3)
    text = TextSize(words=30, train=7_000, valid=3_500)
    assert forecast_seconds(zoo["TanhRNN"], settings, text) == 3 * (10 + 10)
    assert forecast_seconds(zoo["TanhRNN"], replace(settings, train_tokens=700), text) == 3 * (1 + 10)
    assert forecast_seconds(zoo["TanhRNN"], replace(settings, train_tokens=70_000), text) == 3 * (10 + 10)


def counting(pairs: int) -> ParallelCorpus:
    """So many pairs of sentences, of 5 and of 7 to 9 words."""
    text = [(f"a{i % 40} b c d e", f"v{i % 40} w x y z u t" + " r s" * (i % 2)) for i in range(pairs)]
    return parallel_from_text("counting", text, text[:30], text[:1])


def test_a_small_translation_takes_about_as_long_as_forecast() -> None:
    corpus = counting(400)
    before = forecast_translation_seconds(zoo["GRU"], PAIRS, PairsSize.of(corpus))
    seconds = translation.train(zoo["GRU"], corpus, PAIRS)[0].seconds
    after = forecast_translation_seconds(zoo["GRU"], PAIRS, PairsSize.of(corpus))
    assert min(before, after) / 3 < seconds < max(before, after) * 3


def test_the_time_of_a_translation_grows_with_epochs_and_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that every call moves by 1 s: for 8 pairs of training, for 5 of evaluation, for 5 translations."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    for name in ("translation.train_epoch", "translation.evaluate", "beam_search"):
        monkeypatch.setattr(f"nasrepro.trainers.forecast.{name}", lambda *_: None)
    text = PairsSize(30, 40, train=80, valid=20, source_length=6, target_length=7)
    assert forecast_translation_seconds(zoo["MT5"], PAIRS, text) == 4 * (10 + 4) + 4
    assert forecast_translation_seconds(zoo["MT5"], replace(PAIRS, train_pairs=8), text) == 4 * (1 + 4) + 4
    assert forecast_translation_seconds(zoo["MT5"], replace(PAIRS, valid_pairs=5), text) == 4 * (10 + 1) + 1
    # From the second epoch on the rate is halved: 1, 1, 0.5 and no more.
    assert forecast_translation_seconds(zoo["MT5"], replace(PAIRS, stop_below=0.4), text) == 3 * (10 + 4) + 4


def test_what_is_timed_has_the_sizes_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "nasrepro.trainers.forecast.translation.train_epoch",
        lambda step, batches, *_: seen.append((step.model.sizes, batches)),
    )
    text = PairsSize(30, 400, train=80, valid=20, source_length=6, target_length=7)
    forecast_translation_seconds(zoo["MT5"], replace(PAIRS, vocab_size=50), text, steps=1)
    sizes, (batch,) = seen[0]
    assert (sizes.source_words, sizes.target_words) == (30, 50)
    assert (batch.source.shape, batch.inputs.shape, batch.words) == ((6, 8), (8, 8), 64)


def test_it_leaves_global_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    forecast_seconds("Tanh(Add(MM(x_t), MM(h_{t-1})))", replace(SMALL, bptt=3), TextSize(9, 100, 100), steps=1)
    forecast_translation_seconds(zoo["MT5"], PAIRS, PairsSize(9, 9, 8, 5, 3, 3), steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_no_steps_are_no_forecast() -> None:
    with pytest.raises(ValueError, match="times 1 step or more, got 0"):
        forecast_seconds(zoo["GRU"], SMALL, WIKITEXT2, steps=0)
    with pytest.raises(ValueError, match="times 1 step or more, got 0"):
        forecast_translation_seconds(zoo["GRU"], PAIRS, MULTI30K, steps=0)


def test_the_sizes_of_wikitext2_are_those_of_its_files(mirror: object) -> None:
    assert TextSize.of(datasets.load("wikitext2")) == WIKITEXT2


def test_the_sizes_of_multi30k_are_those_of_its_files(mirror: object) -> None:
    assert PairsSize.of(datasets.load_parallel("multi30k")) == MULTI30K


def test_sizes_of_pairs_are_counted() -> None:
    # 40 first words and 4 or, in German, 8 others, and four special tokens; lengths alternate between 7 and 9.
    assert PairsSize.of(counting(100)) == PairsSize(48, 52, train=100, valid=30, source_length=5, target_length=8)
