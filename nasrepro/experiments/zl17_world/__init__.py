"""A world small enough to be trained whole: every recurrent cell that ZL17's controller can write with base 2."""

from collections.abc import Sequence
from functools import partial

from tqdm.auto import tqdm

from nasrepro.dsl import Cell, zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_world.sizes import SEED, SIZES, WorldSizes
from nasrepro.search.loop import evaluate
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.forecast import TextSize, forecast_seconds
from nasrepro.trainers.language_model import LanguageModelTask


def trainings(sizes: WorldSizes) -> list[Trainings]:
    """What the table of the world is made of: its repetitions first, then all other cells."""
    cells = sizes.chosen()
    repeated, longer = cells[: sizes.repeated], cells[: sizes.longer]
    lists = (
        ("cells of base 2 from more seeds", sizes.task, repeated, sizes.more_seeds),
        ("cells of base 2, ten times as long", sizes.longer_task, longer, (SEED,)),
        ("all cells of base 2", sizes.task, cells, (SEED,)),
    )
    return [
        Trainings("12", words, task, len(some) * len(seeds), partial(_train, task, some, seeds))
        for words, task, some, seeds in lists
    ]


def _train(task: LanguageModelTask, cells: Sequence[Cell], seeds: Sequence[int], resources: Resources) -> None:
    jobs = [Job(cell, seed) for cell in cells for seed in seeds]
    with (
        Workers(task, resources.workers, resources.timeout_s) as workers,
        tqdm(total=len(jobs), unit="cell") as bar,
    ):
        evaluate(jobs, resources.record, workers, bar)


def seconds(task: LanguageModelTask, device: str) -> float:
    """How long one training of an LSTM takes here."""
    return forecast_seconds(zoo["LSTM"], task.training, TextSize.of_task(task), steps=1, device=device)


EXPERIMENT = Experiment(
    name="zl17_world",
    about="every recurrent cell of ZL17's base 2, trained: a world in which searches are replayed",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
)
