"""What ships: the README's numbers are those of the shipped files, and shipping copies what was found."""

from pathlib import Path

import pandas as pd
import pytest

from nasrepro.experiments.s17_language_model.readme import record_words
from nasrepro.experiments.s17_language_model.sizes import SIZES
from nasrepro.files import write_json
from nasrepro.report import speed
from nasrepro.report.ledger import Finding, Ledger, read_findings
from nasrepro.report.provenance import provenance
from nasrepro.search import Record
from nasrepro.search.loop import search
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.shipping import fill, filled_readme, ship, timings_table
from tests.search.fakes import FakeTask

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "records"


def test_the_readme_holds_the_numbers_of_the_shipped_files() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert filled_readme(readme, RECORDS) == readme, "run `nasrepro ship` again"


def test_every_search_of_a_record_is_counted_two_of_one_method_too(tmp_path: Path) -> None:
    record, task = Record(), FakeTask(settings=SIZES["smoke"].search_task.settings)
    for seed, cells in ((0, 3), (1, 4)):
        settings = SearchSettings(method="random", cells=cells, step=4, seed=seed)
        search(task, settings, record, workers=0, progress=False)
    record.export(tmp_path / "ptb-chars-search.jsonl.gz")
    assert record_words(tmp_path).startswith("7 distinct cells (3 random and 4 random search), 1 x 12 units")


def test_minutes_are_summed_over_notebooks_and_rounded_up() -> None:
    part = {"device": "an abacus"}
    table = timings_table({"quick": {"00": {"seconds": 50.0, **part}, "01": {"seconds": 71.0, **part}}})
    assert table.splitlines()[2].endswith("| 3 | an abacus |")
    assert "course" not in table
    table = timings_table({"quick": {"00": {"seconds": 50.0, **part}, "01": {"seconds": 9.0, "device": "a GPU"}}})
    assert table.splitlines()[2].endswith("| 1 | a GPU, an abacus |")


def test_the_speed_table_has_a_column_per_size_and_says_where_it_was_measured(tmp_path: Path) -> None:
    pd.DataFrame(
        [
            {"H": 8, "B": 2, "T": 5, "layer": "torch.nn.LSTM", "median ms": 1.5, "ratio": 1.0},
            {"H": 8, "B": 2, "T": 5, "layer": "BC3", "median ms": 1.2345, "ratio": 0.823},
            {"H": 16, "B": 2, "T": 5, "layer": "BC3", "median ms": 1234.5, "ratio": 0.5},
        ]
    ).to_csv(tmp_path / "layers.csv", index=False)
    measured = {**provenance({"rounds": 15}, None, 3.0, device="an abacus"), "time": "2026-01-02T03:04:05+00:00"}
    measured["load before"] = 0.5
    write_json(tmp_path / "device.json", {"layers": measured})
    lines = speed.speed_table(tmp_path).splitlines()
    assert lines[0] == "| one layer, milliseconds | H 8, B 2, T 5 | H 16, B 2, T 5 |"
    assert lines[2:4] == ["| torch.nn.LSTM | 1.5 (1.00) |  |", "| BC3 | 1.23 (0.82) | 1,234 (0.50) |"]
    assert lines[-1].startswith("Measured 2026-01-02, 15 rounds, load before 0.5: an abacus")


def test_the_models_table_gives_speeds_where_the_benchmark_gives_times(tmp_path: Path) -> None:
    pd.DataFrame(
        [
            {"words": 10_000, "model": "torch", "tokens per second": 1234.4, "ratio": 1.0},
            {"words": 10_000, "model": "ours", "tokens per second": 2468.8, "ratio": 0.5},
            {"words": 33_000, "model": "ours", "tokens per second": 99.6, "ratio": 0.8},
        ]
    ).to_csv(tmp_path / "model.csv", index=False)
    measured = {**provenance({"rounds": 15}, None, 3.0, device="an abacus"), "time": "2026-01-02T03:04:05+00:00"}
    write_json(tmp_path / "device.json", {"model": {**measured, "load before": 0.5}})
    lines = speed.model_speed_table(tmp_path).splitlines()
    assert lines[0].endswith("| 10,000 words | 33,000 words |")
    assert lines[2:4] == ["| torch | 1,234 (1.00) |  |", "| ours | 2,469 (2.00) | 100 (1.25) |"]
    assert lines[-1].startswith("Measured 2026-01-02, 15 rounds, load before 0.5: an abacus")


