"""How long the trainings that are left of a profile would take here, and how much memory, before any of them begins.

Of each kind of training a few steps of one are timed, in a process of its own, so that its memory can be told from
everything else's. What was measured is kept beside the profile's results: the next command reads it.
"""

import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from nasrepro.deadline import demand_time
from nasrepro.errors import MachineError, cut, message_of
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import Experiment, Trainings, on_device
from nasrepro.files import write_json
from nasrepro.hardware import device_name, why_no_cuda
from nasrepro.profiles import Profile
from nasrepro.search.record import Record
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
    """What trainings of one kind would take, or why that is not known."""

    trainings: Trainings
    left: int
    """How many of them no record holds."""
    cost: Cost | str
    """Of one of them, or why it is not known."""

    def hours(self, workers: int) -> float:
        """Of those that are left, made by so many processes; infinite where it is not known.

        Processes that share a GPU are counted as one: together they are faster than one alone, but not so many times.
        """
        side_by_side = max(1, workers) if self.trainings.task.device == "cpu" else 1
        return math.inf if isinstance(self.cost, str) else self.left * self.cost.seconds / 3600 / side_by_side


def forecast(
    profile: Profile,
    device: str,
    records: Sequence[Record] = (),
    folder: Path | None = None,
    notebooks: Collection[str] | None = None,
    experiment: str | None = None,
    only: str = "",
) -> list[Forecast]:
    """What a profile's experiments would train, each kind with its forecast; or these notebooks, or one experiment, or
    what has `only` in its words.

    `device` is one that `hardware.resolve` has answered. What the `records` hold is not counted. Costs are kept in the
    `folder`, if there is one. Raises TimeIsUp where a deadline passes meanwhile.
    """
    forecasts = []
    for owner, trainings in _trainings(profile, device, experiment):
        if (notebooks is None or trainings.notebook in notebooks) and only in trainings.words:
            forecasts.append(one_forecast(owner, trainings, records, folder))
    return forecasts


def one_forecast(
    experiment: Experiment[Any], trainings: Trainings, records: Sequence[Record], folder: Path | None
) -> Forecast:
    """What is left of some trainings of an experiment, as in `forecast`."""
    left = trainings.left(records)
    return Forecast(trainings, left, _cost(experiment, trainings.task, folder) if left else Cost(0.0, None, None))


def _trainings(profile: Profile, device: str, name: str | None) -> Iterator[tuple[Experiment[Any], Trainings]]:
    for experiment in EXPERIMENTS.values():
        if profile.name in experiment.sizes and name in (None, experiment.name):
            for trainings in experiment.trainings(on_device(experiment.at(profile.name), device)):
                yield experiment, trainings


def _cost(experiment: Experiment[Any], task: Any, folder: Path | None) -> Cost | str:
    """What one training takes, as it was measured here before, or measured now; or a few words why it is not known."""
    path = folder / "forecast.json" if folder else None
    known = json.loads(path.read_text("utf-8")) if path and path.exists() else {}
    kind = f"{experiment.name}, {task.settings} on {device_name(task.device)}, torch {torch.__version__}"
    if kind in known:
        return Cost(**known[kind])
    demand_time()
    found = _measured(experiment.seconds, task)
    if path and isinstance(found, Cost):
        write_json(path, {**known, kind: asdict(found)})
    return found


def _measured(seconds: Callable[[Any, str], float], task: Any) -> Cost | str:
    # The process ends with its work, so that its peak of memory is that of this training.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, seconds, task).result()
        except (MachineError, MemoryError, RuntimeError) as error:  # of RuntimeErrors: a killed process, a full GPU
            return cut(message_of(error).partition("\n")[0])


def _measure(seconds: Callable[[Any, str], float], task: Any) -> Cost:
    with torch_threads(1):  # as in a worker
        found = seconds(task, task.device)
    gpu_memory = None if task.device == "cpu" else torch.cuda.max_memory_reserved(task.device)
    return Cost(found, _peak_memory(), gpu_memory)


def _peak_memory() -> int | None:
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def describe(profile: Profile, forecasts: Sequence[Forecast], device: str, workers: int) -> str:
    """A forecast as lines for people."""
    lines = [f"forecast for {profile.name} on {device_name(device)}, {workers} workers:"]
    if profile.for_gpu and device == "cpu":
        why = "--device cuda takes the one that is here" if torch.cuda.is_available() else why_no_cuda()
        lines.append(f"  {profile.name} is made for a GPU, and this is a processor: {why}")
    for one in forecasts:
        notebook = f" (notebook {one.trainings.notebook})" if one.trainings.notebook else ""
        words = f"  {one.trainings.words}{notebook}, {one.trainings.count} training{'s' * (one.trainings.count != 1)}"
        words += "" if one.left == one.trainings.count else f", {one.left} of them not recorded"
        if isinstance(one.cost, str):
            lines.append(f"{words}: not known, {one.cost}")
        elif one.left:
            lines.append(f"{words}, {_spoken_cost(one.cost)} each: {_spoken(one.hours(workers))}")
        else:
            lines.append(words)
    known = [one.hours(workers) for one in forecasts if isinstance(one.cost, Cost)]
    others = " and what is not known" if len(known) < len(forecasts) else ""
    lines.append(
        f"  together {_spoken(sum(known))}{others}. Not in it: "
        "models of seconds that notebooks train to show something, and what a search does between trainings. A "
        "candidate may take longer than the typical one that was timed, or fail early"
        + ("" if device == "cpu" else "; workers that share a GPU need less time together than this")
    )
    return "\n".join(lines)


def demand_consent(profile: Profile, forecasts: Sequence[Forecast], device: str, workers: int, given: bool) -> None:
    """Print a forecast.

    Raises ValueError where it is not known or longer than the profile's hours, and nobody said `--yes`.
    """
    if sum(one.left for one in forecasts) == 0:
        return
    print(describe(profile, forecasts, device, workers), flush=True)
    if sum(one.hours(workers) for one in forecasts) > (profile.hours or math.inf) and not given:
        raise ValueError(
            f"nothing was begun: {profile.name} shall take {profile.hours:g} hours at most. Say --yes (make: YES=1) to "
            "begin all the same, or choose a smaller profile"
        )


def _spoken_cost(cost: Cost) -> str:
    memory = {"of memory": cost.memory, "of the GPU's": cost.gpu_memory}
    return " and ".join(
        [_spoken(cost.seconds / 3600), *(f"{size / 1e9:.1f} GB {whose}" for whose, size in memory.items() if size)]
    )


def _spoken(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
