"""A network as the source of a `torch.nn.Module`, for people who want it without this library.

The source is text about torch; this file does not import it.
"""

from keyword import iskeyword
from textwrap import wrap

from nasrepro.convnet.errors import ConvNetError
from nasrepro.convnet.layers import ADD, BATCH_NORM, CONTRAST_NORM, CONV, MAX_POOL, RELU, Layer
from nasrepro.convnet.structure import Structure
from nasrepro.convnet.text import name

_LIMIT = 110  # characters of a line

_LARGEST = '''
def largest(maps: list[Tensor]) -> list[Tensor]:
    """Maps (B, C_i, H_i, W_i), padded with zeros below and at the right to the size of the largest."""
    high, wide = max(m.shape[2] for m in maps), max(m.shape[3] for m in maps)
    return [F.pad(m, (0, wide - m.shape[3], 0, high - m.shape[2])) for m in maps]
'''

_JOIN = '''
def join(*maps: Tensor) -> Tensor:
    """All maps, one behind the other."""
    return torch.cat(largest(list(maps)), 1)
'''

_TOTAL = '''
def total(*maps: Tensor) -> Tensor:
    """The sum of maps, as many as the largest input has."""
    depth = max(m.shape[1] for m in maps)
    return sum(F.pad(m, (0, 0, 0, 0, 0, depth - m.shape[1])) for m in largest(list(maps)))
'''

_CONTRAST = '''
def contrast(maps: Tensor) -> Tensor:
    """Local contrast normalisation (Jarrett et al. 2009): (B, C, H, W) -> the same shape."""
    steps = torch.arange(9, dtype=torch.float64) - 4
    line = torch.exp(-(steps**2) / (2 * 1.591**2))
    window = (torch.outer(line, line) / line.sum() ** 2)[None, None].to(maps)

    def around(values: Tensor) -> Tensor:
        return F.conv2d(values.mean(1, keepdim=True), window, padding=4)

    centred = maps - around(maps)
    deviation = around(centred**2).clamp(min=1e-12).sqrt()
    return centred / torch.maximum(deviation, deviation.mean((2, 3), keepdim=True))
'''


def to_pytorch(net: Structure, called: str = "GeneratedNet", channels: int = 3) -> str:
    """Source of a standalone module that computes the network; it needs torch alone.

    The module is built as `GeneratedNet()`. It maps images (B, channels, H, W) to a score for each class (B, classes),
    before the softmax. Its weights are drawn as those of `module.ImageClassifier`, whose state it can load: tensors
    have other names, but the same order.

    Raises ConvNetError when `called` is no Python name.
    """
    if not called.isidentifier() or iskeyword(called):
        raise ConvNetError(f"{called!r:.100} cannot name a class", hint="for example net.to_pytorch('MyNet')")
    types = {layer.type for layer in net.layers}
    joins = [inputs for layer, inputs in zip(net.layers, net.connections, strict=True) if layer.type != ADD]
    is_joined = any(len(inputs) > 1 for inputs in (*joins, net.read_by_classifier))
    helpers = [_LARGEST] if is_joined or ADD in types else []
    helpers += [_JOIN] if is_joined else []
    helpers += [_TOTAL] if ADD in types else []
    helpers += [_CONTRAST] if CONTRAST_NORM in types else []
    code = [
        *(line for helper in helpers for line in ("", *helper.strip().splitlines(), "")),
        "",
        f"class {called}(nn.Module):",
        f'    """A network of {len(net.layers)} layers for images of {channels} channels and {net.classes} classes."""',
        "",
        *_init(net, channels),
        "",
        *_forward(net, channels),
    ]
    return "\n".join([*_imports("\n".join(code)), "", *code]) + "\n"


def _imports(code: str) -> list[str]:
    """The imports of what the code uses."""
    lines = ["import math", ""] if "math." in code else []
    lines += ["import torch"] if "torch." in code else []
    lines += ["from torch import Tensor, nn"]
    return lines + (["from torch.nn import functional as F"] if "F." in code else [])


