"""What one error of a search is worth: networks trained once more, from other seeds and for longer (notebook 08)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nasrepro import profiles
from nasrepro.convnet import ConvNet
from nasrepro.experiments.zl17_convnets.analysis import FAILED
from nasrepro.experiments.zl17_convnets.sizes import SIZES, SearchSizes
from nasrepro.report import stats
from nasrepro.search.record import Evaluation, Record
from nasrepro.trainers.images import ImageTask

FEWEST = 4
"""Networks from which on an order is spoken of."""


def from_seeds(run: Any, chosen: SearchSizes) -> pd.DataFrame:
    """The error in percent of the search's first random networks from each seed, its own first: a row a network.

    A failure counts as `FAILED`. Networks that lack a seed are left out. `run` is the notebook's (`notebook.Run`).
    """
    if chosen.again is None:
        return pd.DataFrame()
    nets, seeds = chosen.sample(chosen.again.networks), (chosen.search.child_seed, *chosen.again.seeds)
    return _whole(_known(run, chosen.task, nets, seeds), nets, seeds)


def for_longer(run: Any, chosen: SearchSizes) -> pd.DataFrame:
    """The error in percent of the search's first random networks by its own training and by a longer one: a row each.

    Columns: short, longer. Networks that lack one of them are left out.
    """
    if chosen.again is None:
        return pd.DataFrame(columns=["short", "longer"], dtype=float)
    nets = chosen.sample(chosen.again.longer_networks)
    trainings = {
        "short": (chosen.task, chosen.search.child_seed),
        "longer": (chosen.again.longer, chosen.again.seeds[0]),
    }
    columns = {
        name: _whole(_known(run, task, nets, (seed,)), nets, (seed,))[seed] for name, (task, seed) in trainings.items()
    }
    return pd.DataFrame(columns, index=[net.hash for net in nets]).dropna()


def _known(run: Any, task: ImageTask, nets: Sequence[ConvNet], seeds: Sequence[int]) -> list[Evaluation]:
    """These trainings; those of networks of which all are recorded, by a profile that only replays."""
    chosen = [*nets]
    if run.profile.only_replays and not run.fresh:
        known = {(one.hash, one.seed) for one in run.recorded(task)}
        chosen = [net for net in nets if all((net.hash, seed) in known for seed in seeds)]
    found: list[Evaluation] = run.evaluations(chosen, [*seeds], task, run.sizes.workers) if chosen else []
    return found


def _whole(evaluations: Sequence[Evaluation], nets: Sequence[ConvNet], seeds: Sequence[int]) -> pd.DataFrame:
    """Errors by network, in their order, and seed, of those networks that have all of the seeds."""
    rows = [(one.hash, one.seed, one.metrics["valid_error"] if one.status == "ok" else FAILED) for one in evaluations]
    table = pd.DataFrame(rows, columns=["network", "seed", "error"]).drop_duplicates(["network", "seed"])
    wide = table.pivot(index="network", columns="seed", values="error").reindex(columns=[*seeds]).dropna()
    return wide.reindex([net.hash for net in nets if net.hash in wide.index])


@dataclass(frozen=True)
class OfRecord:
    """A record in place of a notebook's run: what it holds is all there is."""

    record: Record
    fresh = False
    profile = profiles.load("course")
    sizes = SIZES["course"]

    def recorded(self, task: ImageTask) -> list[Evaluation]:
        """As `notebook.Run.recorded`."""
        return [one for one in self.record.evaluations() if one.is_by(task)]

    def evaluations(self, nets: list[ConvNet], seeds: list[int], task: ImageTask, _workers: int) -> list[Evaluation]:
        """As `notebook.Run.evaluations`, of trainings that the record holds."""
        wanted = {(net.hash, seed) for net in nets for seed in seeds}
        return [one for one in self.recorded(task) if (one.hash, one.seed) in wanted]


# ---- what they say


def noise(errors: pd.DataFrame) -> dict[str, float]:
    """How far seeds of one network lie apart, and how far networks, in points of error, from `from_seeds`.

    within: standard deviation over seeds of one network; between: over networks, of what is their own; share: of the
    variance of one training that is the network's; tau, low and high: Kendall's, of the first seed's order and those
    of the others, with its bootstrap interval over networks. All nan for fewer than `FEWEST` networks, or one seed.
    """
    if len(errors) < FEWEST or errors.shape[1] < 2:
        return dict.fromkeys(("within", "between", "share", "tau", "low", "high"), np.nan)
    parts = stats.parts_of_variance(errors)
    tau = stats.kendall_interval([errors[seed] for seed in errors.columns[1:]], errors.iloc[:, 0])
    return {**parts, "tau": tau.value, "low": tau.low, "high": tau.high}


def noise_told(errors: pd.DataFrame, task: ImageTask) -> str:
    """What `noise` says, for people."""
    found = noise(errors)
    if np.isnan(found["tau"]):
        return f"On {task.images}, {len(errors)} networks were trained from several seeds: too few to say anything."
    networks, seeds = errors.shape
    return (
        f"**Seeds.** {networks} random networks on {task.images}, each trained from {seeds} seeds ({task.words()}): "
        f"seeds of one network differ by **{found['within']:.2f}** points of error (standard deviation), networks by "
        f"**{found['between']:.2f}**. Of the variance of one training **{found['share']:.0%}** is the network's own. "
        f"{_tau_told(found, 'the orders that two seeds give')}"
    )


def longer_tau(both: pd.DataFrame) -> stats.Estimate | None:
    """Kendall's tau of the search's order and that of a longer training, from `for_longer`; None for too few."""
    return stats.kendall_interval([both["short"]], both["longer"]) if len(both) >= FEWEST else None


def longer_told(both: pd.DataFrame, chosen: SearchSizes) -> str:
    """What `longer_tau` says, for people."""
    tau = longer_tau(both)
    if tau is None or chosen.again is None:
        return f"On {chosen.task.images}, {len(both)} networks were trained for longer: too few to say anything."
    times = chosen.again.longer.training.epochs / chosen.task.training.epochs
    doubt = (
        " So it is not shown that the order of so short a training lasts: what this search finds may be no better than "
        "any other network."
    )
    return (
        f"**Budget.** {len(both)} random networks on {chosen.task.images}, trained {times:g} times as long and from "
        f"another seed: the mean error falls from {both['short'].mean():.1f} to {both['longer'].mean():.1f} %. "
        f"{_tau_told({'tau': tau.value, 'low': tau.low, 'high': tau.high}, 'the short and the longer order')}"
        f"{'' if tau.low > 0 else doubt}"
    )


def _tau_told(found: dict[str, float], of: str) -> str:
    return (
        f"Kendall's tau of {of} is **{found['tau']:.2f}** ({found['low']:.2f} to {found['high']:.2f}): they agree on "
        f"about {(1 + found['tau']) / 2:.0%} of pairs."
    )
