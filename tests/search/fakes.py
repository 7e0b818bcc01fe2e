"""A task made of arithmetic: it needs no data and no torch, and misbehaves for the cells that it is told
to."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasrepro.dsl import Cell
from nasrepro.trainers.outcome import Outcome


def fake_perplexity(cell: Cell, seed: int) -> float:
    """A number that depends on the cell's structure and, a little, on chance."""
    return 100.0 + 5.0 * str(cell).count("MM(") + (int(cell.hash, 16) + 7919 * seed) % 1000 / 100


@dataclass
class FakeTask:
    """`behaviour` says what happens for cells by their hash: "crash", "exit", "raise", "hang", "memory",
    "nan"."""

    settings: dict[str, Any] = field(default_factory=lambda: {"width": 8})
    behaviour: dict[str, str] = field(default_factory=dict)
    sleep: float = 0.0
    log: Path | None = None
    name: str = "fake"
    version: int = 1
    data_hash: str = "0" * 64

    def evaluate(
        self, cell: Cell, seed: int, on_epoch: Callable[[dict[str, float]], None] | None = None
    ) -> Outcome:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{cell}\n")
        time.sleep(self.sleep * (int(cell.hash, 16) % 7) / 7)  # uneven, so that cells finish out of order
        self._misbehave(self.behaviour.get(cell.hash, ""))
        value = float("nan") if self.behaviour.get(cell.hash) == "nan" else fake_perplexity(cell, seed)
        if int(cell.hash, 16) % 9 == 0:
            return Outcome("failed", "exploded", {"valid_ppl": float("inf")}, device="cpu")
        return Outcome(
            "ok", "", {"valid_ppl": value}, [{"epoch": 1, "valid_ppl": value}], cell.size, "cpu", self.sleep
        )

    def _misbehave(self, how: str) -> None:
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "exit":
            os._exit(3)
        elif how == "raise":
            raise ValueError("no such cell\nsecond line")
        elif how == "hang":
            time.sleep(3600)
        elif how == "memory":
            _ = [bytearray(2**30) for _ in range(64)]
