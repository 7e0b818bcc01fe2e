"""The language models that the papers print in bold, trained to their end: S17's Tables 1 and 2, ZL17's Tables 2 and 3.

    tokens (T, B) -> embedding, words dropped -> dropout -> [ cell, its recurrent weights dropped -> dropout ] x layers
                  -> softmax over the vocabulary

S17 trains by AWD-LSTM's recipe (Merity et al. 2017), whose pieces stand here one by one: variational dropout, weight
drop, windows of random length, penalties on the activations and their change, NT-ASGD, and fine-tuning from averaged
weights. ZL17's models are the same with other settings (`final_settings`).

Read from top to bottom: the model and its size, windows, one step, averaging, training, and the task.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nasrepro.datasets import Corpus, batchify
from nasrepro.deadline import StopSignals, demand_time, is_over, stop_signals
from nasrepro.dsl import Cell
from nasrepro.hardware import resolve
from nasrepro.rnn import State
from nasrepro.rnn.dropout import dropout, dropout_mask
from nasrepro.rnn.program import compile_cell
from nasrepro.rnn.state import layers
from nasrepro.trainers import language_model
from nasrepro.trainers.checkpoint import training_checkpoint
from nasrepro.trainers.final_settings import FinalModelSettings
from nasrepro.trainers.language_model import LanguageModel, LanguageModelTask, check_lengths, evaluate
from nasrepro.trainers.optimise import OptimiserStep
from nasrepro.trainers.outcome import OnEpoch, Outcome, perplexity
from nasrepro.trainers.progress import Progress, Training
from nasrepro.trainers.settings import counted

VERSION = 1
"""Part of every record's key: raised whenever a change here changes a number by more than its rounding."""

# ---- the model


