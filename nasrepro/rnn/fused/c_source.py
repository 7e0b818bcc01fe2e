"""Plan -> C: the elementwise kernels of a cell. Everything else a cell needs is in the shipped C library.

The text does not depend on the sizes of the layer, so one compiled object serves all of them.
"""

import re
from collections.abc import Iterator

from nasrepro.native import INCLUDE
from nasrepro.rnn.fused.plan import WIDE, Loop, Place, Plan

SPACES: tuple[str, ...] = tuple(
    re.search(r"enum space \{(.*?)SPACES", (INCLUDE / "cell.h").read_text(encoding="utf-8"), re.DOTALL)[1]  # type: ignore[index]
    .lower()
    .replace(",", " ")
    .split()
)
"""Names of the spaces, in the order of the numbers that C gives them."""


def c_source(plan: Plan) -> str:
    """The kernels of a plan: functions `forward_PART_LEVEL` and `backward_PART_LEVEL`, where there is work."""
    functions = [
        text
        for part, number, level in plan.levels
        for direction, loops in (("forward", level.forward), ("backward", level.backward))
        if loops
        for text in _kernel(f"{direction}_{part}_{number}", loops)
    ]
    return "\n".join([f"/* {plan.program.cell} */", '#include "rows.h"', '#include "functions.h"', *functions, ""])


def _kernel(name: str, loops: tuple[Loop, ...]) -> Iterator[str]:
    """A function over rows; its work on the units of a row is a function for each loop."""
    calls = []
    for loop in loops:
        units = f"{name}_input" if loop.wide else f"{name}_units"
        yield from _units(units, loop)
        share = "0, input" if loop.wide else "first, last"
        calls.append(f"    OVER_ROWS({units}_places, {units}, {share});")
    yield f"void {name}(KERNEL_ARGUMENTS) {{"
    yield from calls
    yield "}"


def _units(name: str, loop: Loop) -> Iterator[str]:
    """Where the values lie, and the loop over units j, a vector at a time: loads, statements, stores."""
    stored = [place for place, _, _ in loop.stores]
    places = list(dict.fromkeys([*(place for _, place in loop.loads), *stored]))
    yield f"static const struct place {name}_places[] = {{"
    for place in places:
        wide, written = int(place.space in WIDE), int(place in stored)
        yield f"    {{{place.space.upper()}, {place.column}, {wide}, {written}}},"
    yield "};"
    yield f"static void {name}(float *const *at, long j, long end) {{"
    for number, place in enumerate(places):
        yield f"    float *const {_pointer(place)} = at[{number}];"
    yield "    for (; j < end; j += LANES) {"
    for value, place in loop.loads:
        yield f"        const vec {value} = load({_pointer(place)} + j, LANES);"
    for value, text in loop.statements:
        yield f"        const vec {value} = {text};"
    for place, value, accumulate in loop.stores:
        kept = f"load({_pointer(place)} + j, LANES) + " if accumulate else ""
        yield f"        store({_pointer(place)} + j, {kept}{value}, LANES);"
    yield "    }"
    yield "}"


def _pointer(place: Place) -> str:
    return f"at_{place.space}_{place.column}"
