"""What another implementation of ZL17's controller has shown in the published table, and whether ours does the same.

The other one shares no code with ours, and nobody here made the table. A hundred of its searches of each kind were
measured: batches of 8, a baseline that keeps 0.9 of its past, the accuracy or its cube as the reward. Known are means
over them of the accuracy of the last samples (25 to 32 of them), in percent, to a tenth. Of the scaled rate no number
is known, only that it is by 400 samples where the paper's rate is by 1,600.
"""

from collections.abc import Mapping

import pandas as pd

from nasrepro.experiments.zl17_world.replays import RANDOM
from nasrepro.experiments.zl17_world.sizes import PAPERS_RATE, SCALED_RATE
from nasrepro.search.token_table import TableRuns, progress

WITHIN = 0.4
"""Ours: how far apart means may lie. A hundred searches know them to a tenth; numbers of last samples differ."""

CLEARLY = 1.0
"""Ours: by how much of accuracy a search that is clearly ahead is ahead. One that is level is not half as far."""

SOURCE = (
    "Least and most: where a hundred searches of an implementation that shares no code with ours lie, give or take "
    f"{WITHIN:g}; clearly ahead is {CLEARLY:g} or more, level less than half of that."
)
"""What captions say of the band."""


def _about(value: float) -> tuple[float, float]:
    return value - WITHIN, value + WITHIN


BAND = (
    (RANDOM, 400, "mean", *_about(90.3)),
    (RANDOM, 1_600, "mean", *_about(90.3)),
    (PAPERS_RATE, 200, "mean", *_about(90.3)),
    (PAPERS_RATE, 400, "mean", *_about(90.4)),
    (PAPERS_RATE, 800, "mean", *_about(91.5)),
    (PAPERS_RATE, 1_600, "mean", *_about(92.7)),
    (PAPERS_RATE, 400, "lead", -CLEARLY / 2, CLEARLY / 2),
    (PAPERS_RATE, 1_600, "lead", CLEARLY, 100.0),
    (SCALED_RATE, 400, "lead", CLEARLY, 100.0),
)
"""Where each kind of search should lie after so many samples: the least and the most of the mean accuracy of its last
samples, or of how far that is above random search's."""


def held_against_band(runs: Mapping[str, TableRuns]) -> pd.DataFrame:
    """Searches in the published table beside `BAND`: columns method, samples, what, least, most, ours, holds."""
    table = pd.DataFrame([*BAND], columns=["method", "samples", "what", "least", "most"])
    counts = sorted({*table["samples"]})
    means = {name: progress(of, counts).groupby("samples")["window"].mean() for name, of in runs.items()}
    table["ours"] = [
        means[name][count] - (means[RANDOM][count] if what == "lead" else 0.0) for name, count, what, *_ in BAND
    ]
    return table.assign(holds=table["ours"].between(table["least"], table["most"]))
