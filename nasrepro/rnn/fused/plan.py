"""Program -> plan: what a fused backend does at each level, forward and backward, and where every value lies.

A staged program says what is computed when. A plan adds what a backend without autograd needs:

    place       every value that outlives its level has a place: a column block in a *space*, one buffer of rows
    sums        MM(a) + MM(b) is one value with two products added up in one place; so is its gradient
    levels      per level: products, layer normalisations, then one elementwise kernel
    backward    the same levels in reverse: kernel, normalisations, products; every gradient's first write is known, so
                that nothing has to be zeroed

Backward kernels compute again what is cheap to compute: only sums, states, and what matrices read is kept. Weight
gradients wait until the loop is over and are one product over all T * B rows for each matrix (see the C driver).

Statements are texts such as `v7 = sigmoid(v5)`, which are C on vectors and, with the same function names, Triton.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from nasrepro.dsl import Cell
from nasrepro.rnn.program import Program, compile_cell

SOURCE_SPACES = {"x_t": "x", "x_{t-1}": "x_before", "PosEnc": "position", "h_{t-1}": "h", "c_{t-1}": "c"}
MASK = "h_mask"  # a source that masked programs have: variational dropout of h
SOURCE_SPACES[MASK] = "mask"

WIDE = frozenset({"x", "x_before", "saved_wide", "d_x", "d_x_before", "d_early_wide"})
"""Spaces whose column blocks are input_size wide."""

RULES = {
    "Sigmoid": ("sigmoid({a})", "{d} * sigmoid_slope({a})"),
    "Tanh": ("tanh_({a})", "{d} * tanh_slope({a})"),
    "ReLU": ("relu({a})", "relu_back({d}, {a})"),
    "SeLU": ("selu({a})", "{d} * selu_slope({a})"),
    "Sin": ("sin_({a})", "{d} * cos_({a})"),
    "Cos": ("cos_({a})", "-{d} * sin_({a})"),
    "Add": ("{a} + {b}", "{d}", "{d}"),
    "Sub": ("{a} - {b}", "{d}", "-{d}"),
    "Mult": ("{a} * {b}", "{d} * {b}", "{d} * {a}"),
    "Div": ("{a} / {b}", "{d} / {b}", "-{d} * ({a} / {b} / {b})"),
    "Max": ("larger({a}, {b})", "larger_back({d}, {a}, {b})", "larger_back({d}, {b}, {a})"),
    "Gate3": ("gate({a}, {b}, {c}, {r})", "{d} * {c}", "{d} * {r}", "{d} * ({a} - {b})"),
}
"""Operator -> its value from its arguments a, b, c, where r is 1 - c (`_Kernel.rest`); then, for each argument, what
the gradient d of the operator's value adds to that argument's gradient."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies: the number of its column block in a space.

    Spaces of values: x, x_before, position, h, c, mask (sources), sums, saved, saved_wide, h_next, c_next. Spaces of
    gradients: d_out, d_h_next, d_c_next (given), d_h, d_c, d_x, d_x_before (wanted), d_sums, d_step, d_early,
    d_early_wide. Blocks are hidden_size columns wide, in x, x_before, d_x, d_x_before and the wide ones input_size.
    """

    space: str
    column: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive matrices of one product whose values are consecutive sums: one matrix multiplication."""

    product: int
    row: int
    """Number of the first matrix within the product's stack."""
    count: int
    source: Place
    on_input: bool
    """The source is input_size wide rather than hidden_size."""
    target: Place
    accumulate: bool
    gradient: Place | None
    """Where the source's gradient goes; None if nobody wants it."""
    gradient_accumulates: bool


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalisation of the rows at `source`."""

    source: Place
    target: Place
    wide: bool
    gradient: Place
    """Where the gradient of the normalised value lies."""
    source_gradient: Place | None
    accumulates: bool


@dataclass(frozen=True, slots=True)
class Loop:
    """Elementwise statements over all units of one width: name <- place, name = text, place (+)= name."""

    wide: bool
    loads: tuple[tuple[str, Place], ...]
    statements: tuple[tuple[str, str], ...]
    stores: tuple[tuple[Place, str, bool], ...]
    """(place, name, whether to add to what is there)"""


@dataclass(frozen=True, slots=True)
class Level:
    """Runs, then normalisations, then loops; backward the reverse. Runs only need the levels before them."""

    runs: tuple[Run, ...]
    norms: tuple[Norm, ...]
    forward: tuple[Loop, ...]
    backward: tuple[Loop, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All levels of a cell, and how many column blocks each space has."""

    program: Program
    before: tuple[Level, ...]
    step: tuple[Level, ...]
    columns: dict[str, int]
    """Blocks of the numbered spaces; the others have one."""
    bias_columns: tuple[tuple[int, ...], ...]
    """For each product, the sums that its biases are added to."""
    spaces: frozenset[str]
    """The spaces that are used at all."""
    kernel_spaces: frozenset[str]
    """The spaces that elementwise kernels and normalisations write to, backward ones included."""
    written: frozenset[str]
    """Those of d_x, d_x_before, d_h and d_c that something is written to; the others stay zero."""

    @property
    def levels(self) -> Iterator[tuple[str, int, Level]]:
        """(name of the part, number, level) of both parts, in the order in which they run forward."""
        for part in ("before", "step"):
            for number, level in enumerate(getattr(self, part)):
                yield part, number, level


