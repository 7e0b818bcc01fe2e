"""Training a convolutional network to tell images apart: how ZL17 judges a description (sections 4.1 and 3.3).

The whole training set lives on the device as bytes, and a batch is cut out of it there: no image is read, decoded or
moved during training. On a GPU a step is replayed as one CUDA graph.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from nasrepro import datasets
from nasrepro.convnet import ConvNet, ConvNetError, parse
from nasrepro.convnet.memory import evaluation_bytes, training_bytes
from nasrepro.convnet.module import ImageClassifier
from nasrepro.convnet.network import ADD, BATCH_NORM, CONV, Shape
from nasrepro.datasets import ImageSet
from nasrepro.hardware import resolve
from nasrepro.rnn.recording import RecordedFunction
from nasrepro.settings import without_unused
from nasrepro.trainers.checkpoint import training_checkpoint
from nasrepro.trainers.outcome import OUT_OF_MEMORY, Loss, NotebookTask, OnEpoch, Outcome
from nasrepro.trainers.progress import Progress, Training
from nasrepro.trainers.room import NoRoomError, demand_room
from nasrepro.trainers.settings import counted, origin, require_counts, use_declared_types

VERSION = 1
"""Raised whenever a change here changes a number."""

ERROR = Loss("valid_error", "validation error in percent")

_EVALUATED = 500  # images at a time where nothing is learned; changes no number but by rounding
_BAR_AFTER = 3.0  # seconds after which an epoch shows how far it is


@dataclass(frozen=True)
class ImageSettings:
    """How a network is trained; the defaults are ZL17's for the network of a search (section 4.1)."""

    epochs: int = field(default=50, metadata=origin("stated", "4.1", paper="ZL17"))
    """Passes over the training images."""
    batch: int = field(default=64, metadata=origin("inferred", "4.1", "as DenseNet's", paper="ZL17"))
    """Images in a step."""
    learning_rate: float = field(default=0.1, metadata=origin("stated", "4.1", paper="ZL17"))
    """Of the first epochs, for a network that does not say its own."""
    momentum: float = field(default=0.9, metadata=origin("stated", "4.1", "Nesterov's", paper="ZL17"))
    """The share of its past that a step keeps."""
    weight_decay: float = field(default=1e-4, metadata=origin("stated", "4.1", paper="ZL17"))
    """The share of each weight that is added to its gradient."""
    first_drop: float = field(default=0.5, metadata=origin("inferred", "4.1", "as DenseNet's", paper="ZL17"))
    """The share of the epochs after which the learning rate is divided by `drop`."""
    second_drop: float = field(default=0.75, metadata=origin("inferred", "4.1", "as DenseNet's", paper="ZL17"))
    """The share after which it is divided again."""
    drop: float = field(default=10.0, metadata=origin("inferred", "4.1", "as DenseNet's", paper="ZL17"))
    """What the learning rate is divided by, both times."""
    upsampled: int = field(
        default=36, metadata=origin("guessed", "4.1", "the size that images are upsampled to", paper="ZL17")
    )
    """Side in pixels that training images are upsampled to, bilinearly, before crops of their own size are cut."""
    flipped: bool = field(default=True, metadata=origin("stated", "4.1", paper="ZL17"))
    """Whether half of all crops are mirrored, left to right."""
    evaluated_on: Literal["image", "crop", "whole"] = field(
        default="crop", metadata=origin("guessed", "4.1", "what a trained network is shown", paper="ZL17")
    )
    """The image as it is, the middle of the upsampled image, or all of the upsampled image."""
    counted_epochs: int = field(default=5, metadata=origin("stated", "4.1", paper="ZL17"))
    """The last epochs, of which the best counts."""
    train_images: int | None = None
    """Use only the first so many training images. None: all of them, as the paper."""
    valid_images: int | None = None
    """Use only the first so many validation images. None: all of them, as the paper."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """"bfloat16" rounds what enters convolutions, as tensor cores want it. Ours."""
    compiled: bool = field(default=False, repr=False)
    """Let torch.compile make kernels for the network: some seconds to minutes before the first step, faster steps after
    it, and the same numbers but for rounding. Needs a C compiler. Ours."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        require_counts(self, "epochs", "batch", "upsampled", "counted_epochs", "train_images", "valid_images")
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0 and self.learning_rate >= 0 and self.drop > 0):
            raise ValueError(
                f"momentum={self.momentum} is at least 0 and below 1, learning_rate={self.learning_rate} and "
                f"weight_decay={self.weight_decay} are not negative, and drop={self.drop} is positive"
            )
        for name, known in (("precision", ("float32", "bfloat16")), ("evaluated_on", ("image", "crop", "whole"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r:.100}")

    def rate(self, epoch: int, first: float) -> float:
        """The learning rate of an epoch, counted from 1, where that of the first is `first`."""
        drops = sum(epoch > share * self.epochs for share in (self.first_drop, self.second_drop))
        return first / self.drop**drops


class Crops:
    """Images (N, C, H, W) as bytes on the device, upsampled to `side` x `side`, whitened as they are cut.

    Each image's own mean is taken from it, and the rest divided by its standard deviation, as TensorFlow's "per image
    whitening" did at the time (section 4.1: "whitening all the images"; that it is this one is guessed). Raises
    ValueError where `side` is less than the images'.
    """

    def __init__(self, images: Tensor, side: int, device: str) -> None:
        self.height, self.width = images.shape[2:]
        if side < max(self.height, self.width):
            raise ValueError(f"upsampled={side} is less than the {self.height} x {self.width} pixels of the images")
        pixels = images.to(device)
        means, deviations = [], []
        larger = torch.empty(len(images), side, side, images.shape[1], dtype=torch.uint8, device=device)
        for start in range(0, len(images), _EVALUATED):
            some = pixels[start : start + _EVALUATED].float()  # (n, C, H, W)
            means.append(some.mean((1, 2, 3), keepdim=True))
            deviations.append(some.std((1, 2, 3), keepdim=True, correction=0))
            up = some if some.shape[2:] == (side, side) else F.interpolate(some, (side, side), mode="bilinear")
            larger[start : start + _EVALUATED] = up.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        self.pixels = larger  # (N, side, side, C)
        self.mean = torch.cat(means)  # (N, 1, 1, 1)
        self.scale = 1 / torch.cat(deviations).clamp(min=1 / math.sqrt(images[0].numel()))
        self.down = torch.arange(self.height, device=device)
        self.across = torch.arange(self.width, device=device)

    def cut(self, rows: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """The images of these numbers, from these pixels on: four tensors (B,) -> (B, C, H, W), channels last."""
        across = torch.where(mirrored[:, None] > 0, self.width - 1 - self.across, self.across)  # (B, W)
        down = top[:, None] + self.down  # (B, H)
        found = self.pixels[rows[:, None, None], down[:, :, None], (left[:, None] + across)[:, None, :]]  # (B, H, W, C)
        return (found.permute(0, 3, 1, 2).float() - self.mean[rows]) * self.scale[rows]

    def shown(self, start: int, stop: int, on: str) -> Tensor:
        """Images from `start` to `stop`, whitened, as a network that is evaluated on the "crop" or the "whole" sees
        them: (n, C, H, W)."""
        found = self.pixels[start:stop].permute(0, 3, 1, 2).float()
        if on == "crop":
            top, left = (found.shape[2] - self.height) // 2, (found.shape[3] - self.width) // 2
            found = found[:, :, top : top + self.height, left : left + self.width]
        return (found - self.mean[start:stop]) * self.scale[start:stop]


class ImageStep:
    """A step of Nesterov's momentum on a batch of crops; on a GPU replayed as a CUDA graph.

    Raises ConvNetError where batches are of one image and a layer normalises maps of one pixel.
    """

    def __init__(self, model: ImageClassifier, crops: Crops, labels: Tensor, settings: ImageSettings) -> None:
        self.model, self.crops, self.labels, self.settings = model, crops, labels, settings
        self._of_one_pixel = _of_one_pixel(model.network, (crops.pixels.shape[3], crops.height, crops.width))
        if self._of_one_pixel and min(settings.batch, len(labels)) == 1:
            raise ConvNetError(
                f"layer_{self._of_one_pixel} normalises maps of one pixel, which takes batches of 2 images or more",
                layer=self._of_one_pixel,
            )
        self.weights: list[Tensor] = list(model.parameters())
        self.momentum = [torch.zeros_like(each) for each in self.weights]
        self.rate = torch.zeros((), device=labels.device)
        self.loss = torch.zeros((), dtype=torch.float64, device=labels.device)
        self._step = RecordedFunction(self.descend)

    def descend(self, chosen: Tensor) -> tuple[Tensor]:
        """chosen (4, B): numbers of images, top and left pixel of their crops, mirrored or not -> the mean loss ()."""
        for weight in self.weights:
            weight.grad = None
        loss = self.model_loss(self.crops.cut(*chosen), self.labels[chosen[0]])
        loss.backward()
        self._descend_gradient()
        return (loss.detach(),)

    def model_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of images (B, C, H, W) and their labels (B,), in nats: ()."""
        with rounded(self.settings.precision, images.device):
            scores = self.model(images)
        return F.cross_entropy(scores.float(), labels)

    @torch.no_grad()
    def _descend_gradient(self) -> None:
        """Nesterov's step as torch.optim.SGD takes it: v = m v + g, w -= rate (g + m v), g with the weights' decay."""
        weights, gradients, moments = [], [], []
        for weight, moment in zip(self.weights, self.momentum, strict=True):
            if weight.grad is not None:  # nothing reads a layer whose weights have none
                weights.append(weight)
                gradients.append(_laid_out_as(weight, weight.grad))
                moments.append(moment)
        decay, momentum = self.settings.weight_decay, self.settings.momentum
        if self.rate.is_cuda:
            how: Any = {"weight_decay": decay, "momentum": momentum, "dampening": 0.0, "nesterov": True}
            kept = moments if momentum else []  # the kernel refuses to keep what it does not need
            torch._fused_sgd_(weights, gradients, kept, lr=self.rate, maximize=False, is_first_step=False, **how)
            return
        torch._foreach_add_(gradients, weights, alpha=decay)
        torch._foreach_mul_(moments, momentum)
        torch._foreach_add_(moments, gradients)
        torch._foreach_add_(gradients, moments, alpha=momentum)
        torch._foreach_add_(weights, gradients, alpha=-self.rate.item())

    def over_all(self, rate: float, generator: torch.Generator, words: str = "") -> float:
        """A step on every batch of an epoch, in a new order: the mean loss of an image in nats, perhaps not finite.

        An epoch of more than a few seconds shows a bar, which `words` stand before.
        """
        self.model.train()
        self.rate.fill_(rate)
        self.loss.zero_()
        order = self.draw(generator).to(self.labels.device)  # (4, N)
        with _bar(words, order.shape[1]) as bar:
            for number, chosen in enumerate(self.batches(order), 1):
                (loss,) = self._step(chosen.contiguous())
                self.loss += loss.double() * chosen.shape[1]
                bar.update(chosen.shape[1])
                if number % 100 == 0 and not math.isfinite(self.loss.item()):
                    break
        return self.loss.item() / order.shape[1]

    def batches(self, order: Tensor) -> Sequence[Tensor]:
        """The batches of an epoch: (4, N) -> some of (4, B), the last one of the images that are left over.

        An only image that is left over goes with the batch before it, if there are maps of one pixel: a single number
        has no deviation to be normalised by.
        """
        parts = order.split(self.settings.batch, 1)
        if self._of_one_pixel and parts[-1].shape[1] == 1:
            parts = (*parts[:-2], torch.cat(parts[-2:], 1))
        return parts

    def draw(self, generator: torch.Generator) -> Tensor:
        """What an epoch cuts out of the images, on the processor: numbers, top, left, mirrored (4, N)."""
        count, side = len(self.labels), self.crops.pixels.shape[1]
        order = torch.randperm(count, generator=generator)
        top = torch.randint(side - self.crops.height + 1, (count,), generator=generator)
        left = torch.randint(side - self.crops.width + 1, (count,), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator) * int(self.settings.flipped)
        return torch.stack((order, top, left, mirrored))


def _of_one_pixel(net: ConvNet, shape: Shape) -> int:
    """The first layer that normalises maps of one pixel each, by its number; 0 where there is none."""
    shapes = net.shapes(*shape)
    normalising = [number for number, each in enumerate(net.layers, 1) if each.type in (CONV, BATCH_NORM)]
    return next((number for number in normalising if shapes[number][1:] == (1, 1)), 0)


def _laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, its numbers in the order of the weight's: before torch 2.6 the fused step on a GPU asks for equal
    strides, and those of a side of one pixel are anything."""
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)


def _bar(words: str, images: int) -> "tqdm[Any]":
    """A bar that counts images, if they take long; none in the processes of a search, which has a bar of its own."""
    is_worker = parent_process() is not None
    return tqdm(total=images, desc=words, unit="image", delay=_BAR_AFTER, leave=False, disable=is_worker)


def rounded(precision: str, device: torch.device) -> Any:
    """A context in which convolutions round what enters them to a precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


@dataclass
class ImageProgress(Progress):
    """Where the training of a network stands: what a step remembers, too."""

    momentum: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def evaluate(model: ImageClassifier, crops: Crops, labels: Tensor, settings: ImageSettings) -> tuple[float, float]:
    """The error in percent and the mean loss in nats on images and their labels (N,)."""
    model.eval()
    wrong = torch.zeros((), dtype=torch.float64, device=labels.device)
    loss = torch.zeros_like(wrong)
    for start in range(0, len(labels), _EVALUATED):
        images = crops.shown(start, start + _EVALUATED, settings.evaluated_on)
        with rounded(settings.precision, labels.device):
            scores = model(images).float()  # (n, classes)
        told = labels[start : start + _EVALUATED]
        wrong += (scores.argmax(1) != told).sum()
        loss += F.cross_entropy(scores, told, reduction="sum").double()
    return 100 * wrong.item() / len(labels), loss.item() / len(labels)


def shown_crops(images: Tensor, settings: ImageSettings, device: str) -> Crops:
    """Images (N, C, H, W) as a trained network is shown them."""
    return Crops(images, images.shape[2] if settings.evaluated_on == "image" else settings.upsampled, device)


def needed_bytes(net: ConvNet, images: ImageSet, settings: ImageSettings, device: str) -> int:
    """Memory on the device that `train` takes, by an estimate: its images, and a step or an evaluation.

    Raises ConvNetError where the images are too small for the network.
    """
    channels, height, width = images.train.shape[1:]
    train, valid = len(images.train[: settings.train_images]), len(images.valid[: settings.valid_images])
    are_rounded = {each.type for each in net.layers} <= {CONV, ADD}  # what other types hand on may not be
    how: Any = {"precision": settings.precision if are_rounded else "float32", "multiple": _multiple(device)}
    side = settings.upsampled
    shown = (side, side) if settings.evaluated_on == "whole" else (height, width)
    step = training_bytes(net, (channels, height, width), min(settings.batch, train), **how)
    shows = evaluation_bytes(net, (channels, *shown), min(_EVALUATED, valid), **how)
    return (train + valid) * channels * side**2 + max(step, shows)


def _multiple(device: str) -> int:
    """What the number of a convolution's maps is rounded up to."""
    return 8 if device.startswith("cuda") else 1


def build(net: ConvNet, shape: Shape, seed: int, device: str) -> ImageClassifier:
    """The module for images of a shape (C, H, W), on the device, its weights drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    model = ImageClassifier(net, shape, generator=generator, multiple=_multiple(device))
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train(
    net: ConvNet,
    images: ImageSet,
    settings: ImageSettings | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    memory_gb: float | None = None,
) -> tuple[Outcome, ImageClassifier]:
    """Train a network; the outcome, and the model with the weights of the best of its last epochs.

    The outcome's metrics: `valid_error`, the least of the last `counted_epochs` epochs, in percent. It has failed when
    the loss is no longer finite ("exploded"). With a `checkpoint` path, training that was interrupted goes on after its
    last whole epoch to the same numbers. Weights, the order of images and their crops are drawn on the processor and
    are the same on every device.

    Raises ConvNetError where the images are too small for the network, ValueError where there are fewer classes than
    labels or `upsampled` is less than the images' side, CheckpointError for a checkpoint of another training,
    DeviceError for a device that is not here; and what `room.demand_room` does where the training takes more memory,
    by an estimate, than the device has, or than `memory_gb`.
    """
    settings, device = settings or ImageSettings(), resolve(device)
    if net.classes < len(images.classes):
        raise ValueError(f"the network tells {net.classes} classes apart, and {images.name} has {len(images.classes)}")
    started = time.perf_counter()
    channels, height, width = images.train.shape[1:]
    demand_room(needed_bytes(net, images, settings, device), device, memory_gb)
    model = build(net, (channels, height, width), seed, device)
    if settings.compiled:
        model.compile(dynamic=False)  # the batches of a training have few sizes
    order = torch.Generator().manual_seed(seed)
    crops = Crops(images.train[: settings.train_images], settings.upsampled, device)
    labels = images.train_labels[: settings.train_images].to(device)
    valid = shown_crops(images.valid[: settings.valid_images], settings, device)
    valid_labels = images.valid_labels[: settings.valid_images].to(device)

    step = ImageStep(model, crops, labels, settings)
    first_rate = settings.learning_rate if net.learning_rate is None else net.learning_rate
    progress = ImageProgress(first_rate, momentum=step.momentum)
    compiled = ", compiled" if settings.compiled else ""
    identity = f"network {net.hash}, {settings}{compiled}, seed {seed}, data {images.hash}"
    training = Training(model, order, progress, identity, device, checkpoint, on_epoch, started)
    with _fastest_convolutions():
        for epoch in training.epochs(settings.epochs):
            for kept, now in zip(step.momentum, progress.momentum, strict=True):
                kept.copy_(now)  # those of a checkpoint; otherwise they are the same
            progress.momentum = step.momentum
            progress.learning_rate = settings.rate(epoch, first_rate)
            train_loss = step.over_all(progress.learning_rate, order, f"epoch {epoch} of {settings.epochs}")
            error = loss = math.inf
            if math.isfinite(train_loss):
                error, loss = evaluate(model, valid, valid_labels, settings)
            if not math.isfinite(loss):  # of scores that are no numbers one is the largest all the same
                error = math.inf
            counts = epoch > settings.epochs - settings.counted_epochs
            training.note(error, counts=counts, train_loss=train_loss, valid_loss=loss, valid_error=error)
    metrics = {"valid_error": progress.best_loss} if math.isfinite(progress.best_loss) else {}
    # Not the module's own count: on a GPU it holds the maps that are added, too.
    return replace(training.outcome(metrics), parameters=net.parameters(channels)), model


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN time its ways to convolve the first time that it sees a size, and take the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@lru_cache(maxsize=4)
def _images(name: str, side: int | None) -> ImageSet:
    return datasets.load_images(name, side)


@dataclass(frozen=True)
class ImageTask(NotebookTask[ConvNet]):
    """Judging networks by how well they tell the images of one data set apart. Pickles by its settings alone.

    A network that would take more than `memory_gb`, in GB of 2**30 bytes, has failed; None for what the device has.
    """

    images: str = "digits"
    side: int | None = None
    training: ImageSettings = field(default_factory=ImageSettings)
    device: str = "auto"
    checkpoints: str | None = None
    memory_gb: float | None = None

    name = "image classification"
    version = VERSION
    loss = ERROR

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> "ImageTask":
        """The task whose `settings` these are, such as a record holds them."""
        chosen = dict(settings)
        return cls(chosen.pop("corpus"), chosen.pop("side"), training=ImageSettings(**chosen))

    @property
    def corpus(self) -> ImageSet:
        """The images, loaded when first asked for."""
        return _images(self.images, self.side)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides an outcome but network, seed, data and trainer version; the device is not among it."""
        return {"corpus": self.images, "side": self.side, **without_unused(self.training, "compiled")}

    @property
    def is_long(self) -> bool:
        """Whether one training may take hours, so that checkpoints are worth their writing."""
        return self.training.epochs > 20

    @property
    def data_words(self) -> str:
        """The data in the words of the papers' entries, such as "cifar10"."""
        return self.images

    def words(self) -> str:
        """How a network is trained, for captions and budgets: "50 epochs over all images of cifar10"."""
        chosen = self.training
        size = "" if self.side is None else f" at {self.side} x {self.side}"
        return f"{counted(chosen.epochs, 'epoch')} over {counted(chosen.train_images, 'image')} of {self.images}{size}"

    def read(self, text: str) -> ConvNet:
        """The network that a text says. Raises ConvNetError where it says none."""
        return parse(text)

    def train(self, net: ConvNet, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Outcome, ImageClassifier]:
        """What `evaluate` does, and the model that came of it."""
        device = resolve(self.device)
        identity = (net, seed, self.settings, self.data_hash, self.version)
        with training_checkpoint(self.checkpoints, device, *identity) as path:
            how: Any = {"on_epoch": on_epoch, "checkpoint": path, "memory_gb": self.memory_gb}
            return train(net, self.corpus, self.training, seed, device=device, **how)

    def evaluate(self, net: ConvNet, seed: int, on_epoch: OnEpoch | None = None) -> Outcome:
        """What `train` says of it. A network that images of this size do not fit has failed, and so has one for which
        the device is too small: neither is trained."""
        try:
            return super().evaluate(net, seed, on_epoch)
        except ConvNetError as error:
            return Outcome("failed", reason=f"does not fit: {error.problem}")
        except NoRoomError as error:
            return Outcome("failed", reason=f"{OUT_OF_MEMORY}: {error}")

    def test(self, model: ImageClassifier, split: tuple[Tensor, Tensor]) -> dict[str, float]:
        """`test_error`, in percent, on the images and labels of a test split."""
        images, labels = split
        device = str(model.classifier.weight.device)
        error, loss = evaluate(model, shown_crops(images, self.training, device), labels.to(device), self.training)
        return {"test_error": error, "test_loss": loss}
