"""A deadline: what it is told in, and that every process of the machine knows the same one."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasrepro.deadline import VARIABLE, TimeIsUp, demand_time, is_over, set_deadline

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_deadline_before_or_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that the end of the test takes away what it sets
    monkeypatch.delenv(VARIABLE)


@pytest.mark.parametrize("known", [{}, {VARIABLE: ""}], ids=["unset", "empty"])
def test_without_a_deadline_time_is_never_up(known: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert not is_over()
    demand_time()


@pytest.mark.parametrize(("minutes", "words"), [(9, "9 minutes"), (1.0, "1 minute"), (0.5, "0.5 minutes")])
def test_it_passes_after_so_many_minutes(minutes: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    set_deadline(minutes)
    now += 60 * minutes - 0.01
    assert not is_over()
    demand_time()
    now += 0.02
    assert is_over()
    with pytest.raises(TimeIsUp, match=f"^stopped after {words}; the same command goes on$"):
        demand_time()


def test_nobody_takes_it_for_an_error_of_what_it_interrupts() -> None:
    assert not issubclass(TimeIsUp, Exception)


@pytest.mark.parametrize("minutes", [0, -3, math.nan, math.inf])
def test_what_is_no_positive_number_is_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match=f"positive number, such as 9 or 0.5, got {minutes}; leave it out"):
        set_deadline(minutes)
    assert VARIABLE not in os.environ


def test_processes_share_it() -> None:
    """Each says how many seconds are left; a process's own clock would begin near 0."""
    set_deadline(100)
    code = f"import os, time; print(float(os.environ[{VARIABLE!r}].split()[0]) - time.monotonic())"
    left = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(2)]
    assert 5900 < left[1] < left[0] < 6000
