"""A cell as a drawing: the tree with h_t at the top, laid out and written as SVG here, with no need of `dot`.

The layout is the contour form of Reingold & Tilford 1981, "Tidier Drawings of Trees": subtrees are laid out
first, then pushed together until their outlines touch; each parent stands over the middle of its arguments.

Colours are Okabe & Ito's, which people with any colour vision can tell apart. They are written on each shape,
not in a style sheet, which would leak into the page around it; the background is ours, for dark themes.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from nasrepro.dsl.expression import Expression, Node
from nasrepro.dsl.operators import OPERATORS

# kind of node -> fill, text
COLOURS = {
    "matrix": ("#0072B2", "#FFFFFF"),
    "activation": ("#E69F00", "#1A1A1A"),
    "combine": ("#56B4E9", "#1A1A1A"),
    "gate": ("#CC79A7", "#1A1A1A"),
    "source": ("#F7F2C0", "#1A1A1A"),
}
BACKGROUND, INK, FAINT, MEMORY = "#FFFFFF", "#1A1A1A", "#666666", "#D55E00"

HEIGHT = 24.0  # of a node; all lengths are in pixels at natural size
LEVEL = 52.0  # between two levels of the tree
GAP = 20.0  # between neighbours; the small number of the left one stands in it
MARGIN = 14.0
TOP = 26.0  # room for h_t above the root
FONT = 'font-family="Helvetica, Arial, sans-serif" text-anchor="middle"'
SIZE = re.compile(r'width="\d+" viewBox="0 0 (\d+) (\d+)" style="[^"]*"')  # what _size writes


def kind_of(node: Node) -> str:
    """The key of COLOURS under which a node is drawn."""
    special = {"MM": "matrix", "Gate3": "gate"}
    if node.is_source or node.op in special:
        return special.get(node.op, "source")
    return "activation" if OPERATORS[node.op].arity == 1 else "combine"


@dataclass(slots=True, eq=False)
class Box:
    """A node of the drawing; x is first relative to its parent, then absolute."""

    node: Node
    number: int | None
    """Post-order number of an operator, None for sources."""
    is_memory: bool
    args: list["Box"]
    x: float = 0.0
    y: float = 0.0
    width: float = field(init=False)

    def __post_init__(self) -> None:
        shown = re.sub(r"[_{}]", "", self.node.op)
        self.width = max(34.0, 7.4 * len(shown) + 14)

    def walk(self) -> Iterator["Box"]:
        """Pre-order: the order of a generator that always fills the leftmost empty slot."""
        yield self
        for arg in self.args:
            yield from arg.walk()


def to_svg(cell: Expression) -> str:
    """The cell's tree as SVG: h_t at the top, sources at the bottom, as wide as the page allows.

    Small numbers are the operators' post-order numbers; the operator whose value is c_t has a ring. The
    arguments of Gate3 are marked a, b and f, as in f a + (1 - f) b.
    """
    root, width, height = lay_out(cell)
    shapes = [*_edges(root), *(shape for box in root.walk() for shape in _node(box, number=True))]
    return _document(f"Cell {cell}", root, shapes, width, height)


def growth_frames(cell: Expression) -> list[str]:
    """The cell grown from h_t, one drawing per action and one before the first (S17 Figure 2).

    Each action fills the leftmost empty slot; empty slots are dashed, the newest node has a bold outline. All
    frames share one layout, to be stepped through: `growth_frames(cell)[k]` holds k nodes, sources counted.
    """
    root, width, height = lay_out(cell)
    order = list(root.walk())
    frames = []
    for count in range(len(order) + 1):
        placed = order[:count]
        slots = [box for parent in placed for box in parent.args if box not in placed] if placed else [root]
        shapes = _edges(root, {*placed, *slots})
        shapes += [_slot(box) for box in slots]
        shapes += [shape for box in placed for shape in _node(box, newest=box is placed[-1])]
        action = f"{count} of {len(order)} nodes placed"
        frames.append(_document(f"Growing {cell}: {action}", root, shapes, width, height))
    return frames


def side_by_side(svgs: Sequence[str], captions: Sequence[str], columns: int = 4) -> str:
    """HTML that shows drawings in a grid, each over its caption."""
    figures = "".join(
        f"<figure style='margin: 0'>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in zip(svgs, captions, strict=True)
    )
    grid = f"display: grid; grid-template-columns: repeat({columns}, minmax(0, 1fr)); gap: 12px"
    return f"<div style='{grid}; align-items: end; text-align: center'>{figures}</div>"


def sheet(svgs: Sequence[str], captions: Sequence[str], width: int = 1000) -> str:
    """One SVG with several drawings, in rows from left to right, each over its caption.

    All stand at their natural size, so that nodes compare; only a drawing wider than the sheet shrinks.
    """
    rows: list[list[tuple[str, str, float, float]]] = []
    left = 0.0
    for svg, caption in zip(svgs, captions, strict=True):
        natural, high = map(float, SIZE.search(svg).groups())  # type: ignore[union-attr]  # we wrote it
        wide = max(min(natural, width), 6.5 * len(caption))
        if not rows or left + wide > width:
            rows.append([])
            left = 0.0
        rows[-1].append((svg, caption, wide, high * min(1.0, width / natural)))
        left += wide + GAP
    shapes, top = [], 0.0
    for row in rows:
        bottom = top + max(high for *_, high in row)
        left = (width - sum(wide + GAP for _, _, wide, _ in row) + GAP) / 2
        for svg, caption, wide, high in row:
            place = f'x="{left:.1f}" y="{bottom - high:.1f}" width="{wide:.1f}" height="{high:.1f}"'
            shapes.append(SIZE.sub(rf'{place} viewBox="0 0 \1 \2"', svg, count=1))
            shapes.append(_text(caption, left + wide / 2, bottom + 10, INK, 12, plain=True))
            left += wide + GAP
        top = bottom + HEIGHT + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {_size(width, top)} {FONT}>',
            f'<rect width="100%" height="100%" fill="{BACKGROUND}"/>',
            *shapes,
            "</svg>",
        ]
    )


# ---- layout


def lay_out(cell: Expression) -> tuple[Box, float, float]:
    """The box of h_t, all others at their places below it, and the width and height of the whole, in pixels."""
    root = _boxes(cell)
    outline = _place(root)
    left, right = min(lo for lo, _ in outline), max(hi for _, hi in outline)
    _settle(root, MARGIN - left, MARGIN + TOP + HEIGHT / 2)
    return root, right - left + 2 * MARGIN, 2 * MARGIN + TOP + HEIGHT + (len(outline) - 1) * LEVEL


def _boxes(cell: Expression) -> Box:
    count = 0

    def build(node: Node) -> Box:
        nonlocal count
        args = [build(arg) for arg in node.args]
        if node.is_source:
            return Box(node, None, False, args)
        count += 1
        return Box(node, count - 1, count - 1 == cell.memory, args)

    return build(cell.root)


def _place(box: Box) -> list[tuple[float, float]]:
    """Set the arguments' x relative to `box`; return its outline, (left, right) per level, relative to it."""
    merged: list[tuple[float, float]] = []
    for arg in box.args:
        outline = _place(arg)
        # As far left as the outlines so far allow, on every level that both have.
        arg.x = max((hi - lo + GAP for (_, hi), (lo, _) in zip(merged, outline, strict=False)), default=0.0)
        shifted = [(lo + arg.x, hi + arg.x) for lo, hi in outline]
        shared = [(mine[0], new[1]) for mine, new in zip(merged, shifted, strict=False)]
        merged = shared + merged[len(shared) :] + shifted[len(shared) :]
    middle = (box.args[0].x + box.args[-1].x) / 2 if box.args else 0.0
    for arg in box.args:
        arg.x -= middle
    half = box.width / 2
    own = (-half - (26.0 if box.is_memory else 0.0), half + (0.0 if box.number is None else 14.0))
    return [own, *((lo - middle, hi - middle) for lo, hi in merged)]


