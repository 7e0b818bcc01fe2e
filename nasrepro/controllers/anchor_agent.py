"""ZL17's controller of convolutional networks: with anchor points, at which it chooses inputs (ZL17 section 3.4).

The sizes of a layer are chosen by softmaxes, one token after the other, as `token_agent` does. Then comes the layer's
anchor point: one more step of the LSTM, whose hidden state stands for the layer from then on. There each layer before
it is an input with a probability of its own, sigmoid(v tanh(W_prev h_j + W_curr h_i)), where h_j and h_i are the hidden
states at the two anchors. All of these are drawn at once, independently of each other.

Where there are several types of layers, the first step of a layer chooses its type, and the steps of sizes that the
type does not have are left out. Where the learning rate is chosen, it is so by one more softmax, after the last layer.
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

_NONE = -1
"""Stands for the token of a place that a string does not have."""

_State = tuple[Tensor, Tensor]
"""Of the LSTM: hidden numbers and cells, (layers, count, units) both."""


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
        units, counts = self.settings.units, [len(place.words) for place in space.places]
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
        self.register_buffer("_legal", legal_rows(space.places), persistent=False)
        self._legal: Tensor
        chosen = [[place in space.chosen(kind) for place in range(len(counts))] for kind in range(len(space.types))]
        self.register_buffer("_chosen", torch.tensor(chosen), persistent=False)  # (types, places)
        self._chosen: Tensor

    @torch_threads(1)
    @torch.inference_mode()
    def sample(self, count: int, depth: int, generator: torch.Generator) -> list[DrawnTokens]:
        """`count` token strings of `depth` layers, drawn side by side, from `generator` alone."""
        walk = self._walk(count, depth, _Draw(generator))
        return [
            DrawnTokens(tuple(token for token in tokens if token != _NONE), log_prob)
            for tokens, log_prob in zip(walk.tokens.tolist(), walk.log_probs.tolist(), strict=True)
        ]

    def evaluate(self, strings: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Log probability of each token string, (strings,), and the policy's entropy in nats, mean over tokens, ().

        Strings may describe different numbers of layers. Raises ValueError for a string that is not of the space.
        """
        depths = [self.space.depth(tokens) for tokens in strings]
        log_probs: list[Tensor | None] = [None] * len(strings)
        entropy, decisions = torch.zeros(()), 0
        for depth in sorted({*depths}):
            of = [number for number, each in enumerate(depths) if each == depth]
            walk = self._walk(len(of), depth, self._given([strings[number] for number in of]))
            for number, log_prob in zip(of, walk.log_probs, strict=True):
                log_probs[number] = log_prob
            entropy = entropy + walk.entropy.sum()
            decisions += int((walk.tokens != _NONE).sum())
        return torch.stack([each for each in log_probs if each is not None]), entropy / decisions

    @torch.inference_mode()
    def choices(self, tokens: Sequence[int]) -> list[list[float]]:
        """For each token of a string the probability of every choice there, given the tokens before it.

        At an anchor these are of "no" and "yes". Raises ValueError for a string that is not of the space.
        """
        return self._walk(1, self.space.depth(tokens), self._given([tokens])).choices

    def _given(self, strings: Sequence[Sequence[int]]) -> "_Given":
        """Strings of one depth, filled up at the places that the types of their layers do not have."""
        filled = []
        for tokens in strings:
            row: list[int] = []
            for own, anchor in self.space.layers(tokens):
                chosen = self.space.chosen(own[0] if len(self.space.types) > 1 else 0)
                there = dict(zip(chosen, own, strict=True))
                row += [there.get(place, _NONE) for place in range(len(self.space.choices))]
                row += anchor
            filled.append([*row, *tokens[len(tokens) - len(self.space.places) + len(self.space.choices) :]])
        return _Given(torch.tensor(filled))

    def _walk(self, count: int, depth: int, chooser: "_Chooser") -> "_Walk":
        """Go through `count` strings of `depth` layers side by side, each token as the chooser says."""
        start = self.embedding.weight[self._start].expand(count, -1)  # (count, units)
        x, state, anchors = start, None, list[Tensor]()
        told = _Walk.empty(count)
        places = range(len(self.space.choices))
        for _ in range(depth):
            is_there: Tensor | None = None  # (count, places)
            for place in places:
                here = None if is_there is None else is_there[:, place]
                x, state = self._word(place, x, state, chooser, told, here)
                if place == 0 and len(self.space.types) > 1:
                    is_there = self._chosen[told.tokens[:, -1]]
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
        for place in range(len(self.space.choices), len(self.space.places)):
            x, state = self._word(place, x, state, chooser, told, None)
        return told

    def _word(
        self, place: int, x: Tensor, state: _State | None, chooser: "_Chooser", told: "_Walk", is_there: Tensor | None
    ) -> tuple[Tensor, _State]:
        """One step of the LSTM, and a choice at a place: what is fed to the next step, and the new state.

        Strings which do not have that place, by `is_there`, (count,), stay as they are; None: all have it.
        """
        first, legal = self._first_row[place], self._legal[place]
        hidden, after = self.lstm(x[None], state)  # (1, count, units)
        scores = self.out(hidden[0]).masked_fill(~legal, -torch.inf)
        policy = torch.log_softmax(scores, dim=-1)  # (count, rows)
        rows = chooser.word(policy, first)  # (count,)
        if is_there is None or state is None:
            told.add_word(policy, rows, first, legal)
            return self.embedding(rows), after
        rows = torch.where(is_there, rows, first)
        told.add_word(policy, rows, first, legal, is_there)
        kept = [torch.where(is_there[:, None], new, old) for new, old in zip(after, state, strict=True)]
        return torch.where(is_there[:, None], self.embedding(rows), x), (kept[0], kept[1])


@dataclass
class _Walk:
    """What was met on the way through strings side by side."""

    tokens: Tensor  # (count, places so far), _NONE where a string does not have that place
    log_probs: Tensor  # (count,)
    entropy: Tensor  # (count,), nats, sum over tokens
    choices: list[list[float]]  # of the first string, for each token

    @classmethod
    def empty(cls, count: int) -> "_Walk":
        return cls(torch.empty(count, 0, dtype=torch.int64), torch.zeros(count), torch.zeros(count), [])

    def add_word(self, policy: Tensor, rows: Tensor, first: int, legal: Tensor, is_there: Tensor | None = None) -> None:
        """Take in a softmax's choice: (count, rows), (count,); only for the strings that have that place, (count,)."""
        tokens, picked, entropy = rows - first, policy.gather(1, rows[:, None])[:, 0], entropies(policy)
        if is_there is not None:
            tokens = tokens.where(is_there, _NONE)
            picked, entropy = picked.where(is_there, 0.0), entropy.where(is_there, 0.0)
        self.tokens = torch.cat([self.tokens, tokens[:, None]], 1)
        self.log_probs = self.log_probs + picked
        self.entropy = self.entropy + entropy
        if is_there is None or is_there[0]:
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
