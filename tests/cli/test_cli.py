"""The `nasrepro` command: what it prints, and that a user's slip is one line and no traceback."""

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import nbformat
import papermill
import pytest
import torch

from nasrepro import cli
from nasrepro.deadline import VARIABLE, demand_time
from nasrepro.dsl import Cell, parse, zoo
from nasrepro.hardware import device_name
from tests.cli.command import fails, see_two_gpus

ROOT = Path(__file__).resolve().parents[2]


# ---- show, data


@pytest.mark.parametrize("name", ["LSTM", "BC3"])
def test_show_prints_a_cell_in_its_dresses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for dress in ("text", "svg", "latex", "mermaid", "pytorch", "json"):
        assert cli.main(["show", name, "--as", dress]) == 0
        printed[dress] = capsys.readouterr().out.strip()
    assert parse(printed["text"]) == zoo[name] == Cell.from_json(printed["json"])
    assert printed["svg"].startswith("<svg")
    compile(printed["pytorch"], name, "exec")
    assert "h_t" in printed["latex"]
    assert "graph" in printed["mermaid"] or "flowchart" in printed["mermaid"]


def test_show_takes_text_of_the_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "Tanh(Add(MM(x),MM(hm1)))"]) == 0
    assert capsys.readouterr().out == "Tanh(Add(MM(x_t), MM(h_{t-1})))\n"


def test_show_points_at_a_slip(capsys: pytest.CaptureFixture[str]) -> None:
    err = fails(capsys, "show", "Tanh(Add(MM(x_t), MN(h_{t-1})))")
    caret, text = (next(line for line in err.splitlines() if mark in line) for mark in ("^", "Tanh("))
    assert text[caret.index("^") :].startswith("MN")


def test_data_list_names_every_data_set_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"pydoc", "ptb", "wikitext2"} <= {line.split()[0] for line in lines}
    assert all("[" in line for line in lines)


def test_an_unknown_data_set_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'wikitext2'?" in fails(capsys, "data", "fetch", "wikitext")
    assert "name a data set to fetch: pydoc" in fails(capsys, "data", "fetch")


def test_a_data_set_without_files_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "fetch", "pydoc"]) == 0
    assert "there is nothing to fetch" in capsys.readouterr().out


# ---- reproduce


def test_a_notebook_runs_and_leaves_its_copy_time_and_report(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "--profile", "smoke", "--notebook", "5"]) == 0
    folder = project / "results" / "smoke"
    copy = nbformat.read(folder / "notebooks" / "05_small.ipynb", as_version=4)
    assert copy.cells[-1].outputs[0].text == "smoke\n"
    assert json.loads((folder / "timings.json").read_text("utf-8"))["smoke"]["05"]["seconds"] > 0
    assert (folder / "report.html").exists()
    assert "1 notebooks in" in capsys.readouterr().out


