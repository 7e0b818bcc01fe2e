"""Hypothesis strategies that several rooms' tests share: random cells of the language.

>>> from hypothesis import given
>>> from tests.strategies import cells
>>> @given(cells(words=words("core"), max_height=4))
... def test_something(cell): ...
"""

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from nasrepro.dsl import Cell, Node
from nasrepro.dsl.constraints import words as words_of
from nasrepro.dsl.operators import OPERATORS

EVERY_WORD = words_of("core", "extended", "zl17")


@st.composite
def nodes(draw: st.DrawFn, words: Sequence[str] = EVERY_WORD, max_height: int = 5, min_height: int = 0) -> Node:
    """Trees over these operators and sources, with heights in the given range. They shrink to sources."""
    by_arity: dict[int, list[str]] = {}
    for word in words:
        by_arity.setdefault(OPERATORS[word].arity if word in OPERATORS else 0, []).append(word)
    # Every number of arguments is as likely as the others, so that trees neither die out nor explode.
    share = math.lcm(*map(len, by_arity.values()))
    weighted = {arity: names * (share // len(names)) for arity, names in sorted(by_arity.items())}
    anything = st.sampled_from([name for names in weighted.values() for name in names])
    operator = st.sampled_from([name for arity, names in weighted.items() if arity for name in names])
    source = st.sampled_from(by_arity[0])

    def grow(room: int, needed: int) -> Node:
        name = draw(source if room == 0 else operator if needed > 0 else anything)
        arity = OPERATORS[name].arity if name in OPERATORS else 0
        return Node(name, tuple(grow(room - 1, needed - 1) for _ in range(arity)))

    return grow(max_height, min_height)


@st.composite
def cells(draw: st.DrawFn, words: Sequence[str] = EVERY_WORD, max_height: int = 5, memory: bool = True) -> Cell:
    """Runnable cells of at least one operator.

    `words` are the operators and sources to draw from, by default the whole language. Where a tree reads
    c_{t-1}, any of its operators may be c_t; `memory=False` leaves c_{t-1} out.
    """
    allowed = [word for word in words if memory or word != "c_{t-1}"]
    root = draw(nodes(allowed, max_height, min_height=1))
    place = draw(st.integers(0, root.size - 1)) if "c_{t-1}" in root.text else None
    return Cell(root, place)
