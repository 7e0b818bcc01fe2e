"""S17's translation task (section 4.2): a cell is the encoder of a small translation model, English to German.

The recipe is OpenNMT-py's of mid-2017, which S17 used: sentences sorted by length into batches, plain SGD with a
halving learning rate, perplexity on the validation split after every epoch, beam search and BLEU at the end.

Read from top to bottom: settings, batches, one epoch, evaluation, translation, training, and the task that a search
runs. The model is in `seq2seq.py`.
"""

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nasrepro.datasets import ParallelCorpus, Vocab, load_parallel
from nasrepro.datasets.parallel import BOS, EOS, PAD, Pairs
from nasrepro.dsl import Cell, parse
from nasrepro.hardware import resolve
from nasrepro.trainers.beam import beam_search
from nasrepro.trainers.bleu import bleu, multi_bleu
from nasrepro.trainers.checkpoint import training_checkpoint
from nasrepro.trainers.optimise import GradientStep
from nasrepro.trainers.outcome import PERPLEXITY, NotebookTask, OnEpoch, Outcome, perplexity
from nasrepro.trainers.progress import Progress, Training
from nasrepro.trainers.seq2seq import Bridge, Seq2Seq, Sizes, Translator
from nasrepro.trainers.settings import counted, origin, require_counts, use_declared_types

VERSION = 1
"""Part of every record's key: raised whenever a change here changes a number by more than its rounding."""


@dataclass(frozen=True)
class TranslationSettings:
    """How an encoder is judged. The defaults are the paper's for Multi30k; a scaled-down run says what it changes.

    Each of the paper's carries its origin: stated by S17, inferred from OpenNMT-py of mid-2017, or guessed.
    """

    hidden: int = field(default=300, metadata=origin("stated", "4.2"))
    """Width of embeddings and of every layer: S17's found cells mix input and output, so the two are equal."""
    layers: int = field(default=2, metadata=origin("stated", "4.2"))
    """Of the encoder, and as many of the decoder."""
    dropout: float = field(
        default=0.2, metadata=origin("stated", "4.2", "its places: inferred, between layers and on the features")
    )
    """Rate between layers and on the features, drawn anew at each element."""
    batch: int = field(default=64, metadata=origin("stated", "4.2"))
    """Sentence pairs in a batch."""
    bptt: int = field(default=35, metadata=origin("stated", "4.2"))
    """Decoder steps between truncations of backpropagation."""
    epochs: int = field(default=30, metadata=origin("guessed", "4.2"))
    """Passes over the training text at most; the learning rate ends training earlier."""
    learning_rate: float = field(default=1.0, metadata=origin("stated", "4.2"))
    """Of plain gradient descent, in the first epoch."""
    halve_from: int = field(default=8, metadata=origin("inferred", "4.2"))
    """The learning rate is halved after this epoch at the latest, and after every epoch from then on."""
    stop_below: float = field(default=0.03, metadata=origin("stated", "4.2"))
    """Training ends when the learning rate falls below this."""
    clip: float = field(default=5.0, metadata=origin("inferred", "4.2"))
    """Bound on the gradient's global norm."""
    init_range: float = field(default=0.1, metadata=origin("inferred", "4.2"))
    """Every weight starts from U(-range, range)."""
    bridge: Bridge = field(default="zeros", metadata=origin("guessed", "4.2"))
    """What the decoder's memory starts from when the cell has no memory of its own: "zeros", or a "copy" of its
    output."""
    beam: int = field(default=5, metadata=origin("inferred", "4.2"))
    """Hypotheses kept by beam search; 1 is greedy."""
    longest: int = field(default=100, metadata=origin("inferred", "4.2"))
    """Words at which a translation is cut."""
    fail_above: float = field(default=140.0, metadata=origin("guessed", "3.1"))
    """Perplexity over which a cell has failed: where the reward of section 3.1 falls below 0."""
    eval_batch: int = field(default=1, metadata=origin("stated", "4.2"))
    """Sentences evaluated side by side. S17 took 1 because of padding; padding changes nothing here."""
    vocab_size: int = field(default=50_000, metadata=origin("inferred", "4.2"))
    """Words kept in each vocabulary, the most frequent ones."""
    train_pairs: int | None = None
    """Use only the first so many pairs of the training text. None: all of it, as the paper."""
    valid_pairs: int | None = None
    """Use only the first so many pairs of the validation text. None: all of it, as the paper."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        require_counts(self, "batch", "bptt", "eval_batch", "train_pairs", "valid_pairs")

    @property
    def epochs_at_most(self) -> int:
        """Epochs of a training that improves in every one, until `epochs` or the learning rate ends it: S17's: 13."""
        rate, epoch = self.learning_rate, 0
        while epoch < self.epochs and rate >= self.stop_below:
            epoch += 1
            if epoch >= self.halve_from:
                rate /= 2
        return epoch


