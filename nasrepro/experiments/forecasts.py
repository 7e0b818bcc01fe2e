"""How long a profile's trainings would take here, and how much memory, before any of them begins.

Of each kind of training a few steps of one are timed, in a process of its own, so that its memory can be told from
everything else's.
"""

import sys
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from nasrepro.errors import MachineError, cut, message_of
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import Trainings, on_device
from nasrepro.hardware import device_name
from nasrepro.profiles import Profile
from nasrepro.threads import torch_threads


@dataclass(frozen=True)
class Cost:
    """What one training takes."""

    seconds: float
    memory: int | None
    """Bytes of a process that trains, at their peak; None where the system does not say."""
    gpu_memory: int | None
    """Bytes of the GPU, at their peak; None without one."""


@dataclass(frozen=True)
class Forecast:
    """What trainings of one kind would take, or why that cannot be told."""

    trainings: Trainings
    cost: Cost | str
    """Of one of them, or why it is not known."""

    def hours(self, workers: int) -> float:
        """Of all of them, made by so many processes; 0 where it cannot be told.

        Processes that share a GPU are counted as one: together they are faster than one alone, but not so many times.
        """
        side_by_side = max(1, workers) if self.trainings.task.device == "cpu" else 1
        return 0.0 if isinstance(self.cost, str) else self.trainings.count * self.cost.seconds / 3600 / side_by_side


def forecast(
    profile: Profile, device: str, notebooks: Collection[str] | None = None, experiment: str | None = None
) -> list[Forecast]:
    """What a profile's experiments would train, each kind with its forecast; or these notebooks, or one experiment.

    `device` is one that `hardware.resolve` has answered. What shipped records hold is counted as well.
    """
    costs: dict[tuple[str, str], Cost | str] = {}
    forecasts = []
    for one in EXPERIMENTS.values():
        if profile.name not in one.sizes or experiment not in (None, one.name):
            continue
        for trainings in one.trainings(on_device(one.at(profile.name), device)):
            if notebooks is not None and trainings.notebook not in notebooks:
                continue
            kind = one.name, repr(trainings.task.settings)
            if kind not in costs:
                costs[kind] = _measured(one.seconds, trainings.task, device)
            forecasts.append(Forecast(trainings, costs[kind]))
    return forecasts


def _measured(seconds: Callable[[Any, str], float], task: Any, device: str) -> Cost | str:
    """What one training takes, or a few words why that is not known: its data is missing, say."""
    # A process that is started anew and ends with its work: its peak of memory is the training's.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, seconds, task, device).result()
        except MachineError as error:
            return cut(message_of(error))


def _measure(seconds: Callable[[Any, str], float], task: Any, device: str) -> Cost:
    with torch_threads(1):  # as in a worker
        found = seconds(task, device)
    gpu_memory = None if device == "cpu" else torch.cuda.max_memory_reserved(device)
    return Cost(found, _peak_memory(), gpu_memory)


def _peak_memory() -> int | None:
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def describe(profile: Profile, forecasts: list[Forecast], device: str, workers: int) -> str:
    """A forecast as lines for people."""
    lines = [f"forecast for {profile.name} on {device_name(device)}, {workers} workers, every cell taken for an LSTM:"]
    for one in forecasts:
        trainings, hours = one.trainings, one.hours(workers)
        words = f"{trainings.words} (notebook {trainings.notebook}), {trainings.count} trainings"
        if isinstance(one.cost, str):
            lines.append(f"  {words}: not known, {one.cost}")
            continue
        memory = {"of memory": one.cost.memory, "of the GPU's": one.cost.gpu_memory}
        spoken = [f"{size / 1e9:.1f} GB {whose}" for whose, size in memory.items() if size]
        lines.append(f"  {words} of {', '.join([_spoken(one.cost.seconds / 3600), *spoken])}: {_spoken(hours)}")
    total = sum(one.hours(workers) for one in forecasts)
    lines.append(
        f"  together {_spoken(total)}. Not in it: small models that notebooks train to show something, and what a "
        "search does between trainings. A cell may take longer than an LSTM, or fail early; what a record holds is not "
        "trained again" + ("" if device == "cpu" else "; workers that share a GPU together need less time than this")
    )
    return "\n".join(lines)


def demand_consent(
    profile: Profile,
    device: str,
    workers: int,
    given: bool,
    notebooks: Collection[str] | None = None,
    experiment: str | None = None,
) -> None:
    """Print the forecast of a profile that is forecast, as far as it is asked for (see `forecast`).

    Raises ValueError where it takes longer than the profile's hours and nobody said `--yes`.
    """
    if profile.hours is None or not (found := forecast(profile, device, notebooks, experiment)):
        return
    print(describe(profile, found, device, workers), flush=True)
    hours = sum(one.hours(workers) for one in found)
    if hours > profile.hours and not given:
        raise ValueError(
            f"nothing was begun: {profile.name} shall take {profile.hours:g} hours at most. Say --yes (make: YES=1) to "
            "begin all the same, or choose a smaller profile"
        )


def _spoken(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