def _settle(box: Box, x: float, y: float) -> None:
    box.x, box.y = box.x + x, y
    for arg in box.args:
        _settle(arg, box.x, y + LEVEL)


# ---- shapes


def _document(title: str, root: Box, shapes: Sequence[str], width: float, height: float) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {_size(width, height)} {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="6" fill="{BACKGROUND}"/>',
        f'<path d="M{root.x:.1f} {root.y - HEIGHT / 2:.1f}v-10" stroke="{FAINT}" stroke-width="1.5"/>',
        _text("h_t", root.x, root.y - HEIGHT / 2 - 19, INK, 14),
        *shapes,
        "</svg>",
    ]
    return "\n".join(lines)


def _size(width: float, height: float) -> str:
    return f'width="{width:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: 100%; height: auto"'


def _edges(root: Box, shown: Collection[Box] | None = None) -> list[str]:
    """The lines between nodes; with `shown`, only those down to these nodes."""
    shapes = []
    for box in root.walk():
        for name, arg in zip("abf", box.args, strict=False):
            if shown is not None and arg not in shown:
                continue
            top, bend = box.y + HEIGHT / 2, (LEVEL - HEIGHT) / 2
            is_gate = box.node.op == "Gate3"
            dash = ' stroke-dasharray="4 3"' if is_gate and name == "f" else ""
            across = arg.x - box.x
            curve = f"M{box.x:.1f} {top:.1f}c0 {bend} {across:.1f} {bend} {across:.1f} {2 * bend}"
            shapes.append(f'<path d="{curve}" stroke="{FAINT}" stroke-width="1.5" fill="none"{dash}/>')
            if is_gate:
                outside = 8 if across > 0 else -8  # the edge arrives from the other side
                above = 12 if arg.is_memory else 8  # clear of its ring
                shapes.append(_text(name, arg.x + outside, arg.y - HEIGHT / 2 - above, FAINT, 11))
    return shapes


