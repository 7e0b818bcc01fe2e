"""Epochs of training on images, ours and as torch's tutorials write them: the same network, crops and optimiser."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from nasrepro.convnet import ConvNet
from nasrepro.trainers.images import Crops, ImageSettings, ImageStep, build

Epoch = Callable[[], float]
"""Trains on every image once: the mean loss of an image in nats."""


def noise(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, size, size) of random bytes, and random labels of ten classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(10, (count,), generator=generator)


def our_epoch(net: ConvNet, images: Tensor, labels: Tensor, settings: ImageSettings, device: str) -> Epoch:
    """As `nasrepro.trainers.images` trains. A learning rate of 0 does all the work, and no network drifts meanwhile."""
    model = build(net, tuple(images.shape[1:]), seed=0, device=device)
    step = ImageStep(model, Crops(images, settings.upsampled, device), labels.to(device), settings)
    order = torch.Generator().manual_seed(0)
    return lambda: step.over_all(0.0, order)


def plain_epoch(
    net: ConvNet, images: Tensor, labels: Tensor, settings: ImageSettings, device: str, workers: int
) -> Epoch:
    """By torch's own modules, torch.optim.SGD, and a DataLoader that cuts images one by one in so many processes."""
    model = PlainConvNet(net).to(device)
    loader = DataLoader(
        CutOneByOne(images, labels, settings.upsampled),
        settings.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
    )
    momentum, decay = settings.momentum, settings.weight_decay
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0, momentum=momentum, weight_decay=decay, nesterov=True)

    def rounded() -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16, enabled=settings.precision == "bfloat16")

    def epoch() -> float:
        total = torch.zeros((), device=device)
        for some, told in loader:
            batch, classes = some.to(device, non_blocking=True), told.to(device, non_blocking=True)
            optimiser.zero_grad()
            with rounded():
                loss = F.cross_entropy(model(batch), classes)
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(classes)
        return total.item() / len(images)

    return epoch


class CutOneByOne(Dataset[tuple[Tensor, Tensor]]):
    """Images, each upsampled, cut, mirrored and whitened when it is asked for, as torchvision's transforms do."""

    def __init__(self, images: Tensor, labels: Tensor, side: int) -> None:
        self.images, self.labels, self.side = images, labels, side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """An image (C, H, W) and its label ()."""
        image = self.images[number].float()  # (C, H, W)
        high, wide = image.shape[1:]
        large = F.interpolate(image[None], (self.side, self.side), mode="bilinear")[0]
        top = int(torch.randint(self.side - high + 1, ()))
        left = int(torch.randint(self.side - wide + 1, ()))
        crop = large[:, top : top + high, left : left + wide]
        if torch.rand(()) < 0.5:
            crop = crop.flip(2)
        return (crop - image.mean()) / image.std(correction=0), self.labels[number]


class PlainConvNet(nn.Module):
    """A network of convolutions without strides, with filters of odd size, from torch's own modules."""

    def __init__(self, net: ConvNet, channels: int = 3) -> None:
        super().__init__()
        self.connections, self.read = net.connections, net.read_by_classifier
        depths, layers = [channels], []
        for layer, inputs in zip(net.layers, net.connections, strict=True):
            size = (layer.filter_height, layer.filter_width)
            padding = (size[0] // 2, size[1] // 2)
            read = sum(depths[number] for number in inputs)
            convolution = nn.Conv2d(read, layer.filters, size, padding=padding, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(layer.filters), nn.ReLU()))
            depths.append(layer.filters)
        self.layers = nn.ModuleList(layers)
        self.classifier = nn.Linear(sum(depths[number] for number in self.read), net.classes)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> a score for each class (B, classes)."""
        maps = [images]
        for layer, inputs in zip(self.layers, self.connections, strict=True):
            maps.append(layer(torch.cat([maps[number] for number in inputs], 1)))
        return self.classifier(torch.cat([maps[number] for number in self.read], 1).mean((2, 3)))