class FinalModel(LanguageModel):
    """A language model with all that a recipe drops. Raises CellError for a cell that cannot run."""

    def __init__(self, cell: Cell | str, words: int, recipe: FinalModelSettings, seed: int) -> None:
        dropped = {"hidden_dropout": recipe.hidden_dropout, "weight_drop": recipe.weight_drop}
        options = {"bias": recipe.bias, "dropout": recipe.layer_dropout, "variational": True, **dropped}
        super().__init__(cell, words, recipe.plain, seed, options)
        self.recipe = recipe
        if recipe.weight_range is not None:
            generator = torch.Generator().manual_seed(seed + 1)
            with torch.no_grad():
                for parameter in self.rnn.parameters():
                    parameter.uniform_(-recipe.weight_range, recipe.weight_range, generator=generator)

    def forward(
        self, tokens: Tensor, state: State | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """tokens (T, B) -> what the softmax reads (T, B, last), and the state to go on from."""
        raw, state = self.run(tokens, state, generator)
        return self.drop_outputs(raw, generator), state

    def run(
        self, tokens: Tensor, state: State | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, State]:
        """tokens (T, B) -> the last layer's outputs (T, B, last) before their dropout, and the state after."""
        x = F.embedding(tokens, self.embedding)  # (T, B, E)
        if self.training and self.recipe.embedding_dropout:
            words = (len(self.embedding), 1)
            kept = dropout_mask(self.embedding, words, self.recipe.embedding_dropout, generator)  # (V, 1)
            x = x * F.embedding(tokens, kept)  # (T, B, E): a word that is dropped is so wherever it stands
        if self.training and self.recipe.input_dropout:
            x = dropout(x, self.recipe.input_dropout, generator, shared_steps=True)
        raw, state = self.rnn(x, state, generator=generator)
        return raw, state

    def drop_outputs(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The last layer's outputs (T, B, last) with variational dropout, in training."""
        rate = self.recipe.output_dropout if self.training else 0.0
        return dropout(raw, rate, generator, shared_steps=True) if rate else raw


def parameters(cell: Cell, words: int, recipe: FinalModelSettings) -> int:
    """How many weights the model has, without making it. Raises CellError for a cell that cannot run."""
    products = compile_cell(cell).products
    widths = [recipe.embedding, *[recipe.hidden] * (recipe.layers - 1), recipe.last]
    of_layers = sum(
        len(product.targets) * high * ((wide if product.on_input else high) + recipe.bias)
        for wide, high in pairwise(widths)
        for product in products
    )
    of_softmax = words * (1 if recipe.tied else recipe.last + 1)
    return words * recipe.embedding + of_layers + of_softmax


def with_parameters(cell: Cell, count: int, words: int, recipe: FinalModelSettings) -> FinalModelSettings:
    """The recipe with as many units per layer as bring the model nearest to `count` weights.

    Where the embedding is as wide as a layer it stays so. Raises ValueError where even one unit has more.
    """
    is_square = recipe.embedding == recipe.hidden

    def sized(hidden: int) -> FinalModelSettings:
        return replace(recipe, hidden=hidden, embedding=hidden if is_square else recipe.embedding)

    if parameters(cell, words, sized(1)) > count:
        least = parameters(cell, words, sized(1))
        raise ValueError(f"{count:,} weights are too few: with one unit per layer the model has {least:,}")
    low, high = 1, 2
    while parameters(cell, words, sized(high)) < count:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(cell, words, sized(middle)) <= count else (low, middle)
    return min((sized(low), sized(high)), key=lambda each: abs(parameters(cell, words, each) - count))


# ---- windows of random length


def window_lengths(columns: int, recipe: FinalModelSettings, seed: int, epoch: int) -> list[int]:
    """The steps of each window of an epoch over columns of so many tokens; the last is cut where the text ends.

    With jitter as AWD-LSTM draws them, which leaves out a last window of one token: around `bptt`, of twenty windows
    one around half of it; with a standard deviation of 5 and at least 5. They depend on seed and epoch alone, so that a
    training that goes on goes on alike.
    """
    if not recipe.jitter:
        return [recipe.bptt] * math.ceil((columns - 1) / recipe.bptt)
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    found: list[int] = []
    read = 0
    while read < columns - 1:
        is_whole = torch.rand((), generator=generator).item() < 0.95
        around = recipe.bptt if is_whole else recipe.bptt / 2
        found.append(max(5, int(around + 5 * torch.randn((), generator=generator).item())))
        read += found[-1]
    return found


# ---- one step


class FinalStep(OptimiserStep[LanguageModel], language_model.TrainingStep):
    """A step on a window of text, with the recipe's penalties, by plain gradient descent, ASGD or Adam."""

    model: FinalModel

    def __init__(self, model: FinalModel, generator: torch.Generator) -> None:
        language_model.TrainingStep.__init__(self, model, generator)  # which says what cannot be recorded
        self.restart(averaging=False)

    def restart(self, averaging: bool) -> None:
        """Begin with a new optimiser; an averaging one averages from its first step on."""
        recipe, weights = self.model.recipe, self.parameters
        rate, decay = recipe.learning_rate, recipe.weight_decay
        self.averaging = averaging
        if averaging:
            # ASGD steps at the rate that it was given the step before: with jitter, that of the window before.
            on_gpu = weights[0].is_cuda
            self.optimiser = torch.optim.ASGD(
                weights, lr=rate, lambd=0.0, t0=0.0, weight_decay=decay, foreach=True, capturable=on_gpu
            )
        elif recipe.optimiser == "adam":
            self.optimiser = torch.optim.Adam(weights, lr=rate, weight_decay=decay)
        else:
            self.optimiser = torch.optim.SGD(weights, lr=rate, weight_decay=decay)

    def set_rate(self, rate: float) -> None:
        """Give the optimiser a learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def read(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, State]:
        """inputs and targets (T, B) -> the loss in nats (), with the penalties (), and the state after."""
        recipe = self.model.recipe
        raw, after = self.model.run(inputs, self.state, self.generator)  # (T, B, last)
        dropped = self.model.drop_outputs(raw, self.generator)
        loss = self.model.loss(dropped, targets)
        objective = loss
        if recipe.activation_penalty:
            objective = objective + recipe.activation_penalty * dropped.square().mean()
        if recipe.temporal_penalty and len(raw) > 1:
            objective = objective + recipe.temporal_penalty * (raw[1:] - raw[:-1]).square().mean()
        return loss, objective, after

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Within it the model has the averages of its weights, if they are averaged; then its weights again."""
        if not self.averaging:
            yield
            return
        kept = [weight.detach().clone() for weight in self.parameters]
        averages = [self.optimiser.state[weight]["ax"] for weight in self.parameters]
        try:
            _copy(averages, self.parameters)
            yield
        finally:
            _copy(kept, self.parameters)


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Any]) -> None:
    torch._foreach_copy_(target, source)


