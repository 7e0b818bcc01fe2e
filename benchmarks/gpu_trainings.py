"""What the experiments would train in a night, by the papers' entries that it answers per hour.

Each training is kept in the record, which ships as gpu-record.jsonl.gz, as soon as it has ended; a long one that is
interrupted goes on after its last whole epoch, and one that a shipped record of the project holds is taken from there.
Rows name the device and the time that the record names, which need not be today's.
"""

from functools import partial
from pathlib import Path

import pandas as pd
from gpu_checks import ROOT
from gpu_parts import OutOfTime, Part

from nasrepro.datasets import DATASETS
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.experiment import Experiment, Resources, Trainings, on_device, resumable
from nasrepro.search.record import Record

RECORD = "gpu-record.jsonl.gz"
SHIPPED_RECORDS = ROOT / "results" / "records"
SHIPPED_TABLE = ROOT / "results" / "benchmarks" / "gpu" / "gpu.csv"


def parts() -> list[Part]:
    """A part for each kind of trainings: first what answers most of the papers' entries per hour of a shipped forecast.

    Where none ships, trainings are counted instead of hours.
    """
    values = _shipped_values()
    found = []
    for name, experiment in EXPERIMENTS.items():
        for number, trainings in enumerate(experiment.trainings(experiment.at("night"))):
            work, corpus = partial(night, name, number), trainings.task.settings.get("corpus", "")
            data = corpus if corpus in DATASETS else ""
            part = Part(f"night: {trainings.words}", "night", 60, work, data, takes_workers=True)
            per_training = 0.0 if values else len(trainings.answers) / trainings.count
            found.append((-values.get((name, trainings.words), per_training), len(found), part))
    return [part for *_, part in sorted(found, key=lambda each: each[:2])]


def _shipped_values() -> dict[tuple[str, str], float]:
    """Entries per hour of each experiment's kinds of trainings, as the shipped table forecasts them."""
    if not SHIPPED_TABLE.exists():
        return {}
    table = pd.read_csv(SHIPPED_TABLE)
    if "entries per hour" not in table:
        return {}
    rows = table.dropna(subset="entries per hour")
    return {(row["experiment"], row["trainings"]): row["entries per hour"] for _, row in rows.iterrows()}


def forecast(device: str, small: bool, _: Path) -> pd.DataFrame:
    """What a night's trainings would take here, each candidate taken for an LSTM, and how much they answer."""
    rows = []
    for name, experiment in EXPERIMENTS.items():
        seconds: dict[str, float] = {}
        for trainings in _trainings(experiment, device, small):
            kind = repr(trainings.task.settings)
            if kind not in seconds:
                seconds[kind] = experiment.seconds(trainings.task, device)
            hours = trainings.count * seconds[kind] / 3600
            facts = {"experiment": name, "trainings": trainings.words, "count": trainings.count}
            rows.append(facts | {"seconds": seconds[kind], "hours": hours, "entries": len(trainings.answers)})
    table = pd.DataFrame(rows)
    return table.assign(**{"entries per hour": table["entries"] / table["hours"]})


def night(name: str, number: int, device: str, small: bool, folder: Path, workers: int = 0) -> pd.DataFrame:
    """An experiment's trainings of one kind, by their number; a row for each that is recorded.

    So many `workers`, processes side by side, share the device; with 0 this process trains one after the other. Raises
    DataError where the data is not here, and OutOfTime, with those that are ready, when the time is up.
    """
    experiment = EXPERIMENTS[name]
    trainings = _trainings(experiment, device, small, folder / "work")[number]
    with open_record(folder) as record:
        for path in experiment.shipped_files("night", SHIPPED_RECORDS):
            if trainings.left([Record.load(path)]) < trainings.count:
                record.import_(path)
        try:
            trainings.make(Resources(record, workers))
        except OutOfTime as stop:
            stop.rows = _rows(experiment, trainings, record)
            raise
        finally:  # those that are ready ship, however the others have ended
            record.export(folder / RECORD)
        return _rows(experiment, trainings, record)


def _trainings(experiment: Experiment, device: str, small: bool, folder: Path | None = None) -> list[Trainings]:
    sizes = on_device(experiment.at("smoke" if small else "night"), device)
    return experiment.trainings(resumable(sizes, folder) if folder else sizes)


def _rows(experiment: Experiment, trainings: Trainings, record: Record) -> pd.DataFrame:
    """A row for each evaluation by the task of these trainings, measured on the test split or not."""
    task, names = trainings.task, {candidate.hash: name for name, candidate in experiment.named.items()}
    found = [e for e in record.evaluations() if e.settings == task.settings and e.task.startswith(task.name)]
    return pd.DataFrame(
        {
            "device": of.device,
            "task": of.task,
            "candidate": names.get(of.hash, of.hash),
            **{name: getattr(of, name) for name in ("seed", "status", "reason", "seconds", "created")},
            "epochs": len(of.curve),
            **of.metrics,
        }
        for of in found
    )


def open_record(folder: Path) -> Record:
    """The record of all trainings. One that was only shipped is made a working file again."""
    path, exported = folder / "work" / "record.sqlite", folder / RECORD
    begun = path.exists()
    record = Record(path)
    if not begun and exported.exists():
        record.import_(exported)
    return record
