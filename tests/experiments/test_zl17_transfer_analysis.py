"""The analysis of notebook 14, on tables whose answers can be worked out by hand, and on the shipped record."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from nasrepro.datasets import parallel_from_text
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.experiments.zl17_transfer import analysis
from nasrepro.experiments.zl17_transfer.sizes import COMPARED, SIZES
from nasrepro.report import papers
from nasrepro.report.ledger import Finding, verdict
from nasrepro.search import Record
from nasrepro.search.record import Evaluation
from nasrepro.trainers.forecast import MULTI30K, WMT14
from nasrepro.trainers.gnmt import Gnmt
from nasrepro.trainers.gnmt_translation import GnmtSettings, GnmtTask, make_model
from nasrepro.trainers.outcome import Outcome

RECORD = Path(__file__).resolve().parents[2] / "results" / "records" / "multi30k-gnmt.jsonl.gz"


def evaluation(name: str, seed: int, bleu: float | None, ppl: float = 9.0) -> Evaluation:
    """Of a training that learned, or without a BLEU of one that exploded."""
    task: Any = SimpleNamespace(name="translation by GNMT, test split", version=1, settings={}, data_hash="d")
    metrics = {} if bleu is None else {"valid_ppl": ppl, "test_ppl": ppl, "test_multi_bleu": bleu, "test_bleu": bleu}
    status, reason = ("failed", "exploded") if bleu is None else ("ok", "")
    curve = [{"epoch": epoch, "valid_ppl": ppl + 9 - epoch, "train_ppl": 8.0} for epoch in (1, 2)]
    cell = zoo[name] if name in COMPARED else parse(name)
    return Evaluation.of(task, cell, seed, Outcome(status, reason, metrics, curve, 100, "a machine", 2.0))


def runs(lstm: list[float | None], new: list[float | None], stuck: tuple[int, ...] = ()) -> pd.DataFrame:
    """The flat table from the test BLEU of both cells by seeds 1, 2, ...; LSTMs of the seeds `stuck` got stuck."""
    found = [evaluation("NASCell", seed, bleu) for seed, bleu in enumerate(new, 1)]
    found += [evaluation("LSTM", seed, bleu, 15.0 if seed in stuck else 9.0) for seed, bleu in enumerate(lstm, 1)]
    return analysis.flat(found)


LUCK = runs([34.0, 34.2, 22.0, 21.0, 34.1], [34.1, 34.2, 33.0, 33.0, 33.9], stuck=(3, 4))
LEADS = runs([30.0, 30.2, 30.1], [31.0, 31.1, 31.2])
NOTHING = analysis.flat([])


# ---- what a model multiplies


def test_the_costs_of_the_papers_models() -> None:
    """By hand: eight matrices of 1,024 units in 8 + 8 layers, 32,000 words."""
    table, H = analysis.costs(GnmtSettings(), WMT14), 1024
    encoder = 2 * 4 * H * 2 * H + 4 * H * 3 * H + 6 * 4 * H * 2 * H
    decoder = 8 * 4 * H * 3 * H
    lstm, wide, solved = (table.iloc[place] for place in range(3))
    assert (lstm["encoder"], lstm["decoder"], lstm["softmax"]) == (encoder, decoder, H * 32_000)
    assert (wide["encoder"], wide["decoder"]) == (2 * encoder, 2 * decoder), "sixteen matrices in place of eight"
    assert wide["softmax"] == lstm["softmax"]
    assert lstm["together"] == lstm[list(analysis.PARTS)].sum()
    assert solved["over LSTM"] == pytest.approx(1, abs=2e-3)
    assert list(table.index) == ["LSTM", "NASCell", "NASCell"]
    assert 1024 / 2**0.5 < solved["units"] < 1024, "the softmax lets it be wider than the root of two says"


def test_the_recorded_models_have_the_weights_that_the_solved_widths_give() -> None:
    table = analysis.costs(SIZES["course"].task.training, MULTI30K)
    recorded = {analysis.NAMES[e.hash]: e.parameters for e in Record.load([RECORD]).evaluations()}
    for name, width in zip(COMPARED, (256, table["units"].iloc[2]), strict=True):
        sizes = analysis.model_sizes(zoo[name], SIZES["course"].task.training, 9_799, 17_998, 13)
        assert sizes.hidden == width
        with torch.device("meta"):  # which holds shapes and no numbers
            model = Gnmt(zoo[name], sizes, seed=0)
        assert sum(parameter.numel() for parameter in model.parameters()) == recorded[name]


def test_the_words_on_costs_are_those_of_the_tables() -> None:
    here, theirs = analysis.costs(SIZES["course"].task.training, MULTI30K), analysis.costs(GnmtSettings(), WMT14)
    words = analysis.costs_told(here, theirs)
    assert f"**{here['units'].iloc[2]}** instead of 256" in words
    assert "at ZL17's size 734, not 1,024" in words
    assert "181 units" in words, "256 over the root of two"
    assert "But the softmax, 43% of the LSTM's model here" in words
    small = pd.DataFrame(here).assign(units=[256, 256, 181])
    assert "But the softmax" not in analysis.costs_told(small, theirs)


def test_the_share_of_the_papers_training() -> None:
    assert analysis.share_of_gnmt(SIZES["paper"].task) == 1
    half = GnmtTask("wmt14", GnmtSettings(train_pairs=WMT14.train // 2))
    assert analysis.share_of_gnmt(half) == pytest.approx(0.5)
    assert analysis.share_of_gnmt(GnmtTask("wmt14", GnmtSettings(epochs=46))) == 1, "more is no more than all"
    assert 0 < analysis.share_of_gnmt(SIZES["smoke"].task) < analysis.share_of_gnmt(SIZES["course"].task) < 1e-3


# ---- trainings


def test_the_flat_table_is_by_cell_and_seed_and_a_failure_has_no_numbers() -> None:
    found = [evaluation("NASCell", 2, 30.0), evaluation("LSTM", 1, None), evaluation("NASCell", 1, 31.0)]
    table = analysis.flat([*found, evaluation("Tanh(MM(x_t))", 1, 5.0)])
    assert list(zip(table.index, table["seed"], strict=True)) == [("LSTM", 1), ("NASCell", 1), ("NASCell", 2)]
    assert table["test_multi_bleu"].tolist() == pytest.approx([math.nan, 31.0, 30.0], nan_ok=True)
    assert not table["stuck"].any()
    assert len(analysis.learned(table)) == 2


@pytest.mark.parametrize(("ppl", "is_stuck"), [(12.9, False), (13.0, True)])
def test_a_training_is_stuck_by_the_best_seed_of_its_own_cell(ppl: float, is_stuck: bool) -> None:
    others = [
        evaluation("LSTM", 1, 30.0, 10.0),
        evaluation("NASCell", 1, 30.0, 40.0),
        evaluation("NASCell", 2, 9.0, 41.0),
    ]
    table = analysis.flat([*others, evaluation("LSTM", 2, 30.0, ppl)])
    assert table["stuck"].tolist() == [False, is_stuck, False, False]


def test_curves_have_a_row_for_each_epoch() -> None:
    table = analysis.curves([evaluation("LSTM", 3, 30.0, 9.0), evaluation("Tanh(MM(x_t))", 1, 5.0)])
    assert table.to_dict("records") == [
        {"cell": "LSTM", "seed": 3, "epoch": 1, "valid_ppl": 17.0, "train_ppl": 8.0},
        {"cell": "LSTM", "seed": 3, "epoch": 2, "valid_ppl": 16.0, "train_ppl": 8.0},
    ]


def test_whether_trainings_had_finished_is_told_by_their_last_epoch() -> None:
    def points(last: float) -> pd.DataFrame:
        rows = [(name, 1, epoch, ppl) for name in COMPARED for epoch, ppl in ((1, 20.0), (2, 10.0), (3, last))]
        return pd.DataFrame(rows, columns=["cell", "seed", "epoch", "valid_ppl"])

    assert "still fell, by 20.0% (LSTM) and 20.0% (NASCell)" in analysis.falling_told(points(8.0))
    assert "fell no more (-10.0% (LSTM) and -10.0% (NASCell))" in analysis.falling_told(points(11.0))
    assert analysis.falling_told(points(8.0).query("epoch == 1")) == "One epoch has no curve."
    assert analysis.falling_told(analysis.curves([])) == "One epoch has no curve."


def test_by_cell_counts_and_averages_what_learned() -> None:
    table = analysis.by_cell(runs([30.0, 32.0, None, 34.0], [31.0], stuck=(2,)))
    assert table.loc["LSTM", ["seeds", "failed", "stuck"]].tolist() == [3, 1, 1]
    assert table.loc["LSTM", "test multi-bleu"].startswith("32.00 (")
    assert table.loc["NASCell", "test multi-bleu"] == "31.00", "one seed has no interval"


def test_pairs_are_seeds_from_which_both_learned() -> None:
    pairs = analysis.paired(runs([30.0, None, 22.0], [30.5, 40.0, 33.0, 50.0], stuck=(3,)))
    assert pairs["gain"].to_dict() == {1: 0.5, 3: 11.0}
    assert pairs["stuck"].to_dict() == {1: False, 3: True}


# ---- what they say


def word(facts: analysis.Facts, share: float = 0.1, data: str = "multi30k") -> str:
    found = Finding("zl17.gnmt", **facts, budget=share, data=data, scaled=share < 1)
    return verdict(papers.load()["zl17.gnmt"], found).word


def test_a_gain_in_every_seed_points_in_the_papers_direction() -> None:
    facts = analysis.gain(analysis.paired(LEADS))
    assert facts is not None
    assert facts["value"] == pytest.approx(1.0)
    assert facts["supports"]
    assert word(facts) == "same direction"
    assert "stuck" not in facts["reason"]
    assert "so over these seeds NASCell is ahead" in analysis.told(analysis.paired(LEADS))


def test_two_seeds_decide_nothing_and_a_loss_contradicts() -> None:
    two = analysis.gain(analysis.paired(runs([30.0, 30.0], [31.0, 31.0])))
    loss = analysis.paired(runs([31.0, 31.1, 31.2], [30.0, 30.0, 30.1]))
    assert two is not None
    assert word(two) == "not reproduced"
    facts = analysis.gain(loss)
    assert facts is not None
    assert word(facts) == "not reproduced"
    assert not facts["supports"]
    assert "is behind, unlike in the paper" in analysis.told(loss)


def test_a_difference_made_by_stuck_trainings_is_said_to_be() -> None:
    pairs = analysis.paired(LUCK)
    facts = analysis.gain(pairs)
    assert facts is not None
    assert facts["value"] == pytest.approx((0.1 + 0.0 + 11.0 + 12.0 - 0.2) / 5)
    assert "seeds 3 and 4 got stuck and make most of the difference; over the others -0.03" in facts["reason"]
    words = analysis.stuck_told(LUCK)
    assert "2 of 5 (LSTM), 0 of 5 (NASCell)" in words
    assert "Most of the difference between the cells comes from seeds 3 and 4** (+11.00, +12.00 test BLEU)" in words
    assert "they do not show that one of them gets stuck more readily" in words
    told = analysis.exploratory(pairs)
    assert told.startswith("*Exploratory, chosen after the fact, decides nothing:* over seeds 1, 2 and 5 alone")
    assert "**-0.03**" in told


def test_the_chance_of_stuck_trainings_by_counting() -> None:
    """Of the ways to choose the two of ten that got stuck, 2 * C(5, 2) of C(10, 2) have both in one cell."""
    assert analysis.chance_of_stuck(LUCK) == pytest.approx(2 * math.comb(5, 2) / math.comb(10, 2))
    many = runs([34.0, *[20.0] * 9], [34.0] * 10, stuck=tuple(range(2, 11)))
    assert analysis.chance_of_stuck(many) < 0.01
    assert "so one of them gets stuck more readily" in analysis.stuck_told(many)


def test_stuck_seeds_that_weigh_little_are_not_blamed() -> None:
    table = runs([30.0, 30.0, 33.9], [34.0, 34.0, 34.0], stuck=(3,))
    facts = analysis.gain(analysis.paired(table))
    assert facts is not None
    assert "seed 3 got stuck; over the others +4.00" in facts["reason"]
    assert "Most of the difference" not in analysis.stuck_told(table)


def test_where_none_got_stuck_nothing_is_left_out() -> None:
    assert analysis.stuck_told(LEADS).startswith("No training got stuck here")
    assert analysis.exploratory(analysis.paired(LEADS)) == "There is nothing to leave out."


def test_all_pairs_of_seeds_are_crossed() -> None:
    # 31 - 30, 31 - 30.7, 31.4 - 30, 31.4 - 30.7: within 0.2 of +0.5 are +0.3 and +0.7.
    words = analysis.one_seed_told(analysis.paired(runs([30.0, 30.7], [31.0, 31.4])))
    assert "from **+0.30** to **+1.40**" in words
    assert "Of the 4 ways to choose the two, 4 give a gain above zero, and 2 one within 0.2" in words


@pytest.mark.parametrize("table", [NOTHING, runs([30.0, 31.0], []), runs([30.0], [None])])
def test_where_there_is_nothing_to_compare_nothing_is_found(table: pd.DataFrame) -> None:
    pairs = analysis.paired(table)
    assert pairs.empty
    assert analysis.gain(pairs) is None
    assert "nothing to compare" in analysis.told(pairs)
    assert analysis.one_seed_told(pairs) == "There is nothing to cross."
    assert analysis.exploratory(pairs)
    assert analysis.stuck_told(table)
    assert len(analysis.by_cell(table)) == table.index.nunique()


def test_the_shipped_record_is_read_as_it_is_told() -> None:
    table = analysis.flat(Record.load([RECORD]).evaluations())
    bleu = table.set_index("seed", append=True)["test_multi_bleu"]
    assert (table["stuck"].to_numpy() == (bleu < 30).to_numpy()).all(), "those that got stuck are those far behind"
    pairs = analysis.paired(table)
    assert len(pairs) == 5
    assert list(pairs.index[pairs["stuck"]]) == [3, 4]


# ---- the exercise


def layer_cost(cell: Cell, inputs: int, hidden: int) -> int:
    matrices = [node.args[0].text for node in cell.operators if node.op == "MM"]
    return sum(hidden * (inputs if below == "x_t" else hidden) for below in matrices)


def equal_width(count: Any, target: int) -> int:
    width = 1
    while abs(count(width + 1) - target) < abs(count(width) - target):
        width += 1
    return width


def test_a_reader_who_is_right_is_told_so() -> None:
    assert analysis.check_width(layer_cost, equal_width).startswith("Exercise done")


def test_what_is_not_written_yet_is_no_error() -> None:
    assert analysis.check_width(lambda *_: None, lambda *_: None).startswith("Exercise not yet done: layer_cost")
    assert analysis.check_width(layer_cost, lambda *_: None).startswith("Exercise half done")


def test_a_reader_who_is_wrong_is_told_where() -> None:
    with pytest.raises(AssertionError, match="LSTM, 7 inputs, 5 units: 240 multiply-adds, and not 200"):
        analysis.check_width(lambda cell, _, hidden: layer_cost(cell, hidden, hidden), equal_width)
    with pytest.raises(AssertionError, match=r"count 12 h, target 500: width 41 is 8 off, another only 4"):
        analysis.check_width(layer_cost, lambda count, target: equal_width(count, target) - 1)


# ---- small models

TEXT = [("a dog sleeps", "ein hund schläft"), ("the clown is washing a goat", "der clown wäscht eine ziege")]
CORPUS = parallel_from_text("two sentences", TEXT, TEXT, TEXT)
TINY = GnmtSettings(hidden=5, layers=2, dropout=0.0, init_range=0.5)


def trained(even: bool) -> dict[str, tuple[Outcome, Gnmt]]:
    models = {name: make_model(zoo[name], CORPUS, TINY, seed=1).eval() for name in COMPARED}
    if even:
        for model in models.values():
            torch.nn.init.zeros_(model.attention_score)
    metrics = {"valid_ppl": 9.0, "valid_multi_bleu": 3.0}
    return {name: (Outcome("ok", "", metrics, [], 1, "", 1.0), model) for name, model in models.items()}


def test_an_even_attention_looks_at_as_many_words_as_there_are() -> None:
    small = analysis.small_models(trained(even=True), CORPUS.valid, CORPUS.target_vocab)
    # Four steps of three words and six of six.
    assert small["if even"].tolist() == pytest.approx([(4 * 3 + 6 * 6) / 10] * 2)
    assert small["looked at"].tolist() == pytest.approx(small["if even"].tolist(), rel=1e-4)
    words = analysis.small_told(small)
    assert "That of LSTM and NASCell is close to even" in words
    assert "neither is a translator yet" in words


def test_short_sentences_are_those_of_the_corpus_and_no_longer_ones() -> None:
    short = analysis.short_sentences(CORPUS, longest=3)
    assert [" ".join(words) for words in short.train.source_tokens] == ["a dog sleeps"]
    assert [" ".join(words) for words in short.train.tokens] == ["ein hund schläft"]
    assert len(short.valid) == 1
    assert "clown" not in short.target_vocab


def test_attention_to_the_reference_is_a_distribution_before_each_of_its_words() -> None:
    model = make_model(zoo["LSTM"], CORPUS, TINY, seed=1).eval()
    words, attention = analysis.attention_to(model, CORPUS.valid[1], CORPUS.target_vocab)
    assert words == ["der", "clown", "wäscht", "eine", "ziege", "</s>"]
    assert attention.shape == (6, 6)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(6))


def test_sharp_models_that_translate_are_told_as_such() -> None:
    small = pd.DataFrame({"looked at": [2.0, 3.0], "if even": 14.0, "valid multi-bleu": [20.0, 4.0]}, index=[*COMPARED])
    words = analysis.small_told(small)
    assert "2.0 (**LSTM**) and 3.0 (**NASCell**) source words" in words
    assert "even:" not in words
    assert "translator" not in words
