"""Settings as tables: the paper's beside a run's, and what the paper leaves open of them."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from nasrepro.settings import nested, origins

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def settings_table(paper: "DataclassInstance", here: "DataclassInstance") -> pd.DataFrame:
    """A row for every field of two settings of one class: the paper's value, how it is known, and this run's.

    Columns, all but numbers in words: `S17`; `status`, "ours" for a setting that is no paper's; `section` and
    `left open`, of the origin that the field carries (`settings.origin`), "" where there is none; `here`;
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


def open_questions(*settings: "DataclassInstance") -> pd.DataFrame:
    """A row for every setting of a paper, in these and in those that they hold, that the paper does not state in full.

    Columns, in words: `class` and `setting`; `paper` and `section`, where it would be expected; `status`; `here`, the
    value; `left open`, what of a setting that the paper speaks of, "" where it is silent.
    """
    rows = [
        [type(each).__name__, name, one.paper, one.section, one.status, _spoken(getattr(each, name)), one.left_open]
        for whole in settings
        for each in nested(whole)
        for name, one in origins(each).items()
        if one and (one.status != "stated" or one.left_open)
    ]
    return pd.DataFrame(rows, columns=["class", "setting", "paper", "section", "status", "here", "left open"])


def _spoken(value: object) -> str:
    if value is None:
        return "all"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
