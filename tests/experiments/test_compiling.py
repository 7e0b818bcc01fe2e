"""Compiled cells: tables and findings whose answers can be worked out on paper, and figures that show them."""

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from torch import nn

import nasrepro as nr
from nasrepro.experiments.s17_compiling import analysis, figures
from nasrepro.report import papers
from nasrepro.rnn import compile_cell
from tests.report.drawn import drawn

X = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# ---- programs


def test_the_stages_of_a_cell_are_its_products_and_then_what_is_elementwise():
    table = analysis.stages(compile_cell(nr.parse("Tanh(Add(MM(x_t), MM(h_{t-1})))")))
    assert list(table.index.get_level_values("when").unique()) == ["before the loop", "every step"]
    products = table["products"]
    assert products["before the loop"].str.count("MM").sum() == products["every step"].str.count("MM").sum() == 1
    assert "MM(x_t)" in "".join(products["before the loop"])
    assert "MM(h_{t-1})" in "".join(products["every step"])
    assert "h_t = Tanh(" in table["then elementwise"].iloc[-1]


def test_products_per_step_are_the_papers_for_an_lstm_and_none_for_a_cell_without_recurrent_matrix():
    """S17, appendix A.1: eight small products become two large ones, one on x_t and one on h_{t-1}."""
    cells = {"LSTM": nr.zoo["LSTM"], "no loop": nr.parse("Tanh(MM(x_t))")}
    counted = analysis.products_per_step(cells)
    assert counted.loc["LSTM"].to_dict() == {"plain": 8, "batched": 2, "hoisted": 4, "hoisted and batched": 1}
    assert counted.loc["no loop"].to_dict() == {"plain": 1, "batched": 1, "hoisted": 0, "hoisted and batched": 0}


def test_no_cells_make_an_empty_table_of_products():
    assert analysis.products_per_step({}).empty


# ---- agreement


