"""Networks as torch modules: against networks written by hand, step by step, in float64; exact zeros; drawing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

from nasrepro.convnet import ConvNet, Layer, zoo
from nasrepro.convnet.module import ContrastNorm, ImageClassifier
from nasrepro.convnet.zoo import scaled
from tests.convnet.drawn import IMAGE, by_hand, networks


def built(net, shape, seed=0, multiple=1):
    """The module in float64, its gains, shifts and running statistics moved from where they begin."""
    model = ImageClassifier(net, shape, generator=torch.Generator().manual_seed(seed), multiple=multiple).double()
    generator = torch.Generator().manual_seed(seed + 1)
    for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5, generator=generator)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(generator=generator)
    return model


def images_of(shape, count=3, seed=5):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_and_gradients(scores, weights):
    """A loss that every score moves, and its gradient by each weight."""
    loss = (scores * torch.arange(1, scores.numel() + 1, dtype=scores.dtype).reshape(scores.shape).sin()).sum()
    return loss, torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def assert_same(net, shape):
    """The module's scores and gradients are those of the network computed by hand."""
    model, images = built(net, shape), images_of(shape)
    tensors = {name: each.clone() for name, each in model.state_dict(keep_vars=True).items()}
    tensors |= dict(model.named_parameters())
    weights = list(model.parameters())
    loss, gradients = loss_and_gradients(model(images), weights)
    by_hand_loss, by_hand_gradients = loss_and_gradients(by_hand(net, tensors, images), weights)
    torch.testing.assert_close(loss, by_hand_loss, rtol=1e-10, atol=1e-10)
    for ours, other in zip(gradients, by_hand_gradients, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-7, atol=1e-9)
    model.eval()
    tensors = model.state_dict()
    torch.testing.assert_close(model(images), by_hand(net, tensors, images, training=False), rtol=1e-10, atol=1e-10)


@given(networks(most=5))
@settings(max_examples=20)
def test_value_and_gradient_are_those_of_a_network_by_hand(net):
    assert_same(net, IMAGE)


def test_figure_7_of_small_width_is_the_network_by_hand():
    assert_same(scaled(zoo["Figure 7"], 1 / 12), (3, 8, 8))


EVERYTHING = ConvNet(
    (
        Layer("conv", (0,), 4, 3, 2, 1, filters=5),
        Layer("max_pool", (0, 1), 2, 3, 2, 2),
        Layer("contrast_norm", (1, 2)),
        Layer("batch_norm", (0, 3)),
        Layer("conv", (2, 4), 1, 2, filters=6, activation="identity"),
        Layer("add", (0, 1, 5)),
    )
)


def test_every_type_of_layer_is_the_one_by_hand():
    assert_same(EVERYTHING, (3, 11, 10))


