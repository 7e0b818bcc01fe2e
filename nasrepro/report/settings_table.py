"""A training's settings as a table: the paper's, how each of them is known, and what a run changes."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from nasrepro.trainers.settings import origins

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def settings_table(paper: "DataclassInstance", here: "DataclassInstance") -> pd.DataFrame:
    """A row for every field of two settings of one class: the paper's value, how it is known, and this run's.

    Columns, all but numbers in words: `S17`; `status`, "ours" for a setting that is no paper's; `section` and
    `left open`, of the origin that the field carries (`trainers.settings.origin`), "" where there is none; `here`;
    `changed`, "yes" or "". None is "all": fields may be None only where they limit how much is used.
    """
    original, changed = asdict(paper), asdict(here)
    known = origins(paper)
    return pd.DataFrame(
        {
            "S17": [_spoken(value) for value in original.values()],
            "status": [one.status if one else "ours" for one in known.values()],
            "section": [one.section if one else "" for one in known.values()],
            "left open": [one.left_open if one else "" for one in known.values()],
            "here": [_spoken(value) for value in changed.values()],
            "changed": ["yes" if changed[name] != value else "" for name, value in original.items()],
        },
        index=pd.Index(original, name="setting"),
    )


def _spoken(value: object) -> str:
    if value is None:
        return "all"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
