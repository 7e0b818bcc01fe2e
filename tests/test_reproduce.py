"""A run of notebooks that has ended early: its command goes on, and any other begins anew."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.notebook import FRESH_BEGUN
from nasrepro.reproduce import run_notebooks

PARAMETERS = {"PROFILE": "smoke", "DEVICE": "cpu", "SIZES": (1, 2)}


class Run:
    """Runs three notebooks that only note that they ran. `stop_at`: which of them a deadline stops, or `end`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "results"
        self.notebooks = [folder / f"{name}.ipynb" for name in ("01_a", "02_b", "03_c")]
        for notebook in self.notebooks:
            notebook.write_text(notebook.name)
        self.ran: list[tuple[str, bool]] = []
        self.stop_at = ""
        self.end: type[BaseException] = TimeIsUp

    def __call__(self, fresh: bool = False, only: slice = slice(None), **changed: Any) -> list[tuple[str, bool]]:
        """The notebooks that ran, each with its FRESH."""
        self.ran = []
        run_notebooks(self.notebooks[only], self.folder, PARAMETERS | changed, fresh, self.execute)
        return self.ran

    def execute(self, notebook: Path, folder: Path, parameters: dict[str, Any]) -> float:
        assert folder == self.folder
        self.ran.append((notebook.name[:2], parameters["FRESH"]))
        if notebook.name.startswith(self.stop_at or "none"):
            raise self.end("stopped after 9 minutes")
        return 50.0

    def stopped(self, at: str, end: type[BaseException] = TimeIsUp, **how: Any) -> list[tuple[str, bool]]:
        """Run until something ends it in that notebook; those that ran, that one included."""
        self.stop_at, self.end = at, end
        with pytest.raises(end):
            self(**how)
        self.stop_at, self.end = "", TimeIsUp
        assert (self.folder / "stopped.json").exists()
        os.environ[FRESH_BEGUN] = ""  # who goes on does so in another process
        return self.ran


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(FRESH_BEGUN, "")  # so that the end of the test takes away what it sets
    monkeypatch.setattr("nasrepro.reproduce.device_name", str)
    return Run(tmp_path)


ALL = [("01", False), ("02", False), ("03", False)]
ALL_FRESH = [(number, True) for number, _ in ALL]


def test_what_was_done_before_a_stop_is_not_run_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.stop_at = "02"
    with pytest.raises(TimeIsUp, match=r"^done: 01; left: 02, 03\nstopped after 9 minutes$"):
        run()
    assert run.ran == ALL[:2]
    assert run.stopped(at="03") == ALL[1:]
    capsys.readouterr()
    assert run() == ALL[2:]
    assert capsys.readouterr().out.splitlines() == [
        "01_a.ipynb  (done before the stop)",
        "02_b.ipynb  (done before the stop)",
        "03_c.ipynb  (smoke, cpu)",
    ]
    assert not (run.folder / "stopped.json").exists()
    assert run() == ALL


def test_between_notebooks_the_deadline_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = run.execute

    def last_in_time(*given: Any) -> float:
        monkeypatch.setenv(VARIABLE, "0 9")
        return execute(*given)

    monkeypatch.setattr(run, "execute", last_in_time)
    with pytest.raises(TimeIsUp, match=r"^done: 01; left: 02, 03\nstopped after 9 minutes; the same command goes on$"):
        run()
    with pytest.raises(TimeIsUp, match=r"^done: 01; left: 02, 03\n"):
        run()
    assert run.ran == []
    monkeypatch.delenv(VARIABLE)
    assert run(only=slice(2, 3)) == ALL[2:], "after the last one there is nothing to stop"


@pytest.mark.parametrize(
    "other",
    [{"DEVICE": "cuda"}, {"SIZES": [1, 2]}, {"MORE": 1}, {"only": slice(2)}],
    ids=["device", "value", "parameter", "notebooks"],
)
def test_another_command_begins_anew_and_the_stopped_one_does_so_after_it(run: Run, other: dict[str, Any]) -> None:
    run.stopped(at="03" if "only" not in other else "02")
    assert run(**other) == ALL[other.get("only", slice(None))]
    assert run() == ALL


