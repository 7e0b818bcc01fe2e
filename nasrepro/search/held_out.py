"""The test split: read once for a row of results, when everything was decided on the validation split."""

from dataclasses import dataclass, fields, replace

import torch

from nasrepro.datasets import batchify
from nasrepro.dsl import Cell
from nasrepro.search.record import Evaluation, Record, RecordError, evaluation_key
from nasrepro.trainers.language_model import LanguageModelTask, evaluate, perplexity, train

HELD_OUT = "language model, test split"
"""The task's name in rows that report the test split."""


@dataclass(frozen=True)
class _HeldOut(LanguageModelTask):
    """The same training under another name: its rows report the test split."""

    name = HELD_OUT


def evaluate_test(task: LanguageModelTask, cell: Cell, seed: int, record: Record, row: str) -> Evaluation:
    """Perplexity on the test split (`metrics["test_ppl"]`) of a cell that was chosen on the validation split.

    The model is trained again from its seed, because records keep numbers and no weights. The split is read through
    `Record.read_test` under the name `row` and the evaluation's key, so that each reading names what it was for; asked
    again, the record answers, and nothing is trained or read.

    Raises RecordError, before any training, when the row has read this split for another model.
    """
    held_out = _HeldOut(**{field.name: getattr(task, field.name) for field in fields(task)})
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
        outcome, model = train(cell.canonical(), task.corpus, task.training, seed, device=task.device)
        if outcome.status == "ok":
            # The record holds no result under this key, so an earlier reading for it was cut short by a kill.
            test = record.read_test(task.corpus, f"{row} {key[:12]}", unfinished=True)
            loss = evaluate(model, batchify(test, task.training.eval_batch).to(task.device))
            outcome = replace(outcome, metrics={**outcome.metrics, "test_ppl": perplexity(loss)})
    finally:
        torch.set_num_threads(threads)
    record.put(Evaluation.of(held_out, cell, seed, outcome))
    return record[key]
