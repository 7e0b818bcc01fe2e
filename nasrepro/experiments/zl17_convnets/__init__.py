"""ZL17's convolutional half (section 4.1): searches by its controller, and the network of Figure 7 with its controls.

Notebook 08 shows how the controller writes networks, notebook 09 the rows of Table 1. Each search is a list of
trainings of its own, so that several can be made side by side: `nasrepro record zl17_convnets --only "digits, seed 1"`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

from nasrepro.convnet import zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_convnets.readme import on_digits, small_table, table, worth
from nasrepro.experiments.zl17_convnets.sizes import SIZES, Comparison, ConvNetSizes, SearchSizes
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import forecast_image_seconds
from nasrepro.trainers.images import ImageTask


def trainings(sizes: ConvNetSizes) -> list[Trainings]:
    """What notebooks 08 and 09 show: the searches, and the networks of Table 1."""
    found = []
    for each in sizes.searches:
        found += [Trainings.of("08", words, each.task, [plan]) for words, plan in each.plans().items()]
    words, answers = "Figure 7's network and its controls", ["zl17.table1.v1.error"]
    found.append(_tested(words, sizes.table, sizes.seeds, answers))
    if (small := sizes.small) is not None:  # seed by seed, so that as many are made as there is time for
        words = "these and their rivals at a small size, seed {}"
        found += [_tested(words.format(seed), small, (seed,)) for seed in small.seeds]
    for each in sizes.searches:
        found += _trained_again(each)
    return found


def _tested(words: str, chosen: Comparison, seeds: tuple[int, ...], answers: Sequence[str] = ()) -> Trainings:
    """Networks of a comparison from these seeds."""
    rows = chosen.rows(seeds)
    make = partial(_compare, chosen.task, rows)
    return Trainings("09", words, chosen.task, len(rows), make, answers, is_tested=True)


def _trained_again(each: SearchSizes) -> list[Trainings]:
    """The networks of a search that are trained once more."""
    if (again := each.again) is None:
        return []
    others = [Job(net, seed) for net, seed in product(each.sample(again.networks), again.seeds)]
    longer = [Job(net, again.seeds[0]) for net in each.sample(again.longer_networks)]
    groups = (("from other seeds", each.task, others), ("for longer", again.longer, longer))
    return [
        Trainings.of("08", f"random networks on {task.images} {words}", task, jobs=jobs) for words, task, jobs in groups
    ]


def _compare(task: ImageTask, rows: Mapping[str, Job], resources: Resources) -> None:
    for name, found in evaluate_tests(task, rows, resources.record, resources.workers).items():
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
        "course": (
            "digits-convnets.jsonl.gz",
            "cifar10-convnets.jsonl.gz",
            "cifar10-figure-7.jsonl.gz",
            "cifar10-small-table.jsonl.gz",
        ),
        "night": ("cifar10-figure-7.jsonl.gz",),
    },
    named=zoo,
    readme={"convnets": table, "convnets-small": small_table, "digits": on_digits, "convnets-worth": worth},
)
