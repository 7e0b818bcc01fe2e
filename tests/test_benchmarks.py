"""`make bench` and `make bench-gpu` on tiny sizes: every part runs and writes its rows. No time is asserted."""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import nasrepro as nr
from nasrepro import convnet
from nasrepro.controllers import draw_cells
from nasrepro.datasets.registry import DataError, DataFile, DataSet
from nasrepro.experiments import EXPERIMENTS
from nasrepro.experiments.s17_translation.sizes import TABLE_3, table_3_row
from nasrepro.rnn.recording import Recording
from nasrepro.trainers.images import Crops, ImageSettings, build
from nasrepro.trainers.translation import TranslationTask

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = ROOT / "benchmarks" / "fast_cells.py"

SPREAD = {"median ms", "q1 ms", "q3 ms", "ratio", "ratio q1", "ratio q3", "ratio 95% low", "ratio 95% high"}
COLUMNS = {
    "layers": {"H", "B", "T", "layer", "over nn.GRU", "per multiply-add, over our LSTM", "of peak", *SPREAD},
    "layers-tuned": {"H", "B", "T", "layer", *SPREAD},
    "first-call": {"what", "times", "median ms", "min ms", "max ms"},
    "products": {"product", "rows", "depth", "columns", "by", "of peak", "peak GFLOP/s", *SPREAD},
    "decoder": {"tokens", "words", "width", "decoder", "of peak", *SPREAD},
    "model": {"words", "model", "tokens per second", "of peak", *SPREAD},
    "step": {"words", "part", "ms", "share", "of peak"},
    "children": {"cell", "seconds before", "seconds after", "children per hour before", "children per hour after"},
    "images": {"layers", "filters", "pixels", "batch", "threads", "training", "images per second", *SPREAD},
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


@pytest.fixture
def measuring(fast_cells):
    """How it measures, as a module."""
    import measuring

    return measuring


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
def test_the_parts_of_a_step_are_all_there_and_make_the_whole(results: Path, fast_cells) -> None:
    parts = pd.read_csv(results / "step.csv").set_index("part")
    assert list(parts.index) == [*fast_cells.STEP, "all else"]
    assert (parts["ms"] > 0).all()  # Python's own time is in "all else"


@pytest.mark.slow
def test_both_ways_of_training_a_child_end_at_the_same_perplexity(results: Path) -> None:
    child = pd.read_csv(results / "children.csv").iloc[0]
    assert child["perplexity before"] == pytest.approx(child["perplexity after"], rel=1e-3)


def test_the_random_cells_are_those_that_their_rule_draws(fast_cells) -> None:
    trees: dict[str, str] = {}
    for cell in map(str, draw_cells(400, random.Random(0), memory=True).cells):
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


def test_a_share_of_the_peak_is_taken_within_rounds(measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "peak_here", lambda: (None, 8e9))
    # In the second round both ran at half their speed.
    seconds = {measuring.PEAK: [1.0, 2.0, 1.0], "base": [4.0, 8.0, 4.0], "bfloat16": [1.0, 1.0, 1.0]}
    rows = measuring.compared(seconds, "base", {"base": 16e9})
    assert rows["base"]["of peak"] == 0.5
    assert rows["base"]["peak GFLOP/s"] == 8
    assert math.isnan(rows["bfloat16"]["of peak"])
    assert measuring.PEAK not in rows


def test_the_peak_multiplies_and_adds_as_often_as_it_says(fast_cells, monkeypatch: pytest.MonkeyPatch) -> None:
    import peak

    results: list[torch.Tensor] = []
    monkeypatch.setattr(peak.torch, "zeros", lambda n: results.append(torch.full((n,), 0.0)) or results[-1])
    of_round = peak.peak(1, 1.0)[1]  # one round, the least
    work, operations = peak.peak(2, 2 * 50 * of_round)
    threads = round(operations / 50 / of_round)  # one where the compiler has no OpenMP
    assert operations == threads * 50 * of_round
    assert threads in (1, 2)
    results[-1].zero_()  # it has worked once, to see how many threads there are
    work()
    # Half of a round's operations are multiplications. Every lane of sum i begins at i, and 50 times becomes 0.999 of
    # itself plus 0.001. There are 12 or 24 sums, by the processor's registers, each of as many lanes.
    expected = [sum(1 + (i - 1) * 0.999**50 for i in range(sums)) * of_round / 2 / sums for sums in (12, 24)]
    wanted = [[one] * threads + [0.0] * (2 - threads) for one in expected]
    assert results[-1].tolist() in [pytest.approx(of_threads, rel=1e-5) for of_threads in wanted]


@pytest.mark.parametrize(("rows", "k", "n"), [(20, 200, 800), (700, 33, 45), (37, 500, 8), (3, 7, 2)])
@pytest.mark.parametrize("packs", [True, False])
def test_a_product_that_is_timed_is_a_product(fast_cells, rows: int, k: int, n: int, packs: bool) -> None:
    from products import product

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(k, rows, generator=generator).T, torch.randn(n, k, generator=generator).T
    out = torch.empty(rows, n)
    work = product(a, b, out, threads=2, packs=packs)
    out.zero_()
    work()
    assert torch.allclose(out.double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)


def test_the_loop_that_torch_compiles_is_an_lstm(fast_cells) -> None:
    torch.manual_seed(0)
    loop, lstm = fast_cells.LoopLSTM(6), torch.nn.LSTM(6, 6)
    for theirs, ours in (("ih", loop.on_x), ("hh", loop.on_h)):
        ours.load_state_dict(
            {"weight": getattr(lstm, f"weight_{theirs}_l0"), "bias": getattr(lstm, f"bias_{theirs}_l0")}
        )
    x = torch.randn(5, 3, 6)
    torch.testing.assert_close(loop(x)[0], lstm(x)[0])


def test_images_are_timed_on_one_network_and_cut_alike(fast_cells, monkeypatch: pytest.MonkeyPatch) -> None:
    import image_epochs

    def both(net: convnet.ConvNet) -> tuple[torch.nn.Module, torch.nn.Module]:
        ours, theirs = build(net, (3, 8, 8), 0, "cpu"), image_epochs.PlainConvNet(net)
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
        return ours, theirs

    both(convnet.zoo["Figure 7"])  # its weights fit
    layers = (convnet.Layer("conv", (0,), 3, 5, filters=4), convnet.Layer("conv", (0, 1), 1, 3, filters=5))
    net = convnet.ConvNet((*layers, convnet.Layer("conv", (1, 2), 3, 3, filters=6), layers[0]))
    pixels, labels = image_epochs.noise(16, 8)
    settings = ImageSettings(upsampled=8, flipped=False, batch=16)
    with monkeypatch.context() as unmirrored:
        unmirrored.setattr(torch.Tensor, "flip", lambda image, *_: image)
        cut = torch.stack([image for image, _ in image_epochs.CutOneByOne(pixels, labels, 8)])
    torch.testing.assert_close(cut, Crops(pixels, 8, "cpu").shown(0, 16, "image"))
    ours, theirs = both(net)
    torch.testing.assert_close(ours(cut), theirs(cut), rtol=1e-3, atol=1e-4)
    epoch = image_epochs.our_epoch(net, pixels, labels, settings, "cpu")
    assert epoch() == pytest.approx(epoch(), rel=1e-3)  # a rate of 0: nothing is learned
    assert image_epochs.plain_epoch(net, pixels, labels, settings, "cpu", 0)() > 0


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


def test_a_home_that_is_not_known_is_told_in_a_line(
    fast_cells, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fast_cells.py", "--out", "~nobody-of-this-name/out"])
    with pytest.raises(SystemExit, match="2"):
        fast_cells.main()
    assert "begins with a home folder that is not known here" in capsys.readouterr().err


# --- on_gpu.py


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch):
    """The GPU's benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    import on_gpu

    return on_gpu


@pytest.fixture
def call(on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Call on_gpu.py with other parts: name -> what it does; its exit status, and gpu.json's parts."""

    def call_with(works, *arguments: str, **facts) -> tuple[int, dict]:
        parts = [on_gpu.Part(name, "speed", 1.0, work, **facts) for name, work in works.items()]
        monkeypatch.setattr(on_gpu, "PARTS", parts)
        monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--out", str(tmp_path), "--device", "cpu", *arguments])
        with pytest.raises(SystemExit) as ended:
            on_gpu.main()
        path = tmp_path / "gpu.json"
        return int(ended.value.code), json.loads(path.read_text("utf-8"))["parts"] if path.exists() else {}

    return call_with


def rows(**columns: object):
    """A part that makes one row."""
    return lambda device, small, folder: pd.DataFrame([columns])


def failing(device: str, small: bool, folder: Path) -> pd.DataFrame:
    raise ZeroDivisionError("what went wrong")


@pytest.mark.slow
def test_everything_that_needs_no_gpu_runs_anywhere_and_is_not_made_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "on_gpu.py"), "--device", "cpu", "--small"]
    command += ["--out", str(tmp_path / "out"), "--export", str(tmp_path / "export")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shipped = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert {"gpu.json", "gpu.csv", "gpu-record.jsonl.gz"} <= shipped
    assert len(shipped) <= 6
    assert {path.name for path in (tmp_path / "export").iterdir()} == shipped

    table = pd.read_csv(tmp_path / "out" / "gpu.csv")
    facts = json.loads((tmp_path / "out" / "gpu.json").read_text("utf-8"))
    assert set(table["part"]) == set(facts["parts"])
    assert table["device"].notna().all()
    steps = table[table["part"] == "profile: language model"]
    assert (steps["numbers read"] > 0).all()
    trained = nr.Record.load(tmp_path / "out" / "gpu-record.jsonl.gz").evaluations()
    nightly = table[table["part"].str.startswith("night: ")]
    assert set(nightly["created"]) == {evaluation.created for evaluation in trained}
    assert set(nightly["part"]) == {part for part in facts["parts"] if part.startswith("night: ")}
    forecast = table[table["part"] == "forecast"]
    assert (forecast["hours"] * 3600 - forecast["count"] * forecast["seconds"]).abs().max() < 1e-2

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.startswith(f"{len(facts['parts'])} done")  # nothing was printed but the last line


def test_a_part_that_raises_is_noted_and_the_others_go_on(call, tmp_path: Path) -> None:
    status, parts = call({"first": failing, "second": rows(n=2), "last": failing})
    assert status == 1
    assert [part["state"] for part in parts.values()] == ["failed", "done", "failed"]
    for name in ("first", "last"):
        assert "ZeroDivisionError: what went wrong" in parts[name]["failure"]
        assert "in failing" in parts[name]["failure"]  # the traceback
    assert list(pd.read_csv(tmp_path / "gpu.csv")["part"]) == ["second"]


def test_a_part_some_of_whose_rows_are_errors_has_failed(call, tmp_path: Path) -> None:
    status, parts = call({"layers": rows(what="LSTM", error="no compiler")})
    assert (status, parts["layers"]["failure"]) == (1, "no compiler")
    assert len(pd.read_csv(tmp_path / "gpu.csv")) == 1


def test_a_later_call_makes_what_is_left_and_then_what_failed(call, capsys: pytest.CaptureFixture[str]) -> None:
    call({"bad": failing, "good": rows(n=1)})
    made: list[str] = []

    def noting(name: str):
        return lambda *_: made.append(name) or pd.DataFrame()

    status, parts = call({name: noting(name) for name in ("bad", "good", "new")})
    assert (status, made) == (0, ["new", "bad"])
    assert "failure" not in parts["bad"]
    assert capsys.readouterr().out.splitlines()[-1] == "3 done (bad; good; new); 0 failed; 0 left"


def test_what_another_device_or_code_has_made_is_made_again(call, on_gpu, tmp_path: Path) -> None:
    for name in ("device", "code"):
        call({"part": rows(n=1)})
        facts = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
        facts["parts"]["part"][name] = "another"
        (tmp_path / "gpu.json").write_text(json.dumps(facts), "utf-8")
        _, parts = call({"part": failing})
        assert parts["part"]["state"] == "failed"
        assert pd.read_csv(tmp_path / "gpu.csv").empty  # what stood there was not of this code


def test_a_row_from_a_record_keeps_the_device_that_it_was_made_on(call, tmp_path: Path) -> None:
    call({"new": rows(n=1), "old": rows(n=2, device="An Earlier GPU")})
    devices = pd.read_csv(tmp_path / "gpu.csv").set_index("part")["device"]
    assert devices["old"] == "An Earlier GPU"
    assert devices["new"] == nr.hardware.device_name("cpu")


def test_parts_and_slices_are_asked_for_by_name(call, capsys: pytest.CaptureFixture[str]) -> None:
    works = {"graphs of steps": rows(n=1), "layers": rows(n=2)}
    assert set(call(works, "--part", "layers")[1]) == {"layers"}
    assert set(call(works, "--part", "layers", "--slice", "speed")[1]) == set(works)
    assert call(works, "--part", "layer")[0] == 2
    assert "invalid choice: 'layer'" in capsys.readouterr().err


def test_a_part_is_told_how_many_processes_share_the_device(on_gpu, call, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []

    def work(device: str, small: bool, folder: Path, workers: int) -> pd.DataFrame:
        told.append(workers)
        return pd.DataFrame()

    call({"first": work}, takes_workers=True)
    call({"second": work}, "--workers", "3", takes_workers=True)
    assert told == [0, 3]
    assert call({"third": work}, "--workers", "-1", takes_workers=True)[0] == 2
    assert "0 or more, got -1" in capsys.readouterr().err


TABLE = ("s17_translation", 2)  # the trainings of Table 3, as on_gpu.py counts an experiment's kinds


def test_so_many_processes_train_side_by_side(on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], int]] = []

    def evaluate(task, jobs, record, workers: int) -> dict:
        asked.append((list(jobs), workers))
        return {}

    monkeypatch.setattr("nasrepro.experiments.s17_translation.evaluate_tests", evaluate)
    on_gpu.trainings.night(*TABLE, "cpu", True, tmp_path, workers=4)
    [(names, workers)] = asked
    assert set(names) == {table_3_row(name, seed) for name in TABLE_3 for seed in (1, 2)}
    assert workers == 4


