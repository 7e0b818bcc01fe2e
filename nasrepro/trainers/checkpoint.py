"""Checkpoints of a training run: written whole or not at all, and read back to the same numbers."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_checkpoint(path: Path, model: nn.Module, masks: torch.Generator, run: Any) -> None:
    """Write model, dropout generator and the dataclass `run` to `path`, replacing what was there at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "model": model.state_dict(),
        "masks": masks.get_state(),
        "run": {field.name: getattr(run, field.name) for field in fields(run)},
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path, model: nn.Module, masks: torch.Generator, run: Any) -> bool:
    """Put what `save_checkpoint` wrote back into model, generator and run; False when there is no such file.

    Raises ValueError when the file is of another model.
    """
    if not path.exists():
        return False
    content = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} is a checkpoint of another model; delete it to start anew ({error})") from None
    masks.set_state(content["masks"])
    for name, value in content["run"].items():
        setattr(run, name, value)
    return True
