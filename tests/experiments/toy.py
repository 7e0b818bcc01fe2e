"""An experiment that has nothing to do with cells: words are looked for that are spelled like another.

All of it is in this file. What a project registers in one line, `EXPERIMENTS["toy"] = EXPERIMENT` does here.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nasrepro import cli
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import Experiment, Resources, Trainings
from nasrepro.notebook import Run
from nasrepro.search import Record, replay
from nasrepro.search.loop import search
from tests.search.toy import SpellingPlan, SpellingTask, Word

ENTRY = "s17.rank.predicts"  # a claim of the papers for which they name no data
RECORD = "toy.jsonl.gz"


@dataclass(frozen=True)
class ToySizes:
    task: SpellingTask
    plan: SpellingPlan


def trainings(sizes: ToySizes) -> list[Trainings]:
    make = partial(_search, sizes)
    return [Trainings("05", "words like another", sizes.task, sizes.plan.budget, make, [ENTRY])]


def _search(sizes: ToySizes, resources: Resources) -> None:
    print(search(sizes.task, sizes.plan, resources.record, resources.workers, resources.timeout_s))


def seconds(task: SpellingTask, _device: str) -> float:
    return 3600 * task.sleep


def letters_right(errors: Sequence[float]) -> list[float]:
    """The analysis: how many letters of each word are right, of the best so far."""
    return [6 - min(errors[: n + 1]) for n in range(len(errors))]


def progress(right: Sequence[float]) -> Figure:
    figure = Figure()
    figure.subplots().plot(right)
    return figure


def readme(records: Path) -> str:
    record = Record.load(records / RECORD)
    (name,) = record.searches()
    return f"{len(replay(record, name).trials)} words were tried."


EXPERIMENT = Experiment(
    name="toy",
    about="words that are spelled like another",
    sizes={"smoke": ToySizes(SpellingTask(sleep=0.2), SpellingPlan(budget=24))},
    trainings=trainings,
    seconds=seconds,
    shipped={"smoke": (RECORD,)},
    named={"target": Word("search")},
    readme={"toy": readme},
    picture="toy-progress.png",
)


def notebook(run: Run) -> None:
    """What its notebook does."""
    found = run.search(run.sizes.plan, run.sizes.task)
    table = found.frame()
    right = letters_right(table["error"].fillna(6.0).tolist())
    run.figure(progress(right), "toy-progress", "Letters that are right", "Of the best word so far.", [ENTRY])
    run.table(table[["cell", "error"]], "toy-words", "Words", f"All words; {run.task.words()}.")
    facts: dict[str, Any] = {"value": right[-1], "unit": "letters", "supports": True, "reason": "a toy"}
    run.finding(ENTRY, budget=1.0, budget_words=f"{len(right)} words", **facts)


def main(*arguments: str) -> None:
    """The `nasrepro` command of a project that has this experiment as well."""
    EXPERIMENTS["toy"] = EXPERIMENT
    sys.exit(cli.main(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
