"""Plan -> Triton: the elementwise kernels of a cell, and the module that they become.

The text does not depend on the sizes of the layer, and the kernels are told to treat every size and address alike, so
Triton compiles each of them once.
"""

import hashlib
import linecache
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from nasrepro.native import NativeError
from nasrepro.rnn.fused.plan import WIDE, Loop, Place, Plan

_HEADER = """\
import triton
import triton.language as tl
from nasrepro.rnn.fused.triton_functions import *"""


def triton_source(plan: Plan) -> str:
    """The kernels of a plan as Python text, one function for each elementwise loop, named by `kernel_name`.

    Arguments of a kernel: the addresses of the spaces that `spaces_of` names, all of contiguous rows; the number of
    rows; hidden_size and input_size; BLOCK, how many elements a program of the launch does; and MANY, whether there are
    more elements than int32 counts, which takes the slower division of int64.
    """
    kernels = [
        "\n".join(_kernel(kernel_name(direction, part, number, which), loop, plan.columns))
        for part, number, level in plan.levels
        for direction, loops in (("forward", level.forward), ("backward", level.backward))
        for which, loop in enumerate(loops)
    ]
    return "\n\n\n".join([f"# {plan.program.cell}\n{_HEADER}", *kernels]) + "\n"


def kernel_name(direction: str, part: str, number: int, which: int) -> str:
    """The name of a loop's kernel: "forward" or "backward", the plan's part, the level's number, the loop's."""
    return f"{direction}_{part}_{number}_{which}"


def spaces_of(loop: Loop) -> list[str]:
    """The spaces that a loop reads or writes, in the order of its kernel's arguments."""
    places = [place for _, place in loop.loads] + [place for place, _, _ in loop.stores]
    return sorted({place.space for place in places})


def load_kernels(plan: Plan) -> dict[str, Any]:
    """Name -> kernel of a plan, ready for launch: `kernel[(programs,)](...)`; those of the normalisations too.

    Raises NativeError where Triton is missing, or finds no C compiler for the code that launches kernels.
    """
    text = triton_source(plan)
    # Triton reads a kernel's text where Python's own tracebacks do, in linecache. So no file is needed, which others
    # could write to; what Triton compiles it keeps in its own cache.
    name = f"<cell {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module: dict[str, Any] = {"__name__": name}
    try:
        exec(compile(text, name, "exec"), module)
        if torch.cuda.is_available():
            module["triton"].runtime.driver.active.get_current_target()  # builds what Triton needs for any launch
    except (ImportError, RuntimeError, OSError, AssertionError, subprocess.SubprocessError) as error:
        why = str(error) or type(error).__name__
        raise NativeError(
            f"Triton cannot be used here ({why}). Install the triton that belongs to this torch, with pip, and a C "
            "compiler with Python's headers (Debian and Ubuntu: gcc and python3-dev)."
        ) from error
    return module


def _kernel(name: str, loop: Loop, columns: Mapping[str, int]) -> Iterator[str]:
    """One program does BLOCK elements, counted through the rows: loads, statements, stores."""
    pointers = [f"at_{space}" for space in spaces_of(loop)]
    arguments = [*pointers, "rows", "hidden", "inputs"]
    width = "inputs" if loop.wide else "hidden"
    yield f"@triton.jit(do_not_specialize={arguments})"
    yield f"def {name}({', '.join(arguments)}, BLOCK: tl.constexpr, MANY: tl.constexpr):"
    yield "    program = tl.program_id(0).to(tl.int64) if MANY else tl.program_id(0)"
    yield "    element = program * BLOCK + tl.arange(0, BLOCK)"
    yield f"    row = (element // {width}).to(tl.int64)"
    yield f"    unit = element % {width}"
    yield "    inside = row < rows"
    for value, place in loop.loads:
        yield f"    {value} = tl.load({_address(place, columns)}, mask=inside)"
    for value, text in loop.statements:
        yield f"    {value} = {text}"
    for place, value, accumulate in loop.stores:
        kept = f"tl.load({_address(place, columns)}, mask=inside) + " if accumulate else ""
        yield f"    tl.store({_address(place, columns)}, {kept}{value}, mask=inside)"


def _address(place: Place, columns: Mapping[str, int]) -> str:
    width = "inputs" if place.space in WIDE else "hidden"
    return f"at_{place.space} + row * ({columns.get(place.space, 1)} * {width}) + ({place.column} * {width} + unit)"
