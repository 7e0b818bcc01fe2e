"""Where the tests of the command write, and a small project for it."""

from pathlib import Path

import nbformat
import pytest

from nasrepro import cli


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASREPRO_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one small notebook, 05, and one that always fails, 06."""
    own = nbformat.v4.new_code_cell(
        'PROFILE = "quick"  # which\nFRESH = False  # anew\nDEVICE = "auto"  # where', metadata={"tags": ["parameters"]}
    )
    for name, source in (("05_small", "print(PROFILE)"), ("06_broken", "raise KeyError(PROFILE)")):
        begin = 'import nasrepro as nr\nrun = nr.notebook.start("05", PROFILE, FRESH, "s17_language_model", DEVICE)'
        content = nbformat.v4.new_notebook(cells=[own, *map(nbformat.v4.new_code_cell, (begin, source))])
        content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(content, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    return tmp_path
