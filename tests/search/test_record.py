"""The record keeps what was written, refuses what is damaged, and is shared by processes."""

import gzip
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasrepro import convnet
from nasrepro.dsl import parse, zoo
from nasrepro.search import Evaluation, Record, RecordError, evaluation_key
from nasrepro.search.plan import Choice, Step
from nasrepro.search.record import Proposal
from nasrepro.trainers.final_model import FinalModelTask
from nasrepro.trainers.gnmt_translation import GnmtTask
from nasrepro.trainers.images import ImageTask
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.outcome import PERPLEXITY, Loss, Outcome
from nasrepro.trainers.translation import TranslationSettings, TranslationTask
from tests.search.fakes import Corpus, FakeTask, evaluation, filled, propose_many, write_many
from tests.strategies import cells

RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
TASK = FakeTask()
LSTM, GRU = zoo["LSTM"], zoo["GRU"]
numbers = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3)


# ---- keys


def test_a_key_depends_on_everything_that_decides_the_result() -> None:
    keys = {
        evaluation_key(TASK, LSTM, 0),
        evaluation_key(TASK, GRU, 0),
        evaluation_key(TASK, LSTM, 1),
        evaluation_key(replace(TASK, name="other"), LSTM, 0),
        evaluation_key(replace(TASK, version=2), LSTM, 0),
        evaluation_key(replace(TASK, settings={"width": 9}), LSTM, 0),
        evaluation_key(replace(TASK, data_hash="1" * 64), LSTM, 0),
    }
    assert len(keys) == 7


def test_cells_that_are_equal_up_to_canonical_form_share_a_key() -> None:
    a, b = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))"), parse("Tanh(Add(MM(h_{t-1}), MM(x_t)))")
    assert a != b
    assert evaluation_key(TASK, a, 0) == evaluation_key(TASK, b, 0)


