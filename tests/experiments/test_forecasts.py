"""Forecasts: what is left to train is counted, timed once, and asked about where it takes long or cannot be told."""

import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nasrepro.datasets import DataError
from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.experiments import EXPERIMENTS, forecasts
from nasrepro.experiments.experiment import Experiment, Resources, Trainings, on_device, resumable
from nasrepro.experiments.forecasts import Cost, demand_consent, describe, forecast
from nasrepro.hardware import device_name
from nasrepro.profiles import profiles
from nasrepro.search import Record
from nasrepro.search.held_out import HeldOut
from nasrepro.search.loop import search
from nasrepro.search.record import Evaluation
from nasrepro.search.workers import Job
from nasrepro.trainers.outcome import Outcome
from tests.experiments import toy

NIGHT = profiles["night"]


def register(monkeypatch: pytest.MonkeyPatch, seconds: Any = toy.seconds) -> Experiment[Any]:
    """The toy at night, alone."""
    experiment = replace(toy.EXPERIMENT, sizes={"night": toy.EXPERIMENT.at("smoke")}, seconds=seconds)
    monkeypatch.setattr(forecasts, "EXPERIMENTS", {"toy": experiment})
    return experiment


def no_data(_task: object, _device: str) -> float:
    raise DataError("the dictionary is not here; fetch it")


def killed(_task: object, _device: str) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def full(_task: object, _device: str) -> float:
    raise RuntimeError("CUDA out of memory\nand a long story")


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        (no_data, "not known, the dictionary is not here; fetch it"),
        (killed, "not known, A process in the process pool was terminated"),
        (full, "not known, CUDA out of memory"),
    ],
)
def test_what_cannot_be_timed_is_told_and_needs_consent(
    seconds: Any, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    register(monkeypatch, seconds)
    if seconds is not killed:  # threads start sooner than processes
        monkeypatch.setattr(forecasts, "ProcessPoolExecutor", lambda workers, _: ThreadPoolExecutor(workers))
    found = forecast(NIGHT, "cpu", folder=tmp_path)
    assert found[0].hours(2) == math.inf
    with pytest.raises(ValueError, match="nothing was begun: night shall take 12 hours at most"):
        demand_consent(NIGHT, found, "cpu", 2, given=False)
    said = capsys.readouterr().out
    assert f"  words like another (notebook 05), 24 trainings: {why}" in said
    assert "together 0 s and what is not known" in said
    assert not (tmp_path / "forecast.json").exists(), "it is tried again next time"
    demand_consent(NIGHT, found, "cpu", 2, given=True)


def test_costs_are_measured_once_for_a_device_and_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch)
    measured: list[object] = []
    monkeypatch.setattr(
        forecasts, "_measured", lambda _, task: measured.append(task) or Cost(7200.0, 3_000_000_000, 2_000_000_000)
    )
    first = forecast(NIGHT, "cpu", folder=tmp_path)
    assert forecast(NIGHT, "cpu", folder=tmp_path)[0].cost == first[0].cost
    assert len(measured) == 1
    monkeypatch.setattr(forecasts, "device_name", lambda _: "another machine")
    forecast(NIGHT, "cpu", folder=tmp_path)
    assert len(measured) == 2
    assert "2.0 hours and 3.0 GB of memory and 2.0 GB of the GPU's each: 24.0 hours" in describe(NIGHT, first, "cpu", 2)


