"""What S17's agent knows before its first reward: the six priors of section 4.2, and a pre-training on them.

S17 says which properties of cells the agent was pre-trained on (`translation_priors`), and not how. The procedure here
is ours: random trees with these properties are drawn, the agent is trained to make them likely, and, word by word, to
shun what would break a prior. The same draws, with no agent at all, are the random generator with which a search by the
agent can be compared.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nasrepro.controllers.tree_agent import Decisions, Growing, TreeAgent, top_down
from nasrepro.dsl import Cell, Node
from nasrepro.dsl.constraints import check_words, translation_priors, words
from nasrepro.dsl.operators import OPERATORS, SOURCES
from nasrepro.threads import torch_threads

_PATIENCE = 2_000
"""Draws in a row that may break a rule before no tree at all is expected."""
_RULES = translation_priors()


@dataclass(frozen=True)
class PriorSettings:
    """Which well-formed trees are drawn, and how the agent learns them. All of it is ours: S17 gives no procedure.

    Raises ValueError for settings under which nothing could be drawn.
    """

    words: tuple[str, ...] = words("core", "extended")
    """Operators and sources to draw from: the agent's own."""
    smallest: int = 5
    """Operators of a tree at least: the size of MT1, MT2 and MT5."""
    largest: int = 25
    """Operators of a tree at most: the size of MT3. Of two sizes drawn uniformly the smaller is taken, so that
    small trees, which train fast, are more frequent."""
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"MM": 12.0, "x_t": 8.0, "h_{t-1}": 8.0, "c_{t-1}": 0.5}
    )
    """Relative chance of a word where it may stand, 1 where not named: MM stands only over a source, a cell needs
    x_t and h_{t-1}, and each place for a c_t is one more cell to train."""
    batch: int = 32
    """Trees of one step of the pre-training."""
    batches: int = 64
    """Batches drawn, and then used again and again: to draw one takes longer than to learn from it."""
    updates: int = 600
    """Steps of Adam."""
    learning_rate: float = 1e-2
    """Adam's. It falls to zero along a half cosine."""
    faults: float = 10.0
    """Weight of the chance of breaking a prior in what is minimised, beside the likelihood: which operator stands above
    a slot is too small a part of the likelihood to be learned soon."""

    def __post_init__(self) -> None:
        check_words(self.words, self.weights)
        if not 1 <= self.smallest <= self.largest:
            raise ValueError(f"smallest={self.smallest} and largest={self.largest} are no range of sizes")
        if min(self.batch, self.batches, self.updates) < 1:
            raise ValueError(f"batch={self.batch}, batches={self.batches} and updates={self.updates} must be 1 or more")


def is_well_formed(tree: Node) -> bool:
    """Whether the tree obeys every rule of `translation_priors`."""
    cell = Cell(tree)
    return all(rule.check(cell) is None for rule in _RULES)


def draw_well_formed(rng: random.Random, settings: PriorSettings | None = None) -> Node:
    """A random tree that obeys the priors: S17's random generator, in the agent's space.

    A size is drawn, then operators from h_t down, each sharing what is left of the size out among its arguments. What
    can be seen on the way is never drawn; a tree that breaks a rule when it is finished is thrown away.

    Raises ValueError when no tree is found in 2,000 draws.
    """
    settings = settings or PriorSettings()
    for _ in range(_PATIENCE):
        size = min(rng.randint(settings.smallest, settings.largest), rng.randint(settings.smallest, settings.largest))
        tree = _draw(size, None, rng, settings)
        if tree is not None and is_well_formed(tree):
            return tree
    raise ValueError(f"found no tree that obeys the priors in {_PATIENCE} draws with {settings}")


def _draw(size: int, parent: str | None, rng: random.Random, settings: PriorSettings) -> Node | None:
    """A tree with `size` operators to stand under `parent`, None where the priors allow none."""
    legal = [word for word in settings.words if _may_stand(word, parent) and _has_size(word, size)]
    weights = [settings.weights.get(word, 1.0) for word in legal]
    if not sum(weights):
        return None
    (word,) = rng.choices(legal, weights)
    if size == 0:
        return Node(word)
    args = [_draw(share, word, rng, settings) for share in _shares(size - 1, OPERATORS[word].arity, rng)]
    whole = tuple(arg for arg in args if arg is not None)
    return Node(word, whole) if len(whole) == len(args) else None


