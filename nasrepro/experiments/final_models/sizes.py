"""How large the published language models are (S17's Tables 1 and 2, ZL17's Tables 2 and 3): every scaling is here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from nasrepro.dsl import zoo
from nasrepro.experiments.final_models import parity
from nasrepro.experiments.final_models.on_torch import TorchFinalTask
from nasrepro.trainers.final_model import FinalModelTask, with_parameters
from nasrepro.trainers.final_settings import CharacterModelSettings, FinalModelSettings, WordModelSettings
from nasrepro.trainers.language_model import LanguageModelTask

PTB_WORDS, WIKITEXT2_WORDS, PTB_CHARACTERS = 10_000, 33_278, 50
"""Sizes of the vocabularies, by which models are made equally large without loading the data."""


ON_TORCH = "torch.nn.LSTM"
"""What the same recipe without our cells is called."""


@dataclass(frozen=True)
class Model:
    """A model that we train for a row of a paper's table, or beside the rows."""

    name: str
    """What it is called, such as "BC3"; one name stands for one model within a table."""
    cell: str
    """The cell's name in the zoo."""
    task: FinalModelTask
    """How it is trained."""
    row: str = ""
    """The row's part of the papers' entries, such as "bc3" of "s17.table1.bc3.test"; "" where no row is like it."""


@dataclass(frozen=True)
class FinalSizes:
    """How large a run is."""

    task: FinalModelTask
    """What models are trained by above all."""
    tables: Mapping[str, tuple[Model, ...]]
    """By the table's name among the papers' entries, such as "s17.table1", what is trained for it."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each model."""
    examples: tuple[LanguageModelTask, ...] = ()
    """PyTorch's example, where the trainer of candidates is held against its published log."""
    workers: int = 2
    """Processes that train the seeds of a model; 0 where it takes less time than to begin a process."""


def row(table: str, model: Model, seed: int) -> str:
    """What a record calls the row for which it reads the test split."""
    return f"{table} {model.name}, seed {seed}"


@lru_cache
def _equal(task: FinalModelTask, words: int, count: int, rows: tuple[tuple[str, str], ...]) -> tuple[Model, ...]:
    """Cells of the zoo, each with the row of the table that it is like, as models of `count` weights."""
    return tuple(
        Model(name, name, replace(task, training=with_parameters(zoo[name], count, words, task.training)), like)
        for name, like in rows
    )


_S17_ROWS = (("LSTM", "awd"), ("GRU", "gru"), ("BC3", "bc3"), ("NASCell", "nascell25"))
_WIKITEXT2_ROWS = (*_S17_ROWS[:3], ("NASCell", ""))  # S17's Table 2 has none of that cell
_ZL17_ROWS = (("LSTM", ""), ("NASCell", "nas25"))
_CHARACTER_ROWS = (("LSTM", "lstm"), ("NASCell", "new6"))

# ---- the papers' own

_BC3 = FinalModelSettings()
_GRU = replace(
    _BC3,
    hidden=1350,
    learning_rate=20.0,
    weight_drop=0.3,
    temporal_penalty=1.0,
    clip=0.15,
    epochs=280,
    fine_tuning_epochs=6,
)
# Merity et al. 2017, by the commands in their repository's README, which come to 58.8 and 56.5 on Penn Treebank with
# batches of 20; by the same README the paper's 60.0 and 57.3, which S17 quotes, were reached with batches of 40.
_LSTM = replace(_BC3, hidden=1150, learning_rate=30.0, temporal_penalty=1.0, epochs=500, fine_tuning_epochs=500)
_LSTM_WIKITEXT2 = replace(_LSTM, batch=80, input_dropout=0.65, layer_dropout=0.2, epochs=750, fine_tuning_epochs=750)
_ON_PTB, _ON_WIKITEXT2 = FinalModelTask("ptb"), FinalModelTask("wikitext2")


def _with(task: FinalModelTask, recipe: FinalModelSettings) -> FinalModelTask:
    return replace(task, training=recipe)


# ZL17 says how many weights its models of words have, and that its small ones of characters took 80K steps. Their other
# settings, which it does not print, are taken to be the large one's, but for the weight decay: a guess.
_SHORT = replace(CharacterModelSettings(), epochs=51, weight_decay=0.0)
_CHARACTERS = FinalModelTask("ptb", "char", training=CharacterModelSettings())


