"""What every notebook starts with: parameters that are checked, a word on what will happen, and where results go.

>>> run = nr.notebook.start("04", PROFILE, FRESH, "s17_language_model", DEVICE)  # doctest: +SKIP
>>> run.figure(fig, "s17-fig3", title="...", caption="...", paper=["s17.fig3"])  # doctest: +SKIP
"""

import ast
import difflib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nasrepro import experiments, profiles
from nasrepro.datasets import DataError
from nasrepro.experiments.experiment import Experiment, on_device, resumable
from nasrepro.files import fix_environment, named_folder, write_json
from nasrepro.hardware import device_name, resolve
from nasrepro.profiles import Profile
from nasrepro.report import papers
from nasrepro.report.artifacts import Artifacts
from nasrepro.report.ledger import Finding, is_scaled
from nasrepro.report.provenance import Data, provenance
from nasrepro.search.held_out import HeldOut, evaluate_tests
from nasrepro.search.history import Search, recorded_search
from nasrepro.search.loop import evaluate, search, search_id
from nasrepro.search.plan import SearchPlan
from nasrepro.search.record import Evaluation, Record, RecordError
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.outcome import C, Candidate, NotebookTask, TaskIdentity

WORKERS = min(2, os.cpu_count() or 1)
"""Processes that train cells. Two, as on the smallest machine that is promised to be enough."""

FRESH_BEGUN = "NASREPRO_FRESH_BEGUN"
"""The variable by which `nasrepro reproduce --fresh` tells its notebooks the folder that they share a new record in."""


@dataclass(frozen=True)
class RecordedData:
    """The data of a replayed record: what provenance names, without the data being here."""

    name: str
    hash: str
    note: str
    device: str
    """What the evaluations ran on."""
    words: str
    """What the papers' entries call it."""


def display(kind: str, content: str, **how: Any) -> None:
    """Show something in a notebook: `kind` is a name of IPython.display. The command needs none of this to train."""
    from IPython import display as ipython

    ipython.display(getattr(ipython, kind)(content, **how))


def results_folder() -> Path:
    """Where results go: NASREPRO_RESULTS, else `results/` of the project."""
    return named_folder("NASREPRO_RESULTS") or profiles.project_root() / "results"


def records_folder() -> Path:
    """Where the records lie that ship with the project."""
    return profiles.project_root() / "results" / "records"


def known_records(profile: str, fresh: bool = False) -> list[Record]:
    """What need not be trained again: this machine's record of a profile, and the shipped ones unless it is fresh."""
    own = results_folder() / profile / "record.sqlite"
    every = () if fresh else experiments.EXPERIMENTS.values()
    shipped = [path for experiment in every for path in experiment.shipped_files(profile, records_folder())]
    return [Record.load(shipped), *([Record(own)] if own.exists() else [])]


def set_aside(folder: Path) -> None:
    """Keep a profile's record as record.before.sqlite, and out of the way what trainings would go on from.

    What was kept there before is deleted. Nothing happens where there is no record.
    """
    # Beside the record lie what SQLite has not yet written into it, and the agents that were pre-trained for it.
    if parts := list(folder.glob("record.sqlite*")):
        for older in folder.glob("record.before.sqlite*"):
            older.unlink()
    for part in parts:
        part.rename(part.with_name(part.name.replace("record", "record.before", 1)))
    checkpoints, kept = folder / "checkpoints", folder / "checkpoints.before"
    if checkpoints.exists():
        shutil.rmtree(kept, ignore_errors=True)
        checkpoints.rename(kept)


