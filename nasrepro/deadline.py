"""When to stop, for machines that one has for minutes: at a place from which the same command goes on.

--minutes, MINUTES= for make -> `set_deadline` -> an environment variable -> kernels, worker processes

Who would begin something long asks `is_over` first; who has just written down how far it is calls `demand_time`.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

VARIABLE = "NASREPRO_DEADLINE"
"""The environment variable by which all processes know the deadline: its `time.monotonic()`, and after how many
minutes that was. That clock is one for all processes of a machine, and nobody sets it."""


class TimeIsUp(BaseException):
    """The deadline has passed, and what was done is kept.

    No Exception, so that nobody takes it for a fault of what it interrupts.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback, of which no line would help."""
        return [f"{type(self).__name__}: {self}"]


def set_deadline(minutes: float) -> None:
    """Let this process, and those that it starts from now on, stop in so many minutes.

    Raises ValueError for what is no positive number.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes is a positive number, such as 9 or 0.5, got {minutes:g}; leave it out for no limit")
    os.environ[VARIABLE] = f"{time.monotonic() + 60 * minutes} {minutes:g}"


def is_over() -> bool:
    """Whether there is a deadline and it has passed."""
    known = os.environ.get(VARIABLE, "")
    return bool(known) and time.monotonic() >= float(known.split()[0])


def demand_time() -> None:
    """Raise TimeIsUp where the deadline has passed."""
    if is_over():
        minutes = os.environ[VARIABLE].split()[1]
        unit = "minute" if minutes == "1" else "minutes"
        raise TimeIsUp(f"stopped after {minutes} {unit}; the same command goes on")


class StopSignals:
    """Ctrl-C and SIGTERM, kept back until who is at work has written down how far it is."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that has come; 0 for none."""
        self._before: dict[int, Any] = {}

    def obey(self) -> None:
        """Do what the signal that has come does where nobody keeps it back; nothing where none has."""
        self._let_through()
        number, self.number = self.number, 0
        if number:
            signal.raise_signal(number)

    def _keep_back(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Ignored is what nohup and shells leave to work in the background; None was set by other than Python.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._note)

    def _let_through(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.number:  # who presses Ctrl-C twice does not want to wait
            self.obey()
        self.number = number


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Keep signals to stop back within; one that came and was not obeyed is obeyed at the end.

    Only the main thread can: in another, such as that of a test with a limit of time, nothing is kept back.
    """
    signals = StopSignals()
    if threading.current_thread() is threading.main_thread():
        signals._keep_back()
    try:
        yield signals
    finally:
        signals._let_through()  # another error goes first
    signals.obey()
