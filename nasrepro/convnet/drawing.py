"""A network as a drawing: layers from the image at the bottom to the softmax at the top, connections as lines and arcs.

A connection to the next layer is a straight line. All others are arcs, which leave a layer at its right or its left
side in turn, in the colour of the layer that is read; an arc that spans more layers reaches out further. The colours
are Okabe & Ito's, which people with any colour vision can tell apart. They are written on each shape, not in a style
sheet, which would leak into the page around it; the background is ours, for dark themes.
"""

from html import escape

from nasrepro.convnet.layers import ADD, BATCH_NORM, CONTRAST_NORM, CONV, IDENTITY, MAX_POOL, Layer
from nasrepro.convnet.structure import Structure

# type of layer -> fill, text
COLOURS = {
    CONV: ("#CFE6F5", "#1A1A1A"),
    MAX_POOL: ("#F7E0B0", "#1A1A1A"),
    BATCH_NORM: ("#CDEBE0", "#1A1A1A"),
    CONTRAST_NORM: ("#E9D3E1", "#1A1A1A"),
    ADD: ("#F7F2C0", "#1A1A1A"),
    "end": ("#EEEEEE", "#1A1A1A"),
}
ARCS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07D00", "#3A9BD9", "#1A1A1A")
BACKGROUND, INK, FAINT = "#FFFFFF", "#1A1A1A", "#666666"

HEIGHT = 22.0  # of a box; all lengths are in pixels at natural size
LEVEL = 40.0  # between two layers
MARGIN = 14.0
LETTER = 6.3  # the mean width of a letter
FONT = 'font-family="Helvetica, Arial, sans-serif" text-anchor="middle"'
SIZE = 12


def to_svg(net: Structure) -> str:
    """The network as SVG, as wide as the page allows."""
    words = ["image", *map(label, net.layers), "softmax"]
    top = len(words) - 1
    edges = [*net.edges(), *((number, top) for number in net.read_by_classifier)]
    skips = [(start, end) for start, end in edges if end != start + 1]
    box = max(len(each) for each in words) * LETTER + 40
    reach = {side: max((_reach(s, e) for s, e in skips if _side(s) == side), default=0.0) for side in (-1, 1)}
    # A cubic curve comes as near as three quarters of the way to handles that stand equally far out.
    width = 4 * MARGIN + box + 0.75 * (reach[-1] + reach[1])
    middle = 2 * MARGIN + 0.75 * reach[-1] + box / 2
    height = 2 * MARGIN + HEIGHT + top * LEVEL
    level = [height - MARGIN - HEIGHT / 2 - LEVEL * number for number in range(top + 1)]
    shapes = [_line(middle, level[start], level[end]) for start, end in edges if end == start + 1]
    shapes += _arcs(skips, middle, box, level)
    for number, text in enumerate(words):
        kind = net.layers[number - 1].type if 0 < number < top else "end"
        shapes += _box(text, kind, middle, level[number], box)
        if kind != "end":
            shapes.append(_text(str(number), middle - box / 2 + 10, level[number], FAINT, 9))
    size = f'width="{width:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: 100%; height: auto"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} {FONT}>',
        f"<title>Network of {len(net.layers)} layers</title>",
        f'<rect width="100%" height="100%" rx="6" fill="{BACKGROUND}"/>',
        *shapes,
        "</svg>",
    ]
    return "\n".join(lines)


def label(layer: Layer) -> str:
    """What is written on a layer: height x width of its filters, how many, and strides where there are any."""
    if layer.type in (BATCH_NORM, CONTRAST_NORM):
        return layer.type.replace("_", " ")
    activation = ", no rectifier" if layer.activation == IDENTITY else ""
    if layer.type == ADD:
        return f"add{activation}"
    strides = (layer.stride_height, layer.stride_width)
    stride = f", stride {strides[0]} × {strides[1]}" if strides != (1, 1) else ""
    size = f"{layer.filter_height} × {layer.filter_width}"
    return (
        f"max pool {size}{stride}" if layer.type == MAX_POOL else f"{size}, {layer.filters} filters{stride}{activation}"
    )


def _side(start: int) -> int:
    return 1 if start % 2 else -1


def _reach(start: int, end: int) -> float:
    """How far the handles of an arc stand out."""
    return 26.0 + 20.0 * (end - start) ** 0.8


def _line(x: float, start: float, end: float) -> str:
    return f'<path d="M{x:.1f} {start - HEIGHT / 2:.1f}V{end + HEIGHT / 2:.1f}" stroke="{FAINT}" stroke-width="1.5"/>'


def _arcs(skips: list[tuple[int, int]], middle: float, box: float, level: list[float]) -> list[str]:
    """An arc for each connection, given the middle and the width of boxes and the height of each."""
    arriving: dict[tuple[int, int], list[int]] = {}  # box and side -> where the arcs that arrive there begin
    for start, end in sorted(skips, reverse=True):
        arriving.setdefault((end, _side(start)), []).append(start)
    shapes = []
    for (end, side), starts in arriving.items():
        for rank, start in enumerate(starts):
            landing = (rank + 0.5) / len(starts)
            shapes += _arc(middle + side * box / 2, level[start], level[end], start, end, landing)
    return shapes


def _arc(x: float, bottom: float, top: float, start: int, end: int, landing: float) -> list[str]:
    """A curve between the sides of two boxes, and its arrow: it leaves above the middle of its box.

    `landing` says where it arrives, from 0, a little above the middle, to 1, near the box's lower edge.
    """
    side, colour = _side(start), ARCS[start % len(ARCS)]
    bottom, top, far = bottom - 5, top - 4 + 13 * landing, x + side * _reach(start, end)
    curve = f"M{x:.1f} {bottom:.1f}C{far:.1f} {bottom:.1f} {far:.1f} {top:.1f} {x:.1f} {top:.1f}"
    tail = x + side * 5
    arrow = f"M{tail:.1f} {top - 2.5:.1f}L{x:.1f} {top:.1f}L{tail:.1f} {top + 2.5:.1f}z"
    return [
        f'<path d="{curve}" stroke="{colour}" stroke-width="1.3" fill="none"/>',
        f'<path d="{arrow}" fill="{colour}"/>',
    ]


def _box(text: str, kind: str, x: float, y: float, width: float) -> list[str]:
    fill, ink = COLOURS[kind]
    place = f'x="{x - width / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{width:.1f}" height="{HEIGHT}" rx="5"'
    return [f'<rect {place} fill="{fill}" stroke="{INK}" stroke-width="0.8"/>', _text(text, x, y, ink, SIZE)]


def _text(text: str, x: float, y: float, colour: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
