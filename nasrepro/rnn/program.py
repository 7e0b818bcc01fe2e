"""Cell -> staged program: what is computed when, and which matrix products become one (S17 appendix A.1).

A program has two parts:

    before   everything that depends on x_t, x_{t-1} and the timestep only: done once, for all T steps together
    step     the rest: done T times, in a loop

Each part is a list of stages. A stage first multiplies, then computes elementwise:

    stage 0      elementwise on the sources          r = Sigmoid(h)
    stage 1      MM of what stage 0 or the sources   MM(h), MM(h), MM(r)
                 hold; then elementwise on those     f = Sigmoid(MM(x) + MM(h)) ...
    stage 2      MM of what stage 1 holds            MM(f * h) ...

All MMs that one stage applies to one value are a single product with their matrices stacked: an LSTM's eight products
become two, four on x_t (before the loop) and four on h_{t-1} (inside it). The reference interpreter and any other
backend run the same program, so they can be held against each other.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from nasrepro.dsl import Cell, CellError, Node

_ALWAYS_KNOWN = frozenset({"x_t", "x_{t-1}", "PosEnc"})  # sources that do not wait for the step before
_INPUT_WIDE = frozenset({"x_t", "x_{t-1}"})  # sources as wide as the input; all else is as wide as the output


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product: the value in slot `source` times the stacked matrices of several MMs."""

    source: int
    targets: tuple[int, ...]
    matrices: tuple[int, ...]
    """Numbers of the MMs, counted over the cell's MMs in post-order."""
    on_input: bool
    """The source is as wide as the layer's input rather than its output."""
    reads_h: bool
    """The source depends on h_{t-1} with no matrix in between: where variational dropout applies."""


@dataclass(frozen=True, slots=True)
class Pointwise:
    """One elementwise operator: slots `args` -> slot `target`."""

    op: str
    args: tuple[int, ...]
    target: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Products, then elementwise operators on what they and earlier stages gave."""

    products: tuple[Product, ...]
    pointwise: tuple[Pointwise, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled cell. Values live in numbered slots; `sources` says which slots hold the sources."""

    cell: Cell
    sources: dict[str, int]
    before: tuple[Stage, ...]
    step: tuple[Stage, ...]
    carried: tuple[int, ...]
    """Slots computed before the loop and read inside it (or as h_t or c_t): each holds (T, B, width)."""
    hidden: int
    """Slot of h_t."""
    memory: int | None
    """Slot of c_t."""
    mixed: tuple[str, ...] = field(default=())
    """Subtrees that use the raw input where the output's width is needed; they want input_size == hidden_size."""
    staged: bool = True
    """Compiled with hoisting and batching, as a fused backend wants it."""

    @property
    def products(self) -> tuple[Product, ...]:
        """All products, those before the loop first: the order in which a layer keeps their weights."""
        return tuple(product for stage in (*self.before, *self.step) for product in stage.products)


@lru_cache(maxsize=4096)
def compile_cell(cell: Cell, hoist: bool = True, batch: bool = True) -> Program:
    """The staged program of a cell.

    `hoist=False` leaves everything in the loop and `batch=False` gives each MM a product of its own: slower programs
    that compute the same, for comparison. Raises CellError when the cell reads c_{t-1} and no |k says what c_t is.
    """
    if not cell.is_runnable:
        places = ", ".join(f"|{candidate.memory}" for candidate in cell.memory_candidates())
        hint = f"add one of {places}" if places else "no subgraph of this cell can serve as c_t"
        raise CellError(f"{cell} reads c_{{t-1}}, but no |k says what c_t is", hint=hint)
    return _Compiler(cell, hoist).program(batch)


@dataclass(frozen=True, slots=True)
class _Value:
    """What the compiler knows of a slot."""

    op: str
    args: tuple[int, ...]
    matrix: int | None
    """The MM's number, for an MM."""
    early: bool
    """Known before the loop."""
    level: int
    """How many products lie on the way to it, within its part of the program."""
    input_wide: bool
    reads_h: bool


