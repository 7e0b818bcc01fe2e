"""What the README says of the world, made from what ships."""

from pathlib import Path

import numpy as np
import pandas as pd

from nasrepro.experiments.zl17_world.replays import agreement, costs_told, noise
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.worlds import base2, base_2

SECONDS = "zl17-world-seconds.csv"
"""What notebook 12 measures of its replayed searches."""


def world_words(_: Path) -> str:
    """Some sentences on how large the world is, how its cells were trained, and how far their order can be trusted."""
    world = base2()
    settings = {name: value for name, value in world.facts["settings"].items() if name not in ("corpus", "level")}
    task = LanguageModelTask(training=LanguageModelSettings(**settings), own=base_2.text())
    learned = np.isfinite(world.losses)
    (seeds, longer), (_, longer_better) = agreement(world)["tau"], agreement(world)["tau, better half"]
    (median, mean), trainings = noise(world), sum(world.facts["devices"].values())
    return (
        f"{len(world.cell_of):,} token strings, {len(world.texts):,} cells, {(~learned).sum():,} of which failed; "
        f"{trainings:,} trainings ({task.words()}), on {' and '.join(sorted(world.facts['devices']))}. Validation "
        f"perplexities from {np.nanmin(world.losses):.2f} to {np.nanmax(world.losses):.1f}, median "
        f"{np.nanmedian(world.losses):.1f}. How far the order of cells can be trusted, by Kendall's tau: from seed to "
        f"seed {seeds:.2f} (standard deviation of the log perplexity {median:.3f} for the median cell, {mean:.3f} as a "
        f"root mean square); with a training ten times as long {longer:.2f}, and {longer_better:.2f} among the better "
        "half of the cells."
    )


def replays_words(records: Path) -> str:
    """A sentence on how long replayed searches take, as measured by the run whose findings ship."""
    path = records / SECONDS
    if not path.exists():
        return "How long each kind of search takes has not been shipped yet; notebook 12 measures it."
    return f"Measured by notebook 12 at `course`, on all cores together: {costs_told(pd.read_csv(path))}."
