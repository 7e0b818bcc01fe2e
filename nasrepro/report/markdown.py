"""Tables as Markdown, for the README."""

from collections.abc import Iterable, Sequence

import pandas as pd


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of a head and rows of cells, as many in each as the head has."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def crossed(corner: str, rows: Iterable[str], columns: Iterable[str], cells: Iterable[str]) -> str:
    """A Markdown table of texts by the names of their row and column, which stand in the order in which they come.

    `corner` is the head of the rows' names. A cell that is not given is empty; ValueError for one that is given twice.
    """
    given = pd.DataFrame(zip(rows, columns, cells, strict=True), columns=["row", "column", "cell"])
    wide = given.pivot(index="row", columns="column", values="cell").fillna("")
    wide = wide.reindex(index=given["row"].unique(), columns=given["column"].unique())
    return table([corner, *wide.columns], wide.reset_index().to_numpy().tolist())
