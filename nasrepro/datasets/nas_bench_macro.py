"""NAS-Bench-Macro: a published table of 6,561 networks, every one of a space, trained three times on CIFAR-10.

A network has eight layers, and each layer is one of three blocks: "identity", or MobileNetV2's block with expansion 3
and kernel 3, or with expansion 6 and kernel 5 (Su et al. 2021, arXiv 2103.11922).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nasrepro.datasets.files import Root, locate
from nasrepro.datasets.registry import find

BLOCKS = ("identity", "MB3 K3", "MB6 K5")
"""The choices for a layer, in the order of their digits in the file."""
LAYERS = 8


@dataclass(frozen=True)
class NasBenchMacro:
    """The table, a row for each network, in the order of their digits: 00000000, 00000001, 00000002, 00000010, ..."""

    accuracies: NDArray[np.float64]
    """Test accuracy in percent of three trainings, (6561, 3)."""
    parameters: NDArray[np.int64]
    """Trained weights, (6561,)."""
    flops: NDArray[np.int64]
    """Multiply-adds for an image, (6561,)."""


def load_nas_bench_macro(root: Root = None, download: bool | None = None) -> NasBenchMacro:
    """The whole table. Raises DataError as `files.locate` does."""
    dataset = find("nas-bench-macro")
    rows = json.loads(locate(dataset, dataset.file("all"), root, download).read_text("utf-8"))
    ordered = [rows["".join(digits)] for digits in product("012", repeat=LAYERS)]
    return NasBenchMacro(
        np.array([row["test_acc"] for row in ordered]),
        np.array([row["params"] for row in ordered]),
        np.array([row["flops"] for row in ordered]),
    )