class _Compiler:
    def __init__(self, cell: Cell, hoist: bool) -> None:
        self.cell = cell
        self.hoist = hoist
        self.values: list[_Value] = []
        self.known: dict[tuple[str, tuple[int, ...]], int] = {}
        self.operator_slots: list[int] = []
        self.matrices = 0
        self.mixed: list[str] = []
        self.hidden = self._visit(cell.root)
        self.memory = None if cell.memory is None else self.operator_slots[cell.memory]
        for slot in {self.hidden, self.memory} - {None}:
            assert slot is not None
            if self.values[slot].input_wide:
                self.mixed.append(cell.root.text)

    def _visit(self, node: Node) -> int:
        args = tuple(self._visit(arg) for arg in node.args)
        slot = self._slot(node, args)
        if node.args:
            self.operator_slots.append(slot)
        return slot

    def _slot(self, node: Node, args: tuple[int, ...]) -> int:
        # An MM has weights of its own; any other operator on the same values has the same value.
        if node.op != "MM" and (node.op, args) in self.known:
            return self.known[node.op, args]
        self.values.append(self._describe(node, args))
        slot = len(self.values) - 1
        self.known[node.op, args] = slot
        return slot

    def _describe(self, node: Node, args: tuple[int, ...]) -> _Value:
        if not args:
            early = self.hoist and node.op in _ALWAYS_KNOWN
            return _Value(node.op, args, None, early, 0, node.op in _INPUT_WIDE, node.op == "h_{t-1}")
        below = [self.values[arg] for arg in args]
        early = all(value.early for value in below)
        # What is known before the loop is there from the first stage on, however many products it took.
        level = max(value.level if value.early == early else 0 for value in below)
        if node.op == "MM":
            self.matrices += 1
            return _Value("MM", args, self.matrices - 1, early, level + 1, False, False)
        wide = {value.input_wide for value in below}
        if len(wide) == 2:
            self.mixed.append(node.text)
        return _Value(node.op, args, None, early, level, wide == {True}, any(value.reads_h for value in below))

    def program(self, batch: bool) -> Program:
        # Nothing but the loop may be left when h_t itself is known early; the loop then only passes it on.
        late_args = {arg for value in self.values if not value.early for arg in value.args}
        wanted = late_args | {self.hidden} | ({self.memory} if self.memory is not None else set())
        return Program(
            cell=self.cell,
            sources={value.op: slot for slot, value in enumerate(self.values) if not value.args},
            before=self._stages(True, batch),
            step=self._stages(False, batch),
            carried=tuple(slot for slot in sorted(wanted) if self.values[slot].early),
            hidden=self.hidden,
            memory=self.memory,
            mixed=tuple(self.mixed),
            staged=self.hoist and batch,
        )

    def _stages(self, early: bool, batch: bool) -> tuple[Stage, ...]:
        computed = [(s, v) for s, v in enumerate(self.values) if v.args and v.early == early]
        levels = 1 + max((value.level for _, value in computed), default=-1)
        stages = []
        for level in range(levels):
            here = [(slot, value) for slot, value in computed if value.level == level]
            pointwise = tuple(Pointwise(v.op, v.args, s) for s, v in here if v.op != "MM")
            products = self._products([(slot, value) for slot, value in here if value.op == "MM"], batch)
            stages.append(Stage(products, pointwise))
        return tuple(stages)

    def _products(self, matrices: list[tuple[int, _Value]], batch: bool) -> tuple[Product, ...]:
        groups: dict[int, list[tuple[int, _Value]]] = {}
        for slot, value in matrices:
            groups.setdefault(value.args[0] if batch else slot, []).append((slot, value))
        return tuple(
            Product(
                source=group[0][1].args[0],
                targets=tuple(slot for slot, _ in group),
                matrices=tuple(value.matrix for _, value in group if value.matrix is not None),
                on_input=self.values[group[0][1].args[0]].input_wide,
                reads_h=self.values[group[0][1].args[0]].reads_h,
            )
            for group in groups.values()
        )
