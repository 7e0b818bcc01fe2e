"""The SQLite file that holds a record: its tables, how processes open and share it, and what its errors mean."""

import json
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasrepro.errors import shown
from nasrepro.search.archive import RecordError, dumps
from nasrepro.trainers.outcome import number, whole

SCHEMA = 1
_APPLICATION = 0x6E617372  # "nasr": tells our files from other programs' SQLite files
_WAIT = 30.0  # seconds to wait for another process's write

# SQLite's errors, by the code that a family of them shares.
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NO_ACCESS = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}

TABLES = {
    "searches": "id TEXT PRIMARY KEY, settings TEXT, created TEXT",
    "steps": "search TEXT, step INTEGER, facts TEXT, PRIMARY KEY (search, step)",
    "proposals": (
        "search TEXT, number INTEGER, step INTEGER, how TEXT, cell TEXT, predicted REAL, key TEXT, "
        "PRIMARY KEY (search, number)"
    ),
    "evaluations": (
        "key TEXT PRIMARY KEY, task TEXT, version INTEGER, cell TEXT, canonical TEXT, hash TEXT, "
        "settings TEXT, seed INTEGER, data TEXT, status TEXT, reason TEXT, metrics TEXT, curve TEXT, "
        "parameters INTEGER, device TEXT, seconds REAL, created TEXT"
    ),
    "test_reads": "row TEXT, corpus TEXT, data TEXT, created TEXT, PRIMARY KEY (row, data)",
}
_JSON = {"settings", "facts", "metrics", "curve"}  # columns that hold JSON text