def test_a_network_written_out_in_torch():
    net = ConvNet((Layer("conv", (0,), 3, 3, 2, 2, filters=4), Layer("conv", (0, 1), 3, 5, filters=6)))
    model, images = built(net, (3, 9, 9)), images_of((3, 9, 9))
    first, second = model.layers
    one = F.relu(F.batch_norm(F.conv2d(images, first.weight, None, 2, 1), None, None, *norm_of(first), training=True))
    both = torch.cat((images, F.pad(one, (0, 4, 0, 4))), 1)  # 5 x 5 pixels below and at the right of which are zeros
    made = F.conv2d(both, second.weight, None, 1, (1, 2))
    two = F.relu(F.batch_norm(made, None, None, *norm_of(second), training=True))
    scores = F.linear(F.adaptive_avg_pool2d(two, 1).flatten(1), model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(model(images), scores)


def norm_of(layer):
    return layer.norm.weight, layer.norm.bias


# ---- maps added for the tensor cores


ROUNDED = [
    scaled(zoo["Figure 7"], 1 / 12),
    ConvNet(
        (
            Layer("conv", (0,), 3, 3, filters=5),
            Layer("max_pool", (0, 1), 2, 2, 2, 2),
            Layer("conv", (2,), 3, 3, filters=9, activation="identity"),
            Layer("conv", (1,), 3, 3, filters=3, activation="identity"),
            Layer("add", (0, 3, 4)),
            Layer("add", (1, 4, 5), activation="identity"),
            Layer("conv", (2, 5, 6), 3, 1, filters=7),
        ),
        output=(6, 7),
    ),
]


@pytest.mark.parametrize("net", ROUNDED)
def test_added_maps_change_nothing_and_stay_zero(net):
    shape = (3, 8, 8)
    model, wider = (
        ImageClassifier(net, shape, generator=torch.Generator().manual_seed(3), multiple=m).double() for m in (1, 8)
    )
    added = {}  # name -> which of the wider weights are the network's
    for (name, ours), (_, theirs) in zip(model.named_parameters(), wider.named_parameters(), strict=True):
        added[name] = theirs != 0 if ours.dim() > 1 else torch.arange(len(theirs)) < len(ours)
        assert int(added[name].sum()) == ours.numel()
    assert wider.layers[0].weight.shape[:2] == (8, 8)
    optimisers = [
        torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)
        for each in (model, wider)
    ]
    seen = []
    wider.layers[0].register_forward_hook(lambda _, __, made: seen.append(made[:, net.layers[0].filters :].abs().max()))
    for step in range(3):
        images, labels = images_of(shape, 6, seed=step), torch.arange(6)
        scores = [each(images) for each in (model, wider)]
        torch.testing.assert_close(scores[1], scores[0], rtol=1e-9, atol=1e-9)
        for optimiser, made in zip(optimisers, scores, strict=True):
            optimiser.zero_grad()
            F.cross_entropy(made, labels).backward()
        for (name, ours), (_, theirs) in zip(model.named_parameters(), wider.named_parameters(), strict=True):
            torch.testing.assert_close(theirs.grad[added[name]], ours.grad.flatten(), rtol=1e-7, atol=1e-10)
            assert not theirs.grad[~added[name]].any()
        for optimiser in optimisers:
            optimiser.step()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), wider.named_parameters(), strict=True):
        torch.testing.assert_close(theirs[added[name]], ours.flatten(), rtol=1e-7, atol=1e-10)
        assert name.endswith("norm.weight") or not theirs[~added[name]].any()
    assert seen == [0.0] * 3


def test_maps_are_not_added_where_a_layer_would_fill_them():
    model = ImageClassifier(EVERYTHING, (3, 11, 10), generator=torch.Generator().manual_seed(0), multiple=8)
    assert model.multiple == 1
    assert sum(each.numel() for each in model.parameters()) == EVERYTHING.parameters()


# ---- contrast normalisation


def test_contrast_normalisation_is_that_of_a_loop():
    maps = np.random.default_rng(0).normal(size=(2, 3, 6, 7)) + 2
    steps = np.arange(9) - 4
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.591**2))
    window /= window.sum()

    def around(values):  # (H, W): the weighted mean of all maps at each pixel, zero beyond the border
        found = np.zeros(values.shape[1:])
        for row, column in np.ndindex(found.shape):
            for i, j in np.ndindex(9, 9):
                y, x = row + i - 4, column + j - 4
                if 0 <= y < found.shape[0] and 0 <= x < found.shape[1]:
                    found[row, column] += window[i, j] * values[:, y, x].mean()
        return found

    expected = np.empty_like(maps)
    for number, image in enumerate(maps):
        centred = image - around(image)
        deviation = np.sqrt(around(centred**2))
        expected[number] = centred / np.maximum(deviation, deviation.mean())
    made = ContrastNorm().double()(torch.from_numpy(maps))
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-6)


def test_contrast_normalisation_of_an_even_image_is_finite():
    maps = torch.zeros(1, 2, 9, 9, requires_grad=True)
    ContrastNorm()(maps).sum().backward()
    assert maps.grad.isfinite().all()


# ---- drawing weights


def test_weights_are_drawn_as_the_docstring_says():
    net = ConvNet((Layer("conv", (0,), 3, 5, filters=400),))
    model = ImageClassifier(net, (30, 8, 8), generator=torch.Generator().manual_seed(0))
    weight = model.layers[0].weight
    assert weight.mean().item() == pytest.approx(0, abs=4 * weight.std().item() / math.sqrt(weight.numel()))
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 5 * 400)), rel=0.02)
    reach = model.classifier.weight.abs().max().item()
    assert reach == pytest.approx(1 / math.sqrt(400), rel=0.01)
    assert not model.classifier.bias.any()


def test_the_generator_alone_decides():
    weights = [
        torch.cat([each.flatten() for each in ImageClassifier(EVERYTHING, (3, 11, 10), generator=g).parameters()])
        for g in (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_are_drawn_from_the_generator_alone():
    before = torch.get_rng_state()
    first, again = (
        ImageClassifier(zoo["Figure 7, no skips"], generator=torch.Generator().manual_seed(1)) for _ in "ab"
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