def test_what_answers_most_entries_per_hour_comes_first(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on_gpu.trainings
    monkeypatch.setattr(trainings, "SHIPPED_TABLE", tmp_path / "gpu.csv")
    by_count = [part.name for part in trainings.parts()]
    assert by_count[0] == "night: BC3, S17's Table 1"  # 2 entries by 1 training
    most = by_count.index("night: encoders of Table 3")  # 16 entries by 21 trainings
    assert most < by_count.index("night: known cells as children")  # none
    by_listing = [f"night: {each.words}" for e in EXPERIMENTS.values() for each in e.trainings(e.at("night"))]
    assert sorted(by_count) == sorted(by_listing)
    kinds = {("s17_language_model", 1): 0.5, ("s17_translation", 2): 30.0, ("s17_translation", 1): 0.0}
    named = {key: EXPERIMENTS[key[0]].trainings(EXPERIMENTS[key[0]].at("night"))[key[1]].words for key in kinds}
    shipped = [
        {"part": "forecast", "experiment": key[0], "trainings": named[key], "entries per hour": value}
        for key, value in kinds.items()
    ]
    pd.DataFrame([{"part": "layers", "what": "LSTM"}, *shipped]).to_csv(tmp_path / "gpu.csv", index=False)
    first = [f"night: {named[key]}" for key in (("s17_translation", 2), ("s17_language_model", 1))]
    assert [part.name for part in trainings.parts()] == first + [name for name in by_listing if name not in first]


def test_folders_mean_what_they_mean_everywhere(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NASREPRO_CACHE", "cache")
    monkeypatch.setenv("NASREPRO_MIRROR", "another")
    monkeypatch.chdir(tmp_path)
    seen: dict[str, str] = {}

    def look(device: str, small: bool, folder: Path) -> pd.DataFrame:
        seen.update(os.environ, folder=str(folder))
        return pd.DataFrame()

    call({"look": look}, "--out", "~/out", "--export", "~/export", "--data", "data")
    assert {path.name for path in (tmp_path / "home" / "export").iterdir()} >= {"gpu.json", "gpu.csv"}
    assert seen["folder"] == str(tmp_path / "home" / "out")
    assert seen["NASREPRO_MIRROR"] == str(tmp_path / "data")
    assert seen["NASREPRO_CACHE"] == str(tmp_path / "cache")  # tests start in another folder
    assert call({"look": look}, "--out", "~nobody-of-this-name/out")[0] == 2
    assert "begins with a home folder that is not known here" in capsys.readouterr().err


def test_without_time_nothing_is_made(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call({"one": failing, "two": failing}, "--minutes", "0") == (0, {})
    assert capsys.readouterr().out == "0 done; 0 failed; 2 left (one; two)\n"


def test_a_part_that_runs_out_of_time_is_left_with_what_is_known(call, on_gpu, tmp_path: Path) -> None:
    def endless(device: str, small: bool, folder: Path) -> pd.DataFrame:
        try:
            while True:
                time.sleep(0.01)
        except on_gpu.OutOfTime as stop:
            stop.rows = pd.DataFrame([{"epoch": 1}])
            raise

    status, parts = call({"endless": endless, "next": failing}, "--minutes", "0.03")
    assert status == 0
    assert {name: part["state"] for name, part in parts.items()} == {"endless": "left"}
    assert list(pd.read_csv(tmp_path / "gpu.csv")["epoch"]) == [1]


def test_without_its_data_a_part_fails_in_words_and_trains_on_nothing_else(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASREPRO_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("NASREPRO_MIRROR", str(tmp_path / "none"))
    status, parts = call({"encoders": rows(n=1)}, data="multi30k")
    assert status == 1
    assert parts["encoders"]["failure"].startswith("train.en.gz of multi30k is not on this machine")


def test_small_results_and_others_do_not_mix(call, capsys: pytest.CaptureFixture[str]) -> None:
    call({"part": rows(n=1)}, "--small")
    assert call({"part": rows(n=1)})[0] == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.fixture
def _two_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasrepro.experiments.s17_translation.sizes.TABLE_3", ("MT5", "MT2"))


@pytest.mark.usefixtures("_two_encoders")
@pytest.mark.parametrize("where", ["in the folder", "in the project"])
def test_trainings_that_were_only_shipped_are_not_made_again(
    where: str, on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on_gpu.trainings
    first = trainings.night(*TABLE, "cpu", True, tmp_path / "one")
    assert sorted(first["candidate"]) == ["MT2", "MT2", "MT5", "MT5"]
    to = tmp_path / ("two" if where == "in the folder" else "records")
    to.mkdir()
    (tmp_path / "one" / trainings.RECORD).rename(to / trainings.RECORD)
    if where == "in the project":
        monkeypatch.setattr(trainings, "SHIPPED_RECORDS", to)
        ships = replace(EXPERIMENTS["s17_translation"], shipped={"night": (trainings.RECORD,)})
        monkeypatch.setitem(EXPERIMENTS, "s17_translation", ships)
    monkeypatch.setattr(TranslationTask, "train", None)
    again = trainings.night(*TABLE, "cpu", True, tmp_path / "two")
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.usefixtures("_two_encoders")
def test_of_encoders_that_run_out_of_time_those_that_are_ready_are_kept(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on_gpu.trainings
    train, trained = TranslationTask.train, []

    def cut_short(task, cell, *given, **named):
        trained.append(cell)
        if len(trained) == 2:
            raise on_gpu.OutOfTime
        return train(task, cell, *given, **named)

    monkeypatch.setattr(TranslationTask, "train", cut_short)
    with pytest.raises(on_gpu.OutOfTime) as ended:
        trainings.night(*TABLE, "cpu", True, tmp_path)
    assert list(ended.value.rows["candidate"]) == ["MT5"]
    assert len(nr.Record.load(tmp_path / trainings.RECORD).evaluations()) == 1
    found = trainings.night(*TABLE, "cpu", True, tmp_path)
    assert sorted(found["candidate"]) == ["MT2", "MT2", "MT5", "MT5"]
    assert trained[1] == trained[2]
    assert len(trained) == 5


def test_tests_run_without_other_plugins_and_those_that_fail_are_named(on_gpu, tmp_path: Path) -> None:
    file = tmp_path / "test_two.py"
    file.write_text(
        "import os\n"
        "def test_plugins(): assert os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] == '1'\n"
        "def test_timeout(pytestconfig): assert pytestconfig.pluginmanager.has_plugin('pytest_timeout')\n"
        "def test_bad(): assert os.environ.get('PYTEST_ADDOPTS') is None\n"
    )
    with pytest.raises(on_gpu.checks.PartFailed, match=r"1 of 3 tests failed .*test_two::test_bad") as failed:
        on_gpu.checks.run_tests([file], [], tmp_path)
    assert failed.value.rows.loc[0, "passed"] == 2
    assert "test_bad" in (tmp_path / "gpu.log").read_text("utf-8")
    found = on_gpu.checks.run_tests([file], ["-k", "not test_bad"], tmp_path)
    assert dict(found.loc[0, ["tests", "passed", "failed"]]) == {"tests": 2, "passed": 2, "failed": 0}


def test_graphs_that_are_recorded_are_counted(on_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(Recording, "_record", lambda recording: made.append(recording))
    with on_gpu.profiling._graphs_of("steps") as recorded:
        Recording(lambda: None, torch.device("cpu"))()
    assert recorded["graphs"] == len(made) == 1
    with on_gpu.profiling._graphs_of("nothing") as recorded:
        Recording(lambda: None, torch.device("cpu"))()
    assert (recorded["graphs"], len(made), Recording.possible) == (0, 1, True)


@pytest.fixture
def registered(on_gpu, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The content of the only registered file, texts/words.txt."""
    content = b"some words of a text"
    file = DataFile("all", "words.txt", len(content), hashlib.sha256(content).hexdigest(), ())
    monkeypatch.setattr(on_gpu, "DATASETS", {"texts": DataSet("texts", "texts", "", "", "", (file,))})
    return content


def test_files_brought_in_parts_are_put_together_once_all_are_there(on_gpu, registered: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in (0, 2):
        (folder / f"words.txt.part-{number:02}").write_bytes(registered[8 * number : 8 * number + 8])
    assert "12 bytes in 2 parts, of 20 bytes; bring the others" in on_gpu.join_parts(tmp_path)[0]
    assert not (folder / "words.txt").exists()
    (folder / "words.txt.part-01").write_bytes(registered[8:16])
    assert on_gpu.join_parts(tmp_path) == [f"{folder / 'words.txt'} is whole, of 3 parts"]
    assert (folder / "words.txt").read_bytes() == registered
    assert on_gpu.join_parts(tmp_path) == [f"{folder / 'words.txt'} is whole"]


def test_parts_that_make_another_file_are_refused(on_gpu, registered: bytes, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    part = tmp_path / "texts" / "words.txt.part-00"
    part.write_bytes(registered[::-1])
    with pytest.raises(DataError, match="is not the registered file"):
        on_gpu.join_parts(tmp_path)
    assert not (tmp_path / "texts" / "words.txt").exists()
    part.rename(tmp_path / "texts" / "other.txt.part-00")
    with pytest.raises(DataError, match=r"other\.txt is of no registered data set"):
        on_gpu.join_parts(tmp_path)
