"""S17's reward for a translation cell (S17 appendix C.1)."""

import math

WORST_LOSS = 140.0
"""The end of the range of losses for which S17 shaped the reward."""


def reward(loss: float) -> float:
    """R(loss) = 0.2 (140 - loss) + 4 ** (0.3815 (140 - loss) - 50): a line, and a steep rise towards loss 0.

    `loss` is the validation perplexity: the value that matches what S17 prints (inferred). From 140 on, and where
    training failed (nan, inf), the reward is 0: the line would go below it without end, and one hopeless cell would
    outweigh all others (guessed; S17 speaks of 0 to 140 alone). The formula is printed with one bracket too many.

    Raises ValueError for a negative loss.
    """
    if loss < 0:
        raise ValueError(f"a loss must not be negative, got {loss}")
    if not loss < WORST_LOSS:  # holds for nan too
        return 0.0
    room = WORST_LOSS - loss
    return 0.2 * room + math.pow(4.0, 0.3815 * room - 50.0)