class Database:
    """The tables in the file `path`, or in memory when that is None. `Record` says what raises RecordError."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecordError(f"{path.parent} cannot be made ({error.strerror}); choose another folder") from error
        with self._errors():
            self._db = self._prepare(_connect(":memory:"), _use_wal) if path is None else self._open(path)

    def close(self) -> None:
        """Close the file; nothing can be read or written after it."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def __del__(self) -> None:
        self.close()

    # ---- reading and writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside is written whole or not at all, and alone: others wait for their turn."""
        with self._errors(), _all_or_nothing(self._connection()):
            yield

    @contextmanager
    def moment(self) -> Iterator[None]:
        """What is read inside is of one moment, though others may go on writing."""
        with self._errors(), _all_or_nothing(self._connection(), "DEFERRED"):
            yield

    def insert(self, table: str, row: Mapping[str, Any]) -> bool:
        """Insert a row unless its primary key is there; say whether it was inserted. In a transaction only."""
        values = [dumps(value) if name in _JSON else _plain(value, name) for name, value in row.items()]
        marks = ", ".join("?" * len(row))
        query = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        return self._connection().execute(query, values).rowcount == 1

    def delete(self, table: str, column: str, value: object) -> None:
        """Delete the rows with this value in a column. In a transaction only."""
        self._connection().execute(f"DELETE FROM {table} WHERE {column} = ?", [value])

    def demand_writable(self) -> None:
        """Raise RecordError at once where nothing can be written."""
        with self.transaction():
            self._connection().execute(f"PRAGMA user_version={SCHEMA}")  # a write that changes nothing

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """What a SELECT finds, by column, JSON read."""
        with self._errors():
            cursor = self._connection().execute(query, parameters)
            rows = cursor.fetchall()
        names = [column[0] for column in cursor.description]
        try:
            return [
                {name: json.loads(value) if name in _JSON else value for name, value in zip(names, row, strict=True)}
                for row in rows
            ]
        except (json.JSONDecodeError, TypeError) as error:
            raise RecordError(f"the record {self.path}: a row is not JSON ({error}); {self._rescue()}") from error

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RecordError(f"the record {self.path or 'in memory'} is closed; open it again with Record(path)")
        return self._db

    # ---- opening

    def _open(self, path: Path) -> sqlite3.Connection:
        """The file, opened in the first of three ways that works where it lies."""
        try:
            return self._prepare(_connect(path), _use_wal)
        except sqlite3.OperationalError as error:
            if _family(error) not in _NO_ACCESS or not path.is_file():
                raise
        try:
            return self._prepare(_connect_alone(path), _leave_wal)
        except sqlite3.OperationalError as error:
            try:
                return self._prepare(_copy(path), lambda _: None)
            except OSError:
                raise error from None

    def _prepare(self, db: sqlite3.Connection, set_journal: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
        """Choose how writes are kept safe, and make the tables in an empty file. On an error `db` is closed."""
        try:
            is_record = self._check(db)  # before the first write: another program's file stays as it is
            set_journal(db)
            db.execute("PRAGMA synchronous=FULL")  # safe under power failure: an evaluation costs more than a flush
            if not is_record:
                with _all_or_nothing(db):
                    self._make_tables(db)
        except BaseException:
            db.close()
            raise
        return db

    def _make_tables(self, db: sqlite3.Connection) -> None:
        if self._check(db):  # another process was faster
            return
        for name, columns in TABLES.items():
            db.execute(f"CREATE TABLE {name} ({columns})")
        db.execute(f"PRAGMA application_id={_APPLICATION}")
        db.execute(f"PRAGMA user_version={SCHEMA}")

    def _check(self, db: sqlite3.Connection) -> bool:
        """True for a record of this version, False for an empty file."""
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            return False
        if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise RecordError(f"{self.path} is another program's database; choose another file for the record")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA:
            raise RecordError(
                f"{self.path} is a record of version {version}, this nasrepro reads version {SCHEMA}; "
                "use the version that wrote it, or begin another record"
            )
        return True

    # ---- SQLite's errors, in words that help

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RecordError(f"the record {self.path or 'in memory'}: {error}; {self._advice(error)}") from error

    def _advice(self, error: sqlite3.Error) -> str:
        closed = "it may only be read here: give yourself permission to write to file and folder, or work on a copy"
        locked = f"another program kept it for {_WAIT:.0f} s; stop that one, run again"
        return {
            sqlite3.SQLITE_CANTOPEN: "choose a folder that exists and that you may write to",
            sqlite3.SQLITE_READONLY: closed,
            sqlite3.SQLITE_PERM: closed,
            sqlite3.SQLITE_NOTADB: "it is another kind of file, or damaged; choose another file",
            sqlite3.SQLITE_BUSY: locked,
            sqlite3.SQLITE_LOCKED: locked,
            sqlite3.SQLITE_FULL: "make room, then run again",
            sqlite3.SQLITE_IOERR: "its disk or network folder fails; copy the file to another one",
            sqlite3.SQLITE_CORRUPT: self._rescue(),
            sqlite3.SQLITE_ERROR: self._rescue(),  # such as a table that is gone
        }.get(_family(error), "a record holds text and numbers, and belongs to the thread that has opened it")

    def _rescue(self) -> str:
        return (
            "the file is damaged: put it aside and begin another, with `import_` where an exported file is at hand; "
            f"`sqlite3 {self.path} .recover | sqlite3 NEW` saves what can still be read"
        )


# ---- ways to open a file


def _connect(path: str | Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_WAIT, isolation_level=None)


def _family(error: sqlite3.Error) -> int:
    """The code that SQLite's errors of one kind share; 0 for an error of Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _use_wal(db: sqlite3.Connection) -> None:
    """Let readers go on while one writes; safe under kill -9."""
    # SQLite does not wait for its turn when two connections change a new file's mode at once, so we do.
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if _family(error) == sqlite3.SQLITE_READONLY:
                return  # to read, either journal will do
            if _family(error) not in _BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _connect_alone(path: Path) -> sqlite3.Connection:
    """A connection that shares no memory with others, and so works where there is none to share: on some networks."""
    db = _connect(path)
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    return db


def _leave_wal(db: sqlite3.Connection) -> None:
    """SQLite's older journal, which needs no shared memory: readers wait for the writer."""
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA locking_mode=NORMAL")
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # with which others are let in again


def _copy(path: Path) -> sqlite3.Connection:
    """A copy in memory that refuses to be written to: even to read, SQLite writes beside the file."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):  # the second holds the last writes of a process that was killed
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, Path(folder) / f"record{suffix}")
        db, copy = _connect(":memory:"), _connect(Path(folder) / "record")
        try:
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.backup(db)
        finally:
            copy.close()
    db.execute("PRAGMA query_only=ON")
    return db


@contextmanager
def _all_or_nothing(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """A transaction. IMMEDIATE: a writer waits for its turn at the beginning, not halfway. DEFERRED: for a reader."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # on a full disk SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise


def columns_of(table: str) -> list[str]:
    """The names of a table's columns."""
    return re.findall(r"(\w+) (?:TEXT|INTEGER|REAL)", TABLES[table])


def _plain(value: Any, column: str) -> str | int | float | None:
    """A value as SQLite keeps it: of NumPy's numbers, for one, it would keep the bytes, which no export can write."""
    if value is None or isinstance(value, str):
        return value
    try:
        found = number(value, column)
        return whole(found, column) if isinstance(found, int) else found
    except (TypeError, ValueError):
        raise RecordError(f"a record holds text and numbers of 64 bits, got {shown(value)} for {column}") from None
