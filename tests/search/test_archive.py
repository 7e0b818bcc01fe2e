"""A record's compact file holds every row, in the same bytes for the same rows, and is refused when damaged."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasrepro.dsl import zoo
from nasrepro.search import Record, RecordError
from nasrepro.search.plan import Choice, Step
from tests.search.fakes import Corpus, evaluation, filled


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


@pytest.mark.parametrize("table", ["proposals", "steps"])
def test_a_search_that_went_on_in_two_ways_is_not_mixed(tmp_path: Path, table: str) -> None:
    ways = [filled(), filled()]
    for number, record in enumerate(ways):
        name, facts = ("LSTM", "GRU")[number if table == "proposals" else 0], {"step": number * (table == "steps")}
        record.propose("abc", 1, Step([Choice(zoo[name], "random")], facts), ["a key"])
        record.export(tmp_path / f"{number}.jsonl.gz")
    merged = Record.load(tmp_path / "0.jsonl.gz")
    merged.import_(tmp_path / "0.jsonl.gz")  # the same once more
    names = {"steps": "search abc, step 1", "proposals": "search abc, number 2"}[table]
    with pytest.raises(RecordError, match=rf"1\.jsonl\.gz, line \d+: {table} has another row for {names}: .* two ways"):
        merged.import_(tmp_path / "1.jsonl.gz")
    assert merged.proposals("abc") == ways[0].proposals("abc")
    assert merged.steps("abc") == ways[0].steps("abc")


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
    ("content", "message"),
    [(b"plain text", "is damaged"), (gzip.compress(b"\xff\xfe\xff"), "is damaged")],
    ids=["text", "packed bytes"],  # what is packed holds the time, and a test is called the same in all processes
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


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl.gz").mkdir()
    with pytest.raises(RecordError, match=r"r\.jsonl\.gz cannot be read \(Is a directory\); choose another file"):
        Record.load(tmp_path / "r.jsonl.gz")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"r\.jsonl\.gz does not exist"):
        Record.load(tmp_path / "r.jsonl.gz")
