"""S17's random generator: trees grown from h_t down, one word at a time (S17 sections 3.1 and 4.1).

A word is an operator or a source of the language. A slot starts empty at h_t. Each empty slot draws a word; an
operator opens slots of its own, which are filled left to right before anything else. What can be known about a slot
while growing narrows the draw: the gate of a Gate3 is a Sigmoid, no operator stands under itself, no tree outgrows
the height. What shows only in a finished tree (both sources used, a place for c_t) is checked then, and the tree is
thrown away if it fails.
"""

import gc
import random
from bisect import bisect
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

from nasrepro.dsl import Cell, Node
from nasrepro.dsl.constraints import Rule, check_words, language_model_rules, words
from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.settings import origin

_MEMORY = "c_{t-1}"


@dataclass(frozen=True)
class GrowthSettings:
    """What the random generator may grow.

    Raises ValueError where no cell could obey the settings.
    """

    words: tuple[str, ...] = field(default=words("core"), metadata=origin("stated", "4.1"))
    """Operators and sources to draw from: the core language."""
    max_nodes: int = field(default=21, metadata=origin("stated", "4.1", "whether sources count: inferred, they do not"))
    """Nodes of a tree at most."""
    max_height: int = field(default=8, metadata=origin("stated", "4.1"))
    """Edges from h_t to the deepest source at most."""
    count_sources: bool = field(default=False, metadata=origin("inferred", "4.1"))
    """Whether sources count as nodes: only without them does S17's own BC3 fit under 21."""
    weights: Mapping[str, float] = field(default_factory=dict, metadata=origin("guessed", "3.1"))
    """Relative chance of a word among those legal in a slot, 1 where not named."""
    patience: int = 20_000
    """Draws in a row that may yield nothing new before the space counts as exhausted. Ours."""

    def __post_init__(self) -> None:
        check_words(self.words, self.weights)
        if min(self.max_height, self.max_nodes, self.patience) < 1:
            raise ValueError(
                f"max_height={self.max_height}, max_nodes={self.max_nodes} and patience={self.patience} "
                "must be 1 or more"
            )
        drawable = {word for word in self.words if self.weights.get(word, 1.0) > 0}
        missing = {"x_t", "h_{t-1}"} - drawable | ({"Sigmoid"} if "Gate3" in drawable else set()) - drawable
        if missing or drawable <= SOURCES.keys():
            raise ValueError(
                f"no cell could obey the search's rules: words and weights leave out "
                f"{' and '.join(sorted(missing)) or 'every operator'}"
            )

    def rules(self) -> tuple[Rule, ...]:
        """The rules of the language-model search, with these limits; only `words` are ever drawn."""
        rules = language_model_rules(self.max_nodes, self.max_height, self.count_sources)
        return tuple(rule for rule in rules if rule.name != "word not allowed")


@dataclass(frozen=True)
class Draws:
    """What `draw_cells` found."""

    cells: list[Cell]
    """Canonical and distinct, in the order of their discovery."""
    rejected: Counter[str]
    """Draws thrown away, by the name of the first rule broken; "duplicate" for cells known already."""
    exhausted: bool
    """True when the generator stopped finding new cells before it had as many as were asked for."""


