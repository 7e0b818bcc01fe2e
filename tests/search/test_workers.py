"""Cells that misbehave become failed outcomes with a reason, and the cells beside them are none the worse."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasrepro.dsl import Cell, zoo
from nasrepro.search import Record
from nasrepro.search.faults import WorkerError
from nasrepro.search.loop import evaluate
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import AskingTask, DyingTask, FakeTask, SlovenlyTask, UnloadableTask, fake_perplexity

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
    }
    behaviour = dict(zip([cell.hash for cell in CELLS], expected, strict=False))
    found = outcomes(FakeTask(behaviour=behaviour), count=2, timeout_s=4, memory_gb=1)
    assert {how: found[key][0] for key, how in behaviour.items()} == expected
    for cell in CELLS[len(expected) :]:
        assert found[cell.hash] == ("", {"valid_ppl": fake_perplexity(cell, 3)})
    assert "second line" in capfd.readouterr().err  # the whole traceback is printed, though the reason is one line


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("how", "reason"), [("killed once", ""), ("killed", "out of memory")])
def test_who_is_killed_is_tried_again_alone(how: str, reason: str, count: int, tmp_path: Path) -> None:
    """A system that lacks memory kills whom it likes; one that kills the only process again knows whose fault it is."""
    task = FakeTask(behaviour={CELLS[1].hash: how}, pids=tmp_path / "pids")
    found = outcomes(task, count)
    assert {key: found[key][0] for key in found} == {cell.hash: reason * (cell is CELLS[1]) for cell in CELLS}
    assert len((tmp_path / "pids").read_text().split()) == len(CELLS) + 1


def test_what_the_machine_does_to_a_cell_is_no_outcome() -> None:
    task = FakeTask(behaviour={CELLS[1].hash: "disk"})
    found: list[str] = []
    message = r"OSError: \[Errno 28\] No space left on device.* Make room on that disk"
    with Workers(task, 1) as workers, pytest.raises(WorkerError, match=message) as caught:
        found.extend(job.cell.hash for job, _ in workers.map([Job(cell, 3) for cell in CELLS[:3]]))
    assert f"Nothing was written about {CELLS[1]}, seed 3" in str(caught.value)
    assert found == [CELLS[0].hash]


@pytest.mark.parametrize("how", ["disk", "data", "library"])
def test_in_this_process_too_the_machines_fault_is_no_outcome(how: str) -> None:
    with pytest.raises(WorkerError, match="the machine failed, not the cell"):
        outcomes(FakeTask(behaviour={CELLS[0].hash: how}), count=0)


def test_without_a_limit_it_is_the_machine_that_lacks_memory() -> None:
    class Greedy(FakeTask):
        def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
            raise MemoryError

    with pytest.raises(WorkerError, match=r"MemoryError.* Use fewer workers"):
        outcomes(Greedy(), count=0)


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


@pytest.mark.parametrize("command", [["-"], ["/dev/stdin"]])
def test_a_program_from_standard_input_is_told_that_it_has_no_file(command: list[str]) -> None:
    """As with `python - <<EOF`, `cat job.py | python /dev/stdin` and `python <(cat job.py)`."""
    program = (
        "from nasrepro.search.workers import Job, Workers\n"
        "from nasrepro.dsl import zoo\n"
        "from tests.search.fakes import FakeTask\n"
        "if __name__ == '__main__':\n"
        "    list(Workers(FakeTask(), 1).map([Job(zoo['GRU'], 0)]))\n"
    )
    command = [sys.executable, *command]
    run = subprocess.run(
        command, input=program, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "is no file, as with `python - <<EOF`: save the program as a file" in run.stderr
    assert "FileNotFoundError" not in run.stderr  # no process was begun in vain
    assert "needs `if __name__" not in run.stderr


def test_a_task_that_was_typed_in_is_told_to_move_into_a_module() -> None:
    program = (
        "from nasrepro.search.workers import Job, Workers\n"
        "from nasrepro.dsl import zoo\n"
        "from tests.search.fakes import FakeTask\n"
        "class Mine(FakeTask): pass\n"
        "list(Workers(Mine(), 1).map([Job(zoo['GRU'], 0)]))\n"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "put the task's class into a module" in run.stderr


def test_a_task_that_does_not_pickle_is_told_why() -> None:
    class Local(FakeTask):
        pass

    with Workers(Local(), 1) as workers, pytest.raises(WorkerError, match=r"Local.* at the top level of a module"):
        list(workers.map([Job(CELLS[0], 0)]))


@pytest.mark.parametrize(
    ("code", "message"),
    [(-signal.SIGKILL, "was ended by SIGKILL before it was ready"), (1, "needs `if __name__")],
)
def test_a_process_that_never_was_ready_says_what_is_known(code: int, message: str) -> None:
    with Workers(DyingTask(code=code), 1) as workers, pytest.raises(WorkerError, match=message):
        list(workers.map([Job(CELLS[0], 0)]))


# ---- a pool after a fault, and after a loop that was left


@pytest.mark.parametrize("count", [1, 2])
def test_a_pool_goes_on_after_the_machine_has_failed(count: int, tmp_path: Path) -> None:
    task = FakeTask(behaviour={CELLS[1].hash: "disk once"}, pids=tmp_path / "pids")
    jobs = [Job(cell, 3) for cell in CELLS]
    with Workers(task, count) as workers:
        with pytest.raises(WorkerError, match="No space left on device"):
            list(workers.map(jobs))
        found = dict(workers.map(jobs))  # there is room again
    assert {job: outcome.metrics for job, outcome in found.items()} == expected(jobs)


def test_a_pool_goes_on_after_a_task_could_not_be_loaded() -> None:
    with Workers(UnloadableTask(), count=2) as workers:
        for _ in range(2):
            with pytest.raises(WorkerError, match="FileNotFoundError: no data here"):
                list(workers.map([Job(CELLS[0], 0), Job(CELLS[1], 0)]))


def test_jobs_of_a_loop_that_was_left_are_no_part_of_the_next(tmp_path: Path) -> None:
    task = FakeTask(behaviour={CELLS[1].hash: "late once", CELLS[2].hash: "slow"}, pids=tmp_path / "pids")
    with Workers(task, 2) as workers:
        for job, _ in workers.map([Job(CELLS[1], 3), Job(CELLS[0], 3)]):
            assert job.cell == CELLS[0]
            break  # while the other still trains
        jobs = [Job(CELLS[2], 3), Job(CELLS[3], 3)]
        found = dict(workers.map(jobs))
    assert {job: outcome.metrics for job, outcome in found.items()} == expected(jobs)


def test_two_loops_at_once_would_take_each_others_results(tmp_path: Path) -> None:
    task = FakeTask(behaviour={CELLS[1].hash: "hang once"}, pids=tmp_path / "pids")
    jobs = [Job(CELLS[1], 3), Job(CELLS[0], 3)]
    with Workers(task, 2) as workers:
        first = workers.map(jobs)
        next(first)
        with pytest.raises(WorkerError, match="go through all results of one `map`, or close it"):
            list(workers.map(jobs))
        first.close()  # type: ignore[attr-defined]
        assert {job: outcome.metrics for job, outcome in workers.map(jobs)} == expected(jobs)


def test_a_process_that_ends_while_idle_is_replaced(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Workers(FakeTask(pids=pids), 1) as workers:
        list(workers.map([Job(CELLS[0], 3)]))
        idle = int(pids.read_text())
        os.kill(idle, signal.SIGTERM)
        wait_until(lambda: is_gone(idle))
        ((_, outcome),) = workers.map([Job(CELLS[1], 3)])
    assert outcome.metrics == {"valid_ppl": fake_perplexity(CELLS[1], 3)}


def expected(jobs: list[Job]) -> dict[Job, dict[str, float]]:
    return {job: {"valid_ppl": fake_perplexity(job.cell, job.seed)} for job in jobs}


# ---- tasks and callers that give something else


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    ("what", "reason"),
    [("unsayable", "crashed: Unsayable: its message cannot be read"), ("stderr", "crashed: ValueError: no such cell")],
)
def test_a_fault_that_is_hard_to_tell_is_told(
    what: str, reason: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Workers(SlovenlyTask(what=what), count) as workers:
        ((_, outcome),) = workers.map([Job(CELLS[0], 0)])
    assert outcome.reason == reason


def test_a_process_that_ends_with_its_cell_has_nothing_to_give_back() -> None:
    """A GPU that the cell has broken would not take it, either."""
    with Workers(SlovenlyTask(what="broken"), 1) as workers:
        ((_, outcome),) = workers.map([Job(CELLS[0], 0)])
    assert outcome.reason == "crashed: RuntimeError: CUDA error: device-side assert triggered"


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(("what", "shown"), [("nothing", "None"), ("long", "'word word")])
def test_a_task_that_returns_no_outcome_is_told_so(what: str, shown: str, count: int) -> None:
    with (
        Workers(SlovenlyTask(what=what), count) as workers,
        pytest.raises(WorkerError, match=f"the task must return an Outcome, got {shown}") as caught,
    ):
        list(workers.map([Job(CELLS[0], 0)]))
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(("what", "why"), [("unpicklable", "cannot pickle an open file"), ("unreadable", "no number")])
def test_an_outcome_that_does_not_travel_is_told(what: str, why: str) -> None:
    with (
        Workers(SlovenlyTask(what=what), 1) as workers,
        pytest.raises(WorkerError, match=f"the outcome cannot be sent between processes .*{why}"),
    ):
        list(workers.map([Job(CELLS[0], 0)]))


def test_a_cell_that_does_not_travel_is_told() -> None:
    class Local:
        """Equal to a cell in all that is asked here."""

    with (
        Workers(FakeTask(), 1) as workers,
        pytest.raises(WorkerError, match=r"the cell cannot be sent between processes .*Local"),
    ):
        list(workers.map([Job(Local(), 0)]))  # type: ignore[arg-type]


def test_a_task_whose_error_is_long_is_not_repeated_whole() -> None:
    class Long(FakeTask):
        def __reduce__(self) -> Any:
            raise ValueError("word " * 20_000)

    with Workers(Long(), 1) as workers, pytest.raises(WorkerError, match="the task cannot be sent") as caught:
        list(workers.map([Job(CELLS[0], 0)]))
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("given", [Job(CELLS[0], 0), [CELLS[0]], [(CELLS[0], 0)], "GRU"])
def test_what_is_no_list_of_jobs_is_refused(given: Any, count: int) -> None:
    """A job is a tuple, and so a list of two things that are no jobs."""
    with Workers(FakeTask(), count) as workers:
        with pytest.raises(TypeError, match=r"jobs come in a list|a job is Job\(cell, seed\), got"):
            list(workers.map(given))
        with pytest.raises(TypeError, match=r"jobs come in a list|a job is Job\(cell, seed\), got"):
            evaluate(given, Record(), workers)


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
