"""A cell as the source of a `torch.nn.Module`, for people who want the cell without this library.

The source is text about torch; this file does not import it.
"""

import textwrap
from keyword import iskeyword

from nasrepro.dsl.dress.equations import Term, equations
from nasrepro.dsl.errors import CellError
from nasrepro.dsl.expression import Expression

SOURCES = {"x_t": "x_t", "x_{t-1}": "x_last", "h_{t-1}": "h_last", "c_{t-1}": "c_last", "PosEnc": "p_t"}
FUNCTIONS = {
    "Sigmoid": "torch.sigmoid({})",
    "Tanh": "torch.tanh({})",
    "ReLU": "torch.relu({})",
    "SeLU": "torch.selu({})",
    "Sin": "torch.sin({})",
    "Cos": "torch.cos({})",
    "Max": "torch.maximum({}, {})",
}
SIGNS = {"Add": "+", "Sub": "-", "Mult": "*", "Div": "/"}
LIMIT = 88  # characters of an expression: with its name and indent, a line stays within 110
LENGTHS = {op: len(text) for op, text in FUNCTIONS.items()} | dict.fromkeys(SIGNS, 5)
LENGTHS |= {"name": 6, "MM": 11, "Gate3": 26, "LayerNorm": 46}
SUM, PRODUCT, ATOM = range(3)  # how tightly an expression holds together

# What a step hands to the next: source -> variable, key in the state, first value, next value.
STATE = {
    "h_{t-1}": ("h_last", "h", "x.new_zeros(x.shape[1], self.hidden_size)", "h_t"),
    "c_{t-1}": ("c_last", "c", "x.new_zeros(x.shape[1], self.hidden_size)", "c_t"),
    "x_{t-1}": ("x_last", "x", "torch.zeros_like(x[0])", "x_t"),
    "PosEnc": ("t", "t", "0", "t + 1"),
}

POSITION = '''
    def position(self, t: int, x_t: Tensor) -> Tensor:
        """Sinusoidal encoding of step t (Vaswani et al. 2017): sines on even units, cosines on odd ones."""
        unit = torch.arange(self.hidden_size, dtype=torch.float64)
        angle = t * 10_000.0 ** ((unit % 2 - unit) / self.hidden_size)
        wave = torch.where(unit % 2 == 0, angle.sin(), angle.cos())
        return wave.to(x_t).expand(len(x_t), -1)  # (B, hidden_size)
'''


def to_pytorch(cell: Expression, name: str = "GeneratedCell") -> str:
    """Source of a standalone module that computes the cell; it needs torch alone.

    The module is built as `GeneratedCell(input_size, hidden_size, bias=True)`. It maps x (T, B, input_size)
    and a state, or None, to (out (T, B, hidden_size), state). The state is a dict of what the cell looks back
    at: "h", "c" and "x" are (B, size), "t" is the timestep. Layers mm0, mm1, ... are the MMs in post-order.

    Raises CellError when the cell reads c_{t-1} but no |k says what c_t is, or when `name` is no Python name.
    """
    if not cell.is_runnable:
        raise CellError(
            f"{cell} reads c_{{t-1}}, but no |k says what c_t is",
            hint="add |k, or take one of cell.memory_candidates()",
        )
    if not name.isidentifier() or iskeyword(name):
        raise CellError(f"{name!r} cannot name a class", hint="for example cell.to_pytorch('MyCell')")
    named = equations(cell, LENGTHS, LIMIT)
    lines = [
        "import torch",
        "from torch import Tensor, nn",
        "",
        "",
        f"class {name}(nn.Module):",
        *_indented(['"""The recurrent cell', "", *textwrap.wrap(str(cell), 104, break_on_hyphens=False), '"""'], 4),
        "",
        *_init(named),
        *(POSITION.splitlines() if "PosEnc" in cell.sources else ()),
        "",
        *_forward(cell, named),
    ]
    return "\n".join(lines) + "\n"


def _init(named: list[Term]) -> list[str]:
    body = ["super().__init__()"]
    terms = [term for equation in named for term in equation.body()]
    mixes = any(len({_is_input_wide(arg) for arg in term.args}) == 2 for term in terms)
    if mixes or any(_is_input_wide(term) for term in named if term.name in ("h_t", "c_t")):
        body += [
            "if input_size != hidden_size:",
            '    raise ValueError("this cell uses the raw input, so input_size must equal hidden_size")',
        ]
    body += ["self.input_size = input_size", "self.hidden_size = hidden_size"]
    for matrix in sorted((term for term in terms if term.op == "MM"), key=lambda term: term.matrix or 0):
        size = "input_size" if _is_input_wide(matrix.args[0]) else "hidden_size"
        body.append(f"self.mm{matrix.matrix} = nn.Linear({size}, hidden_size, bias=bias)")
    head = "    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:"
    return [head, *_indented(body, 8)]


def _is_input_wide(term: Term) -> bool:
    """Whether a value is as wide as the input: made of x without any matrix."""
    if not term.args:
        return term.op in ("x_t", "x_{t-1}")
    return term.op != "MM" and all(map(_is_input_wide, term.args))


def _forward(cell: Expression, named: list[Term]) -> list[str]:
    kept = [row for source, row in STATE.items() if source in cell.sources]
    step = ["p_t = self.position(t, x_t)"] if "PosEnc" in cell.sources else []
    step += [f"{term.name} = {_write(term)[0]}" for term in named]
    step.append("outputs.append(h_t)")
    if kept:
        step.append(f"{', '.join(row[0] for row in kept)} = {', '.join(row[3] for row in kept)}")
    state = ", ".join(f'"{key}": {variable}' for variable, key, _, _ in kept)
    body = [
        '"""x (T, B, input_size), state or None -> out (T, B, hidden_size), state after the last step."""',
        *(["state = state or {}"] if kept else []),
        *(f'{variable} = state.get("{key}", {first})' for variable, key, first, _ in kept),
        "outputs = []",
        "for x_t in x:  # (B, input_size)",
        *_indented(step, 4),
        f"return torch.stack(outputs), {{{state}}}",
    ]
    head = "    def forward(self, x: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:"
    return [head, *_indented(body, 8)]


def _indented(lines: list[str], spaces: int) -> list[str]:
    return [" " * spaces + line if line else "" for line in lines]


def _write(term: Term) -> tuple[str, int]:
    """The right-hand side of a term, and how tightly it holds together."""

    def argument(arg: Term, tightness: int) -> str:
        text, holds = (arg.name, ATOM) if arg.name else _write(arg)
        return text if holds >= tightness else f"({text})"

    def arguments(*tightness: int) -> list[str]:
        return [argument(arg, needed) for arg, needed in zip(term.args, tightness, strict=True)]

    if not term.args:
        return SOURCES.get(term.op, term.op), ATOM
    if term.op in SIGNS:
        # The right argument is bracketed even in a + (b + c): floating-point sums depend on their order.
        holds = SUM if term.op in ("Add", "Sub") else PRODUCT
        return f" {SIGNS[term.op]} ".join(arguments(holds, holds + 1)), holds
    if term.op == "Gate3":
        a, b, f = arguments(PRODUCT, PRODUCT, ATOM)
        return f"{f} * {a} + (1 - {f}) * {b}", SUM
    texts = arguments(*[SUM] * len(term.args))
    if term.op == "MM":
        return f"self.mm{term.matrix}({texts[0]})", ATOM
    if term.op == "LayerNorm":
        width = "input_size" if _is_input_wide(term) else "hidden_size"
        return f"nn.functional.layer_norm({texts[0]}, (self.{width},))", ATOM
    return FUNCTIONS[term.op].format(*texts), ATOM
