"""Which cells a search may propose: named rules that say why a cell is refused (S17 sections 4.1, 4.2).

A rule looks at a cell and answers None or a reason in words. A search counts the reasons by the rule's name.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps

from nasrepro.dsl.cell import Cell
from nasrepro.dsl.operators import OPERATORS, SOURCES, Operator, Source


@dataclass(frozen=True, slots=True)
class Rule:
    """A named constraint. `check(cell)` answers None when the cell may stay, else the reason why not."""

    name: str
    check: Callable[[Cell], str | None]


def violations(cell: Cell, rules: Sequence[Rule]) -> dict[str, str]:
    """Rule name -> reason, for every rule that the cell breaks. Empty when it may stay."""
    found = ((rule.name, rule.check(cell)) for rule in rules)
    return {name: reason for name, reason in found if reason is not None}


def _rule(name: str) -> Callable[[Callable[[Cell], str | None]], Callable[[], Rule]]:
    """Make of a check what gives the rule of this name."""

    def named(check: Callable[[Cell], str | None]) -> Callable[[], Rule]:
        @wraps(check)
        def rule() -> Rule:
            return Rule(name, check)

        return rule

    return named


def max_size(limit: int, count_sources: bool = False) -> Rule:
    """At most `limit` nodes. S17 says 21 nodes, "as many as a GRU"; only without sources does BC3 fit under it."""

    def check(cell: Cell) -> str | None:
        size = cell.full_size if count_sources else cell.size
        return f"{size} nodes, at most {limit} allowed" if size > limit else None

    return Rule("too large", check)


def max_height(limit: int) -> Rule:
    """At most `limit` edges between h_t and any source."""
    return Rule(
        "too high", lambda cell: f"height {cell.height}, at most {limit} allowed" if cell.height > limit else None
    )


def must_use(*sources: str) -> Rule:
    """Each of these sources occurs in the cell. Raises ValueError for what is no source."""
    unknown = sorted({*sources} - SOURCES.keys())
    if unknown:
        raise ValueError(f"unknown sources {unknown}; the language has {[*SOURCES]}")

    def check(cell: Cell) -> str | None:
        missing = [source for source in sources if source not in cell.sources]
        return f"does not use {' and '.join(missing)}" if missing else None

    return Rule("source missing", check)


@_rule("gate not sigmoid")
def gate_is_sigmoid(cell: Cell) -> str | None:
    """Gate3's third argument is a Sigmoid."""
    for node in cell.operators:
        if node.op == "Gate3" and node.args[2].op != "Sigmoid":
            return f"the gate of Gate3 is {node.args[2].text}, not a Sigmoid"
    return None


@_rule("operator under itself")
def no_repeated_operator(cell: Cell) -> str | None:
    """No operator has itself as a child."""
    for node in cell.operators:
        if any(arg.op == node.op for arg in node.args):
            return f"{node.op} directly under {node.op}"
    return None


def min_height(limit: int) -> Rule:
    """At least `limit` edges between h_t and the deepest source."""
    return Rule(
        "too low", lambda cell: f"height {cell.height}, at least {limit} needed" if cell.height < limit else None
    )


@_rule("no matrix")
def uses_matrix(cell: Cell) -> str | None:
    """MM occurs."""
    return None if any(node.op == "MM" for node in cell.operators) else "has no MM"


@_rule("no activation")
def uses_activation(cell: Cell) -> str | None:
    """An activation function occurs."""
    return None if any(OPERATORS[node.op].activation for node in cell.operators) else "has no activation function"


@_rule("activation under activation")
def no_stacked_activations(cell: Cell) -> str | None:
    """No activation function is applied to an activation function."""
    for node in cell.operators:
        for arg in node.args:
            if OPERATORS[node.op].activation and arg.op in OPERATORS and OPERATORS[arg.op].activation:
                return f"{arg.op} directly under {node.op}"
    return None


@_rule("gate without a choice")
def gate_has_a_choice(cell: Cell) -> str | None:
    """The two values between which a Gate3 mixes differ, as they are written."""
    for node in cell.operators:
        if node.op == "Gate3" and node.args[0] == node.args[1]:
            return f"a Gate3 mixes {node.args[0].text} with itself"
    return None


