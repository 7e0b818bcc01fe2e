"""How large ZL17's convolutional half is (section 4.1): everything that a run scales down is here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nasrepro.trainers.images import ImageSettings, ImageTask

COMPARED = ("Figure 7", "Figure 7, no skips", "Figure 7, all skips")
"""The network that ZL17 found and its two controls, by their names in the zoo."""


def row(name: str, seed: int) -> str:
    """What a record calls the row for which it reads the test split."""
    return f"ZL17 section 4.1: {name}, seed {seed}"


@dataclass(frozen=True)
class ConvNetSizes:
    """How large a run is."""

    task: ImageTask
    """What the networks of Table 1 are trained by."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each network."""


_DIGITS = ImageTask("digits", training=ImageSettings(epochs=20, upsampled=10, flipped=False))
_SMOKE = replace(_DIGITS, training=replace(_DIGITS.training, epochs=1, train_images=64, valid_images=50))
# DenseNet's 300 epochs with its schedule; the paper says only that the best networks are trained "until convergence".
_PAPER = ImageTask("cifar10", training=ImageSettings(epochs=300))
# A third of DenseNet's epochs: 14 minutes of an H200, on which Figure 7's network takes 7.5 seconds an epoch.
_NIGHT = replace(_PAPER, training=replace(_PAPER.training, epochs=110, precision="bfloat16"))

SIZES: Mapping[str, ConvNetSizes] = {
    "smoke": ConvNetSizes(task=_SMOKE, seeds=(1,)),
    "quick": ConvNetSizes(task=_DIGITS, seeds=(1,)),
    "course": ConvNetSizes(task=_DIGITS),
    "night": ConvNetSizes(task=_NIGHT, seeds=(1,)),
    "paper": ConvNetSizes(task=_PAPER),
}
