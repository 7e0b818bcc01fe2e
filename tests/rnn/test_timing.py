"""The variants that are timed against each other compute the same; the timing itself is fair."""

import pytest
import torch

import nasrepro as nr
from nasrepro.rnn.timing import STAGINGS, benchmark, staged_variants


@pytest.mark.parametrize("name", ["LSTM", "QRNN", "BC3", "MT4"])
def test_all_stagings_compute_the_same(name):
    generator = torch.Generator().manual_seed(3)
    variants = {key: rnn.double() for key, rnn in staged_variants(nr.zoo[name], 6, generator).items()}
    assert list(variants) == list(STAGINGS)
    x = torch.randn(7, 2, 6, dtype=torch.float64, generator=generator)
    outputs, gradients = [], []
    for rnn in variants.values():
        leaf = x.clone().requires_grad_()
        out, _ = rnn(leaf)
        out.square().sum().backward()
        outputs.append(out.detach())
        gradients.append(leaf.grad)
    assert outputs[0].std() > 0
    for out, gradient in zip(outputs, gradients, strict=True):
        torch.testing.assert_close(out, outputs[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-12)


def test_an_lstm_has_the_papers_number_of_products():
    """S17, appendix A.1: eight small products become two large ones."""
    programs = {key: rnn.layers[0].program for key, rnn in staged_variants(nr.zoo["LSTM"], 4).items()}
    in_loop = {key: sum(len(stage.products) for stage in program.step) for key, program in programs.items()}
    assert in_loop == {"plain": 8, "batched": 2, "hoisted": 4, "hoisted and batched": 1}


def test_benchmark_counts_each_variant_once_a_round_in_turning_order():
    now, order = 0.0, []

    def takes(name, seconds):
        def work():
            nonlocal now
            now += seconds
            order.append(name)

        return work

    work = {"a": takes("a", 1.0), "b": takes("b", 2.0), "c": takes("c", 4.0)}
    assert benchmark(work, rounds=4, warmup=1, clock=lambda: now) == {
        "a": [1.0] * 4,
        "b": [2.0] * 4,
        "c": [4.0] * 4,
    }
    assert ["".join(order[i : i + 3]) for i in range(0, 15, 3)] == ["cab", "abc", "bca", "cab", "abc"]


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="0 variants"):
        benchmark({}, rounds=3)
    with pytest.raises(ValueError, match="0 rounds"):
        benchmark({"a": lambda: None}, rounds=0)
