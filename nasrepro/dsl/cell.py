"""A cell: an expression of the language with its identity (canonical form, hash) and everything it can be shown as."""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from html import escape
from typing import Any

from nasrepro.dsl.canonical import rewritten
from nasrepro.dsl.dress.latex import to_latex
from nasrepro.dsl.dress.mermaid import to_mermaid
from nasrepro.dsl.dress.pytorch import to_pytorch
from nasrepro.dsl.dress.svg import to_svg
from nasrepro.dsl.errors import CellError
from nasrepro.dsl.expression import MAX_HEIGHT, Expression, Node


class Cell(Expression):
    """A recurrent cell: `root` computes h_t; `memory` is the number of the operator that computes c_t, or None.

    Cells compare, hash and pickle by their text. `parse` reads them, `str` writes them.

    Raises CellError when the tree is higher than MAX_HEIGHT, or `memory` is no number, out of range, or given though
    nothing reads c_{t-1}.
    """

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
        return canonical_form(self).cell

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the canonical text: equal for equivalent cells, in any process and on any machine."""
        return sha256(str(self.canonical()).encode()).hexdigest()[:16]

    # ---- other dresses

    def to_json(self) -> str:
        """JSON text: {"format", "hash", "cell" (text), "tree" (nested lists), "memory"}. `from_json` reads it back."""
        return json.dumps(
            {"format": 1, "hash": self.hash, "cell": str(self), "tree": _tree(self.root), "memory": self.memory}
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
        return to_svg(self)

    def to_latex(self) -> str:
        """The cell's equations, h_t last, as a LaTeX `aligned` block."""
        return to_latex(self)

    def to_mermaid(self) -> str:
        """The tree as a Mermaid flow chart."""
        return to_mermaid(self)

    def to_pytorch(self, name: str = "GeneratedCell") -> str:
        """Source of a standalone `torch.nn.Module` that needs nothing but torch. Raises CellError if not runnable."""
        return to_pytorch(self, name)

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_latex_(self) -> str:
        return f"$${self.to_latex()}$$"

    def _repr_html_(self) -> str:
        # JupyterLab would show the equations rather than the drawing if it had to choose; HTML comes before both.
        return f"<div>{self.to_svg()}<pre style='white-space: pre-wrap'>{escape(str(self))}</pre></div>"


@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """The canonical cell, and how its matrices arise from the original's.

    `products[j]` lists (i, sign): the j-th MM of the canonical cell (post-order) has the weights and bias
    sum over (i, sign) of sign * (those of the original's i-th MM).
    """

    cell: Cell
    products: tuple[tuple[tuple[int, int], ...], ...]


@lru_cache(maxsize=4096)  # a search asks for the hash and then for the cell
def canonical_form(cell: Cell) -> CanonicalForm:
    """The canonical form of a cell. Applying it twice changes nothing."""
    root, memory, products = rewritten(cell)
    return CanonicalForm(Cell(root, memory), products)


def _tree(node: Node) -> list[Any]:
    return [node.op, *(_tree(arg) for arg in node.args)]


def _from_tree(tree: list[Any], height: int = 0) -> Node:
    if height > MAX_HEIGHT:
        raise CellError(f"the cell is higher than {MAX_HEIGHT} operators")
    return Node(tree[0], tuple(_from_tree(arg, height + 1) for arg in tree[1:]))
