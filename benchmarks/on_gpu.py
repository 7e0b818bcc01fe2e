"""Everything that only a GPU can show, in slices that each fit into one call of ten minutes.

    python benchmarks/on_gpu.py --out FOLDER                         # on a machine with CUDA
    python benchmarks/on_gpu.py --out FOLDER --slice structure speed # these alone
    python benchmarks/on_gpu.py --out FOLDER --part layers "night: encoders of Table 3"
    python benchmarks/on_gpu.py --out FOLDER --device cpu --small    # what needs no GPU, in a minute

structure    The tests marked `gpu`, but for the longest; then every zoo cell, fused, against float64 on the CPU:
             relative errors of values and gradients with products in float32, TF32 and bfloat16.
speed        One layer, forward and backward: cuDNN's LSTM and GRU, and cells fused (CUDA graphs), fused launch by
             launch, and eager; cells whose steps torch.compile has compiled. The longest test. Tokens per second of a
             language model's training step. Linear layer and cross-entropy, fused and by torch. Images per second of
             ZL17's Figure 7 in training, beside torch's own parts. What a night's trainings would take.
profile      Kernels, launches and synchronisations of a training step, the GPU's time against the clock's; and epochs
             of translation with CUDA graphs of whole steps, of layers alone, and with none.
night        What the experiments would train in a night (profile `night`): what answers most entries of the papers per
             hour comes first, as the shipped gpu.csv forecasts it. Candidates are trained side by side, by `--workers`
             processes that share the device (4 on a GPU; elsewhere 0, which is this one alone). Trained alone, an
             encoder of S17's Table 3 takes some 70 s on an H200, 40 of them to record the graphs of its steps, which
             every call does anew; by 4, six of the seven take four and a half minutes together, and MT4, the longest,
             six and a half. What a record in results/records/ holds already is taken from there.

A slice is a list of parts (`PARTS`, below, in the order in which they are made: what never was measured comes first). A
part that FOLDER holds from this device and this code is not made again; one whose seconds do not fit into what is left
of `--minutes` is left for the next call; a training that is cut short goes on where its last epoch ended. A part that
fails is noted, the others go on, and a later call tries it after all others. The exit status is 1 when parts have
failed. The last line says what is done, failed and left.

FOLDER gets four files, each written after every part: gpu.json (device, code, versions; seconds or failure of every
part), gpu.csv (one table: `table[table.part == "layers"].dropna(axis=1, how="all")`), gpu.log (what the tests printed)
and gpu-record.jsonl.gz (the trainings, as `nr.Record.load` reads them). They ship as they are. FOLDER/work holds what
a next call goes on from. Where FOLDER itself is not brought back, `--export` names a folder that gets copies of the
four; a FOLDER that holds the four and no work goes on from them, but for trainings in progress.

`--data` names a folder of data sets, laid out as NAME/FILE, which is used as NASREPRO_MIRROR is. Where less can be
brought at a time than there is, let the folder grow call by call; a single file that is too large is brought as
FILE.part-00, FILE.part-01, ... (`split -d -b 50M FILE FILE.part-`), which are put together once all are there and the
whole has the registered hash. So CIFAR-10, six files of 23 MB, takes three calls of two files and nothing else.

Needs PyTorch with its Triton, pandas, and packages that machines with PyTorch often lack, all pure Python: lark,
platformdirs, pooch, sacrebleu (with portalocker, tabulate and colorama) and sacremoses; for the tests, pytest,
pytest-timeout, hypothesis and matplotlib. A machine without a network can be given them as wheels:

    pip download --no-deps --dest wheels lark platformdirs pooch sacrebleu portalocker tabulate colorama sacremoses
    pip install --no-deps --no-index --target site wheels/*.whl      # there
    PYTHONPATH=site:. python benchmarks/on_gpu.py --out FOLDER
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import gpu_checks as checks
import gpu_profile as profiling
import gpu_speed as speed
import gpu_trainings as trainings
import pandas as pd
import torch
from gpu_parts import OutOfTime, Part

from nasrepro.datasets.files import damage, fetch
from nasrepro.datasets.registry import DATASETS, DataError
from nasrepro.files import fix_environment, make_writable, user_path, write_atomically, write_json
from nasrepro.hardware import device_name
from nasrepro.report.provenance import commit, versions

LONGEST_TEST = "test_values_and_gradients"

PARTS = (
    Part("gpu tests: structure", "structure", 60, partial(checks.gpu_tests, f"not {LONGEST_TEST}"), gpu_only=True),
    Part("checks", "structure", 10, checks.checks),
    Part("layers", "speed", 45, speed.layers),
    Part("compiled layers", "speed", 110, speed.compiled, gpu_only=True),
    # A cell that fails is made smaller and tried again: with one the test took 140 s.
    Part("gpu tests: values", "speed", 90, partial(checks.gpu_tests, LONGEST_TEST), gpu_only=True),
    Part("models", "speed", 10, speed.models),
    Part("decoder", "speed", 5, speed.decoder),
    Part("images", "speed", 90, speed.images),
    Part("forecast", "speed", 30, trainings.forecast),
    *(
        Part(f"graphs of {what}", "profile", seconds, partial(profiling.graphs, what), "multi30k", gpu_only=True)
        for what, seconds in (("nothing", 60), ("steps", 45), ("layers", 35))
    ),
    Part("profile: language model", "profile", 10, profiling.profile_language_model),
    Part("profile: translation", "profile", 10, profiling.profile_translation, "multi30k"),
    *trainings.parts(),
)
SLICES = tuple(dict.fromkeys(part.slice for part in PARTS))
SHIPPED = ("gpu.json", "gpu.csv", checks.LOG, trainings.RECORD)


def main() -> None:
    """Make the parts that are asked for and not yet made, as far as the time reaches."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=_folder, required=True, help="folder for the results")
    parser.add_argument("--export", type=_folder, help="folder for copies of the files that ship")
    parser.add_argument("--slice", nargs="+", choices=SLICES, default=[], help="make these slices alone")
    names = [part.name for part in PARTS]
    parser.add_argument("--part", nargs="+", choices=names, default=[], metavar="NAME", help="make these parts alone")
    parser.add_argument("--workers", type=int, help="processes that train Table 3 (default: 4 on a GPU, else 0)")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after so many minutes")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that everything runs, times nothing")
    parser.add_argument("--data", type=_folder, help="folder of data sets, laid out as NAME/FILE")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --small tries the script without one")
    if options.workers is None:
        options.workers = 4 if options.device == "cuda" else 0
    if options.workers < 0:
        parser.error(f"--workers is a number of processes, 0 or more, got {options.workers}")
    fix_environment()
    if options.data:
        for line in join_parts(options.data):
            print(line, flush=True)
        os.environ["NASREPRO_MIRROR"] = str(options.data)

    results = Results(options.out, options.export, options.device, options.small)
    if results.of_other_size():
        parser.error(f"{options.out} holds results of other sizes (--small or not); choose another folder")
    parts = _asked_for(options)
    make(parts, results, started + 60 * options.minutes)
    states = {part.name: results.state(part) for part in parts}
    print("; ".join(_listed(state, states) for state in ("done", "failed", "left")), flush=True)
    sys.exit("failed" in states.values())


