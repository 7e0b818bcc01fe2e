"""From C text to functions that Python can call: find a compiler, keep what it made, load it.

An object is kept in the user's cache folder under the hash of all that decides what is in it: the text, the
headers shipped here, the compiler with its arguments, and the processor. So a text is compiled once per machine,
and a change to any of these makes a new object instead of a wrong one.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

# torch brings its own OpenMP library. It must be in the process before our objects are, so that they use its threads:
# a second set of threads would compete with torch's for the same cores.
import torch  # noqa: F401

from nasrepro.errors import MachineError
from nasrepro.files import user_cache, write_atomically

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Cores that this process may use: more threads than that would wait for each other."""

INCLUDE = Path(__file__).resolve().parent / "c"  # the headers shipped with the library; compilers get it as -I

_FLAGS = [
    *("-O3", "-std=gnu11", "-fPIC", "-shared"),
    # These let loops become vector code. -ffast-math would too, but see _CHANGE_THE_PROCESS.
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=fast"),
    "-Wno-psabi",  # gcc's note that wide vectors pass differently between functions of old and new compilers
]

# With these gcc links code that flushes small numbers to zero in the whole process, torch included, once it is loaded.
_CHANGE_THE_PROCESS = {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-mdaz-ftz"}

_OPENMP = ["-fopenmp"]
_ONE_THREAD = ["-fopenmp-simd"]  # no threads and no library for them, but `omp simd` loops are still vector code
_OPENMP_PROBE = "#include <omp.h>\nint probe(void) { return omp_get_max_threads(); }\n"

_ISAS = {
    "native": ["-march=native", "-mprefer-vector-width=512"] if platform.machine() == "x86_64" else ["-mcpu=native"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],  # compilers choose 256 bits unless told
    "avx2": ["-march=x86-64-v3"],
    "plain": [],
}

_STALE = 24 * 60 * 60  # seconds after which a temporary file is nobody's: its compiler was killed

_loaded: dict[tuple[str, str, tuple[str, ...]], ctypes.CDLL] = {}
_loading = threading.Lock()


class NativeError(MachineError, RuntimeError):
    """Native code cannot be had here; the message says why and what to do."""


def load(source: str, *, isa: str = "native", flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile C text, unless that was done before, and load it.

    Args:
        source: C (gnu11) that may include the headers in INCLUDE.
        isa: what processor the code is for: "native" (this one), "avx512", "avx2", or "plain" (any of its kind).
        flags: more arguments for the compiler.

    Returns: the loaded object; the same one whenever the same text is loaded again in this process. Where the
    compiler has no OpenMP, the code was compiled without and runs on one thread, until OpenMP is installed and
    the cache folder emptied.

    Raises: NativeError if there is no compiler, it refuses the text, or the cache folder cannot be used or
    could be changed by other users; ValueError for an unknown `isa`.
    """
    wanted = (source, isa, tuple(flags))
    if wanted not in _loaded:
        with _loading:
            if wanted not in _loaded:
                _loaded[wanted] = _open(_built(*wanted))
    return _loaded[wanted]


def cache_folder() -> Path:
    """Where compiled objects are kept: `native` in the folder NASREPRO_CACHE, else in the user's cache folder.

    Raises: NativeError for a user without a home folder.
    """
    try:
        return user_cache() / "native"
    except OSError as error:
        raise NativeError(f"there is no folder to keep compiled code in: {error}.") from error


# --- building ----------------------------------------------------------------------------------------------


def _built(source: str, isa: str, flags: tuple[str, ...]) -> Path:
    """The path of the compiled object, its symbolic links resolved."""
    command = _command(isa, flags)
    folder = cache_folder().resolve()
    path = folder / f"{_key(source, command, isa)}.so"
    try:
        if not path.exists():
            _make_private(folder)
            _refuse_unsafe(folder)
            _sweep(folder)
            write_atomically(path, lambda temporary: _compile(source, command, temporary))
    except OSError as error:
        raise NativeError(
            f"cannot keep compiled code in {folder}: {error.strerror or error}. "
            "Give yourself permission to write there, free some space, or set NASREPRO_CACHE to another folder."
        ) from error
    return path


def _command(isa: str, flags: tuple[str, ...]) -> list[str]:
    """The compiler and its arguments, without those for OpenMP, the text and the output."""
    if sys.platform == "win32":
        raise NativeError("compiling C is not supported on Windows; use Linux, macOS, or WSL.")
    if isa not in _ISAS:
        raise ValueError(f"unknown isa {isa!r:.100}: choose one of {', '.join(_ISAS)}")
    command = [*_compiler(), *_FLAGS, *_ISAS[isa], *flags, "-I", str(INCLUDE)]
    if refused := _CHANGE_THE_PROCESS.intersection(command):
        raise NativeError(
            f"{', '.join(sorted(refused))} would change the floating-point mode of the whole process: "
            "leave it out of `flags` and of the environment variable CC."
        )
    return command


def _compiler() -> list[str]:
    """The compiler's full path, and the arguments that CC gives it."""
    if chosen := os.environ.get("CC"):
        try:
            name, *arguments = shlex.split(chosen)
        except ValueError as error:
            raise NativeError(f"the environment variable CC is no command: {chosen!r:.100} ({error}).") from error
        if (found := shutil.which(name)) is None:
            raise NativeError(f"the environment variable CC names {name!r:.100}, which is no program here: correct it.")
        return [found, *arguments]
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise NativeError("no C compiler found: install gcc or clang, or set the environment variable CC to one.")


def _compile(source: str, command: list[str], output: Path) -> None:
    """Run the compiler, without OpenMP if it has none."""
    result = _run(source, [*command, *_OPENMP], output)
    if result.returncode != 0 and _run(_OPENMP_PROBE, [*command, *_OPENMP], output).returncode != 0:
        result = _run(source, [*command, *_ONE_THREAD], output)
    if result.returncode != 0:
        last = "\n".join(f"{line:.200}" for line in result.stdout.splitlines()[-20:])
        raise NativeError(f"the compiler failed: {shlex.join(result.args):.1000}\n{last}")


def _run(source: str, command: list[str], output: Path) -> subprocess.CompletedProcess[str]:
    """One run of the compiler; it reads the text from its standard input."""
    command = [*command, "-x", "c", "-", "-o", str(output), "-lm"]
    try:
        return subprocess.run(
            command,
            input=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise NativeError(f"the compiler {command[0]} does not run: {error.strerror or error}.") from error


# --- what an object is known by ----------------------------------------------------------------------------


def _key(source: str, command: list[str], isa: str) -> str:
    """The hash of all that decides what the compiler makes. It is found without running the compiler."""
    compiler = Path(command[0]).resolve()
    status = compiler.stat()
    headers = [(path.name, path.read_bytes()) for path in sorted(INCLUDE.rglob("*")) if path.is_file()]
    processor = _processor() if isa == "native" else []
    # repr marks where one part ends and the next begins, so different parts never give the same text.
    parts = (source, headers, command, str(compiler), status.st_size, status.st_mtime_ns, platform.machine(), processor)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _processor() -> list[str]:
    """What Linux says of the first processor's model and instructions; elsewhere the machine's kind must do."""
    told = []
    cpuinfo = Path("/proc/cpuinfo")
    with contextlib.suppress(FileNotFoundError), cpuinfo.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():  # the first processor ends here; a large machine has hundreds more
                break
            if line.startswith(("model name", "flags", "Features")):
                told.append(line)
    return told


# --- loading only what is ours -----------------------------------------------------------------------------


def _open(path: Path) -> ctypes.CDLL:
    # What is checked here is what is opened: nobody else can put another file there in between, because nobody else
    # can write to the file or to any folder above it.
    _refuse_unsafe(path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(
            f"cannot load {path}: {error}. Delete it to have it made anew; if that does not help, "
            "set NASREPRO_CACHE to a folder on a disk from which programs may run."
        ) from error


def _refuse_unsafe(path: Path) -> None:
    """Raise NativeError if others than this user and root could change a file or folder (links resolved)."""
    for part in (path, *path.parents):
        status = part.lstat()
        if status.st_uid not in {0, os.geteuid()}:
            raise NativeError(
                f"compiled code is not loaded from {path}, because {part} belongs to {_owner(part)}, "
                "who could change it: set NASREPRO_CACHE to a folder of your own."
            )
        others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a sticky folder such as /tmp others may add files, but not replace ours.
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if others_write and not sticky:
            raise NativeError(
                f"compiled code is not loaded from {path}, because others may write to {part} "
                f"(of {_owner(part)}): run `chmod go-w {shlex.quote(str(part))}`, "
                "or set NASREPRO_CACHE to a folder of your own."
            )


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # a number without a name, as containers have
        return f"user {path.stat().st_uid}"


# --- the cache folder --------------------------------------------------------------------------------------


def _make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sweep(folder: Path) -> None:
    """Delete what killed compilers left; no reader ever takes it for an object."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process sweeps too
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()
