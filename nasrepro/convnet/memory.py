"""How much memory training a network takes, worked out from its description before it is built.

A step holds weights and their momentum throughout. The forward pass adds what the backward pass will need: what each
convolution, normalisation and pool reads, what each rectifier hands on. The backward pass lets go of that from the last
layer to the first, while gradients of weights add up, and each map that some layer still above has read waits with its
gradient. The peak stands where the sum of all this is largest.

In "bfloat16" the estimates hold for convolutions and additions; normalisations, and pools of the image itself, hand on
more than is counted: ask for "float32" there, which is an upper bound.

What is not counted: the images of the data set, the working space of convolutions, the memory of torch and of the
device's driver themselves.
"""

from dataclasses import dataclass
from math import prod

from nasrepro.convnet.layers import (
    ACTIVATED,
    ADD,
    BATCH_NORM,
    CONTRAST_NORM,
    CONV,
    MAX_POOL,
    RELU,
    Layer,
    Shape,
    joined,
)
from nasrepro.convnet.structure import Structure

_BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of a number of a map, by the precision in which convolutions compute."""

_INDEX = 8
"""Bytes of the place of a maximum that a pool keeps."""


def training_bytes(
    net: Structure, shape: Shape = (3, 32, 32), batch: int = 64, *, precision: str = "float32", multiple: int = 1
) -> int:
    """Bytes at the peak of a training step on a batch of images of a shape (channels, height, width).

    `precision` is "float32" or "bfloat16", that of the convolutions; `multiple` is `module.ImageClassifier`'s. Raises
    ConvNetError where the images are too small, KeyError for another precision.
    """
    size = _BYTES[precision]
    shapes = _stored(net, shape, multiple)
    costs = [_Costs.of(net, number, shapes, batch, size) for number in range(1, len(net.layers) + 1)]
    images = batch * prod(shape) * 4
    if size < 4 or shapes[0] != shape:
        images += batch * prod(shapes[0]) * size  # the copy that is rounded, or has maps added
    classifier = 4 * (net.read_shape(len(net.layers) + 1, shapes)[0] + 1) * net.classes
    held = images + 2 * (classifier + sum(each.weights for each in costs))

    last = [shapes[i] for i in net.read_by_classifier]
    forward, peak = held, 0
    for each in costs:
        peak = max(peak, forward + each.forward)
        forward += each.kept + each.handed_on
    peak = max(peak, forward + batch * size * _moved(last))

    held += sum(each.kept for each in costs)
    made = classifier  # gradients of weights
    waiting = {i: costs[i - 1].gradient for i in net.read_by_classifier if i}  # gradients of maps by their layer
    for number in range(len(costs), 0, -1):
        each = costs[number - 1]
        peak = max(peak, held + made + sum(waiting.values()) + each.backward)
        waiting.pop(number, None)
        waiting |= {i: costs[i - 1].gradient for i in net.connections[number - 1] if i}
        held -= each.kept
        made += each.weights
    return peak


def evaluation_bytes(
    net: Structure, shape: Shape = (3, 32, 32), batch: int = 500, *, precision: str = "float32", multiple: int = 1
) -> int:
    """Bytes at the peak of showing images to a network between two steps of its training, nothing being learned.

    The maps of all layers wait until the classifier has read its own; weights, momentum and the last gradients wait
    too. Arguments and errors are those of `training_bytes`.
    """
    size = _BYTES[precision]
    shapes = _stored(net, shape, multiple)
    images = batch * prod(shape) * 4
    if size < 4 or shapes[0] != shape:
        images += batch * prod(shapes[0]) * size
    weights = 4 * (net.read_shape(len(net.layers) + 1, shapes)[0] + 1) * net.classes
    maps = peak = 0
    for number, (layer, inputs) in enumerate(zip(net.layers, net.connections, strict=True), 1):
        cost = _Costs.of(net, number, shapes, batch, size)
        weights += cost.weights
        made, read = batch * size * prod(shapes[number]), batch * size * prod(layer.read([shapes[i] for i in inputs]))
        bordered = read if layer.type == MAX_POOL or (layer.type == CONV and not _is_centred(layer)) else 0
        passing = {MAX_POOL: batch * prod(shapes[number]) * _INDEX, CONV: made, CONTRAST_NORM: 2 * made}
        peak = max(peak, maps + cost.forward + bordered + passing.get(layer.type, 0) + made)
        maps += made
    return images + 3 * weights + max(peak, maps + batch * size * _moved([shapes[i] for i in net.read_by_classifier]))


def _stored(net: Structure, shape: Shape, multiple: int) -> list[Shape]:
    """The shapes of the image and of each layer's maps as the module stores them."""
    if not {layer.type for layer in net.layers} <= {CONV, MAX_POOL, ADD}:
        multiple = 1

    def up(maps: int) -> int:
        return -(-maps // multiple) * multiple

    found = [(up(shape[0]), *shape[1:])]
    for layer, inputs, (_, high, wide) in zip(net.layers, net.connections, net.shapes(*shape)[1:], strict=True):
        read = layer.read([found[i] for i in inputs])[0]
        found.append((up(layer.filters) if layer.type == CONV else read, high, wide))
    return found


def _moved(maps: list[Shape]) -> int:
    """Numbers that are copied to join maps: those that are padded, and what is concatenated."""
    if len(maps) == 1:
        return 0
    whole = joined(maps)
    return prod(whole) + sum(each[0] * whole[1] * whole[2] for each in maps if each[1:] != whole[1:])


@dataclass(frozen=True)
class _Costs:
    """What a layer takes, in bytes."""

    kept: int
    """What the forward pass keeps for the backward pass."""
    handed_on: int
    """The layer's maps, where none needs them once the forward pass is over."""
    forward: int
    """What its forward pass needs for a moment."""
    backward: int
    """What its backward pass needs for a moment."""
    gradient: int
    """The gradient of the layer's maps."""
    weights: int

    @classmethod
    def of(cls, net: Structure, number: int, shapes: list[Shape], batch: int, size: int) -> "_Costs":
        """Those of layer `number`, for a batch of images and a size of numbers."""
        layer, inputs = net.layers[number - 1], [shapes[i] for i in net.connections[number - 1]]
        read, made = batch * size * prod(layer.read(inputs)), batch * size * prod(shapes[number])
        moved = batch * size * _moved(inputs)
        is_rectified = layer.type in ACTIVATED and layer.activation == RELU
        is_needed = is_rectified or any(
            inputs == (number,) and _keeps_what_it_reads(reader)
            for reader, inputs in zip(net.layers, net.connections, strict=True)
        )
        kept, backward, weights = 0, made, 0
        if layer.type == CONV:
            filters = layer.filter_height * layer.filter_width * layer.read(inputs)[0] * shapes[number][0]
            weights = 4 * (filters + 2 * shapes[number][0])
            kept = made + (size * filters if size < 4 else 0)  # what is normalised, and rounded filters
            kept += read if moved or not _keeps_what_it_reads(layer) else 0
            backward = max(made, read - made + weights)
        elif layer.type == MAX_POOL:
            kept, backward = read + batch * prod(shapes[number]) * _INDEX, read
        elif layer.type == BATCH_NORM:
            kept, weights = read if moved else 0, 4 * 2 * shapes[number][0]
        elif layer.type == CONTRAST_NORM:
            kept, backward = made, 4 * made
        handed_on, kept = (0, kept + made) if is_needed else (made, kept)
        return cls(kept, handed_on, moved, backward, made, weights)


def _keeps_what_it_reads(layer: Layer) -> bool:
    """Whether a layer's backward pass needs what the layer reads, and reads it as it is, without a border added."""
    return layer.type == BATCH_NORM or (layer.type == CONV and _is_centred(layer))


def _is_centred(layer: Layer) -> bool:
    """Whether a window has a pixel in its middle, so that no border has to be added before it slides."""
    return layer.filter_height % 2 == 1 and layer.filter_width % 2 == 1