@lru_cache(maxsize=1024)
def plan_cell(cell: Cell, masked: bool = False) -> Plan:
    """The plan of a cell's program; `masked` for variational dropout of h_{t-1} where it enters matrices."""
    return _Planner(compile_cell(cell), masked).plan()


@dataclass(slots=True)
class _Value:
    """What the planner knows of a value."""

    op: str
    """A source's name, "Sum", "LayerNorm", or an elementwise operator."""
    args: tuple[int, ...]
    terms: tuple[tuple[int, int], ...] = ()
    """For a sum: (product, matrix's number within the product) of each of its args."""
    early: bool = False
    wide: bool = False
    level: int = 0
    users: list[int] = field(default_factory=list)


_Terms = tuple[list[tuple[int, int]], bool]  # a run in the making: its terms, and whether their sums were begun before


class _Planner:
    """Read from top to bottom: the values, their levels and places, the runs, then the levels one by one."""

    def __init__(self, program: Program, masked: bool) -> None:
        self.program = program
        self.hidden = program.hidden
        self.memory = program.memory
        self.outputs = [slot for slot in (self.hidden, self.memory) if slot is not None]
        self.values = self._values(masked)
        self._merge_sums()
        self.order = list(_postorder(self.values, self.outputs))
        for slot in self.order:
            self._describe(slot)
        for slot in self.order:
            for arg in self.values[slot].args:
                self.values[arg].users.append(slot)
        for slot in reversed(self.order):
            self._sink(slot)
        self.columns: dict[str, int] = defaultdict(int)
        self.column: dict[int, int] = {}  # sum -> its column
        self.sum_of: dict[tuple[int, int], int] = {}  # term -> the sum that it is part of
        self.source_of: dict[tuple[int, int], int] = {}
        self.runs = self._runs()
        self.place = self._places()
        self.gradient: dict[int, Place | None] = {}
        self.written: set[Place] = set()

    # --- values --------------------------------------------------------------------------------------------

    def _values(self, masked: bool) -> dict[int, _Value]:
        """Every slot of the program as a value; MMs are sums of one term."""
        program = self.program
        values = {slot: _Value(name, ()) for name, slot in program.sources.items()}
        for stage in (*program.before, *program.step):
            for op in stage.pointwise:
                values[op.target] = _Value(op.op, op.args)
        for number, product in enumerate(program.products):
            for row, target in enumerate(product.targets):
                values[target] = _Value("Sum", (product.source,), ((number, row),))
        if masked:
            self._mask(values)
        return values

    def _mask(self, values: dict[int, _Value]) -> None:
        """Multiply by the mask what a matrix reads of h_{t-1}."""
        mask = max(values) + 1
        masked: dict[int, int] = {}
        for product in self.program.products:
            if product.reads_h:
                slot = masked.setdefault(product.source, mask + 1 + len(masked))
                values[mask] = _Value(MASK, ())
                values[slot] = _Value("Mult", (product.source, mask))
                for target in product.targets:
                    values[target].args = (slot,)

    def _merge_sums(self) -> None:
        """Make Add(sum, sum) one sum, where nothing else reads the two."""
        uses: dict[int, int] = defaultdict(int)
        for slot in [*self.outputs, *(arg for value in self.values.values() for arg in value.args)]:
            uses[slot] += 1
        for slot in _postorder(self.values, self.outputs):
            value = self.values[slot]
            parts = [self.values[arg] for arg in value.args]
            if value.op == "Add" and all(part.op == "Sum" for part in parts) and all(uses[a] == 1 for a in value.args):
                first, second = parts
                self.values[slot] = _Value("Sum", first.args + second.args, first.terms + second.terms)

    def _describe(self, slot: int) -> None:
        """Set whether a value is early, how wide it is, and its level within its part of the program."""
        value = self.values[slot]
        below = [self.values[arg] for arg in value.args]
        if not below:
            value.early = value.op in {"x_t", "x_{t-1}", "PosEnc"}
            value.wide = value.op in {"x_t", "x_{t-1}"} and not self.program.mixed
            return
        value.early = all(part.early for part in below)
        value.wide = value.op != "Sum" and below[0].wide
        level = max(part.level for part in below if part.early == value.early)
        value.level = level + (value.op in {"Sum", "LayerNorm"})

    def _sink(self, slot: int) -> None:
        """Put off an elementwise value to the level that first reads it: then it needs no place in between.

        A value that a matrix or a normalisation reads must have a place anyway, and is left where it is.
        """
        value = self.values[slot]
        users = [self.values[user] for user in value.users]
        if value.op in RULES and slot not in self.outputs and all(user.op in RULES for user in users):
            first = min(users, key=lambda user: (not user.early, user.level))
            value.early, value.level = first.early, first.level

    # --- runs and places -----------------------------------------------------------------------------------

    def _runs(self) -> dict[tuple[bool, int], list[_Terms]]:
        """(early, level) -> what is multiplied there, run by run; gives every sum its column."""
        for slot in self.order:
            for term, source in zip(self.values[slot].terms, self.values[slot].args, strict=False):
                self.sum_of[term], self.source_of[term] = slot, source
        groups: dict[tuple[bool, int, int], list[tuple[int, int]]] = defaultdict(list)
        for term in sorted(self.sum_of):
            source_value = self.values[self.source_of[term]]
            groups[not source_value.early, source_value.level + 1, term[0]].append(term)
        runs: dict[tuple[bool, int], list[_Terms]] = defaultdict(list)
        for late, level, product in sorted(groups):
            runs[not late, level].extend(self._split(groups[late, level, product]))
        self.columns["sums"] = len(self.column)
        return runs

    def _split(self, terms: list[tuple[int, int]]) -> Iterator[_Terms]:
        """Cut a product's terms where their sums are not next to each other, or only some have a value already."""
        part: list[tuple[int, int]] = []
        accumulates = False
        for term in terms:
            target = self.sum_of[term]
            started = target in self.column
            column = self.column.setdefault(target, len(self.column))
            if part and (started != accumulates or column != self.column[self.sum_of[part[-1]]] + 1):
                yield part, accumulates
                part = []
            part, accumulates = [*part, term], started
        yield part, accumulates

    def _places(self) -> dict[int, Place]:
        """Places of all values that are read outside the kernel that computes them."""
        places: dict[int, Place] = {}
        for slot in self.order:
            value = self.values[slot]
            if not value.args:
                places[slot] = Place(SOURCE_SPACES[value.op])
            elif value.op == "Sum":
                places[slot] = Place("sums", self.column[slot])
            elif slot in self.outputs and not value.early:
                places[slot] = Place("h_next" if slot == self.hidden else "c_next")
            elif value.op == "LayerNorm" or self._outlives_its_level(slot):
                places[slot] = self._new("saved_wide" if value.wide else "saved")
        return places

    def _outlives_its_level(self, slot: int) -> bool:
        value = self.values[slot]
        users = [self.values[user] for user in value.users]
        elsewhere = any((user.early, user.level) != (value.early, value.level) for user in users)
        return elsewhere or slot in self.outputs

    def _new(self, space: str) -> Place:
        self.columns[space] += 1
        return Place(space, self.columns[space] - 1)

    def _gradient_place(self, slot: int) -> Place | None:
        """Where the gradient of a value with a place lies; None where nobody wants it."""
        if slot not in self.gradient:
            value, place = self.values[slot], self.place[slot]
            if value.op in {MASK, "PosEnc"}:
                self.gradient[slot] = None
            elif not value.args or value.op == "Sum":
                self.gradient[slot] = Place(f"d_{place.space}", place.column)
            else:
                early = "d_early_wide" if value.wide else "d_early"
                self.gradient[slot] = self._new(early if value.early else "d_step")
        return self.gradient[slot]

    def _write(self, place: Place | None) -> bool:
        """Note that a gradient is written; whether something was written there before, so that this must add."""
        if place is None:
            return False
        before = place in self.written
        self.written.add(place)
        return before

    # --- levels --------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """All levels. Backward parts are made first to last in the order in which they run."""
        step = self._levels(early=False)
        before = self._levels(early=True)
        self.columns["d_sums"] = self.columns["sums"]
        return Plan(
            program=self.program,
            before=before,
            step=step,
            columns={space: self.columns[space] for space in _NUMBERED},
            bias_columns=tuple(
                tuple(self.column[self.sum_of[number, row]] for row in range(len(product.targets)))
                for number, product in enumerate(self.program.products)
            ),
            spaces=frozenset(place.space for level in (*before, *step) for place in _places_of(level)),
            kernel_spaces=frozenset(place.space for level in (*before, *step) for place in _written_elementwise(level)),
            written=frozenset(place.space for place in self.written) & {"d_x", "d_x_before", "d_h", "d_c"},
        )

    def _levels(self, early: bool) -> tuple[Level, ...]:
        computed = [slot for slot in self.order if self.values[slot].args and self.values[slot].early == early]
        depths = [self.values[slot].level for slot in computed] + [level for e, level in self.runs if e == early]
        count = 1 + max(depths, default=-1 if early else 0)
        levels = []
        for number in reversed(range(count)):
            here = [slot for slot in computed if self.values[slot].level == number]
            backward = self._backward(here, early, number)
            norms = [self._norm(slot) for slot in reversed(here) if self.values[slot].op == "LayerNorm"]
            runs = [self._run(*run) for run in reversed(self.runs[early, number])]
            forward = self._forward(here, early, number)
            levels.append(Level(tuple(reversed(runs)), tuple(reversed(norms)), forward, backward))
        return tuple(reversed(levels))

    def _run(self, terms: list[tuple[int, int]], accumulate: bool) -> Run:
        product, row = terms[0]
        source = self.source_of[product, row]
        gradient = self._gradient_place(source)
        return Run(
            product=product,
            row=row,
            count=len(terms),
            source=self.place[source],
            on_input=self.program.products[product].on_input,
            target=self.place[self.sum_of[product, row]],
            accumulate=accumulate,
            gradient=gradient,
            gradient_accumulates=self._write(gradient),
        )

    def _norm(self, slot: int) -> Norm:
        (source,) = self.values[slot].args
        gradient, source_gradient = self._gradient_place(slot), self._gradient_place(source)
        assert gradient is not None
        return Norm(
            self.place[source],
            self.place[slot],
            self.values[slot].wide,
            gradient,
            source_gradient,
            self._write(source_gradient),
        )

    def _outputs_at(self, early: bool, number: int) -> list[tuple[str, int]]:
        """(space, value) of h_t and c_t where they are written: at their level, or first thing if known before."""
        if early:
            return []
        named = [("h_next", self.hidden)] + ([("c_next", self.memory)] if self.memory is not None else [])
        return [(s, v) for s, v in named if number == (0 if self.values[v].early else self.values[v].level)]

    def _forward(self, here: list[int], early: bool, number: int) -> tuple[Loop, ...]:
        loops = []
        for wide in (True, False):
            kernel = _Kernel(self)
            for slot in here:
                if self.values[slot].wide == wide and self.values[slot].op not in {"Sum", "LayerNorm"}:
                    kernel.compute(slot)
                    is_late_output = slot in self.outputs and not self.values[slot].early
                    if slot in self.place and not is_late_output:  # such an output is written below
                        kernel.stores.append((self.place[slot], kernel.value(slot), False))
            for space, slot in [] if wide else self._outputs_at(early, number):
                if self.values[slot].op != "LayerNorm" or self.place[slot] != Place(space):  # else it is there already
                    kernel.stores.append((Place(space), kernel.value(slot), False))
            loops.append(kernel.loop(wide))
        return tuple(loop for loop in loops if loop.stores)

    def _backward(self, here: list[int], early: bool, number: int) -> tuple[Loop, ...]:
        loops = []
        for wide in (True, False):
            kernel = _Kernel(self)
            for space, slot in [] if wide else self._outputs_at(early, number):
                if space == "h_next":
                    given = kernel.state(f"{kernel.load(Place('d_out'))} + {kernel.load(Place('d_h_next'))}")
                else:
                    given = kernel.load(Place("d_c_next"))
                kernel.add_gradient(slot, given)
            mine = [s for s in here if self.values[s].wide == wide and self.values[s].op not in {"Sum", "LayerNorm"}]
            for slot in reversed(mine):
                place = self.gradient.get(slot)
                if place in self.written:
                    kernel.add_gradient(slot, kernel.load(place))
                kernel.spread_gradient(slot)
            for slot in kernel.gradients:
                if slot not in mine:
                    place = self._gradient_place(slot)
                    if place is not None:
                        kernel.stores.append((place, kernel.gradients[slot], self._write(place)))
            loops.append(kernel.loop(wide))
        return tuple(loop for loop in loops if loop.stores)