def test_a_notebook_that_was_edited_since_is_run_again(run: Run) -> None:
    run.stopped(at="03")
    run.notebooks[0].write_text("something else")
    run.stop_at = "01"
    with pytest.raises(TimeIsUp, match=r"^done: 02; left: 01, 03\n"):
        run()
    run.stop_at = ""
    assert run() == [ALL[0], ALL[2]]


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (TimeIsUp, [("02", True), ("03", True)]),
        (KeyboardInterrupt, ALL_FRESH),
        (RuntimeError, ALL_FRESH),
        (KeyError, ALL_FRESH),
    ],
)
def test_whatever_ends_a_fresh_run_who_goes_on_trains_anew_too(
    run: Run, end: type[BaseException], left: list[tuple[str, bool]]
) -> None:
    run.folder.mkdir()
    record = run.folder / "record.sqlite"
    record.write_text("old")
    assert run.stopped(at="02", end=end, fresh=True) == ALL_FRESH[:2]
    record.write_text("new")
    assert run.stopped(at="02", end=end) == left[: left.index(("02", True)) + 1], "as often as it ends early"
    assert run() == left
    assert os.environ[FRESH_BEGUN] == str(run.folder)
    assert record.read_text() == "new"
    assert record.with_name("record.before.sqlite").read_text() == "old"
    assert run() == ALL, "once it is done, the next run is another one"


def test_a_fresh_run_that_is_killed_stays_fresh(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written once it is killed: what the file holds while a notebook runs has to be enough."""
    seen, execute = [], run.execute

    def watched(*given: Any) -> float:
        seen.append((run.folder / "stopped.json").read_bytes())
        return execute(*given)

    monkeypatch.setattr(run, "execute", watched)
    run(fresh=True)
    for number in range(3):
        (run.folder / "stopped.json").write_bytes(seen[number])
        assert run() == ALL_FRESH


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_after_anything_but_a_deadline_all_notebooks_are_run(run: Run, end: type[BaseException]) -> None:
    run.stopped(at="03")
    assert run.stopped(at="03", end=end) == ALL[2:]
    assert run.stopped(at="02", end=end) == ALL[:2]
    assert run() == ALL


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", b"\xff", '{"command": {}, "fresh": true}', '{"more": 1}', None]
)
def test_a_file_that_does_not_say_how_far_a_run_came_is_named(run: Run, content: str | bytes | None) -> None:
    run.stopped(at="02")
    path = run.folder / "stopped.json"
    if content is None:  # of the right fields, and the wrong kind
        content = json.dumps(json.loads(path.read_text("utf-8")) | {"done": ["01"]})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is damaged, or of another version .*; delete it"):
        run()
    assert run.ran == []
    assert run(fresh=True) == ALL_FRESH, "which begins anew in any case"
    assert run() == ALL


def test_fresh_begins_anew_after_a_stop(run: Run) -> None:
    run.stopped(at="03")
    assert run(fresh=True) == ALL_FRESH
    assert run() == ALL


def test_the_time_of_a_notebook_is_that_of_all_its_parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that stands still but for the parts that are stopped, of 100 seconds each."""
    now, execute = [0.0], run.execute
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def until_stopped(*given: Any) -> float:
        now[0] += 100
        return execute(*given)

    monkeypatch.setattr(run, "execute", until_stopped)
    run.stopped(at="02")
    run.stopped(at="02")
    run()
    timings = json.loads((run.folder / "timings.json").read_text("utf-8"))["smoke"]
    assert {number: row["seconds"] for number, row in timings.items()} == {"01": 50, "02": 100 + 100 + 50, "03": 50}


def test_the_time_of_a_fresh_run_takes_the_place_of_the_old_one_and_its_replay_does_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ends: the first to run after Ctrl-C replays what the fresh run has trained before."""
    execute, took = run.execute, [0.0]

    def timed(*given: Any) -> float:
        execute(*given)
        return took[0]

    def noted() -> list[float]:
        timings = json.loads((run.folder / "timings.json").read_text("utf-8"))["smoke"]
        return [timings[number]["seconds"] for number, _ in ALL]

    monkeypatch.setattr(run, "execute", timed)
    took[0] = 70.0
    run()
    took[0] = 40.0
    run.stopped(at="02", end=KeyboardInterrupt, fresh=True)
    took[0] = 3.0
    run()
    assert noted() == [40.0, 3.0, 3.0]
