"""ZL17's transfer to translation (section 4.2): LSTM and found cell in GNMT, at equal cost, by GNMT's order of rates.

Batches, evaluation, beam search and BLEU are those of `translation.py`. What differs is the model, in which the cell
stands in every layer, its width solved from the LSTM's, and the schedule: first Adam, then gradient descent, whose rate
is halved again and again. The schedule is told in shares of all steps, so that a shorter training keeps its shape.

Read from top to bottom: settings, one step, training, and the task.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from nasrepro.datasets import DataError, ParallelCorpus
from nasrepro.dsl import Cell
from nasrepro.hardware import resolve
from nasrepro.trainers import translation
from nasrepro.trainers.checkpoint import training_checkpoint
from nasrepro.trainers.gnmt import Gnmt, GnmtSizes, at_equal_cost
from nasrepro.trainers.optimise import OptimiserStep
from nasrepro.trainers.outcome import OnEpoch, Outcome, perplexity
from nasrepro.trainers.progress import Progress, Training
from nasrepro.trainers.seq2seq import Translator
from nasrepro.trainers.settings import counted, origin, require_counts, use_declared_types
from nasrepro.trainers.translation import TranslationTask

VERSION = 1
"""Part of every record's key: raised whenever a change here changes a number by more than its rounding."""