def test_a_key_is_what_sha256_gives_outside() -> None:
    # printf '["fake","Tanh(Add(MM(h_{t-1}), MM(x_t)))",{"width":8},0,"000…",1]' | sha256sum
    cell = parse("Tanh(Add(MM(x_t), MM(h_{t-1})))")
    assert str(cell.canonical()) == "Tanh(Add(MM(h_{t-1}), MM(x_t)))"
    assert evaluation_key(TASK, cell, 0) == "23a70e83e2923e7023d8058aa9155f289ac0e482cad886ada88feb65e0c64515"


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.jsonl.gz")), ids=lambda path: path.name)
def test_keys_and_numbers_of_the_shipped_records_are_what_they_were(path: Path) -> None:
    """Keys by the definition, from each row's own content, and numbers as the file spells them."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    shipped = [row for row in map(json.loads, lines[1:]) if row["table"] == "evaluations"]
    assert shipped
    record = Record.load(path)
    for row in shipped:
        content = [row[name] for name in ("task", "canonical", "settings", "seed", "data", "version")]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == row["key"]
        task = FakeTask(name=row["task"], version=row["version"], settings=row["settings"], data_hash=row["data"])
        read: Callable[[str], Any] = convnet.parse if row["task"].startswith(ImageTask.name) else parse
        assert evaluation_key(task, read(row["cell"]), row["seed"]) == row["key"]
        found = record[row["key"]]
        assert json.dumps(found.settings) == json.dumps(row["settings"])
        names = ("metrics", "curve", "parameters", "seconds", "status", "reason")
        kept, spelled = json.dumps([getattr(found, name) for name in names]), json.dumps([row[name] for name in names])
        assert kept == spelled.replace("null", "NaN")


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.jsonl.gz")), ids=lambda path: path.name)
def test_shipped_settings_come_out_of_their_classes_as_they_went_in(path: Path) -> None:
    """To the letter: 20 for 20.0 would make other keys."""
    kinds: dict[str, Callable[..., Any]] = {
        "language model": language_model_task,
        "translation": translation_task,
        GnmtTask.name: lambda **settings: GnmtTask.of_settings(settings),
        ImageTask.name: lambda **settings: ImageTask.of_settings(settings),
        FinalModelTask.name: lambda **settings: FinalModelTask.of_settings(settings),
        "final language model on torch.nn.LSTM": lambda **settings: FinalModelTask.of_settings(settings),
    }
    shipped = {json.dumps(e.settings, sort_keys=True): e for e in Record.load(path).evaluations()}
    for text, found in shipped.items():
        made = kinds[found.task.removesuffix(", test split")](**found.settings)
        assert json.dumps(made.settings, sort_keys=True) == text


def language_model_task(corpus: str, level: str, **training: Any) -> LanguageModelTask:
    return LanguageModelTask(corpus, level, training=LanguageModelSettings(**training))


def translation_task(corpus: str, **training: Any) -> TranslationTask:
    return TranslationTask(corpus, TranslationSettings(**training))


# ---- numbers of other libraries


EQUAL_SEEDS = [3, 3.0, np.int64(3), np.float64(3.0), torch.tensor(3), np.array(3)]


def test_equal_seeds_and_settings_have_one_key_whoever_made_the_numbers() -> None:
    assert {evaluation_key(TASK, LSTM, seed) for seed in EQUAL_SEEDS} == {evaluation_key(TASK, LSTM, 3)}
    for width in (np.int32(8), torch.tensor(8)):
        assert evaluation_key(replace(TASK, settings={"width": width}), LSTM, 0) == evaluation_key(TASK, LSTM, 0)
    with pytest.raises(ValueError, match=r"seed is a whole number, got 3\.5"):
        evaluation_key(TASK, LSTM, 3.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("equal", "other"),
    [
        (
            [
                language_model_task("ptb", "char", learning_rate=rate, hidden=hidden, valid_tokens=tokens, clip=clip)
                for rate, hidden, tokens, clip in [
                    (20.0, 200, 500, math.inf),
                    (20, 200.0, 500.0, float("inf")),
                    (np.float32(20), np.int64(200), np.int16(500), np.inf),
                    (torch.tensor(20.0), torch.tensor(200), np.float64(500), torch.tensor(math.inf)),
                ]
            ],
            language_model_task("ptb", "char", learning_rate=20.0, hidden=200, valid_tokens=500, clip=1.0),
        ),
        (
            [
                translation_task("multi30k", learning_rate=rate, dropout=dropout)
                for rate, dropout in [(1, 0), (1.0, -0.0)]
            ],
            translation_task("multi30k", learning_rate=2, dropout=0),
        ),
    ],
)
def test_equal_settings_of_a_task_have_one_key(equal: list[Any], other: Any) -> None:
    keys = [evaluation_key(replace(TASK, settings=task.settings), LSTM, 0) for task in [*equal, other]]
    assert len({*keys[:-1]}) == 1
    assert keys[-1] != keys[0]
    assert len({repr(task.training) for task in equal}) == 1  # which checkpoints are named by


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"clip": math.nan}, ValueError, "clip is a number, got nan"),
        ({"hidden": 20.5}, ValueError, r"hidden is a whole number, got 20\.5"),
        ({"epochs": math.inf}, ValueError, "epochs is a whole number, got inf"),
        ({"dropout": "0.2"}, TypeError, "dropout is a number, got '0.2'"),
        ({"batch": np.array([1, 2])}, TypeError, "batch is a number, got array"),
        ({"batch": 2**70}, ValueError, "batch is a whole number of at most 64 bits"),
        ({"clip": 10**400}, ValueError, "clip is a number that a float can hold, got 1000"),
        ({"clip": Decimal("sNaN")}, ValueError, r"clip is a number that a float can hold, got Decimal\('sNaN'\)"),
    ],
)
def test_settings_that_are_no_numbers_are_named(settings: dict[str, Any], error: type, message: str) -> None:
    for kind in (LanguageModelSettings, TranslationSettings):
        with pytest.raises(error, match=message):
            kind(**settings)


def test_settings_without_bounds_come_back_from_a_file(tmp_path: Path) -> None:
    task = replace(TASK, settings=language_model_task("ptb", "char", clip=math.inf).settings)
    with Record(tmp_path / "r.db") as record:
        record.put(Evaluation.of(task, LSTM, 0, Outcome("ok", "", {"valid_ppl": 9.0})))
        record.begin("abc", {"task": task.settings})
        record.export(tmp_path / "r.jsonl.gz")
    copy = Record.load(tmp_path / "r.jsonl.gz")
    assert copy[evaluation_key(task, LSTM, 0)].settings == task.settings
    assert copy.searches()["abc"]["task"]["clip"] == math.inf


def test_metrics_of_any_library_are_written(tmp_path: Path) -> None:
    metrics = {
        "valid_ppl": np.float32(8.5), "bits": torch.tensor(2.5), "bleu": Fraction(1, 4), "count": np.int64(7),
        "share": Decimal("0.5"), "long": np.longdouble(1.5), "bad": np.float32("inf"), "worse": torch.tensor(math.nan),
    }  # fmt: skip
    outcome = Outcome("ok", "", metrics, [{"epoch": np.int64(1)}], np.int64(17), "cpu", np.float32(0.5))  # type: ignore[arg-type,dict-item]
    with Record(tmp_path / "r.db") as record:
        record.put(Evaluation.of(TASK, LSTM, np.int64(3), outcome))  # type: ignore[arg-type]
        (found,) = record.evaluations()
        record.export(tmp_path / "r.jsonl.gz")
    assert found.key == evaluation_key(TASK, LSTM, 3)
    assert math.isnan(found.metrics.pop("bad"))
    assert math.isnan(found.metrics.pop("worse"))
    expected = {"valid_ppl": 8.5, "bits": 2.5, "bleu": 0.25, "count": 7, "share": 0.5, "long": 1.5}
    assert (found.metrics, found.curve, found.parameters, found.seconds) == (expected, [{"epoch": 1}], 17, 0.5)
    assert PERPLEXITY.of(Record.load(tmp_path / "r.jsonl.gz")[found.key]) == 8.5


@pytest.mark.parametrize("plain", [np.int64, torch.tensor, Decimal, np.array])
def test_numbers_of_other_libraries_in_every_column_are_exported(plain: Callable[[int], Any], tmp_path: Path) -> None:
    """Also where nothing but the record converts them: a row that was made by hand, a task's version, a search's."""
    row = replace(evaluation(), seed=plain(0), version=plain(1), parameters=plain(17), seconds=plain(2))
    step = Step([Choice(LSTM, "best", plain(4))], {"loss": plain(3)})
    record = Record()
    record.put(row)
    record.begin("abc", {})
    record.propose("abc", plain(0), step, [row.key])
    record.export(tmp_path / "r.jsonl.gz")
    again = Record.load(tmp_path / "r.jsonl.gz")
    assert again[row.key] == replace(evaluation(), parameters=17, seconds=2.0, created=row.created)
    assert again.proposals("abc") == [Proposal(0, 0, "best", str(LSTM), 4.0, row.key)]


@pytest.mark.parametrize("value", [b"17", 2**63, Path("a"), [1, 2], Decimal("sNaN")])
def test_what_a_record_cannot_hold_is_refused_when_it_is_written(value: Any) -> None:
    record = Record()
    with pytest.raises(RecordError, match=r"a record holds text and numbers of 64 bits, got .* for parameters"):
        record.put(replace(evaluation(), parameters=value))
    assert record.evaluations() == []


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**400, 1e300])
def test_a_seed_of_more_than_64_bits_is_refused_before_any_training(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed is a .*, got"):
        evaluation_key(TASK, LSTM, seed)
    assert len({evaluation_key(TASK, LSTM, seed) for seed in (2**63 - 1, -(2**63))}) == 2


@pytest.mark.parametrize("value", [10**400, Decimal("sNaN"), Fraction(10**400)])
def test_numbers_that_no_float_holds_are_named(value: Any) -> None:
    """JSON would take the first; every mean of it fails."""
    for numbers in ({"metrics": {"valid_ppl": value}}, {"curve": [{"valid_ppl": value}]}, {"seconds": value}):
        with pytest.raises(ValueError, match=r"(valid_ppl|seconds) is a number that a float can hold, got"):
            Outcome("ok", **numbers)


def test_metrics_that_are_no_numbers_are_named() -> None:
    with pytest.raises(TypeError, match="valid_ppl is a number, got 'low'"):
        Outcome("ok", "", {"valid_ppl": "low"})  # type: ignore[dict-item]


def test_facts_of_a_step_may_be_without_bounds() -> None:
    """Such as the loss of an agent that has diverged, or a predicted perplexity."""
    record = filled()
    step = Step([Choice(GRU, "best", math.inf)], {"loss": np.float32("inf"), "norm": math.nan})
    record.propose("abc", 1, step, ["a key"])
    assert record.steps("abc")[1]["loss"] == math.inf
    assert math.isnan(record.steps("abc")[1]["norm"])
    assert record.proposals("abc", 1) == [Proposal(2, 1, "best", str(GRU), math.inf, "a key")]


# ---- what is written is read


@settings(max_examples=40)
@given(cells(), st.integers(0, 2**31), numbers, st.lists(numbers, max_size=3), st.floats(0, 1e6))
def test_evaluations_come_back_equal(cell, seed, metrics, curve, seconds) -> None:
    written = Evaluation.of(TASK, cell, seed, Outcome("ok", "", metrics, curve, 17, "cpu", seconds))
    with Record() as record:
        record.put(written)
        assert record.get(written.key) == written == record[written.key]
        assert record.evaluations() == [written]


def test_numbers_that_are_not_finite_come_back_as_nan() -> None:
    record = Record()
    outcome = Outcome("failed", "exploded", {"valid_ppl": math.inf}, [{"loss": math.nan}])
    written = Evaluation.of(TASK, LSTM, 0, outcome)
    record.put(written)
    read = record[written.key]
    assert math.isnan(read.metrics["valid_ppl"])
    assert math.isnan(read.curve[0]["loss"])
    assert PERPLEXITY.of(read) is None


def test_a_failure_has_no_loss_even_where_it_has_metrics() -> None:
    failed = Outcome("failed", "above 500 after 5 epochs", {"valid_ppl": 600.0})
    good = Outcome("ok", "", {"valid_ppl": 99.5})
    for loss, found in ((PERPLEXITY, 99.5), (Loss("error", "error"), None)):
        assert loss.of(Evaluation.of(TASK, LSTM, 0, failed)) is None
        assert loss.of(Evaluation.of(TASK, LSTM, 0, good)) == loss.of(good) == found


def test_a_result_never_changes() -> None:
    record, first = Record(), evaluation()
    record.put(first)
    record.put(replace(first, metrics={"valid_ppl": 1.0}))
    assert record.evaluations() == [first]


def test_a_record_is_looked_into_by_key() -> None:
    record, keys = filled(), sorted(evaluation(name).key for name in ("LSTM", "GRU", "MGU"))
    assert list(record) == keys
    assert [key in record for key in keys] == [True] * 3
    assert "0" * 64 not in record
    assert 0 not in record
    assert list(Record()) == []
    assert bool(Record()), "an empty record is a record"


def test_one_key_is_no_list_of_keys() -> None:
    record = filled()
    with pytest.raises(TypeError, match="list of keys"):
        record.forget(evaluation("GRU").key)
    assert len(record.evaluations()) == 3


def test_forgotten_evaluations_are_gone_and_others_stay() -> None:
    record = filled()
    record.forget([evaluation("GRU").key])
    assert {e.cell for e in record.evaluations()} == {str(zoo["LSTM"]), str(zoo["MGU"])}
    with pytest.raises(KeyError, match="holds no evaluation"):
        record[evaluation("GRU").key]


def test_the_table_has_a_row_per_evaluation_and_a_column_per_metric() -> None:
    frame = filled().frame()
    assert len(frame) == 3
    assert frame.set_index("cell").valid_ppl[str(LSTM)] == evaluation("LSTM").metrics["valid_ppl"]
    assert "metrics" not in frame
    assert Record().frame().empty


def test_a_step_is_written_once() -> None:
    record = filled()
    before = record.proposals("abc")
    assert [proposal.number for proposal in before] == [0, 1]
    facts, keys = {"rejected": {"too large": 3}}, [proposal.key for proposal in before]
    choices = [Choice(cell, "random") for cell in (LSTM, GRU)]
    record.propose("abc", 0, Step(choices, facts), keys)  # as a process would that has worked out the same
    for other, of in (
        (Step([Choice(LSTM, "best"), choices[1]], facts), keys),
        (Step(choices, {}), keys),
        (Step(choices[:1], facts), keys[:1]),
        (Step([*choices, Choice(LSTM, "random")], facts), [*keys, "a key"]),
    ):
        with pytest.raises(RecordError, match=r"step 0 of search 'abc' was written by another program .* differs"):
            record.propose("abc", 0, other, of)
    assert record.proposals("abc") == before
    assert record.proposals("abc", step=1) == []
    assert record.steps("abc") == {0: {"rejected": {"too large": 3}}}


def test_a_step_is_written_whole_or_not_at_all() -> None:
    record = filled()
    choices = [Choice(LSTM, "best"), Choice(LSTM, object())]  # type: ignore[arg-type]  # SQLite cannot store that
    with pytest.raises(RecordError):
        record.propose("abc", 1, Step(choices, {}), ["a key", "another"])
    assert list(record.steps("abc")) == [0]
    assert len(record.proposals("abc")) == 2


def test_everything_is_there_after_closing_and_opening(tmp_path: Path) -> None:
    with Record(tmp_path / "new" / "r.db") as record:
        record.put(evaluation())
    with Record(tmp_path / "new" / "r.db") as record:
        assert record.evaluations() == [replace(evaluation(), created=record.evaluations()[0].created)]
    with pytest.raises(RecordError, match="is closed"):
        record.evaluations()


# ---- several at once


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    spawn, path = get_context("spawn"), tmp_path / "r.db"
    processes = [spawn.Process(target=write_many, args=(path, seeds)) for seeds in (range(40), range(20, 60))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with Record(path) as record:
        assert sorted(e.seed for e in record.evaluations()) == list(range(60))


def test_two_processes_propose_for_one_search_and_no_proposal_is_lost(tmp_path: Path) -> None:
    """At once and each its own steps, as parameter servers would."""
    spawn, path = get_context("spawn"), tmp_path / "r.db"
    processes = [spawn.Process(target=propose_many, args=(path, "abc", range(first, 60, 2))) for first in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with Record(path) as record:
        proposals = record.proposals("abc")
        assert [proposal.number for proposal in proposals] == list(range(180))
        for step in range(60):
            of = record.proposals("abc", step)
            assert [proposal.key for proposal in of] == [f"{step}/{place}" for place in range(3)]
            assert [proposal.number - of[0].number for proposal in of] == [0, 1, 2]
        assert {step: facts["step"] for step, facts in record.steps("abc").items()} == {n: n for n in range(60)}


def test_proposers_whose_turns_cross_take_no_numbers_from_each_other() -> None:
    """The first has thought before the second wrote, and writes after it."""
    record = filled()
    steps = {step: Step([Choice(zoo[name], "random") for name in ("MGU", "QRNN")], {}) for step in (1, 2)}
    for step in (2, 1):
        record.propose("abc", step, steps[step], ["first", "second"])
    assert [(proposal.number, proposal.step) for proposal in record.proposals("abc")] == [
        (0, 0), (1, 0), (2, 2), (3, 2), (4, 1), (5, 1),
    ]  # fmt: skip


# ---- the test split


def test_a_test_split_is_read_once_for_each_row_and_data(tmp_path: Path) -> None:
    with Record(tmp_path / "r.db") as record:
        assert record.read_test(Corpus(), "GRU") == [0, 1, 2, 3, 4]
    with Record(tmp_path / "r.db") as record:
        with pytest.raises(RecordError, match="row 'GRU' read the test split of tiny on 20"):
            record.read_test(Corpus(), "GRU")
        record.read_test(Corpus(), "BC3")
        record.read_test(Corpus(hash="e" * 64), "GRU")
        assert sorted((r["row"], r["data"][0]) for r in record.test_reads()) == [
            ("BC3", "f"), ("GRU", "e"), ("GRU", "f"),
        ]  # fmt: skip
