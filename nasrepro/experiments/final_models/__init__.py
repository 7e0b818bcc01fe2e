"""The language models that both papers print in bold: S17's Tables 1 and 2, ZL17's Tables 2 and 3."""

from functools import partial

from nasrepro.dsl import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.final_models import parity
from nasrepro.experiments.final_models.analysis import TABLES, jobs
from nasrepro.experiments.final_models.readme import EXAMPLE, RECORD, example, table
from nasrepro.experiments.final_models.sizes import SIZES, FinalSizes, Model
from nasrepro.report import papers
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.final_model import FinalModelTask
from nasrepro.trainers.forecast import TextSize, forecast_final_seconds, lstm_seconds
from nasrepro.trainers.language_model import LanguageModelTask

NOTEBOOKS = {"s17": "05", "zl17": "11"}
"""By the paper's part of a table's name, the notebook that shows it."""


def trainings(sizes: FinalSizes) -> list[Trainings]:
    """What the two notebooks show, model by model: each is trained by a task of its own."""
    compared = [
        Trainings(
            NOTEBOOKS[table.partition(".")[0]],
            f"{model.name}, {TABLES[table]}",
            model.task,
            len(sizes.seeds),
            partial(_train, sizes, table, model),
            [entry for column in ("valid", "test") if (entry := f"{table}.{model.row}.{column}") in papers.load()],
            is_tested=True,
        )
        for table, models in sizes.tables.items()
        for model in models
    ]
    return compared + [
        Trainings("05", "PyTorch's example on WikiText-2, one epoch", task, len(parity.SEEDS), partial(_log, task))
        for task in sizes.examples
    ]


def _log(task: LanguageModelTask, resources: Resources) -> None:
    resources.train(task, [Job(zoo[parity.CELL], seed) for seed in parity.SEEDS])


def _train(sizes: FinalSizes, table: str, model: Model, resources: Resources) -> None:
    rows = jobs(sizes, table)[model.task]
    for name, found in evaluate_tests(model.task, rows, resources.record, resources.workers).items():
        print(f"{name}: {found.reason or found.metrics}")


def seconds(task: LanguageModelTask, device: str) -> float:
    """How long one training of an LSTM by a task takes here. Of WikiText-2 no data is needed."""
    if not isinstance(task, FinalModelTask):
        return lstm_seconds(task, device)
    return forecast_final_seconds(zoo["LSTM"], task.training, TextSize.of_task(task), steps=1, device=device)


EXPERIMENT = Experiment(
    name="final_models",
    about="the language models of S17's Tables 1 and 2 and ZL17's Tables 2 and 3",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
    shipped=dict.fromkeys(("course", "night"), (RECORD, EXAMPLE)),
    named=zoo,
    readme={"final-models": table, "example": example},
)
