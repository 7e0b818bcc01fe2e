"""ZL17's space of convolutional networks: what a controller chooses, layer by layer (ZL17 sections 3.2, 3.4, 4.1).

A token string describes the layers one after the other. Each layer has a token for the filters' height and width, for
both strides where they are chosen too, and for the number of filters; and then, at its anchor point, one for each layer
before it: whether that is an input. So layer i has i - 1 tokens at its anchor, and the length of a string says how many
layers there are.

>>> space = ConvSpace()
>>> net = space.network((1, 1, 1,   1, 3, 2, 1))           # 3 x 3, 36 filters; then 3 x 7, 48 filters, which reads it
>>> net.layers[1].filter_width, net.layers[1].inputs
(7, (1,))

Where there are several types of layers, the first token of each says which it is, and those of its sizes follow: a
normalisation has none (section 3.4). Where the learning rate is chosen, it is the last token of all.

>>> space = ConvSpace(types=("conv", "max_pool", "batch_norm"), learning_rates=(0.1, 0.01))
>>> net = space.network((0, 1, 1, 1,   1, 0, 1, 1,   2, 0, 1,   1))
>>> [layer.type for layer in net.layers], net.learning_rate
(['conv', 'max_pool', 'batch_norm'], 0.01)
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, prod
from numbers import Integral
from typing import Any

from nasrepro.controllers.token_space import Place, Tokens
from nasrepro.convnet import ConvNet, Layer
from nasrepro.convnet.network import BATCH_NORM, CONTRAST_NORM, CONV, MAX_POOL
from nasrepro.convnet.zoo import blocks, unblocked
from nasrepro.settings import origin, without_unused

TYPES = (CONV, MAX_POOL, BATCH_NORM, CONTRAST_NORM)
"""What a controller can make a layer: all but the additions of ResNets, which ZL17 does not have."""


@dataclass(frozen=True)
class ConvSpace:
    """The choices for every layer.

    Without `skips` there are no anchor points, and each layer reads the one before it (section 3.2). Raises ValueError
    for a choice of nothing, of a size below 1, of an unknown type, or of one thing twice; and for blocks or pools
    between them where there is more to choose than convolutions of stride 1.
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
    types: tuple[str, ...] = field(default=(CONV,), metadata=origin("stated", "4.1", "others in 3.4", paper="ZL17"))
    """What a layer can be, of `TYPES`; where there is one, it is no choice."""
    pool_sizes: tuple[int, ...] = field(default=(2, 3), metadata=origin("guessed", "3.4", paper="ZL17"))
    """Side of the window of a max pool, in pixels."""
    pool_strides: tuple[int, ...] = field(default=(1, 2), metadata=origin("guessed", "3.4", paper="ZL17"))
    """Of a max pool, down and across alike; where there is one, it is no choice."""
    learning_rates: tuple[float, ...] = field(default=(), metadata=origin("stated", "3.2", "one in 3.4", paper="ZL17"))
    """Rates to train the network with. (): it is not chosen, but the trainer's."""
    block: int = field(default=1, metadata=origin("stated", "4.1", "3 in v3", paper="ZL17"))
    """How many convolutions, fully connected, each choice of a layer makes."""
    pools: tuple[int, ...] = field(default=(), metadata=origin("stated", "4.1", "(13, 24) in v3", paper="ZL17"))
    """Before which convolutions, counted from 1, maps are halved."""

    def __post_init__(self) -> None:
        for name in ("heights", "widths", "strides", "filters", "pool_sizes", "pool_strides"):
            values = getattr(self, name)
            if not values or len({*values}) < len(values) or min(values) < 1:
                raise ValueError(f"{name} is a tuple of whole numbers from 1 on, each once, got {values!r:.100}")
        if not self.types or len({*self.types}) < len(self.types) or not {*self.types} <= {*TYPES}:
            raise ValueError(f"types is a tuple of some of {', '.join(TYPES)}, each once, got {self.types!r:.100}")
        rates = tuple(map(float, self.learning_rates))
        if len({*rates}) < len(rates) or not all(0 < rate < inf for rate in rates):
            raise ValueError(f"learning_rates is a tuple of positive numbers, each once, got {rates!r:.100}")
        object.__setattr__(self, "learning_rates", rates)
        if self.block < 1 or min(self.pools, default=1) < 1:
            raise ValueError(f"block={self.block} and the numbers in pools={self.pools} must be 1 or more")
        if self.has_blocks and (self.types != (CONV,) or self.strides != (1,)):
            raise ValueError(
                "blocks, and pools between them, are of convolutions of stride 1: give no types or strides"
            )

    @property
    def has_blocks(self) -> bool:
        """Whether a choice makes more than the one layer that it names."""
        return self.block > 1 or bool(self.pools)

    def identity(self) -> dict[str, Any]:
        """The fields as a dict, those left out that records made before there were types of layers don't know and that
        have no part in this space."""
        return without_unused(self, "types", "pool_sizes", "pool_strides", "learning_rates", "block", "pools")

    # ---- what is chosen

    @cached_property
    def choices(self) -> tuple[Place, ...]:
        """What may be chosen for every layer before its anchor, in the order of ZL17's Figure 2; `chosen` says which of
        it is."""
        return tuple(place for _, place in self._named)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """`choices`, and the place of the learning rate where it is chosen."""
        rate = Place("learning rate", tuple(map(repr, self.learning_rates)))
        return (*self.choices, rate) if self.learning_rates else self.choices

    def chosen(self, kind: int) -> tuple[int, ...]:
        """The numbers of the `choices` that there are for the type of this number: the type's own first."""
        return tuple(number for number, (of, _) in enumerate(self._named) if of in ("", self.types[kind]))

    def _after_type(self, kind: list[int]) -> list[Place]:
        """The places of a layer that follow the token of its type: [] where there is one type, and no such token."""
        return [self.choices[place] for place in self.chosen(kind[0] if kind else 0)[len(kind) :]]

    @cached_property
    def _named(self) -> list[tuple[str, Place]]:
        """All places of a layer, each with the type of layer that it is for, "" for any."""
        named: list[tuple[str, str, tuple[Any, ...]]] = []
        if len(self.types) > 1:
            named.append(("", "layer type", self.types))
        if CONV in self.types:
            named += [(CONV, "filter height", self.heights), (CONV, "filter width", self.widths)]
            if len(self.strides) > 1:
                named += [(CONV, "stride height", self.strides), (CONV, "stride width", self.strides)]
            named.append((CONV, "number of filters", self.filters))
        if MAX_POOL in self.types:
            named.append((MAX_POOL, "pool size", self.pool_sizes))
            named += [(MAX_POOL, "pool stride", self.pool_strides)] if len(self.pool_strides) > 1 else []
        return [(of, Place(name, tuple(map(str, values)))) for of, name, values in named]

    def size(self, depth: int) -> int:
        """How many token strings of so many layers there are."""
        kinds = range(len(self.types))
        sizes = [[len(self.choices[n].words) for n in self.chosen(kind) if self._named[n][0]] for kind in kinds]
        anchors = 2 ** (depth * (depth - 1) // 2 if self.skips else 0)
        return int(sum(map(prod, sizes)) ** depth * anchors * max(1, len(self.learning_rates)))

    def length(self, depth: int) -> int:
        """Tokens of a network with so many layers, at most: layers of some types have fewer."""
        most = max(len(self.chosen(kind)) for kind in range(len(self.types)))
        return depth * most + (depth * (depth - 1) // 2 if self.skips else 0) + bool(self.learning_rates)

    def depth(self, tokens: Sequence[int]) -> int:
        """Layers that a token string describes. Raises ValueError for a string that is not of the space."""
        return len(self.layers(tokens))

    def layers(self, tokens: Sequence[int]) -> list[tuple[Tokens, Tokens]]:
        """The tokens of each layer: those of its choices, and those at its anchor, one for each layer before it.

        The last token of all is left out where it is the learning rate's. Raises ValueError for a string that is not of
        the space: which token, and what there is to choose.
        """
        found: list[tuple[Tokens, Tokens]] = []
        reader, end = _Reader(tokens), len(self.places) - len(self.choices)
        while not found or len(reader.left) > end:
            number = len(found) + 1
            own = [reader.word(self.choices[0], f" of layer_{number}")] if len(self.types) > 1 else []
            own += [reader.word(place, f" of layer_{number}") for place in self._after_type(own)]
            others = range(1, number if self.skips else 1)
            anchor = [reader.next(2, f"connection from layer_{other} to layer_{number}") for other in others]
            found.append((tuple(own), tuple(anchor)))
        for place in self.places[len(self.choices) :]:
            reader.word(place, "")
        return found

    def of_layer(self, own: Tokens) -> list[tuple[Place, int]]:
        """The tokens of a layer's choices, from `layers`, each with what it chooses among."""
        kind = own[0] if len(self.types) > 1 else 0
        return [(self.choices[place], token) for place, token in zip(self.chosen(kind), own, strict=True)]

    # ---- tokens and networks

    def network(self, tokens: Sequence[int]) -> ConvNet:
        """The network that a token string describes. Raises ValueError for a string that is not of the space."""
        layers = []
        for number, (own, anchor) in enumerate(self.layers(tokens)):
            chosen = {place.name: place.words[token] for place, token in self.of_layer(own)}
            inputs = tuple(other for other, token in enumerate(anchor, 1) if token) if self.skips else (number,)
            layers.append(self._layer(chosen.get("layer type", self.types[0]), inputs, chosen))
        rate = self.learning_rates[tokens[-1]] if self.learning_rates else None
        net = ConvNet(tuple(layers), self.classes, (), rate)
        return blocks(net, self.block, self.pools) if self.has_blocks else net

    def _layer(self, kind: str, inputs: Tokens, chosen: dict[str, str]) -> Layer:
        """A layer of a type by the words chosen for it, by their place's name."""
        if kind == CONV:
            down, across = (int(chosen.get(f"stride {side}", self.strides[0])) for side in ("height", "width"))
            high, wide = int(chosen["filter height"]), int(chosen["filter width"])
            return Layer(kind, inputs, high, wide, down, across, int(chosen["number of filters"]))
        if kind == MAX_POOL:
            side, stride = int(chosen["pool size"]), int(chosen.get("pool stride", self.pool_strides[0]))
            return Layer(kind, inputs, side, side, stride, stride)
        return Layer(kind, inputs)

    def tokens(self, net: ConvNet) -> Tokens:
        """The token string that describes a network. Raises ValueError for a network that is not of the space."""
        found: list[int] = []
        for number, layer in enumerate((unblocked(net, self.block) if self.has_blocks else net).layers):
            if layer.type not in self.types:
                raise ValueError(f"layer_{number + 1} is a {layer.type}, none of {', '.join(self.types)}")
            sizes: dict[str, object] = {
                "layer type": layer.type,
                "filter height": layer.filter_height,
                "filter width": layer.filter_width,
                "stride height": layer.stride_height,
                "stride width": layer.stride_width,
                "number of filters": layer.filters,
                "pool size": layer.filter_height,
                "pool stride": layer.stride_height,
            }
            for which in self.chosen(self.types.index(layer.type)):
                place = self.choices[which]
                found.append(_number(place, sizes[place.name], f"layer_{number + 1}"))
            found += [int(other in layer.inputs) for other in range(1, number + 1)] if self.skips else []
        for place in self.places[len(self.choices) :]:
            found.append(_number(place, repr(net.learning_rate), "the network"))
        if self.network(found) != net and self.network(found).canonical() != net.canonical():
            raise ValueError("the network is none of the space: it has other strides, connections, classes or rate")
        return tuple(found)

    def draw(self, depth: int, rng: random.Random) -> Tokens:
        """A token string whose tokens are drawn uniformly, one after the other: of a network with so many layers."""
        found: list[int] = []
        for number in range(depth):
            own = [rng.randrange(len(self.types))] if len(self.types) > 1 else []
            found += [*own, *(rng.randrange(len(place.words)) for place in self._after_type(own))]
            found += [rng.randrange(2) for _ in range(number if self.skips else 0)]
        found += [rng.randrange(len(place.words)) for place in self.places[len(self.choices) :]]
        return tuple(found)


V1 = ConvSpace()
"""ZL17's first space, "no stride or pooling" (Table 1: 15 layers, 5.50 %)."""

V2 = ConvSpace(strides=(1, 2, 3))
"""Its second, "predicting strides" (Table 1: 20 layers, 6.01 %)."""

V3 = ConvSpace(filters=(6, 12, 24, 36), block=3, pools=(13, 24))
"""Its third, "max pooling": 13 predictions of a block of 3 layers (section 4.1; Table 1: 39 layers, 4.47 %). What it
finds is trained with 40 more filters a layer, too: `convnet.zoo.with_more_filters`."""


class _Reader:
    """Reads a token string from left to right."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.count, self.left = len(tokens), list(reversed(tokens))

    def next(self, choices: int, name: str) -> int:
        """The next token, which chooses `name`. Raises ValueError where it is missing or no such choice."""
        if not self.left:
            raise ValueError(f"a string of {self.count} tokens describes no whole number of layers: one is cut off")
        token = self.left.pop()
        if not isinstance(token, Integral) or not 0 <= token < choices:
            raise ValueError(
                f"a token is {token!r:.100}, but the {name} is one of {choices} choices, 0 to {choices - 1}"
            )
        return token

    def word(self, place: Place, of: str) -> int:
        """The next token, at a place."""
        return self.next(len(place.words), f"{place.name}{of}")


def _number(place: Place, value: object, name: str) -> int:
    """The token of a value at a place. Raises ValueError where it is no choice."""
    if str(value) not in place.words:
        raise ValueError(f"{name} has a {place.name} of {value}, none of {', '.join(place.words)}")
    return place.words.index(str(value))
