"""A search with the real trainer that is killed or stopped half-way ends with the same bits as one that is not."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nasrepro.deadline import TimeIsUp
from nasrepro.search import Record, RecordError
from nasrepro.search.loop import search
from tests.search.fakes import deadline_passes
from tests.trainers.killable import SETTINGS, TASK, PatientTask

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.trainers.killable"]


def rows(record: Record) -> list[Any]:
    """All that a search leaves behind, but for clocks; numbers by their repr, which keeps every bit."""
    evaluations = [asdict(evaluation) for evaluation in record.evaluations()]
    for evaluation in evaluations:
        del evaluation["seconds"], evaluation["created"]
    searches = [(record.proposals(name), record.steps(name)) for name in record.searches()]
    return [repr(evaluations), repr(searches)]


def count(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with Record(path) as record:
            return len(record.evaluations())
    except RecordError:  # a moment ago it was made, and is being filled
        return 0


def test_killed_half_way_and_run_again_it_ends_with_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "record.sqlite"
    process = subprocess.Popen([*COMMAND, path, "0"], cwd=ROOT)
    unbroken = Record()
    search(TASK, SETTINGS, unbroken, workers=0, progress=False)  # here, while that one starts
    try:
        while count(path) < 3 and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert 3 <= count(path) < SETTINGS.cells
    subprocess.run([*COMMAND, path, "1"], cwd=ROOT, check=True)  # and in a process of its own
    with Record(path) as record:
        assert rows(record) == rows(unbroken)
        assert len(record.evaluations()) == SETTINGS.cells
        assert {evaluation.status for evaluation in record.evaluations()} <= {"ok", "failed"}
        assert any(TASK.loss.of(evaluation) for evaluation in record.evaluations())
        assert not any("crash" in evaluation.reason for evaluation in record.evaluations())


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_within_trainings_and_run_again_it_ends_with_the_same_rows(workers: int, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    task = PatientTask(level="char", training=TASK.training, checkpoints=str(checkpoints))
    record, unbroken = Record(tmp_path / "record.sqlite"), Record()
    with deadline_passes(tmp_path), pytest.raises(TimeIsUp, match="the same command goes on"):
        search(task, SETTINGS, record, workers=workers, progress=False)
    assert record.evaluations() == [], "one that is stopped has neither failed nor ended"
    assert 1 <= len(list(checkpoints.iterdir())) <= max(1, workers)
    task = replace(TASK, checkpoints=str(checkpoints))
    search(task, SETTINGS, record, workers=0, progress=False)
    search(TASK, SETTINGS, unbroken, workers=0, progress=False)
    assert rows(record) == rows(unbroken)
    assert list(checkpoints.iterdir()) == []
