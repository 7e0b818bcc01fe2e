"""Checkpoints of a training run: written whole or not at all, and read back to the same numbers."""

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasrepro.errors import MachineError
from nasrepro.files import user_path, write_atomically


class CheckpointError(MachineError, ValueError):
    """A checkpoint that is of another training, or damaged: which file, and what to do."""


@contextmanager
def training_checkpoint(folder: str | None, device: str, *identity: object) -> Iterator[Path | None]:
    """Where a training keeps its checkpoint, None without a folder; the file goes when the training has ended well.

    GPUs and the processor do not go on with each other's: their random generators differ, and a row names one device.
    """
    if folder is None:
        yield None
        return
    kind = device.partition(":")[0]
    name = sha256(" ".join(map(str, identity if kind == "cpu" else (*identity, kind))).encode()).hexdigest()[:16]
    path = user_path(folder) / f"{name}.pt"
    yield path
    path.unlink(missing_ok=True)


def save_checkpoint(path: Path, identity: str, model: nn.Module, masks: torch.Generator, run: Any) -> None:
    """Write model, dropout generator and the dataclass `run` to `path`, replacing what was there at once.

    `identity` says which training this is, in words. Raises OSError, with its number, where nothing can be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"identity": identity, "model": model.state_dict(), "masks": masks.get_state(), "run": vars(run)}
    write_tensors(path, content)


def write_tensors(path: Path, content: Any) -> None:
    """What `torch.save` writes, whole or not at all. Raises OSError where the disk is full or the folder closed.

    Written by torch itself, the same file on a full disk is a RuntimeError that names neither disk nor file.
    """
    saved = io.BytesIO()
    torch.save(content, saved)
    try:
        write_atomically(path, lambda temporary: temporary.write_bytes(saved.getbuffer()))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk alone names no file


def load_checkpoint(path: Path, identity: str, model: nn.Module, masks: torch.Generator, run: Any) -> bool:
    """Put what `save_checkpoint` wrote back into model, generator and run; False when there is no such file.

    Raises CheckpointError when the file is of another training or cannot be read.
    """
    if not path.exists():
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(content)["identity"]  # a file of another program's holds anything
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        told = f"is not a checkpoint of ours, or damaged; delete it to start anew ({error})"
        raise CheckpointError(f"{path} {told}") from None
    if found != identity:
        raise CheckpointError(f"{path} is a checkpoint of another model or run ({found}); delete it to start anew")
    if content["masks"].shape != masks.get_state().shape:
        raise CheckpointError(
            f"{path} was written on another kind of device; go on there, or delete it to start anew here"
        )
    model.load_state_dict(content["model"])
    masks.set_state(content["masks"])
    vars(run).update(content["run"])
    return True
