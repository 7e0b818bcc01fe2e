"""ZL17's controller: a recurrent network that writes a token string, one token after the other (ZL17 section 3.2).

At each place a softmax gives the probability of every choice. A token is drawn from it, and its embedding is the
network's next input, so that each choice knows of all before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasrepro.controllers.token_space import Place, Tokens, TokenSpace, check_space, places_of
from nasrepro.settings import origin
from nasrepro.threads import torch_threads


@dataclass(frozen=True)
class TokenAgentSettings:
    """The controller's network. Raises ValueError for numbers that make none."""

    units: int = field(default=35, metadata=origin("stated", "4.1", paper="ZL17"))
    """Units of each layer."""
    layers: int = field(
        default=2, metadata=origin("stated", "4.1", "width of the embedding: guessed, a layer's units", paper="ZL17")
    )
    """Layers of the LSTM. Tokens are embedded in as many numbers as a layer has units."""
    init: float = field(
        default=0.08, metadata=origin("stated", "4.1", "of biases and embeddings too: inferred", paper="ZL17")
    )
    """All weights begin uniform between minus and plus this, biases and embeddings among them."""

    def __post_init__(self) -> None:
        if self.units < 1 or self.layers < 1 or self.init <= 0:
            raise ValueError(
                f"units={self.units} and layers={self.layers} must be 1 or more, init={self.init} must be positive"
            )


@dataclass(frozen=True)
class DrawnTokens:
    """A token string that the controller drew."""

    tokens: Tokens
    log_prob: float