@dataclass(frozen=True)
class GnmtSettings:
    """How a cell is judged in GNMT. The defaults are ZL17's for WMT'14; a scaled-down run says what it changes.

    What ZL17 leaves to "the GNMT framework" is inferred from Wu et al. 2016.
    """

    hidden: int = field(default=1024, metadata=origin("stated", "4.2", "the embeddings' width: inferred", paper="ZL17"))
    """Units of every layer where the cell is the LSTM, and the width of embeddings. Another cell's units are solved."""
    layers: int = field(default=8, metadata=origin("stated", "4.2", paper="ZL17"))
    """Of the encoder, and as many of the decoder."""
    dropout: float = field(
        default=0.2, metadata=origin("inferred", "4.2", "Wu et al. say 0.2 to 0.3, more for less text", paper="ZL17")
    )
    """Rate on what each layer reads from below, and on the features, drawn anew at each element."""
    batch: int = field(default=128, metadata=origin("stated", "4.2", "12 workers at once: here one", paper="ZL17"))
    """Sentence pairs in a batch."""
    epochs: int = field(default=23, metadata=origin("inferred", "4.2", paper="ZL17"))
    """Passes over the training text: 23 over the 4.5 million pairs of WMT'14 are the 800K steps that ZL17 states."""
    adam_share: float = field(default=60 / 800, metadata=origin("stated", "4.2", paper="ZL17"))
    """The share of all steps that Adam makes, the first ones (60K of 800K)."""
    adam_rate: float = field(default=2e-4, metadata=origin("stated", "4.2", paper="ZL17"))
    """Adam's learning rate; its other settings are its authors'."""
    sgd_rate: float = field(
        default=0.5, metadata=origin("stated", "4.2", "of which loss: guessed, of a sentence's", paper="ZL17")
    )
    """The learning rate of the gradient descent that follows."""
    halve_from: float = field(
        default=400 / 800,
        metadata=origin("stated", "4.2", "whether halved at once or a period later: guessed, at once", paper="ZL17"),
    )
    """The share of all steps after which the rate is halved (400K of 800K)."""
    halve_every: float = field(default=100 / 800, metadata=origin("stated", "4.2", paper="ZL17"))
    """The share of all steps after which it is halved again (100K of 800K)."""
    lowest_share: float = field(default=0.1 / 0.5, metadata=origin("stated", "4.2", paper="ZL17"))
    """The share of itself that a rate does not fall below."""
    clip: float = field(default=5.0, metadata=origin("inferred", "4.2", paper="ZL17"))
    """Bound on the gradient's global norm."""
    init_range: float = field(default=0.04, metadata=origin("inferred", "4.2", paper="ZL17"))
    """Every weight starts from U(-range, range)."""
    beam: int = field(default=5, metadata=origin("guessed", "4.2", "its reward for length is left out", paper="ZL17"))
    """Hypotheses kept by beam search; 1 is greedy."""
    longest: int = field(default=100, metadata=origin("guessed", "4.2", paper="ZL17"))
    """Words at which a translation is cut."""
    fail_above: float = 1000.0
    """Perplexity over which a cell has failed."""
    eval_batch: int = 100
    """Sentences evaluated side by side, which changes no number."""
    vocab_size: int = field(
        default=32_000, metadata=origin("inferred", "4.2", "pieces of words there, whole words here", paper="ZL17")
    )
    """Words kept in each vocabulary, the most frequent ones."""
    train_pairs: int | None = None
    """Use only the first so many pairs of the training text. None: all of it, as the paper."""
    valid_pairs: int | None = None
    """Use only the first so many pairs of the validation text. None: all of it, as the paper."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        counts = ("hidden", "batch", "epochs", "beam", "longest", "eval_batch", "vocab_size")
        require_counts(self, *counts, "train_pairs", "valid_pairs")
        if self.layers < 2:
            raise ValueError(f"layers must be 2 or more, since GNMT's first reads both ways, got {self.layers}")
        for name in ("adam_share", "halve_from", "lowest_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1, got {getattr(self, name)}")
        if not (self.halve_every > 0 and self.clip > 0 and 0 <= self.dropout < 1):
            raise ValueError(
                f"halve_every={self.halve_every} and clip={self.clip} must be above 0, and dropout={self.dropout} "
                "from 0 to less than 1"
            )

    @property
    def epochs_at_most(self) -> int:
        """Epochs of a training that does not fail."""
        return self.epochs

    def is_by_adam(self, share: float) -> bool:
        """Whether Adam makes the step before which this share of all was made."""
        return share < self.adam_share

    def rate(self, share: float) -> float:
        """The learning rate of that step."""
        halvings = 0 if share < self.halve_from else 1 + int((share - self.halve_from) / self.halve_every + 1e-9)
        return (self.adam_rate if self.is_by_adam(share) else self.sgd_rate) * max(2.0**-halvings, self.lowest_share)


class TrainingStep(OptimiserStep[Translator], translation.TrainingStep):
    """A step by the schedule."""

    def __init__(self, model: Gnmt, settings: GnmtSettings, generator: torch.Generator, steps: int) -> None:
        super().__init__(model, settings.clip, generator)
        self.settings, self.steps = settings, steps
        self.taken = 0
        self.adam = torch.optim.Adam(self.parameters, lr=settings.adam_rate)
        self.descent = torch.optim.SGD(self.parameters, lr=settings.sgd_rate)

    def __call__(self, *batch: Tensor) -> tuple[float, float]:
        """A step: the batch's mean loss in nats, and the gradient's norm. One that is not finite changes nothing."""
        share = self.taken / self.steps
        self.optimiser = self.adam if self.settings.is_by_adam(share) else self.descent
        self.optimiser.param_groups[0]["lr"] = self.settings.rate(share)
        self.taken += 1
        return super().__call__(*batch)


def model_sizes(cell: Cell, settings: GnmtSettings, source_words: int, target_words: int, attended: int) -> GnmtSizes:
    """The sizes of a model of this cell that costs what the LSTM's does, where sentences have `attended` words."""
    shared = {name: getattr(settings, name) for name in ("hidden", "layers", "dropout", "init_range")}
    return at_equal_cost(cell, GnmtSizes(source_words, target_words, settings.hidden, **shared), attended)


def attended_words(corpus: ParallelCorpus) -> int:
    """Tokens that the attention looks at: those of a source sentence of the training text, on average."""
    return round(mean(map(len, corpus.train.source)))


def make_model(cell: Cell, corpus: ParallelCorpus, settings: GnmtSettings, seed: int) -> Gnmt:
    """A new model for a corpus, its weights drawn from `seed`. Raises CellError for a cell that cannot run in it."""
    words = len(corpus.source_vocab), len(corpus.target_vocab)
    return Gnmt(cell, model_sizes(cell, settings, *words, attended_words(corpus)), seed)


