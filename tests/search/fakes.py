"""A task made of arithmetic: it needs no data and no torch, and misbehaves for the cells that it is told
to."""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasrepro.deadline import VARIABLE
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.search import Evaluation, Record, evaluation_key, gpu
from nasrepro.search.plan import Choice, Step
from nasrepro.search.workers import Job
from nasrepro.trainers.outcome import PERPLEXITY, Candidate, Loss, Outcome, TestableTask


def fake_perplexity(cell: Cell, seed: int) -> float:
    """A number that depends on the cell's structure and, a little, on chance."""
    return 100.0 + 5.0 * str(cell).count("MM(") + (int(cell.hash, 16) + 7919 * seed) % 1000 / 100


def evaluate_test(task: TestableTask[Any], cell: Candidate, seed: int, record: Record, row: str) -> Evaluation:
    """A single row of `evaluate_tests`, in this process."""
    from nasrepro.search.held_out import evaluate_tests  # which loads torch

    return evaluate_tests(task, {row: Job(cell, seed)}, record, workers=0)[row]


@dataclass
class FakeTask:
    """`behaviour`: how cells misbehave, by hash. `pids`: a file that gets a line for each evaluation."""

    settings: dict[str, Any] = field(default_factory=lambda: {"width": 8})
    behaviour: dict[str, str] = field(default_factory=dict)
    sleep: float = 0.0
    failing: bool = False
    pids: Path | None = None
    name: str = "fake"
    version: int = 1
    data_hash: str = "0" * 64
    device: str = "cpu"
    loss: Loss = PERPLEXITY

    def read(self, text: str) -> Cell:
        return parse(text)

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        if self.pids is not None:
            with self.pids.open("a") as file:
                file.write(f"{os.getpid()}\n")
        chance = int(cell.hash, 16)
        time.sleep(self.sleep * (chance % 7) / 7)  # uneven, so that cells finish out of order
        self._misbehave(self.behaviour.get(cell.hash, ""))
        if self.failing and chance % 5 == 0:
            return Outcome("failed", "exploded", {"valid_ppl": float("inf")}, device="cpu")
        value = fake_perplexity(cell, seed)
        return Outcome("ok", "", {"valid_ppl": value}, [{"epoch": 1, "valid_ppl": value}], cell.size, "cpu", 0.5)

    def _misbehave(self, how: str) -> None:
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "killed" or (how == "killed once" and self._is_first(how)):
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "exit":
            os._exit(3)
        elif how == "raise":
            raise ValueError("no such cell\nsecond line")
        elif how == "hang" or (how == "hang once" and self._is_first(how)):
            time.sleep(3600)
        elif how == "memory":
            _ = [bytearray(2**30) for _ in range(64)]
        elif how == "slow":
            time.sleep(2)
        elif how == "late once" and self._is_first(how):
            time.sleep(1)
        elif how == "disk" or (how == "disk once" and self._is_first(how)):
            Path("/dev/full").write_bytes(b"a checkpoint")
        elif how == "data":
            Path("no such folder", "train.txt").read_text()
        elif how == "library":
            importlib.import_module("no_such_library")

    def _is_first(self, how: str) -> bool:
        assert self.pids is not None
        mark = self.pids.with_name(how)
        is_first = not mark.exists()
        mark.touch()
        return is_first


@dataclass
class PlayedGpuTask(FakeTask):
    """Where it is loaded, there is a GPU that nobody else uses. `needs`: the share of it that cells want, by hash."""

    device: str = "cuda:1"
    needs: dict[str, float] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        gpu.claim = self._claim  # in a worker process, which ends with the test
        gpu.share_of_others = lambda device: 0.1

    def _claim(self, device: str, share: float) -> None:
        assert device == self.device
        self.share = share

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        if self.needs.get(cell.hash, 0.0) > self.share:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().evaluate(cell, seed, on_epoch)


