"""What the README says of this experiment, made from the shipped record."""

import math
from collections.abc import Sequence
from pathlib import Path

from nasrepro.dsl import zoo
from nasrepro.experiments.s17_translation.sizes import TABLE_3
from nasrepro.report import papers
from nasrepro.search import Record
from nasrepro.trainers.translation import TranslationTask

_SHOWN = ("test_multi_bleu", "valid_ppl")


def table(records: Path) -> str:
    """S17's Table 3 on Multi30k, Markdown: what we measured beside what the paper prints, means over seeds."""
    return table_of(Record.load(records / "multi30k-table3.jsonl.gz"))


def table_of(record: Record) -> str:
    """S17's Table 3 on Multi30k, Markdown: what the record holds beside what the paper prints, means over seeds."""
    known = papers.load()
    rows = ["| encoder | test BLEU | paper | validation perplexity | paper | seeds |", "|---|---|---|---|---|---|"]
    tested = [e for e in record.evaluations() if e.task == "translation, test split"]
    made = [e for e in tested if e.settings["corpus"] == "multi30k"]
    for name in TABLE_3:
        of = [e for e in made if e.hash == zoo[name].hash]
        if not of:
            continue
        ours = [_mean_and_spread([e.metrics.get(metric, math.nan) for e in of]) for metric in _SHOWN]
        theirs = [known[f"s17.table3.{name.lower()}.multi30k_{what}"].value for what in ("bleu", "loss")]
        rows.append(f"| {name} | {ours[0]} | {theirs[0]} | {ours[1]} | {theirs[1]} | {len(of)} |")
    chosen, device = made[0].settings, ", ".join(sorted({e.device for e in made}))
    words = (
        f"By the paper's settings: {TranslationTask.of_settings(chosen).words()}, on {device}. BLEU is on tokenised, "
        "lower-cased text; mean, and the range over seeds."
    )
    return "\n".join([*rows, "", words])


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3g} ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else f"{mean:.3g}"
