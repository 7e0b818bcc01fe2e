"""The estimate of memory against the bytes of all tensors that a training step holds at a time."""

import random

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nasrepro.convnet import ConvNet, ConvNetError, Layer, zoo
from nasrepro.convnet.memory import evaluation_bytes, training_bytes
from nasrepro.convnet.module import ImageClassifier
from nasrepro.convnet.zoo import blocks, scaled

SHAPE = (3, 16, 16)


class Tracked(TorchDispatchMode):
    """The most bytes that live at a time in the storages of these tensors and of all that operations make."""

    def __init__(self, before):
        super().__init__()
        self.live, self.peak = {}, 0
        for tensor in before:
            self.note(tensor)

    def note(self, tensor):
        storage = tensor.untyped_storage()
        self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.live = {key: each for key, each in self.live.items() if not each[0].expired()}
        made = func(*args, **(kwargs or {}))
        for each in tree_iter(made):
            if isinstance(each, torch.Tensor):
                self.note(each)
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return made


def measured(net, shape, batch, precision="float32", multiple=1):
    """Bytes at the peak of a step: weights, momentum, images, all that the two passes hold."""
    model = ImageClassifier(net, shape, generator=torch.Generator().manual_seed(0), multiple=multiple)
    weights = list(model.parameters())
    momentum = [torch.zeros_like(each) for each in weights]
    images, labels = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1)), torch.zeros(batch).long()
    with Tracked([*weights, *momentum, images]) as tracked:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            scores = model(images)
        F.cross_entropy(scores.float(), labels).backward()
    return tracked.peak


def drawn(seed):
    """A network of ZL17's choices (section 4.1) for images of 16 x 16, with some of section 3.4's types of layer."""
    draw = random.Random(seed)
    types = draw.choice([["conv"], ["conv"] * 3 + ["max_pool"], ["conv", "batch_norm", "contrast_norm", "max_pool"]])
    share, has_strides = draw.random(), draw.random() < 0.4
    layers = []
    for number in range(1, draw.randint(3, 10)):
        kind = draw.choice(types) if number > 1 else "conv"
        inputs = tuple(i for i in range(1, number) if draw.random() < share)
        window = tuple(draw.choice([1, 3, 5, 7]) for _ in range(2))
        stride = tuple(draw.choice([1, 1, 2]) if has_strides else 1 for _ in range(2))
        layer = Layer("conv", inputs, *window, *stride, filters=draw.choice([24, 36, 48, 64]))
        if kind == "max_pool":
            layer = Layer(kind, inputs, 2, 2, 2, 2)
        elif kind != "conv":
            layer = Layer(kind, inputs)
        try:
            ConvNet((*layers, layer)).shapes(*SHAPE)
        except ConvNetError:
            layer = Layer("conv", inputs, filters=24)
        layers.append(layer)
    return ConvNet(tuple(layers))


@pytest.mark.parametrize("seed", range(20))
def test_the_estimate_is_within_a_quarter_of_the_truth(seed):
    net, batch = drawn(seed), [2, 8, 16][seed % 3]
    assert training_bytes(net, SHAPE, batch) == pytest.approx(measured(net, SHAPE, batch), rel=0.25)


@pytest.mark.parametrize("seed", range(5))
def test_rounded_convolutions_take_less(seed):
    net = drawn(seed)
    truth = measured(net, SHAPE, 8, "bfloat16")
    assert training_bytes(net, SHAPE, 8, precision="bfloat16") == pytest.approx(truth, rel=0.25)
    assert truth < measured(net, SHAPE, 8)


THIRTEEN = ConvNet(tuple(Layer("conv", (n,), 3, 3, filters=6) for n in range(13)))


@pytest.mark.parametrize(
    "net", [*(scaled(each, 0.25) for each in zoo.values()), blocks(THIRTEEN)], ids=[*zoo, "blocks with pools"]
)
def test_the_estimate_of_known_networks(net):
    for multiple in (1, 8):
        truth = measured(net, SHAPE, 4, multiple=multiple)
        assert training_bytes(net, SHAPE, 4, multiple=multiple) == pytest.approx(truth, rel=0.25)


def test_what_takes_memory():
    net = zoo["Figure 7"]
    few, more, most = (training_bytes(net, batch=batch) for batch in (64, 96, 128))
    assert most - more == more - few  # so much an image
    assert training_bytes(net, batch=1) > 2 * 4 * net.parameters()
    assert training_bytes(net, (3, 64, 32), 4) > 1.9 * training_bytes(net, (3, 32, 32), 4) - 4 * 3 * net.parameters()
    with pytest.raises(ConvNetError):
        training_bytes(net, (3, 4, 4))
    with pytest.raises(KeyError):
        training_bytes(net, precision="float8")


# ---- between steps


def measured_without_learning(net, shape, batch, precision="float32", multiple=1):
    """Bytes at the peak of showing images, beside weights, momentum and gradients."""
    model = ImageClassifier(net, shape, generator=torch.Generator().manual_seed(0), multiple=multiple).eval()
    weights = list(model.parameters())
    others = [torch.zeros_like(each) for each in weights * 2]
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)
    with torch.no_grad(), Tracked([*weights, *others, images]) as tracked, autocast:
        model(images)
    return tracked.peak


@pytest.mark.parametrize("seed", range(20))
def test_what_an_evaluation_takes_is_within_a_quarter_of_the_truth(seed):
    net, batch = drawn(seed), [2, 8, 16][seed % 3]
    truth = measured_without_learning(net, SHAPE, batch)
    assert evaluation_bytes(net, SHAPE, batch) == pytest.approx(truth, rel=0.25)


@pytest.mark.parametrize("name", ["Figure 7", "Figure 7, no skips", "Figure 7, all skips", "ResNet, 20 layers"])
def test_an_evaluation_of_known_networks(name):
    net = scaled(zoo[name], 0.25)
    for precision in ("float32", "bfloat16"):
        for multiple in (1, 8):
            truth = measured_without_learning(net, SHAPE, 4, precision, multiple)
            found = evaluation_bytes(net, SHAPE, 4, precision=precision, multiple=multiple)
            assert found == pytest.approx(truth, rel=0.25)


def test_rounding_never_takes_more_than_is_asked_for_without_it():
    """The bound for networks of other types than convolutions and additions."""
    for seed in range(20):
        net = drawn(seed)
        assert measured(net, SHAPE, 8, "bfloat16") < 1.25 * training_bytes(net, SHAPE, 8)
        assert measured_without_learning(net, SHAPE, 8, "bfloat16") < 1.25 * evaluation_bytes(net, SHAPE, 8)
