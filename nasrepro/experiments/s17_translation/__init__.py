"""S17's experiments on translation (section 4.2): the agent's search for encoders, and its Table 3.

Notebook 06 searches, and notebook 07 compares the encoders of the table.
"""

from functools import partial
from itertools import product

from nasrepro.dsl import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.s17_translation.readme import table
from nasrepro.experiments.s17_translation.sizes import SIZES, TABLE_3, TranslationSizes, table_3_row
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import PairsSize, forecast_translation_seconds
from nasrepro.trainers.translation import TranslationTask


def trainings(sizes: TranslationSizes) -> list[Trainings]:
    """What notebooks 06 and 07 train."""
    numbers = ("architectures", "better_than_lstm", "better_share")
    claims = ("s17.fig4", "s17.fig6", "s17.mt.all_operators", "s17.mt.extended_later", "s17.mt.residual")
    answers = [*(f"s17.search.mt.{name}" for name in numbers), *claims]
    words, beside = (
        "the agent's search, and the LSTM beside it",
        [Job(zoo["LSTM"], seed) for seed in sizes.search_seeds],
    )
    found = [
        Trainings.of("06", words, sizes.search_task, [sizes.search], beside, answers),
        Trainings.of("06", "the agent against chance", sizes.control_task, sizes.controls()),
    ]
    for (kind, seed), (task, plan) in sizes.longs().items():
        found.append(Trainings.of("06", f"long search, {kind}, seed {seed}", task, [plan]))
    for also, task, names in sizes.tables():
        words = f"encoders of Table 3{f', {also}' if also else ''}"
        make = partial(_table, sizes, also, task, names)
        found.append(Trainings("07", words, task, len(names) * len(sizes.seeds), make, _entries(also), is_tested=True))
    return found


def _table(
    sizes: TranslationSizes, also: str, task: TranslationTask, names: tuple[str, ...], resources: Resources
) -> None:
    rows = {table_3_row(name, seed, also): Job(zoo[name], seed) for seed, name in product(sizes.seeds, names)}
    for row, found in evaluate_tests(task, rows, resources.record, resources.workers).items():
        print(f"{row}: {found.reason or found.metrics}")


def _entries(also: str) -> list[str]:
    """The papers' entries that a table of encoders answers."""
    if also == "larger set":
        return ["s17.mt.no_transfer", *(f"s17.table3.{name.lower()}.iwslt16_bleu" for name in TABLE_3)]
    if also:
        return []
    rows = (f"s17.table3.{name.lower()}.multi30k_{what}" for name in TABLE_3 for what in ("bleu", "loss"))
    return ["s17.mt.beats_lstm", "s17.mt.loss_not_bleu", *rows]


def seconds(task: TranslationTask, device: str) -> float:
    """How long one training of an LSTM takes here. Of Multi30k no data is needed."""
    return forecast_translation_seconds(zoo["LSTM"], task.training, PairsSize.of_task(task), steps=1, device=device)


EXPERIMENT = Experiment(
    name="s17_translation",
    about="S17's translation models: the agent's search for encoders, its control, and the encoders of Table 3",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
    shipped={
        "course": ("multi30k-translation.jsonl.gz", "multi30k-table3.jsonl.gz", "captions-agent-long.jsonl.gz"),
        "night": ("multi30k-table3.jsonl.gz",),
        "paper": ("multi30k-table3.jsonl.gz",),
    },
    named=zoo,
    readme={"translation": table},
)