@lru_cache
def _published() -> dict[str, tuple[Model, ...]]:
    """Every row of the papers' own, and the LSTM that S17 compares with, by their full recipes."""

    def words(count: int, recipe: FinalModelSettings) -> FinalModelTask:
        return _with(_ON_PTB, with_parameters(zoo["NASCell"], count, PTB_WORDS, recipe))

    def characters(cell: str, count: int, recipe: FinalModelSettings) -> FinalModelTask:
        return _with(_CHARACTERS, with_parameters(zoo[cell], count, PTB_CHARACTERS, recipe))

    shared, own = WordModelSettings(), WordModelSettings(tied=False)
    return {
        "s17.table1": (
            Model("BC3", "BC3", _with(_ON_PTB, _BC3), "bc3"),
            Model("GRU", "GRU", _with(_ON_PTB, _GRU), "gru"),
            Model("LSTM", "LSTM", _with(_ON_PTB, _LSTM), "awd"),
        ),
        "s17.table2": (
            Model("BC3", "BC3", _with(_ON_WIKITEXT2, replace(_BC3, epochs=100, fine_tuning_epochs=7)), "bc3"),
            Model(
                "GRU",
                "GRU",
                _with(_ON_WIKITEXT2, replace(_GRU, weight_drop=0.15, epochs=125, fine_tuning_epochs=50)),
                "gru",
            ),
            Model(
                "LSTM",
                "LSTM",
                _with(_ON_WIKITEXT2, _LSTM_WIKITEXT2),
                "awd",
            ),
        ),
        "zl17.table2": (
            Model("NASCell, shared embeddings, 25M", "NASCell", words(25_000_000, shared), "nas25"),
            Model("NASCell, 32M", "NASCell", words(32_000_000, own), "nas32"),
            Model("NASCell, shared embeddings, 54M", "NASCell", words(54_000_000, shared), "nas54"),
        ),
        "zl17.table3": (
            Model("NASCell, 6.57M", "NASCell", characters("NASCell", 6_570_000, _SHORT), "new6"),
            Model("LSTM, 6.57M", "LSTM", characters("LSTM", 6_570_000, replace(_SHORT, bias=True)), "lstm"),
            Model("NASCell, 16.28M", "NASCell", _CHARACTERS, "new16"),
        ),
    }


# ---- smaller ones, of cells that are equally large and trained alike

# S17's recipe is made for 24 million weights and 200 epochs. A twentieth of the one and a fiftieth of the other overfit
# nothing: what is dropped and penalised is a fraction of what the paper has, and averaging begins sooner.
_SMALL = FinalModelSettings(
    layers=2,
    hidden=200,
    embedding=100,
    input_dropout=0.1,
    layer_dropout=0.1,
    output_dropout=0.1,
    embedding_dropout=0.05,
    weight_drop=0.1,
    activation_penalty=1.0,
    temporal_penalty=1.0,
    bptt=35,
    epochs=4,
    fine_tuning_epochs=0,
    patience=1,
)
# From weights within 0.05 and at a rate of 1 small models learn the frequencies of words and no more (seed 1, embedded
# text). NASCell, which multiplies what it gates, is the last to leave them.
_SMALL_WORDS = replace(
    WordModelSettings(),
    hidden=100,
    embedding=100,
    input_dropout=0.1,
    layer_dropout=0.1,
    output_dropout=0.1,
    hidden_dropout=0.1,
    embedding_dropout=0.05,
    embedding_range=0.1,
    weight_range=0.2,
    epochs=4,
    learning_rate=10.0,
    decay=0.5,
    decay_after=2,
    clip=1.0,
)
_SMALL_CHARACTERS = replace(
    CharacterModelSettings(),
    hidden=200,
    embedding=32,
    input_dropout=0.0,
    layer_dropout=0.0,
    output_dropout=0.1,
    hidden_dropout=0.0,
    weight_decay=0.0,
    batch=16,
    learning_rate=5e-3,
    epochs=4,
    train_tokens=300_000,
    valid_tokens=50_000,
)


