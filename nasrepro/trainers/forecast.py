"""How long training a cell will take on this machine, from the time of a few steps.

Time depends on sizes and not on what the text says, so a forecast needs no data: it trains on random tokens.

>>> forecast_seconds(zoo["LSTM"], LanguageModelSettings(), WIKITEXT2) / 3600                # doctest: +SKIP
>>> forecast_translation_seconds(zoo["LSTM"], TranslationSettings(), MULTI30K) / 3600       # doctest: +SKIP
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import mean, median

import torch

from nasrepro.convnet import ConvNet
from nasrepro.datasets import Corpus, ParallelCorpus
from nasrepro.dsl import Cell, zoo
from nasrepro.hardware import resolve
from nasrepro.trainers import final_model, gnmt_translation, images, language_model, translation
from nasrepro.trainers.beam import beam_search
from nasrepro.trainers.final_settings import FinalModelSettings
from nasrepro.trainers.gnmt import Gnmt
from nasrepro.trainers.gnmt_translation import GnmtSettings
from nasrepro.trainers.images import ImageTask
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.seq2seq import Seq2Seq, Translator
from nasrepro.trainers.translation import Batch, TranslationSettings, TranslationTask


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

    @classmethod
    def of_task(cls, task: LanguageModelTask) -> "TextSize":
        """Those of a task's corpus: of WikiText-2 they are known, another is loaded."""
        is_known = (task.corpus_name, task.level, task.vocab_size, task.own) == ("wikitext2", "word", None, None)
        return WIKITEXT2 if is_known else cls.of(task.corpus)


WIKITEXT2 = TextSize(words=33_278, train=2_088_628, valid=217_646)
"""The text that S17 trains on, ends of lines counted (Merity et al. 2016)."""


@dataclass(frozen=True)
class PairsSize:
    """What the time of a translation training depends on: words of both vocabularies, pairs to train and validate on,
    and tokens of a sentence on average, rounded."""

    source_words: int
    target_words: int
    train: int
    valid: int
    source_length: int
    target_length: int

    @classmethod
    def of(cls, corpus: ParallelCorpus) -> "PairsSize":
        """The sizes of a corpus; lengths are those of its training sentences."""
        lengths = (round(mean(map(len, side))) for side in (corpus.train.source, corpus.train.target))
        words = (len(corpus.source_vocab), len(corpus.target_vocab))
        return cls(*words, len(corpus.train), len(corpus.valid), *lengths)

    @classmethod
    def of_task(cls, task: TranslationTask) -> "PairsSize":
        """Those of a task's corpus: of the papers' three they are known, another is loaded."""
        known = {"multi30k": MULTI30K, "iwslt2016": IWSLT2016, "wmt14": WMT14} if task.own is None else {}
        return known.get(task.corpus_name) or cls.of(task.corpus)


MULTI30K = PairsSize(9_799, 17_998, train=29_000, valid=1_014, source_length=13, target_length=13)
"""The sentence pairs that S17 searches on (Elliott et al. 2016), as our tokeniser splits them."""

IWSLT2016 = PairsSize(50_000, 50_000, train=209_772, valid=993, source_length=21, target_length=20)
"""The larger set of S17 (section 4.2): pairs and vocabularies as it says, validation and lengths as of tst2013."""

WMT14 = PairsSize(50_000, 50_000, train=4_500_000, valid=3_000, source_length=26, target_length=24)
"""What ZL17 moves its cell to (section 4.2): pairs and words of WMT'14 as Luong et al. 2015 count them, of newstest2013
the validation pairs. There are more words than any vocabulary here keeps."""


@dataclass(frozen=True)
class ImagesSize:
    """What the time of training on images depends on: their shape (C, H, W), and how many train and validate."""

    shape: tuple[int, int, int]
    train: int
    valid: int

    @classmethod
    def of_task(cls, task: ImageTask) -> "ImagesSize":
        """Those of a task's images: of CIFAR-10 they are known, others are loaded."""
        if task.images == "cifar10":
            side = task.side or 32
            return cls((3, side, side), 45_000, 5_000)
        found = task.corpus
        channels, high, wide = found.train.shape[1:]
        return cls((channels, high, wide), len(found.train), len(found.valid))


