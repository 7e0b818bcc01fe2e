"""ZL17's controller of convolutional networks: with anchor points, at which it chooses inputs (ZL17 section 3.4).

The sizes of a layer are chosen by softmaxes, one token after the other, as `token_agent` does. Then comes the layer's
anchor point: one more step of the LSTM, whose hidden state stands for the layer from then on. There each layer before
it is an input with a probability of its own, sigmoid(v tanh(W_prev h_j + W_curr h_i)), where h_j and h_i are the hidden
states at the two anchors. All of these are drawn at once, independently of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.controllers.token_agent import (
    DrawnTokens,
    TokenAgentSettings,
    begin_uniform,
    draw,
    entropies,
    legal_rows,
)
from nasrepro.threads import torch_threads


class AnchorAgent(nn.Module):
    """The controller's network: a distribution over the token strings of a `ConvSpace`, for any number of layers.

    After an anchor the LSTM is fed the mean of the hidden states of the layers that were chosen there, as ENAS's
    controller is (Pham et al. 2018); the learned vector of the first input where none was. The paper states neither
    (guessed). Rows are as in `TokenAgent`; all layers share them.
    """

    def __init__(self, space: ConvSpace, settings: TokenAgentSettings | None = None, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.settings = settings or TokenAgentSettings()
        units, counts = self.settings.units, [len(place.words) for place in space.choices]
        self._first_row = [sum(counts[:place]) for place in range(len(counts))]
        self._start = sum(counts)  # the row of the first input
        with torch.device("meta"):  # so torch's global random numbers are left alone; ours come from the seed
            self.embedding = nn.Embedding(self._start + 1, units)
            self.lstm = nn.LSTM(units, units, self.settings.layers)
            self.out = nn.Linear(units, self._start)
            self.previous = nn.Linear(units, units, bias=False)  # W_prev
            self.current = nn.Linear(units, units, bias=False)  # W_curr
            self.score = nn.Linear(units, 1, bias=False)  # v
        begin_uniform(self, self.settings.init, seed)
        self.register_buffer("_legal", legal_rows(space.choices), persistent=False)
        self._legal: Tensor

    @torch_threads(1)
    @torch.inference_mode()
    def sample(self, count: int, depth: int, generator: torch.Generator) -> list[DrawnTokens]:
        """`count` token strings of `depth` layers, drawn side by side, from `generator` alone."""
        walk = self._walk(count, depth, _Draw(generator))
        return [
            DrawnTokens(tuple(tokens), log_prob)
            for tokens, log_prob in zip(walk.tokens.tolist(), walk.log_probs.tolist(), strict=True)
        ]

    def evaluate(self, strings: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Log probability of each token string, (strings,), and the policy's entropy in nats, mean over tokens, ().

        Strings may describe different numbers of layers. Raises ValueError for a string that is not of the space.
        """
        depths = [len(self.space.layers(tokens)) for tokens in strings]
        log_probs: list[Tensor | None] = [None] * len(strings)
        entropy, decisions = torch.zeros(()), 0
        for depth in sorted({*depths}):
            of = [number for number, each in enumerate(depths) if each == depth]
            walk = self._walk(len(of), depth, _Given(torch.tensor([tuple(strings[number]) for number in of])))
            for number, log_prob in zip(of, walk.log_probs, strict=True):
                log_probs[number] = log_prob
            entropy = entropy + walk.entropy.sum()
            decisions += walk.tokens.numel()
        return torch.stack([each for each in log_probs if each is not None]), entropy / decisions

    @torch.inference_mode()
    def choices(self, tokens: Sequence[int]) -> list[list[float]]:
        """For each token of a string the probability of every choice there, given the tokens before it.

        At an anchor these are of "no" and "yes". Raises ValueError for a string that is not of the space.
        """
        depth = len(self.space.layers(tokens))
        return self._walk(1, depth, _Given(torch.tensor([tuple(tokens)]))).choices

    def _walk(self, count: int, depth: int, chooser: "_Chooser") -> "_Walk":
        """Go through `count` strings of `depth` layers side by side, each token as the chooser says."""
        start = self.embedding.weight[self._start].expand(count, -1)  # (count, units)
        x, state, anchors = start, None, list[Tensor]()
        told = _Walk.empty(count)
        for _ in range(depth):
            for place, first in enumerate(self._first_row):
                hidden, state = self.lstm(x[None], state)  # (1, count, units)
                scores = self.out(hidden[0]).masked_fill(~self._legal[place], -torch.inf)
                policy = torch.log_softmax(scores, dim=-1)  # (count, rows)
                rows = chooser.word(policy, first)  # (count,)
                told.add_word(policy, rows, first, self._legal[place])
                x = self.embedding(rows)
            if not self.space.skips:
                continue
            hidden, state = self.lstm(x[None], state)
            x = start
            if anchors:
                before = torch.stack(anchors, 1)  # (count, layers before, units)
                meeting = torch.tanh(self.previous(before) + self.current(hidden[0])[:, None])
                scores = self.score(meeting)[..., 0]  # (count, layers before)
                chosen = chooser.inputs(scores)  # (count, layers before), 0 or 1
                told.add_inputs(scores, chosen)
                number = chosen.sum(1, keepdim=True)
                mean = (chosen[..., None] * before).sum(1) / number.clamp(min=1)
                x = torch.where(number > 0, mean, start)
            anchors.append(hidden[0])
        return told


