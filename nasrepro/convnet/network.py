"""A convolutional network as an immutable value: layers, what connects them, its identity, and its dresses.

>>> net = ConvNet((Layer("conv", (), 3, 3, filters=36), Layer("conv", (0, 1), 3, 5, filters=48)))
>>> net.connections, net.read_by_classifier
(((0,), (0, 1)), (2,))
>>> net.shapes(3, 32, 32)
[(3, 32, 32), (36, 32, 32), (48, 32, 32)]
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from nasrepro.convnet.drawing import to_svg
from nasrepro.convnet.errors import ConvNetError
from nasrepro.convnet.identity import canonical_order
from nasrepro.convnet.layers import ADD as ADD
from nasrepro.convnet.layers import BATCH_NORM as BATCH_NORM
from nasrepro.convnet.layers import CONTRAST_NORM as CONTRAST_NORM
from nasrepro.convnet.layers import CONV as CONV
from nasrepro.convnet.layers import MAX_POOL as MAX_POOL
from nasrepro.convnet.layers import RELU, Layer
from nasrepro.convnet.layers import TYPES as TYPES
from nasrepro.convnet.layers import WINDOWED as WINDOWED
from nasrepro.convnet.layers import Shape as Shape
from nasrepro.convnet.pytorch import to_pytorch
from nasrepro.convnet.structure import MAX_LAYERS as MAX_LAYERS
from nasrepro.convnet.structure import Structure
from nasrepro.convnet.text import to_text


@dataclass(frozen=True)
class ConvNet(Structure):
    """A convolutional network: its layers, the number of classes, and the learning rate if it is predicted too.

    `output` names the layers that the classifier reads; () leaves it to rule 2 of `structure`. Networks compare and
    hash by value; `convnet.parse` reads their text, `str` writes it.

    Raises ConvNetError for an unknown type, sizes below 1, an input that is no earlier layer, no layer or more than
    MAX_LAYERS.
    """

    def __str__(self) -> str:
        return to_text(self)

    # ---- identity

    def canonical(self) -> "ConvNet":
        """The one network that all share which a reader would call the same.

        Connections are written out and sorted, layers that do not reach the classifier are left out, and the others
        stand in an order that does not depend on how they were numbered.
        """
        order = canonical_order(self)
        new = {0: 0} | {old: number for number, old in enumerate(order, 1)}
        layers = tuple(
            replace(self.layers[old - 1], inputs=tuple(sorted(new[i] for i in self.connections[old - 1])))
            for old in order
        )
        return replace(self, layers=layers, output=tuple(sorted(new[i] for i in self.read_by_classifier)))

    @cached_property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical form's text."""
        return sha256(str(self.canonical()).encode()).hexdigest()[:16]

    # ---- other dresses

    def to_svg(self) -> str:
        """A drawing, the image at the bottom, skip connections as arcs (as in ZL17, Figure 7), as SVG text."""
        return to_svg(self)

    def to_pytorch(self, name: str = "GeneratedNet", channels: int = 3) -> str:
        """Source of a standalone `torch.nn.Module` that needs nothing but torch, for images of so many channels."""
        return to_pytorch(self, name, channels)

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_html_(self) -> str:
        return f"<div>{self.to_svg()}</div>"

    def to_json(self) -> str:
        """JSON text: {"format", "hash", and the fields}. `from_json` reads it back."""
        return json.dumps({"format": 1, "hash": self.hash, **asdict(self), "layers": list(map(_fields, self.layers))})

    @staticmethod
    def from_json(text: str) -> "ConvNet":
        """The network that `to_json` wrote. Raises ConvNetError for any other text."""
        try:
            data = json.loads(text)
            layers = tuple(Layer(**{**each, "inputs": tuple(each["inputs"])}) for each in data["layers"])
            net = ConvNet(layers, data["classes"], tuple(data["output"]), data["learning_rate"])
        except ConvNetError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            shown = f"{error!r:.300}"
            raise ConvNetError(f"not a network's JSON: {shown}", hint="write one with net.to_json()") from None
        if data.get("hash", net.hash) != net.hash:
            raise ConvNetError(f"the JSON contradicts itself: its layers have the hash {net.hash}, not {data['hash']}")
        return net


def _fields(layer: Layer) -> dict[str, Any]:
    """What JSON says of a layer: its activation only where it is not the usual one."""
    fields = asdict(layer)
    if layer.activation == RELU:
        del fields["activation"]
    return fields
