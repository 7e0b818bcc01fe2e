"""Random networks for property tests, and what they compute by a second route: torch's functions, one by one."""

import math

import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from nasrepro.convnet import ConvNet, Layer

IMAGE = (2, 9, 8)
"""Channels, height and width of the images that `networks` fit."""

ORDERED = ("conv", "add")


@st.composite
def networks(draw, most=6, types=("conv", "conv", "conv", "max_pool", "batch_norm", "contrast_norm", "add")):
    """Networks that fit images of the shape IMAGE."""
    shapes, plain, layers = [IMAGE], [0], []
    for number in range(1, draw(st.integers(1, most)) + 1):
        kind = draw(st.sampled_from(types))
        choices = plain if kind == "add" else range(number)
        inputs = tuple(draw(st.lists(st.sampled_from(choices), max_size=3)))
        reads = [shapes[i] for i in inputs or (0,)]
        high, wide = max(h for _, h, _ in reads), max(w for _, _, w in reads)
        sizes = [1, 1, 1, 1]
        if kind in ("conv", "max_pool"):
            sizes = [draw(st.integers(1, min(pixels, 4))) for pixels in (high, wide, high, wide)]
        filters = draw(st.integers(1, 4)) if kind == "conv" else 0
        activation = draw(st.sampled_from(["relu", "relu", "identity"])) if kind in ORDERED else "relu"
        layers.append(Layer(kind, inputs, *sizes, filters=filters, activation=activation))
        shapes = independent_shapes(ConvNet(tuple(layers)), IMAGE)
        if kind in ORDERED or (len(set(inputs)) <= 1 and set(inputs) <= set(plain)):
            plain.append(number)
    output = draw(st.lists(st.integers(0, len(layers)), max_size=2).filter(lambda chosen: any(chosen) or not chosen))
    rate = draw(st.none() | st.floats(1e-6, 1.0))
    return ConvNet(tuple(layers), draw(st.integers(2, 5)), tuple(output), rate)


def independent_shapes(net, image):
    """The shape of the image and of each layer's maps, by the rules of ZL17 section 3.4 written once more."""
    shapes = [image]
    for layer in net.layers:
        reads = [shapes[i] for i in set(layer.inputs) or {0}]
        depths, highs, wides = zip(*reads, strict=True)
        depth = {"conv": layer.filters, "add": max(depths)}.get(layer.type, sum(depths))
        high, wide = math.ceil(max(highs) / layer.stride_height), math.ceil(max(wides) / layer.stride_width)
        shapes.append((depth, high, wide))
    return shapes


def by_hand(net, tensors, images, *, training=True):
    """Scores (B, classes) of images, each layer computed by torch's functions from the module's state, by name."""
    read = {number for layer in net.layers for number in (layer.inputs or (0,))}
    maps = [images]
    for place, layer in enumerate(net.layers):
        inputs = [maps[i] for i in sorted(set(layer.inputs)) or [0]]
        high, wide = max(m.shape[2] for m in inputs), max(m.shape[3] for m in inputs)
        enlarged = []
        for each in inputs:
            canvas = each.new_zeros(*each.shape[:2], high, wide)
            canvas[:, :, : each.shape[2], : each.shape[3]] = each
            enlarged.append(canvas)
        if layer.type == "add":
            summed = enlarged[0].new_zeros(len(images), max(m.shape[1] for m in inputs), high, wide)
            for each in enlarged:
                summed = summed + F.pad(each, (0, 0, 0, 0, 0, summed.shape[1] - each.shape[1]))
            maps.append(summed.clamp(min=0) if layer.activation == "relu" else summed)
            continue
        joined = torch.cat(enlarged, 1)
        window = (layer.filter_height, layer.filter_width)
        before = [(side - 1) // 2 for side in window]
        edges = (before[1], window[1] - 1 - before[1], before[0], window[0] - 1 - before[0])
        stride = (layer.stride_height, layer.stride_width)
        if layer.type == "conv":
            made = F.conv2d(F.pad(joined, edges), tensors[f"layers.{place}.weight"], stride=stride)
            made = normalised(made, tensors, f"layers.{place}.norm", training)
            maps.append(made.clamp(min=0) if layer.activation == "relu" else made)
        elif layer.type == "max_pool":
            padded = F.pad(joined, edges, value=-1e300)
            cut = padded.unfold(2, window[0], stride[0]).unfold(3, window[1], stride[1])
            maps.append(cut.amax((4, 5)))
        elif layer.type == "batch_norm":
            maps.append(normalised(joined, tensors, f"layers.{place}", training))
        else:
            maps.append(contrast(joined))
    chosen = sorted(set(net.output)) or [n for n in range(1, len(maps)) if n not in read]
    high, wide = max(maps[n].shape[2] for n in chosen), max(maps[n].shape[3] for n in chosen)
    means = [maps[n].sum((2, 3)) / (high * wide) for n in chosen]
    return torch.cat(means, 1) @ tensors["classifier.weight"].T + tensors["classifier.bias"]


def normalised(maps, tensors, name, training):
    """Batch normalisation by its definition."""
    if training:
        mean = maps.mean((0, 2, 3))
        variance = ((maps - mean[:, None, None]) ** 2).mean((0, 2, 3))
    else:
        mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    unit = (maps - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5)
    return unit * tensors[f"{name}.weight"][:, None, None] + tensors[f"{name}.bias"][:, None, None]


def contrast(maps):
    """Local contrast normalisation by its definition (Jarrett et al. 2009, section 2.1), pixel by pixel."""
    batch, depth, high, wide = maps.shape
    steps = torch.arange(9, dtype=maps.dtype) - 4
    weight = torch.exp(-(steps[:, None] ** 2 + steps[None, :] ** 2) / (2 * 1.591**2))
    weight = weight / weight.sum() / depth

    def around(values):
        padded = F.pad(values, (4, 4, 4, 4))
        sums = [(padded[:, :, i : i + 9, j : j + 9] * weight).sum((1, 2, 3)) for i in range(high) for j in range(wide)]
        return torch.stack(sums, 1).reshape(batch, 1, high, wide)

    centred = maps - around(maps)
    deviation = around(centred**2).clamp(min=1e-12).sqrt()
    return centred / torch.maximum(deviation, deviation.mean((2, 3), keepdim=True))