def train(
    cell: Cell,
    corpus: ParallelCorpus,
    settings: GnmtSettings | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> tuple[Outcome, Gnmt]:
    """Train GNMT with `cell` in every layer; the outcome, and the model with its best epoch's weights.

    Metrics, failures, arguments and errors are those of `translation.train`.
    """
    settings, device = settings or GnmtSettings(), resolve(device)
    translation.require_pairs(corpus)
    started = time.perf_counter()
    model = make_model(cell, corpus, settings, seed).to(device)
    masks = torch.Generator(device).manual_seed(seed)
    train_batches, valid_batches = translation.split_batches(corpus, settings, device)

    step = TrainingStep(model, settings, masks, settings.epochs * len(train_batches))
    progress = _Progress(settings.rate(0.0))
    identity = f"GNMT of {cell}, {settings}, seed {seed}, data {corpus.hash}"
    training = Training(model, masks, progress, identity, device, checkpoint, on_epoch, started)
    for epoch in training.epochs(settings.epochs):
        step.taken = (epoch - 1) * len(train_batches)
        step.adam.load_state_dict(progress.adam or step.adam.state_dict())
        model.train()
        order = translation.shuffled(train_batches, seed, epoch)
        train_loss, finite = step.over((batch, batch.words) for batch in order)
        valid_loss = translation.evaluate(model, valid_batches) if finite else math.inf
        training.note(valid_loss, train_ppl=perplexity(train_loss), valid_ppl=perplexity(valid_loss))
        progress.adam = step.adam.state_dict()
        progress.learning_rate = settings.rate(epoch / settings.epochs)
    return translation.judged(training, model, corpus, settings), model


@dataclass
class _Progress(Progress):
    """With what Adam remembers."""

    adam: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GnmtTask(TranslationTask):
    """Judging cells in all layers of GNMT. On `wmt14`, which is no registered data set, it needs a corpus of one's own:
    `GnmtTask(own=parallel_from_text("wmt14", ...))`."""

    training: GnmtSettings = field(default_factory=GnmtSettings)  # type: ignore[assignment]  # those of another model

    name = "translation by GNMT"
    version = VERSION

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "GnmtTask":
        """The task whose `settings` these are, such as a record holds them; on data of one's own it cannot be run."""
        chosen = dict(settings)
        return cls(chosen.pop("corpus"), GnmtSettings(**chosen))

    @property
    def corpus(self) -> ParallelCorpus:
        """The data, loaded when first asked for. Raises DataError for WMT'14 where no own copy was given."""
        if self.own is None and self.corpus_name == "wmt14":
            raise DataError(
                "WMT'14 English to German (4.5 million pairs) is not available: it is no data set of this project. "
                'With a copy of your own run GnmtTask(own=parallel_from_text("wmt14", train, valid, test, 32_000))'
            )
        return super().corpus

    def words(self) -> str:
        """How a cell is trained, for captions and budgets: "GNMT of 2 + 2 layers, as costly as LSTM layers of 300
        units, 13 epochs over all pairs of multi30k"."""
        chosen = self.training
        layers = f"GNMT of {chosen.layers} + {chosen.layers} layers, as costly as LSTM layers of {chosen.hidden} units"
        epochs, read = counted(chosen.epochs, "epoch"), counted(chosen.train_pairs, "pair")
        return f"{layers}, {epochs} over {read} of {self.corpus_name}"

    def train(self, cell: Cell, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Outcome, Gnmt]:
        """What `evaluate` does, and the model that came of it."""
        device = resolve(self.device)
        identity = (cell, seed, self.settings, self.data_hash, self.version)
        with training_checkpoint(self.checkpoints, device, *identity) as path:
            return train(cell, self.corpus, self.training, seed, device=device, on_epoch=on_epoch, checkpoint=path)
