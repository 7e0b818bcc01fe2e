"""What a task is asked, and what it answers: the contract between trainers and searches.

Nothing here needs torch, so that a record is read without it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Literal, Protocol

from nasrepro.dsl import Cell


@dataclass(frozen=True)
class Outcome:
    """What came of evaluating one cell.

    A failure is an outcome too: the ranking function learns from it (S17 section 3.2).

    Attributes:
        status: "ok" or "failed".
        reason: "" when ok, else a few words: "exploded", "above 500 after 5 epochs", "timed out",
            "out of memory", "crashed: ...".
        metrics: final numbers by name; language models report `valid_ppl`, validation perplexity. NumPy's numbers and
            tensors of one element become Python's own, here and below.
        curve: one dict of numbers per epoch.
        parameters: number of trained weights, 0 where the child died before it could say.
        device: where it ran, such as "cpu" or the name of a GPU.
        seconds: wall time of the evaluation.

    Raises ValueError for a failure without a reason, or a reason without a failure; TypeError for metrics that are no
    numbers.
    """

    status: Literal["ok", "failed"]
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    parameters: int = 0
    device: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in ("ok", "failed") or (self.status == "ok") != (self.reason == ""):
            raise ValueError(
                f"an outcome is ok without a reason or failed with one, got {self.status!r}, {self.reason!r}"
            )
        object.__setattr__(self, "metrics", _numbers(self.metrics))
        object.__setattr__(self, "curve", [_numbers(point) for point in self.curve])
        object.__setattr__(self, "parameters", whole(self.parameters, "parameters"))
        object.__setattr__(self, "seconds", float(number(self.seconds, "seconds")))


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


class Task(TaskIdentity, Protocol):
    """Something that evaluates cells. It must pickle: worker processes hold copies of it."""

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        """Train and validate one cell. The same cell and seed give the same metrics.

        `on_epoch` is called with each new entry of the curve.
        """
        ...


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


# ---- numbers of other libraries


def number(value: Any, name: str) -> int | float:
    """A number of any library (NumPy's, a tensor of one element, a fraction) as one of Python's own.

    Raises TypeError, which calls it `name`, for what is no number.
    """
    try:
        found = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # NumPy's and torch's answer where there are several elements
        found = None
    if isinstance(found, bool):
        return found
    if isinstance(found, Integral):
        return int(found)
    if isinstance(found, Real | Decimal):
        return float(found)
    raise TypeError(f"{name} is a number, got {value!r:.100}")


def whole(value: Any, name: str) -> int:
    """A whole number of any library and type, 3.0 among them, as Python's own. Raises ValueError for any other."""
    found = number(value, name)
    if not math.isfinite(found) or found != int(found):
        raise ValueError(f"{name} is a whole number, got {value!r:.100}")
    return int(found)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: number(value, name) for name, value in values.items()}
