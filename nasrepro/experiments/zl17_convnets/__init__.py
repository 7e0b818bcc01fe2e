"""ZL17's convolutional half (section 4.1): the network of Figure 7 and its controls on CIFAR-10."""

from functools import partial
from itertools import product

from nasrepro.convnet import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_convnets.sizes import COMPARED, SIZES, ConvNetSizes, row
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import forecast_image_seconds
from nasrepro.trainers.images import ImageTask

NOTEBOOK = "09"


def trainings(sizes: ConvNetSizes) -> list[Trainings]:
    """What notebook 09 compares."""
    count, make = len(COMPARED) * len(sizes.seeds), partial(_compare, sizes)
    answers = ["zl17.table1.v1.error"]
    return [
        Trainings(NOTEBOOK, "Figure 7's network and its controls", sizes.task, count, make, answers, is_tested=True)
    ]


def _compare(sizes: ConvNetSizes, resources: Resources) -> None:
    rows = {row(name, seed): Job(zoo[name], seed) for seed, name in product(sizes.seeds, COMPARED)}
    for name, found in evaluate_tests(sizes.task, rows, resources.record, resources.workers).items():
        print(f"{name}: {found.reason or found.metrics}")


def seconds(task: ImageTask, device: str) -> float:
    """How long one training of Figure 7's network takes here. Of CIFAR-10 no data is needed."""
    return forecast_image_seconds(zoo["Figure 7"], task, steps=1, device=device)


EXPERIMENT = Experiment(
    name="zl17_convnets",
    about="ZL17's convolutional networks: the one that was found, against its controls",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
    shipped={"night": ("cifar10-figure-7.jsonl.gz",)},
    named=zoo,
)
