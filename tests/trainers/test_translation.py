"""The translation trainer: its batches, its schedule, what counts as failed, and that it can be interrupted."""

import json
import math
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nasrepro.datasets import ParallelCorpus
from nasrepro.datasets.parallel import BOS, EOS, PAD, parallel_from_text
from nasrepro.dsl import parse, zoo
from nasrepro.search import Record, RecordError
from nasrepro.trainers import translation
from nasrepro.trainers.translation import (
    TranslationSettings,
    TranslationTask,
    evaluate,
    make_batches,
    make_model,
    train,
    translate,
)
from tests.search.fakes import evaluate_test

TINY = TranslationSettings(
    hidden=12, layers=1, batch=8, epochs=3, eval_batch=5, beam=2, longest=12, fail_above=1e9, init_range=0.3
)
RECORDS = Path(__file__).resolve().parents[2] / "results" / "records"
EXPLODING = parse("Add(MM(x_t), Mult(MM(h_{t-1}), MM(h_{t-1})))")  # h grows with the square of itself

ENGLISH = {"a man": "ein Mann", "a woman": "eine Frau", "the dog": "der Hund", "the cat": "die Katze"}
VERBS = {"sleeps": "schläft", "runs": "läuft", "sees": "sieht", "waits": "wartet"}
ADVERBS = {"today": "heute", "here": "hier", "": ""}


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        who, verb, adverb = rng.choice(list(ENGLISH)), rng.choice(list(VERBS)), rng.choice(list(ADVERBS))
        english = f"{who} {verb} {adverb}".strip() + " ."
        found.append((english, f"{ENGLISH[who]} {VERBS[verb]} {ADVERBS[adverb]}".strip() + " ."))
    return found


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return parallel_from_text("toy", pairs(200, 1), pairs(25, 2), pairs(25, 3))


@pytest.fixture
def task(corpus: ParallelCorpus, monkeypatch: pytest.MonkeyPatch) -> TranslationTask:
    monkeypatch.setattr(translation, "_corpus", lambda *_: corpus)
    return TranslationTask("toy", TINY)


# ---- batches


def test_batches_hold_every_pair_once_sorted_by_length(corpus: ParallelCorpus) -> None:
    vocab = corpus.target_vocab
    batches = make_batches(corpus.train, vocab, 8)
    assert sorted(place for places, _ in batches for place in places) == list(range(200))
    lengths = [length for _, batch in batches for length in batch.lengths.tolist()]
    assert lengths == sorted(lengths)
    pad, bos, eos = vocab.lookup_indices([PAD, BOS, EOS])
    for places, batch in batches:
        assert batch.source.shape == (int(batch.lengths.max()), len(places))
        assert batch.inputs.shape == batch.targets.shape == batch.real.shape
        for column, place in enumerate(places):
            source, target = corpus.train.source[place], corpus.train.target[place]
            assert batch.source[: len(source), column].tolist() == source
            assert (batch.source[len(source) :, column] == pad).all()
            assert batch.inputs[: len(target) + 1, column].tolist() == [bos, *target]
            assert batch.targets[batch.real[:, column], column].tolist() == [*target, eos]


def test_the_size_of_batches_changes_no_loss(corpus: ParallelCorpus) -> None:
    model = make_model(zoo["LSTM"], corpus, TINY, seed=1)
    found = [
        evaluate(model, [batch for _, batch in make_batches(corpus.valid, corpus.target_vocab, size)])
        for size in (1, 4, 25)
    ]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("name", ["batch", "bptt", "eval_batch", "train_pairs", "valid_pairs"])
