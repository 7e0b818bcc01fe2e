"""When to stop, for machines that one has for minutes: at a place from which the same command goes on.

--minutes, MINUTES= for make -> `set_deadline` -> an environment variable -> kernels, worker processes

Who would begin something long asks `is_over` first; who has just written down how far it is calls `demand_time`.
"""

import math
import os
import time

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
