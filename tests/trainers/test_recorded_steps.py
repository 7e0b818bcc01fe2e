"""Training steps as CUDA graphs do what they do launch by launch, and wait for the GPU once."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from nasrepro.datasets import ParallelCorpus
from nasrepro.datasets.parallel import parallel_from_text
from nasrepro.dsl import zoo
from nasrepro.rnn.recording import Recording
from nasrepro.trainers import language_model, translation
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings
from nasrepro.trainers.translation import TranslationSettings, make_batches, make_model

LANGUAGE_MODEL = LanguageModelSettings(hidden=24, embedding=16, batch=6, bptt=9)
TRANSLATION = TranslationSettings(hidden=16, batch=5, init_range=0.3)
WORDS = 40


@pytest.fixture
def pairs() -> ParallelCorpus:
    text = [(" ".join("abcdefg"[: 1 + n % 5]), " ".join("uvwxyz"[: 1 + n % 4])) for n in range(40)]
    return parallel_from_text("toy", text, text[:9], text[:9])


def language_model_epochs(cell: str, device: str, epochs: int = 2) -> tuple[list[float], list[Tensor]]:
    """Losses of epochs over random words, and the weights after them."""
    model = LanguageModel(zoo[cell], WORDS, LANGUAGE_MODEL, seed=1).to(device)
    step = language_model.TrainingStep(model, torch.Generator(device).manual_seed(2))
    columns = torch.randint(WORDS, (50, LANGUAGE_MODEL.batch), generator=torch.Generator().manual_seed(3)).to(device)
    losses = [language_model.train_epoch(step, columns, 5.0 / (1 + epoch))[0] for epoch in range(epochs)]
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


def translation_epochs(
    cell: str, pairs: ParallelCorpus, device: str, epochs: int = 3
) -> tuple[list[float], list[Tensor]]:
    """Losses of epochs over the pairs, and the weights after them."""
    model = make_model(zoo[cell], pairs, TRANSLATION, seed=1).to(device)
    step = translation.TrainingStep(model, TRANSLATION.clip, torch.Generator(device).manual_seed(2))
    batches = [batch for _, batch in make_batches(pairs.train, pairs.target_vocab, TRANSLATION.batch, device)]
    losses = [translation.train_epoch(step, batches, 0.5 / (1 + epoch))[0] for epoch in range(epochs)]
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


@contextmanager
def no_graphs() -> Iterator[None]:
    before, Recording.possible = Recording.possible, False
    try:
        yield
    finally:
        Recording.possible = before


def agree(found: tuple[list[float], list[Tensor]], expected: tuple[list[float], list[Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("cell", ["LSTM", "BC3", "QRNN", "MT2"])
def test_the_language_model_learns_alike_with_and_without_graphs(cell: str) -> None:
    with no_graphs():
        expected = language_model_epochs(cell, "cuda")
    agree(language_model_epochs(cell, "cuda"), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", ["LSTM", "MT5", "BC3"])
def test_translation_learns_alike_with_and_without_graphs(cell: str, pairs: ParallelCorpus) -> None:
    with no_graphs():
        expected = translation_epochs(cell, pairs, "cuda")
    agree(translation_epochs(cell, pairs, "cuda"), expected)


@pytest.mark.gpu
def test_a_step_waits_for_the_gpu_once(pairs: ParallelCorpus) -> None:
    model = LanguageModel(zoo["LSTM"], WORDS, LANGUAGE_MODEL, seed=1).cuda()
    translator = make_model("Tanh(MM(x_t))", pairs, TRANSLATION, 1).cuda()
    text = torch.randint(WORDS, (10, LANGUAGE_MODEL.batch)).cuda()
    steps = [
        (language_model.TrainingStep(model, torch.Generator("cuda")), (text[:-1], text[1:])),
        (
            translation.TrainingStep(translator, TRANSLATION.clip, torch.Generator("cuda")),
            make_batches(pairs.train, pairs.target_vocab, 5, "cuda")[0][1],
        ),
    ]
    for step, batch in steps:
        for _ in range(4):  # launch by launch, recorded, replayed
            _without_waiting(lambda step=step, batch=batch: step._step(*batch))


def _without_waiting(work) -> None:
    try:
        with warnings.catch_warnings():  # torch says once that this mode is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