class UnloadableTask(FakeTask):
    """Its data is missing in every process but the one that made it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise FileNotFoundError("no data here")


@dataclass
class DyingTask(FakeTask):
    """No process that loads it lives to say so. `code`: how it ends, negative for a signal."""

    code: int = 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["code"] < 0:
            os.kill(os.getpid(), -state["code"])
        os._exit(state["code"])


class Unsayable(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class Unpicklable(Outcome):
    """An outcome that does not leave its process."""

    def __reduce__(self) -> Any:
        raise OSError("cannot pickle an open file")


class Unreadable(Outcome):
    """An outcome that leaves its process, and is not to be read elsewhere."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@dataclass
class SlovenlyTask(FakeTask):
    """What it gives, or raises, for every cell is not what a task should. `what`: how."""

    what: str = ""

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        outcome = super().evaluate(cell, seed, on_epoch)
        if self.what == "unsayable":
            raise Unsayable
        if self.what == "stderr":
            sys.stderr.close()
            raise ValueError("no such cell")
        if self.what == "broken":
            gpu.empty_caches = lambda: 1 / 0  # in a worker process, which ends with the test
            raise RuntimeError("CUDA error: device-side assert triggered")
        if self.what == "nothing":
            return None  # type: ignore[return-value]
        if self.what == "long":
            return "word " * 20_000  # type: ignore[return-value]
        kind = {"unpicklable": Unpicklable, "unreadable": Unreadable}[self.what]
        return kind(**vars(outcome))


class AskingTask(FakeTask):
    """Its outcome says where data would be looked for in the process that evaluates."""

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        from nasrepro.datasets import data_root  # which loads torch

        return Outcome("failed", str(data_root()))


class PatientTask(FakeTask):
    """Its evaluations end when the deadline has passed, and have no checkpoint at which they could stop."""

    def evaluate(self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        assert self.pids is not None
        wait_for_deadline(self.pids.parent)
        return super().evaluate(cell, seed, on_epoch)


def wait_for_deadline(folder: Path) -> None:
    """In an evaluation, in whatever process: go on when the deadline has passed (see `deadline_passes`)."""
    (folder / "begun").touch()
    while not (folder / "over").exists():
        time.sleep(0.01)
    os.environ[VARIABLE] = "0 9"


@contextmanager
def deadline_passes(folder: Path) -> Iterator[None]:
    """Let the deadline pass as soon as an evaluation waits for it, however long processes take to start."""
    ended = threading.Event()

    def watch() -> None:
        while not (folder / "begun").exists() and not ended.is_set():
            time.sleep(0.01)
        os.environ[VARIABLE] = "0 9"
        (folder / "over").touch()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
        del os.environ[VARIABLE]


def propose_many(path: Path, search: str, steps: range) -> None:
    """Propose three cells in each of the steps: what one of several proposers does in a process of its own."""
    with Record(path) as record:
        for step in steps:
            choices = [Choice(zoo[name], f"{step}") for name in ("LSTM", "GRU", "MGU")]
            record.propose(search, step, Step(choices, {"step": step}), [f"{step}/{place}" for place in range(3)])


def write_many(path: Path, seeds: range) -> None:
    """Put one evaluation of the LSTM for each seed: what a process of its own does in a test."""
    with Record(path) as record:
        for seed in seeds:
            record.put(Evaluation.of(FakeTask(), zoo["LSTM"], seed, FakeTask().evaluate(zoo["LSTM"], seed)))


def evaluation(name: str = "LSTM", seed: int = 0) -> Evaluation:
    """What a fake task makes of a cell of the zoo."""
    return Evaluation.of(FakeTask(), zoo[name], seed, FakeTask().evaluate(zoo[name], seed))


def filled() -> Record:
    """A record of three evaluations and one step of one search."""
    record = Record()
    for name in ("LSTM", "GRU", "MGU"):
        record.put(evaluation(name))
    record.begin("abc", {"search": {"method": "random"}})
    names = ("LSTM", "GRU")
    keys = [evaluation_key(FakeTask(), zoo[name], 0) for name in names]
    choices = [Choice(zoo[name], "random") for name in names]
    record.propose("abc", 0, Step(choices, {"rejected": {"too large": 3}}), keys)
    return record


@dataclass
class Corpus:
    """A corpus that has a test split and nothing else."""

    name: str = "tiny"
    hash: str = "f" * 64

    def __post_init__(self) -> None:
        self._test = [0, 1, 2, 3, 4]
