"""Notebooks run by the Python that was called, over private sockets, and what goes wrong is said in words."""

import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest

from nasrepro.deadline import VARIABLE, TimeIsUp
from nasrepro.kernels import _connection, parameters_of, run_notebook


def write(path: Path, *sources: str) -> Path:
    """A notebook of these cells; the first holds its parameters."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    content = nbformat.v4.new_notebook(cells=cells)
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)
    return path


def printed(path: Path) -> list[str]:
    """What the cells of a notebook that was run have printed, one text each; errors and warnings too."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


def test_the_kernel_is_this_python_whatever_a_user_has_set_up(tmp_path, monkeypatch, capfd):
    own = tmp_path / "home" / "share" / "jupyter"
    (own / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (own / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(own))
    startup = tmp_path / "home" / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("sum = None")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "home" / "ipython"))
    # papermill puts parameters where a path has braces.
    path = write(tmp_path / "a {b} {}" / "note.ipynb", "NUMBER = 1", "import sys; print(sys.executable, NUMBER, sum)")

    with tempfile.TemporaryDirectory() as temporary, monkeypatch.context() as meanwhile:
        meanwhile.setattr(tempfile, "tempdir", temporary)
        run_notebook(path, path.with_name("out {c}.ipynb"), {"NUMBER": 2})
        assert not list(Path(temporary).iterdir())

    assert parameters_of(path) == ["NUMBER"]
    assert printed(path.with_name("out {c}.ipynb"))[-1].split(maxsplit=2)[:2] == [sys.executable, "2"]
    assert "<built-in function sum>" in printed(path.with_name("out {c}.ipynb"))[-1]
    assert "TCP" not in "".join(capfd.readouterr())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no sockets in folders")
def test_sockets_lie_in_the_folder_where_its_path_is_not_too_long(tmp_path):
    with tempfile.TemporaryDirectory() as short:
        assert _connection(Path(short)).KernelManager.transport == "ipc"
        assert not list(Path(short).iterdir())
    long = tmp_path / ("long" * 30)
    long.mkdir()
    assert "transport" not in _connection(long).KernelManager


def test_a_notebook_runs_where_no_socket_has_room(tmp_path, monkeypatch):
    (tmp_path / ("long" * 30)).mkdir()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
        run_notebook(write(tmp_path / "note.ipynb", "A = 1", "print(A)"), tmp_path / "out.ipynb", {})
    assert printed(tmp_path / "out.ipynb") == ["", "1\n"]


def test_a_notebook_runs_for_a_user_without_a_home_folder(tmp_path, monkeypatch):
    path = write(tmp_path / "note.ipynb", "A = 1", "from jupyter_core import paths; print(paths.jupyter_data_dir())")
    monkeypatch.setenv("HOME", "~")  # what Python finds for a user whom the system does not know
    with pytest.raises(RuntimeError):
        Path.home()
    run_notebook(path, tmp_path / "out.ipynb", {})
    assert printed(tmp_path / "out.ipynb")[-1].startswith(str(Path(tempfile.gettempdir()) / "nasrepro-"))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}['a']", r"note\.ipynb stopped in cell 1: KeyError: 'a'\nthe notebook as far as it came: .*out\.ipynb"),
        ("import os; os._exit(1)", r"the process that ran note\.ipynb died; .*memory.*\n.* came: .*out\.ipynb"),
        ("import sys; sys.exit(0)", r"note\.ipynb ended itself in cell 1; what stands below it was not run"),
    ],
)
def test_a_notebook_that_does_not_come_to_its_end_is_an_error_in_words(tmp_path, source, said):
    path = write(tmp_path / "note.ipynb", "A = 1", source, "print('the end')")
    with pytest.raises(RuntimeError, match=said):
        run_notebook(path, tmp_path / "out.ipynb", {})
    assert (tmp_path / "out.ipynb").exists()


def test_a_notebook_that_a_deadline_stops_is_no_error(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(VARIABLE, "0 9")
    source = (
        "from nasrepro.deadline import demand_time\ntry:\n    demand_time()\nexcept Exception:\n    print('a fault')"
    )
    path = write(tmp_path / "note.ipynb", "print('begun')", source, "print('the end')")
    with pytest.raises(TimeIsUp, match=r"^stopped after 9 minutes; the same command goes on$"):
        run_notebook(path, tmp_path / "out.ipynb", {})
    assert [text for text in printed(tmp_path / "out.ipynb") if text] == ["begun\n"]
    assert "Traceback" not in "".join(capfd.readouterr())
    assert "Traceback" not in (tmp_path / "out.ipynb").read_text("utf-8")


def test_a_kernel_that_cannot_start_is_an_error_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match=r"no process could be started to run note\.ipynb \(Kernel died"):
        run_notebook(write(tmp_path / "note.ipynb", "A = 1"), tmp_path / "out.ipynb", {})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [', b"\xff\xfe"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "note.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for use in (parameters_of, lambda path: run_notebook(path, tmp_path / "out.ipynb", {})):
        with pytest.raises(ValueError, match=r"note\.ipynb is no notebook, or damaged: .*put an intact copy there"):
            use(path)
    assert not (tmp_path / "out.ipynb").exists()
