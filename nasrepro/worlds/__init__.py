"""Worlds: spaces small enough to be trained whole, so that every search in them is replayed exactly, in seconds.

>>> import nasrepro as nr
>>> world = nr.worlds.base2()
>>> len(world.cell_of), len(world.texts)  # token strings, and the cells that they describe
(36864, 18688)
"""

from functools import cache
from pathlib import Path

from nasrepro.worlds.base_2 import SPACE
from nasrepro.worlds.world import World

__all__ = ["World", "base2"]


@cache
def base2() -> World:
    """ZL17's own worked example, base 2 (section 3.5), with every cell trained on a short text, letter by letter."""
    return World.load(Path(__file__).with_name("base2") / "losses.npz", SPACE)
