"""S17's translation model (section 4.2): OpenNMT's attentional encoder-decoder of 2017, with any cell as its encoder.

    source (S, B) -> embedding -> [ cell ] x layers -------------------- context (B, S, H)
                                        | last state                         |
                                        v                                    v
    target (T, B) -> embedding, feed -> [ LSTM ] x layers -- query --> attention -> feature (T, B, H) -> softmax
                                ^_______________________________________________|  input feeding

Everything but the encoder's cell stays as it is: LSTM layers in the decoder, "general" attention and input feeding of
Luong et al. 2015, so that cells compete on equal terms. The decoder's time loop is in `input_feeding.py`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.dsl import Cell
from nasrepro.rnn import RNN
from nasrepro.rnn.dropout import dropout_mask
from nasrepro.rnn.state import layers as per_layer
from nasrepro.trainers.input_feeding import Context, DecoderState, DecoderWeights, unroll
from nasrepro.trainers.linear_cross_entropy import linear_cross_entropy

Bridge = Literal["zeros", "copy"]


class Translator(nn.Module):
    """What training, evaluation and beam search ask of a translation model.

    Beside what is here, `encode` answers what the decoder attends to and the state that it starts from, and `decode`
    goes on from there. What they attend to has `repeat`, a state has `repeat` and `select`, as those of `Seq2Seq`.
    """

    sizes: Any  # with `source_words` and `target_words`
    source_embedding: nn.Parameter
    output_weight: nn.Parameter  # (target words, features)
    output_bias: nn.Parameter  # (target words,)

    def encode(self, source: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> tuple[Any, Any]:
        """source (S, B) with sentences of `lengths` (B,) -> what the decoder attends to, and starts from."""
        raise NotImplementedError

    def decode(
        self, tokens: Tensor, context: Any, state: Any, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Any]:
        """Read target tokens (T, B): features (T, B, H), attention (T, B, S), the state after the last token."""
        raise NotImplementedError

    def loss(self, features: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Mean cross-entropy of features (T, B, H) against targets (T, B), in nats: ().

        Only the words at `places` (words,) count, places in the T * B numbers of `targets`, row by row.
        """
        chosen = features.flatten(0, 1).index_select(0, places)  # (words, H)
        words = targets.flatten().index_select(0, places)
        return linear_cross_entropy(chosen, self.output_weight, self.output_bias, words)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """features (..., H) -> log probability of every word of the target vocabulary (..., words)."""
        return F.linear(features, self.output_weight, self.output_bias).log_softmax(dim=-1)


@dataclass(frozen=True)
class Sizes:
    """What a translation model is made of, but for the encoder's cell.

    Attributes:
        source_words, target_words: of the two vocabularies.
        hidden, layers, dropout, bptt, init_range, bridge: as in `translation.TranslationSettings`.
    """

    source_words: int
    target_words: int
    hidden: int
    layers: int
    dropout: float
    bptt: int
    init_range: float
    bridge: Bridge


class Seq2Seq(Translator):
    """An attentional encoder-decoder whose encoder is a stack of any cell. Raises CellError for one that cannot run."""

    def __init__(self, cell: Cell | str, sizes: Sizes, seed: int) -> None:
        super().__init__()
        self.sizes = sizes
        H = sizes.hidden
        self.source_embedding = nn.Parameter(torch.empty(sizes.source_words, H))
        # What the encoder draws for itself is drawn anew below, as everything is; torch's own numbers stay untouched.
        own = torch.Generator().manual_seed(seed)
        self.encoder: nn.Module = RNN(cell, H, H, sizes.layers, dropout=sizes.dropout, generator=own)
        self.target_embedding = nn.Parameter(torch.empty(sizes.target_words, H))
        # Gates in torch's order i, f, g, o. The first layer reads (embedding, feed, h), those above it (below, h).
        self.decoder_weight = nn.ParameterList(
            [nn.Parameter(torch.empty(4 * H, (3 if layer == 0 else 2) * H)) for layer in range(sizes.layers)]
        )
        self.decoder_bias = nn.ParameterList([nn.Parameter(torch.empty(4 * H)) for _ in range(sizes.layers)])
        self.attention_in = nn.Parameter(torch.empty(H, H))
        self.attention_out = nn.Parameter(torch.empty(H, 2 * H))
        self.output_weight = nn.Parameter(torch.empty(sizes.target_words, H))
        self.output_bias = nn.Parameter(torch.empty(sizes.target_words))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -sizes.init_range, sizes.init_range, generator=generator)

    def encode(
        self, source: Tensor, lengths: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Context, DecoderState]:
        """source (S, B) with sentences of `lengths` (B,) -> what the decoder attends to, and starts from."""
        x = F.embedding(source, self.source_embedding)  # (S, B, H)
        outputs, state = self.encoder(x, lengths=lengths, generator=generator)  # (S, B, H)
        values = outputs.transpose(0, 1).contiguous()  # (B, S, H)
        # query' W key = query' (W key): the matrix is applied once to all keys, and not at every step to the query.
        keys = values @ self.attention_in  # (B, S, H)
        padding = torch.arange(len(source), device=source.device) >= lengths[:, None].to(source.device)  # (B, S)
        # The decoder starts from the encoder's last state, layer by layer.
        h = torch.stack(per_layer(state.h))  # (layers, B, H)
        if state.c is not None:
            c = torch.stack(per_layer(state.c))  # (layers, B, H)
        else:
            c = h if self.sizes.bridge == "copy" else torch.zeros_like(h)
        return Context(values, keys, padding), DecoderState(h, c, torch.zeros_like(h[0]))

    def decode(
        self, tokens: Tensor, context: Context, state: DecoderState, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """Read target tokens (T, B) from a state on.

        Returns: features, from which the softmax predicts the next token (T, B, H); attention (T, B, S), each row a
        distribution over source positions; the state after the last token.
        """
        H, L = self.sizes.hidden, self.sizes.layers
        embedded = F.embedding(tokens, self.target_embedding)  # (T, B, H)
        first = self.decoder_weight[0]
        early = F.linear(embedded, first[:, :H], self.decoder_bias[0])  # (T, B, 4H)
        weights = DecoderWeights(
            (first[:, H:], *self.decoder_weight[1:]), tuple(self.decoder_bias[1:]), self.attention_out
        )
        masks = None
        if self.training and self.sizes.dropout:
            masks = dropout_mask(embedded, (len(tokens), L, *embedded.shape[1:]), self.sizes.dropout, generator)
        return unroll(early, weights, context, state, masks, self.sizes.bptt)
