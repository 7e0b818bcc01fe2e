"""Every notebook runs from top to bottom at `smoke`, by nbval; and each has the same beginning."""

import ast
import inspect
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from nasrepro.notebook import start as begin
from nasrepro.profiles import profiles

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test_the_notebooks_that_the_readme_promises_are_there() -> None:
    promised = ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "14", "99"]
    assert [path.name[:2] for path in NOTEBOOKS] == promised


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_tagged_explained_and_the_same_everywhere(path: Path) -> None:
    found = papermill.inspect_notebook(str(path))
    assert list(found)[:3] == ["PROFILE", "FRESH", "DEVICE"]
    assert found["PROFILE"]["default"] == '"quick"'
    assert found["FRESH"]["default"] == "False"
    assert found["DEVICE"]["default"] == '"auto"'
    assert all(name in found["PROFILE"]["help"] for name in profiles)
    assert all(parameter["help"] for parameter in found.values()), "a parameter has no comment"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_trains_or_forecasts_follows_its_device_or_it_says_that_it_trains_nothing(path: Path) -> None:
    """Tasks get the device from the run; the functions that a cell calls itself are told."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    calls = [node for source in cells for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}) for call in calls]
    (start,) = (call for call in calls if ast.unparse(call.func) == "nr.notebook.start")
    bound = inspect.signature(begin).bind(*start.args, **{word.arg: word.value for word in start.keywords})
    trains = "nothing is trained" not in papermill.inspect_notebook(str(path))["DEVICE"]["help"]
    assert ast.unparse(bound.arguments["device"]) == ("DEVICE" if trains else "'cpu'")
    own = [given for name, given in named if name in {"train", "forecast_seconds", "forecast_translation_seconds"}]
    assert trains or not own
    assert all(given["device"] == "DEVICE" for given in own)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, "clear all outputs before committing"
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_the_story_and_little_code(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    lines = [line for source in cells for line in source.splitlines() if line.strip()]
    assert len(lines) <= 300, "move what computes into the experiment's own folder"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_notebook_runs_at_smoke(tmp_path: Path) -> None:
    halves = {
        "first": NOTEBOOKS[:5] + NOTEBOOKS[-1:],
        "second": NOTEBOOKS[5:-1],
    }  # run side by side; the ledger is last
    assert sorted(chain(*halves.values())) == NOTEBOOKS
    running = {name: begin_nbval(tmp_path / name, paths) for name, paths in halves.items()}
    for name, process in running.items():
        output, errors = process.communicate()
        assert process.returncode == 0, f"{name} half: {output[-6000:]}{errors[-2000:]}"
        assert (tmp_path / name / "results" / "smoke" / "ledger.json").exists()
    written = {path.name for path in (tmp_path / "first" / "results" / "smoke").iterdir()}
    assert {"report.html", "s17-fig3-search-progress.png", "s17-fig3-search-progress.svg"} <= written


def begin_nbval(folder: Path, notebooks: list[Path]) -> "subprocess.Popen[str]":
    """Start to run notebooks at `smoke`, one after the other, in a folder of their own, which is made."""
    folder.mkdir()
    for path in notebooks:
        notebook = parameterize_notebook(load_notebook_node(str(path)), {"PROFILE": "smoke"})
        nbformat.write(notebook, folder / path.name)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout", "300", "-p", "no:cacheprovider"]
    command += ["--nbval-current-env", "-q", "-x", "-W", "ignore", "--rootdir", str(folder), str(folder)]
    environment = os.environ | {"NASREPRO_RESULTS": str(folder / "results")}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)
