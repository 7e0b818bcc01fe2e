"""S17's language model for judging a candidate cell (section 4.1, appendix B.1), from corpus to perplexity.

    tokens (T, B) -> embedding -> dropout -> [ cell -> dropout ] x layers -> tied softmax over the vocabulary

Plain SGD with a large learning rate, divided by 4 whenever an epoch does not improve the validation perplexity. What
the paper leaves open is taken from the PyTorch word-language-model example of 2017, which the stated settings match.

Read from top to bottom: settings, model, one epoch, evaluation, training, and the task that a search runs.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro import datasets
from nasrepro.datasets import Corpus, batchify
from nasrepro.datasets.corpora import data_words
from nasrepro.dsl import Cell, parse
from nasrepro.hardware import resolve
from nasrepro.rnn import RNN, State
from nasrepro.rnn.dropout import dropout
from nasrepro.rnn.products import PRODUCT_DTYPES
from nasrepro.rnn.state import layers
from nasrepro.trainers.checkpoint import training_checkpoint
from nasrepro.trainers.linear_cross_entropy import linear_cross_entropy
from nasrepro.trainers.optimise import GradientStep
from nasrepro.trainers.outcome import PERPLEXITY, NotebookTask, OnEpoch, Outcome, perplexity
from nasrepro.trainers.progress import Progress, Training
from nasrepro.trainers.settings import counted, origin, require_counts, use_declared_types

VERSION = 1
"""Part of every record's key: raised whenever a change here changes a number by more than its rounding.

Rounding differs between machines, versions of torch, and backends; training amplifies it, as it amplifies a seed."""


@dataclass(frozen=True)
class LanguageModelSettings:
    """How a candidate is trained. The defaults are the paper's; a scaled-down run says what it changes.

    Each of the paper's carries its origin: stated by S17, or inferred from the PyTorch example of 2017.
    """

    layers: int = field(default=2, metadata=origin("stated", "B.1"))
    """Recurrent layers."""
    hidden: int = field(default=200, metadata=origin("stated", "B.1"))
    """Units per layer."""
    embedding: int = field(default=200, metadata=origin("inferred", "B.1"))
    """Width of the embedding, and of the last layer, whose softmax is tied to it."""
    tied: bool = field(default=True, metadata=origin("stated", "B.1"))
    """Whether the softmax shares the embedding's weights. If not, its own start from the same range, and the last layer
    is as wide as the others."""
    dropout: float = field(default=0.2, metadata=origin("stated", "B.1"))
    """Rate on the embeddings and on every layer's outputs, drawn anew at each element."""
    batch: int = field(default=20, metadata=origin("inferred", "B.1"))
    """Columns that the training text is cut into."""
    bptt: int = field(default=35, metadata=origin("inferred", "B.1"))
    """Steps between truncations of backpropagation."""
    epochs: int = field(default=40, metadata=origin("stated", "B.1"))
    """Passes over the training text."""
    learning_rate: float = field(default=20.0, metadata=origin("stated", "B.1"))
    """Of plain gradient descent, in the first epoch."""
    anneal: float = field(
        default=4.0, metadata=origin("stated", "B.1", 'improves on what: "the last epoch" is read as the best so far')
    )
    """What the learning rate is divided by when the validation perplexity does not improve on the best so far."""
    clip: float = field(default=0.075, metadata=origin("stated", "B.1", "of which norm: inferred, the global one"))
    """Bound on the gradient's global norm."""
    embedding_range: float = field(
        default=0.04, metadata=origin("stated", "B.1", "where the softmax's biases start: inferred, from 0")
    )
    """Embeddings start from U(-range, range), the softmax's biases from 0."""
    fail_after: int = field(default=5, metadata=origin("stated", "B.1"))
    """Epochs after which the perplexity must be below `fail_above`."""
    fail_above: float = field(
        default=500.0, metadata=origin("stated", "B.1", "the perplexity of which epoch: inferred, the best so far")
    )
    """Perplexity over which a candidate has failed; the best epoch so far counts."""
    eval_batch: int = field(default=10, metadata=origin("inferred", "B.1"))
    """Columns that the validation text is cut into."""
    train_tokens: int | None = None
    """Use only this many tokens of the training text. None: all of it, as the paper."""
    valid_tokens: int | None = None
    """Use only this many tokens of the validation text. None: all of it, as the paper."""
    product_dtype: Literal["float32", "bfloat16"] = "float32"
    """"bfloat16" rounds what enters the matrix products of cells and softmax: faster where the processor multiplies
    such numbers, with gradients good to about two digits. Ours."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        if self.product_dtype not in PRODUCT_DTYPES:
            known, given = ", ".join(PRODUCT_DTYPES), self.product_dtype
            raise ValueError(f"product_dtype must be one of {known}, got {given!r:.100}")
        require_counts(self, "batch", "bptt", "eval_batch", "train_tokens", "valid_tokens")

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two trainings the same. What was written before there was a choice is left out."""
        fields = asdict(self)
        for name, only in (("product_dtype", "float32"), ("tied", True)):
            if fields[name] == only:
                del fields[name]
        return fields


