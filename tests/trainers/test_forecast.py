"""A forecast from a few steps is near to what training then takes."""

from dataclasses import replace

import pytest
import torch

from nasrepro import datasets
from nasrepro.convnet import ConvNet, ConvNetError
from nasrepro.convnet.network import Layer
from nasrepro.datasets.parallel import ParallelCorpus, parallel_from_text
from nasrepro.dsl import zoo
from nasrepro.trainers import translation
from nasrepro.trainers.forecast import (
    MULTI30K,
    WIKITEXT2,
    ImagesSize,
    PairsSize,
    TextSize,
    forecast_image_seconds,
    forecast_seconds,
    forecast_translation_seconds,
)
from nasrepro.trainers.images import ImageSettings, ImageStep, ImageTask
from nasrepro.trainers.language_model import LanguageModelSettings, train
from nasrepro.trainers.translation import TranslationSettings

PAIRS = TranslationSettings(hidden=32, layers=1, batch=8, epochs=4, halve_from=2, eval_batch=5, fail_above=1e9)
NET = ConvNet((Layer("conv", (), 3, 3, filters=12), Layer("conv", (1,), 3, 3, filters=12)))
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


def test_a_small_training_on_images_takes_about_as_long_as_forecast() -> None:
    task = ImageTask(training=ImageSettings(epochs=2, batch=32, upsampled=10, train_images=600))
    before = forecast_image_seconds(NET, task)
    seconds = task.evaluate(NET, 0).seconds
    after = forecast_image_seconds(NET, task)
    assert min(before, after) / 3 < seconds < max(before, after) * 3


def test_the_time_of_images_grows_with_epochs_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that every call moves by 1 s: for 50 images of training, for 50 of evaluation."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(ImageStep, "over_all", lambda *_: 0.0)
    monkeypatch.setattr("nasrepro.trainers.forecast.images.evaluate", lambda *_: (0.0, 0.0))
    training = ImageSettings(epochs=3, batch=50)
    assert forecast_image_seconds(NET, ImageTask("cifar10", 8, training)) == 3 * (900 + 100)
    few = replace(training, train_images=500, valid_images=250)
    assert forecast_image_seconds(NET, ImageTask("cifar10", 8, few)) == 3 * (10 + 5)
    many = replace(training, train_images=10**6, valid_images=10**6)
    assert forecast_image_seconds(NET, ImageTask("cifar10", 8, many)) == 3 * (900 + 100)


def test_what_is_timed_has_the_sizes_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        ImageStep, "over_all", lambda step, rate, _: seen.append((step.crops.pixels.shape, len(step.labels), rate))
    )
    forecast_image_seconds(NET, ImageTask("cifar10", training=ImageSettings(batch=6, upsampled=40)), steps=1)
    assert seen == [((6, 40, 40, 3), 6, 0.0)] * 2  # the first to warm up


def test_images_that_are_too_small_for_a_network_have_no_forecast() -> None:
    with pytest.raises(ConvNetError, match="layer_1 has filter_height = 3 and reads maps of 2 x 2 pixels"):
        forecast_image_seconds(NET, ImageTask("cifar10", 2), steps=1)


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
    with pytest.raises(ValueError, match="times 1 step or more, got 0"):
        forecast_image_seconds(NET, ImageTask("cifar10"), steps=0)


def test_the_sizes_of_wikitext2_are_those_of_its_files(mirror: object) -> None:
    assert TextSize.of(datasets.load("wikitext2")) == WIKITEXT2


def test_the_sizes_of_multi30k_are_those_of_its_files(mirror: object) -> None:
    assert PairsSize.of(datasets.load_parallel("multi30k")) == MULTI30K


def test_the_sizes_of_cifar10_are_those_of_its_files(mirror: object) -> None:
    found = datasets.load_images("cifar10", 16)
    size = ImagesSize(tuple(found.train.shape[1:]), len(found.train), len(found.valid))
    assert ImagesSize.of_task(ImageTask("cifar10", 16)) == size
    assert ImagesSize.of_task(ImageTask("cifar10")) == replace(size, shape=(3, 32, 32))


def test_sizes_of_digits_are_counted() -> None:
    assert ImagesSize.of_task(ImageTask("digits")) == ImagesSize((1, 8, 8), train=1_197, valid=300)


def test_sizes_of_pairs_are_counted() -> None:
    # 40 first words and 4 or, in German, 8 others, and four special tokens; lengths alternate between 7 and 9.
    assert PairsSize.of(counting(100)) == PairsSize(48, 52, train=100, valid=30, source_length=5, target_length=8)
