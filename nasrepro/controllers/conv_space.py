"""ZL17's space of convolutional networks: what a controller chooses, layer by layer (ZL17 sections 3.2, 3.4, 4.1).

A token string describes the layers one after the other. Each layer has a token for the filters' height and width, for
both strides where they are chosen too, and for the number of filters; and then, at its anchor point, one for each layer
before it: whether that is an input. So layer i has i - 1 tokens at its anchor, and the length of a string says how many
layers there are.

>>> space = ConvSpace()
>>> net = space.network((1, 1, 1,   1, 3, 2, 1))           # 3 x 3, 36 filters; then 3 x 7, 48 filters, which reads it
>>> net.layers[1].filter_width, net.layers[1].inputs
(7, (1,))
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from numbers import Integral

from nasrepro.controllers.token_space import Place, Tokens
from nasrepro.convnet import ConvNet, Layer
from nasrepro.settings import origin


@dataclass(frozen=True)
class ConvSpace:
    """The choices for every layer. Raises ValueError for a choice of nothing, of a size below 1, or of one size twice.

    Without `skips` there are no anchor points, and each layer reads the one before it (section 3.2).
    """

    heights: tuple[int, ...] = field(default=(1, 3, 5, 7), metadata=origin("stated", "4.1", paper="ZL17"))
    """Of filters, in pixels."""
    widths: tuple[int, ...] = field(default=(1, 3, 5, 7), metadata=origin("stated", "4.1", paper="ZL17"))
    """Of filters, in pixels."""
    strides: tuple[int, ...] = field(default=(1,), metadata=origin("stated", "4.1", "(1, 2, 3) in v2", paper="ZL17"))
    """Down and across, each chosen for itself; where there is one, it is no choice."""
    filters: tuple[int, ...] = field(default=(24, 36, 48, 64), metadata=origin("stated", "4.1", paper="ZL17"))
    """How many filters a layer has."""
    skips: bool = field(default=True, metadata=origin("stated", "3.4", paper="ZL17"))
    """Whether layers choose their inputs."""
    classes: int = 10
    """What a network tells apart."""

    def __post_init__(self) -> None:
        for name in ("heights", "widths", "strides", "filters"):
            values = getattr(self, name)
            if not values or len({*values}) < len(values) or min(values) < 1:
                raise ValueError(f"{name} is a tuple of whole numbers from 1 on, each once, got {values!r:.100}")

    @cached_property
    def choices(self) -> tuple[Place, ...]:
        """What is chosen for every layer before its anchor, in the order of ZL17's Figure 2."""
        named = [("filter height", self.heights), ("filter width", self.widths)]
        if len(self.strides) > 1:
            named += [("stride height", self.strides), ("stride width", self.strides)]
        named.append(("number of filters", self.filters))
        return tuple(Place(name, tuple(map(str, values))) for name, values in named)

    def size(self, depth: int) -> int:
        """How many token strings of so many layers there are."""
        each = prod(len(place.words) for place in self.choices)
        return int(each**depth * 2 ** (depth * (depth - 1) // 2 if self.skips else 0))

    def length(self, depth: int) -> int:
        """Tokens of a network with so many layers."""
        return depth * len(self.choices) + (depth * (depth - 1) // 2 if self.skips else 0)

    def depth(self, tokens: Sequence[int]) -> int:
        """Layers that a token string describes. Raises ValueError where no number of layers has its length."""
        each = (len(self.choices) + (number if self.skips else 0) for number in range(len(tokens)))
        for depth, length in enumerate(accumulate(each), 1):
            if length == len(tokens):
                return depth
        raise ValueError(f"a string of {len(tokens)} tokens describes no whole number of layers: one is cut off")

    def layers(self, tokens: Sequence[int]) -> list[tuple[Tokens, Tokens]]:
        """The tokens of each layer: those of its choices, and those at its anchor, one for each layer before it.

        Raises ValueError for a string that is not of the space: which token, and what there is to choose.
        """
        found, rest = [], list(tokens)
        for number in range(self.depth(tokens)):
            own, anchor = rest[: len(self.choices)], rest[len(self.choices) :][: number if self.skips else 0]
            rest = rest[len(own) + len(anchor) :]
            for place, token in zip(self.choices, own, strict=True):
                _check(token, len(place.words), f"{place.name} of layer_{number + 1}")
            for other, token in enumerate(anchor, 1):
                _check(token, 2, f"connection from layer_{other} to layer_{number + 1}")
            found.append((tuple(own), tuple(anchor)))
        return found

    def network(self, tokens: Sequence[int]) -> ConvNet:
        """The network that a token string describes. Raises ValueError for a string that is not of the space."""
        layers = []
        for number, (own, anchor) in enumerate(self.layers(tokens)):
            values = [int(place.words[token]) for place, token in zip(self.choices, own, strict=True)]
            high, wide, *strides, filters = values
            down, across = strides or self.strides * 2
            chosen = tuple(other for other, token in enumerate(anchor, 1) if token)
            inputs = chosen if self.skips else (number,)
            layers.append(Layer("conv", inputs, high, wide, down, across, filters))
        return ConvNet(tuple(layers), self.classes)

    def tokens(self, net: ConvNet) -> Tokens:
        """The token string that describes a network. Raises ValueError for a network that is not of the space."""
        found: list[int] = []
        for number, layer in enumerate(net.layers):
            sizes = [layer.filter_height, layer.filter_width]
            sizes += [layer.stride_height, layer.stride_width] if len(self.strides) > 1 else []
            for place, size in zip(self.choices, [*sizes, layer.filters], strict=True):
                if str(size) not in place.words:
                    raise ValueError(
                        f"layer_{number + 1} has a {place.name} of {size}, none of {', '.join(place.words)}"
                    )
                found.append(place.words.index(str(size)))
            found += [int(other in layer.inputs) for other in range(1, number + 1)] if self.skips else []
        if self.network(found) != net and self.network(found).canonical() != net.canonical():
            raise ValueError("the network is none of the space: it has other types, strides or connections")
        return tuple(found)

    def draw(self, depth: int, rng: random.Random) -> Tokens:
        """A token string whose tokens are drawn uniformly: of a network with so many layers."""
        found: list[int] = []
        for number in range(depth):
            found += [rng.randrange(len(place.words)) for place in self.choices]
            found += [rng.randrange(2) for _ in range(number if self.skips else 0)]
        return tuple(found)


def _check(token: int, count: int, name: str) -> None:
    if not isinstance(token, Integral) or not 0 <= token < count:
        raise ValueError(f"a token is {token!r:.100}, but the {name} is one of {count} choices, 0 to {count - 1}")
