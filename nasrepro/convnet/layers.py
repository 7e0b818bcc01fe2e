"""One layer of a convolutional network: its type, its sizes, and the shape of the maps that layers hand on."""

from dataclasses import dataclass
from typing import Any

from nasrepro.convnet.errors import ConvNetError

CONV, MAX_POOL, BATCH_NORM, CONTRAST_NORM, ADD = "conv", "max_pool", "batch_norm", "contrast_norm", "add"
TYPES = (CONV, MAX_POOL, BATCH_NORM, CONTRAST_NORM, ADD)
"""What a layer can be: ZL17's convolutions, the three further types of section 3.4, and the addition of ResNets, which
ZL17 does not have: it sums maps where other layers concatenate them."""

WINDOWED = (CONV, MAX_POOL)
"""The types that have a filter's height and width, and strides."""

ACTIVATED = (CONV, ADD)
"""The types that end with a rectifier, or, where their activation is IDENTITY, without."""

RELU, IDENTITY = "relu", "identity"
ACTIVATIONS = (RELU, IDENTITY)

Shape = tuple[int, int, int]
"""Channels, height and width of a map."""

_SIZES = ("filter_height", "filter_width", "stride_height", "stride_width")
_WORDS = {"filters": "num_filters"}


@dataclass(frozen=True)
class Layer:
    """One layer: its type, the numbers of the layers that it reads, and its sizes in pixels.

    `filters` is how many maps a convolution makes, 0 for the other types. A convolution is followed by batch
    normalisation and a rectifier (ZL17, section 4.1), an addition by a rectifier; `activation` = "identity" leaves the
    rectifier out.
    """

    type: str
    inputs: tuple[int, ...] = ()
    filter_height: int = 1
    filter_width: int = 1
    stride_height: int = 1
    stride_width: int = 1
    filters: int = 0
    activation: str = RELU

    def read(self, shapes: list[Shape]) -> Shape:
        """The shape of what the layer reads: maps padded to the largest, then concatenated, or added by an addition."""
        return added(shapes) if self.type == ADD else joined(shapes)

    def depth(self, read: int) -> int:
        """How many maps the layer makes of those that it reads, joined."""
        return self.filters if self.type == CONV else read

    def check_fit(self, number: int, high: int, wide: int, image: tuple[int, int]) -> None:
        """Raise ConvNetError where the layer, of this number, is too large for maps of high x wide pixels.

        The error says which strides left of an image of this height and width.
        """
        shrunk = "" if (high, wide) == image else f", which is what strides leave of {image[0]} x {image[1]}"
        windows = (("filter_height", high), ("filter_width", wide)) if self.type in WINDOWED else ()
        for key, pixels in (*windows, ("stride_height", high), ("stride_width", wide)):
            if getattr(self, key) > pixels:
                raise ConvNetError(
                    f"layer_{number} has {key} = {getattr(self, key)} and reads maps of {high} x {wide} pixels{shrunk}",
                    hint=f"use a smaller {key}, or smaller strides before it",
                    layer=number,
                    key=key,
                )


def joined(shapes: list[Shape]) -> Shape:
    """The shape of maps that are padded to the largest and concatenated (rule 3 of `structure`)."""
    return sum(c for c, _, _ in shapes), max(h for _, h, _ in shapes), max(w for _, _, w in shapes)


def added(shapes: list[Shape]) -> Shape:
    """The shape of maps that are padded to the largest, in number too, and summed."""
    return max(c for c, _, _ in shapes), max(h for _, h, _ in shapes), max(w for _, _, w in shapes)


def check_layer(layer: Layer, number: int) -> None:
    """Raise ConvNetError, which names the layer, where it cannot be layer `number` of any network."""
    name = f"layer_{number}"
    if layer.type not in TYPES:
        raise ConvNetError(f"{name} has the type {layer.type!r:.100}", hint=f"types are {', '.join(TYPES)}")
    for field in (*_SIZES, *(("filters",) if layer.type == CONV else ())):
        value: Any = getattr(layer, field)
        if type(value) is not int or value < 1:
            raise ConvNetError(f"{name} has {_WORDS.get(field, field)} = {value!r:.100}: a whole number from 1 on")
        if value != 1 and layer.type not in WINDOWED:
            raise ConvNetError(f"{name} is a {layer.type}, which has no {field}")
    if layer.type != CONV and layer.filters:
        raise ConvNetError(f"{name} is a {layer.type}, which makes as many maps as it reads: it has no num_filters")
    if layer.activation not in ACTIVATIONS:
        hint = f"activations are {', '.join(ACTIVATIONS)}"
        raise ConvNetError(f"{name} has the activation {layer.activation!r:.100}", hint=hint)
    if layer.activation != RELU and layer.type not in ACTIVATED:
        raise ConvNetError(f"{name} is a {layer.type}, which has no activation")
    for other in layer.inputs:
        if other == number:
            raise ConvNetError(f"{name} reads itself: a cycle", hint="a layer reads the image and earlier layers")
        if type(other) is not int or not 0 <= other < number:
            raise ConvNetError(f"{name} reads layer_{other}, which is no earlier layer", hint="order layers by inputs")
