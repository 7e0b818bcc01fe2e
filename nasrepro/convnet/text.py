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

`connect_to` may name several layers, separated by commas, or be left out: then rule 1 or 2 of `structure` holds. Sizes
that are left out are 1. `activation = identity` leaves out the rectifier of a convolution or an addition. The
classifier's block may hold a `learning_rate` (section 3.4). `#` begins a comment. `parser` reads such texts.
"""

from nasrepro.convnet.layers import CONV, RELU, WINDOWED
from nasrepro.convnet.structure import Structure

IMAGE, CLASSIFIER = "input", "classifier"
"""What layers call the image, and the name of the last block."""

NUMBERS = ("filter_width", "filter_height", "stride_width", "stride_height", "num_filters")
"""The keys of sizes, in the paper's order."""


def to_text(net: Structure) -> str:
    """The network as text, which `parse` reads back to an equal one."""
    blocks = []
    for number, layer in enumerate(net.layers, 1):
        said: dict[str, object] = {"name": name(number), "type": layer.type, **_connected(layer.inputs)}
        if layer.type in WINDOWED:
            said |= {key: getattr(layer, key) for key in NUMBERS[:4]}
        if layer.type == CONV:
            said["num_filters"] = layer.filters
        if layer.activation != RELU:
            said["activation"] = layer.activation
        blocks.append(_block(said))
    rate = {} if net.learning_rate is None else {"learning_rate": repr(net.learning_rate)}
    blocks.append(_block({"name": CLASSIFIER, **_connected(net.output), "num_class": net.classes, **rate}))
    return "\n".join(blocks)


def name(number: int) -> str:
    """What a text calls a layer, or for 0 the image."""
    return f"layer_{number}" if number else IMAGE


def _block(lines: dict[str, object]) -> str:
    return "layer {\n" + "".join(f"  {key} = {value}\n" for key, value in lines.items()) + "}"


def _connected(inputs: tuple[int, ...]) -> dict[str, object]:
    return {"connect_to": ", ".join(map(name, inputs))} if inputs else {}