def _node(box: Box, number: bool = False, newest: bool = False) -> Iterator[str]:
    fill, ink = COLOURS[kind_of(box.node)]
    if box.is_memory:
        yield _rectangle(box, 3.5, f'fill="none" stroke="{MEMORY}" stroke-width="2.5"')
        yield _text("c_t", box.x - box.width / 2 - 17, box.y, MEMORY, 14)
    yield _rectangle(box, 0, f'fill="{fill}" stroke="{INK}" stroke-width="{3 if newest else 0.8}"')
    yield _text(box.node.op, box.x, box.y, ink, 12)
    if number and box.number is not None:
        ring = 4 if box.is_memory else 0
        place = f'x="{box.x + box.width / 2 + 2.5 + ring:.1f}" y="{box.y - HEIGHT / 2 + 3:.1f}"'
        yield f'<text {place} font-size="9" text-anchor="start" fill="{FAINT}">{box.number}</text>'


def _slot(box: Box) -> str:
    # Always of one shape, so that it does not give away what will fill it.
    place = f'x="{box.x - 17:.1f}" y="{box.y - HEIGHT / 2:.1f}" width="34" height="{HEIGHT}" rx="6"'
    return f'<rect {place} fill="none" stroke="{FAINT}" stroke-width="1.5" stroke-dasharray="4 3"/>'


def _rectangle(box: Box, around: float, paint: str) -> str:
    width, height = box.width + 2 * around, HEIGHT + 2 * around
    corner = height / 2 if box.node.is_source else 6 + around
    place = f'x="{box.x - width / 2:.1f}" y="{box.y - height / 2:.1f}"'
    return f'<rect {place} width="{width:.1f}" height="{height:.1f}" rx="{corner:.1f}" {paint}/>'


def _text(text: str, x: float, y: float, colour: str, size: int, plain: bool = False) -> str:
    """Text centred on (x, y). Unless plain, h_{t-1} and the like have their index lowered, in italics."""
    name, _, index = (text, "", "") if plain else text.partition("_")
    index = index.strip("{}").replace("-", "\N{MINUS SIGN}")
    style = ' font-style="italic"' if not plain and (index or len(name) == 1) else ""
    lowered = f'<tspan dy="3" font-size="{size - 3}">{index}</tspan>' if index else ""
    place = f'x="{x:.1f}" y="{y + 0.35 * size - (1 if index else 0):.1f}"'
    return f'<text {place} font-size="{size}" fill="{colour}"{style}>{escape(name)}{lowered}</text>'
