"""`make bench` on tiny sizes: every part runs and writes its table. How long anything takes is not asserted."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from nasrepro.controllers import propose

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = ROOT / "benchmarks" / "fast_cells.py"

SPREAD = {"median ms", "q1 ms", "q3 ms", "ratio", "ratio q1", "ratio q3", "ratio 95% low", "ratio 95% high"}
COLUMNS = {
    "layers": {"H", "B", "T", "layer", "over nn.GRU", "per multiply-add, over our LSTM", *SPREAD},
    "layers-tuned": {"H", "B", "T", "layer", *SPREAD},
    "first-call": {"what", "times", "median ms", "min ms", "max ms"},
    "decoder": {"tokens", "words", "width", "decoder", *SPREAD},
    "model": {"words", "model", "tokens per second", *SPREAD},
    "children": {"cell", "seconds before", "seconds after", "children per hour before", "children per hour after"},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one small run of all parts has written."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, str(BENCHMARK), "--out", str(folder), "--small", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def fast_cells(monkeypatch: pytest.MonkeyPatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    import fast_cells

    return fast_cells


@pytest.mark.slow
def test_every_part_writes_its_table_and_where_it_comes_from(results: Path) -> None:
    facts = json.loads((results / "device.json").read_text("utf-8"))
    assert set(facts) == set(COLUMNS)
    for part, columns in COLUMNS.items():
        table = pd.read_csv(results / f"{part}.csv")
        assert columns <= set(table.columns), part
        assert len(table)
        assert {"device", "versions", "time", "load before", "compiler", "commit"} <= set(facts[part])
        assert facts[part]["parameters"] == {"rounds": 1, "small": True}
    assert (results / "fast-cells.png").stat().st_size > 1000
    assert "<svg" in (results / "fast-cells.svg").read_text("utf-8")


@pytest.mark.slow
def test_layers_are_timed_beside_those_of_torch(results: Path) -> None:
    layers = pd.read_csv(results / "layers.csv").set_index("layer")
    assert {"torch.nn.LSTM", "torch.nn.GRU", "eager LSTM", "fused LSTM", "fused GRU", "fused BC3"} <= set(layers.index)
    assert layers.loc["torch.nn.LSTM", "ratio"] == 1
    assert layers.loc["torch.nn.GRU", "over nn.GRU"] == 1


@pytest.mark.slow
def test_both_ways_of_training_a_child_end_at_the_same_perplexity(results: Path) -> None:
    child = pd.read_csv(results / "children.csv").iloc[0]
    assert child["perplexity before"] == pytest.approx(child["perplexity after"], rel=1e-3)


def test_the_random_cells_are_those_that_their_rule_draws(fast_cells) -> None:
    trees: dict[str, str] = {}
    for cell in map(str, propose(400, random.Random(0), memory=True).cells):
        if cell.count("MM(") >= 4:
            trees.setdefault(cell.split("|")[0], cell)
    assert list(fast_cells.RANDOM_CELLS.values()) == list(trees.values())[:3]


def test_multiply_adds_are_counted_by_hand_for_cells_whose_equations_everybody_knows(fast_cells) -> None:
    assert fast_cells.multiply_adds(fast_cells.CELLS["LSTM"], 10) == 8 * 10 * 10
    assert fast_cells.multiply_adds(fast_cells.CELLS["GRU"], 10) == 6 * 10 * 10
    assert fast_cells.multiply_adds(fast_cells.CELLS["NASCell"], 10) == 16 * 10 * 10


def test_a_ratio_is_taken_within_rounds(fast_cells) -> None:
    # The second round was three times as slow for all, as when the machine does something else.
    rows = fast_cells.compared({"base": [0.001, 0.003, 0.001], "other": [0.002, 0.006, 0.002]}, "base")
    assert rows["other"]["median ms"] == pytest.approx(2)
    assert {rows["other"][name] for name in ("ratio", "ratio q1", "ratio q3")} == {2}


def test_the_loop_that_torch_compiles_is_an_lstm(fast_cells) -> None:
    torch.manual_seed(0)
    loop, lstm = fast_cells.LoopLSTM(6), torch.nn.LSTM(6, 6)
    for theirs, ours in (("ih", loop.on_x), ("hh", loop.on_h)):
        ours.load_state_dict(
            {"weight": getattr(lstm, f"weight_{theirs}_l0"), "bias": getattr(lstm, f"bias_{theirs}_l0")}
        )
    x = torch.randn(5, 3, 6)
    torch.testing.assert_close(loop(x)[0], lstm(x)[0])


@pytest.mark.slow
def test_what_cannot_be_timed_is_named(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(BENCHMARK),
        "--out",
        str(tmp_path),
        "--small",
        "--only",
        "layers",
        "--layers",
        "LSTN",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "['LSTN'] cannot be timed here" in done.stderr
