"""What a plan keeps in a file beside its record: what takes a minute to work out, and may be worked out again."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nasrepro.search.plan import Keep, make_anew
from nasrepro.search.record import Record
from nasrepro.trainers.checkpoint import write_tensors


def kept_beside(record: Record, search: str) -> Keep:
    """How a search keeps things: in files beside its record; not at all where that is in memory."""
    if record.path is None:
        return make_anew
    beside = record.path

    def keep(name: str, make: Callable[[], dict[str, Any]], fits: Callable[[Any], bool], /) -> dict[str, Any]:
        path = beside.with_name(f"{beside.name}.{search}.{name}")
        found = _read(path)
        if found is not None and fits(found):
            return dict(found)
        made = make()
        with suppress(OSError):  # where it cannot be kept, as beside a record to read only, it is made again
            write_tensors(path, made)
        return made

    return keep


def _read(path: Path) -> Any:
    """What `write_tensors` wrote; None where there is no file, or a damaged one: it can be made again."""
    try:
        return torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
