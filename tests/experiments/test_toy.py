"""The next experiment is cheap: one file and a line of registration, and everything shared works with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasrepro import cli, notebook
from nasrepro.experiments import EXPERIMENTS, forecasts, load
from nasrepro.profiles import profiles
from nasrepro.report.ledger import Ledger, read_findings
from nasrepro.search import Record
from nasrepro.search.history import Search, replay
from nasrepro.shipping import filled_readme, ship
from tests.experiments import toy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "toy", toy.EXPERIMENT)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "results"))


def command(results: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The `nasrepro` command of a project with the toy experiment, in a group of processes of its own."""
    environment = os.environ | {"NASREPRO_RESULTS": str(results), "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-m", "tests.experiments.toy", *arguments, "--profile", "smoke", "--device", "cpu"]
    return subprocess.Popen(
        start, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )


def recorded(path: Path) -> Search:
    record = Record.load(path)
    (name,) = record.searches()
    return replay(record, name)


def test_it_is_recorded_killed_gone_on_with_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, exported = tmp_path / "unbroken.jsonl.gz", tmp_path / "broken.jsonl.gz"
    arguments = ("record", "toy", "--workers", "1", "--export", str(exported))
    path = tmp_path / "two" / "smoke" / "record.sqlite"
    deadline = time.monotonic() + 120
    with command(tmp_path / "two", *arguments) as broken:
        while not (path.exists() and len(Record(path).evaluations()) >= 5):
            assert time.monotonic() < deadline
            assert broken.poll() is None
            time.sleep(0.05)
        os.killpg(broken.pid, signal.SIGKILL)
    assert 5 <= len(Record(path).evaluations()) < 24
    assert not exported.exists()

    with command(tmp_path / "two", *arguments) as again:
        said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "words like another: 24 trainings, compared with a word of the dictionary" in said
    assert cli.main(["record", "toy", "--profile", "smoke", "--workers", "0", "--export", str(unbroken)]) == 0
    frames = [recorded(export).frame().drop(columns="seconds") for export in (unbroken, exported)]
    assert frames[0].equals(frames[1])
    assert len(frames[0]) == 24


def test_it_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = profiles["smoke"]
    (found,) = forecasts.forecast(smoke, "cpu", experiment="toy")
    assert found.cost is not None
    assert found.cost.seconds == pytest.approx(720.0)
    assert found.cost.memory is None or 10e6 < found.cost.memory < 10e9
    assert found.hours(workers=2) == pytest.approx(24 * 0.2 / 2)
    said = forecasts.describe(smoke, [found], "cpu", 2)
    assert "  words like another (notebook 05), 24 trainings of 12 min, " in said
    assert "together 2.4 hours" in said


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped records that holds the toy's."""
    folder = tmp_path / "records"
    folder.mkdir()
    assert (
        cli.main(["record", "toy", "--profile", "smoke", "--export", str(folder / toy.RECORD), "--workers", "0"]) == 0
    )
    monkeypatch.setattr(notebook, "records_folder", lambda: folder)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "elsewhere"))
    return folder


def test_its_notebook_replays_the_record_and_its_figure_table_and_finding_are_reported_and_shipped(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook, "display", lambda _: None)
    monkeypatch.setattr(type(toy.EXPERIMENT.sizes["smoke"].task), "train", lambda *_: pytest.fail("it was trained"))
    run = notebook.start("05", "smoke", False, "toy", "cpu")
    toy.notebook(run)
    folder = tmp_path / "elsewhere" / "smoke"
    assert run.folder == folder
    assert {"toy-progress.png", "toy-progress.svg", "toy-words.csv"} <= {path.name for path in folder.iterdir()}
    finding = Ledger(folder).run[toy.ENTRY]
    assert finding.value == 6 - recorded(records / toy.RECORD).frame()["error"].min()
    assert not finding.scaled
    assert finding.data == "dictionary"
    assert finding.budget_words == "24 words; replayed from the shipped record"
    facts = json.loads((folder / "toy-progress.json").read_text("utf-8"))
    assert toy.RECORD in facts["provenance"]["records"]

    assert cli.main(["report", "--profile", "smoke"]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text("utf-8")
    assert "Letters that are right" in page

    assert ship(folder, records) == [toy.ENTRY]
    assert read_findings(records / "findings.json")[toy.ENTRY].source == "shipped"
    assert (records / "toy-progress.png").exists()


def test_the_readme_has_its_section(records: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8") + "<!-- toy -->\n\n<!-- /toy -->\n"
    shipped = ROOT / "results" / "records"
    for path in shipped.iterdir():
        (records / path.name).symlink_to(path)
    (records.parent / "benchmarks").symlink_to(shipped.parent / "benchmarks")
    assert filled_readme(text, records).endswith("<!-- toy -->\n24 words were tried.\n<!-- /toy -->\n")


def test_one_candidate_is_trained_by_its_name_or_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    for name, error in (("target", "error 0.001"), ("Starch", "error 1.001")):
        assert cli.main(["train", name, "--experiment", "toy", "--profile", "smoke", "--device", "cpu"]) == 0
        assert error in capsys.readouterr().out
    assert load("toy").named["target"].hash == toy.Word("SEARCH").hash
