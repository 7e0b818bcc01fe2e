"""Trainings by the paper's own settings: S17's Table 3 on Multi30k, and candidates of its search on WikiText-2.

Each is kept in the record, which ships as gpu-record.jsonl.gz, as soon as it has ended; one that is interrupted goes on
after its last whole epoch, and one that a shipped record of the project holds is taken from there. Rows name the device
and the time that the record names, which need not be today's.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from gpu_checks import ROOT
from gpu_parts import OutOfTime

import nasrepro as nr
from nasrepro.experiments.s17_language_model.sizes import SIZES
from nasrepro.experiments.s17_translation.sizes import table_3_row
from nasrepro.search.held_out import HeldOut, evaluate_tests
from nasrepro.search.record import Evaluation, Record, evaluation_key
from nasrepro.search.workers import Job
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask, train
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

RECORD = "gpu-record.jsonl.gz"
SHIPPED_RECORDS = ROOT / "results" / "records"
ENCODERS = ("MT4", "BC3", "LSTM", "MT2", "MT1", "MT3", "MT5")
"""Those of S17's Table 3; the longest trainings first, so that processes side by side end at about the same time."""
SEARCH_SEED = 1


def translation(seed: int, device: str, small: bool, folder: Path, workers: int = 0) -> pd.DataFrame:
    """The encoders of S17's Table 3, trained by its own settings from one seed and measured on the test split.

    So many `workers`, processes side by side, share the device; with 0 this process trains one after the other. Raises
    DataError where Multi30k is not here (only a small run trains on other sentences), and OutOfTime, with the encoders
    that are ready, when the time is up.
    """
    task = replace(translation_task(device, small), checkpoints=str(folder / "work" / "checkpoints"))
    keys = {name: evaluation_key(HeldOut(task), nr.zoo[name], seed) for name in ENCODERS}
    jobs = {table_3_row(name, seed): Job(nr.zoo[name], seed) for name in ENCODERS}
    with open_record(folder, keys.values()) as record:
        try:
            evaluate_tests(task, jobs, record, workers)
        except OutOfTime as stop:
            stop.rows = _table_3(keys, record)
            raise
        finally:  # those that are ready ship, however the others have ended
            record.export(folder / RECORD)
        return _table_3(keys, record)


def _table_3(keys: Mapping[str, str], record: Record) -> pd.DataFrame:
    """A row for each encoder whose evaluation, by its key, the record holds."""
    found = {name: record[key] for name, key in keys.items() if key in record}
    return pd.DataFrame([_row(name, of) | {"epochs": len(of.curve), **of.metrics} for name, of in found.items()])


def translation_task(device: str, small: bool) -> TranslationTask:
    """Table 3's task. Sentences are evaluated side by side: that changes no number, since padding has no weight."""
    if small:
        sizes = TranslationSettings(
            hidden=16, epochs=1, train_pairs=200, valid_pairs=20, fail_above=1e9, eval_batch=100, longest=20
        )
        return TranslationTask("captions", sizes, device)
    return TranslationTask("multi30k", TranslationSettings(eval_batch=100), device)


def candidate(name: str, device: str, small: bool, folder: Path) -> pd.DataFrame:
    """One candidate of S17's search, trained by its own settings: a row for each epoch.

    Raises OutOfTime, with the epochs made so far, when the time is up.
    """
    task = _search_task(device, small)
    checkpoint = folder / "work" / f"search-{name}.pt"
    key = evaluation_key(task, nr.zoo[name], SEARCH_SEED)
    with open_record(folder, [key]) as record:
        found = record.get(key)
        if found is None:
            found = _train_candidate(name, task, checkpoint)
            record.put(found)
            record.export(folder / RECORD)
    checkpoint.unlink(missing_ok=True)
    return pd.DataFrame([_row(name, found) | point for point in found.curve or [{}]])


def _search_task(device: str, small: bool) -> LanguageModelTask:
    if small:
        sizes = LanguageModelSettings(
            hidden=8, embedding=8, epochs=2, train_tokens=4000, valid_tokens=1000, fail_above=1e9
        )
        return LanguageModelTask("pydoc", training=sizes, device=device)
    return replace(SIZES["paper"].task, device=device)


def _train_candidate(name: str, task: LanguageModelTask, checkpoint: Path) -> Evaluation:
    cell = nr.zoo[name]
    try:
        outcome, _ = train(cell, task.corpus, task.training, SEARCH_SEED, device=task.device, checkpoint=checkpoint)
    except OutOfTime as stop:
        if checkpoint.exists():
            curve = torch.load(checkpoint, map_location="cpu", weights_only=True)["run"]["curve"]
            stop.rows = pd.DataFrame(
                [{"data": task.corpus_name, "cell": name, "seed": SEARCH_SEED, **p} for p in curve]
            )
        raise
    return Evaluation.of(task, cell, SEARCH_SEED, outcome)


def _row(name: str, found: Evaluation) -> dict[str, str | int | float]:
    facts = {"device": found.device, "data": found.settings["corpus"], "cell": name, "seed": found.seed}
    ended = {"status": found.status, "reason": found.reason, "seconds": round(found.seconds, 1)}
    return facts | ended | {"created": found.created}


def open_record(folder: Path, keys: Collection[str]) -> Record:
    """The record of all trainings, with the project's shipped records that hold some of these keys and it lacks.

    One that was only shipped is made a working file again.
    """
    path, shipped = folder / "work" / "record.sqlite", folder / RECORD
    begun = path.exists()
    record = Record(path)
    if not begun and shipped.exists():
        record.import_(shipped)
    for file in sorted(SHIPPED_RECORDS.glob("*.jsonl.gz")):
        if not _keys(file).isdisjoint(key for key in keys if key not in record):
            record.import_(file)
    return record


@cache
def _keys(path: Path) -> frozenset[str]:
    """The keys of a shipped record's evaluations."""
    return frozenset(Record.load(path))
