"""`make bench` and `make bench-gpu` on tiny sizes: every part runs and writes its rows. No time is asserted."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import nasrepro as nr
from nasrepro.controllers import draw_cells
from nasrepro.datasets.registry import DataError, DataFile, DataSet
from nasrepro.profiles import TABLE_3, table_3_row
from nasrepro.rnn.recording import Recording

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
    assert len(trained) == table["part"].str.startswith("translation").sum() + 2  # and two candidates of the search

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


def test_so_many_processes_train_the_encoders_of_a_seed(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], int]] = []

    def evaluate(task, jobs, record, workers: int) -> None:
        asked.append((list(jobs), workers))

    monkeypatch.setattr(on_gpu.trainings, "evaluate_tests", evaluate)
    on_gpu.trainings.translation(3, "cpu", True, tmp_path, workers=4)
    [(names, workers)] = asked
    assert set(names) == {table_3_row(name, 3) for name in TABLE_3}
    assert workers == 4


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
    status, parts = call({"translation": rows(n=1)}, data="multi30k")
    assert status == 1
    assert parts["translation"]["failure"].startswith("train.en.gz of multi30k is not on this machine")


def test_small_results_and_others_do_not_mix(call, capsys: pytest.CaptureFixture[str]) -> None:
    call({"part": rows(n=1)}, "--small")
    assert call({"part": rows(n=1)})[0] == 2
    assert "choose another folder" in capsys.readouterr().err


def test_a_candidate_goes_on_after_its_last_whole_epoch_to_the_same_numbers(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on_gpu.trainings
    (tmp_path / "cut" / "work").mkdir(parents=True)
    whole = trainings.candidate("LSTM", "cpu", True, tmp_path / "whole")
    train = trainings.train

    def cut_short(*given, **named):
        def stop(point: dict[str, float]) -> None:
            if point["epoch"] == 2:
                raise on_gpu.OutOfTime

        return train(*given, **named, on_epoch=stop)

    monkeypatch.setattr(trainings, "train", cut_short)
    with pytest.raises(on_gpu.OutOfTime) as ended:
        trainings.candidate("LSTM", "cpu", True, tmp_path / "cut")
    assert list(ended.value.rows["epoch"]) == [1]
    monkeypatch.setattr(trainings, "train", train)
    made = trainings.candidate("LSTM", "cpu", True, tmp_path / "cut")
    told = ["seconds", "created"]
    pd.testing.assert_frame_equal(made.drop(columns=told), whole.drop(columns=told))


def test_trainings_that_were_only_shipped_are_not_made_again(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on_gpu.trainings
    monkeypatch.setattr(trainings, "ENCODERS", ("MT5",))
    first = trainings.translation(1, "cpu", True, tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / trainings.RECORD).rename(tmp_path / "two" / trainings.RECORD)
    monkeypatch.setattr(trainings.TranslationTask, "train", None)
    again = trainings.translation(1, "cpu", True, tmp_path / "two")
    pd.testing.assert_frame_equal(first, again)


def test_what_a_shipped_record_of_the_project_holds_is_not_made_again(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings, shipped = on_gpu.trainings, tmp_path / "shipped"
    monkeypatch.setattr(trainings, "ENCODERS", ("MT5",))
    monkeypatch.setattr(trainings, "SHIPPED_RECORDS", shipped)
    for seed, folder in ((1, "one"), (2, "another")):
        made = trainings.translation(seed, "cpu", True, tmp_path / folder)
        shipped.mkdir(exist_ok=True)
        (tmp_path / folder / trainings.RECORD).rename(shipped / f"{folder}.jsonl.gz")
    candidate = trainings.candidate("LSTM", "cpu", True, tmp_path / "candidate")
    (tmp_path / "candidate" / trainings.RECORD).rename(shipped / "candidate.jsonl.gz")

    monkeypatch.setattr(trainings.TranslationTask, "train", None)
    monkeypatch.setattr(trainings, "train", None)
    found = trainings.translation(2, "cpu", True, tmp_path / "here")
    pd.testing.assert_frame_equal(found, made)
    held = nr.Record.load(tmp_path / "here" / trainings.RECORD)
    assert [evaluation.seed for evaluation in held.evaluations()] == [2]  # and nothing that nobody asked for
    assert ["seed 2" in reading["row"] for reading in held.test_reads()] == [True]
    pd.testing.assert_frame_equal(trainings.candidate("LSTM", "cpu", True, tmp_path / "here"), candidate)


def test_of_encoders_that_run_out_of_time_those_that_are_ready_are_kept(
    on_gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = on_gpu.trainings
    monkeypatch.setattr(trainings, "ENCODERS", ("MT5", "MT2"))
    train, trained = trainings.TranslationTask.train, []

    def cut_short(task, cell, *given, **named):
        trained.append(cell)
        if len(trained) == 2:
            raise on_gpu.OutOfTime
        return train(task, cell, *given, **named)

    monkeypatch.setattr(trainings.TranslationTask, "train", cut_short)
    with pytest.raises(on_gpu.OutOfTime) as ended:
        trainings.translation(1, "cpu", True, tmp_path)
    assert list(ended.value.rows["cell"]) == ["MT5"]
    assert len(nr.Record.load(tmp_path / trainings.RECORD).evaluations()) == 1
    found = trainings.translation(1, "cpu", True, tmp_path)
    assert list(found["cell"]) == ["MT5", "MT2"]
    assert trained[1] == trained[2]
    assert len(trained) == 3


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