def test_shares_of_the_peak_stand_beside_what_is_a_share_of_it(tmp_path: Path) -> None:
    (tmp_path / "layers.csv").write_text(
        "H,B,T,layer,median ms,ratio,of peak\n8,2,5,torch.nn.LSTM,2,1,0.25\n8,2,5,bfloat16,1,0.5,\n"
    )
    (tmp_path / "products.csv").write_text(
        "product,rows,depth,columns,by,of peak,peak GFLOP/s\n"
        "logits,10000,8,20,torch.mm,0.5,100\nlogits,10000,8,20,ours,0.75,102\n"
    )
    (tmp_path / "decoder.csv").write_text(
        "tokens,words,width,decoder,of peak\n"
        '700,10000,8,"F.linear, F.cross_entropy",0.4\n700,10000,8,ours,0.8\n700,10000,8,"ours, bfloat16",\n'
    )
    measured = {**provenance({"rounds": 15}, None, 3.0, device="an abacus"), "time": "2026-01-02T03:04:05+00:00"}
    measured |= {"load before": 0.5, "threads": 2}
    measured["versions"]["MKL"] = "2024.2"
    (tmp_path / "step.csv").write_text("words,part,ms,share,of peak\n8,layers,20.04,0.8,0.6\n8,masks,5,0.2,\n")
    write_json(tmp_path / "device.json", dict.fromkeys(("layers", "products", "decoder", "step"), measured))
    assert speed.step_table(tmp_path).splitlines()[2:4] == ["| layers | 20 (80%; 60%) |", "| masks | 5 (20%) |"]
    assert speed.speed_table(tmp_path).splitlines()[2:4] == [
        "| torch.nn.LSTM | 2 (1.00; 25%) |",
        "| bfloat16 | 1 (0.50) |",
    ]
    lines = speed.product_table(tmp_path).splitlines()
    assert lines[2:4] == [
        "| logits: 10,000 x 8 by 8 x 20 | 50% | 75% |",
        "| loss of 700 tokens and its gradients: 10,000 words, 8 wide | 40% | 80% |",
    ]
    assert lines[-1].startswith("The peak: 101 GFLOP/s on 2 threads; torch multiplies by MKL 2024.2. Measured 2026")


def gpu_files(folder: Path, rows: list[dict], **states: str) -> Path:
    """gpu.json and gpu.csv as benchmarks/on_gpu.py writes them."""
    where = {"device": "a GPU", "commit": "1f3c9d2", "time": "2026-01-02T03:04:05+00:00"}
    parts = dict.fromkeys((row["part"] for row in rows), "done") | {
        name.replace("_", " "): state for name, state in states.items()
    }
    write_json(folder / "gpu.json", {"parts": {name: {"state": state, **where} for name, state in parts.items()}})
    pd.DataFrame(rows).to_csv(folder / "gpu.csv", index=False)
    return folder


def test_the_table_of_images_says_how_many_times_as_fast_as_the_faster_rival(tmp_path: Path) -> None:
    rows = ["layers,filters,pixels,training,images per second,ratio", "6,36,32,torch,40,1", "6,36,32,ours,60,0.5"]
    (tmp_path / "images.csv").write_text("\n".join(rows))
    measured = {**provenance({"rounds": 15}, None, 3.0, device="an abacus"), "time": "2026-01-02T03:04:05+00:00"}
    write_json(tmp_path / "device.json", {"images": {**measured, "load before": 0.5}})
    lines = speed.image_speed_table(tmp_path).splitlines()
    assert lines[0] == "| 6 layers of 36 filters, 32 x 32 pixels, one thread | images per second |"
    assert lines[2:4] == ["| torch | 40 (1.00) |", "| ours | 60 (2.00) |"]
    assert lines[-1].startswith("Measured 2026-01-02, 15 rounds, load before 0.5: an abacus")


