"""The papers' values against the arithmetic that ties them together, and the strictness of their reader."""

import doctest
import json
import math

import pytest

from nasrepro.report import papers
from nasrepro.report.papers import Entry

PAPERS = papers.load()


def value(identifier: str) -> float:
    found = PAPERS[identifier].value
    assert isinstance(found, int | float)
    return found


def test_tables_have_as_many_rows_as_printed():
    rows = {name: len(PAPERS.table(name)) for name in PAPERS.tables()}
    assert rows == {
        "S17 Table 1": 9,
        "S17 Table 2": 7,
        "S17 Table 3": 7,
        "ZL17 Table 1": 23,
        "ZL17 Table 2": 22,
        "ZL17 Table 3": 6,
    }


def test_differences_and_shares_follow_from_the_numbers_they_come_from():
    assert value("s17.search.mt.better_share") == pytest.approx(806 / 3450, abs=5e-5)
    for data, table in (("ptb", 1), ("wt2", 2)):
        gap = value(f"s17.table{table}.gru.test") - value(f"s17.table{table}.bc3.test")
        assert value(f"s17.lm.bc3_beats_gru.{data}") == pytest.approx(gap)
        behind = value(f"s17.table{table}.bc3.test") - value(f"s17.table{table}.awd.test")
        assert value(f"s17.lm.bc3_behind_awd.{data}") == pytest.approx(behind)
    assert value("s17.mt.beats_lstm") == pytest.approx(
        value("s17.table3.mt5.multi30k_bleu") - value("s17.table3.lstm.multi30k_bleu")
    )
    assert value("zl17.ptb.gain") == pytest.approx(value("zl17.table2.rhn.test") - value("zl17.table2.nas54.test"))
    assert value("zl17.fig7.local_optimum") == pytest.approx(
        value("zl17.fig7.no_skips") - value("zl17.table1.v1.error")
    )
    assert value("zl17.char.transfers") == pytest.approx(
        value("zl17.table3.lstm.test") - value("zl17.table3.new6.test")
    )


def lm_parameters(vocabulary: int, on_x: int, on_h: int, inside: int, hidden: int, embedding: int = 400) -> int:
    """A tied three-layer language model, its last layer as wide as the embedding; each product has a bias."""
    total = vocabulary * embedding + vocabulary  # tied embedding, decoder bias
    for inputs, outputs in ((embedding, hidden), (hidden, hidden), (hidden, embedding)):
        total += on_x * (inputs + 1) * outputs + (on_h + inside) * (outputs + 1) * outputs
    return total


@pytest.mark.parametrize(("table", "vocabulary"), [(1, 10_000), (2, 33_278)])
def test_parameter_counts_follow_from_the_architectures(table: int, vocabulary: int):
    # BC3: five products on x_t, two on h, one on c, one inside. GRU: three on x_t, three on h.
    for cell, on_x, on_h, inside, hidden in (("bc3", 5, 2, 2, 1080), ("gru", 3, 3, 0, 1350)):
        entry = PAPERS[f"s17.table{table}.{cell}.params"]
        assert entry.tolerance is not None
        assert lm_parameters(vocabulary, on_x, on_h, inside, hidden) == pytest.approx(
            value(entry.id), abs=entry.tolerance
        )


def test_reward_values_follow_the_printed_formula():
    for identifier, loss in (("0", 0), ("2", 2), ("5_64", 5.64), ("140", 140)):
        reward = 0.2 * (140 - loss) + 4 ** (0.3815 * (140 - loss) - 50)
        assert value(f"s17.reward.{identifier}") == pytest.approx(reward, abs=0.005)


def test_zl17_space_and_tokens_follow_from_the_base_number():
    nodes = 2 * 8 - 1
    space = PAPERS["zl17.space.base8"]
    assert space.tolerance is not None
    # Two ways to combine times four activations, at every node and at the injection; two indices over nodes.
    assert abs(8**nodes * 8 * nodes * nodes - value(space.id)) <= space.tolerance
    assert value("zl17.tokens.base8") == 2 * nodes + 2 + 2


