"""The test split is read once for a row of results, whoever is killed, crashes or asks twice."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nasrepro import experiments
from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.search import Evaluation, Record, RecordError
from nasrepro.search.faults import WorkerError
from nasrepro.search.held_out import evaluate_tests
from nasrepro.search.workers import Job
from nasrepro.trainers.language_model import LanguageModelTask
from tests.experiments.toy import SpellingTask, Word
from tests.search.fakes import evaluate_test

SMOKE = experiments.load("s17_language_model").sizes["smoke"].task
TASK = replace(SMOKE, training=replace(SMOKE.training, hidden=4, embedding=4, train_tokens=500))


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record.sqlite")


def test_the_test_split_is_read_once_for_a_row(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = zoo["TanhRNN"]
    first = evaluate_test(TASK, cell, 1, record, "a row")
    assert first.metrics["valid_ppl"] == pytest.approx(TASK.evaluate(cell.canonical(), 1).metrics["valid_ppl"])
    assert first.metrics["test_ppl"] != first.metrics["valid_ppl"]
    (reading,) = record.test_reads()
    assert (reading["row"], reading["data"]) == (f"a row {first.key[:12]}", TASK.corpus.hash)
    monkeypatch.setattr("nasrepro.trainers.language_model.train", lambda *_, **__: pytest.fail("trained again"))
    assert evaluate_test(TASK, cell, 1, record, "a row") == first
    assert len(record.test_reads()) == 1


def test_a_kill_between_reading_and_writing_does_not_lock_the_row(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Record, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate_test(TASK, zoo["TanhRNN"], 1, record, "a row")
    assert len(record.test_reads()) == 1
    assert record.evaluations() == []
    assert evaluate_test(TASK, zoo["TanhRNN"], 1, record, "a row").metrics["test_ppl"] > 1
    assert len(record.test_reads()) == 1


def test_a_row_cannot_read_the_test_split_for_another_model(record: Record) -> None:
    evaluate_test(TASK, zoo["TanhRNN"], 1, record, "a row")
    with pytest.raises(RecordError, match="row 'a row' read the test split of pydoc"):
        evaluate_test(TASK, zoo["TanhRNN"], 2, record, "a row")
    assert len(record.evaluations()) == 1


def test_a_cell_that_fails_reads_no_test_split(record: Record) -> None:
    task = replace(TASK, training=replace(TASK.training, fail_above=1.5))
    found: Evaluation = evaluate_test(task, zoo["TanhRNN"], 1, record, "a row")
    assert found.status == "failed"
    assert record.test_reads() == []


def test_two_processes_read_what_one_reads_and_each_reading_is_written_down(record: Record, tmp_path: Path) -> None:
    rows = {f"{name}, seed {seed}": Job(zoo[name], seed) for name in ("TanhRNN", "GRU") for seed in (1, 2)}
    found = evaluate_tests(TASK, rows, record, workers=2)
    alone = Record(tmp_path / "alone.sqlite")
    for row, job in rows.items():
        assert found[row].metrics == evaluate_test(TASK, job.cell, job.seed, alone, row).metrics
        assert (found[row].hash, found[row].seed) == (job.cell.hash, job.seed)
    readings = sorted(reading["row"] for reading in record.test_reads())  # they come by the second, so in any order
    assert readings == sorted(f"{row} {evaluation.key[:12]}" for row, evaluation in found.items())


def test_a_training_that_crashes_leaves_its_row_open(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {f"{name}, seed 1": Job(zoo[name], 1) for name in ("TanhRNN", "GRU")}
    train = LanguageModelTask.train

    def gru_crashes(task: LanguageModelTask, cell: Cell, *others: Any) -> Any:
        if cell.hash == zoo["GRU"].hash:
            raise ValueError("a slip")
        return train(task, cell, *others)

    with monkeypatch.context() as broken:
        broken.setattr(LanguageModelTask, "train", gru_crashes)
        with pytest.raises(WorkerError, match=r"1 of 2 trainings .*\(GRU, seed 1\) .*ValueError: a slip"):
            evaluate_tests(TASK, rows, record, workers=0)
    assert [e.hash for e in record.evaluations()] == [zoo["TanhRNN"].hash]
    assert all(e.status == "ok" for e in evaluate_tests(TASK, rows, record, workers=0).values())


def test_a_crash_does_not_outlive_a_call_that_another_fault_ended(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("TanhRNN", "GRU", "LSTM", "BC3")
    rows = {f"{name}, seed {seed}": Job(zoo[name], seed) for seed in (1, 2) for name in names}
    train = LanguageModelTask.train

    def one_crashes_then_the_machine(task: LanguageModelTask, cell: Cell, seed: int, *others: Any) -> Any:
        if seed == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if cell.hash == zoo["GRU"].hash:
            raise ValueError("a slip")
        return train(task, cell, seed, *others)

    with monkeypatch.context() as broken:
        broken.setattr(LanguageModelTask, "train", one_crashes_then_the_machine)
        with pytest.raises(WorkerError, match="No space left on device"):
            evaluate_tests(TASK, rows, record, workers=0)
    kept = [(e.hash, e.seed, e.status) for e in record.evaluations()]
    assert sorted(kept) == sorted((zoo[name].hash, 1, "ok") for name in names if name != "GRU")
    assert all(e.status == "ok" for e in evaluate_tests(TASK, rows, record, workers=0).values())


def test_a_training_that_a_deadline_stops_has_not_read_the_test_split(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = replace(TASK, training=replace(TASK.training, epochs=2), checkpoints=str(tmp_path / "checkpoints"))
    rows = {f"{name}, seed 1": Job(zoo[name], 1) for name in ("TanhRNN", "GRU", "LSTM")}
    unbroken = evaluate_tests(long, rows, Record(tmp_path / "unbroken.sqlite"), workers=0)
    train = LanguageModelTask.train

    def pass_deadline(task: LanguageModelTask, cell: Cell, *others: Any) -> Any:
        if cell.hash == zoo["GRU"].hash:
            monkeypatch.setenv(VARIABLE, "0 9")
        return train(task, cell, *others)

    monkeypatch.setattr(LanguageModelTask, "train", pass_deadline)
    with pytest.raises(TimeIsUp):
        evaluate_tests(long, rows, record, workers=0)
    assert [e.metrics for e in record.evaluations()] == [unbroken["TanhRNN, seed 1"].metrics]
    assert [reading["row"].partition(",")[0] for reading in record.test_reads()] == ["TanhRNN"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    monkeypatch.setattr(LanguageModelTask, "train", train)
    monkeypatch.delenv(VARIABLE)
    found = evaluate_tests(long, rows, record, workers=0)
    assert {row: one.metrics for row, one in found.items()} == {row: one.metrics for row, one in unbroken.items()}
    assert len(record.test_reads()) == 3
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("reason", ["crashed: exit code -9", "out of memory"])
def test_a_crash_that_a_killed_call_left_behind_is_tried_again(record: Record, tmp_path: Path, reason: str) -> None:
    made = evaluate_test(TASK, zoo["TanhRNN"], 1, Record(tmp_path / "other.sqlite"), "a row")
    record.put(replace(made, status="failed", reason=reason, metrics={}))
    assert evaluate_test(TASK, zoo["TanhRNN"], 1, record, "a row").metrics == made.metrics


def test_two_rows_of_one_model_are_refused_before_any_training(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModelTask, "train", lambda *_: pytest.fail("trained"))
    same = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))")
    rows = {"first": Job(zoo["TanhRNN"], 1), "other seed": Job(same, 2), "second": Job(same, 1)}
    with pytest.raises(ValueError, match="rows 'first' and 'second' report one model"):
        evaluate_tests(TASK, rows, record, workers=0)
    assert record.test_reads() == []


def test_readings_need_a_file() -> None:
    with pytest.raises(ValueError, match=r"written down in a file: open the record with Record\(path\)"):
        evaluate_test(TASK, zoo["TanhRNN"], 1, Record(), "a row")


def test_what_is_no_cell_is_tested_alike(record: Record) -> None:
    found = evaluate_test(SpellingTask(), Word("Starch"), 5, record, "a word")
    assert found.metrics == {"error": 1.005, "test_error": 0.0}
    assert found.task == "spelling, test split"
    assert [reading["row"] for reading in record.test_reads()] == [f"a word {found.key[:12]}"]
