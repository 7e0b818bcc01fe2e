"""The notebooks of a profile, one after the other; a run that a deadline has stopped goes on where it was.

What was trained is in the record, so a run could always begin at its first notebook again. `stopped.json`, in the
folder of the results, spares it those that were done. It is of one command: another one begins anew, and removes it.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from nasrepro.deadline import TimeIsUp, demand_time
from nasrepro.files import make_writable, write_json
from nasrepro.hardware import device_name
from nasrepro.notebook import FRESH_BEGUN, note_seconds, set_aside


def run_notebooks(
    notebooks: Sequence[Path],
    folder: Path,
    parameters: Mapping[str, Any],
    fresh: bool,
    execute: Callable[[Path, Path, dict[str, Any]], float],
) -> None:
    """Run notebooks into the folder of a profile's results; after a stop, only those that are left.

    `parameters` are theirs but for FRESH: PROFILE, DEVICE, and what else was given. With `fresh` they train anew, and
    the old record is set aside. `execute` runs one, given its path, the folder and its parameters; the seconds it took.

    Raises TimeIsUp where the deadline passes before all are done; the message says which are.
    """
    make_writable(folder)
    path = folder / "stopped.json"
    run = _Run.of(notebooks, parameters, fresh)
    before = _Run.read(path)
    if before is not None and before.command == run.command and not fresh:
        run = before
    else:
        path.unlink(missing_ok=True)
        if fresh:
            set_aside(folder)
    if run.fresh:
        os.environ[FRESH_BEGUN] = str(folder)  # so that each notebook goes on with what those before it have trained
    for notebook in notebooks:
        if run.has_done(notebook):
            print(f"{notebook.name}  (done before the stop)", flush=True)
            continue
        started = time.perf_counter()
        try:
            demand_time()
            print(f"{notebook.name}  ({parameters['PROFILE']}, {parameters['DEVICE']})", flush=True)
            seconds = execute(notebook, folder, {**parameters, "FRESH": run.fresh})
        except TimeIsUp as stop:
            run.note(notebook, time.perf_counter() - started, is_done=False)
            write_json(path, asdict(run))
            raise TimeIsUp(f"{run.told(notebooks)}\n{stop}") from None
        run.note(notebook, seconds, is_done=True)
        # What replays takes less time than the run that trained it: that run's time stays.
        timings, device = folder / "timings.json", device_name(parameters["DEVICE"])
        taken = run.seconds[notebook.name]
        note_seconds(timings, parameters["PROFILE"], notebook.name[:2], taken, device, longest=not run.fresh)
    path.unlink(missing_ok=True)


@dataclass
class _Run:
    """How far a command's run of notebooks is: what `stopped.json` holds."""

    command: dict[str, Any]
    """Which notebooks it runs, with which parameters."""
    fresh: bool
    """Whether they train anew. Who goes on with it no longer says so, and those that are left still do."""
    done: dict[str, str] = field(default_factory=dict)
    """Those that have come to their end, each with a digest of what it was."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each has run, over all stops."""

    @classmethod
    def of(cls, notebooks: Sequence[Path], parameters: Mapping[str, Any], fresh: bool) -> Self:
        """One at its beginning."""
        given = {name: repr(value) for name, value in parameters.items()}
        return cls({"notebooks": [notebook.name for notebook in notebooks], "parameters": given}, fresh)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The one that was stopped; None where none was."""
        return cls(**json.loads(path.read_text("utf-8"))) if path.exists() else None

    def has_done(self, notebook: Path) -> bool:
        """Whether a notebook has come to its end, and nobody has edited it since."""
        return self.done.get(notebook.name) == _digest(notebook)

    def note(self, notebook: Path, seconds: float, is_done: bool) -> None:
        """Take in that a notebook has run for so long, and whether it has come to its end."""
        self.seconds[notebook.name] = self.seconds.get(notebook.name, 0.0) + seconds
        if is_done:
            self.done[notebook.name] = _digest(notebook)

    def told(self, notebooks: Sequence[Path]) -> str:
        """Which notebooks are done and which are left, by their numbers."""
        done = [notebook.name[:2] for notebook in notebooks if self.has_done(notebook)]
        left = [notebook.name[:2] for notebook in notebooks if not self.has_done(notebook)]
        return f"done: {', '.join(done) or 'none'}; left: {', '.join(left)}"


def _digest(notebook: Path) -> str:
    return sha256(notebook.read_bytes()).hexdigest()[:16]
