"""Trainings by the paper's own settings: S17's Table 3 on Multi30k, and candidates of its search on WikiText-2.

Each is kept in the record, which ships as gpu-record.jsonl.gz, as soon as it has ended; one that is interrupted goes on
after its last whole epoch. Rows name the device and the time that the record names, which need not be today's.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from gpu_parts import OutOfTime

import nasrepro as nr
from nasrepro.profiles import profiles, table_3_row
from nasrepro.search.held_out import evaluate_test
from nasrepro.search.record import Evaluation, Record, evaluation_key
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask, train
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

RECORD = "gpu-record.jsonl.gz"
ENCODERS = ("LSTM", "MT5", "BC3", "MT3", "MT4", "MT1", "MT2")
"""Those of S17's Table 3: its base, its best on Multi30k, its best found language model, and the others."""
SEARCH_SEED = 1


def translation(name: str, seed: int, device: str, small: bool, folder: Path) -> pd.DataFrame:
    """One encoder of S17's Table 3, trained by its own settings and measured on the test split.

    Raises DataError where Multi30k is not here; only a small run trains on other sentences.
    """
    task = replace(translation_task(device, small), checkpoints=str(folder / "work" / "checkpoints"))
    with open_record(folder) as record:
        found = evaluate_test(task, nr.zoo[name], seed, record, table_3_row(name, seed))
        record.export(folder / RECORD)
    return pd.DataFrame([_row(name, found) | {"epochs": len(found.curve), **found.metrics}])


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
    with open_record(folder) as record:
        found = record.get(evaluation_key(task, nr.zoo[name], SEARCH_SEED))
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
    return replace(profiles["paper"].task, device=device)


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


def open_record(folder: Path) -> Record:
    """The record of all trainings. One that was only shipped is made a working file again."""
    path, shipped = folder / "work" / "record.sqlite", folder / RECORD
    begun = path.exists()
    record = Record(path)
    if not begun and shipped.exists():
        record.import_(shipped)
    return record