def draw_cells(
    count: int,
    rng: random.Random,
    settings: GrowthSettings | None = None,
    memory: bool = False,
    seen: Container[str] = (),
) -> Draws:
    """Up to `count` random cells, in canonical form, distinct by `cell.hash`, with no hash in `seen`.

    With `memory`, trees may read c_{t-1}; such a tree gives one cell for each place of c_t (S17 section 2.3).
    Stops early, with `exhausted` set, after `settings.patience` draws in a row without a new cell.
    """
    settings = settings or GrowthSettings()
    with _collector_paused():
        return _draw_cells(count, rng, settings, memory, seen)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Trees hold no cycles, so the garbage collector finds nothing in them, yet walks all of them time and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _draw_cells(count: int, rng: random.Random, settings: GrowthSettings, memory: bool, seen: Container[str]) -> Draws:
    grower, rules = Grower(settings, memory), settings.rules()
    cells: list[Cell] = []
    found: set[str] = set()
    rejected: Counter[str] = Counter()
    fruitless = 0
    while len(cells) < count and fruitless < settings.patience:
        fruitless += 1
        tree = grower.grow(rng)
        if tree is None:
            rejected["too large"] += 1
            continue
        cell = Cell(tree)
        broken = _first_broken(rules, cell)
        if broken:
            rejected[broken] += 1
            continue
        for candidate in [cell] if cell.is_runnable else cell.memory_candidates():
            canonical = candidate.canonical()
            # Merging Add(MM(x), MM(x)) can bring an operator under itself, so the rules are asked once more.
            broken = _first_broken(rules, canonical) if canonical.size < cell.size else None
            if broken:
                rejected[broken] += 1
            elif candidate.hash in found or candidate.hash in seen:
                rejected["duplicate"] += 1
            elif len(cells) < count:
                found.add(candidate.hash)
                cells.append(canonical)
                fruitless = 0
    return Draws(cells, rejected, exhausted=len(cells) < count)


def _first_broken(rules: Sequence[Rule], cell: Cell) -> str | None:
    """The name of the first rule that the cell breaks. The others are not asked: most draws break one."""
    return next((rule.name for rule in rules if rule.check(cell) is not None), None)


class Grower:
    """Grows random trees from h_t down."""

    def __init__(self, settings: GrowthSettings, memory: bool = False) -> None:
        self.settings = settings
        self._words = tuple(word for word in settings.words if memory or word != _MEMORY)
        self._leaves = {word: Node(word) for word in self._words if word in SOURCES}
        self._legal: dict[tuple[str | None, int], tuple[list[str], list[float]]] = {}

    def grow(self, rng: random.Random) -> Node | None:
        """One tree, or None as soon as it has too many nodes. It may still lack a source."""
        limit, count_sources = self.settings.max_nodes, self.settings.count_sources
        nodes = 0

        def fill(word: str, depth: int) -> Node | None:
            nonlocal nodes
            nodes += count_sources or word in OPERATORS
            if nodes > limit:
                return None
            if word in self._leaves:
                return self._leaves[word]
            args: list[Node] = []
            for place in range(OPERATORS[word].arity):
                is_gate = word == "Gate3" and place == 2
                arg = fill("Sigmoid" if is_gate else self._draw(word, depth + 1, rng), depth + 1)
                if arg is None:
                    return None
                args.append(arg)
            return Node(word, tuple(args))

        return fill(self._draw(None, 0, rng), 0)

    def _draw(self, parent: str | None, depth: int, rng: random.Random) -> str:
        """A word for a slot `depth` edges below h_t, under operator `parent`; None where the slot is h_t."""
        legal = self._legal.get((parent, depth))
        if legal is None:
            names = self.legal_words(parent, depth)
            legal = names, list(accumulate(self.settings.weights.get(word, 1.0) for word in names))
            self._legal[parent, depth] = legal
        names, cumulative = legal
        # What rng.choices does, without its checks: they took a tenth of the time of a whole search step.
        return names[bisect(cumulative, rng.random() * cumulative[-1], 0, len(names) - 1)]

    def legal_words(self, parent: str | None, depth: int) -> list[str]:
        """The words that a slot may draw, but for a gate's slot, where only Sigmoid may stand."""
        return [word for word in self._words if self._is_legal(word, parent, depth)]

    def _is_legal(self, word: str, parent: str | None, depth: int) -> bool:
        if word in SOURCES:
            return parent is not None  # h_t is computed: a cell that is one source cannot use two
        below = 2 if word == "Gate3" else 1  # a Gate3 needs room for its Sigmoid and what stands under it
        return word != parent and depth + below <= self.settings.max_height
