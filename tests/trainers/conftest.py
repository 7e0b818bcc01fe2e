"""One thread: models this small only wait for a second one, and on a busy machine for long."""

from collections.abc import Iterator

import pytest
import torch

from nasrepro import datasets
from nasrepro.datasets import ImageSet


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return datasets.load_images("digits")
