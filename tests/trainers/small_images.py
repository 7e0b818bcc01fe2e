"""Small images, and steps and trainings on them, for tests of the trainer of images."""

import torch
from torch import Tensor, nn

from nasrepro.convnet import ConvNet
from nasrepro.trainers.images import Crops, ImageSettings, ImageStep, ImageTask, build
from tests.trainers.killable_images import NET, TINY

TASK = ImageTask(training=TINY)


def random_images(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def random_labels(count: int) -> Tensor:
    return torch.randint(10, (count,), generator=torch.Generator().manual_seed(8))


def tiny_step(net: ConvNet = NET, count: int = 40, settings: ImageSettings = TINY, device: str = "cpu") -> ImageStep:
    """A step on random images in colour, of 8 x 8 pixels."""
    crops = Crops(random_images(count), settings.upsampled, device)
    return ImageStep(build(net, (3, 8, 8), 1, device), crops, random_labels(count).to(device), settings)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
