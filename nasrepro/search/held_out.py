"""The test split: read once for a row of results, when everything was decided on the validation split."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from nasrepro.dsl import Cell
from nasrepro.search.record import Evaluation, Record, RecordError, TestSplit, evaluation_key
from nasrepro.trainers.outcome import Outcome, Task


class TestableTask(Task, Protocol):
    """A task whose models can be measured on the test split as well."""

    @property
    def corpus(self) -> TestSplit:
        """The data, its test split under lock."""

    def train(self, cell: Cell, seed: int) -> tuple[Outcome, Any]:
        """What `evaluate` does, and the model that came of it."""
        ...

    def test(self, model: Any, split: Any) -> dict[str, float]:
        """The model's numbers on a test split, named "test_...": such as test_ppl."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """A task under another name, so that rows which report the test split have keys of their own."""

    task: TestableTask

    @property
    def name(self) -> str:
        """The task's name in such rows."""
        return f"{self.task.name}, test split"

    @property
    def version(self) -> int:
        """The task's."""
        return self.task.version

    @property
    def settings(self) -> dict[str, Any]:
        """The task's."""
        return self.task.settings

    @property
    def data_hash(self) -> str:
        """The task's."""
        return self.task.data_hash


def evaluate_test(task: TestableTask, cell: Cell, seed: int, record: Record, row: str) -> Evaluation:
    """A cell that was chosen on the validation split, on the test split (`metrics["test_ppl"]` and the like).

    The model is trained again from its seed, because records keep numbers and no weights. The split is read through
    `Record.read_test` under the name `row` and the evaluation's key, so that each reading names what it was for; asked
    again, the record answers, and nothing is trained or read.

    Raises RecordError, before any training, when the row has read this split for another model.
    """
    held_out = HeldOut(task)
    key = evaluation_key(held_out, cell, seed)
    known = record.get(key)
    if known is not None:
        return known
    for reading in record.test_reads():
        name, _, of = reading["row"].rpartition(" ")
        if (name, reading["data"]) == (row, task.data_hash) and of != key[:12]:
            raise RecordError(
                f"row {row!r} read the test split of {reading['corpus']} on {reading['created']} for another model, "
                "and that is done once; compare models on the validation split, or report a new row and say so"
            )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process: more threads change the order of sums
    try:
        outcome, model = task.train(cell.canonical(), seed)
        if outcome.status == "ok":
            # The record holds no result under this key, so an earlier reading for it was cut short by a kill.
            split = record.read_test(task.corpus, f"{row} {key[:12]}", unfinished=True)
            outcome = replace(outcome, metrics={**outcome.metrics, **task.test(model, split)})
    finally:
        torch.set_num_threads(threads)
    record.put(Evaluation.of(held_out, cell, seed, outcome))
    return record[key]
