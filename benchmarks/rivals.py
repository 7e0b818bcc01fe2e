"""What the fast cells are held against: the same layers and the same language model, as others write them."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from nasrepro.trainers.language_model import LanguageModelSettings, windows

HAS_JAX = find_spec("jax") is not None


class LoopLSTM(nn.Module):
    """An LSTM layer as a loop of torch's operators, for torch.compile: one product on x in all, one on h per step."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.on_x = nn.Linear(size, 4 * size)
        self.on_h = nn.Linear(size, 4 * size)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (T, B, size) -> out (T, B, size), and the state (h, c), (B, size) each."""
        h = c = torch.zeros_like(x[0])
        out = []
        for gates in self.on_x(x):  # (B, 4 size)
            i, f, g, o = (gates + self.on_h(h)).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out), (h, c)


def jax_lstm(x: Tensor, d_out: Tensor) -> Callable[[], None]:
    """Forward and backward of JAX's `lax.scan` over an LSTM step, under `jit` and compiled already."""
    import jax
    import jax.numpy as jnp

    size = x.shape[-1]
    rng = np.random.default_rng(0)
    bound = 1 / size**0.5
    shapes = {"on_x": (size, 4 * size), "on_h": (size, 4 * size), "bias": (4 * size,)}
    weights = {name: jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32) for name, shape in shapes.items()}

    def layer(weights, x):
        def step(state, gates):
            h, c = state
            i, f, g, o = jnp.split(gates + h @ weights["on_h"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros_like(x[0])
        return jax.lax.scan(step, (zeros, zeros), x @ weights["on_x"] + weights["bias"])[1]

    @jax.jit
    def both(weights, x, d_out):
        out, backward = jax.vjp(layer, weights, x)
        return out, backward(d_out)

    inputs = jnp.asarray(x.detach().numpy()), jnp.asarray(d_out.numpy())

    def forward_and_backward() -> None:
        jax.block_until_ready(both(weights, *inputs))

    forward_and_backward()  # compiles
    return forward_and_backward


class TorchModel(nn.Module):
    """`LanguageModel` with an LSTM, from torch's own parts: nn.LSTM, a tied nn.Linear, nn.CrossEntropyLoss."""

    def __init__(self, words: int, settings: LanguageModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.embedding = nn.Embedding(words, settings.embedding)
        self.rnn = nn.LSTM(settings.embedding, settings.hidden, settings.layers, dropout=settings.dropout)
        self.softmax = nn.Linear(settings.hidden, words)
        self.softmax.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -settings.embedding_range, settings.embedding_range)
        nn.init.zeros_(self.softmax.bias)
        self.loss = nn.CrossEntropyLoss()

    def train_epoch(self, columns: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """One pass over text in columns (N, B), as torch's tutorials train: the sum of the windows' losses."""
        state, total = None, 0.0
        for inputs, targets in windows(columns, self.settings.bptt):
            state = None if state is None else tuple(part.detach() for part in state)
            optimiser.zero_grad()
            out, state = self.rnn(self.dropout(self.embedding(inputs)), state)  # (T, B, hidden)
            logits = self.softmax(self.dropout(out))  # (T, B, words)
            loss = self.loss(logits.flatten(0, 1), targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), self.settings.clip)
            optimiser.step()
            total += loss.item()
        return total
