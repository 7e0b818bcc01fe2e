"""S17's language for recurrent cells: text in, an immutable `Cell` out (S17 section 2, appendix A).

This room imports the standard library and the parser generator, nothing else.
"""

from nasrepro.dsl.cell import CanonicalForm as CanonicalForm
from nasrepro.dsl.cell import Cell as Cell
from nasrepro.dsl.cell import canonical_form as canonical_form
from nasrepro.dsl.errors import CellError as CellError
from nasrepro.dsl.expression import Node as Node
from nasrepro.dsl.parser import parse as parse
from nasrepro.dsl.zoo import zoo as zoo
