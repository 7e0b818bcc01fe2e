"""Text -> network, with errors that point at the line (the text's form: `text`)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nasrepro.convnet.errors import ConvNetError
from nasrepro.convnet.layers import ACTIVATED, ACTIVATIONS, CONV, RELU, TYPES, WINDOWED, Layer, Shape
from nasrepro.convnet.network import ConvNet
from nasrepro.convnet.structure import MAX_LAYERS
from nasrepro.convnet.text import CLASSIFIER, IMAGE, NUMBERS

_LAYER_KEYS = ("name", "type", "connect_to", *NUMBERS, "activation")
_CLASSIFIER_KEYS = ("name", "connect_to", "num_class", "learning_rate")


@dataclass
class _Block:
    """A block as it is read: value and line of each key."""

    line: int
    keys: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # value, number and text of the line

    def place(self, *keys: str) -> tuple[int, str]:
        """Number and text of the line of the first of these keys that is given, else of the block's first line."""
        return next((self.keys[key][1:] for key in keys if key in self.keys), (self.line, "layer {"))


def parse(text: str, shape: Shape | None = None) -> ConvNet:
    """The network that a text describes; with the images' `shape`, (channels, height, width), one that fits them.

    Raises ConvNetError, which points at the line, where the text describes none.
    """
    if not isinstance(text, str):
        raise ConvNetError(f"a network is written as text, got {type(text).__name__}")
    numbers = {IMAGE: 0}
    blocks: list[_Block] = []
    layers: list[Layer] = []
    end: tuple[int, tuple[int, ...], float | None] | None = None
    for block in _blocks(text):
        if end is not None:
            raise ConvNetError("nothing follows the classifier", *block.place(), "let the classifier come last")
        blocks.append(block)
        name = block.keys["name"][0] if "name" in block.keys else f"layer_{len(layers) + 1}"
        if name == CLASSIFIER:
            end = _classifier(block, numbers)
            if not layers:
                raise ConvNetError("a network has one layer or more before its classifier", *block.place())
            continue
        _check_name(name, block, numbers)
        layers.append(_layer(block, numbers, name))
        numbers[name] = len(layers)
        if len(layers) > MAX_LAYERS:
            raise ConvNetError(f"a network has {MAX_LAYERS:,} layers at most, this is one more", *block.place())
    if end is None:
        raise ConvNetError(f"the text has no layer of the name {CLASSIFIER}", hint="end it with such a block")
    try:
        net = ConvNet(tuple(layers), *end)
        if shape is not None:
            net.shapes(*shape)
    except ConvNetError as error:
        if error.layer is None:
            raise
        raise ConvNetError(error.problem, *blocks[error.layer - 1].place(error.key), error.hint) from None
    return net


def _check_name(name: str, block: _Block, numbers: dict[str, int]) -> None:
    if name == IMAGE:
        raise ConvNetError(f"{IMAGE} is the name of the image", *block.place("name"), "choose another")
    if name in numbers:
        raise ConvNetError(f"{name!r:.100} is the name of two layers", *block.place("name"))
    if "," in name:
        raise ConvNetError(f"{name!r:.100} is no name: a comma parts names", *block.place("name"))


def _blocks(text: str) -> Iterator[_Block]:
    block: _Block | None = None
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        said = line.split("#", 1)[0].strip()
        if not said:
            continue
        if re.fullmatch(r"layer\s*\{", said):
            if block is not None:
                raise ConvNetError("a block begins within another", number, line, "close the one before with }")
            block = _Block(number)
        elif block is None:
            raise ConvNetError("this stands in no block", number, line, "begin a block with: layer {")
        elif said == "}":
            yield block
            block = None
        else:
            key, equals, value = (part.strip() for part in said.partition("="))
            if not equals or not value:
                raise ConvNetError("this is no line of a block", number, line, "write: key = value")
            if key in block.keys:
                raise ConvNetError(f"{key} is given twice", number, line)
            block.keys[key] = (value, number, line)
    if block is not None:
        raise ConvNetError("the last block is not closed", block.line, "layer {", "close it with }")


def _layer(block: _Block, numbers: dict[str, int], name: str) -> Layer:
    _refuse_others(block, _LAYER_KEYS)
    kind = block.keys["type"][0] if "type" in block.keys else CONV
    if kind not in TYPES:
        raise ConvNetError(f"{kind!r:.100} is no type of layer", *block.place("type"), f"types are {', '.join(TYPES)}")
    known = _keys_of(kind)
    for key, (_, line, shown) in block.keys.items():
        if key not in known:
            raise ConvNetError(f"{name:.100} is a {kind}, which has no {key}", line, shown)
    sizes = {key: _whole(block, key) for key in NUMBERS if key in block.keys}
    if kind == CONV and "num_filters" not in sizes:
        raise ConvNetError(f"{name:.100} has no num_filters", *block.place(), "say how many filters it has")
    filters = sizes.pop("num_filters", 0)
    activation = block.keys["activation"][0] if "activation" in block.keys else RELU
    if activation not in ACTIVATIONS:
        hint = f"activations are {', '.join(ACTIVATIONS)}"
        raise ConvNetError(f"{activation!r:.100} is no activation", *block.place("activation"), hint)
    return Layer(kind, _connections(block, numbers, name), filters=filters, activation=activation, **sizes)


def _keys_of(kind: str) -> tuple[str, ...]:
    """The keys that a type of layer has."""
    keys = ["name", "type", "connect_to"]
    keys += NUMBERS[:4] if kind in WINDOWED else ()
    keys += ["num_filters"] if kind == CONV else []
    keys += ["activation"] if kind in ACTIVATED else []
    return tuple(keys)


def _classifier(block: _Block, numbers: dict[str, int]) -> tuple[int, tuple[int, ...], float | None]:
    _refuse_others(block, _CLASSIFIER_KEYS)
    rate = None
    if "learning_rate" in block.keys:
        value, line, shown = block.keys["learning_rate"]
        try:
            rate = float(value)
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise ConvNetError(f"learning_rate is a positive number, got {value!r:.100}", line, shown)
    classes = _whole(block, "num_class", 2) if "num_class" in block.keys else 10
    return classes, _connections(block, numbers, CLASSIFIER), rate


def _refuse_others(block: _Block, known: tuple[str, ...]) -> None:
    for key, (_, line, shown) in block.keys.items():
        if key not in known:
            raise ConvNetError(f"{key!r:.100} is unknown here", line, shown, f"keys are {', '.join(known)}")


def _whole(block: _Block, key: str, least: int = 1) -> int:
    value, line, shown = block.keys[key]
    if not re.fullmatch("[0-9]{1,9}", value) or int(value) < least:
        raise ConvNetError(f"{key} is a whole number from {least} on, got {value!r:.100}", line, shown)
    return int(value)


def _connections(block: _Block, numbers: dict[str, int], own: str) -> tuple[int, ...]:
    if "connect_to" not in block.keys:
        return ()
    value, line, shown = block.keys["connect_to"]
    found = []
    for name in (part.strip() for part in value.split(",")):
        if name == own:
            raise ConvNetError(
                f"{own:.100} reads itself: a cycle", line, shown, "a layer reads the image and earlier ones"
            )
        if name not in numbers:
            known = f"known here are {', '.join(list(numbers)[-8:]):.300}"
            raise ConvNetError(f"{own:.100} reads {name!r:.100}, which is no earlier layer", line, shown, known)
        found.append(numbers[name])
    return tuple(found)
