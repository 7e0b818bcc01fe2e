"""What the README says of the published language models, made from the shipped records."""

import math
from pathlib import Path

from nasrepro.experiments.final_models import analysis, parity
from nasrepro.experiments.final_models.sizes import ON_TORCH, SIZES
from nasrepro.report import markdown
from nasrepro.search import Record

RECORD, EXAMPLE = "final-models.jsonl.gz", "wikitext2-example.jsonl.gz"
"""The shipped records: cells that are equally large and trained alike, and PyTorch's example."""


def table(records: Path) -> str:
    """Every cell of the comparison on the test split, Markdown, and what that shows of the papers' claims."""
    sizes, evaluations = SIZES["course"], Record.load(records / RECORD).evaluations()
    rows, told = [], []
    for name in sizes.tables:
        runs = analysis.flat(analysis.by_row(evaluations, sizes, name), sizes, name)
        digits = 3 if analysis.in_bits(name) else 1
        unit = "bits" if analysis.in_bits(name) else "perplexity"
        for model, found in analysis.means(runs, sizes, name).iterrows():
            edges = (
                f" ({found['low']:.{digits}f} to {found['high']:.{digits}f})" if not math.isnan(found["low"]) else ""
            )
            rows.append(
                [
                    analysis.title(sizes, name),
                    str(model),
                    f"{found['parameters'] / 1e6:.2f}M",
                    f"{found['test']:.{digits}f}{edges} {unit}",
                    str(found["seeds"]),
                    "" if math.isnan(found["share"]) else f"{100 * found['share']:.2g}%",
                ]
            )
        told.append(f"{analysis.title(sizes, name)}. {analysis.budget_told(sizes, name)}")
        told.append(analysis.gains_told(runs, sizes, name))
        if ON_TORCH in set(runs["model"]):
            told.append(analysis.torch_told(runs))
    head = ["for", "cell", "weights", "test (95% interval)", "seeds", "of the paper's training"]
    devices = ", ".join(sorted({one.device for one in evaluations}))
    return "\n\n".join([markdown.table(head, rows), f"Trained on {devices}.", *told])


def example(records: Path) -> str:
    """PyTorch's example beside its published log."""
    return parity.told(Record.load(records / EXAMPLE).evaluations())
