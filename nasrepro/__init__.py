"""nasrepro: two papers on neural architecture search, reproduced end to end.

S17   Schrimpf, Merity, Bradbury, Socher 2017, "A Flexible Approach to Automated RNN Architecture Generation"
ZL17  Zoph & Le 2017, "Neural Architecture Search with Reinforcement Learning"

>>> import nasrepro as nr
>>> cell = nr.parse("Tanh(Add(MM(x_t), MM(h_{t-1})))")
>>> cell.size, cell.height
(4, 3)

The names below are loaded on first use, so that the cell language alone never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasrepro import convnet as convnet
    from nasrepro import datasets as datasets
    from nasrepro import experiments as experiments
    from nasrepro import notebook as notebook
    from nasrepro import profiles as profiles
    from nasrepro import worlds as worlds
    from nasrepro.dsl import Cell as Cell
    from nasrepro.dsl import CellError as CellError
    from nasrepro.dsl import parse as parse
    from nasrepro.dsl import zoo as zoo
    from nasrepro.rnn import RNN as RNN
    from nasrepro.search import Record as Record

__version__ = "0.1.0"

_HOME = {
    "Cell": "nasrepro.dsl",
    "CellError": "nasrepro.dsl",
    "parse": "nasrepro.dsl",
    "zoo": "nasrepro.dsl",
    "RNN": "nasrepro.rnn",
    "Record": "nasrepro.search",
}
_ROOMS = ("convnet", "datasets", "experiments", "notebook", "profiles", "worlds")

__all__ = [*_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _ROOMS:
        return import_module(f"nasrepro.{name}")
    raise AttributeError(f"module 'nasrepro' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
