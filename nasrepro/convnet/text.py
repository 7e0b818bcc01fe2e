"""The text of a network, as in ZL17 section 3.1: a block for each layer and one for the classifier.

    layer {
      name = layer_1
      type = conv
      connect_to = input
      filter_width = 2
      filter_height = 3
      stride_width = 4
      stride_height = 5
      num_filters = 6
    }
    layer {
      name = classifier
      connect_to = layer_1
      num_class = 10
    }

`connect_to` may name several layers, separated by commas, or be left out: then rule 1 or 2 of `network` holds. Sizes
that are left out are 1. The classifier's block may hold a `learning_rate` (section 3.4). `#` begins a comment.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nasrepro.convnet.errors import ConvNetError
from nasrepro.convnet.network import CONV, TYPES, WINDOWED, ConvNet, Layer, check_layer

_IMAGE, _CLASSIFIER = "input", "classifier"
_NUMBERS = ("filter_width", "filter_height", "stride_width", "stride_height", "num_filters")  # in the paper's order
_LAYER_KEYS = ("name", "type", "connect_to", *_NUMBERS)
_CLASSIFIER_KEYS = ("name", "connect_to", "num_class", "learning_rate")


def to_text(net: ConvNet) -> str:
    """The network as text, which `parse` reads back to an equal one."""
    blocks = []
    for number, layer in enumerate(net.layers, 1):
        sizes: dict[str, object] = {name: getattr(layer, name) for name in _NUMBERS[:4]}
        if layer.type not in WINDOWED:
            sizes = {}
        if layer.type == CONV:
            sizes["num_filters"] = layer.filters
        blocks.append(_block({"name": _name(number), "type": layer.type, **_connected(layer.inputs), **sizes}))
    rate = {} if net.learning_rate is None else {"learning_rate": repr(net.learning_rate)}
    blocks.append(_block({"name": _CLASSIFIER, **_connected(net.output), "num_class": net.classes, **rate}))
    return "\n".join(blocks)


def _block(lines: dict[str, object]) -> str:
    return "layer {\n" + "".join(f"  {key} = {value}\n" for key, value in lines.items()) + "}"


def _connected(inputs: tuple[int, ...]) -> dict[str, object]:
    return {"connect_to": ", ".join(map(_name, inputs))} if inputs else {}


def _name(number: int) -> str:
    return f"layer_{number}" if number else _IMAGE


@dataclass
class _Block:
    """A block as it is read: value and line of each key."""

    line: int
    keys: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # value, number and text of the line


def parse(text: str) -> ConvNet:
    """The network that a text describes. Raises ConvNetError, which points at the line, where it describes none."""
    numbers = {_IMAGE: 0}
    layers: list[Layer] = []
    end: tuple[int, tuple[int, ...], float | None] | None = None
    for block in _blocks(text):
        name, line, shown = block.keys.get("name", (f"layer_{len(layers) + 1}", block.line, "layer {"))
        if end is not None:
            raise ConvNetError("nothing follows the classifier", block.line, "layer {", "let the classifier come last")
        if name == _CLASSIFIER:
            end = _classifier(block, numbers)
            continue
        if name in numbers:
            raise ConvNetError(f"{name!r:.100} is the name of two layers", line, shown)
        layers.append(_layer(block, len(layers) + 1, numbers, name))
        numbers[name] = len(layers)
    if end is None:
        raise ConvNetError(f"the text has no layer of the name {_CLASSIFIER}", hint="end it with such a block")
    return ConvNet(tuple(layers), *end)


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


def _layer(block: _Block, number: int, numbers: dict[str, int], name: str) -> Layer:
    _refuse_others(block, _LAYER_KEYS)
    kind, line, shown = block.keys.get("type", (CONV, block.line, "layer {"))
    if kind not in TYPES:
        raise ConvNetError(f"{kind!r:.100} is no type of layer", line, shown, f"types are {', '.join(TYPES)}")
    sizes = {key: _whole(block, key) for key in _NUMBERS if key in block.keys}
    if kind == CONV and "num_filters" not in sizes:
        raise ConvNetError(f"{name} has no num_filters", block.line, "layer {", "say how many filters it has")
    filters = sizes.pop("num_filters", 0)
    layer = Layer(kind, _connections(block, numbers, name), filters=filters, **sizes)
    try:
        check_layer(layer, number)
    except ConvNetError as error:
        raise ConvNetError(error.problem, block.line, "layer {", error.hint) from None
    return layer


def _classifier(block: _Block, numbers: dict[str, int]) -> tuple[int, tuple[int, ...], float | None]:
    _refuse_others(block, _CLASSIFIER_KEYS)
    rate = None
    if "learning_rate" in block.keys:
        value, line, shown = block.keys["learning_rate"]
        try:
            rate = float(value)
        except ValueError:
            raise ConvNetError(f"learning_rate is a number, got {value!r:.100}", line, shown) from None
    classes = _whole(block, "num_class") if "num_class" in block.keys else 10
    return classes, _connections(block, numbers, _CLASSIFIER), rate


def _refuse_others(block: _Block, known: tuple[str, ...]) -> None:
    for key, (_, line, shown) in block.keys.items():
        if key not in known:
            raise ConvNetError(f"{key!r:.100} is unknown here", line, shown, f"keys are {', '.join(known)}")


def _whole(block: _Block, key: str) -> int:
    value, line, shown = block.keys[key]
    if not re.fullmatch("[0-9]{1,9}", value) or int(value) < 1:
        raise ConvNetError(f"{key} is a whole number from 1 on, got {value!r:.100}", line, shown)
    return int(value)


def _connections(block: _Block, numbers: dict[str, int], own: str) -> tuple[int, ...]:
    if "connect_to" not in block.keys:
        return ()
    value, line, shown = block.keys["connect_to"]
    found = []
    for name in (part.strip() for part in value.split(",")):
        if name == own:
            raise ConvNetError(f"{own} reads itself: a cycle", line, shown, "a layer reads the image and earlier ones")
        if name not in numbers:
            known = f"known here are {', '.join(list(numbers)[-8:])}"
            raise ConvNetError(f"{own} reads {name!r:.100}, which is no earlier layer", line, shown, known)
        found.append(numbers[name])
    return tuple(found)