@_rule("matrix not on a source")
def matrix_on_source(cell: Cell) -> str | None:
    """MM is applied to sources only."""
    for node in cell.operators:
        if node.op == "MM" and not node.args[0].is_source:
            return f"MM is applied to {node.args[0].text}, not a source"
    return None


def only_words(allowed: Sequence[str]) -> Rule:
    """Only these operators and sources occur.

    Raises TypeError for one word in place of a list of words, ValueError for what is no word of the language.
    """
    if isinstance(allowed, str):
        raise TypeError(f"only_words takes a list of words, got the string {allowed!r}: pass [{allowed!r}]")
    check_words(allowed)
    known = frozenset(allowed)

    def check(cell: Cell) -> str | None:
        extra = sorted({node.op for node in cell.root.walk()} - known)
        return f"uses {', '.join(extra)}" if extra else None

    return Rule("word not allowed", check)


@_rule("no place for c_t")
def has_memory_place(cell: Cell) -> str | None:
    """A cell that reads c_{t-1} offers at least one place from which c_t can be read off, or has chosen one of them."""
    if cell.memory is not None:
        # Merging two matrices into one can shrink the chosen subgraph below S17's three nodes.
        return None if cell in cell.memory_candidates() else f"|{cell.memory} names no subgraph that may be c_t"
    return None if cell.is_runnable or cell.memory_candidates() else "no subgraph can serve as c_t"


def words(*groups: str) -> tuple[str, ...]:
    """The operators and sources of these groups of the language, in the tables' order.

    Raises ValueError for a group that the language does not have.
    """
    rows: list[Operator | Source] = [*OPERATORS.values(), *SOURCES.values()]
    unknown = sorted({*groups} - {row.group for row in rows})
    if unknown:
        raise ValueError(f"unknown groups {unknown}; the language has {sorted({row.group for row in rows})}")
    return tuple(row.name for row in rows if row.group in groups)


def check_words(chosen: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
    """Raise ValueError unless these are words of the language, each named once, with weights that can be chances.

    TypeError for a string, which is a sequence of letters.
    """
    if isinstance(chosen, str):
        raise TypeError(f"words is the string {chosen!r:.100}, whose letters would be taken: pass a tuple")
    weights = weights or {}
    unknown = sorted({*chosen, *weights} - {*OPERATORS, *SOURCES})
    if unknown:
        raise ValueError(f"unknown words {unknown}; the language has {[*OPERATORS, *SOURCES]}")
    repeated = [word for word, times in Counter(chosen).items() if times > 1]
    if repeated:
        raise ValueError(f"words must be named once each, but {repeated} stand more often in {tuple(chosen)}")
    wrong = {word: weight for word, weight in weights.items() if not 0 <= weight < math.inf}
    if wrong:
        raise ValueError(f"weights must not be negative, nor infinite or NaN: {wrong}")


def language_model_rules(max_nodes: int = 21, max_edges: int = 8, count_sources: bool = False) -> tuple[Rule, ...]:
    """S17's constraints for the language-model search (section 4.1): core language, size, height, sources, gates."""
    return (
        only_words(words("core")),
        must_use("x_t", "h_{t-1}"),
        gate_is_sigmoid(),
        no_repeated_operator(),
        max_size(max_nodes, count_sources),
        max_height(max_edges),
        has_memory_place(),
    )


def translation_priors(min_edges: int = 3, max_edges: int = 11) -> tuple[Rule, ...]:
    """The properties of cells on which S17's agent was pre-trained (section 4.2, appendix C.1).

    They are habits to start from, no limits of the search: the printed MT cells break some. The last rule is ours:
    a cell that reads c_{t-1} and has no place for it cannot be run.
    """
    return (
        min_height(min_edges),
        max_height(max_edges),
        must_use("x_t", "h_{t-1}"),
        uses_matrix(),
        uses_activation(),
        no_repeated_operator(),
        no_stacked_activations(),
        gate_has_a_choice(),
        matrix_on_source(),
        has_memory_place(),
    )
