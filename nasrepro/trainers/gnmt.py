"""GNMT's translation model (Wu et al. 2016, section 3), with any cell in all its layers: what ZL17 drops its cell into.

    source (S, B) -> embedding -> [ cell forwards, cell backwards ] -> [ cell ] x (layers - 1) -- values (B, S, H)
                                                                                               |
                  y_1 of the step before --------------------------------------------> attention: context a_t
                                                                                               |
    target (T, B) -> embedding, a_t -> [ cell ] -> y_1, a_t -> [ cell ] x (layers - 1), each with a_t -> softmax

Layers from the third on add their input to their output, in encoder and decoder. The attention is a network of one
hidden layer, which asks by the output of the decoder's first layer at the step before. So the first layer alone has to
be stepped: the layers above it read all steps at once.

Two things are left open there: how the decoder starts (here from zeros, not from the encoder's state), and whether its
first layer reads the context (here it does, that of the same step).

What a model multiplies for a token is counted at the end: by it the width of another cell than the LSTM is solved.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.dsl import Cell, zoo
from nasrepro.rnn import RNN, State
from nasrepro.rnn.dropout import dropout
from nasrepro.rnn.program import compile_cell
from nasrepro.trainers.input_feeding import Context
from nasrepro.trainers.seq2seq import Translator


@dataclass(frozen=True)
class GnmtSizes:
    """What a model is made of, but for its cell. Raises ValueError for fewer than two layers.

    Attributes:
        source_words, target_words: of the two vocabularies.
        embedding: width of both embeddings.
        hidden: units of every layer and of the attention's hidden layer; the encoder's first layer has them twice.
        layers: of the encoder, and as many of the decoder; two or more.
        dropout: rate on what each layer reads from below, and on the features.
        init_range: every weight starts from U(-range, range).
    """

    source_words: int
    target_words: int
    embedding: int
    hidden: int
    layers: int
    dropout: float
    init_range: float

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(
                f"GNMT's encoder reads both ways and has layers above that: layers >= 2, got {self.layers}"
            )


class GnmtState(NamedTuple):
    """What the decoder carries from step to step."""

    layers: tuple[State, ...]  # of each layer, for B sentences

    @property
    def query(self) -> Tensor:
        """What the attention asks by: the last output of the first layer (B, H)."""
        return self.layers[0].h[0]

    def select(self, rows: Tensor) -> "GnmtState":
        """The state of these rows of the batch (N,), in their order."""
        return GnmtState(tuple(_rows(state, rows) for state in self.layers))

    def repeat(self, times: int) -> "GnmtState":
        """Every row of the batch `times` times in a row: B * times rows."""
        return self.select(torch.arange(len(self.query), device=self.query.device).repeat_interleave(times))


def _rows(state: State, rows: Tensor) -> State:
    """Rows of a state of one layer, whose parts are (1, B, size)."""
    parts = {"h": state.h, "c": state.c, "x": state.x}
    return state.replace(**{name: cast("Tensor", part)[:, rows] for name, part in parts.items() if part is not None})


class Gnmt(Translator):
    """A deep attentional encoder-decoder whose layers are all of one cell.

    Raises CellError for a cell that cannot run, and for one that mixes raw input with values of the output's width:
    here most layers read more than they put out.
    """

    def __init__(self, cell: Cell | str, sizes: GnmtSizes, seed: int) -> None:
        super().__init__()
        self.sizes = sizes
        E, H = sizes.embedding, sizes.hidden
        # What a layer draws for itself is drawn anew below, as everything is; torch's own numbers stay untouched.
        own = torch.Generator().manual_seed(seed)

        def layer(inputs: int) -> RNN:
            return RNN(cell, inputs, H, generator=own)

        self.source_embedding = nn.Parameter(torch.empty(sizes.source_words, E))
        self.target_embedding = nn.Parameter(torch.empty(sizes.target_words, E))
        self.forwards, self.backwards = layer(E), layer(E)
        self.encoder = nn.ModuleList([layer(2 * H), *(layer(H) for _ in range(sizes.layers - 2))])
        self.attention_key = nn.Parameter(torch.empty(H, H))
        self.attention_bias = nn.Parameter(torch.empty(H))
        self.attention_query = nn.Parameter(torch.empty(H, H))
        self.attention_score = nn.Parameter(torch.empty(H))
        self.decoder = nn.ModuleList([layer(E + H), *(layer(2 * H) for _ in range(sizes.layers - 1))])
        self.output_weight = nn.Parameter(torch.empty(sizes.target_words, H))
        self.output_bias = nn.Parameter(torch.empty(sizes.target_words))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -sizes.init_range, sizes.init_range, generator=generator)

    def encode(
        self, source: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Context, GnmtState]:
        """source (S, B) with sentences of `lengths` (B,) -> what the decoder attends to, and the state of its start."""
        steps = torch.arange(len(source), device=source.device)[:, None]  # (S, 1)
        padding = steps >= lengths.to(source.device)  # (S, B)
        turned = torch.where(padding, steps, lengths.to(source.device) - 1 - steps)[:, :, None]  # (S, B, 1)

        def turn(x: Tensor) -> Tensor:  # (S, B, size), every sentence from its own end
            return x.gather(0, turned.expand(-1, -1, x.shape[2]))

        x = self._dropped(F.embedding(source, self.source_embedding), generator)  # (S, B, E)
        onwards, _ = self.forwards(x, lengths=lengths)  # (S, B, H)
        back, _ = self.backwards(turn(x), lengths=lengths)  # (S, B, H)
        x = torch.cat((onwards, turn(back)), dim=2)  # (S, B, 2H)
        for number, layer in enumerate(self.encoder, start=2):
            out, _ = layer(self._dropped(x, generator), lengths=lengths)  # (S, B, H)
            x = out + x if number > 2 else out
        values = x.transpose(0, 1).contiguous()  # (B, S, H)
        keys = F.linear(values, self.attention_key, self.attention_bias)  # (B, S, H)
        start = tuple(cast("RNN", layer).initial_state(source.shape[1], like=values) for layer in self.decoder)
        return Context(values, keys, padding.t()), GnmtState(start)

    def decode(
        self, tokens: Tensor, context: Context, state: GnmtState, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, GnmtState]:
        """Read target tokens (T, B) from a state on.

        Returns: features, from which the softmax predicts the next token (T, B, H); attention (T, B, S), each row a
        distribution over source positions; the state after the last token.
        """
        first, *above = cast("list[RNN]", list(self.decoder))
        outputs, weights, contexts = [], [], []
        below = state.layers[0]
        query = state.query
        for word in self._dropped(F.embedding(tokens, self.target_embedding), generator):  # (B, E)
            weight = self._attention(query, context)  # (B, S)
            mixed = torch.bmm(weight[:, None], context.values)[:, 0]  # (B, H)
            query, below = first.step(torch.cat((word, mixed), dim=1), below)  # (B, H)
            outputs.append(query)
            weights.append(weight)
            contexts.append(mixed)
        x, mixed = torch.stack(outputs), torch.stack(contexts)  # (T, B, H)
        after = [below]
        for number, (layer, before) in enumerate(zip(above, state.layers[1:], strict=True), start=2):
            out, last = layer(torch.cat((self._dropped(x, generator), mixed), dim=2), before)  # (T, B, H)
            x = out + x if number > 2 else out
            after.append(last)
        return self._dropped(x, generator), torch.stack(weights), GnmtState(tuple(after))

    def _attention(self, query: Tensor, context: Context) -> Tensor:
        """Where a query (B, H) looks: (B, S), padding gets weight 0."""
        hidden = torch.tanh(context.keys + F.linear(query, self.attention_query)[:, None])  # (B, S, H)
        scores = hidden @ self.attention_score  # (B, S)
        return scores.masked_fill(context.padding, -torch.inf).softmax(dim=1)

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(x, self.sizes.dropout, generator) if self.training and self.sizes.dropout else x


# ---- what a model multiplies


def multiply_adds(cell: Cell, sizes: GnmtSizes, attended: int) -> int:
    """Multiplications, each with its addition, that a model makes for one source token and one target token.

    Raises CellError for a cell that cannot run.
    """
    return sum(multiply_adds_by_part(cell, sizes, attended).values())


def multiply_adds_by_part(cell: Cell, sizes: GnmtSizes, attended: int) -> dict[str, int]:
    """Those of the encoder, the decoder, the attention and the softmax.

    Counted are the products of matrices: of all layers, of the attention over `attended` source tokens, and of the
    softmax. What is elementwise is left out, and so are embeddings, which are looked up. Raises CellError for a cell
    that cannot run.
    """
    products = compile_cell(cell).products
    E, H, L = sizes.embedding, sizes.hidden, sizes.layers

    def layer(inputs: int) -> int:
        return sum(len(each.targets) * H * (inputs if each.on_input else H) for each in products)

    return {
        "encoder": 2 * layer(E) + layer(2 * H) + (L - 2) * layer(H),
        "decoder": layer(E + H) + (L - 1) * layer(2 * H),
        "attention": H * H + H * H + 2 * attended * H,  # keys; query; scores and the mixing of values
        "softmax": H * sizes.target_words,
    }


def at_equal_cost(cell: Cell, lstm: GnmtSizes, attended: int) -> GnmtSizes:
    """The sizes at which a model of this cell multiplies as much for a token as one of the LSTM does at those given.

    They differ in `hidden` alone, the whole number whose count is nearest (ZL17, section 4.2: "the same computational
    complexity"). Raises CellError for a cell that cannot run, ValueError for one that multiplies nothing.
    """
    if not compile_cell(cell).products:
        raise ValueError(f"{cell} multiplies nothing, so no width makes it cost as much as the LSTM")
    target = multiply_adds(zoo["LSTM"], lstm, attended)

    def excess(hidden: int) -> int:
        return multiply_adds(cell, replace(lstm, hidden=hidden), attended) - target

    few, many = 0, 1  # at `few` a model costs less than the LSTM's, at `many` as much or more
    while excess(many) < 0:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if excess(middle) < 0 else (few, middle)
    nearest = min((width for width in (few, many) if width), key=lambda width: abs(excess(width)))
    return replace(lstm, hidden=nearest)