def start(
    notebook: str,
    profile: str = "quick",
    fresh: bool = False,
    experiment: str | None = None,
    device: str = "auto",
) -> "Run":
    """Begin a notebook: check its parameters, say what will happen, and answer the `Run` that keeps its results.

    `fresh` trains anew what a record holds, the one shipped or this machine's own (see `set_aside`); `experiment` is
    the name of the one that the notebook shows, None where it trains nothing; `device` is where candidates are trained
    (see `hardware.resolve`). Raises ValueError for a profile, an experiment or an injected parameter that does not
    exist, with the nearest that does; DeviceError for a device that is not here; OSError when the results folder cannot
    be written.
    """
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is not None:
        check_parameters([str(cell) for cell in shell.user_ns.get("In", [])])
    fix_environment()
    if not isinstance(fresh, bool):
        raise ValueError(f"FRESH is True or False, got {fresh!r:.100}")
    chosen = None if experiment is None else experiments.load(experiment)
    run = Run(notebook, profiles.load(profile), fresh, chosen, device)
    if fresh and os.environ.get(FRESH_BEGUN) != str(run.folder):
        set_aside(run.folder)
    run.announce()
    return run


def check_parameters(executed: Sequence[str]) -> None:
    """Raise ValueError when the injected parameters name something that the notebook's own do not.

    `executed` are the sources of the cells run so far. papermill puts its values into a cell of their own that begins
    with "# Parameters", right behind the notebook's.
    """
    pairs = [pair for pair in pairwise(executed) if pair[1].lstrip().startswith("# Parameters")]
    for defaults, injected in pairs[-1:]:
        known = _assigned(defaults)
        for name in _assigned(injected):
            if name not in known:
                raise ValueError(unknown_parameter(name, known))


def unknown_parameter(name: str, known: Sequence[str]) -> str:
    """The message for a parameter that a notebook does not have."""
    upper = {word.upper(): word for word in known}
    close = difflib.get_close_matches(name.upper(), upper, n=1, cutoff=0.5)
    hint = f"did you mean {upper[close[0]]}? " if close else ""
    return f"unknown parameter {name:.100}: {hint}this notebook takes {', '.join(known)}"


