"""ZL17's convolutional half (section 4.1): searches by its controller, and the network of Figure 7 with its controls.

Notebook 08 shows how the controller writes networks, notebook 09 the rows of Table 1. Each search is a list of
trainings of its own, so that several can be made side by side: `nasrepro record zl17_convnets --only "digits, seed 1"`.
"""

from functools import partial
from itertools import product

from nasrepro.convnet import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_convnets.readme import on_digits, table
from nasrepro.experiments.zl17_convnets.sizes import COMPARED, SIZES, ConvNetSizes, network, row
from nasrepro.search.convnet_search import ConvNetSearchSettings
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import forecast_image_seconds
from nasrepro.trainers.images import ImageTask


def trainings(sizes: ConvNetSizes) -> list[Trainings]:
    """What notebooks 08 and 09 show: the searches, and the networks of Table 1."""
    found = []
    for each in sizes.searches:
        for words, plan in each.plans().items():
            found.append(Trainings("08", words, each.task, plan.networks, partial(_search, each.task, plan)))
    count, make = len(COMPARED) * len(sizes.seeds), partial(_compare, sizes)
    words, answers = "Figure 7's network and its controls", ["zl17.table1.v1.error"]
    found.append(Trainings("09", words, sizes.task, count, make, answers, is_tested=True))
    return found


def _search(task: ImageTask, plan: ConvNetSearchSettings, resources: Resources) -> None:
    resources.search(task, plan)


def _compare(sizes: ConvNetSizes, resources: Resources) -> None:
    rows = {row(name, seed): Job(network(name, sizes), seed) for seed, name in product(sizes.seeds, COMPARED)}
    for name, found in evaluate_tests(sizes.task, rows, resources.record, resources.workers).items():
        print(f"{name}: {found.reason or found.metrics}")


def seconds(task: ImageTask, device: str) -> float:
    """How long one training of Figure 7's network takes here. Of CIFAR-10 no data is needed."""
    return forecast_image_seconds(zoo["Figure 7"], task, steps=1, device=device)


EXPERIMENT = Experiment(
    name="zl17_convnets",
    about="ZL17's convolutional networks: searches by its controller, and the network of Figure 7 with its controls",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
    shipped={
        "course": ("digits-convnets.jsonl.gz", "cifar10-convnets.jsonl.gz", "cifar10-figure-7.jsonl.gz"),
        "night": ("cifar10-figure-7.jsonl.gz",),
    },
    named=zoo,
    readme={"convnets": table, "digits": on_digits},
)