class _Judging(Protocol):
    """What settings of any translation model say of its batches, and of how it is judged: as `TranslationSettings`."""

    @property
    def batch(self) -> int: ...
    @property
    def eval_batch(self) -> int: ...
    @property
    def beam(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def fail_above(self) -> float: ...
    @property
    def train_pairs(self) -> int | None: ...
    @property
    def valid_pairs(self) -> int | None: ...


# ---- batches


class Batch(NamedTuple):
    """Sentence pairs side by side, padded at their ends."""

    source: Tensor  # (S, B)
    lengths: Tensor  # of the sources (B,)
    inputs: Tensor  # what the decoder reads: BOS and the target (T, B)
    targets: Tensor  # what it shall predict: the target and EOS (T, B)
    places: Tensor  # where `targets` is no padding: places in its T * B numbers, row by row, ascending (words,)

    @property
    def words(self) -> int:
        """How many words are predicted, EOS included."""
        return len(self.places)

    @property
    def real(self) -> Tensor:
        """Where `targets` is no padding (T, B)."""
        mask = torch.zeros_like(self.targets, dtype=torch.bool)
        mask.view(-1)[self.places] = True
        return mask


def make_batches(
    pairs: Pairs, vocab: Vocab, size: int, device: str | torch.device = "cpu"
) -> list[tuple[list[int], Batch]]:
    """Pairs sorted by length and cut into batches of `size`, each with the places of its pairs in `pairs`.

    `vocab` is the target's. Sentences of one batch are about equally long, so little of it is padding; what padding
    there is changes no number.
    """
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs.source[i]), len(pairs.target[i])))
    places = [order[start : start + size] for start in range(0, len(order), size)]
    return [(here, _batch(pairs, here, vocab, device)) for here in places]


def _batch(pairs: Pairs, places: Sequence[int], vocab: Vocab, device: str | torch.device) -> Batch:
    pad, bos, eos = vocab.lookup_indices([PAD, BOS, EOS])
    sources, targets = [pairs.source[i] for i in places], [pairs.target[i] for i in places]

    def columns(sentences: Sequence[Sequence[int]]) -> Tensor:  # (longest, sentences)
        return pad_sequence([torch.tensor(ids) for ids in sentences], padding_value=pad).to(device)

    after = columns([[*ids, eos] for ids in targets])  # (T, B)
    is_word = torch.arange(len(after))[:, None] < torch.tensor([len(ids) + 1 for ids in targets])  # (T, B)
    return Batch(
        source=columns(sources),
        lengths=torch.tensor([len(ids) for ids in sources]).to(device),
        inputs=columns([[bos, *ids] for ids in targets]),
        targets=after,
        places=is_word.flatten().nonzero()[:, 0].to(device),
    )


# ---- training and evaluation


def make_model(cell: Cell | str, corpus: ParallelCorpus, settings: TranslationSettings, seed: int) -> Seq2Seq:
    """A new model for a corpus, its weights drawn from `seed`. Raises CellError for a cell that cannot run."""
    return Seq2Seq(cell, model_sizes(settings, len(corpus.source_vocab), len(corpus.target_vocab)), seed)


def model_sizes(settings: TranslationSettings, source_words: int, target_words: int) -> Sizes:
    """The sizes of a model with vocabularies of so many words."""
    shared = ("hidden", "layers", "dropout", "bptt", "init_range", "bridge")
    return Sizes(source_words, target_words, **{name: getattr(settings, name) for name in shared})


class TrainingStep(GradientStep[Translator]):
    """A step on the parts of a batch."""

    def descend(self, *parts: Tensor) -> tuple[Tensor]:
        """The parts of a `Batch` -> loss and norm (2,)."""
        batch = Batch(*parts)
        context, state = self.model.encode(batch.source, batch.lengths, self.generator)
        features, _, _ = self.model.decode(batch.inputs, context, state, self.generator)
        loss = self.model.loss(features, batch.targets, batch.places)
        # As in OpenNMT, it is summed over the batch's words and divided by its sentences: long sentences weigh more.
        return self.update(loss, loss * (batch.words / len(batch.lengths)))


def train_epoch(step: TrainingStep, batches: Sequence[Batch], learning_rate: float) -> tuple[float, bool]:
    """One pass over batches in their order: the mean training loss in nats, and whether all stayed finite."""
    step.model.train()
    step.learning_rate.fill_(learning_rate)
    return step.over((batch, batch.words) for batch in batches)


@torch.no_grad()
def evaluate(model: Translator, batches: Sequence[Batch]) -> float:
    """Mean loss in nats per target word, EOS included, over batches."""
    model.eval()
    total, words = 0.0, 0
    for batch in batches:
        context, state = model.encode(batch.source, batch.lengths)
        features, _, _ = model.decode(batch.inputs, context, state)
        total += model.loss(features, batch.targets, batch.places).item() * batch.words
        words += batch.words
    return total / words