@pytest.mark.parametrize("value", [0, -5])
def test_settings_that_count_are_one_or_more(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got {value}"):
        replace(TINY, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("split", "words"), [("train", "training"), ("valid", "validation")])
def test_a_split_without_pairs_is_named_before_training(corpus: ParallelCorpus, split: str, words: str) -> None:
    without: dict[str, Any] = {split: getattr(corpus, split)[:0]}
    with pytest.raises(ValueError, match=f"toy has no {words} pairs"):
        train(zoo["LSTM"], replace(corpus, **without), TINY, on_epoch=lambda _: pytest.fail("trained"))


# ---- the schedule


@pytest.mark.parametrize(
    ("losses", "halve_from", "rates"),
    [
        ([3.0, 2.0, 1.0, 0.5], 99, [1, 1, 1, 1]),
        ([3.0, 2.0, 2.5, 1.0, 0.5], 99, [1, 1, 1, 0.5, 0.25]),  # once begun, it goes on
        ([3.0, 2.9, 2.8, 2.7, 2.6], 3, [1, 1, 1, 0.5, 0.25]),  # begins by itself
        ([3.0, 3.0, 3.1], 99, [1, 1, 1]),  # equal is not worse
        ([1.0] + [2.0] * 20, 99, [1, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),  # the next would be below 0.03
    ],
)
def test_the_learning_rate_is_halved_as_opennmt_did(
    losses: list[float], halve_from: int, rates: list[float], corpus: ParallelCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(losses)
    monkeypatch.setattr(translation, "train_epoch", lambda *_: (1.0, True))
    monkeypatch.setattr(translation, "evaluate", lambda *_: next(given))
    monkeypatch.setattr(translation, "scores", lambda *_: {})
    settings = replace(TINY, epochs=len(losses), halve_from=halve_from)
    outcome, _ = train(zoo["MT5"], corpus, settings)
    assert [point["learning_rate"] for point in outcome.curve] == rates
    assert outcome.metrics["valid_ppl"] == pytest.approx(math.exp(min(losses[: len(rates)])))


@pytest.mark.parametrize(
    "changes",
    [{}, {"epochs": 6, "halve_from": 4}, {"epochs": 12}, {"epochs": 13}, {"halve_from": 1}, {"stop_below": 0.5},
     {"learning_rate": 0.02}, {"learning_rate": 8.0, "epochs": 40}, {"epochs": 0}],
)  # fmt: skip
def test_the_epochs_of_a_training_that_always_improves(
    changes: dict[str, float], corpus: ParallelCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter(range(1000, 0, -1))
    monkeypatch.setattr(translation, "train_epoch", lambda *_: (1.0, True))
    monkeypatch.setattr(translation, "evaluate", lambda *_: next(falling) / 1000)
    monkeypatch.setattr(translation, "scores", lambda *_: {})
    schedule = {name: getattr(TranslationSettings(), name) for name in ("epochs", "halve_from")}
    settings = replace(TINY, **{**schedule, **changes})
    assert settings.epochs_at_most == len(train(zoo["MT5"], corpus, settings)[0].curve)


def test_the_defaults_are_the_papers() -> None:
    stated = {"hidden": 300, "layers": 2, "dropout": 0.2, "batch": 64, "bptt": 35, "learning_rate": 1.0}
    stated |= {"stop_below": 0.03, "eval_batch": 1}
    found = vars(TranslationSettings())
    assert {name: found[name] for name in stated} == stated
    assert found["train_pairs"] is found["valid_pairs"] is None


# ---- training


def test_it_learns_to_translate(corpus: ParallelCorpus) -> None:
    settings = replace(TINY, hidden=24, epochs=12, halve_from=9)
    outcome, model = train(zoo["MT5"], corpus, settings, seed=1)
    assert outcome.metrics["valid_ppl"] < 1.2
    assert outcome.metrics["valid_bleu"] > 90
    found = translate(model, corpus.valid, corpus, settings)
    right = sum(words == reference for words, reference in zip(found, corpus.valid.tokens, strict=True))
    assert right / len(found) > 0.9
    fresh = make_model(zoo["MT5"], corpus, settings, seed=1)
    assert translate(fresh, corpus.valid, corpus, settings) != found


def test_the_weights_given_back_are_the_best_epochs(corpus: ParallelCorpus) -> None:
    settings = replace(TINY, learning_rate=8.0, epochs=4, halve_from=99)  # too large: it gets worse on the way
    outcome, model = train(zoo["MT2"], corpus, settings, seed=3)
    batches = [batch for _, batch in make_batches(corpus.valid, corpus.target_vocab, settings.eval_batch)]
    assert math.exp(evaluate(model, batches)) == pytest.approx(outcome.metrics["valid_ppl"])
    assert outcome.metrics["valid_ppl"] == min(point["valid_ppl"] for point in outcome.curve)


def test_a_cell_that_explodes_has_failed(corpus: ParallelCorpus) -> None:
    outcome, _ = train(EXPLODING, corpus, replace(TINY, learning_rate=1e4, clip=1e9), seed=0)
    assert (outcome.status, outcome.reason) == ("failed", "exploded")
    assert "valid_bleu" not in outcome.metrics


def test_a_cell_that_ends_above_the_limit_has_failed(corpus: ParallelCorpus) -> None:
    outcome, _ = train(zoo["MT5"], corpus, replace(TINY, epochs=1, fail_above=1.5), seed=0)
    assert (outcome.status, outcome.reason) == ("failed", "above 1.5 at the end")
    assert outcome.metrics["valid_ppl"] > 1.5
    assert "valid_bleu" not in outcome.metrics, "no time is spent on translating with it"


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(corpus: ParallelCorpus) -> None:
    settings = replace(TINY, epochs=2)
    first, again, other = (train(zoo["BC3"], corpus, settings, seed)[0].curve for seed in (1, 1, 2))
    assert first == again != other


def test_training_that_was_killed_goes_on_to_the_same_numbers(corpus: ParallelCorpus, tmp_path: Path) -> None:
    unbroken, _ = train(zoo["LSTM"], corpus, TINY, seed=4)
    path = tmp_path / "run.pt"

    def kill(point: dict[str, float]) -> None:
        if point["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(zoo["LSTM"], corpus, TINY, seed=4, on_epoch=kill, checkpoint=path)
    seen: list[Any] = []
    continued, _ = train(zoo["LSTM"], corpus, TINY, seed=4, on_epoch=seen.append, checkpoint=path)
    assert [point["epoch"] for point in seen] == [3]
    assert (continued.curve, continued.metrics) == (unbroken.curve, unbroken.metrics)


def test_a_vocabulary_of_another_data_set_is_refused(corpus: ParallelCorpus) -> None:
    other = parallel_from_text("other", [("one two three", "eins zwei drei")], [("one", "eins")], [("two", "zwei")])
    model = make_model(zoo["MT5"], other, TINY, seed=0)
    with pytest.raises(ValueError, match=r"made for 7 source words, toy has .* vocabulary of another data set"):
        translate(model, corpus.valid, corpus, TINY)


def test_words_that_training_never_saw_are_unknown_and_harmless(corpus: ParallelCorpus) -> None:
    strange = parallel_from_text(
        "strange",
        pairs(1, 1),
        [("a man sleeps 漢字 \u200b☃ .", "ein Mann schläft ."), *pairs(9, 4)],
        pairs(1, 3),
        vocabularies=(corpus.source_vocab, corpus.target_vocab),
    )
    model = make_model(zoo["MT5"], corpus, TINY, seed=0)
    assert len(translate(model, strange.valid, strange, TINY)) == 10


# ---- the task


def test_a_task_pickles_without_its_data_and_names_what_decides(task: TranslationTask) -> None:
    assert len(pickle.dumps(task)) < 2000
    assert pickle.loads(pickle.dumps(task)) == task
    assert json.loads(json.dumps(task.settings)) == {"corpus": "toy", **vars(TINY)}
    assert task.device == "auto"
    assert replace(task, device="cuda").settings == task.settings
    assert task.data_words == "toy"


def test_a_task_says_in_words_how_it_trains() -> None:
    expected = "2 + 2 layers of 300 units, at most 13 epochs over all pairs of multi30k"  # 1 halved down to 0.03
    assert TranslationTask("multi30k").words() == expected
    small = TranslationTask(training=replace(TINY, layers=1, hidden=8, epochs=1, train_pairs=1_500))
    assert small.words() == "1 + 1 layers of 8 units, at most 1 epoch over 1,500 pairs of captions"


@pytest.mark.parametrize("name", ["multi30k-table3", "multi30k-translation"])
def test_a_task_is_made_again_from_the_settings_of_the_rows_that_ship(name: str) -> None:
    rows = Record.load(RECORDS / f"{name}.jsonl.gz").evaluations()
    assert all(TranslationTask.of_settings(row.settings).settings == row.settings for row in rows)


def test_a_task_takes_ones_own_pairs_along(corpus: ParallelCorpus) -> None:
    task = TranslationTask(own=corpus, training=replace(TINY, epochs=1))
    assert (task.corpus_name, task.data_words, task.settings["corpus"]) == ("toy", "toy", "toy")
    travelled = pickle.loads(pickle.dumps(task))
    assert travelled.data_hash == task.data_hash == corpus.hash
    expected = train(zoo["MT5"], corpus, task.training, 1)[0].metrics
    assert travelled.evaluate(zoo["MT5"], 1).metrics == expected


def test_the_test_split_is_read_once_for_a_row(task: TranslationTask, tmp_path: Path) -> None:
    record = Record(tmp_path / "record.sqlite")
    found = evaluate_test(task, zoo["MT5"], 1, record, "a row")
    assert found.metrics["valid_ppl"] == pytest.approx(task.evaluate(zoo["MT5"].canonical(), 1).metrics["valid_ppl"])
    assert {"test_ppl", "test_bleu", "test_multi_bleu"} < found.metrics.keys()
    assert found.metrics["test_ppl"] != found.metrics["valid_ppl"]
    assert evaluate_test(task, zoo["MT5"], 1, record, "a row") == found
    assert len(record.test_reads()) == 1
    with pytest.raises(RecordError, match="row 'a row' read the test split of toy"):
        evaluate_test(task, zoo["MT5"], 2, record, "a row")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the CPU twin is the tests above")
def test_it_learns_on_a_gpu(corpus: ParallelCorpus) -> None:
    settings = replace(TINY, hidden=24, epochs=12, halve_from=9)
    outcome, _ = train(zoo["MT5"], corpus, settings, seed=1, device="cuda")
    assert outcome.metrics["valid_ppl"] < 1.2
