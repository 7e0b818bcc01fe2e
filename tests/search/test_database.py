"""The file of a record is opened by several at once, and what is no record, or no longer one, says so."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from nasrepro.search import Record, RecordError, database
from tests.search.fakes import evaluation, filled


def test_many_may_open_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(8), []

    def open_one() -> None:
        barrier.wait()
        try:
            Record(tmp_path / "r.db").close()
        except RecordError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_file_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_WAIT", 0.1)
    with Record(tmp_path / "r.db") as record, Record(tmp_path / "r.db") as other:
        with other._db.transaction(), pytest.raises(RecordError, match="another program kept it"):
            record.put(evaluation())
        record.put(evaluation())  # and once the other is done, it works
        assert len(other.evaluations()) == 1


# ---- places and files that are no good


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RecordError, match=r"file cannot be made .*choose another folder"):
        Record(tmp_path / "file" / "r.db")
    with pytest.raises(RecordError, match="cannot be written"):
        filled().export(tmp_path / "file" / "r.jsonl.gz")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="unable to open"):
        Record(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    path.write_text("dear diary, " * 100)
    with pytest.raises(RecordError, match="not a database; it is another kind of file"):
        Record(path)
    assert path.read_text().startswith("dear diary")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE evaluations (mine TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(RecordError, match="another program's database"):
        Record(path)
    assert path.read_bytes() == before


def test_a_record_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Record(tmp_path / "r.db").close()
    monkeypatch.setattr(database, "SCHEMA", 2)
    with pytest.raises(RecordError, match="record of version 1, this nasrepro reads version 2"):
        Record(tmp_path / "r.db")


def test_a_damaged_record_says_what_can_be_saved_and_how(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with Record(path) as record:
        record.put(evaluation())
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)  # all but the first page, which names the tables
    path.write_bytes(content)
    with (
        Record(path) as record,
        pytest.raises(RecordError, match="is damaged: put it aside and begin another") as caught,
    ):
        record.evaluations()
    assert f"sqlite3 {path} .recover | sqlite3 NEW" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE evaluations SET metrics = 'x'", "a row is not JSON .* the file is damaged"),
        ("UPDATE evaluations SET curve = NULL", "a row is not JSON .* the file is damaged"),
        ("DROP TABLE evaluations", "no such table: evaluations; the file is damaged"),
    ],
)
def test_a_record_that_was_altered_is_damaged(tmp_path: Path, damage: str, message: str) -> None:
    with Record(tmp_path / "r.db") as record:
        record.put(evaluation())
    other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    other.execute(damage)
    other.close()
    with Record(tmp_path / "r.db") as record, pytest.raises(RecordError, match=message):
        record.evaluations()


def test_a_record_belongs_to_its_thread() -> None:
    record, said = Record(), []

    def read() -> None:
        try:
            record.evaluations()
        except RecordError as error:
            said.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert "belongs to the thread that has opened it" in said[0]
