"""The final recipe with torch.nn.LSTM in place of our cells: what they are held against.

Layers, weight drop and dropout between them are written for torch's here; embedding, softmax and training are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nasrepro.dsl import Cell, zoo
from nasrepro.rnn import State
from nasrepro.rnn.dropout import dropout
from nasrepro.trainers.final_model import FinalModel, FinalModelTask
from nasrepro.trainers.final_settings import FinalModelSettings


class TorchStack(nn.Module):
    """Layers of torch.nn.LSTM with variational dropout between them and weight drop, called as an `nr.RNN` is."""

    cell = zoo["LSTM"]

    def __init__(self, recipe: FinalModelSettings) -> None:
        super().__init__()
        self.recipe = recipe
        widths = [recipe.embedding, *[recipe.hidden] * (recipe.layers - 1), recipe.last]
        self.layers = nn.ModuleList([nn.LSTM(wide, high, bias=recipe.bias) for wide, high in pairwise(widths)])

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: zeros (B, units) for each layer."""
        of = [layer.get_parameter("weight_hh_l0") for layer in self._stack()]
        zeros = [weight.new_zeros(batch_size, weight.shape[1]) for weight in of]
        return State([*zeros], [zero.clone() for zero in zeros], None, 0)

    def forward(self, x: Tensor, state: State | None, *, generator: torch.Generator | None) -> tuple[Tensor, State]:
        """x (T, B, E) -> the last layer's outputs (T, B, last), and the state to go on from."""
        state = state or self.initial_state(x.shape[1])
        assert state.c is not None
        hidden, memory = [], []
        for number, layer in enumerate(self._stack()):
            if number and self.training and self.recipe.layer_dropout:
                x = dropout(x, self.recipe.layer_dropout, generator, shared_steps=True)
            before = (state.h[number][None], state.c[number][None])
            x, (h, c) = functional_call(layer, self._dropped(layer, generator), (x, before))
            hidden.append(h[0])
            memory.append(c[0])
        return x, State(hidden, memory, None, state.t + len(x))

    def _dropped(self, layer: nn.LSTM, generator: torch.Generator | None) -> dict[str, Tensor]:
        rate = self.recipe.weight_drop if self.training else 0.0
        recurrent: Tensor = layer.get_parameter("weight_hh_l0")
        return {"weight_hh_l0": dropout(recurrent, rate, generator) if rate else recurrent}

    def _stack(self) -> Sequence[nn.LSTM]:
        return [layer for layer in self.layers if isinstance(layer, nn.LSTM)]


class TorchFinalModel(FinalModel):
    """A final model whose recurrent layers are torch's, drawn from the seed as torch draws them; on the processor."""

    def __init__(self, cell: Cell | str, words: int, recipe: FinalModelSettings, seed: int) -> None:
        if str(cell) not in (str(zoo["LSTM"]), str(zoo["LSTM"].canonical())):
            raise ValueError(f"torch.nn.LSTM is one cell, the zoo's LSTM, and not {cell}")
        if recipe.hidden_dropout or recipe.weight_range is not None:
            raise ValueError("hidden_dropout and weight_range are for our cells: leave them at 0 and None")
        super().__init__(cell, words, recipe, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.rnn = TorchStack(recipe)  # type: ignore[assignment]  # called alike


@dataclass(frozen=True)
class TorchFinalTask(FinalModelTask):
    """Training the recipe's model on torch.nn.LSTM."""

    name = "final language model on torch.nn.LSTM"
    model = TorchFinalModel