@pytest.mark.parametrize("name", ["TanhRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_twin_computes_what_the_layers_compute(name: str, bias: bool):
    rnn = nr.RNN(nr.zoo[name], 3, 4, num_layers=2, bias=bias).double()
    twin = analysis.torch_twin(rnn)
    assert isinstance(twin, nn.RNNBase)
    assert analysis.largest_difference(rnn(X)[0], twin(X)[0]) < 1e-12
    with torch.no_grad():
        rnn.layers[0].mm(0)[0].add_(1.0)  # the twin has weights of its own
    assert analysis.largest_difference(rnn(X)[0], twin(X)[0]) > 1e-3


def test_a_cell_that_torch_lacks_has_no_twin():
    with pytest.raises(ValueError, match=r"torch has no module for .*, only for TanhRNN, LSTM, GRU"):
        analysis.torch_twin(nr.RNN(nr.zoo["BC3"], 3, 3))


@pytest.mark.parametrize("name", ["TanhRNN", "LSTM", "GRU"])
def test_the_zoo_differs_from_torch_by_rounding(name: str):
    assert analysis.difference_from_torch(name, X) < analysis.TOLERANCE


COUNTER = nr.parse("Add(Mult(MM(x_{t-1}), MM(x_t)), c_{t-1})|3")  # c_t = h_t: a sum over time


def counter(W, x, last_x, h, c):
    c = W[0](last_x) * W[1](x) + c
    return c, c


def forgets_c(W, x, last_x, h, c):
    return W[0](last_x) * W[1](x), c


def test_equations_by_hand_are_told_from_wrong_ones():
    assert analysis.difference_from_equations(COUNTER, counter, X) < 1e-12
    assert analysis.difference_from_equations(COUNTER, forgets_c, X) > 1e-3


def test_two_matrices_can_be_given_the_same_weights():
    def halves(W, x, last_x, h, c):
        return 2 * W[0](x), c

    twice = nr.parse("Add(MM(x_t), MM(x_t))")
    assert analysis.difference_from_equations(twice, halves, X) > 1e-3
    assert analysis.difference_from_equations(twice, halves, X, same={1: 0}) < 1e-12


def test_every_cell_that_is_held_against_something_is_an_entry_of_the_paper():
    for name in analysis.HELD_AGAINST:
        facts = analysis.expresses(name, 3e-16)
        assert facts["id"] in papers.load()
        assert facts["supports"]
    assert facts["reason"] == "outputs equal the equations of TensorFlow Addons to 3e-16 in float64"


def test_outputs_that_differ_speak_against_the_language():
    facts = analysis.expresses("TanhRNN", 0.25)
    assert not facts["supports"]
    assert facts["reason"] == "outputs differ from torch.nn.RNN by 2e-01 in float64"


# ---- speed


@pytest.mark.parametrize(("name", "more"), [("LSTM", ["torch.nn.LSTM"]), ("QRNN", [])])
def test_all_programs_of_a_layer_compute_the_same_forward_and_backward(name: str, more: list[str]):
    layers = analysis.programs(nr.zoo[name], 3)
    assert list(layers) == ["plain", "batched", "hoisted", "hoisted and batched", "fused", *more]
    found = []
    for layer in layers.values():
        x = X.float().requires_grad_()
        out = layer(x)[0]
        out.square().sum().backward()
        found.append((out.detach(), x.grad))
    for pair in found[1:]:
        torch.testing.assert_close(pair, found[0], rtol=1e-4, atol=1e-5)


def test_layers_are_timed_in_every_round_and_keep_no_gradients():
    layers = {"a": nr.RNN(nr.zoo["TanhRNN"], 3, 3), "b": nr.RNN(nr.zoo["GRU"], 3, 3)}
    seconds = analysis.time_layers(layers, X.float(), rounds=2)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert all(weight.grad is None for layer in layers.values() for weight in layer.parameters())


def test_times_faster_is_the_geometric_mean_of_the_ratios_within_rounds():
    assert analysis.times_faster([8.0, 8.0, 8.0], [4.0, 4.0, 4.0]) == (pytest.approx(2), pytest.approx((2, 2)))
    ratio, edges = analysis.times_faster([2.0, 8.0, 4.0], [1.0, 1.0, 1.0])
    assert ratio == pytest.approx(4)
    assert 2 <= edges[0] < 4 < edges[1] <= 8
    there, (low, high) = analysis.times_faster([1.0, 5.0, 2.0], [1.0, 1.0, 3.0])
    back, (back_low, back_high) = analysis.times_faster([1.0, 1.0, 3.0], [1.0, 5.0, 2.0])
    assert (there * back, low, high) == pytest.approx((1, 1 / back_high, 1 / back_low), rel=0.05)


def test_too_few_rounds_have_no_interval():
    assert analysis.times_faster([6.0], [2.0]) == (pytest.approx(3), None)
    table = analysis.timings_table({"LSTM": {"plain": [0.004], "batched": [0.002]}})
    assert table["times faster than plain"].tolist() == ["1.00", "2.00"]


def test_a_table_of_timings_holds_medians_quartiles_and_ratios_to_the_plain_program():
    seconds = {"LSTM": {"plain": [0.004, 0.004, 0.004], "batched": [0.002, 0.002, 0.002]}}
    rows = analysis.timings_table(seconds).reset_index()
    assert rows["median ms"].tolist() == [4, 2]
    assert rows["quartiles ms"].tolist() == ["4.00 to 4.00", "2.00 to 2.00"]
    assert rows["times faster than plain"].tolist() == ["1.00 (1.00 to 1.00)", "2.00 (2.00 to 2.00)"]


def test_batching_is_judged_by_the_plain_and_the_batched_program_alone():
    fused = {"fused": [1e-9] * 3}
    faster = analysis.batching({"plain": [3.0] * 3, "batched": [1.0] * 3, **fused})
    assert (faster["value"], faster["seeds"], faster["supports"]) == (pytest.approx(3), 3, True)
    assert not analysis.batching({"plain": [1.0] * 3, "batched": [3.0] * 3, **fused})["supports"]


# ---- size


def test_sizes_of_the_final_models_are_those_of_the_formula():
    sizes = analysis.model_sizes()
    assert list(sizes.index) == [f"s17.table{table}.{cell}.params" for table in (1, 2) for cell in ("bc3", "gru")]

    def gru(first, last):
        widths = [(400, 1350), (1350, first), (first, last)]
        return sum(3 * (into * out + out) + 3 * (out * out + out) for into, out in widths)

    tied = 10_000 * 400 + 10_000
    row = sizes.loc["s17.table1.gru.params"]
    assert row["last layer 400"] == tied + gru(1350, 400)
    assert row["last layer as wide as the others"] == tied + gru(1350, 1350)
    larger = sizes["last layer 400"]["s17.table2.gru.params"] - sizes["last layer 400"]["s17.table1.gru.params"]
    assert larger == (33_278 - 10_000) * 401


# ---- figures

UNITS = analysis.held_units({"kept": [[2.0, -4.0], [2.0, -4.0]], "ruined": [[0.0, -8.0], [0.0, 16.0]]}, [2.0, 4.0])


def test_held_units_count_from_the_largest_at_the_start():
    assert UNITS["step"].tolist() == [1, 2, 1, 2]
    assert UNITS["name"].tolist() == ["kept", "kept", "ruined", "ruined"]
    assert UNITS["largest"].tolist() == [1, 1, 2, 4]
    assert UNITS["lost"].tolist() == [0, 0, 0.5, 0.5]


def test_a_held_state_is_drawn_step_by_step_with_what_it_lost():
    lines = figures.held_state(UNITS).axes[0].lines
    assert [line.get_label() for line in lines] == ["kept: 0% of units lost", "ruined: 50% of units lost"]
    assert [list(line.get_ydata()) for line in lines] == [[1, 1], [2, 4]]


def test_timings_put_a_bar_at_the_median_and_a_point_for_each_round():
    seconds = {"plain": [0.004, 0.002, 0.9], "both": [0.001, 0.001, 0.001]}
    ax = figures.timings(seconds).axes[0]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([4.0, 1.0])
    points = [part.get_offsets()[:, 0] for part in ax.collections if isinstance(part, PathCollection)]
    np.testing.assert_allclose(points, [[4, 2, 900], [1, 1, 1]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: figures.timings({"plain": [0.004, 0.002], "both": [0.001, 0.001]}, "T"),
        lambda: figures.held_state(UNITS, "T"),
    ],
)
def test_every_figure_draws_has_labels_and_leaves_no_trace(make):
    fig = drawn(make)
    assert fig.axes[0].get_title(loc="left") == "T"
    assert fig.axes[0].get_xlabel()
    assert fig.get_size_inches()[0] * 150 <= 1100
