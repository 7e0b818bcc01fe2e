"""ZL17's transfer to translation (section 4.2): the found cell dropped into GNMT, against the LSTM at equal cost.

Notebook 14 shows the model, solves its width, and compares the cells.
"""

from functools import partial
from itertools import product

from nasrepro.dsl import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_transfer.readme import table
from nasrepro.experiments.zl17_transfer.sizes import COMPARED, SIZES, TransferSizes, row
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import PairsSize, forecast_gnmt_seconds
from nasrepro.trainers.gnmt_translation import GnmtTask

NOTEBOOK = "14"


def trainings(sizes: TransferSizes) -> list[Trainings]:
    """What notebook 14 compares."""
    count, make = len(COMPARED) * len(sizes.seeds), partial(_compare, sizes)
    return [Trainings(NOTEBOOK, "cells in GNMT at equal cost", sizes.task, count, make, ["zl17.gnmt"], is_tested=True)]


def _compare(sizes: TransferSizes, resources: Resources) -> None:
    rows = {row(name, seed): Job(zoo[name], seed) for seed, name in product(sizes.seeds, COMPARED)}
    for name, found in evaluate_tests(sizes.task, rows, resources.record, resources.workers).items():
        print(f"{name}: {found.reason or found.metrics}")


def seconds(task: GnmtTask, device: str) -> float:
    """How long one training of the found cell takes here. Of Multi30k and WMT'14 no data is needed."""
    return forecast_gnmt_seconds(zoo["NASCell"], task.training, PairsSize.of_task(task), steps=1, device=device)


EXPERIMENT = Experiment(
    name="zl17_transfer",
    about="ZL17's transfer to translation: the found cell in GNMT, against the LSTM at equal cost",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
    shipped={"course": ("multi30k-gnmt.jsonl.gz",), "night": ("multi30k-gnmt.jsonl.gz",)},
    named=zoo,
    readme={"transfer": table},
)