# ---- training


@dataclass
class FinalProgress(Progress):
    """Where a training stands, within an epoch too."""

    optimiser: dict[str, Any] = field(default_factory=dict)  # its state; empty before the first step of a phase
    averaging: bool = False
    losses: list[float] = field(default_factory=list)  # of the validation text, in this phase
    windows: int = 0  # of the epoch in progress that are read
    nats: float = 0.0  # summed over them
    tokens: int = 0  # predicted in them
    state: list[Tensor] = field(default_factory=list)  # after them, the parts of all layers (B, units) each


def train(
    cell: Cell | str,
    corpus: Corpus,
    settings: FinalModelSettings | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    kind: type[FinalModel] = FinalModel,
) -> tuple[Outcome, FinalModel]:
    """Train a published model to its end; the outcome, and the model, of a `kind`, with the weights of its best epoch.

    The outcome's metrics: `valid_ppl` and `valid_bits` per token, the best over the epochs, of the averaged weights
    once there are averages. With a `checkpoint` path it stops cleanly after any step, on the deadline and on Ctrl-C
    or SIGTERM to this process, and goes on from there to the same numbers. It has failed ("exploded") when loss or
    gradient is no longer finite.

    Raises ValueError where a text is too short for its columns, CellError for a cell that cannot run, CheckpointError
    for a checkpoint of another training or a damaged one, DeviceError for a device that is not here.
    """
    settings, device = settings or FinalModelSettings(), resolve(device)
    check_lengths(corpus, settings.plain)
    started = time.perf_counter()
    model = kind(cell, len(corpus.vocab), settings, seed).to(device)
    masks = torch.Generator(device).manual_seed(seed)
    train_columns = batchify(corpus.train[: settings.train_tokens], settings.batch).to(device)
    valid_columns = batchify(corpus.valid[: settings.valid_tokens], settings.eval_batch).to(device)

    step = FinalStep(model, masks)
    progress = FinalProgress(settings.rate(1))
    identity = f"{kind.__name__} of {cell}, {settings}, seed {seed}, data {corpus.hash}"
    training = Training(model, masks, progress, identity, device, checkpoint, on_epoch, started)
    with stop_signals() as signals:
        for epoch in training.epochs(settings.epochs + settings.fine_tuning_epochs):
            _enter(step, progress, epoch)
            lengths = window_lengths(len(train_columns), settings, seed, epoch)
            train_loss, finite = _epoch(step, train_columns, lengths, training, progress, signals)
            with step.averages():
                valid_loss = evaluate(model, valid_columns) if finite else math.inf
                training.note(
                    valid_loss,
                    train_ppl=perplexity(train_loss),
                    valid_ppl=perplexity(valid_loss),
                    averaging=float(step.averaging),
                )
            _leave(step, progress, epoch, valid_loss)
    metrics = {}
    if math.isfinite(progress.best_loss):
        metrics = {"valid_ppl": perplexity(progress.best_loss), "valid_bits": progress.best_loss / math.log(2)}
    return training.outcome(metrics), model


def _enter(step: FinalStep, progress: FinalProgress, epoch: int) -> None:
    """Before an epoch, or what is left of it: give the step the optimiser of its phase, as it was."""
    if epoch == step.model.recipe.epochs + 1 and not progress.windows:  # fine-tuning begins
        step.model.load_state_dict(progress.best_weights)
        progress.averaging, progress.losses, progress.optimiser = True, [], {}
    if step.averaging != progress.averaging or not progress.optimiser:
        step.restart(progress.averaging)
    if progress.optimiser:
        step.optimiser.load_state_dict(progress.optimiser)
    step.model.train()
    step.begin(0.0)


