"""A cell as a Mermaid flow chart, which GitHub and many note-taking programs draw from text."""

from nasrepro.dsl.dress.svg import COLOURS, INK, MEMORY, kind_of
from nasrepro.dsl.expression import Expression, Node


def to_mermaid(cell: Expression) -> str:
    """The cell's tree as `flowchart TD`: h_t at the top, nodes n0, n1, ... in post-order, sources counted.

    The node whose value is c_t says so and has a thick border. Gate3's edges are marked a, b and f.
    """
    nodes: list[str] = []
    edges: list[str] = []
    styles = [f"classDef {kind} fill:{fill},color:{ink},stroke:{INK}" for kind, (fill, ink) in COLOURS.items()]
    operators = 0

    def write(node: Node) -> str:
        nonlocal operators
        args = [write(arg) for arg in node.args]
        name, label = f"n{len(nodes)}", node.op
        if not node.is_source:
            if operators == cell.memory:
                label += ", c_t"
                styles.append(f"style {name} stroke:{MEMORY},stroke-width:4px")
            operators += 1
        # Quotes protect the braces of h_{t-1}.
        shape = f'(["{label}"])' if node.is_source else f'("{label}")'
        nodes.append(f"{name}{shape}:::{kind_of(node)}")
        lines = ("-- a ---", "-- b ---", "-. f .-") if node.op == "Gate3" else ("---", "---")
        edges.extend(f"{name} {line} {arg}" for line, arg in zip(lines, args, strict=False))
        return name

    root = write(cell.root)
    return "\n    ".join(["flowchart TD", *nodes, f'h["h_t"] --- {root}', *edges, *styles]) + "\n"