class LanguageModel(nn.Module):
    """Embedding, a recurrent network of any cell, and a softmax that shares the embedding's weights.

    Where the two are tied (Inan et al. 2016) the last layer is as wide as the embedding. Raises CellError for a
    cell that cannot run.
    """

    def __init__(
        self,
        cell: Cell | str,
        words: int,
        settings: LanguageModelSettings,
        seed: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """The options are other arguments of the RNN."""
        super().__init__()
        self.settings = settings
        self.product_dtype = PRODUCT_DTYPES[settings.product_dtype]
        E, H, L, reach = settings.embedding, settings.hidden, settings.layers, settings.embedding_range
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.empty(words, E).uniform_(-reach, reach, generator=generator))
        last = E if settings.tied else H
        self.own_softmax: nn.Parameter | None = None
        if not settings.tied:
            self.own_softmax = nn.Parameter(torch.empty(words, last).uniform_(-reach, reach, generator=generator))
        self.bias = nn.Parameter(torch.zeros(words))
        given = {"dropout": settings.dropout, "product_dtype": self.product_dtype, **(options or {})}
        self.rnn = RNN(cell, E, H, L, last_size=last, generator=generator, **given)

    @property
    def softmax(self) -> Tensor:
        """The softmax's weights (words, width of the last layer)."""
        return self.embedding if self.own_softmax is None else self.own_softmax

    def forward(
        self, tokens: Tensor, state: State | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """tokens (T, B) -> what the softmax reads (T, B, last), and the state to go on from."""
        rate = self.settings.dropout if self.training else 0.0
        x = F.embedding(tokens, self.embedding)  # (T, B, E)
        x = dropout(x, rate, generator) if rate else x
        x, state = self.rnn(x, state, generator=generator)  # (T, B, last)
        return (dropout(x, rate, generator) if rate else x), state

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of features (T, B, last) against targets (T, B), in nats: ()."""
        rows, words = features.flatten(0, 1), targets.flatten()
        return linear_cross_entropy(rows, self.softmax, self.bias, words, product_dtype=self.product_dtype)


def windows(columns: Tensor, bptt: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns of text (N, B) -> inputs and targets (T, B) each, T <= bptt, in the text's order."""
    for start in range(0, len(columns) - 1, bptt):
        stop = min(start + bptt, len(columns) - 1)
        yield columns[start:stop], columns[start + 1 : stop + 1]


def check_lengths(corpus: Corpus, settings: LanguageModelSettings) -> None:
    """Raise ValueError where the training or the validation text, as far as the settings use it, is too short."""
    for text, ids, limit, columns in (
        ("training", corpus.train, "train_tokens", "batch"),
        ("validation", corpus.valid, "valid_tokens", "eval_batch"),
    ):
        used = len(ids[: getattr(settings, limit)])
        shorter = f"raise {limit}" if used < len(ids) else "take a longer text"
        _check_length(f"the {text} text of {corpus.name}", used, columns, getattr(settings, columns), shorter)


def _check_length(text: str, tokens: int, setting: str, columns: int, or_else: str) -> None:
    """Raise ValueError where not every column would hold a token to read and one to predict."""
    if tokens < 2 * columns:
        raise ValueError(
            f"{text} is too short: it has {tokens:,} tokens, and {setting}={columns} columns of one to read and one to "
            f"predict take {2 * columns:,}, {2 * columns - tokens:,} more; lower {setting} or {or_else}"
        )


class TrainingStep(GradientStep[LanguageModel]):
    """A step on a window of text, its inputs and targets (T, B) each. The state is carried from step to step."""

    def __init__(self, model: LanguageModel, generator: torch.Generator) -> None:
        # A timestep is no tensor: where it counts, no step is like another.
        recorded = "PosEnc" not in model.rnn.cell.sources
        super().__init__(model, model.settings.clip, generator, recorded)
        self.state = model.rnn.initial_state(model.settings.batch)

    def begin(self, learning_rate: float) -> None:
        """Go to the beginning of a text: the state is zero, and the steps to come have this learning rate."""
        self.learning_rate.fill_(learning_rate)
        for part in self.state:
            for tensor in layers(part):
                tensor.zero_()
        self.state = self.state.replace(t=0)

    def descend(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor]:
        """inputs and targets (T, B) -> loss and norm (2,)."""
        loss, objective, after = self.read(inputs, targets)
        numbers = self.update(loss, objective)
        for part, new in zip(self.state, after, strict=True):
            for tensor, value in zip(layers(part), layers(new), strict=True):
                tensor.copy_(value.detach())
        self.state = self.state.replace(t=after.t)
        return numbers

    def read(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, State]:
        """inputs and targets (T, B) -> the loss in nats (), the objective () that is descended, and the state after."""
        features, after = self.model(inputs, self.state, self.generator)
        loss = self.model.loss(features, targets)
        return loss, loss, after


def train_epoch(step: TrainingStep, columns: Tensor, learning_rate: float) -> tuple[float, bool]:
    """One pass over the training text (N, B): the mean training loss, and whether loss and gradients stayed finite."""
    step.model.train()
    step.begin(learning_rate)
    pairs = windows(columns, step.model.settings.bptt)
    return step.over(((inputs, targets), targets.numel()) for inputs, targets in pairs)


@torch.no_grad()
def evaluate(model: LanguageModel, columns: Tensor) -> float:
    """Mean loss in nats over text in columns (N, B), the state carried from window to window."""
    model.eval()
    state: State | None = None
    total, tokens = 0.0, 0
    for inputs, targets in windows(columns, model.settings.bptt):
        features, state = model(inputs, state)
        total += model.loss(features, targets).item() * targets.numel()
        tokens += targets.numel()
    return total / tokens


def train(
    cell: Cell | str,
    corpus: Corpus,
    settings: LanguageModelSettings | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> tuple[Outcome, LanguageModel]:
    """Train a cell as a language model; the outcome, and the model with the weights of its best epoch.

    The outcome's metrics: `valid_ppl`, the best over the epochs, and `valid_bits`, the same in bits per token. It has
    failed when loss or gradient is no longer finite ("exploded"), or by the rule on `fail_above`. `on_epoch` sees
    every point of the curve as it is made. With a `checkpoint` path, training that was interrupted goes on after its
    last whole epoch to the same numbers. It runs on a `device` of `hardware.resolve`, where the model stays. Weights
    are drawn on the processor and are the same everywhere; dropout masks are drawn on the device, and only with dropout
    off do two devices agree to rounding.

    Raises ValueError where a text is too short for its columns, CellError for a cell that cannot run, CheckpointError
    for a checkpoint of another training or a damaged one, DeviceError for a device that is not here.
    """
    settings, device = settings or LanguageModelSettings(), resolve(device)
    check_lengths(corpus, settings)
    started = time.perf_counter()
    model = LanguageModel(cell, len(corpus.vocab), settings, seed).to(device)
    masks = torch.Generator(device).manual_seed(seed)
    train_columns = batchify(corpus.train[: settings.train_tokens], settings.batch).to(device)
    valid_columns = batchify(corpus.valid[: settings.valid_tokens], settings.eval_batch).to(device)

    step = TrainingStep(model, masks)
    progress = Progress(settings.learning_rate)
    identity = f"{cell}, {_written(settings)}, seed {seed}, data {corpus.hash}"
    training = Training(model, masks, progress, identity, device, checkpoint, on_epoch, started)
    for epoch in training.epochs(settings.epochs):
        train_loss, finite = train_epoch(step, train_columns, progress.learning_rate)
        valid_loss = evaluate(model, valid_columns) if finite else math.inf
        improved = training.note(valid_loss, train_ppl=perplexity(train_loss), valid_ppl=perplexity(valid_loss))
        if not improved:
            progress.learning_rate /= settings.anneal
        if epoch == settings.fail_after and perplexity(progress.best_loss) > settings.fail_above:
            training.fail(f"above {settings.fail_above:g} after {epoch} epochs")
    metrics = {}
    if math.isfinite(progress.best_loss):
        metrics = {"valid_ppl": perplexity(progress.best_loss), "valid_bits": progress.best_loss / math.log(2)}
    return training.outcome(metrics), model


def _written(settings: LanguageModelSettings) -> str:
    """Settings as checkpoints have named them from the beginning."""
    fields = ", ".join(f"{name}={value!r}" for name, value in settings.identity.items())
    return f"{type(settings).__name__}({fields})"


@lru_cache(maxsize=4)
def _corpus(name: str, level: str, vocab_size: int | None) -> Corpus:
    return datasets.load(name, level=level, vocab_size=vocab_size)


@dataclass(frozen=True)
class LanguageModelTask(NotebookTask[Cell]):
    """Judging cells as language models on one corpus. Pickles by its settings alone, unless the data is one's own."""

    corpus_name: str = "pydoc"
    level: str = "word"
    vocab_size: int | None = None
    training: LanguageModelSettings = field(default_factory=LanguageModelSettings)
    device: str = "auto"
    checkpoints: str | None = None
    own: Corpus | None = None
    """A corpus of one's own, such as `corpus_from_text` makes: name and level are then its, and it goes along when the
    task is pickled."""

    name = "language model"
    version = VERSION
    loss = PERPLEXITY

    def __post_init__(self) -> None:
        if self.own is None:
            return
        if self.vocab_size is not None:
            raise ValueError(f"vocab_size={self.vocab_size} cannot cut the corpus given as own: cut it when making it")
        object.__setattr__(self, "corpus_name", self.own.name)
        object.__setattr__(self, "level", self.own.level)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "LanguageModelTask":
        """The task whose `settings` these are, such as a record holds them; on data of one's own it cannot be run."""
        chosen = dict(settings)
        return cls(chosen.pop("corpus"), chosen.pop("level"), training=LanguageModelSettings(**chosen))

    @property
    def corpus(self) -> Corpus:
        """The data, loaded when first asked for. Raises ValueError where it is too short for the settings."""
        corpus = _corpus(self.corpus_name, self.level, self.vocab_size) if self.own is None else self.own
        check_lengths(corpus, self.training)
        return corpus

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides an outcome but cell, seed, data and trainer version; the device is not among it."""
        return {"corpus": self.corpus_name, "level": self.level, **self.training.identity}

    @property
    def is_long(self) -> bool:
        """Whether one training may take hours, so that checkpoints are worth their writing."""
        return self.training.epochs > 10

    @property
    def data_words(self) -> str:
        """The data in the words of the papers' entries: "ptb", or "ptb-characters"."""
        return data_words(self.corpus_name, self.level)

    def words(self) -> str:
        """How a cell is trained, for captions and budgets: "2 x 200 units, 40 epochs over all words of wikitext2"."""
        chosen = self.training
        epochs = counted(chosen.epochs, "epoch")
        read = counted(chosen.train_tokens, "character" if self.level == "char" else "word")
        return f"{chosen.layers} x {chosen.hidden} units, {epochs} over {read} of {self.corpus_name}"

    def read(self, text: str) -> Cell:
        """The cell that a text says. Raises CellError where it says none."""
        return parse(text)

    def train(self, cell: Cell, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Outcome, LanguageModel]:
        """What `evaluate` does, and the model that came of it."""
        device = resolve(self.device)
        identity = (cell, seed, self.settings, self.data_hash, self.version)
        with training_checkpoint(self.checkpoints, device, *identity) as path:
            return train(cell, self.corpus, self.training, seed, device=device, on_epoch=on_epoch, checkpoint=path)

    def test(self, model: LanguageModel, split: Tensor) -> dict[str, float]:
        """`test_ppl`, the model's perplexity on a test split (N,). Raises ValueError where that is too short."""
        _check_length("the test text", len(split), "eval_batch", self.training.eval_batch, "take a longer text")
        columns = batchify(split, self.training.eval_batch).to(model.embedding.device)
        return {"test_ppl": perplexity(evaluate(model, columns))}
