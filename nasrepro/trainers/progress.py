"""What every training loop shares: where a training stands, its checkpoint after every epoch, and its outcome.

    training = Training(model, generator, progress, identity, device, checkpoint, on_epoch)
    for epoch in training.epochs(40):
        ...                                                # train, validate
        improved = training.note(valid_loss, valid_ppl=perplexity(valid_loss))
        ...                                                # the trainer's own schedule: learning rate, failures
    outcome = training.outcome({"valid_ppl": perplexity(progress.best_loss)})

An epoch is whatever the trainer validates after: a pass over the text, or so many steps.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from nasrepro.deadline import demand_time
from nasrepro.hardware import device_name
from nasrepro.trainers.checkpoint import load_checkpoint, save_checkpoint
from nasrepro.trainers.outcome import OnEpoch, Outcome


@dataclass
class Progress:
    """Where a training stands after a whole number of epochs: all that a checkpoint keeps but model and generator.

    A trainer whose schedule has to remember more adds fields in a subclass: tensors, numbers, text, lists and dicts.
    """

    learning_rate: float  # of the next epoch
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # after the best epoch; before any, as it began
    best_loss: float = math.inf  # the lowest validation loss of any epoch
    reason: str = ""  # why the training has failed; "" while it has not
    is_ended: bool = False  # by the trainer's own rule, before its last epoch
    curve: list[dict[str, float]] = field(default_factory=list)  # a point for each epoch with a finite loss
    seconds: float = 0.0  # wall time until then, that of interrupted processes included
    devices: list[str] = field(default_factory=list)  # by name: a training may go on where there is another GPU


@dataclass
class Training:
    """A training in progress, its epochs one by one."""

    model: nn.Module  # what is trained
    generator: torch.Generator  # what draws the dropout masks: a checkpoint keeps its state
    progress: Progress  # as it is at the beginning; the weights are taken from the model
    identity: str  # which training this is, in words: the checkpoint of another one is refused
    device: str = "cpu"  # where it is trained, one of `hardware.resolve`
    checkpoint: Path | None = None  # where it is kept after every epoch, and gone on with; None for nowhere
    on_epoch: OnEpoch | None = None  # called with each point of the curve as it is made
    started: float = field(default_factory=time.perf_counter)  # when it began

    def __post_init__(self) -> None:
        self._device_name = device_name(self.device)
        self.progress.best_weights = _weights(self.model)

    def epochs(self, most: int, lowest_rate: float = 0.0) -> Iterator[int]:
        """The numbers of the epochs to train, from 1, or from the one after the checkpoint's last.

        They end after `most`, with a failure, by the trainer's own rule, or when the learning rate is below
        `lowest_rate`. Then the model has the weights of its best epoch. Raises CheckpointError where the checkpoint is
        of another training or damaged, and TimeIsUp where the deadline has passed, a checkpoint keeps what was trained,
        and another epoch would follow.
        """
        progress = self.progress
        if self.checkpoint is not None:
            load_checkpoint(self.checkpoint, self.identity, self.model, self.generator, progress)
        self.started -= progress.seconds
        is_kept = False
        while not self._has_ended(most, lowest_rate):
            if is_kept:
                demand_time()
            before = len(progress.curve)
            if self._device_name not in progress.devices:
                progress.devices.append(self._device_name)
            yield before + 1
            if self.on_epoch is not None and len(progress.curve) > before:
                self.on_epoch(progress.curve[-1])
            is_kept = self.keep()
        self.model.load_state_dict(progress.best_weights)

    def keep(self) -> bool:
        """Write down how far the training is, if there is a checkpoint: is there one?

        Called after every epoch; a trainer whose epochs take long calls it within one, and knows from its progress how
        to go on from there.
        """
        if self.checkpoint is None:
            return False
        self.progress.seconds = time.perf_counter() - self.started
        save_checkpoint(self.checkpoint, self.identity, self.model, self.generator, self.progress)
        return True

    def _has_ended(self, most: int, lowest_rate: float) -> bool:
        progress = self.progress
        is_through = len(progress.curve) >= most or progress.learning_rate < lowest_rate
        return is_through or progress.is_ended or bool(progress.reason)

    def note(self, loss: float, counts: bool = True, **measured: float) -> bool:
        """Take in an epoch's validation loss, and what else its point of the curve shall hold; is it the best so far?

        An epoch that does not count is not compared with others. A loss that is not finite makes no point: the training
        has failed, "exploded".
        """
        progress = self.progress
        if not math.isfinite(loss):
            self.fail("exploded")
            return False
        point = {"epoch": len(progress.curve) + 1, "learning_rate": progress.learning_rate}
        progress.curve.append({**point, **measured})
        improved = counts and loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_weights = loss, _weights(self.model)
        return improved

    def fail(self, reason: str) -> None:
        """Let the training have failed for this reason, unless it already has for another."""
        self.progress.reason = self.progress.reason or reason

    def outcome(self, metrics: dict[str, float]) -> Outcome:
        """What came of the training."""
        progress = self.progress
        return Outcome(
            status="failed" if progress.reason else "ok",
            reason=progress.reason,
            metrics=metrics,
            curve=progress.curve,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            device=", ".join(progress.devices) or self._device_name,
            seconds=time.perf_counter() - self.started,
        )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}
