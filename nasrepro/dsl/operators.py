"""The words of the language: operators and sources (S17 section 2; `Max` is ZL17's).

Everything that depends on what an operator *is* (parsing, printing, sorting, drawing, compiling, ranking) reads these
two tables, so a new operator is one row here and one line in each place that gives it a meaning; the places that still
lack it fail in `tests/test_operators.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: its name, how many arguments it takes and the set of the language it belongs to."""

    name: str
    arity: int
    group: str
    """`core` and `extended` are S17's two sets; `zl17` holds what only ZL17's cells need."""
    usage: str
    """A call with named arguments and what it computes, shown in error messages."""
    commutative: bool = False
    """Whether the arguments may be sorted. Gate3 is half commutative and has a rule of its own in `canonical`."""
    activation: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One leaf: its name in the language, the other spellings accepted on input, and its group."""

    name: str
    spellings: tuple[str, ...]
    group: str
    about: str


OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator("MM", 1, "core", "MM(a) = W a + b, with weights of its own"),
        Operator("Sigmoid", 1, "core", "Sigmoid(a) = 1 / (1 + exp(-a))", activation=True),
        Operator("Tanh", 1, "core", "Tanh(a) = tanh(a)", activation=True),
        Operator("ReLU", 1, "core", "ReLU(a) = max(a, 0)", activation=True),
        Operator("Add", 2, "core", "Add(a, b) = a + b", commutative=True),
        Operator("Mult", 2, "core", "Mult(a, b) = a * b, elementwise", commutative=True),
        # The paper's definition puts a sigmoid inside Gate3, yet every printed cell passes Sigmoid(...) as third
        # argument; the printed BC3 equations apply it once, and so do we: the third argument is the gate itself.
        Operator("Gate3", 3, "core", "Gate3(a, b, f) = f * a + (1 - f) * b, f the gate's value itself"),
        Operator("Sub", 2, "extended", "Sub(a, b) = a - b"),
        Operator("Div", 2, "extended", "Div(a, b) = a / b, elementwise"),
        Operator("Sin", 1, "extended", "Sin(a) = sin(a)", activation=True),
        Operator("Cos", 1, "extended", "Cos(a) = cos(a)", activation=True),
        Operator("LayerNorm", 1, "extended", "LayerNorm(a) = (a - mean(a)) / std(a), over the units"),
        Operator("SeLU", 1, "extended", "SeLU(a), the activation of Klambauer et al. 2017", activation=True),
        Operator("Max", 2, "zl17", "Max(a, b) = elementwise maximum", commutative=True),
    )
}

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("x_t", ("x", "Var('x')"), "core", "the input now"),
        Source("x_{t-1}", ("xm1", "Var('xm1')"), "core", "the input one step before"),
        Source("h_{t-1}", ("hm1", "Var('hm1')"), "core", "the cell's output one step before"),
        Source("c_{t-1}", ("cm1", "Var('cm1')"), "core", "the long-term memory one step before"),
        Source("PosEnc", ("fixed_posenc", "Var('fixed_posenc')"), "extended", "the timestep's sinusoidal encoding"),
    )
}

SPELLINGS: dict[str, str] = {
    spelling: source.name for source in SOURCES.values() for spelling in (source.name, *source.spellings)
}
"""Every accepted spelling of a source -> its name."""
