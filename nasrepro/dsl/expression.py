"""An expression of the language: an immutable tree of operators over sources, and which operator's value is c_t.

What can be done with one (canonical form, drawing, equations, source) is written in terms of it; `dsl.cell` gathers
that as the methods of a cell.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Self

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


class Expression:
    """`root` computes h_t; `memory` is the number of the operator that computes c_t, or None.

    Operators are numbered from 0 in post-order, sources not counted; this reproduces every index that S17 prints.
    Expressions compare, hash and pickle by their text.

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
        return isinstance(other, Expression) and self.memory == other.memory and self.root == other.root

    def __hash__(self) -> int:
        return hash((self.root, self.memory))

    def __reduce__(self) -> tuple[type[Self], tuple[Node, int | None]]:
        return type(self), (self.root, self.memory)

    def __str__(self) -> str:
        return self.root.text if self.memory is None else f"{self.root.text}|{self.memory}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

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
