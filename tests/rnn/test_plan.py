"""Plans, executed symbolically: everything that is read was written, and first writes never add to what was there."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nasrepro as nr
from nasrepro.dsl import Cell, Node
from nasrepro.rnn import compile_cell
from nasrepro.rnn.fused.plan import WIDE, Level, Loop, Place, Plan, Run, plan_cell
from tests.strategies import cells

SOURCES = {"x", "x_before", "position", "h", "c", "mask"}
NAME = re.compile(r"\b[a-z]\w*\b(?!\()")


class Memory:
    """The places that hold something."""

    def __init__(self, filled: set[str]) -> None:
        self.filled = filled  # spaces that are given
        self.written: set[Place] = set()

    def read(self, place: Place) -> None:
        assert place.space in self.filled or place in self.written, f"{place} is read before it is written"

    def write(self, place: Place, accumulate: bool) -> None:
        assert place.space not in self.filled, f"{place} is given and not to be written"
        assert accumulate == (place in self.written), f"{place}: {accumulate=}, written before: {place in self.written}"
        self.written.add(place)

    def run_loops(self, loops: tuple[Loop, ...]) -> None:
        for loop in loops:
            names = set()
            for name, place in loop.loads:
                self.read(place)
                names.add(name)
            for name, text in loop.statements:
                assert set(NAME.findall(text)) <= names, f"{text} uses a name without a value"
                assert name not in names, f"{name} has two values"
                names.add(name)
            for place, name, accumulate in loop.stores:
                assert name in names
                self.write(place, accumulate)


def _targets(run: Run, space: str) -> list[Place]:
    return [Place(space, run.target.column + number) for number in range(run.count)]


def _forward(level: Level, memory: Memory) -> None:
    for run in level.runs:
        memory.read(run.source)
        for place in _targets(run, "sums"):
            memory.write(place, run.accumulate)
    for norm in level.norms:
        memory.read(norm.source)
        memory.write(norm.target, False)
    memory.run_loops(level.forward)


def _backward(level: Level, memory: Memory) -> None:
    memory.run_loops(level.backward)
    for norm in reversed(level.norms):
        for place in (norm.source, norm.target, norm.gradient):
            memory.read(place)
        if norm.source_gradient is not None:
            memory.write(norm.source_gradient, norm.accumulates)
    for run in reversed(level.runs):
        for place in _targets(run, "d_sums"):
            memory.read(place)
        if run.gradient is not None:
            memory.write(run.gradient, run.gradient_accumulates)


def execute(plan: Plan) -> None:
    """All levels in the order in which the driver runs them."""
    forward = Memory(set(SOURCES))
    for level in (*plan.before, *plan.step):
        _forward(level, forward)
    results = {place.space for place in forward.written if place.space.endswith("_next")}
    assert results == {"h_next"} | ({"c_next"} if plan.program.memory is not None else set())

    backward = Memory(SOURCES | {"d_out", "d_h_next", "d_c_next"})
    backward.written = set(forward.written)
    for level in (*reversed(plan.step), *reversed(plan.before)):
        _backward(level, backward)
    # Weight gradients are computed from all of these.
    assert {Place("d_sums", column) for column in range(plan.columns["sums"])} <= backward.written
    wanted = {"d_x", "d_x_before", "d_h", "d_c"}
    assert plan.written == wanted & {place.space for place in backward.written}
    for place in forward.written | backward.written:
        assert place.column < plan.columns.get(place.space, 1)


@given(cells(max_height=5), st.booleans())
@settings(max_examples=150)
def test_what_is_read_was_written(cell: Cell, masked: bool) -> None:
    execute(plan_cell(cell, masked))


@pytest.mark.parametrize("name", nr.zoo)
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_read_was_written_in_the_zoo(name: str, masked: bool) -> None:
    execute(plan_cell(nr.zoo[name], masked))


@given(cells(max_height=5), st.booleans())
@settings(max_examples=150)
def test_widths_do_not_mix(cell: Cell, masked: bool) -> None:
    plan = plan_cell(cell, masked)
    mixed = bool(plan.program.mixed)  # then the layer refuses sizes that differ
    for _, _, level in plan.levels:
        for loop in (*level.forward, *level.backward):
            places = [place for _, place in loop.loads] + [place for place, _, _ in loop.stores]
            assert mixed or all((place.space in WIDE) == loop.wide for place in places)
        for run in level.runs:
            assert mixed or (run.source.space in WIDE) == run.on_input
        for norm in level.norms:
            assert mixed or all((place.space in WIDE) == norm.wide for place in (norm.source, norm.target))


def _sums(node: Node, cell: Cell) -> int:
    """How many sums a cell has: as many as matrices, less the additions of two of them that nobody else reads."""
    operators = list(cell.operators)
    memory = None if cell.memory is None else operators[cell.memory]

    def is_sum(node: Node) -> bool:
        return node.op == "MM" or (node.op == "Add" and all(is_sum(arg) and arg is not memory for arg in node.args))

    return sum((o.op == "MM") - (o.op == "Add" and is_sum(o)) for o in operators)


@given(cells(max_height=5))
@settings(max_examples=150)
def test_added_matrices_are_one_sum(cell: Cell) -> None:
    plan = plan_cell(cell)
    assert plan.columns["sums"] == _sums(cell.root, cell)
    # Every matrix is multiplied by once, and its bias belongs to one sum.
    runs = [run for _, _, level in plan.levels for run in level.runs]
    multiplied = sorted((run.product, run.row + number) for run in runs for number in range(run.count))
    assert multiplied == [
        (p, r) for p, product in enumerate(compile_cell(cell).products) for r in range(len(product.targets))
    ]
    assert [len(columns) for columns in plan.bias_columns] == [len(p.targets) for p in plan.program.products]


def test_the_lstm_has_one_product_before_and_one_in_the_loop_and_saves_nothing_but_sums() -> None:
    plan = plan_cell(nr.zoo["LSTM"])
    before, step = ([run for level in part for run in level.runs] for part in (plan.before, plan.step))
    assert [(run.count, run.accumulate, run.source) for run in before] == [(4, False, Place("x"))]
    assert [(run.count, run.accumulate, run.source) for run in step] == [(4, True, Place("h"))]
    assert plan.columns["sums"] == 4
    assert not any(plan.columns[space] for space in ("saved", "saved_wide", "d_step", "d_early", "d_early_wide"))
    assert not any(level.forward or level.backward for level in plan.before)


def test_a_cell_without_recurrent_products_is_one_elementwise_level_in_the_loop() -> None:
    plan = plan_cell(nr.zoo["QRNN"])
    assert not any(level.runs for level in plan.step)
    assert sum(bool(level.forward) for level in plan.step) == 1


def test_a_subtree_of_x_is_computed_before_the_loop_with_its_inner_matrices() -> None:
    plan = plan_cell(nr.parse("Tanh(Add(MM(Tanh(MM(Sigmoid(MM(x_t))))), MM(h_{t-1})))"))
    assert sum(len(level.runs) for level in plan.before) == 3
    assert sum(len(level.runs) for level in plan.step) == 1