def translate(model: Translator, pairs: Pairs, corpus: ParallelCorpus, settings: _Judging) -> list[list[str]]:
    """The model's translations of the sources of `pairs`, as tokens, by beam search, on the model's device.

    Raises ValueError when the model was made for another vocabulary, or a beam or length of the settings is below 1.
    """
    check_vocabularies(model, corpus)
    bos, eos = corpus.target_vocab.lookup_indices([BOS, EOS])
    found: list[list[str]] = [[] for _ in range(len(pairs))]
    for places, batch in make_batches(pairs, corpus.target_vocab, settings.eval_batch, model.source_embedding.device):
        beams = beam_search(model, batch.source, batch.lengths, bos, eos, settings.beam, settings.longest)
        for place, ids in zip(places, beams, strict=True):
            found[place] = corpus.target_vocab.lookup_tokens(ids)
    return found


def scores(model: Translator, pairs: Pairs, corpus: ParallelCorpus, settings: _Judging) -> dict[str, float]:
    """`bleu` (sacrebleu's) and `multi_bleu` (tokenised and lower-cased, as in 2017) of the model's translations.

    Both are 0 to 100. Raises ValueError for no pairs, and as `translate` does.
    """
    found = translate(model, pairs, corpus, settings)
    return {"bleu": bleu(found, pairs.text), "multi_bleu": multi_bleu(found, pairs.tokens)}


def check_vocabularies(model: Translator, corpus: ParallelCorpus) -> None:
    """Raise ValueError when a model's embeddings are of other sizes than the corpus's vocabularies."""
    for side, made, found in (
        ("source", model.sizes.source_words, len(corpus.source_vocab)),
        ("target", model.sizes.target_words, len(corpus.target_vocab)),
    ):
        if made != found:
            raise ValueError(
                f"the model was made for {made:,} {side} words, {corpus.name} has {found:,}: that is the vocabulary of "
                "another data set; load the one that the model was trained on, or make a model with make_model"
            )


