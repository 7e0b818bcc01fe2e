"""A forecast from a few steps is near to what training then takes."""

from dataclasses import replace

import pytest
import torch

from nasrepro import datasets
from nasrepro.dsl import zoo
from nasrepro.trainers.forecast import WIKITEXT2, TextSize, forecast_seconds
from nasrepro.trainers.language_model import LanguageModelSettings, train

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
    monkeypatch.setattr("nasrepro.trainers.forecast.train_epoch", lambda *_: None)
    monkeypatch.setattr("nasrepro.trainers.forecast.evaluate", lambda *_: None)
    settings = LanguageModelSettings(layers=1, hidden=4, embedding=4, epochs=3)
    text = TextSize(words=30, train=7_000, valid=3_500)
    assert forecast_seconds(zoo["TanhRNN"], settings, text) == 3 * (10 + 10)
    assert forecast_seconds(zoo["TanhRNN"], replace(settings, train_tokens=700), text) == 3 * (1 + 10)
    assert forecast_seconds(zoo["TanhRNN"], replace(settings, train_tokens=70_000), text) == 3 * (10 + 10)


def test_it_leaves_global_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    forecast_seconds("Tanh(Add(MM(x_t), MM(h_{t-1})))", replace(SMALL, bptt=3), TextSize(9, 100, 100), steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_no_steps_are_no_forecast() -> None:
    with pytest.raises(ValueError, match="times 1 step or more, got 0"):
        forecast_seconds(zoo["GRU"], SMALL, WIKITEXT2, steps=0)


def test_the_sizes_of_wikitext2_are_those_of_its_files(mirror: object) -> None:
    assert TextSize.of(datasets.load("wikitext2")) == WIKITEXT2