def _epoch(
    step: FinalStep,
    columns: Tensor,
    lengths: list[int],
    training: Training,
    progress: FinalProgress,
    signals: StopSignals,
) -> tuple[float, bool]:
    """What is left of a pass over the training text (N, B) in windows of these lengths: the mean loss of all of it, and
    whether loss and gradients stayed finite."""
    recipe, state = step.model.recipe, step.state
    start = sum(lengths[: progress.windows])
    if progress.windows:
        _copy(progress.state, _tensors(state))
        step.state = state.replace(t=start)
    for length in lengths[progress.windows :]:
        stop = min(start + length, len(columns) - 1)
        targets = columns[start + 1 : stop + 1]
        step.set_rate(progress.learning_rate * (length / recipe.bptt if recipe.jitter else 1.0))
        nats, norm = step(columns[start:stop], targets)
        if not (math.isfinite(nats) and math.isfinite(norm)):
            return math.inf, False
        start = stop
        progress.windows += 1
        progress.nats += nats * targets.numel()
        progress.tokens += targets.numel()
        if signals.number or (training.checkpoint is not None and is_over()):
            progress.optimiser, progress.state = step.optimiser.state_dict(), _tensors(step.state)
            training.keep()
            signals.obey()
            demand_time()
    return progress.nats / progress.tokens, True


def _tensors(state: State) -> list[Tensor]:
    """The parts of a state, of all layers, (B, units) each."""
    return [tensor for part in state for tensor in layers(part)]


def _leave(step: FinalStep, progress: FinalProgress, epoch: int, valid_loss: float) -> None:
    """After an epoch: does the next one average, or is there none?"""
    recipe = step.model.recipe
    is_worse = len(progress.losses) > recipe.patience and valid_loss > min(progress.losses[: -recipe.patience])
    progress.losses.append(valid_loss)
    progress.optimiser = step.optimiser.state_dict()
    progress.windows, progress.nats, progress.tokens, progress.state = 0, 0.0, 0, []
    progress.learning_rate = recipe.rate(epoch + 1)
    if epoch > recipe.epochs:
        progress.is_ended = is_worse
    elif recipe.optimiser == "nt-asgd" and not progress.averaging and is_worse:
        progress.averaging, progress.optimiser = True, {}


# ---- the task


@dataclass(frozen=True)
class FinalModelTask(LanguageModelTask):
    """Training cells as the published language models. Pickles by its settings alone, unless the data is one's own."""

    training: FinalModelSettings = field(default_factory=FinalModelSettings)  # type: ignore[assignment]  # of its own

    name = "final language model"
    version = VERSION
    model: ClassVar[type[FinalModel]] = FinalModel
    """What is trained."""

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "FinalModelTask":
        """The task whose `settings` these are, such as a record holds them; on data of one's own it cannot be run."""
        chosen = dict(settings)
        return cls(chosen.pop("corpus"), chosen.pop("level"), training=FinalModelSettings(**chosen))

    @property
    def corpus(self) -> Corpus:
        """The data, loaded when first asked for. Raises ValueError where it is too short for the settings."""
        return replace(self.as_plain, training=self.training.plain).corpus

    @property
    def as_plain(self) -> LanguageModelTask:
        """The candidates' task on the same data."""
        return LanguageModelTask(self.corpus_name, self.level, self.vocab_size, own=self.own)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides an outcome but cell, seed, data and trainer version; the device is not among it."""
        return {"corpus": self.corpus_name, "level": self.level, **asdict(self.training)}

    def words(self) -> str:
        """How a model is trained: "3 x 1,080 units, 200 + 13 epochs over all words of ptb"."""
        chosen = self.training
        more = f" + {chosen.fine_tuning_epochs}" if chosen.fine_tuning_epochs else ""
        epochs = counted(chosen.epochs, "epoch").replace(" ", f"{more} ", 1)
        read = counted(chosen.train_tokens, "character" if self.level == "char" else "word")
        return f"{chosen.layers} x {chosen.hidden:,} units, {epochs} over {read} of {self.corpus_name}"

    def train(self, cell: Cell, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Outcome, FinalModel]:
        """What `evaluate` does, and the model that came of it."""
        device = resolve(self.device)
        identity = (self.model.__name__, cell, seed, self.settings, self.data_hash, self.version)
        with training_checkpoint(self.checkpoints, device, *identity) as path:
            given = {"device": device, "on_epoch": on_epoch, "checkpoint": path, "kind": self.model}
            return train(cell, self.corpus, self.training, seed, **given)  # type: ignore[arg-type]