def _may_stand(word: str, parent: str | None) -> bool:
    """Whether the priors let this word stand under `parent`; None where its slot is h_t."""
    if parent is None or parent == "MM":
        return (word in SOURCES) == (parent == "MM")
    stacked = word in OPERATORS and OPERATORS[word].activation and OPERATORS[parent].activation
    return word != parent and not stacked


def _has_size(word: str, size: int) -> bool:
    """Whether a subtree that begins with this word may have `size` operators."""
    return (word in SOURCES) == (size == 0) and (word != "MM" or size == 1)


def _shares(total: int, parts: int, rng: random.Random) -> list[int]:
    """`total` as a sum of `parts` numbers, all such sums alike."""
    bars = sorted(rng.sample(range(total + parts - 1), parts - 1))
    edges = [-1, *bars, total + parts - 1]
    return [after - before - 1 for before, after in pairwise(edges)]


def well_formed_share(agent: TreeAgent, count: int, generator: torch.Generator) -> float:
    """The share of well-formed trees among `count` drawn from the agent's policy, without epsilon."""
    return sum(is_well_formed(drawn.tree) for drawn in agent.sample(count, generator, explore=False)) / count


@torch_threads(1)
def pretrain(
    agent: TreeAgent, settings: PriorSettings, generator: torch.Generator, looks: int = 8, count: int = 100
) -> dict[str, Any]:
    """Train the agent to draw well-formed trees.

    Minimised is, per tree, its negative log likelihood plus the setting `faults` times the sum over its words of
    -log(1 - chance that the policy breaks a prior there).

    Returns {"updates": after how many updates each of the `looks` + 1 looks was taken, "share": of well-formed trees
    among `count` drawn then, "nats" and "faults": the two parts of the loss, mean over the updates since the look
    before, None at the first}.

    Raises ValueError where the priors draw what the agent's settings do not allow.
    """
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    lessons = [_lesson(agent, settings, rng) for _ in range(settings.batches)]
    optimiser = torch.optim.Adam(agent.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.updates)
    share = well_formed_share(agent, count, generator)
    facts: dict[str, Any] = {"updates": [0], "share": [share], "nats": [None], "faults": [None]}
    parts: list[tuple[float, float]] = []
    look_after = {settings.updates * look // looks for look in range(1, looks + 1)}
    for update in range(1, settings.updates + 1):
        nats, faults = _losses(agent, *rng.choice(lessons))
        optimiser.zero_grad()
        ((nats + settings.faults * faults) / settings.batch).backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        parts.append((nats.item() / settings.batch, faults.item() / settings.batch))
        if update in look_after:
            facts["updates"].append(update)
            facts["share"].append(well_formed_share(agent, count, generator))
            for name, numbers in zip(("nats", "faults"), zip(*parts, strict=True), strict=True):
                facts[name].append(sum(numbers) / len(numbers))
            parts.clear()
    return facts


def _lesson(agent: TreeAgent, settings: PriorSettings, rng: random.Random) -> tuple[Decisions, Tensor]:
    """A batch of well-formed trees, and which of the agent's words break a prior where, (decisions, words)."""
    trees = [draw_well_formed(rng, settings) for _ in range(settings.batch)]
    broken: list[list[bool]] = []
    for tree in trees:
        growing = Growing()
        for word in top_down(tree):
            broken.append([_breaks_a_prior(growing, other) for other in agent.settings.words])
            growing.put(word)
    return agent.decisions(trees), torch.tensor(broken)


def _breaks_a_prior(growing: Growing, word: str) -> bool:
    """Whether the tree with this word in its slot breaks a prior, whatever follows."""
    if not _may_stand(word, growing.open[-1][0] if growing.open else None):
        return True
    if word in OPERATORS:
        return False
    node = Node(word)
    for operator, args in reversed(growing.open):
        if operator == "Gate3" and args == [node]:
            return True
        finished = (*args, node)
        if len(finished) < OPERATORS[operator].arity:
            return False
        node = Node(operator, finished)
    return not is_well_formed(node)


def _losses(agent: TreeAgent, decisions: Decisions, broken: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log likelihood, and -log of the chance of breaking no prior: sums over all words, () each."""
    policy = agent.policy(decisions.slots)  # (decisions, words)
    unbroken = policy.masked_fill(broken, -torch.inf).logsumexp(1)  # (decisions,)
    return -policy.gather(1, decisions.chosen.unsqueeze(1)).sum(), -unbroken.sum()
