"""What the README says of this experiment, made from the shipped record."""

from pathlib import Path

from nasrepro.experiments.zl17_transfer import analysis
from nasrepro.report import markdown
from nasrepro.search import Record
from nasrepro.trainers.gnmt_translation import GnmtTask


def table(records: Path) -> str:
    """LSTM and NASCell in GNMT at equal cost, Markdown: every seed's test BLEU, and what that shows."""
    evaluations = Record.load(records / "multi30k-gnmt.jsonl.gz").evaluations()
    runs = analysis.flat(evaluations).sort_values("seed")
    rows = [
        [name, *(f"{bleu:.1f}" for bleu in of["test_multi_bleu"]), f"{of['test_multi_bleu'].mean():.1f}"]
        for name, of in runs.groupby(level=0, sort=False)
    ]
    head = ["cell", *(f"seed {seed}" for seed in sorted(set(runs["seed"]))), "mean"]
    devices = ", ".join(sorted({one.device for one in evaluations}))
    return (
        f"{markdown.table(head, rows)}\n\nTest BLEU on Multi30k, tokenised and lower-cased; "
        f"{GnmtTask.of_settings(evaluations[0].settings).words()}; {devices}. {analysis.told(analysis.paired(runs))}"
    )
