"""The test split: read once for a row of results, when everything was decided on the validation split."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from nasrepro.search.faults import WorkerError
from nasrepro.search.loop import evaluate, has_crashed
from nasrepro.search.record import TEST_SPLIT, Evaluation, Record, RecordError, evaluation_key
from nasrepro.search.workers import Job, Workers, device_of
from nasrepro.trainers.outcome import Candidate, OnEpoch, Outcome, TestableTask


class HeldOut:
    """A task under another name, so that rows which report the test split have keys of their own."""

    def __init__(self, task: TestableTask[Any]) -> None:
        self.task = task
        self.name = task.name + TEST_SPLIT
        self.version, self.settings, self.loss, self.read = task.version, task.settings, task.loss, task.read
        self.device = device_of(task)

    @property
    def data_hash(self) -> str:
        """The task's, which loads its data."""
        return self.task.data_hash


class _Testing(HeldOut):
    """What workers are given: train a candidate, then measure its model on the test split."""

    def __init__(self, task: TestableTask[Any], rows: Mapping[str, str], record: Path) -> None:
        super().__init__(task)
        self.rows = rows  # what each reading is for: the row's name, by the evaluation's key
        self.record = record  # where readings are written down; each process opens it for itself

    def evaluate(self, candidate: Candidate, seed: int, on_epoch: OnEpoch | None = None) -> Outcome:
        """The outcome of the training; where that was a success, with the numbers of the test split."""
        outcome, model = self.task.train(candidate, seed, on_epoch)
        if outcome.status != "ok":
            return outcome
        key = evaluation_key(self, candidate, seed)
        with Record(self.record) as record:
            # The record holds no result under this key, so an earlier reading for it was cut short by a kill.
            split = record.read_test(self.task.corpus, f"{self.rows[key]} {key[:12]}", unfinished=True)
        return replace(outcome, metrics={**outcome.metrics, **self.task.test(model, split)})


def evaluate_tests(
    task: TestableTask[Any], rows: Mapping[str, Job], record: Record, workers: int = 1
) -> dict[str, Evaluation]:
    """Models that were chosen on the validation split, on the test split (`metrics["test_ppl"]` and the like), by row.

    `rows` says which cell and seed each row of results reports. A record keeps no weights, so each model is trained
    again from its seed, by one of so many `workers` (0: in this process), and then reads the split through
    `Record.read_test`, which writes down for which row and evaluation. What the record holds is not made again.

    Raises before any training: RecordError when a row has read this split for another model, ValueError for a record in
    memory and for two rows of one model (equal cell and seed). Raises after it: WorkerError (or SearchError, see
    `evaluate`) when trainings crash, of which nothing is kept, so that the next call trains them again; TimeIsUp as
    `evaluate` does: a training that stops has not read the split.
    """
    if record.path is None:
        raise ValueError("readings of a test split are written down in a file: open the record with Record(path)")
    keys = {row: evaluation_key(HeldOut(task), job.cell, job.seed) for row, job in rows.items()}
    _refuse_two_rows_of_one_model(keys)
    _refuse_other_models(task, keys, record)
    testing = _Testing(task, {key: row for row, key in keys.items()}, record.path)
    _forget_crashes(keys.values(), record)  # of a call that was killed before it could
    try:
        # No limit of time: a cell that was chosen is no guest of a search, and its row shall not stay empty.
        with Workers(testing, workers) as pool, tqdm(total=len(rows), unit="model", disable=len(rows) == 1) as bar:
            evaluate(list(rows.values()), record, pool, bar)
        found = {row: record[key] for row, key in keys.items()}
    finally:
        _forget_crashes(keys.values(), record)
    if crashed := {row: evaluation for row, evaluation in found.items() if has_crashed(evaluation)}:
        row, first = next(iter(crashed.items()))
        raise WorkerError(  # a row of results is no place for the machine's faults
            f"{len(crashed)} of {len(found)} trainings for the test split crashed, the first ({row}) with "
            f"{first.reason!r}. Nothing of these was kept: mend the cause and run again"
        )
    return found


def _forget_crashes(keys: Iterable[str], record: Record) -> None:
    record.forget([key for key in keys if (found := record.get(key)) is not None and has_crashed(found)])


def _refuse_two_rows_of_one_model(keys: Mapping[str, str]) -> None:
    """Raise ValueError for rows with the same key: the split would be read once, and under one of their names."""
    rows: dict[str, str] = {}
    for row, key in keys.items():
        if rows.setdefault(key, row) != row:
            raise ValueError(
                f"rows {rows[key]!r} and {row!r} report one model (equal cell and seed), for which the test split is "
                "read once and under one name; leave one of them out"
            )


def _refuse_other_models(task: TestableTask[Any], keys: Mapping[str, str], record: Record) -> None:
    """Raise RecordError for a row that has read the task's test split for a model of another key."""
    for reading in record.test_reads():
        row, _, of = reading["row"].rpartition(" ")
        if reading["data"] == task.data_hash and row in keys and of != keys[row][:12]:
            raise RecordError(
                f"row {row!r} read the test split of {reading['corpus']} on {reading['created']} for another model, "
                "and that is done once; compare models on the validation split, or report a new row and say so"
            )
