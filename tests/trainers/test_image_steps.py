"""Steps of training on images are torch's own SGD's, launch by launch and as CUDA graphs."""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.convnet import ConvNet
from nasrepro.convnet.network import Layer
from nasrepro.rnn.recording import Recording
from nasrepro.trainers import images
from nasrepro.trainers.images import Crops, ImageSettings, ImageStep, build
from tests.rnn.fake_gpu import CountOperators, FakeGPU, tensors_look_like_a_gpus
from tests.trainers.killable_images import NET, TINY
from tests.trainers.small_images import random_images, random_labels, same_weights, tiny_step, weights_of

# ---- an epoch


def test_an_epoch_sees_every_image_once_and_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = tiny_step(), []

    def note(chosen: Tensor) -> tuple[Tensor]:
        seen.append(chosen)
        return (chosen.double().mean(),)

    step._step = note  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    loss = step.over_all(0.1, generator)
    assert [part.shape[1] for part in seen] == [16, 16, 8]
    first = torch.cat(seen, 1)
    assert loss == pytest.approx(first.double().mean().item())  # of each image, not of each batch
    assert sorted(first[0].tolist()) == list(range(40))
    for drawn, values in zip(first[1:], (3, 3, 2), strict=True):
        assert set(drawn.tolist()) == set(range(values))
    seen.clear()
    step.over_all(0.1, generator)
    second = torch.cat(seen, 1)
    assert sorted(second[0].tolist()) == list(range(40))
    assert not torch.equal(first, second)
    step.settings = replace(TINY, flipped=False)
    assert not step.draw(generator)[3].any()


TO_ONE_PIXEL = ConvNet((Layer("conv", (), 3, 3, 8, 8, filters=3),))


@pytest.mark.parametrize(
    ("net", "count", "sizes"),
    [
        (NET, 33, [16, 16, 1]),
        (TO_ONE_PIXEL, 33, [16, 17]),
        (TO_ONE_PIXEL, 17, [17]),
        (TO_ONE_PIXEL, 34, [16, 16, 2]),
        (TO_ONE_PIXEL, 32, [16, 16]),
        (TO_ONE_PIXEL, 5, [5]),
    ],
)
def test_an_only_image_left_over_goes_with_the_batch_before_it_where_it_could_not_be_normalised(
    net: ConvNet, count: int, sizes: list[int]
) -> None:
    step = tiny_step(net, count)
    order = step.draw(torch.Generator().manual_seed(0))
    parts = step.batches(order)
    assert [part.shape[1] for part in parts] == sizes
    assert torch.equal(torch.cat(list(parts), 1), order)
    assert math.isfinite(step.over_all(0.1, torch.Generator().manual_seed(0)))


# ---- a step


class InDouble(ImageStep):
    """A step on a model in double precision."""

    def model_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.model(images.double()), labels)


DEAD_LAYER = replace(NET, layers=(*NET.layers, Layer("conv", (1,), 3, 3, filters=7)), output=(3,))


@pytest.mark.parametrize("net", [NET, DEAD_LAYER], ids=["all layers are read", "one is not"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torchs_sgd(dtype: torch.dtype, momentum: float, net: ConvNet) -> None:
    settings = replace(TINY, momentum=momentum, weight_decay=0.01)
    model = build(net, (3, 8, 8), 1, "cpu").to(dtype)
    twin = copy.deepcopy(model)
    kind = InDouble if dtype == torch.float64 else ImageStep
    step = kind(model, Crops(random_images(40), 10, "cpu"), random_labels(40), settings)
    optimiser = torch.optim.SGD(
        twin.parameters(), lr=1.0, momentum=momentum, weight_decay=0.01, nesterov=momentum > 0, foreach=False
    )
    chosen = step.draw(torch.Generator().manual_seed(5))
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-5}
    for number, batch in enumerate(chosen.split(8, 1)):
        rate = 0.125 if number < 3 else 0.03125  # numbers that float32 holds
        step.rate.fill_(rate)
        (loss,) = step.descend(batch)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        expected = F.cross_entropy(twin(step.crops.cut(*batch).to(dtype)), step.labels[batch[0]])
        expected.backward()
        optimiser.step()
        torch.testing.assert_close(loss, expected.detach(), **tolerance)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)
    assert not torch.equal(model.classifier.weight, build(net, (3, 8, 8), 1, "cpu").to(dtype).classifier.weight)


