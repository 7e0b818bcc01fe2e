"""The published table is read as it was published."""

import json

import numpy as np
import pytest

from nasrepro.datasets import DataError, load, load_parallel
from nasrepro.datasets.nas_bench_macro import BLOCKS, LAYERS, load_nas_bench_macro


def test_the_table_is_the_published_one(mirror):
    bench = load_nas_bench_macro()
    assert bench.accuracies.shape == (len(BLOCKS) ** LAYERS, 3) == (6561, 3)
    assert bench.parameters.shape == bench.flops.shape == (6561,)
    # The file's own means, by its own keys.
    published = json.loads((mirror / "nas-bench-macro" / "nas-bench-macro_cifar10.json").read_text("utf-8"))
    means = bench.accuracies.mean(1)
    for digits, row in published.items():
        assert means[int(digits, 3)] == pytest.approx(row["mean_acc"])
    assert means[0] == means.min() == pytest.approx(45.36, abs=0.005)
    assert bench.accuracies.std(1).mean() == pytest.approx(np.mean([row["std"] for row in published.values()]))
    # Every block that is no identity adds weights, the larger one more.
    by_digits = bench.parameters.reshape((3,) * LAYERS)
    for layer in range(LAYERS):
        assert (np.diff(by_digits, axis=layer) > 0).all()


def test_a_table_that_is_not_here_is_an_error(tmp_path, monkeypatch):
    for name in ("NASREPRO_MIRROR", "NASREPRO_DATA", "NASREPRO_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"nas-bench-macro_cifar10\.json of nas-bench-macro is not on this machine"):
        load_nas_bench_macro(tmp_path)


@pytest.mark.parametrize("loader", [load, load_parallel])
def test_a_table_is_no_text(loader):
    with pytest.raises(DataError, match=r"nas-bench-macro holds no text: use load_nas_bench_macro\(\)"):
        loader("nas-bench-macro")
