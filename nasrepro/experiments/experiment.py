"""What an experiment is: all that belongs to one group of the papers' results, in one folder, and none of it elsewhere.

What all experiments share (notebooks, the command, records, the report) iterates over them and knows none of them. So a
new experiment is a folder of its own, a notebook, and a line of registration in `experiments/__init__.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from tqdm.auto import tqdm

from nasrepro.search.held_out import HeldOut
from nasrepro.search.history import Search, has_ended, recorded_search
from nasrepro.search.loop import evaluate, search
from nasrepro.search.plan import SearchPlan
from nasrepro.search.record import Evaluation, Record
from nasrepro.search.workers import Job, Workers
from nasrepro.trainers.outcome import Candidate, NotebookTask

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Sizes(Protocol):
    """How large an experiment is under one profile: a frozen dataclass, whose other fields are the experiment's own."""

    @property
    def task(self) -> NotebookTask[Any]:
        """What the experiment is about above all: by it single candidates are trained."""


S = TypeVar("S", bound=Sizes)
"""The sizes of one experiment."""


@dataclass(frozen=True)
class Resources:
    """What trainings are made with: a record and processes."""

    record: Record
    """Where results are written, and where those are found that need not be made again."""
    workers: int = 2
    """Processes that train; 0 trains in this one."""
    timeout_s: float | None = None
    """A candidate of a search that trains for longer has failed."""

    def train(self, task: NotebookTask[Any], jobs: Sequence[Job]) -> list[Evaluation]:
        """Train candidates that were chosen, as far as the record lacks them.

        There is no limit of time: they shall not fail where a machine is slow.
        """
        with (
            Workers(task, self.workers) as workers,
            tqdm(total=len(set(jobs)), unit="candidate") as bar,
        ):
            return evaluate(jobs, self.record, workers, bar)

    def search(self, task: NotebookTask[Any], plan: SearchPlan[Any]) -> Search:
        """Make a search, or go on with it, and tell how it stands."""
        found = search(task, plan, self.record, self.workers, self.timeout_s)
        print(found)
        return found


@dataclass(frozen=True)
class Trainings:
    """All trainings by one task that a notebook shows: what is forecast, and made into a record."""

    notebook: str
    """The notebook's number; "" where none shows them."""
    words: str
    """Such as "encoders of Table 3"."""
    task: NotebookTask[Any]
    count: int
    """How many there are at most."""
    make: Callable[[Resources], object]
    """Make those that the record lacks."""
    answers: Sequence[str] = ()
    """Identifiers of the papers' entries that these answer."""
    is_tested: bool = False
    """Whether each is measured on the test split too, and so recorded as a `HeldOut` task's."""
    held: Callable[[Sequence[Record]], int] | None = None
    """How many of them some records hold; None where all that these hold by the task is of these."""

    @classmethod
    def of(
        cls,
        notebook: str,
        words: str,
        task: NotebookTask[Any],
        plans: Sequence[SearchPlan[Any]] = (),
        jobs: Sequence[Job] = (),
        answers: Sequence[str] = (),
    ) -> Self:
        """Searches by one task, and candidates that were chosen."""
        count = sum(plan.budget for plan in plans) + len(jobs)
        make, held = partial(_make, task, plans, jobs), partial(_held, task, plans, jobs)
        return cls(notebook, words, task, count, make, answers, held=held)

    def left(self, records: Sequence[Record]) -> int:
        """How many of these none of the records holds. No data is needed."""
        if self.held is not None:
            return max(0, self.count - self.held(records))
        task = HeldOut(self.task) if self.is_tested else self.task
        found = {one.key for record in records for one in record.evaluations() if one.is_by(task)}
        return max(0, self.count - len(found))


def _make(task: NotebookTask[Any], plans: Sequence[SearchPlan[Any]], jobs: Sequence[Job], resources: Resources) -> None:
    for plan in plans:
        resources.search(task, plan)
    if jobs:
        resources.train(task, jobs)


def _held(
    task: NotebookTask[Any], plans: Sequence[SearchPlan[Any]], jobs: Sequence[Job], records: Sequence[Record]
) -> int:
    """How many trainings of these searches and candidates are recorded. Of a search that has ended, all that it has."""
    count = len(recorded_jobs(task, jobs, records)) if jobs else 0
    for plan in plans:
        if (found := most_recorded(records, task, plan)) is not None:
            count += plan.budget if has_ended(found, plan) else len(found.trials)
    return count


