"""How many threads torch computes with, for a while."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch, where it is loaded, so many threads.

    Threads change the order of sums, thus the last digits, by which a resumed search would differ. And hundreds of tiny
    products, as for the nodes of trees, cost more by several threads than by one, on a busy machine many times more.
    """
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
