"""S17's agent: a network that grows a cell from h_t down, one word at a time (S17 sections 3.1, 4.2, appendix C.1).

A word is an operator or a source of the language. The slots of the tree are filled left to right, depth first.
Before each word the agent reads the tree as it stands: one LSTM runs over every node, its inputs the node's word
and then the results of the node's children, and what it holds at h_t is the encoding of the whole. The slot to fill
is marked by a word of its own, the target T; the slots that are still to come share another, which we add, since
something must stand there. From the encoding a small network answers with a probability for each word.

The LSTM starts afresh at every node. So equal subtrees have equal results, and `_Forest` holds each but once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from nasrepro.dsl import Node
from nasrepro.dsl.constraints import check_words, words
from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.settings import origin
from nasrepro.threads import torch_threads


@dataclass(frozen=True)
class AgentSettings:
    """The agent's network, and what it may grow.

    Raises ValueError for settings under which no tree could be grown, TypeError for words that are one string.
    """

    words: tuple[str, ...] = field(default=words("core", "extended"), metadata=origin("stated", "4.2"))
    """Operators and sources to choose from: core, extended and all sources. Leave out c_{t-1} for cells without a
    long-term memory."""
    width: int = field(default=64, metadata=origin("guessed", "3.1"))
    """Units of the LSTM that encodes trees, and the width of its words: it reads words and results alike."""
    policy: int = field(default=64, metadata=origin("guessed", "3.1"))
    """Units of the two layers that choose a word."""
    epsilon: float = field(
        default=0.05, metadata=origin("stated", "3.1", '"greedy" of an agent that samples: guessed, by its policy')
    )
    """Chance that a word is drawn uniformly among the legal ones, and not from the policy."""
    max_height: int = field(default=11, metadata=origin("inferred", "4.2", "how high; that there is a limit is stated"))
    """Edges between h_t and a source at most; a slot that far from h_t takes a source. The depths of the pre-training
    priors and of the printed cells end there."""
    max_nodes: int = 40
    """Operators of a tree at most; then all open slots take sources. Ours: Gate3s alone could open 3 ** 11 slots."""

    def __post_init__(self) -> None:
        check_words(self.words)
        if not {*self.words} & OPERATORS.keys() or not {*self.words} & SOURCES.keys():
            raise ValueError(f"words must hold an operator and a source, got {self.words}")
        if min(self.width, self.policy, self.max_height, self.max_nodes) < 1:
            raise ValueError(
                f"width={self.width}, policy={self.policy}, max_height={self.max_height} and "
                f"max_nodes={self.max_nodes} must be 1 or more"
            )
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is a probability, got {self.epsilon}")


@dataclass(frozen=True)
class Drawn:
    """A tree that the agent drew.

    It may lack a source that a cell needs, or offer no place for c_t: see `translation_priors`.
    """

    tree: Node
    explored: int
    """Words of the tree that epsilon drew."""
    log_prob: float
    """Of the tree under the policy, without epsilon."""


class SlotKind(IntEnum):
    """What may fill a slot: the row of the table of legal words."""

    OPERATOR = 0
    """At h_t, since a source alone computes nothing (guessed)."""
    ANY = 1
    SOURCE = 2
    """Where the tree may not grow further."""


class TreeAgent(nn.Module):
    """The agent's network: a distribution over trees, to draw from and to differentiate.

    The action head is softmax(linear(LSTM(ReLU(linear(encoding))))) as S17 states it, the LSTM making one step from a
    zero state: nothing but the encoding is handed from word to word (inferred), and its weights of the state lie idle.
    """

    def __init__(self, settings: AgentSettings | None = None, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings or AgentSettings()
        width, policy, count = self.settings.width, self.settings.policy, len(self.settings.words)
        self._number = {word: number for number, word in enumerate(self.settings.words)}
        # skip_init leaves torch's global random numbers alone; ours come from the seed.
        self.embedding = skip_init(nn.Embedding, count + 2, width)  # the words, the target, an empty slot
        self.encoder = skip_init(nn.LSTMCell, width, width)
        self.into_chooser = skip_init(nn.Linear, width, policy)
        self.chooser = skip_init(nn.LSTMCell, policy, policy)
        self.out = skip_init(nn.Linear, policy, count)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            bound = 1.0 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
            nn.init.uniform_(parameter, -bound, bound, generator)
        self.register_buffer("_legal", _legal_words(self.settings.words), persistent=False)
        self._legal: Tensor

    @torch_threads(1)
    @torch.inference_mode()
    def sample(self, count: int, generator: torch.Generator, explore: bool = True) -> list[Drawn]:
        """`count` trees, grown side by side, from `generator` alone; with `explore`, epsilon draws some words."""
        epsilon = self.settings.epsilon if explore else 0.0
        trees = [Growing() for _ in range(count)]
        explored, log_probs = [0] * count, [0.0] * count
        while alive := [number for number, growing in enumerate(trees) if growing.tree is None]:
            forest = _Forest(self._number)
            for number in alive:
                forest.add(trees[number], self._kind(trees[number]))
            slots = forest.slots()
            policy = self.policy(slots)  # (alive, words)
            legal = self._legal[slots.kinds]  # (alive, words)
            explores = torch.rand(len(alive), generator=generator) < epsilon  # (alive,)
            chances = torch.where(explores.unsqueeze(1), legal / legal.sum(1, keepdim=True), policy.exp())
            chosen = torch.multinomial(chances, 1, generator=generator)  # (alive, 1)
            steps = zip(alive, chosen.tolist(), policy.gather(1, chosen).tolist(), explores.tolist(), strict=True)
            for number, (word,), (log_prob,), by_epsilon in steps:
                trees[number].put(self.settings.words[word])
                explored[number] += by_epsilon
                log_probs[number] += log_prob
        return [
            Drawn(growing.tree, by_epsilon, log_prob)
            for growing, by_epsilon, log_prob in zip(trees, explored, log_probs, strict=True)
            if growing.tree is not None
        ]

    def log_probs(self, trees: Sequence[Node]) -> Tensor:
        """Log probability of each tree under the policy, without epsilon, (trees,).

        Raises ValueError for a tree that the settings do not allow.
        """
        return self.evaluate(trees)[0]

    def evaluate(self, trees: Sequence[Node]) -> tuple[Tensor, Tensor]:
        """Log probability of each tree, (trees,), and the policy's entropy in nats, mean over all slots, ().

        All slots of all trees are worked out together. Raises ValueError for a tree that the settings do not allow.
        """
        decisions = self.decisions(trees)
        policy = self.policy(decisions.slots)  # (decisions, words)
        picked = policy.gather(1, decisions.chosen.unsqueeze(1))[:, 0]  # (decisions,)
        total = picked.new_zeros(len(trees)).index_add(0, decisions.owner, picked)
        surprise = policy.exp() * policy.masked_fill(policy.isinf(), 0.0)  # a word that is not legal adds nothing
        return total, -surprise.sum(1).mean()

    def decisions(self, trees: Sequence[Node]) -> "Decisions":
        """What the agent has to choose, slot by slot, to grow these trees: the same whatever its weights.

        Raises ValueError for a tree that the settings do not allow.
        """
        forest = _Forest(self._number)
        chosen: list[int] = []
        owner: list[int] = []
        for number, tree in enumerate(trees):
            growing = Growing()
            for word in top_down(tree):
                kind = self._kind(growing)
                if word not in self._number or not self._legal[kind, self._number[word]]:
                    raise ValueError(
                        f"the agent cannot grow {tree.text}: {word} is not legal {len(growing.open)} edges below h_t"
                    )
                forest.add(growing, kind)
                chosen.append(self._number[word])
                owner.append(number)
                growing.put(word)
        return Decisions(forest.slots(), _numbers(chosen), _numbers(owner))

    def policy(self, slots: "Slots") -> Tensor:
        """Log probability of each word for each slot, (slots, words), -inf where the word is not legal."""
        encoding = self._encode(slots).index_select(0, slots.roots)  # (slots, width)
        hidden, _ = self.chooser(torch.relu(self.into_chooser(encoding)))  # (slots, policy)
        logits = self.out(hidden).masked_fill(~self._legal[slots.kinds], -torch.inf)
        return torch.log_softmax(logits, dim=1)

    def _encode(self, slots: "Slots") -> Tensor:
        """The encodings of all partial trees, in the order that `Slots` says, (nodes, width)."""
        # Every node begins with its word, and a leaf ends there: that step is made once for each word.
        words, word_memory = self.encoder(self.embedding.weight)  # (words + 2, width) each
        results = words
        for nodes in slots.heights:
            hidden = words.index_select(0, nodes.operators)  # (nodes, width)
            memory = word_memory.index_select(0, nodes.operators)
            finished: list[Tensor] = []
            for children in nodes.children:
                more = len(children)
                finished.insert(0, hidden[more:])
                hidden, memory = self.encoder(results.index_select(0, children), (hidden[:more], memory[:more]))
            results = torch.cat([results, hidden, *finished])
        return results

    def _kind(self, growing: "Growing") -> SlotKind:
        """What may fill the next slot."""
        if not growing.open:
            return SlotKind.OPERATOR
        full = growing.operators == self.settings.max_nodes or len(growing.open) == self.settings.max_height
        return SlotKind.SOURCE if full else SlotKind.ANY


def _legal_words(names: Sequence[str]) -> Tensor:
    """Which words may fill a slot of each kind, (kinds, words)."""
    operator = torch.tensor([name in OPERATORS for name in names])  # (words,)
    legal = {SlotKind.OPERATOR: operator, SlotKind.ANY: torch.ones_like(operator), SlotKind.SOURCE: ~operator}
    return torch.stack([legal[kind] for kind in SlotKind])


def top_down(node: Node) -> Iterator[str]:
    """The operators and sources of a tree in the order in which the agent chooses them."""
    yield node.op
    for arg in node.args:
        yield from top_down(arg)


class Growing:
    """A tree while it grows."""

    def __init__(self) -> None:
        self.open: list[tuple[str, list[Node]]] = []
        """The operators between h_t and the slot to fill, each with those of its arguments that are finished."""
        self.operators = 0
        self.tree: Node | None = None
        """The tree once no slot is left."""

    def put(self, word: str) -> None:
        """Fill the slot with an operator or a source."""
        if word in OPERATORS:
            self.operators += 1
            self.open.append((word, []))
            return
        node = Node(word)
        while self.open:
            operator, args = self.open[-1]
            args.append(node)
            if len(args) < OPERATORS[operator].arity:
                return
            self.open.pop()
            node = Node(operator, tuple(args))
        self.tree = node


@dataclass(frozen=True)
class SameHeight:
    """Nodes of one height, those with more children first."""

    operators: Tensor  # (nodes,) numbers of their words
    children: list[Tensor]  # for each place the children there, by their place in the order, (nodes that have one,)


@dataclass(frozen=True)
class Slots:
    """Slots to be filled, and the partial trees that they are in.

    The order of nodes is: one for each word, the target, the empty slot, and then those of each height, lowest first.
    """

    heights: list[SameHeight]
    roots: Tensor  # (slots,) where the partial trees' roots stand in the order
    kinds: Tensor  # (slots,) of `SlotKind`


@dataclass(frozen=True)
class Decisions:
    """Slots, and the words that trees have there."""

    slots: Slots
    chosen: Tensor  # (slots,) numbers of the words
    owner: Tensor  # (slots,) numbers of the trees


class _Forest:
    """Partial trees while they are collected, each distinct subtree once: a row for each."""

    def __init__(self, number: dict[str, int]) -> None:
        self._number = number
        self._target, self._empty = len(number), len(number) + 1
        self._rows: dict[tuple[str, tuple[int, ...]], int] = {}
        self._finished: dict[Node, int] = {}
        self._height = [0] * (len(number) + 2)
        self._of_height: dict[int, list[tuple[int, str, tuple[int, ...]]]] = {}
        self._roots: list[int] = []
        self._kinds: list[SlotKind] = []

    def add(self, growing: Growing, kind: SlotKind) -> None:
        """The tree as it stands, with the target in the slot to fill."""
        row = self._target
        for operator, args in reversed(growing.open):
            to_come = OPERATORS[operator].arity - len(args) - 1
            row = self._place(operator, (*map(self._place_tree, args), row, *[self._empty] * to_come))
        self._roots.append(row)
        self._kinds.append(kind)

    def _place(self, operator: str, children: tuple[int, ...]) -> int:
        """The row of this operator over the subtrees in these rows."""
        row = self._rows.get((operator, children))
        if row is None:
            row = self._rows[operator, children] = len(self._height)
            height = 1 + max(self._height[child] for child in children)
            self._height.append(height)
            self._of_height.setdefault(height, []).append((row, operator, children))
        return row

    def _place_tree(self, node: Node) -> int:
        """The row of a finished subtree."""
        if node.is_source:
            return self._number[node.op]
        row = self._finished.get(node)
        if row is None:
            row = self._finished[node] = self._place(node.op, tuple(map(self._place_tree, node.args)))
        return row

    def slots(self) -> Slots:
        """What was added, ordered so that all nodes of one height are computed at once."""
        stands = list(range(len(self._height)))  # where a row stands in the order; words stand in their rows
        heights: list[SameHeight] = []
        after = self._empty + 1
        for height in sorted(self._of_height):
            nodes = sorted(self._of_height[height], key=lambda node: -len(node[2]))
            for row, _, _ in nodes:
                stands[row] = after
                after += 1
            places = range(len(nodes[0][2]))
            children = [[stands[args[place]] for _, _, args in nodes if len(args) > place] for place in places]
            operators = [self._number[operator] for _, operator, _ in nodes]
            heights.append(SameHeight(_numbers(operators), list(map(_numbers, children))))
        return Slots(heights, _numbers([stands[row] for row in self._roots]), _numbers(self._kinds))


def _numbers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