def most_recorded(records: Iterable[Record], task: NotebookTask[Any], plan: SearchPlan[Any]) -> Search | None:
    """A search as the record holds it that has come furthest with it; None where none has begun it."""
    found = [search for record in records if (search := recorded_search(record, task, plan)) is not None]
    return max(found, key=lambda search: len(search.trials), default=None)


def recorded_jobs(task: NotebookTask[Any], jobs: Iterable[Job], records: Iterable[Record]) -> list[Job]:
    """Which trainings by a task some of the records hold."""
    known = {(one.hash, one.seed) for record in records for one in record.evaluations() if one.is_by(task)}
    return [job for job in jobs if (job.cell.hash, job.seed) in known]


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """An experiment, its sizes for every profile, and what the shared parts of the project have to ask it."""

    name: str
    """Its folder's."""
    about: str
    """One sentence for people."""
    sizes: Mapping[str, S]
    """By the name of the profile."""
    trainings: Callable[[S], list[Trainings]]
    """What it trains at some sizes, in the order in which a record is made."""
    seconds: Callable[[Any, str], float]
    """(task, device) -> how long one training of a typical candidate takes here. It is a function of a module, no
    lambda, because another process calls it and measures its memory."""
    shipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of the profile, files in results/records/ that notebooks replay; none where they run themselves."""
    named: Mapping[str, Candidate] = field(default_factory=dict)
    """Candidates that have a name."""
    readme: Mapping[str, Callable[[Path], str]] = field(default_factory=dict)
    """By the name of a place in the README, what stands there; made from the folder of the shipped records."""
    picture: str = ""
    """The figure that the README shows, if any: the name of its file."""
    tables: tuple[str, ...] = ()
    """Tables of its notebook that the README tells of: the names of their files."""

    def __post_init__(self) -> None:
        if "<" in self.seconds.__qualname__:  # <lambda>, <locals>
            raise ValueError(f"{self.name}: seconds is called in another process, so define it at the top of a module")

    def shipped_files(self, profile: str, folder: Path) -> list[Path]:
        """The shipped records of a profile, as far as they are in the folder."""
        return [path for name in self.shipped.get(profile, ()) if (path := folder / name).exists()]

    def chosen(self, sizes: S, only: str = "") -> list[Trainings]:
        """Those of its trainings whose words contain a text. Raises ValueError, which lists the words, for none."""
        every = self.trainings(sizes)
        found = [each for each in every if only in each.words]
        if not found:
            words = "; ".join(each.words for each in every)
            raise ValueError(f"{self.name} has no trainings with {only!r:.100} in their words, which are: {words}")
        return found

    def at(self, profile: str) -> S:
        """The sizes for a profile. Raises ValueError, which lists those that there are, where it is left out."""
        if profile not in self.sizes:
            raise ValueError(f"{self.name} is not made at {profile!r:.100}: choose from {', '.join(self.sizes)}")
        return self.sizes[profile]


D = TypeVar("D", bound="DataclassInstance")


def on_device(sizes: D, device: str) -> D:
    """Sizes with all their tasks on a device. No key of a record depends on it."""
    return _with_tasks(sizes, lambda task: replace(task, device=device))


def resumable(sizes: D, folder: Path) -> D:
    """Sizes whose tasks keep checkpoints under `folder` where one training may take hours; short ones begin anew."""
    kept = str(folder / "checkpoints")
    return _with_tasks(sizes, lambda task: replace(task, checkpoints=kept) if task.is_long else task)


def _with_tasks(sizes: D, change: Callable[[Any], Any]) -> D:
    """Sizes with other tasks, those in tuples, in mappings and in sizes of a part too."""

    def changed(value: Any) -> Any:
        if hasattr(value, "evaluate"):
            return change(value)
        if is_dataclass(value) and not isinstance(value, type) and hasattr(value, "task"):
            return _with_tasks(value, change)
        if isinstance(value, Mapping):
            return {key: changed(one) for key, one in value.items()}
        return tuple(map(changed, value)) if type(value) is tuple else value

    return replace(sizes, **{each.name: changed(getattr(sizes, each.name)) for each in fields(sizes)})
