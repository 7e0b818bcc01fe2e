"""What a task is asked, and what it answers: the contract between trainers, searches and notebooks.

A *candidate* is what a search proposes, a *task* judges it, an *outcome* is what came of that, and the *loss* is the
one number in it that the search makes small. Nothing here needs torch, so that a record is read without it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from nasrepro.errors import shown

# ---- candidates and outcomes


class Candidate(Protocol):
    """What a search proposes and a task judges: an immutable value that a text says whole, such as a `Cell`."""

    def __str__(self) -> str:
        """The text, from which `Task.read` makes an equal candidate."""

    def canonical(self) -> Self:
        """The one form that all candidates share which mean the same. Trained is this one."""

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical form's text."""


C = TypeVar("C", bound=Candidate)
"""The kind of candidate that a task judges."""


OUT_OF_MEMORY = "out of memory"
"""The reason of a candidate that wants more memory than it may have."""


@dataclass(frozen=True)
class Outcome:
    """What came of evaluating one candidate.

    A failure is an outcome too: the ranking function learns from it (S17 section 3.2). NumPy's numbers and tensors of
    one element become Python's own. Raises ValueError for a failure without a reason, or a reason without a failure;
    TypeError for metrics that are no numbers.
    """

    status: Literal["ok", "failed"]
    reason: str = ""  # such as "exploded", "above 500 after 5 epochs", "timed out", "out of memory", "crashed: ..."
    metrics: dict[str, float] = field(default_factory=dict)  # final numbers by name, among them the task's loss
    curve: list[dict[str, float]] = field(default_factory=list)  # one dict of numbers per epoch
    parameters: int = 0  # number of trained weights, 0 where the child died before it could say
    device: str = ""  # where it ran, such as "cpu" or the name of a GPU
    seconds: float = 0.0  # wall time of the evaluation

    def __post_init__(self) -> None:
        if self.status not in ("ok", "failed") or (self.status == "ok") != (self.reason == ""):
            raise ValueError(
                f"an outcome is ok without a reason or failed with one, got {self.status!r}, {self.reason!r}"
            )
        object.__setattr__(self, "metrics", _numbers(self.metrics))
        object.__setattr__(self, "curve", [_numbers(point) for point in self.curve])
        object.__setattr__(self, "parameters", whole(self.parameters, "parameters"))
        object.__setattr__(self, "seconds", float(number(self.seconds, "seconds")))