def _folder(text: str) -> Path:
    """The folder that an argument names; argparse says what is wrong with it."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _asked_for(options: argparse.Namespace) -> list[Part]:
    """The parts that are asked for and have something to do, told how many processes they may use."""
    everything = not (options.slice or options.part)
    asked = [p for p in PARTS if everything or p.slice in options.slice or p.name in options.part]
    return [
        replace(part, work=partial(part.work, workers=options.workers)) if part.takes_workers else part
        for part in asked
        if not (part.gpu_only and options.device == "cpu")
    ]


def _listed(state: str, states: dict[str, str]) -> str:
    names = [name for name, found in states.items() if found == state]
    return f"{len(names)} {state}" + (f" ({'; '.join(names)})" if names else "")


# --- what is known ---------------------------------------------------------------------------------------------------


class Results:
    """What a folder holds: gpu.json and gpu.csv, read once and written after every part."""

    def __init__(self, folder: Path, export: Path | None, device: str, small: bool) -> None:
        self.folder, self.export, self.device, self.small = folder, export, device, small
        make_writable(folder / "work")
        self.origin = {"device": device_name(device), "commit": commit(), "code": _code()}
        path = folder / "gpu.json"
        self.facts: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"parts": {}}
        table = folder / "gpu.csv"
        self.rows: list[dict[str, Any]] = pd.read_csv(table).to_dict("records") if table.exists() else []

    def of_other_size(self) -> bool:
        """Whether the folder holds a small run's results and this one is not small, or the other way round."""
        return self.facts.get("small", self.small) != self.small

    def state(self, part: Part) -> str:
        """Where a part stands by this device and code: "done", "failed", or "left"."""
        entry = self.facts["parts"].get(part.name, {})
        same = all(entry.get(name) == self.origin[name] for name in ("device", "code"))
        return entry["state"] if same else "left"

    def note(self, part: Part, state: str, seconds: float, rows: pd.DataFrame | None, failure: str = "") -> None:
        """Write down how a part ended. Nothing of an earlier time stays; rows with a device of their own keep it."""
        entry = {"slice": part.slice, "state": state, "seconds": round(seconds, 1), **self.origin}
        entry["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.facts["parts"][part.name] = entry | ({"failure": failure} if failure else {})
        self.facts |= {**self.origin, "small": self.small, "versions": _versions()}
        self.facts["cells"] = {name: str(cell) for name, cell in speed.timed_cells().items()}
        self.rows = [row for row in self.rows if row["part"] != part.name]
        if rows is not None:
            first = {"part": part.name, "device": self.origin["device"]}
            self.rows += [first | row for row in rows.to_dict("records")]
        write_json(self.folder / "gpu.json", self.facts)
        table = pd.DataFrame(self.rows, columns=None if self.rows else ["part", "device"])
        write_atomically(self.folder / "gpu.csv", lambda path: table.to_csv(path, index=False, float_format="%.6g"))
        self.copy_out()

    def copy_out(self) -> None:
        """Put copies of what ships where it is brought back from."""
        if self.export:
            self.export.mkdir(parents=True, exist_ok=True)
            for name in SHIPPED:
                if (self.folder / name).exists():
                    shutil.copyfile(self.folder / name, self.export / name)


@cache
def _code() -> str:
    """A digest of the package and of these scripts: it tells versions apart where there is no git too."""
    here = Path(__file__).resolve().parent
    package = [path for path in (here.parent / "nasrepro").rglob("*") if path.suffix in {".py", ".c", ".h", ".lark"}]
    digest = hashlib.sha256()
    for path in sorted([*package, Path(__file__), here / "image_epochs.py", *here.glob("gpu_*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _versions() -> dict[str, str]:
    found = versions() | {"CUDA": str(torch.version.cuda), "triton": "none", "driver": "none"}
    try:
        import triton  # not everywhere where torch is

        found["triton"] = triton.__version__
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (ImportError, OSError, subprocess.SubprocessError):
        pass
    return found


# --- making parts ----------------------------------------------------------------------------------------------------


def make(parts: Sequence[Part], results: Results, deadline: float) -> None:
    """Make the parts that are not done and fit before the deadline (of time.monotonic); failed ones come last."""
    results.copy_out()
    for part in sorted((p for p in parts if results.state(p) != "done"), key=lambda p: results.state(p) == "failed"):
        left = deadline - time.monotonic()
        if left < (1 if results.small else part.seconds):
            continue
        print(f"--- {part.name}", flush=True)
        _make(part, results, left)
        if not _usable(results.device):
            print(f"the device answers no more after {part.name}; a new call goes on with the others", flush=True)
            return


def _make(part: Part, results: Results, limit: float) -> None:
    start = time.monotonic()
    state, rows, failure = "failed", None, ""
    try:
        if part.data and not results.small:
            _refuse_missing(part.data)
        with _at_most(limit):
            rows = part.work(results.device, results.small, results.folder)
        failure = "\n".join(rows["error"].dropna()) if "error" in rows else ""
        state = "failed" if failure else "done"
    except OutOfTime as stop:
        state, rows = "left", stop.rows
        print("out of time: left for the next call", flush=True)
    except DataError as error:  # its words say what to do, and where it was raised says nothing
        failure = str(error)
    except Exception as error:
        rows, failure = getattr(error, "rows", None), traceback.format_exc()
    if rows is not None:
        print(rows.to_string(index=False, float_format="{:.4g}".format), flush=True)
    if failure:
        print(failure, flush=True)
    results.note(part, state, time.monotonic() - start, rows, failure)


def _usable(device: str) -> bool:
    """Whether the device still computes: some errors of a kernel leave every later call of the process in error."""
    try:
        return bool(torch.ones(1, device=device).sum().item() == 1)
    except RuntimeError:
        return False


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in what runs longer."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 30)  # and again, should a destructor have swallowed it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- data ------------------------------------------------------------------------------------------------------------


@cache
def _refuse_missing(name: str) -> None:
    """Raise DataError where a data set is not here whole, or damaged."""
    fetch(name, download=False)


def join_parts(folder: Path) -> list[str]:
    """Put files together that were brought as FILE.part-00, FILE.part-01, ...; a sentence for each on how it stands.

    A file is written once all its parts are there, which its registered hash tells. Raises DataError when they are at
    least as long as the file and do not have its hash.
    """
    wholes = sorted({path.with_suffix("") for path in folder.glob("*/*.part-[0-9]*")})
    return [_join(whole) for whole in wholes]


def _join(whole: Path) -> str:
    files = {(s.folder, f.name): f for s in DATASETS.values() for f in s.files + s.archives}
    known = files.get((whole.parent.name, whole.name))
    if known is None:
        raise DataError(f"{whole} is of no registered data set; lay the folder out as NAME/FILE.part-00")
    if whole.exists() and damage(whole, known) is None:
        return f"{whole} is whole"
    parts = sorted(whole.parent.glob(f"{whole.name}.part-[0-9]*"), key=lambda path: int(path.suffix.rpartition("-")[2]))
    write_atomically(whole, lambda path: _concatenate(parts, path))
    problem = damage(whole, known)
    if problem is None:
        return f"{whole} is whole, of {len(parts)} parts"
    size = whole.stat().st_size
    whole.unlink()
    if known.size is not None and size >= known.size:
        raise DataError(f"{whole}, put together from {len(parts)} parts, {problem}; bring its parts again")
    return f"{whole}: {size:,} bytes in {len(parts)} parts, of {known.length}; bring the others"


def _concatenate(parts: Sequence[Path], to: Path) -> None:
    with to.open("wb") as file:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, file)


if __name__ == "__main__":
    main()
