"""The notebooks of a profile, one after the other; a run that has ended early goes on where it was.

What was trained is in the record, so a run could always begin at its first notebook again. `stopped.json`, in the
folder of the results while a run has not come to its end, lets its command train anew what is left of a fresh run, and
spares it the notebooks that were done before a deadline. It is of one command: another one begins anew, and takes its
place.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from nasrepro.deadline import TimeIsUp, demand_time
from nasrepro.files import make_writable, write_json
from nasrepro.hardware import device_name
from nasrepro.notebook import FRESH_BEGUN, note_seconds, set_aside

STOPPED = "stopped.json"
"""The file, in the folder of the results, that says how far a run is which has not come to its end."""

WITHOUT_FRESH = "without --fresh (make: without FRESH=1)"
"""How the command of a fresh run that has ended early goes on: a note on whatever has ended it."""


def run_notebooks(
    notebooks: Sequence[Path],
    folder: Path,
    parameters: Mapping[str, Any],
    fresh: bool,
    execute: Callable[[Path, Path, dict[str, Any]], float],
) -> None:
    """Run notebooks into the folder of a profile's results, or go on with a run of theirs that has ended early.

    `parameters` are theirs but for FRESH: PROFILE, DEVICE, and what else was given. With `fresh` they train anew, and
    the old record is set aside; who goes on with such a run leaves it out. After a deadline only those are run that are
    left; after anything else all are, since people stop a run to mend the code.

    `execute` runs one, given its path, the folder and its parameters; the seconds it took.

    Raises TimeIsUp where the deadline passes before all are done; the message says which are. Raises ValueError where
    it cannot be read how far the run came.
    """
    make_writable(folder)
    path, timings = folder / STOPPED, folder / "timings.json"
    before = None if fresh else _stopped(notebooks, folder, parameters)
    progress = before or _Progress.begin(notebooks, parameters, fresh)
    if fresh:
        set_aside(folder)
        _forget_seconds(timings, parameters["PROFILE"], notebooks)
    progress.write(path)
    if progress.fresh:
        os.environ[FRESH_BEGUN] = str(folder)  # so that each notebook goes on with what those before it have trained
    try:
        for notebook in notebooks:
            if progress.has_done(notebook):
                print(f"{notebook.name}  (done before the stop)", flush=True)
                continue
            started = time.perf_counter()
            try:
                demand_time()
                print(f"{notebook.name}  ({parameters['PROFILE']}, {parameters['DEVICE']})", flush=True)
                seconds = execute(notebook, folder, {**parameters, "FRESH": progress.fresh})
            except TimeIsUp as stop:
                progress.note(notebook, time.perf_counter() - started, is_done=False)
                progress.write(path, by_deadline=True)
                raise TimeIsUp(f"{progress.told(notebooks)}\n{stop}") from None
            progress.note(notebook, seconds, is_done=True)
            # What replays takes less time than the run that trained it: that run's time stays.
            taken, device = progress.seconds[notebook.name], device_name(parameters["DEVICE"])
            note_seconds(timings, parameters["PROFILE"], notebook.name[:2], taken, device, longest=True)
    except BaseException as end:
        if fresh:
            end.add_note(WITHOUT_FRESH)
        raise
    path.unlink(missing_ok=True)


def goes_on_fresh(notebooks: Sequence[Path], folder: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether `run_notebooks` without `fresh` would go on with a run that trains anew, so with nothing that ships.

    Raises ValueError where it cannot be read how far a run came.
    """
    before = _stopped(notebooks, folder, parameters)
    return before is not None and before.fresh


def _stopped(notebooks: Sequence[Path], folder: Path, parameters: Mapping[str, Any]) -> "_Progress | None":
    """The run by this command that has ended early, if there is one."""
    before = _Progress.read(folder / STOPPED)
    command = _Progress.begin(notebooks, parameters, fresh=False).command
    return before if before is not None and before.command == command else None


def _forget_seconds(path: Path, profile: str, notebooks: Sequence[Path]) -> None:
    """Take out of a timings file how long these took on a record that is set aside now."""
    if path.exists():
        timings = json.loads(path.read_text("utf-8"))
        for notebook in notebooks:
            timings.get(profile, {}).pop(notebook.name[:2], None)
        write_json(path, timings)


@dataclass
class _Progress:
    """How far a command's run of notebooks is: what `stopped.json` holds."""

    command: dict[str, Any]
    """Which notebooks it runs, with which parameters."""
    fresh: bool
    """Whether they train anew. Who goes on with it no longer says so, and those that are left still do."""
    done: dict[str, str] = field(default_factory=dict)
    """Those that have come to their end, each with a digest of what it was."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each has run, over all deadlines."""

    @classmethod
    def begin(cls, notebooks: Sequence[Path], parameters: Mapping[str, Any], fresh: bool) -> Self:
        """One at its beginning."""
        given = {name: repr(value) for name, value in parameters.items()}
        return cls({"notebooks": [notebook.name for notebook in notebooks], "parameters": given}, fresh)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """That of a run that has ended early; None where there is none. Raises ValueError for a damaged file."""
        if not path.exists():
            return None
        kinds = {"command": dict, "fresh": bool, "done": dict, "seconds": dict}
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict) or {name: type(value) for name, value in found.items()} != kinds:
            raise ValueError(
                f"{path} is damaged, or of another version of nasrepro; delete it (and begin a fresh run anew)"
            )
        return cls(**found)

    def write(self, path: Path, by_deadline: bool = False) -> None:
        """Keep it in a file; only after a deadline with the notebooks that are done."""
        write_json(path, asdict(self if by_deadline else replace(self, done={})))

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
