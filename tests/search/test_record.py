"""The record keeps what was written, refuses what is damaged, and is shared by processes."""

import gzip
import json
import math
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasrepro.dsl import parse, zoo
from nasrepro.search import Evaluation, Record, RecordError, evaluation_key
from nasrepro.search import record as record_module
from nasrepro.search.record import Proposal
from nasrepro.trainers.outcome import Outcome
from tests.search.fakes import FakeTask, write_many
from tests.strategies import cells

TASK = FakeTask()
LSTM, GRU = zoo["LSTM"], zoo["GRU"]
numbers = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3)


def evaluation(name: str = "LSTM", seed: int = 0) -> Evaluation:
    return Evaluation.of(TASK, zoo[name], seed, TASK.evaluate(zoo[name], seed))


def filled() -> Record:
    record = Record()
    for name in ("LSTM", "GRU", "MGU"):
        record.put(evaluation(name))
    record.begin("abc", {"search": {"method": "random"}})
    names = ("LSTM", "GRU")
    keys = [evaluation_key(TASK, zoo[name], 0) for name in names]
    proposals = [Proposal(i, 0, "random", str(zoo[names[i]]), None, keys[i]) for i in range(2)]
    record.propose("abc", 0, proposals, {"rejected": {"too large": 3}})
    return record


# ---- keys


def test_a_key_depends_on_everything_that_decides_the_result() -> None:
    keys = {
        evaluation_key(TASK, LSTM, 0),
        evaluation_key(TASK, GRU, 0),
        evaluation_key(TASK, LSTM, 1),
        evaluation_key(replace(TASK, name="other"), LSTM, 0),
        evaluation_key(replace(TASK, version=2), LSTM, 0),
        evaluation_key(replace(TASK, settings={"width": 9}), LSTM, 0),
        evaluation_key(replace(TASK, data_hash="1" * 64), LSTM, 0),
    }
    assert len(keys) == 7


def test_cells_that_are_equal_up_to_canonical_form_share_a_key() -> None:
    a, b = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))"), parse("Tanh(Add(MM(h_{t-1}), MM(x_t)))")
    assert a != b
    assert evaluation_key(TASK, a, 0) == evaluation_key(TASK, b, 0)


def test_a_key_is_what_sha256_gives_outside() -> None:
    # printf '["fake","Tanh(Add(MM(h_{t-1}), MM(x_t)))",{"width":8},0,"000…",1]' | sha256sum
    cell = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))")
    assert str(cell.canonical()) == "Tanh(Add(MM(h_{t-1}), MM(x_t)))"
    assert evaluation_key(TASK, cell, 0) == "23a70e83e2923e7023d8058aa9155f289ac0e482cad886ada88feb65e0c64515"


# ---- what is written is read


@settings(max_examples=40)
@given(cells(), st.integers(0, 2**31), numbers, st.lists(numbers, max_size=3), st.floats(0, 1e6))
def test_evaluations_come_back_equal(cell, seed, metrics, curve, seconds) -> None:
    written = Evaluation.of(TASK, cell, seed, Outcome("ok", "", metrics, curve, 17, "cpu", seconds))
    with Record() as record:
        record.put(written)
        assert record.get(written.key) == written == record[written.key]
        assert record.evaluations() == [written]


def test_numbers_that_are_not_finite_come_back_as_nan() -> None:
    record = Record()
    outcome = Outcome("failed", "exploded", {"valid_ppl": math.inf}, [{"loss": math.nan}])
    written = Evaluation.of(TASK, LSTM, 0, outcome)
    record.put(written)
    read = record[written.key]
    assert math.isnan(read.metrics["valid_ppl"])
    assert math.isnan(read.curve[0]["loss"])
    assert read.perplexity is None


def test_a_failure_has_no_perplexity_even_where_it_has_metrics() -> None:
    failed = Outcome("failed", "above 500 after 5 epochs", {"valid_ppl": 600.0})
    assert Evaluation.of(TASK, LSTM, 0, failed).perplexity is None
    assert Evaluation.of(TASK, LSTM, 0, Outcome("ok", "", {"valid_ppl": 99.5})).perplexity == 99.5


def test_a_result_never_changes() -> None:
    record, first = Record(), evaluation()
    record.put(first)
    record.put(replace(first, metrics={"valid_ppl": 1.0}))
    assert record.evaluations() == [first]


