"""A cell: an immutable tree of operators over sources, and which operator's value is the long-term memory c_t."""

import json
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from typing import Any

from nasrepro.dsl.errors import CellError
from nasrepro.dsl.operators import OPERATORS, SOURCES

MAX_HEIGHT = 200
"""Higher trees are refused: every walk below is a plain recursion, and no cell of either paper exceeds 11."""


class Node:
    """One operator applied to its arguments, or a source when it has none.

    Nodes are values: two nodes are equal when they print alike. A cell is a tree, so a node that occurs twice is two
    operators with weights of their own.
    """

    __slots__ = ("_hash", "args", "height", "op", "size", "text")
    op: str
    args: tuple["Node", ...]
    text: str
    size: int
    """Operators in the subtree, sources not counted."""
    height: int
    """Edges to the deepest source."""

    def __init__(self, op: str, args: tuple["Node", ...] = ()) -> None:
        arity = OPERATORS[op].arity if op in OPERATORS else 0 if op in SOURCES else None
        if arity is None:
            raise CellError(f"unknown operator or source {op!r}")
        if len(args) != arity:
            raise CellError(f"{op} takes {arity} arguments, got {len(args)}")
        write = object.__setattr__
        write(self, "op", op)
        write(self, "args", args)
        write(self, "text", f"{op}({', '.join(arg.text for arg in args)})" if args else op)
        write(self, "size", 1 + sum(arg.size for arg in args) if args else 0)
        write(self, "height", 1 + max(arg.height for arg in args) if args else 0)
        write(self, "_hash", hash(self.text))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a cell is immutable: cannot set {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.text == other.text

    def __hash__(self) -> int:
        return int(self._hash)  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[type["Node"], tuple[str, tuple["Node", ...]]]:
        return Node, (self.op, self.args)

    def __repr__(self) -> str:
        return f"Node({self.text!r})"

    @property
    def is_source(self) -> bool:
        """Whether the node is a leaf."""
        return not self.args

    def walk(self) -> Iterator["Node"]:
        """Every node of the subtree in post-order, sources included, arguments left to right."""
        for arg in self.args:
            yield from arg.walk()
        yield self


class Cell:
    """A recurrent cell: `root` computes h_t; `memory` is the number of the operator that computes c_t, or None.

    Operators are numbered from 0 in post-order, sources not counted; this reproduces every index that S17 prints.
    Cells compare, hash and pickle by their text. `parse` reads them, `str` writes them.

    Raises CellError when the tree is higher than MAX_HEIGHT, or `memory` is no number, out of range, or given though
    nothing reads c_{t-1}.
    """

    root: Node
    memory: int | None

    def __init__(self, root: Node, memory: int | None = None) -> None:
        if root.height > MAX_HEIGHT:
            raise CellError(f"the cell is higher than {MAX_HEIGHT} operators")
        if memory is not None and type(memory) is not int:  # True and 18.0 would print as what no parser reads
            raise CellError(f"memory is the number of an operator, or None; got {memory!r}")
        if memory is not None and not 0 <= memory < root.size:
            raise CellError(f"|{memory} is out of range: {root.text} has {root.size} operators, numbered from 0")
        if memory is not None and "c_{t-1}" not in root.text:
            raise CellError(f"|{memory} says what c_t is, but nothing in {root.text} reads c_{{t-1}}")
        self.__dict__.update(root=root, memory=memory)

    # A plain class rather than a dataclass: cached properties need a __dict__, and writes to it stay forbidden.
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a cell is immutable: cannot set {name}; build another with nr.parse(...)")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.memory == other.memory and self.root == other.root

    def __hash__(self) -> int:
        return hash((self.root, self.memory))

    def __reduce__(self) -> tuple[type["Cell"], tuple[Node, int | None]]:
        return Cell, (self.root, self.memory)

    def __str__(self) -> str:
        return self.root.text if self.memory is None else f"{self.root.text}|{self.memory}"

    def __repr__(self) -> str:
        return f"Cell({str(self)!r})"

    # ---- what is in it

    @cached_property
    def operators(self) -> tuple[Node, ...]:
        """The operators in post-order: `cell.operators[k]` is the node that `|k` names."""
        return tuple(node for node in self.root.walk() if node.args)

    @cached_property
    def sources(self) -> frozenset[str]:
        """Names of the sources that the cell reads."""
        return frozenset(name for name in SOURCES if name in self.root.text)  # no name is part of another

    @property
    def size(self) -> int:
        """Operators, sources not counted: the convention under which S17's limit of 21 admits BC3 (18)."""
        return self.root.size

    @cached_property
    def full_size(self) -> int:
        """Operators and sources: the convention under which a GRU has S17's 21 nodes."""
        return sum(1 for _ in self.root.walk())

    @property
    def height(self) -> int:
        """Edges from h_t to the deepest source."""
        return self.root.height

    @property
    def is_runnable(self) -> bool:
        """False while the cell reads c_{t-1} and no |k says what c_t is."""
        return self.memory is not None or "c_{t-1}" not in self.sources

    def memory_candidates(self) -> list["Cell"]:
        """The cells that differ only in where c_t is read off (S17 section 2.3).

        One for each subgraph below h_t that contains c_{t-1} and has at least three nodes, sources counted. The list
        is empty when nothing reads c_{t-1}.
        """
        return [
            Cell(self.root, k)
            for k, node in enumerate(self.operators[:-1])
            if "c_{t-1}" in node.text and sum(1 for _ in node.walk()) >= 3
        ]

    # ---- identity

    def canonical(self) -> "Cell":
        """The representative of all cells that compute the same functions by renaming (see `dsl.canonical`)."""
        from nasrepro.dsl.canonical import canonical_form

        return canonical_form(self).cell

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the canonical text: equal for equivalent cells, in any process and on any machine."""
        return sha256(str(self.canonical()).encode()).hexdigest()[:16]

    # ---- other dresses

    def to_json(self) -> str:
        """JSON text: {"format", "hash", "cell" (text), "tree" (nested lists), "memory"}. `from_json` reads it back."""
        return json.dumps(
            {
                "format": 1,
                "hash": self.hash,
                "cell": str(self),
                "tree": _tree(self.root),
                "memory": self.memory,
            }
        )

    @staticmethod
    def from_json(text: str) -> "Cell":
        """The cell that `to_json` wrote.

        Raises CellError when the text is not such JSON, or its "cell" or "hash", which may be missing, is another's.
        """
        try:
            data = json.loads(text)
            cell = Cell(_from_tree(data["tree"]), data["memory"])
        except CellError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise CellError(f"not a cell's JSON: {error!r}", hint="write one with cell.to_json()") from None
        for name, expected in (("cell", str(cell)), ("hash", cell.hash)):
            if data.get(name, expected) != expected:
                raise CellError(
                    f"the JSON contradicts itself: its tree has the {name} {expected!r}, and not {data[name]!r}",
                    hint="write one with cell.to_json()",
                )
        return cell

    def to_svg(self) -> str:
        """A drawing of the tree, h_t at the top, as SVG text."""
        from nasrepro.dsl.dress.svg import to_svg

        return to_svg(self)

    def to_latex(self) -> str:
        """The cell's equations, h_t last, as a LaTeX `aligned` block."""
        from nasrepro.dsl.dress.latex import to_latex

        return to_latex(self)

    def to_mermaid(self) -> str:
        """The tree as a Mermaid flow chart."""
        from nasrepro.dsl.dress.mermaid import to_mermaid

        return to_mermaid(self)

    def to_pytorch(self, name: str = "GeneratedCell") -> str:
        """Source of a standalone `torch.nn.Module` that needs nothing but torch. Raises CellError if not runnable."""
        from nasrepro.dsl.dress.pytorch import to_pytorch

        return to_pytorch(self, name)

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_latex_(self) -> str:
        return f"$${self.to_latex()}$$"

    def _repr_html_(self) -> str:
        from html import escape

        # JupyterLab would show the equations rather than the drawing if it had to choose; HTML comes before both.
        return f"<div>{self.to_svg()}<pre style='white-space: pre-wrap'>{escape(str(self))}</pre></div>"


def _tree(node: Node) -> list[Any]:
    return [node.op, *(_tree(arg) for arg in node.args)]


def _from_tree(tree: list[Any], height: int = 0) -> Node:
    if height > MAX_HEIGHT:
        raise CellError(f"the cell is higher than {MAX_HEIGHT} operators")
    return Node(tree[0], tuple(_from_tree(arg, height + 1) for arg in tree[1:]))
