"""What the README says of this experiment, made from what ships."""

from pathlib import Path

import pandas as pd

from nasrepro.experiments import arms
from nasrepro.experiments.zl17_cells.sizes import ARMS, SIZES
from nasrepro.report import markdown, stats
from nasrepro.search import Record
from nasrepro.search.history import recorded_search

LEADS = "zl17-surrogate-leads.csv"
"""What notebook 10 finds on its surrogate after all children: the table of `arms.ends_table`."""


def table(records: Path) -> str:
    """How far each search for cells is ahead of random search, on real children and on the surrogate, Markdown."""
    sizes = SIZES["course"]
    record = Record.load(records / "ptb-chars-cells.jsonl.gz")
    plans = {(arm, seed): sizes.plan(arm, seed) for arm in sizes.arms for seed in sizes.seeds}
    found = {key: recorded_search(record, sizes.task, plan) for key, plan in plans.items()}
    searches = {key: search for key, search in found.items() if search is not None}
    leading = arms.leads(arms.progress(arms.drawn(searches), sizes.task.training.fail_above))
    devices = sorted({one.device for search in searches.values() for _, one in search.trials if one.device})
    children = int(leading["samples"].max())
    return (
        f"{_as_markdown(arms.ends_table(leading))}\n\nBy how much the perplexity of the best, of the best 5 and 15 and "
        f"of the last {arms.WINDOW} of {children} children is lower than random search's; in brackets Welch's 95% "
        f"interval over {len(sizes.seeds)} searches of each kind. Children: {sizes.task.words()}; "
        f"{' and '.join(devices)}. {_on_surrogate(records / LEADS)}"
    )


def _as_markdown(ends: pd.DataFrame) -> str:
    """A row for each kind of search, a column for each statistic: the lead, and its interval where there is one."""
    rows = []
    for arm, of in ends.groupby("arm", sort=False):
        leads = of.set_index("statistic").loc[[*arms.STATISTICS], ["lead", "low", "high"]].to_numpy()
        rows.append([ARMS[str(arm)].words, *(f"{lead:+.2f} ({low:+.2f} to {high:+.2f})" for lead, low, high in leads)])
    return markdown.table(["lead over random search", *arms.STATISTICS.values()], rows)


def _on_surrogate(path: Path) -> str:
    """What searches on the surrogate end with, in words."""
    if not path.exists():
        return "What searches on the surrogate find has not been shipped yet; notebook 10 (`course`) shows it."
    ends = pd.read_csv(path)
    best = ends[ends["statistic"] == "top15"]
    shown = [
        f"{ARMS[arm].words} {stats.told((low, high), 'is ahead', 'is behind', 'is level')} by the best 15 "
        f"({lead:+.2f}, {low:+.2f} to {high:+.2f})"
        for arm, lead, low, high in best[["arm", "lead", "low", "high"]].itertuples(index=False)
    ]
    return f"On the surrogate, after {int(ends['samples'].max()):,} children: {'; '.join(shown)}."
