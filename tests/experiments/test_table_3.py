"""The analysis of Table 3, on tables whose answers can be worked out by hand."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from nasrepro.datasets import DataError, parallel_from_text
from nasrepro.dsl import parse, zoo
from nasrepro.experiments.s17_translation import table_3
from nasrepro.experiments.s17_translation.sizes import TABLE_3
from nasrepro.report import papers
from nasrepro.report.ledger import Finding, verdict
from nasrepro.search.record import Evaluation
from nasrepro.trainers.outcome import Outcome
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

NOTHING = table_3.flat([])


def evaluation(cell, seed, data="d", curve=(), device="a machine", **metrics) -> Evaluation:
    """Of a training that learned, where there are metrics, and of one that exploded, where there are none."""
    task: Any = SimpleNamespace(name="translation, test split", version=1, settings={}, data_hash=data)
    status, reason = ("ok", "") if metrics else ("failed", "exploded")
    curve = [{"epoch": epoch, "valid_ppl": value} for epoch, value in enumerate(curve, 1)]
    return Evaluation.of(task, cell, seed, Outcome(status, reason, metrics, curve, 100 + seed, device, 2.0 * seed))


def learned(bleu, ppl=None, valid=None) -> pd.DataFrame:
    """The table of trainings that learned, from the test BLEU of each cell by seeds 1, 2, ... (None: not trained).

    Perplexity is 100 less BLEU, if nothing else is said, and validation BLEU is as test BLEU.
    """
    return table_3.flat(
        evaluation(
            zoo[name],
            seed,
            test_multi_bleu=score,
            test_bleu=score + 1,
            valid_multi_bleu=valid[name] if valid else score,
            valid_ppl=ppl[name][seed - 1] if ppl else 100 - score,
        )
        for name, scores in bleu.items()
        for seed, score in enumerate(scores, 1)
        if score is not None
    )


def word(name, facts, full=True, **spent) -> str:
    """The ledger's word for a finding, of a run as large as the paper's or of a smaller one."""
    spent = {"budget": 1.0, "scaled": False} if full else {"budget": 0.1, "scaled": True}
    entry = papers.load()[name]
    return verdict(entry, Finding(name, data=entry.data or "", **facts, **spent)).word


# ---- the flat table


def test_the_flat_table_is_in_the_order_of_the_papers_and_a_failure_has_no_numbers():
    table = table_3.flat(
        [
            evaluation(zoo["MT5"], 2, valid_ppl=9.0, test_multi_bleu=31.0),
            evaluation(zoo["MT5"], 1),
            evaluation(parse("Tanh(MM(x_t))"), 1, valid_ppl=7.0),  # a search's, no encoder of the table
            evaluation(zoo["LSTM"], 1, valid_ppl=8.0, test_multi_bleu=10.0),
            evaluation(zoo["LSTM"], 1, valid_ppl=8.0, test_multi_bleu=30.0),  # of a later record
        ]
    )
    assert list(zip(table.index, table["seed"], strict=True)) == [("LSTM", 1), ("MT5", 1), ("MT5", 2)]
    assert table["status"].tolist() == ["ok", "failed", "ok"]
    assert table["test_multi_bleu"].tolist() == pytest.approx([30.0, math.nan, 31.0], nan_ok=True)
    assert table["parameters"].tolist() == [101, 101, 102]


def test_the_papers_numbers_are_those_of_its_table():
    ours, table = table_3.printed(), papers.load().table("S17 Table 3")
    assert list(ours.index) == [row.partition(":")[0] for row in table.index]
    columns = ["Multi30k validation loss", "Multi30k test BLEU", "IWSLT'16 test BLEU"]
    assert ours.to_numpy().tolist() == table[columns].to_numpy().tolist()


def test_devices_are_named_once():
    made = [evaluation(zoo["LSTM"], seed, device=device) for seed, device in enumerate(("B", "A", "B", ""))]
    assert table_3.devices(made) == "A, B"


def test_table_3_holds_means_and_ranges_of_what_learned():
    runs = pd.concat(
        [
            learned({"LSTM": [30.0, 32.0, 34.0], "MT5": [33.0]}),
            table_3.flat([evaluation(zoo["MT5"], 2), evaluation(zoo["MT4"], 1)]),
        ]
    )
    table = table_3.beside_paper(runs, NOTHING)
    assert list(table.index) == list(TABLE_3)
    assert table.loc["LSTM", "test multi-bleu"] == "32.00 (30.00 to 34.00)"
    assert table.loc["LSTM", "validation perplexity"] == "68.00 (66.00 to 70.00)"
    assert table["test sacrebleu"].tolist() == ["33.00 (31.00 to 35.00)", "", "", "", "", "", "34.00 (34.00 to 34.00)"]
    assert table.loc["LSTM", ["S17: validation", "S17: test BLEU", "seconds"]].tolist() == [6.05, 34.05, 4.0]
    assert table.loc[["MT4", "MT5"], "parameters"].tolist() == [101, 102]
    assert "S17: IWSLT'16" not in table
    with_larger = table_3.beside_paper(runs, learned({"LSTM": [20.0], "BC3": [21.0]}))
    assert with_larger.loc["BC3", "larger set: test multi-bleu"] == "21.00 (21.00 to 21.00)"
    assert with_larger.loc["BC3", "S17: IWSLT'16"] == 23.32


# ---- what is compared


def test_sizes_of_splits_count_words_and_what_the_vocabulary_lacks():
    train = [("a dog", "ein hund"), ("a cat sleeps here", "eine katze schläft")]
    corpus = parallel_from_text("two", train, [("a dog barks", "ein hund bellt laut")], train)
    table = table_3.split_sizes(corpus).set_index(["split", "language"])
    assert table.loc[("train", "English"), ["sentences", "words", "mean length", "longest"]].tolist() == [2, 6, 3.0, 4]
    assert table.loc[("train", "German"), "unknown words"] == "0.0%"
    assert table.loc[("valid", "English"), "unknown words"] == "33.3%"  # "barks" of three words
    assert table.loc[("valid", "German"), ["words", "unknown words"]].tolist() == [4, "50.0%"]
    assert table.loc[("train", "English"), "vocabulary"] == 4 + 5


def test_sizes_of_encoders_are_those_of_their_matrices():
    pairs = [("a dog", "ein hund")]
    settings = TranslationSettings(hidden=10, layers=1)
    table = table_3.encoder_sizes(parallel_from_text("one", pairs, pairs, pairs), settings).set_index("cell")
    assert list(table.index) == list(TABLE_3)
    # Of an LSTM: four gates, each with 10 x 10 weights and 10 biases for x_t and as many for h_{t-1}.
    assert table.loc["LSTM", ["matrices", "memory c_t", "weights of the encoder"]].tolist() == [8, "yes", "880"]
    assert (table["text"] == [str(zoo[name]) for name in TABLE_3]).all()


def test_differences_of_a_task_from_the_papers():
    assert table_3.differences(TranslationTask("multi30k", TranslationSettings(eval_batch=100))) == (
        "The settings are the paper's."
    )
    small = TranslationTask("multi30k", TranslationSettings(hidden=96, train_pairs=500))
    assert table_3.differences(small) == ("What differs: units 96 (paper: 300); training pairs 500 (paper: 29,000).")


# ---- is a found cell better than the LSTM?


def test_gains_are_paired_by_seed():
    found = learned({"LSTM": [10.0, 20.0], "MT5": [11.0, 23.0, 99.0], "BC3": [None, 19.0]})
    gains = table_3.over_lstm(found)
    assert gains["gain"].groupby("cell").apply(list).to_dict() == {"LSTM": [0, 0], "BC3": [-1], "MT5": [1, 3]}
    table = table_3.gains(found)
    assert list(table.index) == ["BC3", "MT5"]
    assert table.loc["MT5", ["gain over LSTM", "valid multi-bleu", "seeds", "S17: gain"]].tolist() == pytest.approx(
        [2.0, 17.0, 2, 2.48]
    )
    assert table[["low", "high"]].isna().all(axis=None), "two seeds show no spread"


def test_the_best_found_cell_is_chosen_by_validation_and_three_seeds_can_decide():
    bleu = {"LSTM": [30.0, 30.2, 30.1], "MT1": [35.0, 35.1, 35.2], "MT5": [32.0, 32.2, 32.4]}
    gains = table_3.gains(learned(bleu, valid={"LSTM": 40.0, "MT1": 31.0, "MT5": 33.0}))
    facts = table_3.beats_lstm(gains, pd.Series({"LSTM": 0.021, "MT1": 0.3}))
    assert table_3.best(gains) == "MT5"
    assert facts["value"] == pytest.approx((2.0 + 2.0 + 2.3) / 3)
    assert facts["seeds"] == 3
    assert facts["interval"][0] == pytest.approx(2.0)
    assert facts["reason"].endswith("in the last epoch LSTM's perplexity still fell by 2%")
    assert word("s17.mt.beats_lstm", facts) == "reproduced"
    assert word("s17.mt.beats_lstm", facts, full=False) == "same direction"


def test_two_seeds_of_a_better_cell_decide_nothing():
    facts = table_3.beats_lstm(table_3.gains(learned({"LSTM": [30.0, 30.0], "MT5": [35.0, 36.0]})), pd.Series())
    assert facts["supports"]
    assert facts["interval"] is None
    assert word("s17.mt.beats_lstm", facts) == "not reproduced"


def test_a_worse_cell_contradicts_the_paper():
    facts = table_3.beats_lstm(table_3.gains(learned({"LSTM": [30.0] * 3, "MT5": [28.0, 29.0, 28.5]})), pd.Series())
    assert facts["value"] == -1.5
    assert not facts["supports"]


def test_intervals_in_words():
    assert table_3.spread((-0.25, 1.0)) == "95% interval -0.25 to +1.00"
    assert table_3.spread(None) == "too few seeds for an interval"


def test_a_row_is_ahead_by_less_perplexity_and_by_more_bleu():
    bleu = {"LSTM": [34.0, 34.1, 34.2], "BC3": [34.0, 33.8, 33.9], "MT5": [36.5, 36.6, 36.7]}
    ppl = {"LSTM": [6.0, 6.1, 6.2], "BC3": [5.8, 5.9, 5.7], "MT5": [6.4, 6.5, 6.6]}
    facts = table_3.entries(learned(bleu, ppl))
    assert len(facts) == 6
    supports = {name.removeprefix("s17.table3."): row.get("supports") for name, row in facts.items()}
    assert supports == {
        "lstm.multi30k_loss": None, "bc3.multi30k_loss": True, "mt5.multi30k_loss": False,
        "lstm.multi30k_bleu": None, "bc3.multi30k_bleu": False, "mt5.multi30k_bleu": True,
    }  # fmt: skip
    row = facts["s17.table3.mt5.multi30k_bleu"]
    assert (row["value"], row["against"]) == pytest.approx((36.6, 34.1))
    assert row["reason"] == "ahead of the LSTM, as in the paper (34.10 here)"
    assert facts["s17.table3.lstm.multi30k_bleu"]["reason"].startswith("+0.05 beside the paper's")
    words = {name: word(name, row) for name, row in facts.items()}
    assert words["s17.table3.mt5.multi30k_bleu"] == "reproduced", "within its tolerance of 0.5"
    assert words["s17.table3.mt5.multi30k_loss"] == "not reproduced"
    assert word("s17.table3.mt5.multi30k_bleu", row, full=False) == "same direction"


# ---- orders


def test_tau_by_hand():
    first = pd.Series({"A": 1.0, "B": 2.0, "C": 3.0, "only here": 9.0})
    assert table_3.tau(first, pd.Series({"C": 2.0, "B": 3.0, "A": 1.0})) == pytest.approx(1 / 3)  # of 3 pairs 2 agree
    assert table_3.tau(first, first) == 1
    assert table_3.tau(first, -first) == -1
    assert table_3.tau(first, pd.Series({"A": 5.0, "B": 5.0, "C": 5.0})) == 0
    assert table_3.tau(first, pd.Series({"A": 5.0})) == 0


BLEU = {"LSTM": [30.0] * 3, "BC3": [31.0] * 3, "MT1": [32.0] * 3, "MT2": [33.0] * 3}


def test_measures_that_order_alike_do_not_differ():
    found = table_3.agreement(learned(BLEU))
    assert (found.cells, found.within, found.perplexity, found.bleu) == (4, [1.0] * 3, 1.0, 1.0)
    facts = table_3.loss_not_bleu(found)
    assert facts["supports"] is False
    assert word("s17.mt.loss_not_bleu", facts) == "not reproduced"


def test_measures_differ_where_they_agree_less_than_each_with_itself():
    ppl = {"LSTM": [5.0] * 3, "BC3": [6.0] * 3, "MT1": [7.0] * 3, "MT2": [8.0] * 3}  # the better by BLEU, the worse
    facts = table_3.loss_not_bleu(table_3.agreement(learned(BLEU, ppl)))
    assert (facts["value"], facts["against"], facts["supports"]) == (-1.0, 1.0, True)
    assert word("s17.mt.loss_not_bleu", facts) == "reproduced"


def test_measures_do_not_differ_where_seeds_disagree_as_much():
    up, down = [30.0, 31.0, 32.0], [32.0, 31.0, 30.0]
    bleu = {name: [up[place], down[place], up[place]] for place, name in enumerate(("LSTM", "BC3", "MT1"))}
    ppl = {"LSTM": [5.0] * 3, "BC3": [6.0] * 3, "MT1": [7.0] * 3}
    found = table_3.agreement(learned(bleu, ppl))
    assert found.within == [-1.0, 1.0, -1.0]
    assert (found.perplexity, found.bleu) == (1.0, pytest.approx(-1 / 3))  # of three pairs of seeds one agrees
    facts = table_3.loss_not_bleu(found)
    assert facts["value"] == facts["against"] == pytest.approx(-1 / 3)
    assert facts["supports"] is False
    assert word("s17.mt.loss_not_bleu", facts) == "not reproduced"


def test_two_seeds_do_not_tell_measures_from_seeds_and_one_has_nothing_to_be_held_against():
    ppl = {name: [float(place)] * 3 for place, name in enumerate(BLEU, 5)}
    two = learned({name: scores[:2] for name, scores in BLEU.items()}, ppl)
    facts = table_3.loss_not_bleu(table_3.agreement(two))
    assert (facts["seeds"], facts["supports"], facts["interval"]) == (2, None, None)
    assert word("s17.mt.loss_not_bleu", facts) == "not reproduced"
    assert table_3.agreement(two[two["seed"] == 1]) is None
    assert table_3.agreement(two.loc[["LSTM", "BC3"]]) is None, "two cells have no order to speak of"


def test_an_encoder_that_failed_from_one_seed_is_in_no_order():
    assert table_3.agreement(learned(BLEU | {"MT5": [1.0, None, 2.0]})).cells == 4


def test_budgets_that_turn_the_order_round():
    small = table_3.over_lstm(learned({"LSTM": [10.0, 12.0], "BC3": [13.0, 15.0], "MT1": [12.0, 14.0], "MT2": [11.0]}))
    large = table_3.over_lstm(learned({"LSTM": [30.0], "BC3": [30.5], "MT1": [31.0], "MT2": [32.0], "MT3": [40.0]}))
    means, agreed = table_3.by_budget({"small": small["gain"], "large": large["gain"]})
    assert means["small"].dropna().to_dict() == {"LSTM": 0, "BC3": 3, "MT1": 2, "MT2": 1}
    assert means["large"].dropna().to_dict() == {"LSTM": 0, "BC3": 0.5, "MT1": 1, "MT2": 2, "MT3": 10}
    assert agreed == -1, "over the three that both have, without the LSTM"


def test_the_last_epoch_of_those_that_learned():
    falling = table_3.still_falling(
        [
            evaluation(zoo["LSTM"], 1, curve=[20.0, 10.0, 9.0], valid_ppl=9.0),
            evaluation(zoo["LSTM"], 2, curve=[10.0, 8.0], valid_ppl=8.0),
            evaluation(zoo["BC3"], 1, curve=[10.0, 11.0], valid_ppl=10.0),
            evaluation(zoo["MT1"], 1, curve=[9.0], valid_ppl=9.0),
            evaluation(zoo["MT2"], 1, curve=[9.0, math.inf]),
        ]
    )
    assert falling.to_dict() == pytest.approx({"LSTM": 0.15, "BC3": -0.1})


# ---- the larger set


def test_the_lstm_leads_on_the_larger_set():
    larger = learned(
        {"LSTM": [24.0, 24.1, 24.2], "BC3": [23.5, 23.6, 23.7], "MT5": [23.9, 24.0, 24.1]},
        valid={"LSTM": 24.0, "BC3": 25.0, "MT5": 22.0},
    )
    facts = table_3.no_transfer(larger)
    assert facts["value"] == pytest.approx(0.5)
    assert facts["reason"].startswith("LSTM less BC3, the best of BC3, MT5 by validation BLEU there")
    assert word("s17.mt.no_transfer", facts) == "reproduced"
    rows = table_3.larger_entries(larger)
    assert rows["s17.table3.mt5.iwslt16_bleu"]["value"] == pytest.approx(24.0)
    assert rows["s17.table3.mt5.iwslt16_bleu"]["reason"].startswith("-0.10 over the LSTM's, in the paper -1.35")
    assert all("supports" not in row for row in rows.values())


def test_found_cells_that_carry_over_contradict_the_paper():
    facts = table_3.no_transfer(learned({"LSTM": [24.0, 24.1, 24.2], "BC3": [25.0, 25.2, 25.1]}))
    assert not facts["supports"]
    assert facts["interval"][1] < 0


def test_only_a_text_that_is_here_can_say_that_it_is_the_data_sets_own():
    pairs = [("a dog", "ein hund")]
    corpus = parallel_from_text("larger", pairs, pairs, pairs)
    task = TranslationTask(own=corpus, training=TranslationSettings(train_pairs=1))
    mine, others = (evaluation(zoo["LSTM"], 1, data=data) for data in (corpus.hash, "another"))
    found = table_3.on_larger(task, [mine])
    assert (found["data"], found["device"], found["budget_words"]) == ("larger", "a machine", task.words())
    assert 0 < found["budget"] < 1e-3
    assert table_3.on_larger(task, [mine, others])["data"] == "larger, or Tatoeba's pairs in its place"
    stand_in = dataclasses.replace(task, own=dataclasses.replace(corpus, note="stand-in: other pairs"))
    assert table_3.on_larger(stand_in, [mine])["data"] == "larger, or Tatoeba's pairs in its place"

    class Elsewhere(TranslationTask):
        @property
        def corpus(self):
            raise DataError("not here")

    found = table_3.on_larger(Elsewhere("larger"), [mine])
    assert (found["data"], found["budget"]) == ("larger, or Tatoeba's pairs in its place", None)


# ---- nothing to say


@pytest.mark.parametrize(
    "found",
    [NOTHING, learned({"LSTM": [30.0, 31.0]}), learned({"MT5": [30.0, 31.0], "BC3": [29.0, 28.0]})],
    ids=["nothing", "LSTM alone", "no LSTM"],
)
def test_where_there_is_nothing_to_compare_nothing_is_found(found):
    gains = table_3.gains(found)
    assert gains.empty
    assert table_3.beats_lstm(gains, table_3.still_falling([])) is None
    assert table_3.agreement(found) is None
    assert table_3.no_transfer(found) is None
    assert bool(table_3.entries(found)) == bool(table_3.larger_entries(found)) == ("LSTM" in found.index)
    assert len(table_3.beside_paper(found, found[:0])) == len(TABLE_3)


def test_where_all_failed_the_table_says_so():
    runs = table_3.flat([evaluation(zoo[name], 1) for name in TABLE_3])
    assert (runs["status"] == "failed").all()
    assert (table_3.beside_paper(runs, NOTHING)["test multi-bleu"] == "").all()
    assert table_3.gains(runs).empty