def test_a_relative_results_folder_is_one_for_notebooks_and_report(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels work in the notebooks' folder, and inherit what the environment names."""
    script = """
        import os, pandas as pd
        run.table(pd.DataFrame({"x": [1]}), "made", "Made here", "C")
        print(os.environ["PYTHONPATH"])
    """
    path = project / "notebooks" / "05_small.ipynb"
    content = nbformat.read(path, as_version=4)
    content.cells[-1].source = textwrap.dedent(script)
    nbformat.write(content, path)
    (project / "work").mkdir()
    monkeypatch.chdir(project / "work")
    monkeypatch.setenv("NASREPRO_RESULTS", "out {mine}")
    monkeypatch.setenv("PYTHONPATH", "own")
    assert cli.main(["reproduce", "--profile", "smoke", "--notebook", "5"]) == 0
    folder = project / "work" / "out {mine}" / "smoke"
    assert (folder / "made.csv").exists()
    assert "Made here" in (folder / "report.html").read_text("utf-8")
    assert sorted(path.name for path in (project / "notebooks").iterdir()) == ["05_small.ipynb", "06_broken.ipynb"]
    (output,) = nbformat.read(folder / "notebooks" / "05_small.ipynb", as_version=4).cells[-1].outputs
    assert output.text == f"{ROOT}{os.pathsep}{project / 'work' / 'own'}\n"


def test_a_home_folder_that_is_not_there_is_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASREPRO_DATA", "~no-such-user/data")
    assert fails(capsys, "reproduce").startswith("NASREPRO_DATA=~no-such-user/data begins with a home folder that")


def test_a_search_that_could_not_be_exported_is_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasrepro.experiments.experiment.evaluate", lambda *_, **__: pytest.fail("it was begun"))
    (tmp_path / "file").write_text("in the way")
    export = ("record", "s17_language_model", "--profile", "smoke", "--export")
    assert "cannot write results to" in fails(capsys, *export, str(tmp_path / "file" / "a.jsonl.gz"))
    assert "~no-such-user/a begins with a home folder" in fails(capsys, *export, "~no-such-user/a")


def test_a_notebook_that_fails_says_where_and_why(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = fails(capsys, "reproduce", "--profile", "smoke", "--notebook", "06")
    assert "06_broken.ipynb stopped in cell" in err
    assert "KeyError: 'smoke'" in err
    assert (project / "results" / "smoke" / "notebooks" / "06_broken.ipynb").exists()


def test_a_fresh_run_that_fails_says_how_to_go_on(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("06_broken.ipynb stopped in cell 3")

    monkeypatch.setattr(cli, "_execute", broken)
    command = ["reproduce", "--profile", "smoke"]
    assert fails(capsys, *command) == "06_broken.ipynb stopped in cell 3\n"
    how = "once that is mended, run the same command without --fresh (make: without FRESH=1) to go on"
    assert fails(capsys, *command, "--fresh") == f"06_broken.ipynb stopped in cell 3\n{how}\n"
    assert "to go on" not in fails(capsys, *command, "--fresh", "--notebook", "77"), "it has not begun"


def test_slips_are_answered_before_anything_runs(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_execute", lambda *_: pytest.fail("it ran"))
    assert "unknown profile 'qick': did you mean 'quick'?" in fails(capsys, "reproduce", "--profile", "qick")
    assert "no notebook '77'; there are 05, 06" in fails(capsys, "reproduce", "--notebook", "77")
    assert "05_small.ipynb: unknown parameter FRES: did you mean FRESH?" in fails(capsys, "reproduce", "-p", "FRES=1")
    assert "a parameter is given as NAME=VALUE, got 'FRESH'" in fails(capsys, "reproduce", "-p", "FRESH")
    for own in ("FRESH=True", "PROFILE=smoke", "DEVICE=cpu"):
        assert "use --profile / --fresh / --device" in fails(capsys, "reproduce", "-p", own)


@pytest.mark.parametrize(
    "command", ["reproduce", "forecast", "record s17_translation", "train LSTM"], ids=lambda command: command[:9]
)
def test_a_device_that_is_not_here_is_one_sentence(
    command: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(cli, "_execute", lambda *_: pytest.fail("it ran"))
    err = fails(capsys, *command.split(), "--profile", "paper", "--device", "cuda")
    assert err.startswith("device 'cuda' was asked for, but torch ")
    assert err.count("\n") == 1
    assert "device 'gpu' is unknown: choose auto, cpu, cuda" in fails(capsys, *command.split(), "--device", "gpu")
    assert not (project / "results").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_notebook_without_its_device_shows_one_sentence_and_no_traceback(project: Path) -> None:
    """As when somebody sets DEVICE in JupyterLab."""
    path = project / "notebooks" / "05_small.ipynb"
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(path, None, parameters={"DEVICE": "cuda"}, progress_bar=False, cwd=ROOT)
    (shown,) = caught.value.traceback
    assert shown.startswith("DeviceError: device 'cuda' was asked for, but torch ")
    assert "\n" not in shown


@pytest.mark.parametrize(("given", "meant"), [([], "cuda"), (["--device", "cuda:1"], "cuda:1")])
def test_notebooks_and_their_times_are_told_the_device(
    given: list[str], meant: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see_two_gpus(monkeypatch)
    (project / "results" / "smoke").mkdir(parents=True)
    told = []
    monkeypatch.setattr(cli, "_execute", lambda _, __, parameters: told.append(parameters["DEVICE"]) or 1.0)
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    assert cli.main(["reproduce", "--profile", "smoke", "--notebook", "05", *given]) == 0
    assert told == [meant]
    timings = json.loads((project / "results" / "smoke" / "timings.json").read_text("utf-8"))
    assert timings["smoke"]["05"]["device"] == f"a GPU by the name of {meant}"


def test_a_notebook_itself_refuses_a_parameter_that_it_does_not_have(project: Path) -> None:
    """As when somebody runs papermill without our command."""
    path = project / "notebooks" / "05_small.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter PROFILES: did you mean PROFILE"):
        papermill.execute_notebook(path, None, parameters={"PROFILES": "smoke"}, progress_bar=False, cwd=ROOT)


def test_a_results_folder_that_cannot_be_written_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "file").write_text("in the way")
    monkeypatch.setenv("NASREPRO_RESULTS", str(project / "file" / "results"))
    err = fails(capsys, "reproduce", "--profile", "smoke", "--notebook", "05")
    assert "cannot write results to" in err
    assert "choose another folder" in err


def test_without_notebooks_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    assert "run this from a checkout of the project" in fails(capsys, "reproduce")


def test_ctrl_c_says_how_to_go_on(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    command = ["reproduce", "--profile", "smoke"]
    monkeypatch.setattr(cli, "_execute", interrupted)
    assert cli.main(command) == 130
    assert "stopped; run the same command again to go on" in capsys.readouterr().err
    assert cli.main([*command, "--fresh"]) == 130
    assert "stopped; run the same command without --fresh" in capsys.readouterr().err
    assert cli.main(command) == 130
    assert "stopped; run the same command again to go on" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_demand_consent", interrupted)
    assert cli.main(["reproduce", "--profile", "night", "--fresh"]) == 130
    assert "stopped; run the same command again" in capsys.readouterr().err, "before the run has begun, it is not fresh"


# The deadline passes between two trainings; who goes on finds the first in the record.
STOPPED = """
    import os
    from nasrepro.deadline import VARIABLE
    nr.notebook.WORKERS = 0
    first = run.evaluations([nr.zoo["MGU"]], [1])
    if not (run.folder / "begun").exists():
        (run.folder / "begun").touch()
        assert os.environ[VARIABLE].split()[1] == "60"
        os.environ[VARIABLE] = "0 60"
    second = run.evaluations([nr.zoo["TanhRNN"]], [1])
    value = second[0].metrics["valid_ppl"] - first[0].metrics["valid_ppl"]
    run.finding("s17.mt.residual", value=value, seeds=1, supports=True, budget=0.001, budget_words="two trainings")
"""


def test_stopped_after_so_many_minutes_the_same_command_goes_on(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that the end of the test takes away what it sets
    for name, source in (("05_small", "open('ran', 'a').write('05 ')"), ("06_broken", textwrap.dedent(STOPPED))):
        path = project / "notebooks" / f"{name}.ipynb"
        content = nbformat.read(path, as_version=4)
        content.cells[-1].source = source
        if name == "05_small":
            del content.cells[1]  # which loads the package, and takes seconds
        nbformat.write(content, path)
    folder = project / "results" / "smoke"
    command = ["reproduce", "--profile", "smoke", "--minutes", "60"]
    assert cli.main(command) == cli.NOT_FINISHED == 75
    said = capsys.readouterr().err
    assert "\ndone: 05; left: 06\nstopped after 60 minutes; the same command goes on\n" in said
    assert "Traceback" not in said
    assert not (folder / "ledger.json").exists()
    assert cli.main(command) == 0
    assert "05_small.ipynb  (done before the stop)" in capsys.readouterr().out
    assert (project / "notebooks" / "ran").read_text() == "05 "
    assert sorted(path.name for path in folder.glob("stopped*")) == []

    monkeypatch.setenv("NASREPRO_RESULTS", str(project / "unbroken"))
    (project / "unbroken" / "smoke").mkdir(parents=True)
    (project / "unbroken" / "smoke" / "begun").touch()
    assert cli.main(["reproduce", "--profile", "smoke"]) == 0
    assert (project / "notebooks" / "ran").read_text() == "05 05 "
    broken, unbroken = (
        json.loads((project / name / "smoke" / "ledger.json").read_text("utf-8")) for name in ("results", "unbroken")
    )
    assert broken == unbroken


@pytest.mark.parametrize(("more", "how"), [([], ""), (["--fresh"], " without --fresh (make: without FRESH=1)")])
def test_who_stops_a_fresh_run_is_told_to_go_on_without(
    more: list[str], how: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(cli, "set_deadline", lambda minutes: monkeypatch.setenv(VARIABLE, f"0 {minutes:g}"))
    assert cli.main(["reproduce", "--profile", "smoke", "--minutes", "9", *more]) == 75
    assert capsys.readouterr().err.endswith(f"stopped after 9 minutes; the same command goes on{how}\n")


def test_a_search_takes_a_deadline_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        monkeypatch.setenv(VARIABLE, f"0 {os.environ[VARIABLE].split()[1]}")
        demand_time()

    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr("nasrepro.experiments.experiment.evaluate", stopped)
    assert cli.main(["record", "s17_language_model", "--profile", "smoke", "--minutes", "9"]) == 75
    assert capsys.readouterr().err.endswith("\nstopped after 9 minutes; the same command goes on\n")


@pytest.mark.parametrize("command", ["reproduce", "record s17_translation"], ids=lambda command: command[:9])
def test_minutes_that_are_none_are_refused_before_anything_runs(
    command: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ("0", "-1", "nan"):
        assert "minutes is a positive number, such as 9" in fails(capsys, *command.split(), f"--minutes={given}")
    assert not (project / "results").exists()


def test_fresh_keeps_the_old_record_and_all_else(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_execute", lambda *_: 1.0)
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    folder = project / "results" / "smoke"
    folder.mkdir(parents=True)
    (folder / "figure.png").write_bytes(b"kept")
    for generation in (1, 2):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / f"{generation}.pt").touch()
        (folder / f"record.sqlite.{generation}.pretrained").touch()
        # The connection stays open, so the row is in the -wal file alone, as after a process was killed.
        with closing(sqlite3.connect(folder / "record.sqlite", isolation_level=None)) as record:
            record.execute("PRAGMA journal_mode=WAL")
            record.execute("CREATE TABLE generation AS SELECT ? AS number", (generation,))
            assert (folder / "record.sqlite-wal").stat().st_size > 0
            assert cli.main(["reproduce", "--profile", "smoke", "--fresh"]) == 0
        assert not list(folder.glob("record.sqlite*"))
        assert not (folder / "checkpoints").exists()
        assert [path.name for path in (folder / "checkpoints.before").iterdir()] == [f"{generation}.pt"]
        assert [path.name for path in folder.glob("*.pretrained")] == [f"record.before.sqlite.{generation}.pretrained"]
        with closing(sqlite3.connect(folder / "record.before.sqlite")) as kept:
            assert kept.execute("SELECT number FROM generation").fetchall() == [(generation,)]
    assert cli.main(["reproduce", "--profile", "smoke", "--fresh"]) == 0  # nothing to set aside
    assert (folder / "record.before.sqlite").exists()
    assert (folder / "figure.png").read_bytes() == b"kept"


def test_fresh_notebooks_of_one_command_share_one_new_record(project: Path) -> None:
    """Each begins with FRESH = True, and only the command sets a record aside."""
    path = project / "notebooks" / "05_small.ipynb"
    content = nbformat.read(path, as_version=4)
    content.cells[-1].source = "(run.folder / 'record.sqlite').open('a').write('05 ')"
    nbformat.write(content, path)
    nbformat.write(content, path.with_name("06_broken.ipynb"))
    folder = project / "results" / "smoke"
    folder.mkdir(parents=True)
    (folder / "record.sqlite").write_text("old")
    assert cli.main(["reproduce", "--profile", "smoke", "--fresh"]) == 0
    assert (folder / "record.sqlite").read_text() == "05 05 "
    assert (folder / "record.before.sqlite").read_text() == "old"


def test_a_replay_does_not_overwrite_the_time_of_training(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    path = project / "results" / "smoke" / "timings.json"
    path.parent.mkdir(parents=True)
    for seconds, more, noted in ((50.0, [], 50.0), (2.0, [], 50.0), (60.0, [], 60.0), (20.0, ["--fresh"], 20.0)):
        monkeypatch.setattr(cli, "_execute", lambda *_, seconds=seconds: seconds)
        assert cli.main(["reproduce", "--profile", "smoke", "--notebook", "05", *more]) == 0
        assert json.loads(path.read_text("utf-8"))["smoke"]["05"]["seconds"] == noted


def test_shipped_times_keep_the_device_they_were_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasrepro.notebook.records_folder", lambda: tmp_path)
    monkeypatch.setattr("nasrepro.shipping.update_readme", lambda *_: None)
    folder = tmp_path / "results" / "smoke"
    folder.mkdir(parents=True)
    measured = {"smoke": {"04": {"seconds": 3.0, "device": "a GPU"}, "06": {"seconds": 4.0, "device": "another"}}}
    (folder / "timings.json").write_text(json.dumps(measured), "utf-8")
    assert cli.main(["ship", "--profile", "smoke"]) == 0
    assert json.loads((tmp_path / "timings.json").read_text("utf-8")) == measured
    assert cli.main(["ship", "--tests-seconds", "5"]) == 0  # tests run on the processor
    shipped = json.loads((tmp_path / "timings.json").read_text("utf-8"))
    assert shipped["tests"]["all"] == {"seconds": 5.0, "device": device_name("cpu")}


# ---- lab


def test_lab_opens_the_notebooks_and_asks_no_question_about_news(tmp_path: Path) -> None:
    """Asked of the server that it starts: what JupyterLab takes for a user who has set nothing."""
    arguments = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token=a-token"]
    environment = os.environ | {"HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_CONFIG_PATH", "JUPYTERLAB_SETTINGS_DIR"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "nasrepro", "lab", "--", *arguments]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log) as server,
    ):
        try:
            deadline = time.monotonic() + 120
            # The server makes the file first and fills it after.
            while not (found := [path for path in tmp_path.glob("jpserver-*.json") if path.stat().st_size]):
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            facts = json.loads(found[0].read_text())
            assert facts["root_dir"] == str(ROOT / "notebooks")
            address = f"{facts['url']}lab/api/settings/@jupyterlab/apputils-extension:notification?token=a-token"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(address, timeout=60) as answer:
                asked = json.load(answer)
        finally:
            server.terminate()
    defaults = {name: value["default"] for name, value in asked["schema"]["properties"].items()}
    assert (defaults["fetchNews"], defaults["checkForUpdates"]) == ("false", False)
    assert not list(tmp_path.rglob("*.jupyterlab-settings")), "a user's own settings are left alone"


def test_python_m_nasrepro_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nasrepro", "show", "TanhRNN"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{zoo['TanhRNN']}\n"