def forecast_seconds(
    cell: Cell | str, settings: LanguageModelSettings, text: TextSize, steps: int = 3, device: str = "auto"
) -> float:
    """Seconds that `train` would take for all its epochs, from `steps` steps of training and of evaluation each.

    A cell that fails on the way takes less. Raises ValueError for no steps, DeviceError for a device that is not here.
    """
    device = resolve(device)
    model = language_model.LanguageModel(cell, text.words, settings, seed=0).to(device)
    step = language_model.TrainingStep(model, torch.Generator(device).manual_seed(0))
    return _language_seconds(model, step, settings, settings.epochs, text, steps, device)


def forecast_final_seconds(
    cell: Cell | str, settings: FinalModelSettings, text: TextSize, steps: int = 3, device: str = "auto"
) -> float:
    """Seconds that `final_model.train` would take for all its epochs, fine-tuning too, as `forecast_seconds` says it.

    Windows are timed at `bptt` steps, around which they are drawn, and one in twenty around half of it.
    """
    device = resolve(device)
    model = final_model.FinalModel(cell, text.words, settings, seed=0).to(device)
    step = final_model.FinalStep(model, torch.Generator(device).manual_seed(0))
    step.restart(averaging=settings.optimiser == "nt-asgd")  # what most of its epochs are trained with
    step.set_rate(0.0)
    epochs = settings.epochs + settings.fine_tuning_epochs
    return _language_seconds(model, step, settings.plain, epochs, text, steps, device)


def _language_seconds(
    model: language_model.LanguageModel,
    step: language_model.TrainingStep,
    settings: LanguageModelSettings,
    epochs: int,
    text: TextSize,
    steps: int,
    device: str,
) -> float:
    generator = torch.Generator().manual_seed(0)

    def columns(batch: int) -> torch.Tensor:
        return torch.randint(text.words, (settings.bptt + 1, batch), generator=generator).to(device)  # one window

    train_columns, valid_columns = columns(settings.batch), columns(settings.eval_batch)
    # A learning rate of 0 does all the work of a step and lets no cell explode while it is timed.
    train_step = _median_seconds(lambda: language_model.train_epoch(step, train_columns, 0.0), steps, device)
    valid_step = _median_seconds(lambda: language_model.evaluate(model, valid_columns), steps, device)
    train_tokens = min(text.train, settings.train_tokens or text.train)
    valid_tokens = min(text.valid, settings.valid_tokens or text.valid)
    return epochs * (
        train_step * train_tokens / (settings.batch * settings.bptt)
        + valid_step * valid_tokens / (settings.eval_batch * settings.bptt)
    )


def lstm_seconds(task: LanguageModelTask, device: str) -> float:
    """How long one training of an LSTM by a task takes on a device. Of WikiText-2 no data is needed."""
    return forecast_seconds(zoo["LSTM"], task.training, TextSize.of_task(task), steps=1, device=device)


def forecast_translation_seconds(
    cell: Cell | str, settings: TranslationSettings, text: PairsSize, steps: int = 3, device: str = "auto"
) -> float:
    """Seconds that `translation.train` would take if every epoch improves, the translation at its end counted in.

    From `steps` batches of sentences of mean length, each trained on, evaluated and translated. A cell that fails, or
    that stops improving before the learning rate is halved anyway, takes less. Raises ValueError for no steps,
    DeviceError for a device that is not here.
    """
    device = resolve(device)
    model = Seq2Seq(cell, translation.model_sizes(settings, *_kept(text, settings.vocab_size)), seed=0).to(device)
    step = translation.TrainingStep(model, settings.clip, torch.Generator(device).manual_seed(0))
    return _translation_seconds(model, step, settings, text, steps, device)