class _Kernel:
    """One elementwise loop in the making."""

    def __init__(self, planner: _Planner) -> None:
        self.planner = planner
        self.loads: dict[Place, str] = {}
        self.statements: list[tuple[str, str]] = []
        self.stores: list[tuple[Place, str, bool]] = []  # what is written when the loop body ends
        self.names: dict[int, str] = {}
        self.rests: dict[int, str] = {}
        self.gradients: dict[int, str] = {}

    def load(self, place: Place) -> str:
        """The name that holds what lies at a place."""
        name = f"{place.space}_{place.column}" if place.space in _NUMBERED else place.space
        return self.loads.setdefault(place, name)

    def state(self, text: str) -> str:
        """A new name for a text."""
        name = f"v{len(self.statements)}"
        self.statements.append((name, text))
        return name

    def compute(self, slot: int) -> str:
        """The name of a value, computed here from its arguments."""
        value = self.planner.values[slot]
        text = RULES[value.op][0]
        self.names[slot] = self.state(text.format(**self.arguments(value, text)))
        return self.names[slot]

    def arguments(self, value: _Value, text: str) -> dict[str, str]:
        """The names of those arguments of a value that a text mentions."""
        letters = [letter for letter in "abc" if f"{{{letter}}}" in text]
        names = {letter: self.value(value.args["abc".index(letter)]) for letter in letters}
        return names | {"r": self.rest(value.args[2])} if "{r}" in text else names

    def rest(self, slot: int) -> str:
        """The name of 1 - value. Of a sigmoid from its argument: near 1, subtraction would leave no digits."""
        if slot not in self.rests:
            value = self.planner.values[slot]
            is_sigmoid = value.op == "Sigmoid"
            self.rests[slot] = self.state(
                f"sigmoid_rest({self.value(value.args[0])})" if is_sigmoid else f"rest({self.value(slot)})"
            )
        return self.rests[slot]

    def value(self, slot: int) -> str:
        """The name of a value: loaded if it has a place (and was not computed here), else computed."""
        if slot in self.names:
            return self.names[slot]
        if slot not in self.planner.place:
            return self.compute(slot)
        return self.names.setdefault(slot, self.load(self.planner.place[slot]))

    def add_gradient(self, slot: int, text: str) -> None:
        """Add to the gradient of a value."""
        if slot in self.gradients:
            text = f"{self.gradients[slot]} + {text}"
        self.gradients[slot] = text if text.isidentifier() else self.state(text)

    def spread_gradient(self, slot: int) -> None:
        """Hand an operator's gradient on to its arguments."""
        if slot not in self.gradients:
            return
        value = self.planner.values[slot]
        for arg, rule in zip(value.args, RULES[value.op][1:], strict=True):
            if self.planner.values[arg].op not in {MASK, "PosEnc"}:
                self.add_gradient(arg, rule.format(d=self.gradients[slot], **self.arguments(value, rule)))

    def loop(self, wide: bool) -> Loop:
        """The finished loop."""
        loads = tuple((name, place) for place, name in self.loads.items())
        return Loop(wide, loads, tuple(self.statements), tuple(self.stores))


_NUMBERED = ("sums", "saved", "saved_wide", "d_sums", "d_step", "d_early", "d_early_wide")


def _postorder(values: dict[int, _Value], roots: Iterable[int]) -> Iterator[int]:
    """Every value that the roots depend on, after those that it depends on itself."""
    seen: set[int] = set()

    def visit(slot: int) -> Iterator[int]:
        if slot not in seen:
            seen.add(slot)
            for arg in values[slot].args:
                yield from visit(arg)
            yield slot

    for root in roots:
        yield from visit(root)


def _places_of(level: Level) -> Iterator[Place]:
    for run in level.runs:
        yield from (place for place in (run.source, run.target, run.gradient) if place is not None)
    for norm in level.norms:
        yield from (p for p in (norm.source, norm.target, norm.gradient, norm.source_gradient) if p is not None)
    for loop in (*level.forward, *level.backward):
        yield from (place for _, place in loop.loads)
        yield from (place for place, _, _ in loop.stores)


def _written_elementwise(level: Level) -> Iterator[Place]:
    for norm in level.norms:
        yield from (place for place in (norm.target, norm.source_gradient) if place is not None)
    for loop in (*level.forward, *level.backward):
        yield from (place for place, _, _ in loop.stores)