def _init(net: Structure, channels: int) -> list[str]:
    shapes = net.depths(channels)
    body = ["super().__init__()"]
    for number, layer in enumerate(net.layers, 1):
        read, made = net.read_shape(number, shapes)[0], shapes[number][0]
        if layer.type == CONV:
            size = f"({layer.filter_height}, {layer.filter_width})"
            stride, padding = (layer.stride_height, layer.stride_width), (_padding(layer)[0], _padding(layer)[2])
            how = f", stride={stride}" if stride != (1, 1) else ""
            how += f", padding={padding}" if _is_centred(layer) and padding != (0, 0) else ""
            body.append(f"self.conv_{number} = nn.Conv2d({read}, {made}, {size}{how}, bias=False)")
        if layer.type in (CONV, BATCH_NORM):
            body.append(f"self.norm_{number} = nn.BatchNorm2d({made})")
    read = net.read_shape(len(net.layers) + 1, shapes)[0]
    body.append(f"self.classifier = nn.Linear({read}, {net.classes})")
    if any(layer.type == CONV for layer in net.layers):
        body += [
            "for layer in self.modules():",
            "    if isinstance(layer, nn.Conv2d):",
            "        numbers = layer.out_channels * math.prod(layer.kernel_size)",
            "        nn.init.normal_(layer.weight, 0, math.sqrt(2 / numbers))",
        ]
    body.append("nn.init.zeros_(self.classifier.bias)")
    return ["    def __init__(self) -> None:", *(f"        {line}" for line in body)]


def _forward(net: Structure, channels: int) -> list[str]:
    body = [f'"""image (B, {channels}, H, W) -> a score for each class (B, {net.classes}), before the softmax."""']
    for number, (layer, inputs) in enumerate(zip(net.layers, net.connections, strict=True), 1):
        if layer.type == ADD:
            read = _call("total", inputs)
        elif len(inputs) > 1:
            read = _call("join", inputs)
        else:
            read = _variable(inputs[0])
        line = f"{_variable(number)} = {_applied(layer, number, read)}"
        if len(line) > _LIMIT - 8:  # its indent
            body += _wrapped(f"read = {read}")
            line = f"{_variable(number)} = {_applied(layer, number, 'read')}"
        body.append(line)
    last = net.read_by_classifier
    body += _wrapped(f"last = {_call('join', last) if len(last) > 1 else _variable(last[0])}")
    body.append("return self.classifier(last.mean((2, 3)))")
    head = f"    def forward(self, {_variable(0)}: Tensor) -> Tensor:"
    return [head, *(f"        {line}" for line in body)]


def _variable(number: int) -> str:
    """What the source calls a layer's maps, and the image."""
    return name(number) if number else "image"


def _call(function: str, inputs: tuple[int, ...]) -> str:
    return f"{function}({', '.join(map(_variable, inputs))})"


def _wrapped(call: str) -> list[str]:
    """An assignment of a call, over as many lines as it takes."""
    if len(call) <= _LIMIT - 8:
        return [call]
    head, _, rest = call.partition("(")
    return [
        f"{head}(",
        *wrap(rest.removesuffix(")"), _LIMIT - 12, initial_indent=" " * 4, subsequent_indent=" " * 4),
        ")",
    ]


def _applied(layer: Layer, number: int, read: str) -> str:
    """What a layer makes of what it reads."""
    if layer.type == CONV:
        made = f"self.norm_{number}(self.conv_{number}({read if _is_centred(layer) else _padded(layer, read)}))"
        return f"F.relu({made})" if layer.activation == RELU else made
    if layer.type == ADD:
        return f"F.relu({read})" if layer.activation == RELU else read
    if layer.type == MAX_POOL:
        size, stride = (layer.filter_height, layer.filter_width), (layer.stride_height, layer.stride_width)
        return f"F.max_pool2d({_padded(layer, read, ', value=-math.inf')}, {size}, {stride})"
    return f"self.norm_{number}({read})" if layer.type == BATCH_NORM else f"contrast({read})"


def _is_centred(layer: Layer) -> bool:
    """Whether a window has a pixel in its middle, so that torch pads both sides alike."""
    return layer.filter_height % 2 == 1 and layer.filter_width % 2 == 1


def _padding(layer: Layer) -> tuple[int, int, int, int]:
    """By how many pixels what a window slides over is padded: above, below, at the left, at the right."""
    high, wide = layer.filter_height - 1, layer.filter_width - 1
    return high // 2, high - high // 2, wide // 2, wide - wide // 2


def _padded(layer: Layer, read: str, value: str = "") -> str:
    above, below, left, right = _padding(layer)
    return f"F.pad({read}, ({left}, {right}, {above}, {below}){value})" if above + below + left + right else read