def test_a_record_is_looked_into_by_key() -> None:
    record, keys = filled(), sorted(evaluation(name).key for name in ("LSTM", "GRU", "MGU"))
    assert list(record) == keys
    assert [key in record for key in keys] == [True] * 3
    assert "0" * 64 not in record
    assert 0 not in record
    assert list(Record()) == []
    assert bool(Record()), "an empty record is a record"


def test_one_key_is_no_list_of_keys() -> None:
    record = filled()
    with pytest.raises(TypeError, match="list of keys"):
        record.forget(evaluation("GRU").key)
    assert len(record.evaluations()) == 3


def test_forgotten_evaluations_are_gone_and_others_stay() -> None:
    record = filled()
    record.forget([evaluation("GRU").key])
    assert {e.cell for e in record.evaluations()} == {str(zoo["LSTM"]), str(zoo["MGU"])}
    with pytest.raises(KeyError, match="holds no evaluation"):
        record[evaluation("GRU").key]


def test_the_table_has_a_row_per_evaluation_and_a_column_per_metric() -> None:
    frame = filled().frame()
    assert len(frame) == 3
    assert frame.set_index("cell").valid_ppl[str(LSTM)] == evaluation("LSTM").metrics["valid_ppl"]
    assert "metrics" not in frame
    assert Record().frame().empty


def test_a_step_is_written_once() -> None:
    record = filled()
    before = record.proposals("abc")
    record.propose("abc", 0, [replace(before[0], how="best")], {})
    assert record.proposals("abc") == before
    assert record.proposals("abc", step=1) == []
    assert record.steps("abc") == {0: {"rejected": {"too large": 3}}}


def test_a_step_is_written_whole_or_not_at_all() -> None:
    record = filled()
    good = replace(record.proposals("abc")[0], number=2, step=1)
    with pytest.raises(RecordError):
        record.propose("abc", 1, [good, replace(good, number=3, cell=object())], {})  # SQLite cannot store that
    assert list(record.steps("abc")) == [0]
    assert len(record.proposals("abc")) == 2


def test_everything_is_there_after_closing_and_opening(tmp_path: Path) -> None:
    with Record(tmp_path / "new" / "r.db") as record:
        record.put(evaluation())
    with Record(tmp_path / "new" / "r.db") as record:
        assert record.evaluations() == [replace(evaluation(), created=record.evaluations()[0].created)]
    with pytest.raises(RecordError, match="is closed"):
        record.evaluations()


