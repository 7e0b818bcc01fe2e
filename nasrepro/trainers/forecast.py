"""How long training a cell will take on this machine, from the time of a few steps.

Time depends on sizes and not on what the text says, so a forecast needs no data: it trains on random tokens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from nasrepro.datasets import Corpus
from nasrepro.dsl import Cell
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings, evaluate, train_epoch


@dataclass(frozen=True)
class TextSize:
    """What the time of a training run depends on: words of the vocabulary, tokens to train and validate on."""

    words: int
    train: int
    valid: int

    @classmethod
    def of(cls, corpus: Corpus) -> "TextSize":
        """The sizes of a corpus."""
        return cls(len(corpus.vocab), len(corpus.train), len(corpus.valid))


WIKITEXT2 = TextSize(words=33_278, train=2_088_628, valid=217_646)
"""The text that S17 trains on, ends of lines counted (Merity et al. 2016)."""


def forecast_seconds(
    cell: Cell | str, settings: LanguageModelSettings, text: TextSize, steps: int = 3, device: str = "cpu"
) -> float:
    """Seconds that `train` would take for all its epochs, from `steps` steps of training and of evaluation each.

    A cell that fails on the way takes less. Raises ValueError for no steps.
    """
    if steps < 1:
        raise ValueError(f"a forecast times 1 step or more, got {steps}")
    generator = torch.Generator().manual_seed(0)
    model = LanguageModel(cell, text.words, settings, seed=0).to(device)
    masks = torch.Generator(device).manual_seed(0)

    def columns(batch: int) -> torch.Tensor:
        return torch.randint(text.words, (settings.bptt + 1, batch), generator=generator).to(device)  # one window

    train_columns, valid_columns = columns(settings.batch), columns(settings.eval_batch)
    # A learning rate of 0 does all the work of a step and lets no cell explode while it is timed.
    train_step = _median_seconds(lambda: train_epoch(model, train_columns, 0.0, masks), steps)
    valid_step = _median_seconds(lambda: evaluate(model, valid_columns), steps)
    train_tokens = min(text.train, settings.train_tokens or text.train)
    valid_tokens = min(text.valid, settings.valid_tokens or text.valid)
    return settings.epochs * (
        train_step * train_tokens / (settings.batch * settings.bptt)
        + valid_step * valid_tokens / (settings.eval_batch * settings.bptt)
    )


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of one call, after one call to warm up. Each call ends by reading a number off the device."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])
