"""A world for ZL17's search: its worked example, base 2, with every cell trained (ZL17 section 3.5).

Notebook 12 replays searches in it.
"""

from functools import partial

from nasrepro.dsl import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_world.readme import SECONDS, replays_words, world_words
from nasrepro.experiments.zl17_world.sizes import SIZES, WorldSizes
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import lstm_seconds
from nasrepro.worlds import base_2


def trainings(sizes: WorldSizes) -> list[Trainings]:
    """What the world is made of."""
    repeated = f"{sizes.repeated:,} of them from {len(sizes.seeds)} more seeds"
    words, longer = f"{sizes.cells:,} cells of base 2, {repeated}", f"{sizes.lengthened} cells of base 2, longer"
    return [
        Trainings("12", words, sizes.task, sizes.trainings, partial(_train, sizes)),
        Trainings("12", longer, sizes.long_task, sizes.lengthened, partial(_train_long, sizes)),
    ]


def jobs(sizes: WorldSizes) -> list[Job]:
    """Every cell from seed 0, and after all of them the repeated ones from the other seeds."""
    cells = base_2.cells(sizes.cells)
    return [Job(cell, 0) for cell in cells] + [
        Job(cell, seed) for cell in cells[: sizes.repeated] for seed in sizes.seeds
    ]


def long_jobs(sizes: WorldSizes) -> list[Job]:
    """Those of the long task. Their cells are among the repeated ones."""
    return [Job(cell, 0) for cell in base_2.cells(sizes.cells)[: sizes.lengthened]]


def _train(sizes: WorldSizes, resources: Resources) -> None:
    resources.train(sizes.task, jobs(sizes))


def _train_long(sizes: WorldSizes, resources: Resources) -> None:
    resources.train(sizes.long_task, long_jobs(sizes))


EXPERIMENT = Experiment(
    name="zl17_world",
    about="A world for ZL17's search: every recurrent cell of base 2, trained",
    sizes=SIZES,
    trainings=trainings,
    seconds=lstm_seconds,
    named=zoo,
    readme={"world": world_words, "replays": replays_words},
    tables=(SECONDS,),
)