def train(
    cell: Cell | str,
    corpus: ParallelCorpus,
    settings: TranslationSettings | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> tuple[Outcome, Seq2Seq]:
    """Train a translation model with `cell` as its encoder; the outcome, and the model with its best epoch's weights.

    The outcome's metrics: `valid_ppl`, the best perplexity over the epochs, and by that epoch's weights `valid_bleu`
    (sacrebleu's) and `valid_multi_bleu`. It has failed when loss or gradient is no longer finite ("exploded"), or by
    the rule on `fail_above`. `device`, `on_epoch` and `checkpoint` are those of `language_model.train`.

    Raises ValueError where there is no pair to train or to validate on, CellError for a cell that cannot run,
    CheckpointError for a checkpoint of another training or a damaged one, DeviceError for a device that is not here.
    """
    settings, device = settings or TranslationSettings(), resolve(device)
    require_pairs(corpus)
    started = time.perf_counter()
    model = make_model(cell, corpus, settings, seed).to(device)
    masks = torch.Generator(device).manual_seed(seed)
    train_batches, valid_batches = split_batches(corpus, settings, device)
    step = TrainingStep(model, settings.clip, masks)
    progress = _Progress(settings.learning_rate)
    identity = f"{cell}, {settings}, seed {seed}, data {corpus.hash}"
    training = Training(model, masks, progress, identity, device, checkpoint, on_epoch, started)
    for epoch in training.epochs(settings.epochs, settings.stop_below):
        train_loss, finite = train_epoch(step, shuffled(train_batches, seed, epoch), progress.learning_rate)
        valid_loss = evaluate(model, valid_batches) if finite else math.inf
        training.note(valid_loss, train_ppl=perplexity(train_loss), valid_ppl=perplexity(valid_loss))
        progress.halving = progress.halving or valid_loss > progress.last_loss or epoch >= settings.halve_from
        progress.last_loss = valid_loss
        if progress.halving:
            progress.learning_rate /= 2
    return judged(training, model, corpus, settings), model


def require_pairs(corpus: ParallelCorpus) -> None:
    """Raise ValueError where there is no pair to train or to validate on."""
    for split, pairs in (("training", corpus.train), ("validation", corpus.valid)):
        if not pairs:
            raise ValueError(f"{corpus.name} has no {split} pairs: take a corpus with 1 or more")


def split_batches(corpus: ParallelCorpus, settings: _Judging, device: str) -> tuple[list[Batch], list[Batch]]:
    """Batches to train and to validate on, of as many pairs as the settings say."""
    train_pairs, valid_pairs = corpus.train[: settings.train_pairs], corpus.valid[: settings.valid_pairs]
    train_batches = make_batches(train_pairs, corpus.target_vocab, settings.batch, device)
    valid_batches = make_batches(valid_pairs, corpus.target_vocab, settings.eval_batch, device)
    return [batch for _, batch in train_batches], [batch for _, batch in valid_batches]


def shuffled(batches: Sequence[Batch], seed: int, epoch: int) -> list[Batch]:
    """The batches in the order of an epoch, which depends on its number alone, so that a training that goes on goes on
    alike."""
    return random.Random(f"{seed}/{epoch - 1}").sample(batches, len(batches))


def judged(training: Training, model: Translator, corpus: ParallelCorpus, settings: _Judging) -> Outcome:
    """What came of a training whose model has its best epoch's weights, scored on the validation pairs."""
    reached = perplexity(training.progress.best_loss)
    if not reached <= settings.fail_above:
        training.fail(f"above {settings.fail_above:g} at the end")
    metrics = {"valid_ppl": reached} if math.isfinite(reached) else {}
    if not training.progress.reason:
        found = scores(model, corpus.valid[: settings.valid_pairs], corpus, settings)
        metrics |= {f"valid_{name}": score for name, score in found.items()}
    return training.outcome(metrics)


@dataclass
class _Progress(Progress):
    """With what the learning rate depends on."""

    last_loss: float = math.inf  # of the epoch before
    halving: bool = False  # once begun, it goes on after every epoch, better or not (OpenNMT-py of 2017, `Optim.py`)


@lru_cache(maxsize=4)
def _corpus(name: str, vocab_size: int) -> ParallelCorpus:
    return load_parallel(name, vocab_size)


@dataclass(frozen=True)
class TranslationTask(NotebookTask[Cell]):
    """Judging cells as encoders of a translation model. Pickles by its settings alone, unless the data is one's own."""

    corpus_name: str = "captions"
    training: TranslationSettings = field(default_factory=TranslationSettings)
    device: str = "auto"
    checkpoints: str | None = None
    own: ParallelCorpus | None = None
    """A corpus of one's own, such as `parallel_from_text` makes: the name is then its, the vocabularies are as it has
    them, and it goes along when the task is pickled."""

    name = "translation"
    version = VERSION
    loss = PERPLEXITY

    def __post_init__(self) -> None:
        if self.own is not None:
            object.__setattr__(self, "corpus_name", self.own.name)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "TranslationTask":
        """The task whose `settings` these are, such as a record holds them; on data of one's own it cannot be run."""
        chosen = dict(settings)
        return cls(chosen.pop("corpus"), TranslationSettings(**chosen))

    @property
    def corpus(self) -> ParallelCorpus:
        """The data, loaded when first asked for."""
        return _corpus(self.corpus_name, self.training.vocab_size) if self.own is None else self.own

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides an outcome but cell, seed, data and trainer version; the device is not among it."""
        return {"corpus": self.corpus_name, **asdict(self.training)}

    @property
    def is_long(self) -> bool:
        """Whether one training may take hours, so that checkpoints are worth their writing."""
        return self.training.epochs > 10

    @property
    def data_words(self) -> str:
        """The data in the words of the papers' entries: "multi30k"."""
        return self.corpus_name

    def words(self) -> str:
        """How a cell is trained, for captions and budgets: "2 + 2 layers of 300 units, at most 13 epochs over all pairs
        of multi30k"."""
        chosen = self.training
        layers = f"{chosen.layers} + {chosen.layers} layers of {chosen.hidden} units"
        epochs, read = counted(chosen.epochs_at_most, "epoch"), counted(chosen.train_pairs, "pair")
        return f"{layers}, at most {epochs} over {read} of {self.corpus_name}"

    def read(self, text: str) -> Cell:
        """The cell that a text says. Raises CellError where it says none."""
        return parse(text)

    def train(self, cell: Cell, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Outcome, Translator]:
        """What `evaluate` does, and the model that came of it."""
        device = resolve(self.device)
        identity = (cell, seed, self.settings, self.data_hash, self.version)
        with training_checkpoint(self.checkpoints, device, *identity) as path:
            return train(cell, self.corpus, self.training, seed, device=device, on_epoch=on_epoch, checkpoint=path)

    def test(self, model: Translator, split: Pairs) -> dict[str, float]:
        """`test_ppl`, `test_bleu` (sacrebleu's) and `test_multi_bleu`. Raises ValueError for a split without pairs."""
        if not split:
            raise ValueError("the test split has no pairs: take one with 1 or more")
        batches = make_batches(split, self.corpus.target_vocab, self.training.eval_batch, model.source_embedding.device)
        found = scores(model, split, self.corpus, self.training)
        loss = evaluate(model, [batch for _, batch in batches])
        return {"test_ppl": perplexity(loss), **{f"test_{name}": score for name, score in found.items()}}
