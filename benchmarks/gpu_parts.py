"""What a part of `on_gpu.py` is, and how one ends that does not come to its end."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Part:
    """A piece of work that is made, noted and made again as a whole."""

    name: str
    slice: str
    seconds: float
    """What it takes on an H100 or H200; where it keeps checkpoints, the least that is worth starting it for."""
    work: Callable[..., pd.DataFrame]
    """(device, small, folder) -> its rows. `small` asks for tiny sizes; the folder holds records and checkpoints."""
    data: str = ""
    """The data set that it needs, if any; a small run needs none."""
    gpu_only: bool = False
    """Whether there is nothing to do on a CPU."""
    takes_workers: bool = False
    """Whether `work` takes `workers` too: how many processes share the device."""


class OutOfTime(BaseException):
    """The call's limit of time is reached. No Exception, so that nobody takes it for a fault of what it interrupts."""

    rows: pd.DataFrame | None = None
    """What is known already."""


class PartFailed(RuntimeError):
    """A part came to its end, and what it found is a failure."""

    def __init__(self, message: str, rows: pd.DataFrame) -> None:
        super().__init__(message)
        self.rows = rows