def _assigned(source: str) -> list[str]:
    statements = ast.parse(source).body
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    targets += [s.target for s in statements if isinstance(s, ast.AnnAssign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


class Run:
    """One notebook under one profile: where its figures, tables and findings go, and its record.

    Set `data` to the corpus in use, so that provenance names it. Attributes: `profile`, `folder`, `record`, and
    `sizes`, those of the experiment under this profile, its tasks on a device that `hardware.resolve` has answered.
    """

    def __init__(
        self,
        notebook: str,
        profile: Profile,
        fresh: bool = False,
        experiment: Experiment[Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.notebook = notebook
        self.profile = profile
        self.fresh = fresh
        self.experiment = experiment
        self._device = resolve(device)
        self.folder = results_folder() / profile.name
        self.sizes: Any = None
        if experiment is not None:
            self.sizes = resumable(on_device(experiment.at(profile.name), self._device), self.folder)
        self.artifacts = Artifacts(self.folder, notebook, records_folder() / "findings.json")
        self._data: Data | None = None
        self._made_on: set[str] = set()
        self.started = time.perf_counter()
        self._records: list[Path] = []
        self._record: Record | None = None
        self._replayed: Record | None = None

    @property
    def task(self) -> NotebookTask[Any]:
        """What the experiment is about, in the profile's size; long trainings keep checkpoints in the run's folder.

        Raises ValueError in a notebook that shows no experiment.
        """
        if self.sizes is None:
            raise ValueError(f"notebook {self.notebook} shows no experiment: name one in nr.notebook.start")
        task: NotebookTask[Any] = self.sizes.task
        return task

    @property
    def data(self) -> Data | None:
        """The data in use. Whoever sets it says that what follows is computed anew, and not from evaluations before."""
        return self._data

    @data.setter
    def data(self, data: Data | None) -> None:
        self._data = data
        self._made_on = {data.device} if isinstance(data, RecordedData) else set()

    @property
    def record(self) -> Record:
        """This profile's own record, `record.sqlite`: opened when first asked for."""
        if self._record is None:
            self._record = Record(self.folder / "record.sqlite")
        return self._record

    def announce(self) -> None:
        """Show what will run here, on what, and how long it took before."""
        known = measured_seconds(self.profile.name, self.notebook)
        rows = {
            "profile": f"{self.profile.name}: {self.profile.about}",
            "here": f"{device_name(self._device)} ({self._device})",
            **({} if self.experiment is None else {"data": self.task.data_words}),
            "time": "not measured yet" if known is None else f"{_minutes(known['seconds'])} on {known['device']}",
            "results": str(self.folder),
        }
        if elsewhere := self._recorded_elsewhere():
            rows["recorded"] = f"what is recorded was trained on {elsewhere} and is replayed; FRESH trains it here"
        row = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
        display("HTML", f"<table>{''.join(row.format(key, escape(value)) for key, value in rows.items())}</table>")

    def _recorded_elsewhere(self) -> str:
        """Devices, other than the one here, of what the records hold on which a notebook of this kind draws."""
        found: list[Evaluation] = []
        if self.experiment is None:
            return ""
        with suppress(RecordError):  # a notebook that needs what cannot be read will say so
            found += Record.load(self._shipped_files()).evaluations()
            if (self.folder / "record.sqlite").exists():
                found += self.record.evaluations()
        made_on = _devices(one for one in found if one.task in (self.task.name, HeldOut(self.task).name))
        return ", ".join(sorted(made_on - {device_name(self._device)}))

    def beside(self, experiment: str, profile: str) -> "Run":
        """Another experiment, to look at what it ships under a profile, even where this run is fresh.

        Figures, tables and findings stay this run's own.
        """
        other = copy(self)
        other.profile, other.fresh, other.experiment = profiles.load(profile), False, experiments.load(experiment)
        other.sizes = on_device(other.experiment.at(profile), self._device)
        other._made_on, other._replayed = set(), None
        return other

    # ---- searches

    def search(self, plan: SearchPlan[C], task: NotebookTask[C] | None = None, workers: int = WORKERS) -> Search:
        """A search on the notebook's task, or another one: replayed where a record holds it, trained where none does.

        A search that this machine has begun is continued. Otherwise the shipped record serves, unless the run is fresh.
        """
        task = task or self.task
        shipped = self.shipped_search(plan, task)
        if shipped is not None and not self._has_begun(plan, task):
            replayed = [evaluation for _, evaluation in shipped.trials]
            self._use(_recorded_data(replayed, task), replayed)
            return shipped
        made = search(task, plan, self.record, workers, self.profile.timeout_s)
        self._use(task.corpus, [evaluation for _, evaluation in made.trials])
        return made

    def shipped_search(self, plan: SearchPlan[C], task: NotebookTask[C] | None = None) -> Search | None:
        """The search by this plan in the profile's shipped record, or None (also when the run is fresh)."""
        return recorded_search(self._shipped_record(), task or self.task, plan)

    def _shipped_record(self) -> Record:
        """The records that ship for this experiment and profile, in memory; an empty one when the run is fresh."""
        if self._replayed is None:
            self._records = self._shipped_files()
            self._replayed = Record.load(self._records)
        return self._replayed

    def _shipped_files(self) -> list[Path]:
        if self.experiment is None or self.fresh:
            return []
        return self.experiment.shipped_files(self.profile.name, records_folder())

    def _has_begun(self, plan: SearchPlan[C], task: NotebookTask[C]) -> bool:
        if not (self.folder / "record.sqlite").exists() or not self.record.searches():
            return False
        try:
            return search_id(task, plan) in self.record.searches()
        except DataError:  # begun with data that is no longer here: the shipped record serves
            return False

    # ---- single cells

    def evaluations(
        self,
        cells: Sequence[C],
        seeds: Sequence[int],
        task: NotebookTask[C] | None = None,
        workers: int = WORKERS,
    ) -> list[Evaluation]:
        """Evaluations by the notebook's task, or another one, cell by cell and in each the seeds in their order.

        The shipped record is replayed and this machine's own is gone on with; what neither holds is trained. Where
        the data for that is missing, this is said, and the list is shorter. Raises DataError where nothing would be
        left of it, and where the run is fresh, because then what is recorded is not what was asked for.
        """
        if not (isinstance(cells, list | tuple) and isinstance(seeds, list | tuple | range)):
            raise TypeError(f"cells and seeds are lists, got {cells!r:.100} and {seeds!r:.100}: pass [cell], [seed]")
        task = task or self.task
        jobs = [Job(cell, seed) for cell in cells for seed in seeds]
        found = self._shipped_evaluations(task, jobs)
        data: Data | None = _recorded_data(list(found.values()), task) if found else None
        missing = [job for job in jobs if (job.cell.hash, job.seed) not in found]
        try:
            if missing:
                data = task.corpus
                with Workers(task, workers, self.profile.timeout_s) as pool:
                    made = evaluate(missing, self.record, pool)
                found |= {(job.cell.hash, job.seed): one for job, one in zip(missing, made, strict=True)}
        except DataError as error:
            if self.fresh or not found:
                raise
            print(f"Nothing can be trained here, going on with what is recorded. {error}")
        self._use(data, found.values())
        return [found[job.cell.hash, job.seed] for job in jobs if (job.cell.hash, job.seed) in found]

    def test_evaluation(self, cell: Candidate, seed: int, row: str) -> Evaluation:
        """A single row of `test_evaluations`."""
        return self.test_evaluations({row: Job(cell, seed)})[row]

    def test_evaluations(
        self, rows: Mapping[str, Job], task: NotebookTask[Any] | None = None, workers: int = WORKERS
    ) -> dict[str, Evaluation]:
        """Models that validation has chosen, on the test split, by their rows: which cell and seed each row reports.

        They are trained by the notebook's task, or another one.
        From the shipped record, or this machine's, or trained, and the split read once for each row. A profile that
        only replays long trainings leaves out those that the shipped record lacks, and says so. Raises DataError where
        a row has to be trained and the data is not here: without it, the keys of this machine's record, which hold the
        data's hash, cannot be told.
        """
        task = task or self.task
        found = self._shipped_evaluations(HeldOut(task), rows.values())
        data: Data | None = _recorded_data(list(found.values()), task) if found else None
        missing = {row: job for row, job in rows.items() if (job.cell.hash, job.seed) not in found}
        made = {}
        if missing and found and self.profile.only_replays and task.is_long:
            print(f"Not recorded, so left out: {', '.join(missing)}. FRESH = True trains all rows here, for hours.")
            rows = {row: job for row, job in rows.items() if row not in missing}
        elif missing:
            data = task.corpus
            # A single model is sooner trained here than another process is begun.
            made = evaluate_tests(task, missing, self.record, workers if len(missing) > 1 else 0)
        answers = {row: made.get(row) or found[job.cell.hash, job.seed] for row, job in rows.items()}
        self._use(data, answers.values())
        return answers

    def recorded(self, task: TaskIdentity) -> list[Evaluation]:
        """What the shipped record and this machine's own hold of a task. Nothing is trained, and no data is needed."""
        return [
            one for record in (self._shipped_record(), self.record) for one in record.evaluations() if one.is_by(task)
        ]

    def _shipped_evaluations(self, task: TaskIdentity, jobs: Iterable[Job]) -> dict[tuple[str, int], Evaluation]:
        """What the shipped record holds of these, by the candidate's hash and the seed."""
        wanted = {(job.cell.hash, job.seed) for job in jobs}
        shipped = {(one.hash, one.seed): one for one in self._shipped_record().evaluations() if one.is_by(task)}
        return {key: one for key, one in shipped.items() if key in wanted}

    # ---- results

    def _use(self, data: Data | None, evaluations: Iterable[Evaluation]) -> None:
        """Note what the numbers that follow come from. Evaluations keep their device, wherever they are replayed."""
        self._data = data
        self._made_on |= _devices(evaluations)

    @property
    def device(self) -> str:
        """What the numbers come from: the devices of the evaluations in use, else the one here."""
        return ", ".join(sorted(self._made_on)) or device_name(self._device)

    def provenance(self, **parameters: Any) -> dict[str, Any]:
        """Where the results of this notebook come from (see `report.provenance`)."""
        chosen = {"profile": self.profile.name, "notebook": self.notebook, **parameters}
        seconds = time.perf_counter() - self.started
        return provenance(chosen, self.data, seconds, self._records, self.device)

    def figure(self, fig: Figure, name: str, title: str, caption: str, paper: Sequence[str] = ()) -> None:
        """Save a figure under `folder` and show it."""
        self.artifacts.figure(fig, name, title, caption, paper, provenance=self.provenance())
        display("Image", str(self.folder / f"{name}.png"), width=760, alt=f"{title}. {caption}")

    def drawing(self, svg: str, name: str, title: str, caption: str, paper: Sequence[str] = ()) -> None:
        """Save a drawing, SVG text such as cells write, under `folder` and show it."""
        self.artifacts.drawing(svg, name, title, caption, paper, provenance=self.provenance())
        display("HTML", f"<div>{svg}</div>")  # as HTML it shrinks to the page, as SVG it would not

    def table(self, df: pd.DataFrame, name: str, title: str, caption: str, paper: Sequence[str] = ()) -> pd.DataFrame:
        """Save a table under `folder`, and return it to be shown."""
        self.artifacts.table(df, name, title, caption, paper, provenance=self.provenance())
        return df

    def finding(
        self,
        id: str,  # noqa: A002 (the ledger's own word)
        *,
        budget: float | None = None,
        budget_words: str = "",
        data: str | None = None,
        device: str | None = None,
        **facts: Any,
    ) -> None:
        """Write what a training found about one of the papers' entries into the ledger.

        `budget` is the share of the paper's budget that was spent, None where nobody can say. By that and the data
        (those in use, where none are named) a rule decides whether the finding is scaled down (`ledger.is_scaled`).
        `facts` are other fields of `report.ledger.Finding`.
        """
        data = self.data_words() if data is None else data
        if isinstance(self.data, RecordedData) and budget_words:
            budget_words = f"{budget_words.rstrip('.')}; replayed from the shipped record"
        facts |= {"budget": budget, "budget_words": budget_words, "data": data}
        facts |= {"device": self.device if device is None else device}
        self.artifacts.ledger.add(Finding(id, scaled=is_scaled(papers.load()[id], budget, data), **facts))

    def exact(self, id: str, **facts: Any) -> None:  # noqa: A002
        """Write an exact fact into the ledger, one that needs no training: `facts` are fields of `Finding`.

        Raises ValueError for an entry that only a training can answer.
        """
        entry = papers.load()[id]
        if entry.kind == "number" or entry.data is not None or entry.better is not None:
            raise ValueError(f"{id} is what training has to show; say with what budget in run.finding")
        self.artifacts.ledger.add(Finding(id, budget_words="exact, no training", scaled=False, **facts))

    def data_words(self) -> str:
        """The data in use, in the words that the ledger compares."""
        if self.data is None:
            return "" if self.experiment is None else self.task.data_words
        return getattr(self.data, "words", self.data.name)


def measured_seconds(profile: str, notebook: str) -> dict[str, Any] | None:
    """{"seconds", "device"} of an earlier run of a notebook: here if there was one, else as shipped; or None."""
    for folder in (results_folder() / profile, records_folder()):
        if found := _timings(folder / "timings.json").get(profile, {}).get(notebook):
            return found
    return None


def note_seconds(path: Path, profile: str, notebook: str, seconds: float, device: str, longest: bool = False) -> None:
    """Write how long a notebook took into a timings file, and the name of the device that it took so long on.

    With `longest`, a longer time that is noted there stays.
    """
    timings = _timings(path)
    noted = timings.setdefault(profile, {})
    if not longest or notebook not in noted or seconds > noted[notebook]["seconds"]:
        noted[notebook] = {"seconds": round(seconds, 1), "device": device}
        write_json(path, timings)


def _timings(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What a timings file holds, by profile and notebook; nothing without the file."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _recorded_data(evaluations: Sequence[Evaluation], task: NotebookTask[Any]) -> RecordedData:
    first, devices = evaluations[0], ", ".join(sorted(_devices(evaluations)))
    name = first.settings.get("corpus", task.name)
    return RecordedData(name, first.data, f"recorded {first.created[:10]}", devices, task.data_words)


def _devices(evaluations: Iterable[Evaluation]) -> set[str]:
    """What these ran on. In older records a cell whose process died does not say it."""
    return {evaluation.device for evaluation in evaluations if evaluation.device}


def _minutes(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
