"""A small training on images that kills itself within an epoch: python -m tests.trainers.killable_images PATH STEPS"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

from nasrepro import datasets
from nasrepro.convnet import ConvNet
from nasrepro.convnet.network import Layer
from nasrepro.trainers.images import ImageSettings, ImageStep, train

NET = ConvNet(
    (
        Layer("conv", (0,), 3, 3, filters=6),
        Layer("conv", (1,), 1, 3, filters=5),
        Layer("conv", (1, 2), 3, 2, filters=4),
    )
)
TINY = ImageSettings(epochs=4, batch=16, upsampled=10, counted_epochs=2, train_images=40, valid_images=30)
STEPS = 3
"""Steps of an epoch; the last is on 8 images."""


class DyingStep(ImageStep):
    """Steps until the process is killed instead of one."""

    left = 0

    def descend(self, chosen: Tensor) -> tuple[Tensor]:
        if DyingStep.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        DyingStep.left -= 1
        return super().descend(chosen)


if __name__ == "__main__":
    torch.set_num_threads(1)
    DyingStep.left = int(sys.argv[2])
    train.__globals__["ImageStep"] = DyingStep
    train(NET, datasets.load_images("digits"), TINY, seed=2, checkpoint=Path(sys.argv[1]))
