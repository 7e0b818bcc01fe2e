"""Cells that misbehave become failed outcomes with a reason, and the cells beside them are none the worse."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasrepro.dsl import zoo
from nasrepro.search.workers import Job, WorkerError, Workers
from tests.search.fakes import AskingTask, FakeTask, UnloadableTask, fake_perplexity

ROOT = Path(__file__).resolve().parents[2]
CELLS = [zoo[name] for name in ("TanhRNN", "LSTM", "GRU", "MGU", "QRNN", "BC3", "MT1", "MT2")]


def outcomes(task: FakeTask, count: int, **limits: float) -> dict[str, tuple[str, dict[str, float]]]:
    with Workers(task, count, **limits) as workers:  # type: ignore[arg-type]
        results = list(workers.map([Job(cell, 3) for cell in CELLS]))
    assert len(results) == len(CELLS)
    assert all(outcome.status == ("failed" if outcome.reason else "ok") for _, outcome in results)
    return {job.cell.hash: (outcome.reason, outcome.metrics) for job, outcome in results}


def test_guests_cannot_hurt_each_other(capfd: pytest.CaptureFixture[str]) -> None:
    expected = {
        "crash": "crashed: SIGSEGV",
        "exit": "crashed: exit 3",
        "raise": "crashed: ValueError: no such cell",
        "hang": "timed out",
        "memory": "out of memory",
        "killed": "out of memory",
    }
    behaviour = dict(zip([cell.hash for cell in CELLS], expected, strict=False))
    found = outcomes(FakeTask(behaviour=behaviour), count=2, timeout_s=4, memory_gb=1)
    assert {how: found[key][0] for key, how in behaviour.items()} == expected
    for cell in CELLS[len(expected) :]:
        assert found[cell.hash] == ("", {"valid_ppl": fake_perplexity(cell, 3)})
    assert "second line" in capfd.readouterr().err  # the whole traceback is printed, though the reason is one line


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    task = FakeTask(sleep=0.1)
    assert outcomes(task, 0) == outcomes(task, 1) == outcomes(task, 3)


def test_a_relative_folder_is_the_same_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin in the folder where this process began, which is not where it works now."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASREPRO_DATA", "own")
    reasons = {count: {reason for reason, _ in outcomes(AskingTask(), count).values()} for count in (0, 1)}
    assert reasons == {0: {str(tmp_path / "own")}, 1: {str(tmp_path / "own")}}


def test_in_this_process_too_an_error_is_an_outcome() -> None:
    found = outcomes(FakeTask(behaviour={CELLS[0].hash: "raise"}), count=0)
    assert found[CELLS[0].hash][0] == "crashed: ValueError: no such cell"


def test_workers_are_kept_between_calls(tmp_path: Path) -> None:
    task = FakeTask(pids=tmp_path / "pids")
    with Workers(task, count=1) as workers:
        for _ in range(2):
            list(workers.map([Job(cell, 0) for cell in CELLS[:2]]))
        assert list(workers.map([])) == []
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 4
    assert len(set(pids)) == 1
    assert is_gone(int(pids[0]))


def test_a_task_that_cannot_be_loaded_is_no_fault_of_the_cells() -> None:
    with (
        Workers(UnloadableTask(), count=1) as workers,
        pytest.raises(WorkerError, match="FileNotFoundError: no data here"),
    ):
        list(workers.map([Job(CELLS[0], 0)]))


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from nasrepro.search.workers import Job, Workers\n"
        "from nasrepro.dsl import zoo\n"
        "from tests.search.fakes import FakeTask\n"
        "list(Workers(FakeTask(), 1).map([Job(zoo['GRU'], 0)]))\n"
    )
    run = subprocess.run([sys.executable, script], env=environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "needs `if __name__" in run.stderr


@pytest.mark.parametrize(("count", "threads"), [(-1, 1), (1, 0)])
def test_numbers_that_make_no_worker_set(count: int, threads: int) -> None:
    with pytest.raises(ValueError, match="0 or more workers of 1 or more threads"):
        Workers(FakeTask(), count, threads=threads)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that waits for a worker that hangs, and the worker's number."""
    pids, script = tmp_path / "pids", tmp_path / "script.py"
    script.write_text(
        "import sys, pathlib\n"
        "from nasrepro.search.workers import Job, Workers\n"
        "from nasrepro.dsl import zoo\n"
        "from tests.search.fakes import FakeTask\n"
        "if __name__ == '__main__':\n"
        "    task = FakeTask(behaviour={zoo['GRU'].hash: 'hang'}, pids=pathlib.Path(sys.argv[1]))\n"
        "    with Workers(task, 2) as workers:\n"
        "        list(workers.map([Job(zoo['GRU'], 0), Job(zoo['GRU'], 1)]))\n"
    )
    command = [sys.executable, script, pids]
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        yield process, int(pids.read_text().split()[0])
        process.kill()


def test_workers_do_not_outlive_a_parent_that_is_killed(
    hanging: tuple["subprocess.Popen[str]", int],
) -> None:
    parent, worker = hanging
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: is_gone(worker))


def test_ctrl_c_ends_the_workers_without_a_word_from_them(
    hanging: tuple["subprocess.Popen[str]", int],
) -> None:
    parent, worker = hanging
    os.killpg(parent.pid, signal.SIGINT)  # in a terminal, Ctrl-C reaches every process in the foreground
    _, errors = parent.communicate(timeout=60)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1  # the parent's own
    wait_until(lambda: is_gone(worker))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def is_gone(pid: int) -> bool:
    """Ended, though perhaps not yet collected by its new parent."""
    try:
        os.kill(pid, 0)
        return (Path("/proc") / str(pid) / "stat").read_text().split()[2] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