@dataclass
class _Walk:
    """What was met on the way through strings side by side."""

    tokens: Tensor  # (count, tokens so far)
    log_probs: Tensor  # (count,)
    entropy: Tensor  # (count,), nats, sum over tokens
    choices: list[list[float]]  # of the first string, for each token

    @classmethod
    def empty(cls, count: int) -> "_Walk":
        return cls(torch.empty(count, 0, dtype=torch.int64), torch.zeros(count), torch.zeros(count), [])

    def add_word(self, policy: Tensor, rows: Tensor, first: int, legal: Tensor) -> None:
        """Take in a softmax's choice: (count, rows), (count,)."""
        self.tokens = torch.cat([self.tokens, (rows - first)[:, None]], 1)
        self.log_probs = self.log_probs + policy.gather(1, rows[:, None])[:, 0]
        self.entropy = self.entropy + entropies(policy)
        self.choices.append(policy[0, legal].exp().tolist())

    def add_inputs(self, scores: Tensor, chosen: Tensor) -> None:
        """Take in what was chosen at an anchor: (count, layers before) both."""
        yes, no = F.logsigmoid(scores), F.logsigmoid(-scores)
        self.tokens = torch.cat([self.tokens, chosen.long()], 1)
        self.log_probs = self.log_probs + torch.where(chosen > 0, yes, no).sum(1)
        self.entropy = self.entropy - (yes.exp() * yes + no.exp() * no).sum(1)
        self.choices += torch.stack([no[0], yes[0]], 1).exp().tolist()


class _Chooser(Protocol):
    """What says which token comes next."""

    def word(self, policy: Tensor, first: int, /) -> Tensor:
        """Rows (count,) by log probabilities (count, rows); a place's own rows begin with `first`."""

    def inputs(self, scores: Tensor, /) -> Tensor:
        """0 or 1 for each layer before, (count, layers), by the scores of "yes" before the sigmoid."""


class _Draw:
    """Draws, from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def word(self, policy: Tensor, first: int) -> Tensor:  # noqa: ARG002
        return draw(policy, torch.rand(len(policy), 1, generator=self.generator))

    def inputs(self, scores: Tensor) -> Tensor:
        return (torch.rand(scores.shape, generator=self.generator) < scores.sigmoid()).float()


class _Given:
    """Reads off strings that are known, (count, tokens)."""

    def __init__(self, strings: Tensor) -> None:
        self.strings, self.read = strings, 0

    def word(self, policy: Tensor, first: int) -> Tensor:  # noqa: ARG002
        self.read += 1
        return self.strings[:, self.read - 1] + first

    def inputs(self, scores: Tensor) -> Tensor:
        begin, self.read = self.read, self.read + scores.shape[1]
        return self.strings[:, begin : self.read].float()