class TokenAgent(nn.Module):
    """The controller's network: a distribution over the token strings of a space.

    A *row* stands for one word at one place: the rows of the first place come first. One matrix holds all softmaxes;
    at a place only its own rows are legal. The first input, which the paper does not state, is a learned vector of its
    own (guessed).

    Raises ValueError for a space without choices.
    """

    def __init__(self, space: TokenSpace, settings: TokenAgentSettings | None = None, seed: int = 0) -> None:
        super().__init__()
        check_space(space)
        self.space = space
        self.settings = settings or TokenAgentSettings()
        units, counts = self.settings.units, [len(place.words) for place in space.places]
        self._first_row = [sum(counts[:place]) for place in range(len(counts))]
        self._start = sum(counts)  # the row of the first input
        with torch.device("meta"):  # so torch's global random numbers are left alone; ours come from the seed
            self.embedding = nn.Embedding(self._start + 1, units)
            self.lstm = nn.LSTM(units, units, self.settings.layers)
            self.out = nn.Linear(units, self._start)
        begin_uniform(self, self.settings.init, seed)
        self.register_buffer("_legal", legal_rows(space.places), persistent=False)
        self._legal: Tensor

    @torch_threads(1)
    @torch.inference_mode()
    def sample(self, count: int, generator: torch.Generator) -> list[DrawnTokens]:
        """`count` token strings, drawn side by side, from `generator` alone: one number a string and token."""
        strings: list[list[int]] = [[] for _ in range(count)]
        log_probs = [0.0] * count
        rows = torch.full((count,), self._start)
        state: tuple[Tensor, Tensor] | None = None
        while True:
            places = [self.space.next_place(tokens) for tokens in strings]
            if all(place is None for place in places):
                break
            hidden, state = self.lstm(self.embedding(rows)[None], state)  # (1, count, units)
            # A string that is complete goes along, and what is drawn for it is thrown away.
            policy = self._policy(hidden[0], torch.tensor([place or 0 for place in places]))  # (count, rows)
            rows = draw(policy, torch.rand(count, 1, generator=generator))  # (count,)
            picked = policy.gather(1, rows[:, None])[:, 0].tolist()
            for number, (place, row, log_prob) in enumerate(zip(places, rows.tolist(), picked, strict=True)):
                if place is not None:
                    strings[number].append(row - self._first_row[place])
                    log_probs[number] += log_prob
        return [DrawnTokens(tuple(tokens), total) for tokens, total in zip(strings, log_probs, strict=True)]

    def log_probs(self, strings: Sequence[Sequence[int]]) -> Tensor:
        """Log probability of each token string, (strings,). Raises ValueError for one that is not of the space."""
        return self.evaluate(strings)[0]

    def evaluate(self, strings: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Log probability of each token string, (strings,), and the policy's entropy in nats, mean over tokens, ().

        All tokens of all strings are worked out together, each string being fed to the network as it is. Raises
        ValueError for a string that is not of the space, and for none at all.
        """
        if len(strings) == 0:  # of a table too
            raise ValueError("there is no token string to work out: pass one or more")
        places, rows, exists = self._forced(strings)  # (tokens, strings) each
        policy = self._along(places, rows)  # (tokens, strings, rows)
        picked = policy.gather(2, rows[..., None])[..., 0]  # (tokens, strings)
        return (picked * exists).sum(0), (entropies(policy) * exists).sum() / exists.sum()

    @torch.inference_mode()
    def choices(self, tokens: Sequence[int]) -> list[list[float]]:
        """At each place of a token string the probability of every choice there, given the tokens before it.

        Raises ValueError for a string that is not of the space.
        """
        places, rows, _ = self._forced([tokens])  # (tokens, 1)
        policy = self._along(places, rows)[:, 0].exp()  # (tokens, rows)
        return [row[self._legal[place]].tolist() for row, place in zip(policy, places[:, 0], strict=True)]

    def _forced(self, strings: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Place and row of each token, and whether it exists: shorter strings are filled up."""
        places = [[*places_of(self.space, tokens)] for tokens in strings]
        length = max(map(len, places), default=0)
        rows = [
            [self._first_row[place] + token for place, token in zip(here, tokens, strict=True)]
            for here, tokens in zip(places, strings, strict=True)
        ]
        filled = [[[*each, *[0] * (length - len(each))] for each in table] for table in (places, rows)]
        lengths = torch.tensor([len(here) for here in places])
        exists = torch.arange(length)[:, None] < lengths  # (tokens, strings)
        return torch.tensor(filled[0]).T, torch.tensor(filled[1]).T, exists

    def _along(self, places: Tensor, rows: Tensor) -> Tensor:
        """Log probability of each row before each token: (tokens, strings) both -> (tokens, strings, rows)."""
        first = torch.full_like(rows[:1], self._start)
        hidden, _ = self.lstm(self.embedding(torch.cat([first, rows[:-1]])))  # (tokens, strings, units)
        return self._policy(hidden, places)

    def _policy(self, hidden: Tensor, places: Tensor) -> Tensor:
        """Log probability of each row at each place: (..., units), (...) -> (..., rows), -inf where not legal."""
        return torch.log_softmax(self.out(hidden).masked_fill(~self._legal[places], -torch.inf), dim=-1)


def begin_uniform(network: nn.Module, reach: float, seed: int) -> None:
    """Bring a network off the meta device, all its weights uniform between minus and plus `reach`, from the seed."""
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -reach, reach, generator)


def legal_rows(places: Sequence[Place]) -> Tensor:
    """Which rows may be chosen at each place, (places, rows)."""
    owner = [number for number, place in enumerate(places) for _ in place.words]
    return torch.tensor(owner) == torch.arange(len(places))[:, None]


def draw(policy: Tensor, uniform: Tensor) -> Tensor:
    """What numbers uniform in [0, 1) draw: log probabilities (..., choices), (..., 1) -> (...)."""
    # The largest uniform number times the last sum rounds to less than that sum, so nothing impossible is drawn.
    cumulative = policy.detach().exp().cumsum(-1)
    return (cumulative <= uniform * cumulative[..., -1:]).sum(-1)


def entropies(policy: Tensor) -> Tensor:
    """Entropy in nats of each choice: log probabilities (..., choices) -> (...)."""
    return -(policy.exp() * policy.masked_fill(policy.isinf(), 0.0)).sum(-1)  # what is not legal adds nothing
