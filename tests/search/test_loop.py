"""A search ends with the same rows however it is interrupted, and does nothing twice."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.search import Record, RecordError, Search, loop, ranked_search, replay
from nasrepro.search.faults import WorkerError
from nasrepro.search.loop import SearchError, evaluate, search, search_id
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, PatientTask, deadline_passes, fake_perplexity
from tests.search.killable import AGENT_SETTINGS, SETTINGS, command

ROOT = Path(__file__).resolve().parents[2]
TASK = FakeTask(failing=True)


def run(record: Record, task: FakeTask = TASK, **changes: Any) -> Search:
    return search(task, replace(SETTINGS, **changes), record, workers=0, progress=False)


def rows(record: Record) -> list[Any]:
    """All that a search leaves behind, but for clocks."""
    evaluations = [asdict(evaluation) for evaluation in record.evaluations()]
    for evaluation in evaluations:
        del evaluation["seconds"], evaluation["created"]
        evaluation["metrics"] = sorted(evaluation["metrics"].items(), key=repr)
    return [repr(evaluations), [(record.proposals(name), record.steps(name)) for name in record.searches()]]


@pytest.fixture(scope="module")
def unbroken() -> Record:
    record = Record()
    run(record)
    return record


@pytest.fixture(scope="module")
def history(unbroken: Record) -> Search:
    return replay(unbroken, next(iter(unbroken.searches())))


# ---- nothing is done twice, and the order of results does not matter


def test_a_second_run_trains_and_ranks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASK, pids=tmp_path / "calls")
    record = Record()
    first = run(record, task)
    calls = len((tmp_path / "calls").read_text().splitlines())
    assert calls == 33
    before = rows(record)
    monkeypatch.setattr(ranked_search, "propose_cells", lambda *_: pytest.fail("proposed again"))
    second = search(task, SETTINGS, record, workers=3, progress=False)  # starts no process either
    assert len((tmp_path / "calls").read_text().splitlines()) == calls
    assert rows(record) == before
    assert second.frame().equals(first.frame())


def test_a_larger_budget_goes_on_and_a_smaller_one_is_a_part(unbroken: Record, history: Search) -> None:
    record = Record()
    run(record, cells=11)
    assert len(record.evaluations()) == 11
    run(record)
    assert rows(record) == rows(unbroken)
    assert run(record, cells=11).frame().equals(history.frame()[:11])


def test_the_order_in_which_cells_finish_does_not_matter(unbroken: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(Workers):
        def map(self, jobs: Any) -> Iterator[tuple[Job, Outcome]]:
            yield from reversed(list(super().map(jobs)))

    monkeypatch.setattr(loop, "Workers", Backwards)
    record = Record()
    run(record)
    assert rows(record) == rows(unbroken)


def test_evaluations_that_the_record_holds_are_used_by_another_search(tmp_path: Path) -> None:
    record = Record()
    run(record)
    control = run(record, replace(TASK, pids=tmp_path / "calls"), method="random")  # it begins with the same 8 cells
    known = len(control.trials) + 33 - len(record.evaluations())
    assert known >= 8
    assert len((tmp_path / "calls").read_text().splitlines()) == 33 - known


def test_equal_cells_are_evaluated_once_and_given_back_in_order(tmp_path: Path) -> None:
    a, b = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))"), parse("Tanh(Add(MM(h_{t-1}), MM(x_t)))")
    task = FakeTask(pids=tmp_path / "calls")
    with Record() as record, Workers(task, 0) as workers:
        found = evaluate([Job(cell, 5) for cell in (a, zoo["GRU"], b)], record, workers)
        assert [e.hash for e in found] == [a.hash, zoo["GRU"].hash, a.hash]
        assert TASK.loss.of(found[0]) == fake_perplexity(a, 5)
        assert len(record.evaluations()) == len((tmp_path / "calls").read_text().splitlines()) == 2


# ---- faults


def test_a_task_that_always_crashes_stops_the_search_and_leaves_no_results() -> None:
    class Broken(FakeTask):
        def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
            raise TypeError("a slip of the programmer")

    record = Record()
    with pytest.raises(SearchError, match=r"all 8 candidates crashed, .*TypeError: a slip of the programmer"):
        run(record, Broken())
    assert record.evaluations() == []
    assert len(run(record, FakeTask()).trials) == 33  # mended, it goes on


def test_the_machines_fault_ends_the_search_and_stands_in_no_row(history: Search, unbroken: Record) -> None:
    bad = history.frame().hash[11]
    record = Record()
    with pytest.raises(WorkerError, match="No space left on device"):
        run(record, replace(TASK, behaviour={bad: "disk"}))
    assert bad not in {evaluation.hash for evaluation in record.evaluations()}
    assert len(record.evaluations()) == 11
    run(record)  # there is room again
    assert rows(record) == rows(unbroken)


def test_a_limit_that_no_cell_keeps_stops_the_search_and_leaves_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTask, "evaluate", lambda *_: Outcome("failed", "out of memory"))
    record = Record()
    with pytest.raises(SearchError, match=r"all 8 candidates crashed, .*'out of memory'.* its limits"):
        run(record)
    assert record.evaluations() == []


def test_settings_with_equal_numbers_make_one_search() -> None:
    equal = replace(
        SETTINGS,
        cells=np.int64(33),
        step=8.0,
        temperature=1,
        growth=replace(SETTINGS.growth, weights={"MM": 2}),
        ranker=replace(SETTINGS.ranker, learning_rate=np.float64(1e-3), favour=1),
    )
    same = replace(SETTINGS, growth=replace(SETTINGS.growth, weights={"MM": 2.0}))
    assert search_id(TASK, equal) == search_id(TASK, same) != search_id(TASK, SETTINGS)
    assert equal == same
    agent = replace(AGENT_SETTINGS, reinforce=replace(AGENT_SETTINGS.reinforce, clip=1), step=np.int8(5))
    assert search_id(TASK, agent) == search_id(TASK, AGENT_SETTINGS)


def test_seeds_of_any_library_are_trained(tmp_path: Path) -> None:
    """Through a worker and into a file: what torch and SQLite take from Python's own int only."""
    with Record(tmp_path / "r.db") as record, Workers(FakeTask(), 0) as workers:
        for seed in (np.int64(5), 5.0):
            (found,) = evaluate([Job(zoo["GRU"], seed)], record, workers)  # type: ignore[arg-type]
            assert TASK.loss.of(found) == fake_perplexity(zoo["GRU"], 5)
        assert len(record.evaluations()) == 1