# ---- several at once


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    spawn, path = get_context("spawn"), tmp_path / "r.db"
    processes = [spawn.Process(target=write_many, args=(path, seeds)) for seeds in (range(40), range(20, 60))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with Record(path) as record:
        assert sorted(e.seed for e in record.evaluations()) == list(range(60))


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
    monkeypatch.setattr(record_module, "_WAIT", 0.1)
    with Record(tmp_path / "r.db") as record, Record(tmp_path / "r.db") as other:
        with other._transaction(), pytest.raises(RecordError, match="another program kept it"):
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
    monkeypatch.setattr(record_module, "SCHEMA", 2)
    with pytest.raises(RecordError, match="record of version 1, this nasrepro reads version 2"):
        Record(tmp_path / "r.db")


# ---- the compact file


def test_export_and_import_keep_every_row(tmp_path: Path) -> None:
    record = filled()
    record.read_test(Corpus(), "row 1")
    record.export(tmp_path / "r.jsonl.gz")
    copy = Record.load(tmp_path / "r.jsonl.gz")
    assert copy.evaluations() == record.evaluations()
    assert copy.proposals("abc") == record.proposals("abc")
    assert copy.steps("abc") == record.steps("abc")
    assert copy.searches() == record.searches()
    assert copy.test_reads() == record.test_reads()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    record = filled()
    record.export(tmp_path / "a.jsonl.gz")
    backwards = Record()
    for e in reversed(record.evaluations()):
        backwards.put(e)
    backwards.import_(tmp_path / "a.jsonl.gz")
    backwards.export(tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_several_files_load_into_one(tmp_path: Path) -> None:
    filled().export(tmp_path / "a.jsonl.gz")
    other = Record()
    other.put(evaluation("LSTM", seed=5))
    other.export(tmp_path / "b.jsonl.gz")
    assert len(Record.load([tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"]).evaluations()) == 4


Lines = list[str]


def drop_last(lines: Lines) -> Lines:
    return lines[:-1]


def change(**values: object) -> Callable[[Lines], Lines]:
    """Change values of the last line, an evaluation."""
    return lambda lines: [*lines[:-1], json.dumps({**json.loads(lines[-1]), **values})]


def without(name: str) -> Callable[[Lines], Lines]:
    def edit(lines: Lines) -> Lines:
        row = json.loads(lines[-1])
        del row[name]
        return [*lines[:-1], json.dumps(row)]

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change(key="0" * 64), r"line 8: the key is 000000000000…, its content gives"),
        (change(seed=3), r"line 8: the key"),
        (change(settings={"width": 9}), r"line 8: the key"),
        (change(canonical="Tanh(x_t)"), r"line 8: the key"),
        (change(hash="0" * 16), r"line 8: the hash 0000000000000000 is not that of"),
        (change(extra=1), r"line 8: a row of 'evaluations' has the columns"),
        (change(table="evaluation"), r"line 8: unknown table 'evaluation'"),
        (change(table=["evaluations"]), r"line 8: a row names its table"),
        (without("seed"), r"line 8: a row of 'evaluations' has the columns"),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], r"line 8: not JSON"),
        (lambda lines: [*lines[:3], "[1, 2]", *lines[3:]], r"line 4: expected a JSON object, got list"),
        (drop_last, r"lacks rows: line 1 promises"),
        (lambda lines: lines[1:], r"line 1: format None"),
        (lambda lines: ['{"format": 99, "rows": {}}'], r"line 1: format 99"),
        (
            lambda lines: ['{"format": 1, "rows": {"pets": 1}}', '{"table": "pets"}'],
            r"line 2: unknown table 'pets'",
        ),
        (lambda lines: [], r"is empty"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, damage: Callable[[Lines], Lines], message: str) -> None:
    path = tmp_path / "r.jsonl.gz"
    filled().export(path)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert len(lines) == 8  # head, search, step, two proposals, three evaluations
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in damage(lines)).encode()))
    record = Record()
    with pytest.raises(RecordError, match=message) as caught:
        record.import_(path)
    assert str(path) in str(caught.value)
    assert record.evaluations() == []  # nothing of a damaged file stays
    assert record.searches() == {}


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.99])
def test_a_file_cut_off_is_damaged(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "r.jsonl.gz"
    filled().export(path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(RecordError, match="is damaged"):
        Record.load(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"plain text", "is damaged"), (gzip.compress(b"\xff\xfe\xff"), "is damaged")]
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.jsonl.gz").write_bytes(content)
    with pytest.raises(RecordError, match=message):
        Record.load(tmp_path / "r.jsonl.gz")


@settings(max_examples=40)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_no_flipped_byte_passes_for_a_record(tmp_path_factory, share: float, flip: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "r.jsonl.gz"
    record = filled()
    record.export(path)
    content = bytearray(path.read_bytes())
    # Bytes 4 to 9 of a gzip file are its time and system, which say nothing about the content (RFC 1952).
    place = 10 + int(share * (len(content) - 10))
    content[place] ^= flip
    path.write_bytes(content)
    with pytest.raises(RecordError):
        Record.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"r\.jsonl\.gz does not exist"):
        Record.load(tmp_path / "r.jsonl.gz")


# ---- the test split


@dataclass
class Corpus:
    name: str = "tiny"
    hash: str = "f" * 64

    def __post_init__(self) -> None:
        self._test = torch.arange(5)


def test_a_test_split_is_read_once_for_each_row_and_data(tmp_path: Path) -> None:
    with Record(tmp_path / "r.db") as record:
        assert record.read_test(Corpus(), "GRU").tolist() == [0, 1, 2, 3, 4]
    with Record(tmp_path / "r.db") as record:
        with pytest.raises(RecordError, match="row 'GRU' read the test split of tiny on 20"):
            record.read_test(Corpus(), "GRU")
        record.read_test(Corpus(), "BC3")
        record.read_test(Corpus(hash="e" * 64), "GRU")
        assert sorted((r["row"], r["data"][0]) for r in record.test_reads()) == [
            ("BC3", "f"), ("GRU", "e"), ("GRU", "f"),
        ]  # fmt: skip
