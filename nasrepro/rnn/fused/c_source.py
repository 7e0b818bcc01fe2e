"""Plan -> C: the elementwise kernels of a cell. Everything else a cell needs is in the shipped C library.

The text does not depend on the sizes of the layer, so one compiled object serves all of them.
"""

import re
from collections.abc import Iterator

from nasrepro.native import INCLUDE
from nasrepro.rnn.fused.plan import Loop, Place, Plan

SPACES: tuple[str, ...] = tuple(
    re.search(r"enum space \{(.*?)SPACES", (INCLUDE / "cell.h").read_text(encoding="utf-8"), re.DOTALL)[1]  # type: ignore[index]
    .lower()
    .replace(",", " ")
    .split()
)
"""Names of the spaces, in the order of the numbers that C gives them."""

WIDE = frozenset({"x", "x_before", "saved_wide", "d_x", "d_x_before", "d_early_wide"})
"""Spaces whose column blocks are input_size wide."""


def c_source(plan: Plan) -> str:
    """The kernels of a plan: functions `forward_PART_LEVEL` and `backward_PART_LEVEL`, where there is work."""
    functions = [
        text
        for part, number, level in plan.levels
        for direction, loops in (("forward", level.forward), ("backward", level.backward))
        if loops
        for text in _function(f"{direction}_{part}_{number}", loops)
    ]
    return "\n".join([f"/* {plan.program.cell} */", '#include "cell.h"', '#include "functions.h"', *functions])


def _function(name: str, loops: tuple[Loop, ...]) -> Iterator[str]:
    for number, loop in enumerate(loops):
        yield from _body(f"{name}_units_{number}", loop)
    yield (
        f"void {name}(float *const *at, const long *row, long rows, long hidden, long input, long first, long last) {{"
    )
    yield "    (void)hidden, (void)input, (void)first, (void)last;"
    yield "    for (long r = 0; r < rows; r++) {"
    for number, loop in enumerate(loops):
        begin, end = ("0", "input") if loop.wide else ("first", "last")
        pointers = ", ".join(f"at[{space}] + r * row[{space}]" for space in _spaces(loop))
        yield f"        long j{number} = {begin};"
        yield f"        for (; j{number} + LANES <= {end}; j{number} += LANES)"
        yield f"            {name}_units_{number}({pointers}, hidden, input, j{number}, LANES);"
        yield f"        if (j{number} < {end})"
        yield f"            {name}_units_{number}({pointers}, hidden, input, j{number}, {end} - j{number});"
    yield "    }"
    yield "}"


def _body(name: str, loop: Loop) -> Iterator[str]:
    """Units j ... j + n - 1 of one row: loads, statements, stores."""
    pointers = ", ".join(f"float *{_pointer(space)}" for space in _spaces(loop))
    yield f"INLINE void {name}({pointers}, long hidden, long input, long j, long n) {{"
    yield "    (void)hidden, (void)input;"
    for value, place in loop.loads:
        yield f"    const vec {value} = load({_address(place)}, n);"
    for value, text in loop.statements:
        yield f"    const vec {value} = {text};"
    for place, value, accumulate in loop.stores:
        kept = f"load({_address(place)}, n) + " if accumulate else ""
        yield f"    store({_address(place)}, {kept}{value}, n);"
    yield "}"


def _spaces(loop: Loop) -> list[str]:
    places = [place for _, place in loop.loads] + [place for place, _, _ in loop.stores]
    return sorted({place.space.upper() for place in places})


def _pointer(space: str) -> str:
    return f"at_{space.lower()}"


def _address(place: Place) -> str:
    width = "input" if place.space in WIDE else "hidden"
    return f"{_pointer(place.space)} + {place.column} * {width} + j"
