"""ZL17's search for recurrent cells (section 4.2): policy gradient, its two controls, and the cells that came of it.

Notebook 10 shows how the controller designs a cell. Each search is a list of trainings of its own, so that several
can be made side by side, by `nasrepro record zl17_cells --only "random search, seed 1"`.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from nasrepro.dsl import Cell, parse, zoo
from nasrepro.experiments.experiment import Experiment, Resources, Trainings, most_recorded, recorded_jobs
from nasrepro.experiments.zl17_cells.readme import LEADS, table
from nasrepro.experiments.zl17_cells.sizes import KNOWN, ON_WORDS, SIZES, CellsSizes
from nasrepro.search.history import Search, has_ended
from nasrepro.search.record import Record
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
        found.append(Trainings.of(NOTEBOOK, words, sizes.task, [plan], answers=answers))
        answers = []  # the searches answer these together
    for words, task, jobs in (
        ("random cells from several seeds", sizes.task, _from_seeds(sizes.random_cells(), sizes.more_seeds)),
        ("known cells as children", sizes.task, _from_seeds([zoo[name] for name in KNOWN], sizes.more_seeds)),
        ("known cells on words", sizes.words_task, _from_seeds([zoo[name] for name in ON_WORDS], sizes.words_seeds)),
    ):
        found.append(Trainings.of(NOTEBOOK, words, task, jobs=jobs))

    words, count = "best cells from more seeds", len(sizes.plans()) * len(sizes.best_seeds)
    make, held = partial(_best_again, sizes), partial(_best_held, sizes)
    found.append(Trainings(NOTEBOOK, words, sizes.task, count, make, held=held))
    for words, task in (sizes.grid.tasks(sizes.task) if sizes.grid else {}).items():
        make = partial(_at_point, sizes, task)
        found.append(Trainings(NOTEBOOK, f"grid search, {words}", task, len(sizes.arms) + 1, make))
    return found


def _from_seeds(cells: Iterable[Cell], seeds: tuple[int, ...]) -> list[Job]:
    return [Job(cell, seed) for cell in cells for seed in seeds]


def _search(sizes: CellsSizes, plan: TokenSearchSettings, resources: Resources) -> Search:
    return resources.search(sizes.task, plan)


def _best_again(sizes: CellsSizes, resources: Resources) -> None:
    searches = [_search(sizes, plan, resources) for plan in sizes.plans().values()]
    resources.train(sizes.task, _best_jobs(sizes, searches))


def _best_jobs(sizes: CellsSizes, searches: Iterable[Search]) -> list[Job]:
    """The best cell of each search, from more seeds. Two searches may have the same."""
    best = {cell.hash: cell for one in searches if (cell := best_cell([one])) is not None}
    return _from_seeds(best.values(), sizes.best_seeds)


def _best_held(sizes: CellsSizes, records: Sequence[Record]) -> int:
    """How many of those are recorded; all where the searches have ended, and not so many are to be trained."""
    plans = list(sizes.plans().values())
    found = [search for plan in plans if (search := most_recorded(records, sizes.task, plan)) is not None]
    jobs = _best_jobs(sizes, found)
    held = len(recorded_jobs(sizes.task, jobs, records))
    is_known = len(found) == len(plans) and all(map(has_ended, found, plans))
    return len(plans) * len(sizes.best_seeds) if is_known and held == len(jobs) else held


def _at_point(sizes: CellsSizes, task: LanguageModelTask, resources: Resources) -> None:
    """Train the best cell of each arm, and the LSTM, with the settings of one point of the grid."""
    cells = [zoo["LSTM"]]
    for arm in sizes.arms:
        best = best_cell([_search(sizes, sizes.plan(arm, seed), resources) for seed in sizes.seeds])
        cells += [] if best is None else [best]
    resources.train(task, _from_seeds(cells, sizes.best_seeds[:1]))


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
    readme={"cells": table},
    tables=(LEADS,),
)