def test_the_section_on_gpus_gives_speeds_and_how_steps_are_launched(tmp_path: Path) -> None:
    step = {"part": "models", "words": 10_000, "max ms": 3.0, "median ms": 2.0}
    profiled = {"part": "profile: translation", "what": "translation, BC3"}
    epoch = {"part": "graphs of steps", "graphs of": "steps"}
    rows = [
        {**step, "TF32": False, "what": "nn.LSTM", "how": "torch", "over the first": 1.0, "tokens per s": 1234.4},
        {**step, "TF32": False, "what": "LSTM", "how": "fused", "over the first": 0.5, "tokens per s": 2468.8},
        {**step, "TF32": True, "what": "LSTM", "how": "fused", "over the first": 0.8, "tokens per s": 99.6},
        {**profiled, "wall ms": 5.971, "kernels": 1329, "launches": 3, "graph launches": 1},
        {**profiled, "kernel": "gemm", "kernels": 900, "GPU busy ms": 1.5},
        {**epoch, "epoch": 1, "recorded": 57, "seconds": 17.98},
        {**epoch, "epoch": 2, "recorded": 0, "seconds": 2.61},
    ]
    text = speed.gpu_section(gpu_files(tmp_path, rows))
    lines = text.splitlines()
    assert lines[0].endswith("| 10,000 words | 10,000 words, TF32 |")
    assert lines[2:4] == ["| torch: nn.LSTM | 1,234 (1.00) |  |", "| ours: LSTM | 2,469 (2.00) | 100 (1.25) |"]
    assert "slowest took up to 1.5 times" in text
    assert "translation, BC3: 1,329 kernels by 1 graph and 3 launches more, 5.97 ms)" in text
    assert "gemm" not in text
    assert "with graphs of steps 18 (57), 2.61 (0)." in text
    assert text.count("Measured 2026-01-02 on a GPU, commit 1f3c9d2.") == 3


def test_the_section_on_gpus_says_what_is_not_measured(tmp_path: Path) -> None:
    layer = {"part": "layers", "H": 8, "B": 2, "T": 5, "TF32": False, "median ms": 2.0, "over the first": 1.0}
    layers = [
        {**layer, "what": "nn.LSTM", "how": "cuDNN"},
        {**layer, "what": "LSTM", "how": "fused", "median ms": 1.234, "over the first": 0.617},
        {**layer, "what": "LSTM", "how": "fused, bfloat16 products"},
        {**layer, "what": "LSTM", "how": "eager", "H": 16, "median ms": 123.4, "over the first": 61.7},
        {**layer, "what": "GRU", "how": "eager"},
        {**layer, "what": "LSTM", "how": "fused", "TF32": True, "median ms": 99.0},
    ]
    failed = {"part": "models", "error": "no compiler"}
    text = speed.gpu_section(gpu_files(tmp_path, [*layers, failed], models="failed", compiled_layers="left"))
    table, measured, unknown = text.rsplit("\n\n", 2)
    assert table.splitlines() == [
        "| one layer on a GPU, milliseconds | H 8, B 2, T 5 | H 16, B 2, T 5 |",
        "|---|---|---|",
        "| torch: nn.LSTM | 2 (1.00) |  |",
        "| ours: LSTM | 1.23 (0.62) |  |",
        "| ours: LSTM, bfloat16 products | 2 (1.00) |  |",
        "| eager: LSTM |  | 123 (61.70) |",
    ]
    assert measured == "Forward and backward, medians. Measured 2026-01-02 on a GPU, commit 1f3c9d2."
    assert unknown == "Not measured yet: one layer beside torch.compile's; an epoch without graphs."


def test_fill_replaces_what_stands_between_the_marks_and_nothing_else() -> None:
    text = "a\n<!-- x -->\nold\nolder\n<!-- /x -->\nb"
    assert fill(text, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="no place <!-- y -->"):
        fill(text, "y", "new")


def test_shipping_copies_findings_as_shipped_ones_and_keeps_those_of_other_profiles(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    for folder, entry in (("one", "s17.fig3"), ("two", "s17.rank.predicts")):
        (tmp_path / folder).mkdir()
        Ledger(tmp_path / folder).add(Finding(entry, 0.5))
        assert ship(tmp_path / folder, records) == [entry]
    found = read_findings(records / "findings.json")
    assert {name: finding.source for name, finding in found.items()} == {
        "s17.fig3": "shipped",
        "s17.rank.predicts": "shipped",
    }
    with pytest.raises(FileNotFoundError, match=r"no ledger\.json"):
        ship(tmp_path / "three", records)


def test_the_shipped_record_holds_the_searches_that_the_readme_promises() -> None:
    record = Record.load(RECORDS / "ptb-chars-search.jsonl.gz")
    methods = {settings["search"]["method"]: name for name, settings in record.searches().items()}
    assert set(methods) == {"ranked", "random"}
    trained = {proposal.key for name in methods.values() for proposal in record.proposals(name)}
    assert len(trained) >= 200
    assert all(record.get(key) is not None for key in trained)
    for settings in record.searches().values():
        assert settings["task"]["settings"]["corpus"] == "ptb"
