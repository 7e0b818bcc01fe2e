"""Where the paths that users name lead, and results written so that a reader never sees half of one."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

FOLDERS = ("NASREPRO_CACHE", "NASREPRO_DATA", "NASREPRO_MIRROR", "NASREPRO_RESULTS")
"""The environment variables that name folders."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as its user means it: absolute, with `~` as the home folder. Raises ValueError for an unknown home."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{path} begins with a home folder that is not known here; write the path from / on") from None


def named_folder(variable: str) -> Path | None:
    """The folder that an environment variable names; None where it is unset or empty.

    Raises ValueError as `user_path`.
    """
    named = os.environ.get(variable)
    try:
        return user_path(named) if named else None
    except ValueError as error:
        raise ValueError(f"{variable}={error}") from None


def fix_environment() -> None:
    """Write the folders that the environment names as they are meant here.

    Kernels and worker processes inherit the environment, but start in folders of their own, where a relative path would
    mean another place. Raises ValueError for an unknown home.
    """
    for variable in FOLDERS:
        if folder := named_folder(variable):
            os.environ[variable] = str(folder)


def user_cache() -> Path:
    """What can be made again is kept here: in NASREPRO_CACHE, else in the user's cache folder for this package.

    Raises OSError where that is below a home folder that is not known, as in containers: what is kept here can be done
    without.
    """
    try:
        if folder := named_folder("NASREPRO_CACHE"):
            return folder
    except ValueError as error:
        raise OSError(str(error)) from None
    try:
        return platformdirs.user_cache_path("nasrepro").expanduser()  # `~` may be left in where no home is known
    except RuntimeError:
        raise OSError("this user has no home folder: set NASREPRO_CACHE to a folder of your own") from None


def make_writable(folder: Path) -> None:
    """Make a folder and prove that a file can be written there; OSError names the folder and what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write results to {folder}: {error.strerror or error}. "
            "Give yourself permission to write there, free some space, or choose another folder."
        ) from error


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp gives 0600; a result is for everyone to read
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically. Raises ValueError on NaN or infinity, which JSON does not know."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