def forecast_gnmt_seconds(
    cell: Cell, settings: GnmtSettings, text: PairsSize, steps: int = 3, device: str = "auto"
) -> float:
    """Seconds that `gnmt_translation.train` would take, as `forecast_translation_seconds` says it of the other."""
    device = resolve(device)
    words = _kept(text, settings.vocab_size)
    model = Gnmt(cell, gnmt_translation.model_sizes(cell, settings, *words, text.source_length), seed=0).to(device)
    masks = torch.Generator(device).manual_seed(0)
    step = gnmt_translation.TrainingStep(model, settings, masks, settings.epochs * text.train // settings.batch)
    return _translation_seconds(model, step, settings, text, steps, device)


def _kept(text: PairsSize, vocab_size: int) -> tuple[int, int]:
    """Words that vocabularies of at most so many keep."""
    return min(text.source_words, vocab_size), min(text.target_words, vocab_size)


def _translation_seconds(
    model: Translator,
    step: translation.TrainingStep,
    settings: TranslationSettings | GnmtSettings,
    text: PairsSize,
    steps: int,
    device: str,
) -> float:
    generator, words = torch.Generator().manual_seed(0), _kept(text, settings.vocab_size)
    T = text.target_length + 1  # the decoder reads the start, or predicts the end, beside the sentence

    def pairs(batch: int) -> Batch:
        source, inputs, targets = (
            torch.randint(count, (length, batch), generator=generator).to(device)
            for count, length in ((words[0], text.source_length), (words[1], T), (words[1], T))
        )
        lengths = torch.full((batch,), text.source_length, device=device)
        return Batch(source, lengths, inputs, targets, torch.arange(targets.numel(), device=device))

    few, many = pairs(settings.eval_batch), pairs(settings.batch)
    train_step = _median_seconds(lambda: translation.train_epoch(step, [many], 0.0), steps, device)
    valid_step = _median_seconds(lambda: translation.evaluate(model, [few]), steps, device)
    # No word is number -1, so no translation ends before its length.
    translate = partial(beam_search, model, few.source, few.lengths, 0, -1, settings.beam, T)
    beam_step = _median_seconds(translate, steps, device)
    train_pairs = min(text.train, settings.train_pairs or text.train)
    valid_pairs = min(text.valid, settings.valid_pairs or text.valid)
    each_epoch = train_step * train_pairs / settings.batch + valid_step * valid_pairs / settings.eval_batch
    return settings.epochs_at_most * each_epoch + beam_step * valid_pairs / settings.eval_batch


def forecast_image_seconds(net: ConvNet, task: ImageTask, steps: int = 3, device: str = "auto") -> float:
    """Seconds that `images.train` would take, from `steps` batches of noise, each trained on and evaluated.

    Raises ConvNetError where the images are too small for the network, ValueError for no steps, DeviceError.
    """
    device, settings = resolve(device), task.training
    size = ImagesSize.of_task(task)
    noise = torch.randint(256, (settings.batch, *size.shape), dtype=torch.uint8)
    labels = torch.zeros(settings.batch, dtype=torch.int64, device=device)
    model = images.build(net, size.shape, seed=0, device=device)
    step = images.ImageStep(model, images.Crops(noise, settings.upsampled, device), labels, settings)
    order = torch.Generator().manual_seed(0)
    shown = images.shown_crops(noise, settings, device)
    train_step = _median_seconds(lambda: step.over_all(0.0, order), steps, device)
    valid_step = _median_seconds(lambda: images.evaluate(model, shown, labels, settings), steps, device)
    train_images = min(size.train, settings.train_images or size.train)
    valid_images = min(size.valid, settings.valid_images or size.valid)
    each_epoch = train_step * train_images + valid_step * valid_images
    return settings.epochs * each_epoch / settings.batch


def _median_seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Median seconds of one call, after some to warm up. Each call ends by reading a number off the device."""
    if repeats < 1:
        raise ValueError(f"a forecast times 1 step or more, got {repeats}")
    # On a GPU the first calls of a size run launch by launch, and one of the next records graphs for all that follow.
    warm_up = 1 if device == "cpu" else 6
    seconds = []
    for _ in range(warm_up + repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds[warm_up:])
