"""What an experiment is: all that belongs to one group of the papers' results, in one folder, and none of it elsewhere.

What all experiments share (notebooks, the command, records, the report) iterates over them and knows none of them. So a
new experiment is a folder of its own, a notebook, and a line of registration in `experiments/__init__.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from nasrepro.search.record import Record
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
class Means:
    """What trainings are made with."""

    record: Record
    """Where results are written, and where those are found that need not be made again."""
    workers: int = 2
    """Processes that train; 0 trains in this one."""
    timeout_s: float | None = None
    """A candidate of a search that trains for longer has failed."""


@dataclass(frozen=True)
class Trainings:
    """Trainings of one kind that an experiment makes: what is forecast, and made into a record."""

    notebook: str
    """The number of the one that asks for them."""
    words: str
    """Such as "encoders of Table 3"."""
    task: NotebookTask[Any]
    count: int
    """How many there are at most."""
    make: Callable[[Means], object]
    """Make those that the record lacks."""
    answers: Sequence[str] = ()
    """Identifiers of the papers' entries that these answer."""


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
    """(task, device) -> how long one training of a typical candidate takes here. A module's function: it is called in
    another process, which measures its memory."""
    shipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the name of the profile, files in results/records/ that notebooks replay; none where they run themselves."""
    named: Mapping[str, Candidate] = field(default_factory=dict)
    """Candidates that have a name."""
    readme: Mapping[str, Callable[[Path], str]] = field(default_factory=dict)
    """By the name of a place in the README, what stands there; made from the folder of the shipped records."""
    picture: str = ""
    """The figure that the README shows, if any: the name of its file."""

    def at(self, profile: str) -> S:
        """The sizes for a profile. Raises ValueError, which lists those that there are, where it is left out."""
        if profile not in self.sizes:
            raise ValueError(f"{self.name} is not made at {profile!r:.100}: choose from {', '.join(self.sizes)}")
        return self.sizes[profile]


D = TypeVar("D", bound="DataclassInstance")


def on_device(sizes: D, device: str) -> D:
    """Sizes with all their tasks on a device. No key of a record depends on it."""
    return _with_tasks(sizes, device=device)


def resumable(sizes: D, folder: Path) -> D:
    """Sizes whose tasks keep checkpoints under `folder` where one training may take hours; short ones begin anew."""
    return _with_tasks(sizes, lambda task: task.is_long, checkpoints=str(folder / "checkpoints"))


def _with_tasks(sizes: D, is_chosen: Callable[[Any], bool] = lambda _: True, **changes: str) -> D:
    tasks = {each.name: task for each in fields(sizes) if hasattr(task := getattr(sizes, each.name), "evaluate")}
    return replace(sizes, **{name: replace(task, **changes) for name, task in tasks.items() if is_chosen(task)})
