"""A training's settings as a table: the paper's, how each of them is known, and what a run changes."""

import inspect
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def settings_table(paper: "DataclassInstance", here: "DataclassInstance") -> pd.DataFrame:
    """A row for every field of two settings of one class: `S17`, `status`, `here`, `changed`; all but numbers in words.

    The status of a field is the first word in brackets of the note below it, such as "stated" or "inferred", and "ours"
    where there is none. None is "all": fields may be None only where they limit how much is used.
    """
    written = inspect.getsource(type(paper))
    notes = dict(re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', written, re.MULTILINE | re.DOTALL))
    status = {name: re.search(r"\[(\w+)", note) for name, note in notes.items()}
    original, changed = asdict(paper), asdict(here)
    return pd.DataFrame(
        {
            "S17": [_spoken(value) for value in original.values()],
            "status": [found[1] if (found := status.get(name)) else "ours" for name in original],
            "here": [_spoken(value) for value in changed.values()],
            "changed": ["yes" if changed[name] != value else "" for name, value in original.items()],
        },
        index=pd.Index(original, name="setting"),
    )


def _spoken(value: object) -> str:
    if value is None:
        return "all"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
