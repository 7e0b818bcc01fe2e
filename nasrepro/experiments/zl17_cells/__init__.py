"""ZL17's search for recurrent cells (section 4.2): policy gradient, its two controls, and the cells that came of it.

Notebook 10 shows how the controller designs a cell. Each search is a list of trainings of its own, so that several
can be made side by side, by `nasrepro record zl17_cells --only "random search, seed 1"`.
"""

from functools import partial

from nasrepro.dsl import Cell, parse, zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.experiments.zl17_cells.sizes import KNOWN, ON_WORDS, SIZES, CellsSizes
from nasrepro.search.history import Search
from nasrepro.search.token_search import TokenSearchSettings
from nasrepro.search.workers import Job
from nasrepro.trainers.forecast import TextSize, forecast_seconds
from nasrepro.trainers.language_model import LanguageModelTask

NOTEBOOK = "10"


def trainings(sizes: CellsSizes) -> list[Trainings]:
    """What notebook 10 shows: the searches, what a child's loss is worth, and what is done with the best cells."""
    answers = [f"zl17.fig6.top{k}" for k in (1, 5, 15)]
    found = []
    for words, plan in sizes.plans().items():
        found.append(Trainings(NOTEBOOK, words, sizes.task, plan.cells, partial(_search, sizes, plan), answers))
        answers = []  # the searches answer these together
    again = sizes.random_cells()
    jobs = [Job(cell, seed) for cell in again for seed in sizes.more_seeds]
    found.append(_trained("random cells from several seeds", sizes.task, jobs))
    found.append(_trained("known cells as children", sizes.task, _known(KNOWN, sizes.more_seeds)))
    found.append(_trained("known cells on words", sizes.words_task, _known(ON_WORDS, sizes.words_seeds)))

    best = len(sizes.plans()) * len(sizes.best_seeds)
    found.append(Trainings(NOTEBOOK, "best cells from more seeds", sizes.task, best, partial(_best_again, sizes)))
    for words, task in (sizes.grid.tasks(sizes.task) if sizes.grid else {}).items():
        make = partial(_at_point, sizes, task)
        found.append(Trainings(NOTEBOOK, f"grid search, {words}", task, len(sizes.arms) + 1, make))
    return found


def _trained(words: str, task: LanguageModelTask, jobs: list[Job]) -> Trainings:
    return Trainings(NOTEBOOK, words, task, len(jobs), partial(_train, task, jobs))


def _known(names: tuple[str, ...], seeds: tuple[int, ...]) -> list[Job]:
    return [Job(zoo[name], seed) for name in names for seed in seeds]


def _train(task: LanguageModelTask, jobs: list[Job], resources: Resources) -> None:
    resources.train(task, jobs)


def _search(sizes: CellsSizes, plan: TokenSearchSettings, resources: Resources) -> Search:
    return resources.search(sizes.task, plan)


def _best_again(sizes: CellsSizes, resources: Resources) -> None:
    searches = [_search(sizes, plan, resources) for plan in sizes.plans().values()]
    best = [cell for one in searches if (cell := best_cell([one])) is not None]
    _train(sizes.task, [Job(cell, seed) for cell in best for seed in sizes.best_seeds], resources)


def _at_point(sizes: CellsSizes, task: LanguageModelTask, resources: Resources) -> None:
    """Train the best cell of each arm, and the LSTM, with the settings of one point of the grid."""
    cells = [zoo["LSTM"]]
    for arm in sizes.arms:
        best = best_cell([_search(sizes, sizes.plan(arm, seed), resources) for seed in sizes.seeds])
        cells += [] if best is None else [best]
    _train(task, [Job(cell, seed=sizes.best_seeds[0]) for cell in cells], resources)


def best_cell(searches: list[Search]) -> Cell | None:
    """The cell of the lowest validation loss that any of these searches trained; None where nothing came to its end."""
    trained = [
        (loss, evaluation.cell)
        for one in searches
        for _, evaluation in one.trials
        if (loss := one.loss.of(evaluation)) is not None
    ]
    return parse(min(trained)[1]) if trained else None


def seconds(task: LanguageModelTask, device: str) -> float:
    """How long one training of a cell as large as the space's takes here."""
    return forecast_seconds(zoo["NASCell"], task.training, TextSize.of_task(task), steps=1, device=device)


EXPERIMENT = Experiment(
    name="zl17_cells",
    about="ZL17's search for recurrent cells: policy gradient, its two controls, and the cells that came of it",
    sizes=SIZES,
    trainings=trainings,
    seconds=seconds,
    shipped={
        "course": ("ptb-chars-cells.jsonl.gz", "ptb-words-cells.jsonl.gz"),
        "night": ("ptb-words-cells.jsonl.gz",),
    },
    named=zoo,
)