def test_figure_7_weights_follow_from_its_drawing():
    # (height, width, filters, inputs) of each layer; 0 is the image with its three channels.
    layers = [
        (3, 3, 36, [0]),
        (3, 3, 48, [1]),
        (3, 3, 36, [1, 2]),
        (5, 5, 36, [1, 2, 3]),
        (3, 7, 48, [3, 4]),
        (7, 7, 48, [2, 3, 4, 5]),
        (7, 7, 48, [2, 3, 4, 5, 6]),
        (7, 3, 36, [1, 6, 7]),
        (7, 1, 36, [1, 5, 6, 8]),
        (7, 7, 36, [1, 3, 4, 5, 6, 7, 8, 9]),
        (5, 7, 36, [1, 2, 5, 6, 7, 8, 9, 10]),
        (7, 7, 48, [1, 2, 3, 4, 6, 11]),
        (7, 5, 48, [1, 3, 6, 7, 8, 9, 10, 11, 12]),
        (7, 5, 48, [3, 7, 12, 13]),
        (7, 5, 48, [2, 7, 11, 12, 13, 14]),
    ]
    channels = [3, *(filters for _, _, filters, _ in layers)]
    weights = sum(h * w * n * sum(channels[i] for i in inputs) for h, w, n, inputs in layers)
    assert value("zl17.fig7.conv_weights") == weights
    assert round(weights / 1e6, 1) == value("zl17.table1.v1.params") / 1e6
    assert len(layers) == value("zl17.table1.v1.depth")


def test_figure_3_ticks_are_the_perplexities_said():
    assert round(math.exp(value("s17.fig3.lowest_tick"))) == 99
    assert round(math.exp(value("s17.fig3.highest_tick"))) == 330


def test_figure_6_series_is_even_and_ends_in_its_entries():
    series = PAPERS["zl17.fig6"].series
    assert series is not None
    assert series["models"] == [400 * i for i in range(53)]
    for name in ("top1", "top5", "top15"):
        assert len(series[name]) == 53
        assert series[name][-1] == value(f"zl17.fig6.{name}")


def test_every_number_and_count_has_a_value_and_a_unit():
    for entry in PAPERS.values():
        if entry.kind in ("number", "count"):
            assert entry.value is not None, entry.id
            assert entry.unit, entry.id
        if isinstance(entry.value, int | float) and entry.kind == "number":
            assert entry.tolerance is not None or entry.against is not None, entry.id
        if entry.kind == "claim" and entry.better:
            assert entry.against is not None, f"{entry.id}: an effect needs the value that would refute it"


def test_a_mistyped_identifier_names_the_nearest():
    with pytest.raises(KeyError, match=r"s17\.table1\.bc3\.test"):
        PAPERS["s17.table1.bc3.tset"]
    with pytest.raises(KeyError, match="S17 Table 1"):
        PAPERS.table("S17 Table 9")


def test_what_is_no_identifier_is_missing_as_from_any_mapping():
    assert PAPERS.get(0) is None
    with pytest.raises(KeyError, match="no entry 0"):
        PAPERS[0]


RAW = {"id": "s17.x", "paper": "S17", "kind": "number", "where": "Table 9", "text": "x", "status": "verified"}
S17 = {"title": "t", "authors": "a", "year": 2017, "arxiv": "1", "read_in": "it"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{**RAW, "vale": 1}], "unknown field vale"),
        ([RAW, RAW], "occurs twice"),
        ([{k: v for k, v in RAW.items() if k != "where"}], r"s17\.x.*where"),
        ([{**RAW, "kind": "guess"}], "kind is 'guess'"),
        ([{**RAW, "status": "sure"}], "status is 'sure'"),
        ([{**RAW, "better": "bigger"}], "better is 'bigger'"),
        ([{**RAW, "id": "zl17.x"}], "must begin with 's17.'"),
        ([{**RAW, "paper": "B3", "id": "b3.x"}], "not described"),
    ],
)
def test_the_reader_is_strict(tmp_path, entries, message):
    path = tmp_path / "papers.json"
    path.write_text(json.dumps({"papers": {"S17": S17}, "entries": entries}))
    with pytest.raises(ValueError, match=message):
        papers.read(path)


def test_the_reader_takes_what_is_right(tmp_path):
    path = tmp_path / "papers.json"
    path.write_text(json.dumps({"papers": {"S17": S17}, "entries": [RAW]}))
    assert list(papers.read(path).values()) == [Entry(**RAW)]  # type: ignore[arg-type]


def test_examples_in_the_docstrings():
    assert doctest.testmod(papers) == doctest.TestResults(failed=0, attempted=1)


def test_a_long_name_is_not_repeated_whole():
    for look in (PAPERS.__getitem__, PAPERS.table):
        with pytest.raises(KeyError, match="the papers have no") as caught:
            look("s17.table" * 50_000)
        assert len(str(caught.value)) < 1000