def test_a_deadline_loses_no_cost_that_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else a command of few minutes would forecast anew each time, and never begin to train."""
    register(monkeypatch)

    def measured(*_: object) -> Cost:
        monkeypatch.setenv(VARIABLE, "0 1")
        return Cost(1.0, None, None)

    monkeypatch.setattr(forecasts, "_measured", measured)
    assert len(forecast(NIGHT, "cpu", folder=tmp_path)) == 1
    assert len(forecast(NIGHT, "cpu", folder=tmp_path)) == 1, "it is known"
    with pytest.raises(TimeIsUp):
        forecast(NIGHT, "cpu")


@pytest.mark.parametrize("is_tested", [False, True])
def test_what_records_hold_is_not_counted(is_tested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = register(monkeypatch)
    (trainings,) = experiment.trainings(experiment.at("night"))
    trainings = replace(trainings, is_tested=is_tested)
    records = [Record(), Record()]
    for record, seeds in zip(records, ((1, 2), (2, 3)), strict=True):
        for seed in seeds:
            for task in (trainings.task, HeldOut(trainings.task)):
                record.put(Evaluation.of(task, toy.Word("search"), seed, Outcome("ok", metrics={"error": 0.0})))
        record.put(Evaluation.of(trainings.task, toy.Word("starch"), 1, Outcome("failed", "has a q")))
    assert trainings.left([]) == 24
    assert trainings.left(records) == 24 - (3 if is_tested else 4)
    assert replace(trainings, count=2).left(records) == 0


def test_trainings_by_one_task_are_counted_apart() -> None:
    """As when several searches and single candidates share a task, and a record holds more than one of them has."""
    task, plans = toy.SpellingTask(), [toy.SpellingPlan(budget=12, seed=seed) for seed in (1, 2)]
    jobs = [Job(toy.Word(text), seed) for text in ("search", "starch") for seed in (1, 2)]
    first, second = (Trainings.of("05", f"seed {plan.seed}", task, [plan]) for plan in plans)
    every = Trainings.of("05", "both, and words", task, plans, jobs)
    record = Record()
    first.make(Resources(record, workers=0))
    record.put(Evaluation.of(task, toy.Word("Search"), 1, Outcome("ok", metrics={"error": 0.0})))
    assert len(record.evaluations()) == 13, "more than a search has"
    assert [each.left([record]) for each in (first, second, every)] == [0, 12, 12 + 3]
    search(task, plans[1], other := Record(), workers=0, progress=False)
    assert [each.left([record, other]) for each in (first, second, every)] == [0, 0, 3]
    assert Trainings.of("05", "longer", task, [replace(plans[0], budget=60)]).left([record]) == 48


def test_a_search_that_found_nothing_new_for_too_long_has_nothing_left() -> None:
    task, plan = toy.SpellingTask(), toy.SpellingPlan(budget=60, letters="a")
    made = Trainings.of("05", "one letter", task, [plan])
    made.make(Resources(record := Record(), workers=0))
    assert 0 < len(record.evaluations()) < 60
    assert made.left([record]) == 0


def test_where_all_is_recorded_nothing_is_timed_or_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = register(monkeypatch, no_data)
    record = Record()
    (trainings,) = experiment.trainings(experiment.at("night"))
    trainings.make(Resources(record, workers=0))
    capsys.readouterr()
    found = forecast(NIGHT, "cpu", [record])
    assert (found[0].left, found[0].cost) == (0, Cost(0.0, None, None))
    demand_consent(NIGHT, found, "cpu", 2, given=False)
    assert capsys.readouterr().out == ""
    assert "24 trainings, 0 of them not recorded\n" in describe(NIGHT, found, "cpu", 2)


def test_table_3_of_a_night_is_shipped_whole() -> None:
    experiment = EXPERIMENTS["s17_translation"]
    records = Path(__file__).resolve().parents[2] / "results" / "records"
    shipped = [Record.load(experiment.shipped_files("night", records))]
    left = {each.words: each.left(shipped) for each in experiment.trainings(experiment.at("night"))}
    assert left["encoders of Table 3"] == 0
    assert left["the agent against chance"] == 180


def test_a_night_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lines = describe(NIGHT, [], "cpu", 2).splitlines()
    assert lines[0] == f"forecast for night on {device_name('cpu')}, 2 workers:"
    assert lines[1].startswith("  night is made for a GPU, and this is a processor: torch ")
    assert "made for a GPU" not in describe(profiles["quick"], [], "cpu", 2)


def test_seconds_that_another_process_cannot_find_are_refused() -> None:
    with pytest.raises(ValueError, match="toy: seconds is called in another process, so define it at the top"):
        replace(toy.EXPERIMENT, seconds=lambda *_: 1.0)


def test_tasks_in_tuples_and_mappings_go_to_the_device_too(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Sizes:
        task: toy.SpellingTask
        others: tuple[toy.SpellingTask, ...]
        named: dict[str, toy.SpellingTask]
        seeds: tuple[int, ...] = (1, 2)

    task = toy.SpellingTask()
    moved = on_device(Sizes(task, (task, task), {"a": task}), "cuda")
    assert [one.device for one in (moved.task, *moved.others, *moved.named.values())] == ["cuda"] * 4
    assert moved.seeds == (1, 2)
    assert resumable(moved, tmp_path).others[0].checkpoints is None, "its trainings are short"