def _compared(tables: Mapping[str, tuple[FinalModelTask, int, int, tuple[tuple[str, str], ...]]]) -> FinalSizes:
    made = {name: _equal(*given) for name, given in tables.items()}
    lstm = made["s17.table1"][0]
    on_torch = TorchFinalTask(**{each.name: getattr(lstm.task, each.name) for each in fields(lstm.task)})
    made["s17.table1"] += (Model(ON_TORCH, "LSTM", on_torch),)
    return FinalSizes(next(iter(made.values()))[0].task, made)


# As many weights for words as LSTMs of 2 x 200 units have, 0.5 million for characters. 200,000 words, a fifth of Penn
# Treebank and a tenth of WikiText-2, so that a training takes minutes of one core.
_PART = replace(_SMALL, epochs=5, train_tokens=200_000, valid_tokens=30_000)
_PART_WORDS = replace(_SMALL_WORDS, train_tokens=200_000, valid_tokens=30_000)
_COURSE = _compared(
    {
        "s17.table1": (_with(_ON_PTB, _PART), PTB_WORDS, 1_370_000, _S17_ROWS),
        "s17.table2": (_with(_ON_WIKITEXT2, _PART), WIKITEXT2_WORDS, 3_720_000, _WIKITEXT2_ROWS),
        "zl17.table2": (_with(_ON_PTB, _PART_WORDS), PTB_WORDS, 1_370_000, _ZL17_ROWS),
        "zl17.table3": (
            FinalModelTask("ptb", "char", training=_SMALL_CHARACTERS),
            PTB_CHARACTERS,
            530_000,
            _CHARACTER_ROWS,
        ),
    }
)

# The embedded text is small: its vocabulary is cut, and a run takes seconds.
_PYDOC = FinalModelTask("pydoc", vocab_size=2_000)
_PYDOC_CHARACTERS = FinalModelTask("pydoc", "char")
_BRIEF = replace(_SMALL, hidden=64, embedding=32, batch=10, epochs=8, train_tokens=30_000, valid_tokens=8_000)
_BRIEF_WORDS = replace(
    _SMALL_WORDS, hidden=48, embedding=48, batch=10, epochs=6, decay_after=4, train_tokens=30_000, valid_tokens=8_000
)
_BRIEF_CHARACTERS = replace(
    _SMALL_CHARACTERS, hidden=64, embedding=32, batch=8, epochs=3, bptt=50, train_tokens=100_000, valid_tokens=20_000
)
_QUICK = _compared(
    {
        "s17.table1": (_with(_PYDOC, _BRIEF), 2_000, 110_000, _S17_ROWS),
        "zl17.table2": (_with(_PYDOC, _BRIEF_WORDS), 2_000, 130_000, _ZL17_ROWS),
        "zl17.table3": (_with(_PYDOC_CHARACTERS, _BRIEF_CHARACTERS), 70, 62_000, _CHARACTER_ROWS),
    }
)


def _cut(model: Model, hidden: int) -> Model:
    """A published model of a few units and steps, on the embedded text."""
    small = replace(
        model.task.training,
        hidden=hidden,
        embedding=8,
        epochs=1,
        fine_tuning_epochs=min(1, model.task.training.fine_tuning_epochs),
        batch=4,
        bptt=10,
        train_tokens=400,
        valid_tokens=200,
    )
    cut_words = 2_000 if model.task.level == "word" else None
    return replace(model, task=FinalModelTask("pydoc", model.task.level, cut_words, small))


def _smoke() -> FinalSizes:
    """All that a night trains, cut."""
    tables = {
        name: tuple(_cut(model, 8 + number) for number, model in enumerate(models))
        for name, models in _published().items()
    }
    example = replace(
        parity.TASK.training, layers=1, hidden=8, embedding=8, batch=4, bptt=10, train_tokens=400, valid_tokens=200
    )
    examples = (LanguageModelTask("pydoc", vocab_size=2_000, training=example),)
    return FinalSizes(tables["s17.table1"][0].task, tables, (1, 2), examples, workers=0)


SIZES: Mapping[str, FinalSizes] = {
    "smoke": _smoke(),
    "quick": _QUICK,
    "course": replace(_COURSE, examples=(parity.TASK,)),
    "night": FinalSizes(_with(_ON_PTB, _BC3), _published(), seeds=(1,), examples=(parity.TASK,)),
    "paper": FinalSizes(_with(_ON_PTB, _BC3), _published(), examples=(parity.TASK,)),
}