def test_cells_that_crash_here_and_there_are_failures(history: Search) -> None:
    bad = history.frame().hash[2]
    record = Record()
    frame = run(record, replace(TASK, behaviour={bad: "raise"}), cells=16).frame()
    assert frame[frame.hash == bad].reason.tolist() == ["crashed: ValueError: no such cell"]
    assert len(frame) == 16


def test_ctrl_c_says_how_to_go_on(unbroken: Record, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakeTask):
        left = 12

        def evaluate(self, cell: Cell, seed: int, on_epoch: Any = None) -> Outcome:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().evaluate(cell, seed)

    record = Record()
    with pytest.raises(KeyboardInterrupt):
        run(record, Interrupted(failing=True))
    assert "stopped with 12 of 33 candidates; run it again to go on" in capsys.readouterr().err
    run(record)
    assert rows(record) == rows(unbroken)


# ---- a deadline


@pytest.mark.parametrize("count", [0, 2])
def test_a_deadline_lets_those_in_training_come_to_their_end_and_begins_no_others(
    count: int, unbroken: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, record = PatientTask(failing=True, pids=tmp_path / "pids"), Record()
    with deadline_passes(tmp_path), pytest.raises(TimeIsUp, match="stopped after 9 minutes"):
        search(task, SETTINGS, record, workers=count, progress=False)
    made = len(record.evaluations())
    assert 1 <= made <= max(1, count)
    assert len((tmp_path / "pids").read_text().splitlines()) == made
    assert f"stopped with {made} of 33 candidates; run it again to go on" in capsys.readouterr().err
    run(record)
    assert rows(record) == rows(unbroken)


def test_after_a_deadline_what_is_recorded_is_replayed_and_nothing_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record()
    run(record, cells=8)
    monkeypatch.setenv(VARIABLE, "0 9")
    monkeypatch.setattr(ranked_search, "propose_cells", lambda *_: pytest.fail("proposed"))
    assert len(run(record, cells=8).trials) == 8
    with pytest.raises(TimeIsUp):
        run(record)


# ---- replay


def test_an_exported_search_replays_without_torch(unbroken: Record, history: Search, tmp_path: Path) -> None:
    unbroken.export(tmp_path / "r.jsonl.gz")
    program = (
        "import sys; from nasrepro.search import Record, replay\n"
        f"record = Record.load({str(tmp_path / 'r.jsonl.gz')!r})\n"
        f"replay(record, {history.id!r}).frame().to_csv(sys.stdout, index=False)\n"
        "assert 'torch' not in sys.modules"
    )
    csv = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert csv == history.frame().to_csv(index=False)


def test_replaying_a_search_that_is_not_there(unbroken: Record, history: Search) -> None:
    with pytest.raises(RecordError, match=f"holds no search 'nil'; it holds {history.id}"):
        replay(unbroken, "nil")


# ---- kill -9


def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_rows(unbroken: Record, tmp_path: Path) -> None:
    path, chance, moments = tmp_path / "r.db", random.Random(), []
    with Record(path) as record:
        for _ in range(2):
            process = subprocess.Popen(command(path), cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_for_results(record, chance.randint(1, 7), process)
            pause = chance.random() * 0.3
            time.sleep(pause)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            moments.append((len(record.evaluations()), pause))
        assert 0 < len(record.evaluations()) < 33
        run(record)
        assert rows(record) == rows(unbroken), f"killed after {moments}"


def wait_for_results(record: Record, more: int, process: "subprocess.Popen[Any]") -> None:
    wanted = len(record.evaluations()) + more
    while len(record.evaluations()) < wanted:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.03)
