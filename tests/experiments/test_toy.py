"""The next experiment is cheap: one file and a line of registration, and everything shared works with it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from nasrepro import cli, notebook
from nasrepro.experiments import EXPERIMENTS, forecasts, load
from nasrepro.profiles import profiles
from nasrepro.report.ledger import Ledger, read_findings
from nasrepro.search import Record
from nasrepro.search.history import Search, replay
from nasrepro.shipping import filled_readme, ship
from tests.experiments import toy
from tests.search.test_loop import rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, "toy", toy.EXPERIMENT)
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "results"))


def command(results: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The `nasrepro` command of a project with the toy experiment, in a group of processes of its own."""
    environment = os.environ | {"NASREPRO_RESULTS": str(results), "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-c", "from tests.experiments import toy; toy.main()", *arguments]
    start += ["--profile", "smoke", "--device", "cpu"]
    return subprocess.Popen(
        start, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )


def recorded(path: Path) -> Search:
    record = Record.load(path)
    (name,) = record.searches()
    return replay(record, name)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `nasrepro record` exports, made once."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "toy", toy.EXPERIMENT)
        patch.setenv("NASREPRO_RESULTS", str(folder))
        command = ["record", "toy", "--profile", "smoke", "--workers", "0", "--export", str(folder / toy.RECORD)]
        assert cli.main(command) == 0
    return folder / toy.RECORD


def test_it_is_recorded_killed_at_any_moment_gone_on_with_and_ends_as_an_unbroken_one(
    unbroken: Path, tmp_path: Path
) -> None:
    exported = tmp_path / "broken.jsonl.gz"
    arguments = ("record", "toy", "--workers", "1", "--export", str(exported))
    path, chance = tmp_path / "two" / "smoke" / "record.sqlite", random.Random()
    moment, pause = chance.randint(1, 12), chance.random() * 0.2
    deadline = time.monotonic() + 120
    with command(tmp_path / "two", *arguments) as broken:
        while not (path.exists() and len(Record(path).evaluations()) >= moment):
            assert time.monotonic() < deadline
            assert broken.poll() is None
            time.sleep(0.05)
        time.sleep(pause)
        os.killpg(broken.pid, signal.SIGKILL)
    assert moment <= len(Record(path).evaluations()) < 24
    assert not exported.exists()

    with command(tmp_path / "two", *arguments) as again:
        said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "words like another: 24 trainings, compared with a word of the dictionary" in said
    assert rows(Record.load(exported)) == rows(Record.load(unbroken)), f"killed after {moment} words and {pause} s"
    assert len(recorded(exported).trials) == 24


def test_it_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = profiles["smoke"]
    (found,) = forecasts.forecast(smoke, "cpu", experiment="toy")
    assert found.cost is not None
    assert found.cost.seconds == pytest.approx(360.0)
    assert found.cost.memory is None or 10e6 < found.cost.memory < 10e9
    assert found.hours(workers=2) == pytest.approx(24 * 0.1 / 2)
    said = forecasts.describe(smoke, [found], "cpu", 2)
    assert "  words like another (notebook 05), 24 trainings, 6 min" in said
    assert "together 1.2 hours" in said


@pytest.fixture
def records(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped records that holds the toy's."""
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / toy.RECORD).symlink_to(unbroken)
    monkeypatch.setattr(notebook, "records_folder", lambda: folder)
    return folder


# The cells of its notebook, 05. The first stands for the line of registration, and for a checkout with own records.
PARAMETERS = 'PROFILE = "quick"  # which\nFRESH = False  # anew\nDEVICE = "auto"  # where'
CELLS = (
    """
from pathlib import Path

import nasrepro as nr
from nasrepro.experiments import EXPERIMENTS
from tests.experiments import toy

EXPERIMENTS["toy"] = toy.EXPERIMENT
nr.notebook.records_folder = lambda: Path.cwd().parent / "records"
""",
    """
run = nr.notebook.start("05", PROFILE, FRESH, "toy", DEVICE)
""",
    """
found = run.search(run.sizes.plan, run.sizes.task)
table = found.frame()
right = toy.letters_right(table["error"].fillna(6.0).tolist())
""",
    """
figure = toy.progress(right)
run.figure(figure, "toy-progress", "Letters that are right", "Of the best word so far.", [toy.ENTRY])
run.table(table[["cell", "error"]], "toy-words", "Words", f"All words; {run.task.words()}.")
""",
    """
facts = {"value": right[-1], "unit": "letters", "supports": True, "reason": "a toy"}
run.finding(toy.ENTRY, budget=1.0, budget_words=f"{len(right)} words", **facts)
""",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with its notebook, whose kernel finds this file's neighbours."""
    own = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    content = nbformat.v4.new_notebook(cells=[own, *(nbformat.v4.new_code_cell(source.strip()) for source in CELLS)])
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(content, tmp_path / "notebooks" / "05_toy.ipynb")
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_its_notebook_replays_the_record_and_its_figure_table_and_finding_are_reported_and_shipped(
    records: Path, project: Path
) -> None:
    assert cli.main(["reproduce", "--profile", "smoke", "--notebook", "05", "--device", "cpu"]) == 0
    folder = project / "results" / "smoke"
    assert not (folder / "record.sqlite").exists(), "nothing was trained"
    assert {"toy-progress.png", "toy-progress.svg", "toy-words.csv"} <= {path.name for path in folder.iterdir()}
    finding = Ledger(folder).run[toy.ENTRY]
    assert finding.value == 6 - recorded(records / toy.RECORD).frame()["error"].min()
    assert not finding.scaled
    assert finding.data == "dictionary"
    assert finding.budget_words == "24 words; replayed from the shipped record"
    facts = json.loads((folder / "toy-progress.json").read_text("utf-8"))
    assert toy.RECORD in facts["provenance"]["records"]
    assert "Letters that are right" in (folder / "report.html").read_text("utf-8")
    shown = nbformat.read(folder / "notebooks" / "05_toy.ipynb", as_version=4).cells[-2].outputs
    assert any("image/png" in output.get("data", {}) for output in shown)

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