def test_a_gradient_is_laid_out_as_its_weight() -> None:
    """Sides of one pixel: torch itself says that any stride is theirs."""
    weight = torch.randn(6, 5, 1, 3).to(memory_format=torch.channels_last)
    gradient = torch.randn(6, 1, 3, 5).permute(0, 3, 1, 2).as_strided((6, 5, 1, 3), (15, 1, 99, 5))
    assert gradient.stride() != weight.stride()
    found = images._laid_out_as(weight, gradient)
    assert found.stride() == weight.stride()
    assert torch.equal(found, gradient)
    assert images._laid_out_as(weight, found) is found


# ---- steps as CUDA graphs, on a fake GPU


@contextmanager
def no_graphs() -> Iterator[None]:
    before, Recording.possible = Recording.possible, False
    try:
        yield
    finally:
        Recording.possible = before


class PlainNorm(nn.BatchNorm2d):
    """Batch normalisation by operators each of which says what it writes: torch's own for processors does not."""

    def forward(self, maps: Tensor) -> Tensor:
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
        count = maps.numel() // maps.shape[1]
        with torch.no_grad():
            self.running_mean.mul_(0.9).add_(mean, alpha=0.1)
            self.running_var.mul_(0.9).add_(variance, alpha=0.1 * count / (count - 1))
        scale = self.weight / (variance + self.eps).sqrt()
        return (maps - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


def epochs(device: str, settings: ImageSettings = TINY, plain_norms: bool = False) -> tuple[list[float], nn.Module]:
    """Losses of three epochs at falling rates, and the model after them."""
    step = tiny_step(settings=settings, device=device)
    if plain_norms:
        for module in step.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = PlainNorm
    generator = torch.Generator().manual_seed(4)
    return [step.over_all(rate, generator) for rate in (0.1, 0.05, 0.01)], step.model.cpu()


@pytest.mark.skipif(torch.__version__ < (2, 4), reason="torch's fused SGD is for GPUs alone here")
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_replayed_steps_are_those_of_the_processor(momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(TINY, momentum=momentum)
    by_the_processor, there = epochs("cpu", settings)
    tensors_look_like_a_gpus(monkeypatch)
    gpu = FakeGPU(monkeypatch)
    with no_graphs():
        expected, plain = epochs("cpu", settings, plain_norms=True)
    assert (gpu.captured, gpu.replayed) == (0, 0)
    found, model = epochs("cpu", settings, plain_norms=True)
    # An epoch is two batches of 16 and one of 8. Of either kind the first call runs launch by launch, the second is
    # recorded.
    assert (gpu.captured, gpu.replayed) == (2, 4 + 1)
    assert found == expected
    assert same_weights(weights_of(model), weights_of(plain))
    assert found == pytest.approx(by_the_processor, rel=1e-4)
    for ours, theirs in zip(model.parameters(), there.parameters(), strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


@pytest.mark.skipif(torch.__version__ < (2, 4), reason="torch's fused SGD is for GPUs alone here")
def test_python_waits_for_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors_look_like_a_gpus(monkeypatch)
    step = tiny_step()
    with CountOperators() as counted:
        step.descend(step.draw(torch.Generator())[:, :16])
    assert counted.work > 0
    assert counted.waits == 0


# ---- on a GPU


@pytest.fixture
def _full_float32() -> Iterator[None]:
    """Convolutions and products that round nothing to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
@pytest.mark.usefixtures("_full_float32")
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_on_a_gpu_steps_with_and_without_graphs_are_those_of_the_processor(momentum: float) -> None:
    settings = replace(TINY, momentum=momentum)
    expected, there = epochs("cpu", settings)
    with no_graphs():
        launched, _ = epochs("cuda", settings)
    replayed, here = epochs("cuda", settings)
    assert launched == pytest.approx(expected, rel=1e-3)
    assert replayed == pytest.approx(expected, rel=1e-3)
    # On a GPU maps are added up to a multiple of 8, which stay zero.
    ours, theirs = (sum(each.square().sum().item() for each in model.parameters()) for model in (here, there))
    assert ours == pytest.approx(theirs, rel=0.2)


@pytest.mark.gpu
def test_on_a_gpu_a_step_waits_for_nothing() -> None:
    step = tiny_step(device="cuda")
    chosen = step.draw(torch.Generator())[:, :16].cuda().contiguous()
    try:
        with warnings.catch_warnings():  # torch says once that this mode is a prototype
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        for _ in range(4):  # launch by launch, recorded, replayed
            step._step(chosen)
    finally:
        torch.cuda.set_sync_debug_mode("default")
