"""The record: every evaluation ever made, found by its key before it is made again.

One SQLite file is cache, resume point, replay and shipped data at once. A process killed at any moment loses at most
what it was computing, because every fact is one transaction.
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasrepro.files import user_path
from nasrepro.search import archive
from nasrepro.search.archive import RecordError as RecordError
from nasrepro.search.archive import dumps
from nasrepro.search.database import TABLES, Database, columns_of
from nasrepro.search.plan import Step
from nasrepro.trainers.outcome import Candidate, Data, Loss, Outcome, TaskIdentity, whole

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

TEST_SPLIT = ", test split"
"""What the name of a task has at its end where its models were measured on the test split too."""

_PLANNED = {"steps": ["search", "step"], "proposals": ["search", "number"]}
"""What names a row in the tables that are the same wherever a search runs."""


@dataclass(frozen=True)
class Evaluation:
    """One row: which candidate was evaluated how, and what came of it. `Loss.of` reads its loss."""

    key: str  # `evaluation_key` of the rest
    task: str  # the task's name
    version: int  # the task's
    cell: str  # the candidate's text as it was evaluated
    canonical: str  # its canonical text
    hash: str  # that text's
    settings: dict[str, Any]  # the task's
    seed: int  # of the training
    data: str  # the task's data hash
    status: str  # from here to `seconds` as in `trainers.outcome.Outcome`
    reason: str
    metrics: dict[str, float]  # those that are not finite come back as nan
    curve: list[dict[str, float]]
    parameters: int
    device: str
    seconds: float
    created: str  # when, UTC, ISO 8601

    @classmethod
    def of(cls, task: TaskIdentity, candidate: Candidate, seed: int, outcome: Outcome) -> "Evaluation":
        """The row for an outcome of `task.evaluate(candidate, seed)`.

        Raises ValueError for a candidate whose hash is not that of its canonical text: no other record would take it.
        """
        canonical = str(candidate.canonical())
        if candidate.hash != _hash(canonical):
            raise ValueError(
                f"{candidate!r:.100} has the hash {candidate.hash!r:.100}; a candidate's is the SHA-256 of its "
                f"canonical text, 16 hex digits: {_hash(canonical)}"
            )
        return cls(
            key=evaluation_key(task, candidate, seed),
            task=task.name,
            version=task.version,
            cell=str(candidate),
            canonical=canonical,
            hash=candidate.hash,
            settings=task.settings,
            seed=whole(seed, "seed"),
            data=task.data_hash,
            created=_now(),
            **{f.name: getattr(outcome, f.name) for f in fields(outcome)},
        )

    def is_by(self, task: TaskIdentity) -> bool:
        """Whether it is by this task, on whatever data: so it can be asked where the data is not."""
        return (self.task, self.version, self.settings) == (task.name, task.version, task.settings)


@dataclass(frozen=True)
class Proposal:
    """One row: a candidate that a search chose to evaluate."""

    number: int  # place in the search, from 0
    step: int  # of the search
    how: str  # as in `plan.Choice`
    cell: str  # the candidate's text
    predicted: float | None  # as in `plan.Choice`
    key: str  # of its evaluation


def evaluation_key(task: TaskIdentity, candidate: Candidate, seed: int) -> str:
    """64 hex digits that name an evaluation: equal for candidates that are equal up to canonical form.

    Raises ValueError for a seed that is no whole number of at most 64 bits.
    """
    canonical = str(candidate.canonical())
    return _key(task.name, canonical, task.settings, whole(seed, "seed"), task.data_hash, task.version)


def _key(task: str, canonical: str, settings: Mapping[str, Any], seed: int, data: str, version: int) -> str:
    return sha256(dumps([task, canonical, settings, seed, data, version]).encode()).hexdigest()


def _hash(canonical: str) -> str:
    return sha256(canonical.encode()).hexdigest()[:16]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record(AbstractContextManager["Record"]):
    """A record in the file `path`, or in memory when `path` is None. Several processes may share one file.

    >>> record = Record()
    >>> record.evaluations()
    []

    One that may only be read, because of its file or its folder, is read all the same (where SQLite cannot follow what
    others write to it, as it was when it was opened); every call that would write raises RecordError. So does opening
    a file that cannot be made, is no record, is of another version, or stays locked.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else user_path(path)
        self._db = Database(self.path)

    def close(self) -> None:
        """Close the file. A closed record cannot be used."""
        self._db.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Record({str(self.path)!r})" if self.path else "Record()"

    # ---- evaluations

    def get(self, key: str) -> Evaluation | None:
        """The evaluation with this key, or None."""
        rows = self._db.rows("SELECT * FROM evaluations WHERE key = ?", key)
        return _evaluation(rows[0]) if rows else None

    def __getitem__(self, key: str) -> Evaluation:
        """The evaluation with this key. Raises KeyError where there is none."""
        evaluation = self.get(key)
        if evaluation is None:
            raise KeyError(f"{self!r} holds no evaluation {key!r:.100}")
        return evaluation

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys of all evaluations, ordered."""
        return iter([row["key"] for row in self._db.rows("SELECT key FROM evaluations ORDER BY key")])

    def put(self, evaluation: Evaluation) -> None:
        """Write an evaluation. One that is already there stays as it is: results never change."""
        row = asdict(evaluation)
        row["metrics"] = _finite(evaluation.metrics)
        row["curve"] = [_finite(point) for point in evaluation.curve]
        with self._db.transaction():
            self._db.insert("evaluations", row)

    def forget(self, keys: Sequence[str]) -> None:
        """Delete evaluations, so that they are made again: for failures that were the machine's fault."""
        if isinstance(keys, str):
            raise TypeError(f"forget takes a list of keys, got the string {keys!r:.100}: pass [{keys!r:.100}]")
        if not keys:  # nothing to write, so a record to read only will do
            return
        with self._db.transaction():
            for key in keys:
                self._db.delete("evaluations", "key", key)

    def demand_writable(self) -> None:
        """Raise RecordError at once where nothing can be written, instead of after hours of training."""
        self._db.demand_writable()

    def evaluations(self) -> list[Evaluation]:
        """All evaluations, ordered by key: the order in which they finished says nothing."""
        return [_evaluation(row) for row in self._db.rows("SELECT * FROM evaluations ORDER BY key")]

    def frame(self) -> "pd.DataFrame":
        """All evaluations, one row each; metrics are columns of their own."""
        import pandas as pd  # here, because worker processes import this module and need no tables

        rows = [{**asdict(evaluation), **evaluation.metrics} for evaluation in self.evaluations()]
        columns = [field.name for field in fields(Evaluation)]
        return pd.DataFrame(rows, columns=None if rows else columns).drop(columns="metrics")

    # ---- searches

    def begin(self, search: str, identity: Mapping[str, Any], loss: Loss | None = None) -> None:
        """Write that a search exists, and which metric is its loss. Doing it again changes nothing."""
        if search in self.searches():  # and needs no permission to write
            return
        settings = {**identity, **({} if loss is None else {"loss": asdict(loss)})}
        with self._db.transaction():
            self._db.insert("searches", {"id": search, "settings": settings, "created": _now()})

    def searches(self) -> dict[str, dict[str, Any]]:
        """Settings of every search by its id, oldest first."""
        return {row["id"]: row["settings"] for row in self._db.rows("SELECT * FROM searches ORDER BY created, id")}

    def propose(self, search: str, step: int, new: Step[Any], keys: Sequence[str]) -> None:
        """Write a step, all or nothing: its facts, and its choices with the keys of their evaluations.

        Choices are numbered here, so that of several who propose for one search none takes another's numbers. A step
        that is there already stays. Raises RecordError where that is another one, for then what is new would be lost.
        """
        chosen = [
            {"how": choice.how, "cell": str(choice.candidate), "predicted": choice.predicted, "key": key}
            for choice, key in zip(new.choices, keys, strict=True)
        ]
        with self._db.transaction():
            if self._db.insert("steps", {"search": search, "step": step, "facts": new.facts}):
                (used,) = self._db.rows("SELECT max(number) + 1 AS numbers FROM proposals WHERE search = ?", search)
                for number, row in enumerate(chosen, start=used["numbers"] or 0):
                    self._db.insert("proposals", {"search": search, "number": number, "step": step, **row})
                return
            query = "SELECT how, cell, predicted, key FROM proposals WHERE search = ? AND step = ? ORDER BY number"
            known = self._db.rows(query, search, step)
            if dumps([known, self.steps(search)[step]]) != dumps(json.loads(dumps([chosen, new.facts]))):
                raise RecordError(
                    f"step {step} of search {search!r:.100} was written by another program meanwhile, and differs: two "
                    "run this search at once and work it out unequally; let one of them run, then go on"
                )

    def proposals(self, search: str, step: int | None = None) -> list[Proposal]:
        """A search's proposals, or those of one step, ordered by number."""
        columns = ", ".join(field.name for field in fields(Proposal))
        rows = self._db.rows(f"SELECT {columns} FROM proposals WHERE search = ? ORDER BY number", search)
        return [Proposal(**row) for row in rows if step in (None, row["step"])]

    def steps(self, search: str) -> dict[int, dict[str, Any]]:
        """The facts that `propose` wrote, by step."""
        rows = self._db.rows("SELECT * FROM steps WHERE search = ? ORDER BY step", search)
        return {row["step"]: row["facts"] for row in rows}

    # ---- the test split

    def read_test(self, corpus: Data, row: str, *, unfinished: bool = False) -> Any:
        """The test split of a corpus, ids (N,) or pairs, once for each row of results. The reading is written down.

        `unfinished` says that an earlier reading for this very row came to no result, because its process was killed.
        Raises RecordError when the same row has read the same data before.
        """
        reading = {"row": row, "corpus": corpus.name, "data": corpus.hash, "created": _now()}
        with self._db.transaction():
            if not self._db.insert("test_reads", reading) and not unfinished:
                earlier = self._db.rows("SELECT * FROM test_reads WHERE row = ? AND data = ?", row, corpus.hash)[0]
                raise RecordError(
                    f"row {row!r:.100} read the test split of {corpus.name} on {earlier['created']}, and that is "
                    "done once; compare models on the validation split, or report a new row and say so"
                )
        return corpus._test

    def test_reads(self) -> list[dict[str, str]]:
        """Every reading of a test split: row, corpus, data (hash), created."""
        return self._db.rows("SELECT * FROM test_reads ORDER BY created, row, data")

    # ---- as one compact file

    def export(self, path: str | Path, tasks: Collection[str] | None = None) -> None:
        """Write all rows to a .jsonl.gz file, the same rows as the same bytes; or those of tasks of these names alone.

        Readings of the test split go with their evaluations. Raises RecordError where it cannot be written.
        """
        with self._db.moment():
            rows = [(table, row) for table in TABLES for row in self._db.rows(f"SELECT * FROM {table} ORDER BY 1, 2")]
        archive.write(user_path(path), rows if tasks is None else _rows_of(tasks, rows))

    @classmethod
    def load(cls, paths: str | Path | Sequence[str | Path]) -> "Record":
        """A record in memory with all that exported files hold. Raises RecordError as `import_` does."""
        record = cls()
        for path in [paths] if isinstance(paths, str | Path) else paths:
            record.import_(path)
        return record

    def import_(self, path: str | Path) -> None:
        """Add the rows of an exported file; rows that are already here stay as they are. All or nothing.

        Raises RecordError, naming file and line, for a damaged file, a row that is not what its key says, or a step of
        a search that is here with other proposals: where one search went on in two ways, one of them would be lost.
        """
        with self._db.transaction():
            for place, table, row in archive.read(user_path(path)):
                _validate(place, table, row)
                if not self._db.insert(table, row) and table in _PLANNED:
                    self._demand_equal(place, table, row)

    def _demand_equal(self, place: str, table: str, row: Mapping[str, Any]) -> None:
        """Raise RecordError where the row that is here in place of this one is another."""
        names = _PLANNED[table]
        where = " AND ".join(f"{name} = ?" for name in names)
        (here,) = self._db.rows(f"SELECT * FROM {table} WHERE {where}", *(row[name] for name in names))
        if dumps(here) != dumps(row):
            words = ", ".join(f"{name} {row[name]}" for name in names)
            raise RecordError(
                f"{place}: {table} has another row for {words}: one search went on in two ways; load one of the two "
                "files only, or each into a record of its own"
            )


