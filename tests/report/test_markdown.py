"""Tables as Markdown: a line each, in the order in which things come, and no cell twice."""

import pytest

from nasrepro.report import markdown


def test_a_table_has_a_line_for_its_head_one_below_it_and_one_for_each_row() -> None:
    assert markdown.table(["cell", "seeds"], [("LSTM", 3), ("GRU", 12)]).splitlines() == [
        "| cell | seeds |",
        "|---|---|",
        "| LSTM | 3 |",
        "| GRU | 12 |",
    ]
    assert markdown.table(["cell"], []) == "| cell |\n|---|"


def test_rows_and_columns_stand_in_the_order_in_which_they_come_and_what_is_not_given_is_empty() -> None:
    rows, columns, cells = ["z", "z", "a"], ["10", "9", "9"], ["1", "2", "3"]
    assert markdown.crossed("what", rows, columns, cells).splitlines() == [
        "| what | 10 | 9 |",
        "|---|---|---|",
        "| z | 1 | 2 |",
        "| a |  | 3 |",
    ]


def test_a_cell_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate"):
        markdown.crossed("what", ["a", "a"], ["b", "b"], ["1", "2"])
