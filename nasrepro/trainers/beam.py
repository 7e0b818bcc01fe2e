"""Beam search: the most probable translation that a few hypotheses, extended side by side, lead to."""

from itertools import takewhile

import torch
from torch import Tensor

from nasrepro.trainers.seq2seq import Translator


@torch.no_grad()
def beam_search(
    model: Translator, source: Tensor, lengths: Tensor, start: int, end: int, width: int = 5, longest: int = 100
) -> list[list[int]]:
    """The translations of source (S, B) with sentences of `lengths` (B,), as ids without `start` and `end`.

    At every step each of the `width` hypotheses of a sentence is extended by every word, and the best `width` of these
    stay. One that has ended stays as it is while it is among the best. A sentence is done when its best hypothesis has
    ended: scores are log probabilities, without a reward for length (OpenNMT of 2017), so none can overtake it. What
    has not ended after `longest` words is cut there. A width of 1 is greedy search. Raises ValueError for a width or a
    length below 1.
    """
    if min(width, longest) < 1:
        raise ValueError(f"beam search needs a width and a longest length of 1 or more, got {width} and {longest}")
    model.eval()
    B = source.shape[1]
    device = source.device
    context, state = model.encode(source, lengths)
    context, state = context.repeat(width), state.repeat(width)
    # All hypotheses of a sentence begin alike, so all but the first are out at the first step.
    scores = torch.full((B, width), -torch.inf, device=device)
    scores[:, 0] = 0.0
    words = torch.empty((B, width, 0), dtype=torch.int64, device=device)
    ended = torch.zeros((B, width), dtype=torch.bool, device=device)
    last = torch.full((1, B * width), start, device=device)
    first_row = torch.arange(B, device=device)[:, None] * width  # (B, 1)
    for _ in range(longest):
        features, _, state = model.decode(last, context, state)
        steps = model.log_probabilities(features[0]).view(B, width, -1)  # (B, width, V)
        V = steps.shape[-1]
        stay = torch.full_like(steps[0, 0], -torch.inf)  # an ended hypothesis has one way to go on: `end`, at no cost
        stay[end] = 0.0
        steps = torch.where(ended[:, :, None], stay, steps)
        scores, best = (scores[:, :, None] + steps).flatten(1).topk(width, dim=1)  # (B, width)
        parent, word = best // V, best % V  # (B, width)
        words = torch.cat((words.gather(1, parent[:, :, None].expand_as(words)), word[:, :, None]), dim=2)
        ended = word == end
        if ended[:, 0].all():
            break
        state = state.select((first_row + parent).flatten())
        last = word.view(1, -1)
    return [list(takewhile(lambda word: word != end, ids)) for ids in words[:, 0].tolist()]
