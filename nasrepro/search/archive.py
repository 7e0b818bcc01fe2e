"""A record as one compact file: gzipped lines of JSON, the first of which counts the rest."""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nasrepro.errors import MachineError
from nasrepro.files import write_atomically
from nasrepro.trainers.outcome import number as plain_number

FORMAT = 1


class RecordError(MachineError, RuntimeError):
    """A record that cannot be read or written: what is wrong, where, and what to do."""


def dumps(value: Any) -> str:
    """JSON with one spelling per value: sorted keys, no spaces.

    Infinity and NaN are spelled so, as Python and JSON5 do; NumPy's numbers and tensors of one element as Python's own.
    Raises TypeError for what JSON cannot hold.
    """
    plain = partial(plain_number, name="a value in a record")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain)


def write(path: Path, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write (table, row) pairs, in the order given. The same rows give the same bytes, with the same zlib.

    The file appears whole or not at all. Raises RecordError where it cannot be written.
    """
    found = [{"table": table, **row} for table, row in rows]
    head = {"format": FORMAT, "rows": Counter(row["table"] for row in found)}
    text = "".join(f"{dumps(line)}\n" for line in [head, *found])
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:  # no name, no time: bytes repeat
        file.write(text.encode())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_bytes(packed.getvalue()))
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}); choose another folder") from error


def read(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (place, table, row) for every row that `write` wrote; `place` names file and line in messages.

    Raises RecordError for a file that is missing, cut off, not JSON, of another format, or lacks rows.
    """
    lines = _lines(path)
    head = next(lines, None)
    if head is None:
        raise RecordError(f"{path} is empty; fetch or export it again")
    first = _json(head, f"{path}, line 1")
    if first.get("format") != FORMAT or not isinstance(first.get("rows"), dict):
        raise RecordError(f"{path}, line 1: format {first.get('format')!r}, this version of nasrepro reads {FORMAT}")
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, start=2):
        place = f"{path}, line {number}"
        row = _json(line, place)
        table = row.pop("table", None)
        if not isinstance(table, str):
            raise RecordError(f"{place}: a row names its table, got {table!r}")
        counts[table] += 1
        yield place, table, row
    if counts != Counter(first["rows"]):
        raise RecordError(f"{path} lacks rows: line 1 promises {first['rows']}, found {dict(counts)}; fetch it again")


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file
    except FileNotFoundError:
        raise RecordError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        told = f"is damaged ({error}); fetch or export it again"
        if isinstance(error, OSError) and error.strerror:  # the system's, where gzip's own have no number
            told = f"cannot be read ({error.strerror}); choose another file, or ask for permission"
        raise RecordError(f"{path} {told}") from error


def _json(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"{place}: not JSON ({error}); the file is damaged, fetch or export it again") from None
    if not isinstance(row, dict):
        raise RecordError(f"{place}: expected a JSON object, got {type(row).__name__}")
    return row