# ---- rows


def _rows_of(tasks: Collection[str], rows: Sequence[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Of the rows of all tables those that belong to tasks of these names."""
    searches = {r["id"] for table, r in rows if table == "searches" and r["settings"]["task"]["name"] in tasks}
    names = {*tasks, *(task + TEST_SPLIT for task in tasks)}
    keys = {r["key"][:12] for table, r in rows if table == "evaluations" and r["task"] in names}
    is_of: dict[str, Callable[[Row], bool]] = {
        "searches": lambda row: row["id"] in searches,
        "steps": lambda row: row["search"] in searches,
        "proposals": lambda row: row["search"] in searches,
        "evaluations": lambda row: row["task"] in names,
        "test_reads": lambda row: row["row"].rpartition(" ")[2] in keys,
    }
    return [(table, row) for table, row in rows if is_of[table](row)]


def _evaluation(row: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        **{**row, "metrics": _numbers(row["metrics"]), "curve": [_numbers(point) for point in row["curve"]]}
    )


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no word for infinity and not-a-number."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _validate(place: str, table: str, row: Mapping[str, Any]) -> None:
    """Refuse a row that lacks columns, or whose key or hash is not that of its content."""
    if table not in TABLES:
        raise RecordError(f"{place}: unknown table {table!r}; is the file from a newer version of nasrepro?")
    if sorted(row) != sorted(columns_of(table)):
        raise RecordError(f"{place}: a row of {table!r} has the columns {columns_of(table)}, got {sorted(row)}")
    if table != "evaluations":
        return
    key = _key(*(row[name] for name in ("task", "canonical", "settings", "seed", "data", "version")))
    if row["key"] != key:
        raise RecordError(
            f"{place}: the key is {row['key'][:12]}…, its content gives {key[:12]}…; the file was altered"
        )
    if row["hash"] != _hash(row["canonical"]):
        raise RecordError(f"{place}: the hash {row['hash']} is not that of {row['canonical']}; the file was altered")
