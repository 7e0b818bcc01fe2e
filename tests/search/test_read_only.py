"""A record that one may only read is read like any other, and says at once that it cannot be written to."""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nasrepro.dsl import zoo
from nasrepro.search import Record, RecordError, Search, database, replay
from nasrepro.search.agent_search import trained_agent
from nasrepro.search.loop import evaluate, search
from nasrepro.search.workers import Job, Workers
from tests.search.fakes import FakeTask
from tests.search.killable import AGENT_SETTINGS, QUICK_PRETRAINING, SETTINGS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
TASK = FakeTask(failing=True)


def run(record: Record, task: FakeTask = TASK) -> Search:
    return search(task, SETTINGS, record, workers=0, progress=False)


@contextmanager
def common_user() -> Iterator[None]:
    """For a while permissions bind root, too."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o777)
        inside = Path(above) / "records"
        inside.mkdir()
        inside.chmod(0o777)
        yield inside
        inside.chmod(0o777)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished search."""
    path = tmp_path_factory.mktemp("finished") / "r.db"
    with Record(path) as record:
        run(record)
    return path


def close_folder(path: Path) -> None:
    path.chmod(0o666)
    path.parent.chmod(0o555)


def close_file(path: Path) -> None:
    path.chmod(0o444)


def close_both(path: Path) -> None:
    close_file(path)
    path.parent.chmod(0o555)


@pytest.fixture(params=[close_folder, close_file, close_both], ids=lambda close: close.__name__)
def closed(request: pytest.FixtureRequest, folder: Path, finished: Path) -> Path:
    """The same, to be read only."""
    shutil.copyfile(finished, folder / "r.db")
    request.param(folder / "r.db")
    return folder / "r.db"


def test_it_is_read_replayed_and_exported(closed: Path, finished: Path) -> None:
    with Record(finished) as record:
        expected = repr(record.evaluations())
        history = replay(record, *record.searches()).frame()
    with common_user(), Record(closed) as record:
        assert repr(record.evaluations()) == expected
        assert replay(record, *record.searches()).frame().equals(history)
        assert run(record).frame().equals(history)  # a finished search has nothing to write
        record.export(closed.parents[1] / "r.jsonl.gz")
    assert repr(Record.load(closed.parents[1] / "r.jsonl.gz").evaluations()) == expected


def test_what_would_write_says_so_at_once_and_before_any_training(closed: Path, tmp_path: Path) -> None:
    task = FakeTask(pids=closed.parents[1] / "calls")
    started = time.monotonic()
    with common_user(), Record(closed) as record:
        (first, *_) = record.evaluations()
        writes: list[Callable[[], Any]] = [
            lambda: evaluate([Job(zoo["NASCell"], 7)], record, Workers(task, 0)),
            lambda: record.forget([first.key]),
            lambda: record.begin("another", {}),
            record.demand_writable,
        ]
        for write in writes:
            with pytest.raises(RecordError, match=r"r\.db: .*readonly.*; it may only be read here: give yourself"):
                write()
        assert not (closed.parents[1] / "calls").exists()
    assert time.monotonic() - started < database._WAIT / 3


def test_the_last_words_of_a_killed_process_are_read_too(folder: Path, finished: Path) -> None:
    """They stand in a journal beside the file, and SQLite would read them with a third file's help only."""
    open_file = folder.parent / "r.db"
    shutil.copyfile(finished, open_file)
    db = sqlite3.connect(open_file, isolation_level=None)
    db.execute("INSERT INTO test_reads VALUES ('last words', 'tiny', 'ffff', 'today')")
    for name in ("r.db", "r.db-wal"):
        shutil.copyfile(folder.parent / name, folder / name)
    db.close()
    close_both(folder / "r.db")
    with common_user(), Record(folder / "r.db") as record:
        assert [reading["row"] for reading in record.test_reads()] == ["last words"]
        assert len(record.evaluations()) == SETTINGS.cells


def test_a_record_that_is_being_written_is_followed(folder: Path, finished: Path) -> None:
    shutil.copyfile(finished, folder / "r.db")
    with Record(folder / "r.db") as writer:
        writer.begin("first", {})
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
        with common_user(), Record(folder / "r.db") as reader:
            assert "first" in reader.searches()
            writer.begin("second", {})
            assert "second" in reader.searches()


def test_a_file_that_may_not_even_be_read(folder: Path) -> None:
    Record(folder / "r.db").close()
    (folder / "r.db").chmod(0o000)
    with common_user(), pytest.raises(RecordError, match="unable to open database file"):
        Record(folder / "r.db")


def test_a_new_record_in_a_folder_to_read_only(folder: Path) -> None:
    folder.chmod(0o555)
    with common_user(), pytest.raises(RecordError, match="choose a folder that exists and that you may write to"):
        Record(folder / "r.db")


def test_an_agent_is_made_again_where_it_cannot_be_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasrepro.search.agent_search.pretrain", QUICK_PRETRAINING)
    with Record(folder / "r.db") as record:
        history = search(TASK, AGENT_SETTINGS, record, workers=0, progress=False)
        expected = trained_agent(history, AGENT_SETTINGS, record)
    next(folder.glob("*.pretrained")).unlink()
    close_both(folder / "r.db")
    with common_user(), Record(folder / "r.db") as record:
        again = trained_agent(replay(record, history.id), AGENT_SETTINGS, record)
    assert again.updates == expected.updates
    assert not list(folder.glob("*.pretrained"))


# ---- folders where processes cannot share memory, as on some networks


@pytest.fixture
def no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own way for file systems that lack everything: it locks by files, and WAL cannot be had."""
    connect = sqlite3.connect

    def by_dotfile(path: str | Path, **options: Any) -> sqlite3.Connection:
        if path == ":memory:":
            return connect(path, **options)
        return connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(database.sqlite3, "connect", by_dotfile)


@pytest.mark.usefixtures("no_shared_memory")
def test_without_shared_memory_a_new_record_keeps_another_journal(tmp_path: Path) -> None:
    with Record(tmp_path / "r.db") as record:
        record.begin("a", {})
    with Record(tmp_path / "r.db") as record, Record(tmp_path / "r.db") as other:
        record.begin("b", {})
        assert list(other.searches()) == ["a", "b"]


def test_a_record_that_was_carried_there_goes_on(finished: Path, tmp_path: Path, no_shared_memory: None) -> None:
    shutil.copyfile(finished, tmp_path / "r.db")
    started = time.monotonic()
    with Record(tmp_path / "r.db") as record, Record(tmp_path / "r.db") as other:
        assert len(record.evaluations()) == SETTINGS.cells
        record.begin("more", {})
        assert "more" in other.searches()
    assert time.monotonic() - started < database._WAIT / 3


def test_only_a_busy_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite says where a network's files cannot be mapped into memory."""
    connect = sqlite3.connect

    class Unmapped(sqlite3.Connection):
        def execute(self, query: str, *parameters: Any) -> sqlite3.Cursor:
            if query == "PRAGMA journal_mode=WAL":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMMAP
                raise error
            return super().execute(query, *parameters)

    monkeypatch.setattr(database.sqlite3, "connect", lambda *a, **o: connect(*a, factory=Unmapped, **o))
    started = time.monotonic()
    with Record(tmp_path / "r.db") as record:
        record.begin("a", {})
        assert list(record.searches()) == ["a"]
    assert time.monotonic() - started < database._WAIT / 3