class _Judged(Protocol):
    """What a loss is read from: an `Outcome`, or a record's `Evaluation`."""

    @property
    def status(self) -> str: ...
    @property
    def metrics(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Loss:
    """The number that a task judges candidates by: the lower, the better."""

    metric: str  # its name among the metrics
    words: str  # what it is called for people

    def of(self, judged: _Judged) -> float | None:
        """The loss, or None for a failure, whatever its metrics say, and for what is not finite."""
        value = judged.metrics.get(self.metric, math.nan)
        return value if judged.status == "ok" and math.isfinite(value) else None


PERPLEXITY = Loss("valid_ppl", "validation perplexity")
"""S17's, of language models and translation alike."""


# ---- tasks

OnEpoch = Callable[[dict[str, float]], None]
"""What is called with each new entry of a curve. What it raises is a failure of the candidate ("crashed"), but for
errors of files, data, libraries and devices: those are the machine's, and stop a search."""


class TaskIdentity(Protocol):
    """What makes an evaluation the same as another: the part of a task that goes into a record's keys."""

    @property
    def name(self) -> str:
        """What it is, such as "language model"."""

    @property
    def version(self) -> int:
        """Raised whenever a change of the code changes a number, lest old results be taken for new ones."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every choice that changes a number, JSON-able; `use_declared_types` keeps 20 and 20.0 from being two."""

    @property
    def data_hash(self) -> str:
        """Hash of the data that it trains and validates on."""


class Task(TaskIdentity, Protocol[C]):
    """Something that judges candidates: all that a search asks for. It must pickle: worker processes hold copies."""

    @property
    def loss(self) -> Loss:
        """Which of the metrics a search makes small."""

    @property
    def device(self) -> str:
        """Where it computes: one of `hardware.resolve`. No key of a record depends on it."""

    def read(self, text: str) -> C:
        """The candidate that a text in a record says. Raises ValueError where it says none."""

    def evaluate(self, candidate: C, /, seed: int, on_epoch: OnEpoch | None = None) -> Outcome:
        """Train and validate one candidate. The same candidate and seed give the same metrics."""


class Data(Protocol):
    """Data of which a part is kept back: the test split, which is read through `Record.read_test` alone."""

    @property
    def name(self) -> str:
        """Such as "ptb"."""

    @property
    def hash(self) -> str:
        """Of the vocabulary and all splits."""

    @property
    def note(self) -> str:
        """Labels such as "stand-in"; may be empty."""

    @property
    def _test(self) -> Any: ...


class TestableTask(Task[C], Protocol[C]):
    """A task whose models can be measured on the test split as well: what rows of results ask for besides.

    A class that inherits this one need not define `data_hash` and `evaluate`.
    """

    @property
    def corpus(self) -> Data:
        """The data, its test split under lock, loaded when first asked for. `settings` name it, as "corpus"."""

    def train(self, candidate: C, /, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Outcome, Any]:
        """What `evaluate` does, and the model that came of it."""

    def test(self, model: Any, split: Any, /) -> dict[str, float]:
        """The model's numbers on a test split, named "test_...": such as test_ppl."""

    @property
    def data_hash(self) -> str:
        """Hash of the corpus, vocabularies and all splits."""
        return self.corpus.hash

    def evaluate(self, candidate: C, /, seed: int, on_epoch: OnEpoch | None = None) -> Outcome:
        """What `train` says of it."""
        return self.train(candidate, seed, on_epoch)[0]


class NotebookTask(TestableTask[C], Protocol[C]):
    """What notebooks and profiles ask for besides. A frozen dataclass: `replace` puts it elsewhere."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def data_words(self) -> str:
        """The data in the words of the papers' entries, without loading it: such as "ptb-characters"."""

    def words(self) -> str:
        """How a candidate is trained, for captions and budgets, without loading data."""

    @property
    def checkpoints(self) -> str | None:
        """Folder for checkpoints of trainings in progress; None for trainings that begin anew when killed."""

    @property
    def is_long(self) -> bool:
        """Whether one training may take hours, so that checkpoints are worth their writing."""


# ---- numbers


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def number(value: Any, name: str) -> int | float:
    """A number of any library (NumPy's, a tensor of one element, a fraction) as one of Python's own.

    Raises TypeError, which calls it `name`, for what is no number, and ValueError for one that no float holds.
    """
    try:
        found = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # NumPy's and torch's answer where there are several elements
        found = None
    if isinstance(found, bool):
        return found
    if not isinstance(found, Real | Decimal):
        raise TypeError(f"{name} is a number, got {shown(value)}")
    try:
        rounded = float(found)
    except (OverflowError, ValueError):  # too large; Decimal's sNaN
        raise ValueError(f"{name} is a number that a float can hold, got {shown(value)}") from None
    return int(found) if isinstance(found, Integral) else rounded


def whole(value: Any, name: str) -> int:
    """A whole number of any library and type, 3.0 among them, as Python's own.

    Raises ValueError for any other, and for one of more than 64 bits, which neither records nor tensors hold.
    """
    found = number(value, name)
    if not math.isfinite(found) or found != int(found):
        raise ValueError(f"{name} is a whole number, got {shown(value)}")
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"{name} is a whole number of at most 64 bits, from -2**63 to 2**63 - 1, got {shown(value)}")
    return int(found)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: number(value, name) for name, value in values.items()}
