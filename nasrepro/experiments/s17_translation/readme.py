"""What the README says of this experiment, made from the shipped record."""

import math
from pathlib import Path

import pandas as pd

from nasrepro.dsl import zoo
from nasrepro.experiments.s17_translation.sizes import TABLE_3
from nasrepro.report import markdown, papers
from nasrepro.search import Record
from nasrepro.trainers.translation import TranslationTask


def table(records: Path) -> str:
    """S17's Table 3 on Multi30k, Markdown: what we measured beside what the paper prints, means over seeds."""
    known = papers.load()
    tested = Record.load(records / "multi30k-table3.jsonl.gz").evaluations()
    made = [e for e in tested if e.task == "translation, test split" and e.settings["corpus"] == "multi30k"]
    rows: list[list[object]] = []
    for name in TABLE_3:
        if of := [e.metrics for e in made if e.hash == zoo[name].hash]:
            row: list[object] = [name]
            for metric, column in (("test_multi_bleu", "bleu"), ("valid_ppl", "loss")):
                ours = pd.Series([metrics.get(metric, math.nan) for metrics in of])
                spread = f" ({ours.min():.3g} to {ours.max():.3g})" if len(of) > 1 else ""
                row += [f"{ours.mean():.3g}{spread}", known[f"s17.table3.{name.lower()}.multi30k_{column}"].value]
            rows.append([*row, len(of)])
    head = ["encoder", "test BLEU", "paper", "validation perplexity", "paper", "seeds"]
    words, devices = TranslationTask.of_settings(made[0].settings).words(), sorted({e.device for e in made})
    return (
        f"{markdown.table(head, rows)}\n\nBy the paper's settings: {words}, on {', '.join(devices)}. BLEU is on "
        "tokenised, lower-cased text; mean, and the range over seeds."
    )
